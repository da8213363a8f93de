"""Deeds against the real server; lost answers come from a wrapper that loses them after they were given."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ic import errors, names
from ic.engine import deeds
from ic.engine.tools import Tools
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.resources import kind
from tests.lab import lab as labs

LINEAGE = "a1b2c3d4e5f6"
IMAGES = {"busybox": "library/busybox:1", "worker": "lab/worker:1"}
PID_ONE = "lxc.execute.cmd=\nlxc.init.cmd={}\nlxc.signal.halt=SIGTERM\nlxc.log.level=info"
IDLE = "/bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1000 & wait $!; done'"
DEAF = "/bin/sh -c 'trap \"\" TERM; while :; do sleep 1000 & wait $!; done'"


class Place:
    """A project of the lab, with the images in it that the tests start from."""

    def __init__(self, lab: labs.Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.query = {"project": name}
        server = remotes.Server(name="lab", socket=str(lab.socket))
        self.client = incus.Client(transport.connect(server))
        self.fingerprints: dict[str, str] = {}

    def tools(self, client: Any = None, **over: Any) -> Tools:
        return Tools(
            client=client or self.client,
            lineage=LINEAGE,
            guard=over.get("guard", lambda: None),
            confirm_delete=over.get("confirm_delete", lambda: None),
            env={},
        )

    def perform(
        self,
        deed: kind.Deed,
        stamp: str = "1/2",
        results: Mapping[tuple[str, str], str] | None = None,
        client: Any = None,
        **over: Any,
    ) -> dict[str, str]:
        """Carry a deed out as the walk does: stamped first."""
        step = kind.Step(id="x#y", address="instance:x/1", event="inst.create", deed=deed)
        stamped = kind.stamped(step, LINEAGE, self.name, stamp) if stamp else deed
        return deeds.perform(self.tools(client, **over), step, stamped, stamp, results or {})

    def create(
        self, name: str, command: str = IDLE, image: str = "busybox", **config: str
    ) -> kind.Call:
        return kind.Call(
            method="POST",
            path="/1.0/instances",
            query=self.query,
            body={
                "name": name,
                "type": "container",
                "profiles": [],
                "config": {"raw.lxc": PID_ONE.format(command), **config},
                "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
                "source": {"type": "image", "fingerprint": self.fingerprints[image]},
            },
        )

    def path(self, name: str) -> str:
        return f"/1.0/instances/{name}"

    def get(self, path: str) -> dict[str, Any]:
        return self.client.get(path, self.query)

    def status(self, name: str) -> str:
        return self.get(self.path(name))["status"]


@pytest.fixture(scope="module")
def place(lab: labs.Lab) -> Iterator[Place]:
    made = Place(lab, f"t-deeds-{os.getpid()}")
    lab.api("POST", "/1.0/projects", {"name": made.name, "config": {"features.images": "false"}})
    for short, alias in IMAGES.items():
        source = {
            "type": "image",
            "mode": "pull",
            "protocol": "oci",
            "server": f"https://{labs.REGISTRY}",
            "alias": alias,
        }
        pulled = made.client.call(
            "POST", "/1.0/images", {"project": "default"}, {"source": source, "auto_update": False}
        )
        made.fingerprints[short] = pulled["fingerprint"]
    yield made
    made.client.close()
    lab.sweep(made.name)


class Losing:
    """A client that carries out one kind of request and then loses the answer, once."""

    def __init__(
        self, inner: incus.Client, method: str, ending: str, *, before: bool = False
    ) -> None:
        self.inner = inner
        self.method = method
        self.ending = ending
        self.before = before  # lose the request itself, so that nothing happens
        self.sent: list[str] = []
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def call(self, method: str, path: str, *rest: Any, **more: Any) -> Any:
        self.sent.append(f"{method} {path}")
        hit = method == self.method and path.endswith(self.ending) and not self.lost
        if hit and self.before:
            self.lost += 1
            raise errors.TimedOut("cannot say: the connection broke", code="E_BROKEN")
        reply = self.inner.call(method, path, *rest, **more)
        if hit:
            self.lost += 1
            raise errors.TimedOut("cannot say: the connection broke", code="E_BROKEN")
        return reply


# --- requests ------------------------------------------------------------------------------------


def test_a_request_takes_what_an_earlier_step_brought(place: Place) -> None:
    deed = place.create("result")
    assert deed.body is not None
    body = {
        **deed.body,
        "source": {"type": "image", "fingerprint": kind.Result("image:busybox", "fingerprint")},
    }
    known = {("image:busybox", "fingerprint"): place.fingerprints["busybox"]}
    waiting = kind.Call(method="POST", path=deed.path, query=deed.query, body=body)
    with pytest.raises(errors.PlanError, match="no step brought it"):
        place.perform(waiting)
    place.perform(waiting, results=known)
    assert place.get(place.path("result"))["config"][names.LINEAGE] == LINEAGE


@pytest.mark.parametrize("before", [False, True])
def test_a_creation_whose_answer_was_lost_is_made_once(place: Place, before: bool) -> None:
    name = f"lost-{before}".lower()
    losing = Losing(place.client, "POST", "/1.0/instances", before=before)
    place.perform(place.create(name), stamp="3/7", client=losing)
    assert losing.lost == 1
    assert losing.sent == ["POST /1.0/instances"] * (2 if before else 1)
    assert place.get(place.path(name))["config"][names.EVENT] == "3/7"


def test_a_creation_never_takes_what_another_intent_made(place: Place) -> None:
    place.perform(place.create("mine"), stamp="1/1")
    with pytest.raises(errors.OwnershipConflict):
        place.perform(place.create("mine"), stamp="1/2")
    assert place.get(place.path("mine"))["config"][names.EVENT] == "1/1"


def test_a_deletion_needs_our_mark_and_the_lease(place: Place) -> None:
    place.lab.api(
        "POST",
        f"/1.0/instances?project={place.name}",
        {
            "name": "guest",
            "source": {"type": "none"},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
        },
    )
    deed = kind.Call(method="DELETE", path=place.path("guest"), query=place.query)
    with pytest.raises(errors.OwnershipConflict):
        place.perform(deed)
    assert place.status("guest") == "Stopped"
    place.perform(place.create("ours"))
    deed = kind.Call(method="DELETE", path=place.path("ours"), query=place.query)

    def fenced() -> None:
        raise errors.Fenced("cannot go on: the run object is gone")

    with pytest.raises(errors.Fenced):
        place.perform(deed, confirm_delete=fenced)
    assert place.status("ours") == "Stopped"
    losing = Losing(place.client, "DELETE", "/ours")
    place.perform(deed, client=losing)
    assert losing.sent == ["DELETE /1.0/instances/ours"]
    place.perform(deed)  # what is gone is deleted
    with pytest.raises(errors.NotFound):
        place.status("ours")


def test_nothing_is_sent_once_the_lease_is_too_old(place: Place) -> None:
    def fenced() -> None:
        raise errors.Fenced("cannot go on: the lease is too old")

    with pytest.raises(errors.Fenced):
        place.perform(place.create("never"), guard=fenced)
    with pytest.raises(errors.NotFound):
        place.status("never")


def test_an_error_never_quotes_a_private_value(place: Place) -> None:
    deed = place.create("private", **{"environment.PASSWORD": "hunter2", "limits.cpu": "hunter2"})
    with pytest.raises(errors.IncusError) as caught:
        place.perform(deed)
    assert "hunter2" not in caught.value.summary


# --- changes ---------------------------------------------------------------------------------------


def test_a_merge_sets_and_unsets_and_leaves_foreign_keys_alone(place: Place) -> None:
    place.perform(place.create("merge", **{"environment.OLD": "1", "user.foreign": "x"}))
    path = place.path("merge")
    set_: kind.Fields = {
        ("config", "environment.NEW"): "2",
        ("devices", "tmp", "type"): "disk",
        ("devices", "tmp", "source"): "tmpfs:",
        ("devices", "tmp", "path"): "/scratch",
    }
    unset = (("config", "environment.OLD"),)
    place.perform(kind.Merge(path=path, query=place.query, set=set_, unset=unset))
    body = place.get(path)
    assert body["config"]["environment.NEW"] == "2"
    assert body["config"]["user.foreign"] == "x"
    assert "environment.OLD" not in body["config"]
    assert body["devices"]["tmp"]["path"] == "/scratch"
    place.perform(kind.Merge(path=path, query=place.query, unset=(("devices", "tmp"),)))
    body = place.get(path)
    assert set(body["devices"]) == {"root"}
    assert body["config"]["user.foreign"] == "x"


def test_a_merge_that_others_overtake_is_done_again(place: Place) -> None:
    place.perform(place.create("race"))
    path = place.path("race")

    class Overtaken:
        def __init__(self, inner: incus.Client) -> None:
            self.inner = inner
            self.times = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def get_tagged(self, path: str, query: Mapping[str, str]) -> Any:
            found = self.inner.get_tagged(path, query)
            if self.times:
                self.times -= 1
                body = {"config": {f"user.other{self.times}": "1"}}
                self.inner.call("PATCH", path, query, body)
            return found

    merge = kind.Merge(path=path, query=place.query, set={("config", "user.mine"): "1"})
    place.perform(merge, client=Overtaken(place.client))
    config = place.get(path)["config"]
    assert {"user.mine", "user.other0", "user.other1"} <= set(config)


def test_a_network_and_a_volume_are_merged_too(place: Place) -> None:
    pool = "/1.0/storage-pools/default/volumes/custom"
    body = {"name": "kept", "type": "custom", "config": {"user.foreign": "x"}}
    place.client.call("POST", pool, place.query, body)
    merge = kind.Merge(path=f"{pool}/kept", query=place.query, set={("config", "user.a"): "1"})
    place.perform(merge)
    config = place.get(f"{pool}/kept")["config"]
    assert (config["user.a"], config["user.foreign"]) == ("1", "x")


def test_a_change_waits_while_the_instance_is_busy(place: Place) -> None:
    place.perform(place.create("busy"))
    path = place.path("busy")
    start = threading.Thread(target=lambda: place.perform(kind.Start(path=path, query=place.query)))
    start.start()
    for n in range(5):
        merge = kind.Merge(path=path, query=place.query, set={("config", "user.n"): str(n)})
        place.perform(merge)
    start.join()
    assert place.get(path)["config"]["user.n"] == "4"
    assert place.status("busy") == "Running"
    place.perform(kind.Stop(path=path, query=place.query, grace_ms=5000))


def test_a_change_waits_for_somebodys_graceful_restart(place: Place) -> None:
    slow = "/bin/sh -c 'trap \"sleep 2; exit 0\" TERM; while :; do sleep 1000 & wait $!; done'"
    place.perform(place.create("again", command=slow))
    path = place.path("again")
    place.perform(kind.Start(path=path, query=place.query))
    before = place.get(path)["last_used_at"]
    failed: list[Exception] = []

    def restart() -> None:
        body = {"action": "restart", "timeout": 20, "force": False}
        try:
            place.client.call("PUT", f"{path}/state", place.query, body, timeout=30)
        except errors.IcError as error:
            failed.append(error)

    person = threading.Thread(target=restart)
    person.start()
    while not incus.restarting(place.client.operations(place.name), path):
        time.sleep(0.01)
    place.perform(kind.Merge(path=path, query=place.query, set={("config", "user.n"): "1"}))
    body = place.get(path)
    person.join()
    assert failed == []
    assert body["config"]["user.n"] == "1"
    assert body["status"] == "Running"
    assert body["last_used_at"] != before


# --- power -------------------------------------------------------------------------------------------


def test_start_and_stop_are_done_once_however_often_they_are_asked_for(place: Place) -> None:
    place.perform(place.create("power"))
    path = place.path("power")
    start = kind.Start(path=path, query=place.query)
    stop = kind.Stop(path=path, query=place.query, grace_ms=5000)
    losing = Losing(place.client, "PUT", "/state")
    place.perform(start, client=losing)
    assert losing.sent == [f"PUT {path}/state"]
    place.perform(start)
    assert place.status("power") == "Running"
    losing = Losing(place.client, "PUT", "/state")
    place.perform(stop, client=losing)
    assert losing.sent == [f"PUT {path}/state"]
    place.perform(stop)
    assert place.status("power") == "Stopped"
    place.perform(kind.Stop(path=place.path("nobody"), query=place.query))


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.6])
def test_a_start_while_the_end_of_the_last_run_is_cleared_up_is_asked_for_again(
    place: Place, seconds: float
) -> None:
    """The server calls what has ended running for half a second, and a start then done already."""
    path = place.path("crashing")
    if seconds == 0.0:
        place.perform(place.create("crashing"))
    start = kind.Start(path=path, query=place.query)
    place.perform(start)
    first = place.get(f"{path}/state")["pid"]
    place.lab.run(["sh", "-c", f"kill -KILL {first}; sleep {seconds}"], check=True)
    place.perform(start)
    assert place.get(f"{path}/state")["pid"] not in (first, 0, -1)


def test_a_quick_job_is_not_run_twice_when_the_answer_was_lost(place: Place) -> None:
    place.perform(place.create("quick", "/bin/true"))
    losing = Losing(place.client, "PUT", "/state")
    place.perform(kind.Start(path=place.path("quick"), query=place.query), client=losing)
    assert losing.sent == ["PUT /1.0/instances/quick/state"]


def test_a_job_that_has_run_is_not_run_again_for_a_failed_start(place: Place) -> None:
    """A job may end before the server has done its part of the start; the server calls that a failure."""
    place.perform(place.create("sudden", "/bin/true"))
    path = place.path("sudden")

    class Failing(Losing):
        def call(self, method: str, path: str, *rest: Any, **more: Any) -> Any:
            reply = super().call(method, path, *rest, **more)
            if path.endswith("/state") and len(self.sent) == 1:
                raise errors.OperationFailed("cannot start: no such file or directory")
            return reply

    failing = Failing(place.client, "", "nothing")
    place.perform(kind.Start(path=path, query=place.query), client=failing)
    assert failing.sent == [f"PUT {path}/state"]


def test_what_does_not_end_in_its_grace_period_is_ended_by_force(place: Place) -> None:
    place.perform(place.create("deaf", DEAF))
    path = place.path("deaf")
    place.perform(kind.Start(path=path, query=place.query))
    begun = time.monotonic()
    place.perform(kind.Stop(path=path, query=place.query, grace_ms=1000))
    assert place.status("deaf") == "Stopped"
    assert 1.0 <= time.monotonic() - begun < 10
    place.perform(kind.Start(path=path, query=place.query))
    begun = time.monotonic()
    place.perform(kind.Stop(path=path, query=place.query, grace_ms=0))
    assert time.monotonic() - begun < 5
    assert place.status("deaf") == "Stopped"


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("/no/such/program", 127, "No such file"), ("/etc/passwd", 126, "Permission denied")],
)
def test_an_entrypoint_that_cannot_be_run_fails_with_the_reason(
    place: Place, program: str, code: int, reason: str
) -> None:
    place.perform(place.create(f"bad{code}", program))
    start = kind.Start(path=place.path(f"bad{code}"), query=place.query)
    with pytest.raises(errors.OperationFailed) as caught:
        place.perform(start)
    assert program in caught.value.summary
    assert reason in caught.value.summary
    assert caught.value.details[0] == f"exit code {code}"


def test_a_job_is_awaited_and_its_exit_code_counts(place: Place) -> None:
    place.perform(place.create("well", "/bin/sh -c 'sleep 0.5'"))
    place.perform(place.create("badly", "/bin/sh -c 'echo it went wrong; sleep 0.5; exit 9'"))
    for name in ("well", "badly"):
        place.perform(kind.Start(path=place.path(name), query=place.query))
    place.perform(kind.AwaitExit(path=place.path("well"), query=place.query), stamp="")
    assert place.status("well") == "Stopped"
    for _ in range(2):  # while it runs, and when it has ended already
        with pytest.raises(errors.OperationFailed, match="exit code 9") as caught:
            place.perform(kind.AwaitExit(path=place.path("badly"), query=place.query), stamp="")
        assert "it went wrong" in caught.value.details


def test_a_mount_within_a_volume_gets_its_place(place: Place, tmp_path: Path) -> None:
    """As docker makes it: the server itself makes no place for a mount on a shifted volume."""
    pool = "/1.0/storage-pools/default/volumes/custom"
    for name in ("outer", "inner"):
        body = {"name": name, "type": "custom", "config": {"security.shifted": "true"}}
        place.client.call("POST", pool, place.query, body)
    deed = place.create("nested")
    assert deed.body is not None
    disks = {
        f"vol-{n}": {"type": "disk", "pool": "default", "source": source, "path": path}
        for n, (source, path) in enumerate([("outer", "/srv"), ("inner", "/srv/a/b")])
    }
    devices = {**deed.body["devices"], **disks}  # pyright: ignore[reportGeneralTypeIssues]
    body = {**deed.body, "devices": devices}
    place.perform(kind.Call(method="POST", path=deed.path, query=deed.query, body=body))
    place.perform(kind.Start(path=place.path("nested"), query=place.query))
    assert place.status("nested") == "Running"
    assert place.client.file_list(f"{pool}/outer", "/", place.query) == ("a",)
    place.perform(kind.Stop(path=place.path("nested"), query=place.query, grace_ms=5000))


# --- volumes and users -----------------------------------------------------------------------------------


def seed_of(place: Place, volume: str, target: str, *, fill: bool = True) -> kind.Seed:
    pool = "/1.0/storage-pools/default/volumes/custom"
    return kind.Seed(
        instance_path=place.path("worker"),
        volume_path=f"{pool}/{volume}",
        pool_path=pool,
        query=place.query,
        body={"name": volume, "type": "custom", "config": {"security.shifted": "true"}},
        target=target,
        fill=fill,
        marker="image@sha256:1",
    )


def stat(place: Place, volume: str, file: str) -> incus.FileStat | None:
    path = f"/1.0/storage-pools/default/volumes/custom/{volume}"
    return place.client.file_stat(path, file, place.query)


@pytest.fixture(scope="module")
def worker(place: Place) -> Place:
    place.perform(place.create("worker", image="worker", **{"oci.uid": "1234", "oci.gid": "1234"}))
    return place


def test_a_volume_is_filled_from_the_image_with_owners_modes_and_links(worker: Place) -> None:
    worker.perform(seed_of(worker, "data", "/srv/data"))
    path = "/1.0/storage-pools/default/volumes/custom/data"
    there = worker.client.file_list(worker.path("worker"), "/srv/data", worker.query)
    assert worker.client.file_list(path, "/", worker.query) == there
    assert there == ("deep", "seed.txt")
    seed = stat(worker, "data", "/seed.txt")
    assert seed is not None
    assert (seed.mode, seed.uid) == (0o640, 1234)
    assert stat(worker, "data", "/deep") == worker.client.file_stat(
        worker.path("worker"), "/srv/data/deep", worker.query
    )
    root = stat(worker, "data", "/")
    assert root is not None
    assert root.uid == 1234
    found, content = worker.client.file_get(path, "/deep/link", worker.query)
    # The server shows `../seed.txt` as an absolute path of the volume: relative it was, relative it is.
    assert (found.type, content) == ("symlink", b"/seed.txt")
    config = worker.get(path)["config"]
    assert config[names.SEEDED] == "image@sha256:1"
    assert config[names.LINEAGE] == LINEAGE


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/srv/data/seed.txt", "../seed.txt"),
        ("/srv/data/deep/other", "other"),
        ("/etc/passwd", "/etc/passwd"),
        ("/srv/database", "/srv/database"),
        ("beside", "beside"),
    ],
)
def test_a_link_within_the_volume_does_not_depend_on_where_it_is_mounted(
    target: str, expected: str
) -> None:
    assert deeds.relative(target, "/srv/data", "/srv/data/deep/link") == expected


def test_a_volume_that_was_filled_half_way_is_filled_again(worker: Place) -> None:
    deed = seed_of(worker, "again", "/srv/data")
    worker.perform(deed, stamp="1/5")
    path = "/1.0/storage-pools/default/volumes/custom/again"
    worker.client.file_delete(path, "/seed.txt", worker.query)
    worker.perform(deed, stamp="1/9")
    assert stat(worker, "again", "/seed.txt") is not None


def test_an_empty_volume_belongs_to_the_services_user(worker: Place) -> None:
    worker.perform(seed_of(worker, "fresh", "/no/such/directory"))
    root = stat(worker, "fresh", "/")
    assert root is not None
    assert (root.uid, root.gid, root.mode) == (1234, 1234, 0o755)


def test_nocopy_takes_the_owner_and_leaves_the_content(worker: Place) -> None:
    worker.perform(seed_of(worker, "bare", "/srv/data", fill=False))
    path = "/1.0/storage-pools/default/volumes/custom/bare"
    assert worker.client.file_list(path, "/", worker.query) == ()
    root = stat(worker, "bare", "/")
    assert root is not None
    assert root.uid == 1234


def test_a_foreign_volume_is_never_filled(worker: Place) -> None:
    pool = "/1.0/storage-pools/default/volumes/custom"
    body = {"name": "foreign", "type": "custom", "config": {}}
    worker.client.call("POST", pool, worker.query, body)
    with pytest.raises(errors.OwnershipConflict):
        worker.perform(seed_of(worker, "foreign", "/srv/data"))
    assert worker.client.file_list(f"{pool}/foreign", "/", worker.query) == ()


def test_a_users_name_is_looked_up_in_the_image(worker: Place) -> None:
    deed = kind.ResolveUser(path=worker.path("worker"), user="worker", query=worker.query)
    worker.perform(deed)
    config = worker.get(worker.path("worker"))["config"]
    assert config["oci.uid"] == "1234"
    unknown = kind.ResolveUser(path=worker.path("worker"), user="nobody-here", query=worker.query)
    with pytest.raises(errors.PlanError, match="nobody-here"):
        worker.perform(unknown)


PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:202:web:/srv:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:202:\nstaff:x:50:web\n"


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("web", (101, 202)),
        ("101", (101, 202)),
        ("77", (77, 0)),
        ("77:88", (77, 88)),
        ("web:staff", (101, 50)),
        ("77:staff", (77, 50)),
        ("root", (0, 0)),
    ],
)
def test_users_are_found_as_docker_finds_them(user: str, found: tuple[int, int]) -> None:
    assert deeds.find_user(user, PASSWD, GROUP) == found


@pytest.mark.parametrize("user", ["nobody", "web:nobody", "77:nobody"])
def test_a_user_or_group_that_is_not_there_is_an_error(user: str) -> None:
    with pytest.raises(errors.PlanError):
        deeds.find_user(user, PASSWD, GROUP)


# --- this host ---------------------------------------------------------------------------------------------


def test_a_missing_bind_source_is_made(place: Place, tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"
    place.perform(kind.MakeDirectory(directory=str(wanted)), stamp="")
    assert wanted.is_dir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.PlanError, match="cannot make directory"):
        place.perform(kind.MakeDirectory(directory=str(tmp_path / "file" / "c")), stamp="")


def test_a_note_sends_nothing(place: Place) -> None:
    class Mute:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            raise AssertionError(name)

    assert place.perform(kind.Note(), client=Mute()) == {}
