"""The API's envelopes, ETags, background operations and files; faults on a fake, the rest on a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.incus import client, remotes, transport
from tests.incus import fake
from tests.lab import fixtures
from tests.lab import lab as labs

BUSY = fake.failed(500, 'Instance is busy running a "update" operation')
OP = "/1.0/operations/11111111-2222-3333-4444-555555555555"


# --- envelopes ---


def test_a_get_gives_metadata_and_its_tag(tmp_path: Path) -> None:
    with fake.client_of(str(tmp_path / "s"), lambda _: fake.metadata({"a": 1}, ETag='"t"')) as (
        one,
        _,
    ):
        assert one.get("/1.0/x") == {"a": 1}
        assert one.get_tagged("/1.0/x", {"project": "p"}) == ({"a": 1}, '"t"')


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (fake.Reply(b"<html>", 200, {"Content-Type": "text/html"}), "text/html, not JSON"),
        (fake.Reply(b"{", 200, {"Content-Type": "application/json"}), "not an Incus answer"),
        (fake.Reply(b"[1]", 200, {"Content-Type": "application/json"}), "not an Incus answer"),
        (
            fake.Reply(b"[" * 100_000 + b"]" * 100_000, 200, {"Content-Type": "application/json"}),
            "not an Incus answer",
        ),
        (
            fake.Reply(
                b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
                200,
                {"Content-Type": "application/json"},
            ),
            "not an Incus answer",
        ),
        (fake.Reply(b"", 302, {"Location": "/1.0/y"}), "untyped, not JSON"),
    ],
)
def test_what_is_no_answer_of_incus_is_said_so(tmp_path: Path, reply: fake.Reply, why: str) -> None:
    with (
        fake.client_of(str(tmp_path / "s"), lambda _: reply) as (one, _),
        pytest.raises(errors.OperationFailed, match=why),
    ):
        one.get("/1.0/x")


def test_a_proxys_error_page_is_an_error_with_its_text(tmp_path: Path) -> None:
    page = fake.Reply(b"Bad Gateway\x1b[0m", 502, {"Content-Type": "text/plain"})
    with fake.client_of(str(tmp_path / "s"), lambda _: page) as (one, _):
        with pytest.raises(errors.OperationFailed) as caught:
            one.get("/1.0/projects/x")
    assert caught.value.summary == "cannot read project x: Bad Gateway [0m"


def test_a_write_carries_its_tag_and_gives_the_servers_clock(tmp_path: Path) -> None:
    reply = fake.metadata(None, Date="Mon, 23 Nov 2026 05:58:36 GMT")
    with fake.client_of(str(tmp_path / "s"), lambda _: reply) as (one, server):
        done = one.send("PATCH", "/1.0/instances/web", {"project": "p"}, {"config": {}}, etag='"t"')
    assert done.date_ms == 1795413516000
    assert server.requests[0].headers["if-match"] == '"t"'
    assert server.requests[0].body == b'{"config":{}}'


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/1.0/profiles", {"name": "a"}, "create profile a"),
        ("PUT", "/1.0/instances/web/state", {"action": "start"}, "start instance web"),
        ("POST", "/1.0/images", {"source": {"alias": "library/x:1"}}, "pull image library/x:1"),
    ],
)
def test_an_error_says_what_was_asked(
    tmp_path: Path, method: str, path: str, body: dict[str, Any], words: str
) -> None:
    with (
        fake.client_of(str(tmp_path / "s"), lambda _: fake.failed(500, "no")) as (one, _),
        pytest.raises(errors.OperationFailed, match=f"cannot {words}: no"),
    ):
        one.call(method, path, None, body)


# --- a server that goes away ---


def test_a_read_outlives_a_restart_of_the_daemon_but_only_once_it_has_answered(
    tmp_path: Path,
) -> None:
    answers = iter(
        [
            fake.metadata(1),
            fake.Reply(raw=b""),
            fake.failed(500, "database is closed"),
            fake.metadata(2),
        ]
    )
    slept: list[float] = []
    with fake.client_of(str(tmp_path / "s"), lambda _: next(answers), sleep=slept.append) as (
        one,
        _,
    ):
        assert one.get("/1.0/x") == 1
        assert one.get("/1.0/x") == 2
    assert slept == [0.2, 0.4]
    with pytest.raises(errors.Unreachable):
        one.get("/1.0/x")
    assert len(slept) == 7


def test_the_first_read_does_not_wait_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    slept: list[float] = []
    way = transport.connect(remotes.Server(name="x", socket=str(tmp_path / "none")))
    with pytest.raises(errors.Unreachable):
        client.Client(way, sleep=slept.append).get("/1.0")
    assert slept == []


def test_a_write_is_never_sent_twice_when_its_answer_is_lost(tmp_path: Path) -> None:
    with fake.client_of(str(tmp_path / "s"), lambda _: fake.Reply(raw=b"")) as (one, server):
        with pytest.raises(errors.TimedOut):
            one.call("POST", "/1.0/profiles", None, {"name": "a"})
    assert len(server.requests) == 1


# --- busy ---


def test_busy_is_asked_again_with_the_guard_before_every_send(tmp_path: Path) -> None:
    answers = iter([BUSY, BUSY, fake.metadata("done")])
    guarded: list[int] = []
    with fake.client_of(str(tmp_path / "s"), lambda _: next(answers), sleep=lambda _: None) as (
        one,
        server,
    ):
        done = one.call(
            "PATCH",
            "/1.0/instances/web",
            None,
            {},
            guard=lambda: guarded.append(len(server.requests)),
        )
    assert done == "done"
    assert guarded == [0, 1, 2]


def test_busy_for_too_long_is_a_conflict(tmp_path: Path) -> None:
    now = iter(range(0, 1000, 5))
    with fake.client_of(
        str(tmp_path / "s"), lambda _: BUSY, sleep=lambda _: None, clock=lambda: float(next(now))
    ) as (one, _):
        with pytest.raises(errors.Conflict) as caught:
            one.call("PATCH", "/1.0/instances/web", None, {})
    assert caught.value.code == "E_BUSY"


def test_a_guard_that_raises_stops_the_send(tmp_path: Path) -> None:
    def fenced() -> None:
        raise errors.Fenced("cannot go on: fenced")

    with fake.client_of(str(tmp_path / "s"), lambda _: BUSY) as (one, server):
        with pytest.raises(errors.Fenced):
            one.call("POST", "/1.0/instances", None, {}, guard=fenced)
    assert server.requests == []


# --- background operations ---


def operation(*ends: fake.Reply) -> fake.Respond:
    left = iter(ends)
    return lambda one: next(left) if one.path == OP + "/wait" else fake.started(OP + "?project=p")


def test_an_operation_is_awaited_by_long_polls_to_its_end(tmp_path: Path) -> None:
    polls = operation(fake.ended(103), fake.ended(103), fake.ended(200, fingerprint="f"))
    with fake.client_of(str(tmp_path / "s"), polls) as (one, server):
        assert one.call("POST", "/1.0/images", None, {}) == {"fingerprint": "f"}
    assert server.targets[1:] == [f"GET {OP}/wait?timeout=30"] * 3


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (400, "already exists", errors.Conflict),
        (400, "no such thing happened", errors.OperationFailed),
        (401, "", errors.OperationFailed),
    ],
)
def test_an_operation_that_failed_is_told_in_the_servers_words(
    tmp_path: Path, code: int, text: str, kind: type[errors.IncusError]
) -> None:
    with fake.client_of(str(tmp_path / "s"), operation(fake.ended(code, text))) as (one, _):
        with pytest.raises(kind, match=text or "cancelled"):
            one.call("POST", "/1.0/instances", None, {"name": "web"})


def test_an_operation_that_is_gone_is_unknown_not_failed(tmp_path: Path) -> None:
    gone = operation(fake.failed(404, "Operation not found"))
    with fake.client_of(str(tmp_path / "s"), gone) as (one, _):
        with pytest.raises(errors.TimedOut) as caught:
            one.call("POST", "/1.0/instances", None, {"name": "web"})
    assert caught.value.code == "E_UNKNOWN"


def test_waiting_ends_after_its_time(tmp_path: Path) -> None:
    now = iter([0.0, 0.0, 6.0, 12.0])
    with fake.client_of(
        str(tmp_path / "s"), lambda _: fake.ended(103), clock=lambda: next(now)
    ) as (one, server):
        with pytest.raises(errors.TimedOut, match="not done after 10 s"):
            one.wait(OP, timeout=10)
    assert server.targets == [f"GET {OP}/wait?timeout=10", f"GET {OP}/wait?timeout=4"]


# --- the server ---


def test_a_server_without_an_extension_is_too_old_and_says_which() -> None:
    have = [name for name in client.EXTENSIONS if name != "instance_oci"]
    with pytest.raises(errors.TooOld) as caught:
        client.require(
            {"api_extensions": have, "environment": {"server_version": "6.0.4"}}, "local"
        )
    assert caught.value.details == ("instance_oci",)
    assert "6.0.4" in caught.value.summary
    client.require({"api_extensions": [*have, "instance_oci"]}, "local")


def test_a_certificate_that_the_server_does_not_know_is_told_before_anything_else(
    tmp_path: Path,
) -> None:
    with fake.client_of(str(tmp_path / "s"), lambda _: fake.metadata({"auth": "untrusted"})) as (
        one,
        _,
    ):
        with pytest.raises(errors.Untrusted, match="does not trust") as caught:
            one.server()
    assert "incus config trust add" in caught.value.hint


def test_parts_of_a_path_are_quoted() -> None:
    assert client.path("instances", "a/b c") == "/1.0/instances/a%2Fb%20c"


# --- files that the server answers oddly ---


def test_a_file_without_readable_headers_has_no_mode(tmp_path: Path) -> None:
    odd = fake.Reply(b"x", 200, {"X-Incus-Mode": "rw", "X-Incus-Uid": "-"})
    with fake.client_of(str(tmp_path / "s"), lambda _: odd) as (one, _):
        stat, body = one.file_get("/1.0/instances/web", "/f")
    assert (stat, body) == (client.FileStat(type="file", mode=0, uid=0, gid=0), b"x")


# --- a real server ---


@pytest.fixture
def real(lab: labs.Lab) -> Iterator[client.Client]:
    with client.Client(
        transport.connect(remotes.Server(name="lab", socket=str(lab.socket)))
    ) as made:
        yield made


@pytest.fixture
def project(real: client.Client, stack: fixtures.Stack) -> str:
    config = {
        "features.images": "false",
        "features.profiles": "true",
        "features.storage.volumes": "true",
    }
    real.call("POST", "/1.0/projects", None, {"name": stack.name, "config": config})
    return stack.name


@pytest.fixture
def instance(real: client.Client, project: str) -> str:
    """A container without network that sleeps, made and not started."""
    source = {"type": "image", "mode": "pull", "protocol": "oci", "server": "https://docker.io"}
    image = real.call("POST", "/1.0/images", None, {"source": {**source, "alias": "lab/worker:1"}})
    body = {
        "name": "box",
        "type": "container",
        "profiles": [],
        "config": {"oci.entrypoint": "/bin/sleep 600", "oci.uid": "0", "oci.gid": "0"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
        "source": {"type": "image", "fingerprint": image["fingerprint"]},
    }
    real.call("POST", "/1.0/instances", {"project": project}, body)
    return "/1.0/instances/box"


def test_the_lab_is_new_enough(real: client.Client) -> None:
    client.require(real.server(), "the lab")
    assert abs(real.date_ms() / 1000 - time.time()) < 5


def test_creating_twice_is_a_conflict_and_deleting_twice_is_not_found(
    real: client.Client, project: str
) -> None:
    of = {"project": project}
    real.call("POST", "/1.0/profiles", of, {"name": "a", "config": {"user.x": "1"}})
    with pytest.raises(errors.Conflict) as caught:
        real.call("POST", "/1.0/profiles", of, {"name": "a"})
    assert caught.value.code == "E_EXISTS"
    real.call("DELETE", "/1.0/profiles/a", of)
    with pytest.raises(errors.NotFound):
        real.call("DELETE", "/1.0/profiles/a", of)


def test_a_stale_tag_is_refused(real: client.Client, project: str, instance: str) -> None:
    of = {"project": project}
    _, tag = real.get_tagged(instance, of)
    real.call("PATCH", instance, of, {"config": {"user.x": "1"}}, etag=tag)
    with pytest.raises(errors.PreconditionFailed):
        real.call("PATCH", instance, of, {"config": {"user.x": "2"}}, etag=tag)
    assert real.get(instance, of)["config"]["user.x"] == "1"


def test_a_pull_of_an_unknown_image_fails_with_the_reason(real: client.Client) -> None:
    source = {"type": "image", "mode": "pull", "protocol": "oci", "server": "https://docker.io"}
    with pytest.raises(
        errors.OperationFailed, match="cannot pull image library/nope:1: .*manifest unknown"
    ):
        real.call("POST", "/1.0/images", None, {"source": {**source, "alias": "library/nope:1"}})


def test_files_of_a_stopped_instance_are_read_with_owner_and_mode(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    stat, body = real.file_get(instance, "/srv/data/seed.txt", of)
    assert (stat.type, stat.mode, stat.uid) == ("file", 0o640, 1234)
    assert body
    assert real.file_list(instance, "/srv/data", of) == ("deep", "seed.txt")
    assert real.file_get(instance, "/srv/data/deep/link", of)[0].type == "symlink"
    assert real.file_stat(instance, "/srv/none", of) is None
    with pytest.raises(errors.NotFound, match="cannot read /srv/none of instance box"):
        real.file_get(instance, "/srv/none", of)
    with pytest.raises(errors.OperationFailed, match="no directory"):
        real.file_list(instance, "/srv/data/seed.txt", of)


def test_a_tree_is_copied_from_an_instance_into_a_volume(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    body = {"name": "v", "type": "custom", "config": {"security.shifted": "true"}}
    real.call("POST", "/1.0/storage-pools/default/volumes/custom", of, body)
    volume = "/1.0/storage-pools/default/volumes/custom/v"
    folder = real.file_stat(instance, "/srv/data/deep", of)
    assert folder is not None
    real.file_push(volume, "/deep", of, stat=folder)
    real.file_push(volume, "/deep", of, stat=folder)
    real.file_copy(instance, "/srv/data/seed.txt", volume, "/seed.txt", of)
    real.file_copy(instance, "/srv/data/deep/link", volume, "/deep/link", of)
    for name in ("/seed.txt", "/deep/link"):
        assert real.file_get(volume, name, of) == real.file_get(instance, f"/srv/data{name}", of)
    with pytest.raises(errors.NotFound):
        real.file_copy(instance, "/srv/none", volume, "/x", of)
    with pytest.raises(errors.NotFound, match="cannot write /no/x of volume v"):
        real.file_push(
            volume, "/no/x", of, stat=client.FileStat(type="file", mode=0o600, uid=0, gid=0)
        )
    real.file_delete(volume, "/deep", of, tree=True)
    assert real.file_list(volume, "/", of) == ("seed.txt",)


def test_a_large_file_is_streamed_from_place_to_place(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    stat = client.FileStat(type="file", mode=0o600, uid=7, gid=8)
    real.file_push(instance, "/big", of, stat=stat, content=(b"x" * 1_000_000 for _ in range(5)))
    real.file_copy(instance, "/big", instance, "/big2", of)
    assert real.file_get(instance, "/big2", of) == (stat, b"x" * 5_000_000)


def test_what_an_instance_wrote_and_its_log_are_read(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    assert real.console_log(instance, of) == b""
    assert real.log_file(instance, "lxc.log", of) == b""
    config = {"oci.entrypoint": "/bin/sh -c 'echo hello; exit 3'", "raw.lxc": "lxc.log.level=info"}
    real.call("PATCH", instance, of, {"config": config})
    real.call("PUT", f"{instance}/state", of, {"action": "start"})
    until(real, of, instance, "Stopped")
    assert b"hello" in real.console_log(instance, of)
    assert real.last_output(instance, of)[-1] == "hello"
    assert real.last_output(client.path("instances", "nobody"), of) == ()
    assert b"ended on error (3)" in real.log_file(instance, "lxc.log", of)


def until(real: client.Client, of: dict[str, str], instance: str, status: str) -> None:
    """Wait for a status that stays; it may jump while an instance ends."""
    end = time.monotonic() + 20
    seen = 0
    while seen < 5 and time.monotonic() < end:
        seen = seen + 1 if real.get(instance, of)["status"] == status else 0
        time.sleep(0.05)
    assert seen == 5, f"not {status} within 20 s"


def test_a_command_runs_and_its_output_and_status_come_back(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    real.call("PUT", f"{instance}/state", of, {"action": "start"})
    pieces: list[bytes] = []
    with real.exec(
        instance,
        ["/bin/sh", "-c", "echo $X; id -u; pwd; cat; exit 7"],
        of,
        user=1234,
        group=1234,
        cwd="/srv",
        environment={"X": "y"},
    ) as running:
        while not running.ended:
            running.read(lambda piece: pieces.append(bytes(piece)), 5)
        assert real.exec_status(running, 5) == 7
    assert b"".join(pieces) == b"y\n1234\n/srv\n"
    both = real.exec_output(instance, ["/bin/sh", "-c", "echo a; sleep 0.1; echo b >&2"], of)
    assert both == client.Finished(status=0, output=b"a\nb\n")
    cut = real.exec_output(instance, ["/bin/sh", "-c", "yes | head -c 300000"], of, limit=1000)
    assert (cut.status, len(cut.output)) == (0, 1000)
    assert real.exec_output(instance, ["/none"], of).status == 127
    assert real.exec_output(instance, ["/etc"], of).status == 126


def test_a_command_whose_connections_are_closed_is_killed(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    real.call("PUT", f"{instance}/state", of, {"action": "start"})
    with pytest.raises(errors.TimedOut, match="killed"):
        real.exec_output(instance, ["/bin/sleep", "60"], of, timeout=0.5)
    with real.exec(instance, ["/bin/sleep", "60"], of) as running:
        assert real.exec_status(running, 0) is None
    assert real.exec_status(running, 5) == 137
    real.call("PUT", f"{instance}/state", of, {"action": "stop", "force": True, "timeout": 20})


def test_operations_under_way_are_listed(real: client.Client, project: str, instance: str) -> None:
    of = {"project": project}
    assert real.operations(project) == []
    real.call("PUT", f"{instance}/state", of, {"action": "start"})
    work = threading.Thread(
        target=lambda: real.call("PUT", f"{instance}/state", of, {"action": "stop", "force": True})
    )
    work.start()
    seen: list[str] = []
    while work.is_alive():
        seen += [one["description"] for one in real.operations(project)]
    work.join()
    assert "Stopping instance" in seen


def test_a_console_is_followed_from_now_on_and_is_exclusive(
    real: client.Client, project: str, instance: str
) -> None:
    of = {"project": project}
    loop = "/bin/sh -c 'while :; do echo tick; sleep 0.1; done'"
    real.call("PATCH", instance, of, {"config": {"oci.entrypoint": loop}})
    real.call("PUT", f"{instance}/state", of, {"action": "start"})
    with real.console(instance, of) as stream:
        data = b""
        while data.count(b"tick") < 3:
            piece = stream.next(10)
            assert piece, "no output within 10 s"
            data += piece
        with pytest.raises(errors.IncusError), real.console(instance, of):
            pass
    real.call("PUT", f"{instance}/state", of, {"action": "stop", "force": True, "timeout": 20})
