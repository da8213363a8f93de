"""Probes in real containers: as whom they run, how they end, and that nothing of them is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ic import errors
from ic.healthd import probes
from ic.incus import client, remotes, sftp, transport
from tests.healthd import wire
from tests.lab import lab as labs

PROJECT = "t-probes"
OF = {"project": PROJECT}
IMAGES = {"type": "image", "protocol": "oci", "server": "https://docker.io"}


@pytest.fixture(scope="module")
def real(lab: labs.Lab) -> Generator[client.Client]:
    server = remotes.Server(name="lab", socket=str(lab.socket))
    lab.sweep(PROJECT)
    with client.Client(transport.connect(server)) as one:
        config = {"features.images": "false", "features.profiles": "true"}
        one.call("POST", "/1.0/projects", None, {"name": PROJECT, "config": config})
        yield one
    lab.sweep(PROJECT)


def make(real: client.Client, name: str, entrypoint: str, alias: str, **config: str) -> None:
    body = {
        "name": name,
        "type": "container",
        "profiles": [],
        "config": {"oci.entrypoint": entrypoint, "oci.uid": "0", "oci.gid": "0", **config},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
        "source": {**IMAGES, "alias": alias},
    }
    real.call("POST", "/1.0/instances", OF, body)


def power(real: client.Client, name: str, action: str, **more: object) -> None:
    real.call("PUT", f"/1.0/instances/{name}/state", OF, {"action": action, **more})


@pytest.fixture(scope="module")
def box(real: client.Client) -> str:
    """A container that sleeps, with users of its own: worker (1234) of lab/worker's passwd."""
    make(real, "box", "/bin/sleep 900", "lab/worker:1", **{"environment.GIVEN": "by the instance"})
    power(real, "box", "start")
    return "box"


@pytest.fixture(scope="module")
def bare(real: client.Client) -> str:
    """A container with one program and no shell, and nothing that could kill."""
    make(real, "bare", "/busyboxed sleep 900", "library/busybox")
    path = "/1.0/instances/bare"
    _, program = real.file_get(path, "/bin/busybox", OF)
    stat = client.FileStat(type="file", mode=0o755, uid=0, gid=0)
    real.file_push(path, "/busyboxed", OF, stat=stat, content=program)
    real.file_delete(path, "/bin", OF, tree=True)
    power(real, "bare", "start")
    return "bare"


Probe = Callable[..., probes.Result]


@pytest.fixture(scope="module")
def probe(real: client.Client) -> Probe:
    prober = probes.Prober(real, PROJECT)

    def run(instance: str, *argv: str, seconds: float = 20.0, **more: object) -> probes.Result:
        stop = more.pop("stop", threading.Event())
        marker = f"{instance}.{time.monotonic_ns()}"
        order = probes.Order(
            instance=instance,
            argv=argv,
            timeout_ms=int(seconds * 1000),
            marker=marker,
            **more,  # pyright: ignore[reportArgumentType]
        )
        return prober(order, stop)  # pyright: ignore[reportArgumentType]

    return run


def commands(real: client.Client, instance: str) -> list[str]:
    """The command lines of what runs in a container."""
    with sftp.files(real.transport, f"/1.0/instances/{instance}", OF, "look") as files:
        lines = [
            files.read(f"/proc/{name}/cmdline") for name in files.names("/proc") if name.isdigit()
        ]
    return [line.replace(b"\0", b" ").decode().strip() for line in lines if line]


# --- as whom ---


def test_a_probe_runs_as_the_services_user_with_its_home_in_its_directory(
    box: str, probe: Probe
) -> None:
    text = (
        'echo "$HOME $USER"; id -u; id -g; pwd; echo "$GIVEN"; test -t 0 || echo no terminal; cat'
    )
    found = probe(box, "/bin/sh", "-c", text, uid=1234, gid=1234, cwd="/srv/app")
    assert found.kind == "exit"
    home, uid, gid, cwd, given, terminal = found.output.decode().splitlines()
    assert home.endswith(" worker")
    assert home.startswith("/")
    assert not home.startswith("/root")
    assert (uid, gid, cwd) == ("1234", "1234", "/srv/app")
    assert (given, terminal) == ("by the instance", "no terminal")


