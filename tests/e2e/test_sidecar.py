"""Obligation: a stack that needs it gets a health daemon with rights in its own project alone, and keeps it."""

from __future__ import annotations

import concurrent.futures
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ic.incus import client, remotes, transport
from tests.crash import proxy
from tests.e2e import scenario
from tests.e2e.test_identity import another_certificate
from tests.e2e.test_journal import show
from tests.lab import lab as labs

DAEMON = scenario.DAEMON
ADDRESS = f"instance:{DAEMON}"
CHECK = {"test": ["CMD", "true"], "interval": "1s", "start_interval": "1s", "retries": 2}


def checked(**more: Any) -> dict[str, Any]:
    """A service that does nothing, healthily."""
    return scenario.idle(healthcheck=CHECK, **more)


STACK: dict[str, Any] = {"services": {"web": checked()}}


class Watched:
    """A stack with a health daemon, and what Incus says of that."""

    def __init__(self, case: scenario.Scenario) -> None:
        self.case = case

    def certificates(self) -> list[dict[str, Any]]:
        listed = self.case.lab.api("GET", "/1.0/certificates?recursion=1")
        return [one for one in listed if f" {self.case.name} " in f"{one['name']} "]

    def pending(self) -> list[str]:
        """Pending tokens of this stack."""
        found = self.case.lab.trusted(f"{DAEMON} {self.case.name}")
        return [path for _, path in found if "/operations/" in path]

    def state(self) -> dict[str, Any]:
        return json.loads(self.case.read_volume(DAEMON, "/state.json"))

    def become(self, word: str, seconds: float = 30.0) -> None:
        """Wait until the daemon says that it is in this state."""
        end = time.monotonic() + seconds
        while (state := self.state())["state"] != word:
            assert time.monotonic() < end, state
            time.sleep(0.2)

    def status(self, instance: str = "web") -> str:
        return self.case.instance(instance)["config"].get("user.healthcheck.status", "")

    def healthy(self, instance: str = "web", seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while self.status(instance) != "healthy":
            assert time.monotonic() < end, (self.status(instance), self.state())
            time.sleep(0.2)

    def inside(self, code: str) -> Any:
        """What an expression is in the sidecar's Python."""
        program = f"import json, os, socket; print(json.dumps({code}))"
        return json.loads(self.case.run(DAEMON, "python3", "-c", program))

    def sound(self, *options: str) -> None:
        """All that has to be true of a stack that is watched."""
        [one] = self.certificates()
        assert (one["restricted"], one["projects"]) == (True, [self.case.name])
        assert self.pending() == []
        state = self.state()
        assert (state["state"], state["certificate"]) == ("watching", one["fingerprint"])
        assert self.case.plan(*options) == {}


@pytest.fixture
def watched(case: scenario.Scenario) -> Iterator[Watched]:
    yield Watched(case)
    for _, path in case.lab.trusted(f"{DAEMON} {case.name}"):
        case.lab.api("DELETE", path)


# --- the first time -----------------------------------------------------------------------------------


def test_it_is_set_up_without_being_asked_for(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    change = case.plan()[ADDRESS]
    assert change["action"] == "create"
    assert "web" in change["cause"]
    assert "healthcheck" in change["cause"]
    case.ic("up", "-d")
    watched.sound()
    watched.healthy()
    assert case.instance(DAEMON)["config"]["security.guestapi"] == "false"
    assert not watched.inside("os.path.exists('/dev/incus/sock')")
    devices = case.instance(DAEMON)["devices"]
    assert [one for one in devices.values() if one["type"] == "nic"] == []
    [api] = [one for one in devices.values() if one["type"] == "proxy"]
    assert (api["bind"], api["mode"], api["listen"]) == (
        "instance",
        "0600",
        "unix:/dev/shm/ic-api.sock",
    )
    assert api["connect"].startswith("tcp:127.0.0.1:")
    assert case.volumes()[DAEMON]["config"]["security.shifted"] == "true"
    assert case.instance(DAEMON)["config"]["user.healthcheck.daemon"] == "true"
    where = "/run/secrets/ic-healthd"
    modes = watched.inside(
        f"{{n: oct(os.stat('{where}/' + n).st_mode)[-4:] for n in ['.', *os.listdir('{where}')]}}"
    )
    assert modes.pop(".") == "0700"
    assert set(modes.values()) == {"0600"}
    assert {"key.pem", "client.pem", "server.pin", "state.json"} <= set(modes)
    assert watched.inside("os.listdir('/dev/shm/ic-token')") == []
    assert set(watched.inside("[n for _, n in socket.if_nameindex()]")) <= {"lo"}
    shown = case.ic("ps")
    assert "running (healthy)" in shown.out
    assert "ic-healthd: watching 1 instance\n" in shown.out
    assert case.ic("ps", "--json").json()["healthd"]["state"] == "watching"


def test_one_that_has_the_guest_api_loses_it_in_a_visible_line_without_a_restart(
    watched: Watched,
) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    there = "os.path.exists('/dev/incus/sock')"
    case.send("PATCH", f"/1.0/instances/{DAEMON}", {"config": {"security.guestapi": "true"}})
    assert watched.inside(there)
    started = case.started(DAEMON)
    change = case.plan()[ADDRESS]
    assert change["action"] == "update"
    field = scenario.field(change, "config.security.guestapi")
    assert (field["new"], field["impact"]) == ("false", "in-place")
    case.ic("up", "-d")
    watched.sound()
    assert case.started(DAEMON) == started
    assert not watched.inside(there)


def test_nothing_of_it_is_secret_in_what_incus_and_the_journal_keep(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    with case.watched() as seen:
        case.ic("up", "-d")
    [push] = [
        one.body
        for one in seen.passed
        if one.method == "POST" and one.path.endswith("ic-token%2Ftoken") and one.body
    ]
    token = push.decode().strip()
    everywhere = json.dumps(
        [case.project(), case.profiles(), case.instances(), case.volumes(), case.runs()]
    )
    assert len(token) > 100
    assert token not in everywhere
    assert "PRIVATE KEY" not in everywhere
    kept = case.ic("history", "--json").out
    assert token not in kept
    [one] = watched.certificates()
    assert one["fingerprint"] in json.dumps(show(case).lines)


def test_the_daemon_ends_with_what_needed_it(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    watched.sound()
    case.compose({"services": {"web": scenario.idle()}})
    assert case.plan()[ADDRESS]["action"] == "delete"
    case.ic("up", "-d")
    assert set(case.states()) == {"web"}
    assert watched.certificates() == []
    assert DAEMON not in case.volumes()


def test_without_it_nobody_watches_and_one_that_was_there_is_gone(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    done = case.ic("up", "-d", "--no-healthd")
    assert "nobody watches" in done.err
    assert set(case.states()) == {"web"}
    assert (watched.certificates(), DAEMON in case.volumes()) == ([], False)
    assert f"{DAEMON}: none is found, and 1 instance would be watched by it" in case.ic("ps").out


@pytest.mark.parametrize("verb", ["down", "destroy"])
def test_it_follows_the_stack_and_its_rights_end(watched: Watched, verb: str) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    if verb == "down":
        case.ic("down")
        assert case.instances() == {}
    else:
        case.ic("destroy", "-y", "-v")
        assert not case.exists()
    assert watched.certificates() == []
    assert watched.pending() == []


# --- what it lives through ----------------------------------------------------------------------------


def state(case: scenario.Scenario, action: str, **more: Any) -> None:
    body = {"action": action, "timeout": 10, **more}
    case.send("PUT", f"/1.0/instances/{DAEMON}/state", body)


def test_it_keeps_its_identity_through_a_restart(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    [before] = watched.certificates()
    state(case, "restart", force=True)
    watched.become("watching")
    assert watched.certificates() == [before]
    case.ic("up", "-d")
    watched.sound()
    lived = watched.state()["since"]
    case.ic("healthd", "restart")  # has ended when it watches again
    now = watched.state()
    assert (now["state"], now["since"] > lived) == ("watching", True)
    assert watched.certificates() == [before]


def test_it_comes_back_by_itself_when_the_host_does(watched: Watched) -> None:
    case = watched.case
    case.compose({"services": {"web": checked(restart="always"), "job": checked(restart="no")}})
    case.ic("up", "--wait")
    [before] = watched.certificates()
    pids = " ".join(str(case.pid(name)) for name in ("web", "job", DAEMON))
    case.lab.stop_incusd()
    try:
        case.lab.run(["sh", "-c", f"kill -KILL {pids}"], check=True)
    finally:
        case.lab.start_incusd()
    end = time.monotonic() + 40
    while case.states() != {"web": "Running", "job": "Stopped", DAEMON: "Running"}:
        assert time.monotonic() < end, (case.states(), watched.state())
        time.sleep(0.2)
    watched.become("watching")
    assert watched.certificates() == [before]
    watched.healthy()
    case.ic("up", "--wait")  # as its unit does after a boot
    assert case.states()["job"] == "Running"
    watched.sound()


def test_what_stopped_while_it_was_away_is_left_and_shown(watched: Watched) -> None:
    case = watched.case
    restarted = scenario.idle(restart="unless-stopped")
    done = {"image": "busybox", "command": ["sleep", "1"], "restart": "on-failure"}
    case.compose({"services": {"web": restarted, "by-hand": restarted, "done": done}})
    case.ic("up", "-d")
    case.stop_by_hand("by-hand")
    end = time.monotonic() + 10
    while "user.ic.health" not in case.instance("web")["config"]:  # it was watched once
        assert time.monotonic() < end
        time.sleep(0.1)
    state(case, "stop", force=True)
    case.kill("web")
    assert "ic-healthd: stopped" in case.ic("ps").out
    state(case, "start")
    end = time.monotonic() + 30
    while "stopped while unwatched" not in (shown := case.ic("ps").out):
        assert time.monotonic() < end, (shown, watched.state())
        time.sleep(0.3)
    rows = {one["service"]: one for one in case.ic("ps", "--json").json()["instances"]}
    assert (rows["web"]["state"], rows["web"]["unwatched"]) == ("exited", True)
    assert (rows["done"]["exit_code"], rows["done"]["unwatched"]) == (0, False)
    assert "instance:done/1" not in [
        event["address"]
        for run in case.ic("history", "--json").json()["runs"]
        for event in run["events"]
        if event["cause"] == "stopped while unwatched"
    ]
    case.ic("up", "-d")
    assert case.states()["web"] == "Running"
    assert "unwatched" not in case.ic("ps").out


def test_what_ends_before_the_first_daemon_watches_is_an_exit_and_a_stop_is_a_stop(
    watched: Watched,
) -> None:
    case = watched.case
    idle = " ".join(scenario.IDLE[2:])

    def once(code: int) -> list[str]:
        return ["sh", "-c", f"test -e /ran || {{ touch /ran; exit {code}; }}; {idle}"]

    case.compose(
        {
            "services": {
                "fails": {"image": "busybox", "command": once(3), "restart": "on-failure"},
                "ends": {"image": "busybox", "command": once(0), "restart": "unless-stopped"},
                "done": {"image": "busybox", "command": once(0), "restart": "on-failure"},
                "forced": scenario.idle(restart="unless-stopped"),
            }
        }
    )
    up = case.start("up", "-d")
    end = time.monotonic() + 60
    while not case.exists() or case.states().get("forced") != "Running":
        assert time.monotonic() < end
        time.sleep(0.02)
    state_of = "/1.0/instances/forced/state"
    case.send("PUT", state_of, {"action": "stop", "force": True, "timeout": 20})
    up.communicate(timeout=90)
    watched.become("watching")
    expected = {"fails": "Running", "ends": "Running", "done": "Stopped", "forced": "Stopped"}
    end = time.monotonic() + 20
    while {**case.states(), DAEMON: ""} != {**expected, DAEMON: ""}:
        assert time.monotonic() < end, (case.states(), case.ic("healthd", "logs").out)
        time.sleep(0.2)
    time.sleep(4)  # longer than the daemon takes over any start
    assert {**case.states(), DAEMON: ""} == {**expected, DAEMON: ""}


def test_another_program_is_another_sidecar_that_watches_again(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    before, started = case.uuid(DAEMON), case.started("web")
    # A zip file may have something behind its end.
    program = case.lab.path(scenario.IC[-1]).read_bytes() + b"another"
    (case.directory / "other.pyz").write_bytes(program)
    other = ("--healthd-binary", f"{case.inside}/other.pyz")
    change = case.plan(*other)[ADDRESS]
    assert (change["action"], change["cause"]) == ("replace", "another ic.pyz")
    case.ic("up", "-d", *other)
    assert case.uuid(DAEMON) != before
    assert case.started("web") == started
    [one] = watched.certificates()
    assert one["projects"] == [case.name]
    watched.become("watching")
    assert watched.pending() == []
    assert case.plan(*other) == {}
    watched.healthy()


def test_an_executable_is_a_program_as_well(watched: Watched) -> None:
    """A shell script that is a daemon: it starts the zipapp that it carries behind its last line."""
    case = watched.case
    case.compose(STACK)
    pyz = case.lab.path(scenario.IC[-1]).read_bytes()
    program = b'#!/bin/sh\nexec python3 "$0" "$@"\n' + pyz
    (case.directory / "wrapped").write_bytes(program)
    own = ("--healthd-binary", f"{case.inside}/wrapped")
    case.ic("up", "-d", *own)
    watched.sound(*own)
    watched.healthy()
    started = case.run(DAEMON, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline")
    assert started.split() == ["python3", "/ic-healthd", "healthd"]
    assert case.run(DAEMON, "stat", "-c", "%a", "/ic-healthd").strip() == "755"
    change = case.plan()[ADDRESS]
    assert (change["action"], change["cause"]) == ("replace", "ic.pyz instead of an executable")


@pytest.mark.parametrize("what", ["", "empty", "text"])
def test_what_is_no_program_is_refused_before_anything_is_changed(
    watched: Watched, what: str
) -> None:
    case = watched.case
    case.compose(STACK)
    (case.directory / "empty").touch()
    (case.directory / "text").write_text("hello\n")
    done = case.ic("up", "-d", "--healthd-binary", f"{case.inside}/{what}", code=1)
    assert "cannot use the health daemon's program" in done.err
    assert not case.exists()


def test_a_program_that_cannot_be_run_in_its_image_is_told(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.write("program", "#!/no/such/shell\n")
    done = case.ic("up", "-d", "--healthd-binary", f"{case.inside}/program", code=1)
    assert "its entrypoint /ic-healthd cannot be run" in done.err
    assert "the interpreter after `#!`" in done.err
    assert (watched.pending(), watched.certificates()) == ([], [])


BROKEN = {
    "ends": (
        "sleep 1; echo it cannot go on >&2; exit 6",
        (
            "its process ended with exit code 6",
            "it cannot go on",
            "the program of `--healthd-binary`",
        ),
    ),
    "says nothing": ("sleep 1000", ("it has said nothing",)),
}


@pytest.mark.long
@pytest.mark.parametrize("how", BROKEN)
def test_a_new_one_that_does_not_come_to_watch_is_reported_and_waited_for_by_none(
    watched: Watched, how: str
) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "--wait")
    text, reasons = BROKEN[how]
    case.write("broken", f"#!/bin/sh\n{text}\n")
    own = ("--healthd-binary", f"{case.inside}/broken")
    both = {"services": {**STACK["services"], "other": scenario.idle()}}
    case.compose(both)
    began = time.monotonic()
    done = case.ic("up", "-d", *own, code=1)
    assert time.monotonic() - began < 60
    assert f"cannot start the health daemon: {reasons[0]}" in done.err
    assert [reason for reason in reasons if reason not in done.err] == []
    assert case.states()["other"] == "Running"
    needs = {"web": {"condition": "service_healthy"}}
    both["services"]["late"] = scenario.idle(depends_on=needs, healthcheck=CHECK)
    both["services"]["web"] = checked(labels={"another": "start"}, environment={"A": "1"})
    case.compose(both)
    done = case.ic("up", "--wait", *own, code=1)
    assert "the health daemon does not watch" in done.err
    case.ic("up", "--wait")
    watched.sound()


def test_an_image_without_python_is_an_error_that_names_the_remedy(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    done = case.ic("up", "-d", "--healthd-image", "busybox", code=1)
    assert "--healthd-image python:3-alpine" in done.err
    assert watched.pending() == []
    case.ic("up", "-d")
    watched.sound()


@pytest.mark.parametrize("harm", ["revoked", "wiped"])
def test_a_lost_identity_is_a_line_of_the_plan_and_up_heals_it(watched: Watched, harm: str) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    watched.healthy()
    [before] = watched.certificates()
    if harm == "revoked":
        case.lab.api("DELETE", f"/1.0/certificates/{before['fingerprint']}")
        watched.become("untrusted")
        shown = case.ic("ps")
        assert "ic-healthd: untrusted: cannot watch: the server does not know" in shown.out
        assert "running (unknown)" in shown.out
        assert "running (unknown)" in case.ic("healthd", "status", code=1).out
        began = time.monotonic()
        done = case.ic("healthd", "restart", code=1)
        assert "cannot start the health daemon: untrusted: " in done.err
        assert time.monotonic() - began < 20  # only another run mends it: nothing to wait for
        [run] = case.ic("history", "--json", "-n", "1").json()["runs"]
        assert (run["command"], run["status"]) == ("healthd restart", "failed")
    else:
        state(case, "stop", force=True)
        path = f"/1.0/storage-pools/default/volumes/custom/{DAEMON}/files"
        for name in ("key.pem", "client.pem", "server.pin", "state.json"):
            case.lab.api("DELETE", f"{path}?project={case.name}&path=/{name}")
        state(case, "start")
        watched.become("waiting-for-token")
    change = case.plan()[ADDRESS]
    assert change["cause"]
    started = case.started("web")
    case.ic("up", "-d")
    watched.sound()
    assert case.started("web") == started


def test_another_certificate_of_the_server_is_told_and_up_pins_it(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")
    watched.healthy()
    started = case.started("web")
    with another_certificate(case.lab):
        watched.become("pin-mismatch")
        assert "ic-healthd: pin-mismatch: " in case.ic("ps").out
        change = case.plan()[ADDRESS]
        assert (change["action"], change["cause"]) == (
            "update",
            "the server has another certificate",
        )
        case.ic("up", "-d")
        watched.sound()
        assert case.started("web") == started


# --- killed while it is set up ------------------------------------------------------------------------

MOMENTS: dict[str, tuple[Callable[[proxy.Passed], bool], proxy.Mode]] = {
    "the first instance is made": (
        lambda one: one.method == "POST" and one.path.startswith("/1.0/instances?"),
        "executed",
    ),
    "its program is pushed": (lambda one: "path=%2Fic.pyz" in one.path and one.writes, "before"),
    "its program was pushed": (lambda one: "path=%2Fic.pyz" in one.path and one.writes, "executed"),
    "it is started": (lambda one: f"/{DAEMON}/state" in one.path and one.writes, "executed"),
    "the token is asked for": (lambda one: one.path == "/1.0/certificates", "before"),
    "the token is made": (
        lambda one: one.method == "POST" and one.path == "/1.0/certificates",
        "executed",
    ),
    "the token's directory is made": (
        lambda one: one.method == "POST" and "path=%2Fdev%2Fshm%2Fic-token&" in f"{one.path}&",
        "executed",
    ),
    "the token is pushed": (
        lambda one: one.method == "POST" and "ic-token%2Ftoken" in one.path,
        "executed",
    ),
    "its use is waited for": (lambda one: "path=%2Fstate.json" in one.path, "executed"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_it_is_set_up_the_next_run_finishes(watched: Watched, moment: str) -> None:
    case = watched.case
    case.compose(STACK)
    where, mode = MOMENTS[moment]
    fault = proxy.Fault(1, mode, where=where)
    with case.watched(fault):
        process = case.start("up", "-d")
        fault.action = process.kill
        process.communicate(timeout=60)
        assert fault.fired.wait(5), "there was no such call"
    case.ic("up", "-d", "--lock-timeout", "40")
    watched.sound()
    watched.healthy()
    assert case.states() == {"web": "Running", DAEMON: "Running"}


def test_an_image_without_run_is_as_good(watched: Watched) -> None:
    """The lab's image has an empty /run: it is taken away before the first start, which is cut off first."""
    case = watched.case
    case.compose(STACK)
    where, mode = MOMENTS["its program is pushed"]
    fault = proxy.Fault(1, mode, where=where)
    with case.watched(fault):
        process = case.start("up", "-d")
        fault.action = process.kill
        process.communicate(timeout=60)
    server = remotes.Server(name="lab", socket=str(case.lab.socket))
    with client.Client(transport.connect(server)) as real:
        path, of = f"/1.0/instances/{DAEMON}", {"project": case.name}
        real.file_delete(path, "/run", of, tree=True)
        assert real.file_stat(path, "/run", of) is None
    case.ic("up", "-d", "--lock-timeout", "40")
    watched.sound()
    watched.healthy()


def test_interrupted_while_the_token_is_used_nothing_is_left_of_it(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    fault = proxy.Fault(1, "hold", seconds=1.0, where=lambda one: "ic-token%2Ftoken" in one.path)
    with case.watched(fault):
        process = case.start("up", "-d")
        assert fault.fired.wait(60)
        process.terminate()
        process.communicate(timeout=60)
    assert watched.pending() == []
    case.ic("up", "-d")
    watched.sound()


# --- where the server listens -------------------------------------------------------------------------


@pytest.fixture
def listening(lab: labs.Lab) -> Iterator[Callable[[str], None]]:
    """Sets core.https_address; it is the lab's own again afterwards."""
    before = lab.api("GET", "/1.0")["config"].get("core.https_address", "")

    def listen(address: str) -> None:
        lab.api("PATCH", "/1.0", {"config": {"core.https_address": address}})

    yield listen
    listen(before)


def bridge_reaches(case: scenario.Scenario, port: int) -> bool:
    """Whether a service reaches the server's API through its own network."""
    [network] = case.networks().values()
    gateway = network["config"]["ipv4.address"].partition("/")[0]
    ran = case.run("web", "sh", "-c", f"nc -w 2 {gateway} {port} </dev/null && echo yes || echo no")
    return "yes" in ran


@pytest.mark.parametrize(
    ("address", "connect"),
    [
        ("", "tcp:127.0.0.1:8443"),
        ("127.0.0.1:9443", "tcp:127.0.0.1:9443"),
        (":9443", "tcp:127.0.0.1:9443"),
        ("[::]:8443", "tcp:127.0.0.1:8443"),
    ],
)
def test_it_reaches_the_server_wherever_that_listens(
    watched: Watched, listening: Callable[[str], None], address: str, connect: str
) -> None:
    case = watched.case
    listening(address)
    case.compose(STACK)
    servers = [one for name, one in case.plan().items() if name.startswith("server:")]
    if address:
        assert servers == []
    else:
        [change] = servers
        [field] = change["fields"]
        assert (field["path"], field["old"], field["new"]) == (
            "core.https_address",
            None,
            "127.0.0.1:8443",
        )
    case.ic("up", "-d")
    watched.sound()
    watched.healthy()
    listens = case.lab.api("GET", "/1.0")["config"]["core.https_address"]
    assert listens == (address or "127.0.0.1:8443")
    assert case.instance(DAEMON)["devices"]["api"]["connect"] == connect
    if "127.0.0.1" in listens:
        assert not bridge_reaches(case, int(listens.rpartition(":")[2]))


def test_a_fixed_address_of_the_server_is_used(
    watched: Watched, listening: Callable[[str], None]
) -> None:
    listening(f"{labs.ADDRESS}:8443")
    watched.case.compose(STACK)
    watched.case.ic("up", "-d")
    watched.sound()
    connect = watched.case.instance(DAEMON)["devices"]["api"]["connect"]
    assert connect == f"tcp:{labs.ADDRESS}:8443"


# --- beside each other, from elsewhere ----------------------------------------------------------------


def test_ten_stacks_on_one_server(lab: labs.Lab) -> None:
    prefix = f"ten{uuid.uuid4().hex[:5]}"
    stacks = [Watched(scenario.Scenario(lab, f"{prefix}{number}")) for number in range(10)]
    try:
        for one in stacks:
            one.case.compose(STACK)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: one.case.ic("up", "-d"), stacks))
        for one in stacks:
            one.sound()
            one.healthy()
        fingerprints = {one.certificates()[0]["fingerprint"] for one in stacks}
        assert len(fingerprints) == 10
    finally:
        lab.sweep(prefix)


def test_from_another_machine_over_https(watched: Watched, other: labs.Machine) -> None:
    case = watched.case
    case.compose(STACK)
    directory = other.workdir(case.name)
    (directory / "compose.yaml").write_text((case.directory / "compose.yaml").read_text())
    case.ic("--remote", "lab", "up", "-d", place=other)
    watched.sound()
    watched.healthy()
    shown = case.ic("--remote", "lab", "ps", place=other)
    assert "ic-healthd: watching 1 instance" in shown.out


# --- what it costs ------------------------------------------------------------------------------------


def test_the_service_runs_no_later_for_it(watched: Watched) -> None:
    case = watched.case
    case.compose(STACK)
    case.ic("up", "-d")  # images are there from now on
    case.ic("down")

    def timed(*argv: str) -> tuple[float, float]:
        """Until the service runs, and until the command has ended."""
        with case.watched() as seen:
            began = time.monotonic()
            case.ic("up", "-d", *argv)
            ended = time.monotonic()
        [start] = [
            one.ended
            for one in seen.passed
            if one.method == "PUT" and "/instances/web/state" in one.path
        ]
        case.ic("down")
        return start - began, ended - began

    pairs = [(timed("--no-healthd"), timed()) for _ in range(3)]
    # Whatever else the machine does only adds to a time: the best of each is compared.
    without = [min(one[part] for one, _ in pairs) for part in (0, 1)]
    with_it = [min(one[part] for _, one in pairs) for part in (0, 1)]
    assert with_it[0] <= without[0] + 0.3, pairs
    assert with_it[1] <= without[1] + 4.0, pairs


def test_a_settled_stack_with_a_daemon_and_an_ended_job_is_read_in_eight_calls(
    watched: Watched,
) -> None:
    case = watched.case
    job = {"image": "busybox", "command": ["true"]}
    case.compose({"services": {"web": checked(), "job": job}})
    case.ic("up", "-d")
    case.ended("job")
    watched.healthy()
    with case.watched() as seen:
        assert "nothing to do" in case.ic("apply", "-y").out
    assert {one.method for one in seen.passed} == {"GET"}
    assert len(seen.passed) <= 8, [one.path for one in seen.passed]
    with case.watched() as seen:
        case.ic("apply", "-y", "web")  # the job is not selected: how it ended decides nothing
    assert len(seen.passed) <= 7, [one.path for one in seen.passed]