def test_the_instances_own_home_counts_and_a_user_that_nobody_knows_has_the_root_directory(
    box: str, probe: Probe
) -> None:
    told = probe(box, "/bin/sh", "-c", "echo $HOME", uid=1234, environment={"HOME": "/own"})
    assert told.output == b"/own\n"
    assert probe(box, "/bin/sh", "-c", "echo $HOME", uid=4321).output == b"/\n"


def test_user_databases_are_read_as_they_are() -> None:
    passwd = b"# odd\nroot:x:0:0:root:/root:/bin/sh\nbroken\n\xff:x:5:5::/x:\nfive:x:5:5::/y:\nno:x:6:6:::\n"
    assert probes.user_of(passwd, 0) == probes.User("root", "/root")
    assert probes.user_of(passwd, 5) == probes.User("\ufffd", "/x")
    assert probes.user_of(passwd, 6) == probes.User("no", "/")
    assert probes.user_of(passwd, 7) is None


# --- how it ends ---


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("/bin/true",), 0),
        (("true",), 0),
        (("/bin/sh", "-c", "exit 3"), 3),
        (("/no/such",), 127),
        (("/etc",), 126),
        (("/bin/sh", "-c", "kill -6 $$"), 134),
        (("/bin/sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 4"), 4),
    ],
)
def test_the_exit_status_is_the_probes(
    box: str, probe: Probe, argv: tuple[str, ...], code: int
) -> None:
    found = probe(box, *argv)
    assert (found.kind, found.code) == ("exit", code)


def test_both_streams_are_kept_as_bytes(box: str, probe: Probe) -> None:
    found = probe(box, "/bin/sh", "-c", r"printf 'a\377\000'; sleep 0.2; echo b >&2; exit 1")
    assert (found.code, found.output) == (1, b"a\xff\0b\n")


def test_a_probe_that_prints_a_gibibyte_changes_nothing(box: str, probe: Probe) -> None:
    text = "dd if=/dev/zero bs=1M count=1024 2>/dev/null; echo the end; exit 5"
    before = resident()
    found = probe(box, "/bin/sh", "-c", text, seconds=100.0)
    assert (found.kind, found.code) == ("exit", 5)
    assert found.output.endswith(b"\0the end\n")
    assert len(found.output) == probes.KEPT
    assert resident() - before < 8 * 1024


def resident() -> int:
    """This process's memory, KiB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def test_a_background_process_that_keeps_the_output_open_does_not_hold_the_probe(
    real: client.Client, box: str, probe: Probe
) -> None:
    began = time.monotonic()
    found = probe(box, "/bin/sh", "-c", "sleep 123 & exit 2")
    assert (found.kind, found.code) == ("exit", 2)
    assert time.monotonic() - began < 3
    assert "sleep 123" in commands(real, box)  # as docker leaves it
    real.exec_output("/1.0/instances/box", ["pkill", "-f", "sleep 123"], OF)


# --- its time ---


def timed(probe: Probe, box: str, *argv: str, seconds: float) -> probes.Result:
    began = time.monotonic()
    found = probe(box, *argv, seconds=seconds)
    assert seconds <= time.monotonic() - began < seconds + 3
    return found


@pytest.mark.parametrize(
    "text",
    [
        "sleep 301; true",
        "trap '' TERM HUP INT; sleep 302 & sleep 303 & wait",
        "(setsid sh -c 'trap \"\" TERM; exec >/dev/null 2>&1; sleep 304; true' &); sleep 305; true",
        "nohup env -i sleep 306 >/dev/null 2>&1 & sleep 307; true",
        "exec >&- 2>&-; sleep 308; true",
        "while :; do sleep 309 & sleep 0.02; done",
    ],
    ids=["a shell", "deaf and forked", "a daemon", "clean environment", "silent", "forking on"],
)
def test_after_its_time_nothing_of_a_probe_is_left(
    real: client.Client, box: str, probe: Probe, text: str
) -> None:
    found = timed(probe, box, "/bin/sh", "-c", f"echo begun; {text}", seconds=0.7)
    assert (found.kind, found.leaked, found.output) == ("timeout", (), b"begun\n")
    assert [line for line in commands(real, box) if "sleep 30" in line] == []
    assert any("sleep 900" in line for line in commands(real, box))


def test_without_a_shell_another_program_kills(real: client.Client, probe: Probe) -> None:
    make(real, "odd", "/bin/sleep 900", "library/busybox")
    real.file_delete("/1.0/instances/odd", "/bin/sh", OF)
    power(real, "odd", "start")
    argv = ("/bin/busybox", "sh", "-c", "/bin/sleep 311 & /bin/sleep 312; true")
    found = timed(probe, "odd", *argv, seconds=0.5)
    assert (found.kind, found.leaked) == ("timeout", ())
    assert [line for line in commands(real, "odd") if "sleep 31" in line] == []


def test_where_nothing_can_kill_each_process_that_is_left_is_named(
    real: client.Client, bare: str, probe: Probe
) -> None:
    text = "/busyboxed sleep 321 & /busyboxed sleep 322 & /busyboxed sleep 323; true"
    found = timed(probe, bare, "/busyboxed", "sh", "-c", text, seconds=0.5)
    left = [line for line in commands(real, bare) if "sleep 32" in line]
    assert found.kind == "timeout"
    assert len(left) == 3, "only its direct process can be killed there"
    assert len(found.leaked) == 3
    assert all(name.startswith("busyboxed (") for name in found.leaked)


def test_a_probe_that_is_alone_leaves_nothing_where_nothing_can_kill(
    bare: str, probe: Probe
) -> None:
    found = timed(probe, bare, "/busyboxed", "sleep", "324", seconds=0.5)
    assert (found.kind, found.leaked) == ("timeout", ())


def test_the_daemons_end_kills_a_probe(real: client.Client, box: str, probe: Probe) -> None:
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    found = probe(box, "/bin/sh", "-c", "sleep 331 & sleep 332; true", stop=stop)
    assert found.kind == "error"
    assert time.monotonic() - began < 3
    assert [line for line in commands(real, box) if "sleep 33" in line] == []


# --- what is no verdict ---


def test_a_probe_of_an_instance_that_stops_is_gone(real: client.Client, probe: Probe) -> None:
    make(real, "short", "/bin/sleep 900", "library/busybox")
    power(real, "short", "start")
    stopping = threading.Timer(0.5, power, (real, "short", "stop"), {"force": True})
    stopping.start()
    assert probe("short", "/bin/sleep", "20").kind == "gone"
    stopping.join()
    assert probe("short", "/bin/true").kind == "gone"


def test_an_instance_that_does_not_exist_is_gone(probe: Probe) -> None:
    found = probe("nobody", "/bin/true")
    assert found.kind == "gone"
    assert isinstance(found.error, errors.NotFound)


def test_a_probe_that_kills_itself_is_not_taken_for_a_stop(box: str, probe: Probe) -> None:
    found = probe(box, "/bin/sh", "-c", "kill -9 $$")
    assert (found.kind, found.code) == ("exit", 137)


def test_a_server_that_does_not_answer_is_no_verdict(lab: labs.Lab) -> None:
    nowhere = remotes.Server(name="none", socket=str(lab.socket) + ".none")
    with client.Client(transport.connect(nowhere)) as one:
        order = probes.Order(instance="x", argv=("true",), timeout_ms=1000, marker="m")
        found = probes.Prober(one, PROJECT)(order, threading.Event())
    assert found.kind == "error"
    assert isinstance(found.error, errors.Unreachable)


@pytest.fixture
def late(tmp_path: Path) -> Generator[tuple[wire.Server, Probe]]:
    """A server of which everything arrives 0.7 s late, and a probe of its one instance in 0.3 s."""
    server = wire.Server(PROJECT)
    server.add("web")
    server.behind = 0.7
    where = str(tmp_path / "s")
    with wire.serving(where, server):
        with client.Client(transport.connect(remotes.Server(name="x", socket=where))) as one:
            prober = probes.Prober(one, PROJECT)

            def run(*argv: str, **_: object) -> probes.Result:
                order = probes.Order(instance="web", argv=argv, timeout_ms=300, marker="m")
                return prober(order, threading.Event())

            yield server, run


def test_a_server_that_answers_late_makes_no_check_late(late: tuple[wire.Server, Probe]) -> None:
    server, run = late
    server.late = {"true": 0.2, "false": 0.2}
    for _ in range(3):
        assert (run("true").kind, run("false").code) == ("exit", 1)


def test_behind_a_late_server_what_hangs_has_still_timed_out(
    late: tuple[wire.Server, Probe],
) -> None:
    server, run = late
    began = time.monotonic()
    assert run("sleep").kind == "timeout"
    # Its own time, once the way of the news; the rest are other calls, each of them late.
    assert server.begun[0].at - began < 4
