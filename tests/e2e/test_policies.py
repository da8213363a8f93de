"""Obligation: what follows when something stops is tests/healthd/policies.py, row by row, on a real server.

One stack has a service for each policy, several times over (a *slot*), so that several rows of the table are
gone through at once. After each phase every instance is where its row says, was started as often as
its row says, and `ic ps` shows what was left.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import pathlib
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e import scenario
from tests.healthd import policies
from tests.lab import lab as labs

DAEMON = scenario.DAEMON
SLOTS = 4
LIMIT = 2  # the N of on-failure:N
QUIET = 1.6  # seconds in which nothing follows any more: the end of a process is told after 0.8 s

# Ends with 0 on SIGUSR2, with 3 on SIGUSR1 and when it is stopped: the code alone must not decide.
MAIN = [
    "sh",
    "-c",
    "trap 'exit 0' USR2; trap 'exit 3' TERM USR1; while :; do sleep 1000 & wait $$!; done",
]
CATCHES = re.compile(r"^SigCgt:\s*(\w+)$", re.MULTILINE)
USR1 = 1 << (signal.SIGUSR1 - 1)
STARTS = (
    "import re, socket; s = socket.socket(socket.AF_UNIX); s.connect('/dev/shm/ic-metrics.sock');"
    " s.shutdown(socket.SHUT_WR); t = s.makefile('r').read();"
    " print(sum(int(float(n)) for n in re.findall(r'^ic_healthd_acts_total\\S* (\\S+)$', t, re.M)))"
)


def name(policy: str, slot: int) -> str:
    return f"{policy.replace(':', '-') or 'none'}-{slot}"


class Stage:
    """The stack, and everything that can happen to a part of it."""

    def __init__(self, case: scenario.Scenario, slots: int = SLOTS) -> None:
        self.case = case
        self.slots = slots
        services: dict[str, Any] = {}
        for slot in range(slots):
            for policy in policies.POLICIES:
                asked = {"restart": policy} if policy else {}
                services[name(policy, slot)] = {
                    "image": "busybox",
                    "command": MAIN,
                    "stop_grace_period": "2s",
                    **asked,
                }
        case.compose({"services": services})
        case.ic("up", "-d", timeout=180)

    # --- what happens ---------------------------------------------------------------------------

    def each(self, do: Callable[[str], object], instances: list[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(do, instances))

    def state(self, action: str, *, force: bool = False) -> Callable[[str], object]:
        body = {"action": action, "force": force, "timeout": 20}
        return lambda one: self.case.send("PUT", f"/1.0/instances/{one}/state", body)

    def inside(self, *argv: str) -> Callable[[str], object]:
        """Run a command inside; whether it ends well is not its point."""
        body = {"command": list(argv), "wait-for-websocket": False, "record-output": False}
        query = f"?project={self.case.name}"

        def run(one: str) -> object:
            return self.case.lab.request(
                "POST", f"/1.0/instances/{one}/exec{query}", body, timeout=30
            )

        return run

    def send(self, word: str, instances: list[str]) -> None:
        """A signal to the main processes, from outside."""
        pids = " ".join(str(self.pid(one)) for one in instances)
        self.case.lab.run(["sh", "-c", f"kill -{word} {pids}"], check=True)

    def want_stopped(self, one: str) -> None:
        """What ic does to stop a service on purpose."""
        self.case.send("PATCH", f"/1.0/instances/{one}", {"config": {"user.ic.want": "stopped"}})
        self.state("stop")(one)

    def happen(self, way: str, instances: list[str]) -> None:
        """Make it happen to these, up to where the server or the host would have a part in it."""
        way = way.partition(", server")[0].partition(", host")[0]
        frozen = way.partition("frozen, ")[2]
        if way.startswith("frozen"):
            self.each(self.state("freeze"), instances)
        signals = {"exits 0": "USR2", "exits 3": "USR1", "killed": "KILL"}
        states = {
            "stop": self.state("stop"),
            "stop -f": self.state("stop", force=True),
            "restart": self.state("restart"),
            "restart -f": self.state("restart", force=True),
            "stopped by ic": self.want_stopped,
            "signalled": self.inside("kill", "-USR2", "1"),
            "powered off": self.inside("poweroff", "-f"),
            "rebooted": self.inside("reboot", "-f"),
        }
        what = frozen or way
        if what in signals:
            self.send(signals[what], instances)
        elif what in states:
            self.each(states[what], instances)
        elif what == "fails again":
            self.fail_again(instances)
        else:
            assert what in ("frozen", "server restarted", "host rebooted", "exits 3, no server")

    def fail_again(self, instances: list[str]) -> None:
        """They fail, and again as soon as they were started again: N + 1 times in all."""
        for time_over in range(LIMIT + 1):
            before = {one: self.case.started(one) for one in instances}
            self.send("USR1", instances)
            if time_over == LIMIT:
                return
            instances = [one for one in instances if not one.startswith(("none-", "no-"))]
            for one in instances:
                self.wait(lambda one=one, was=before[one]: self.case.started(one) != was)
            self.mind(instances)

    def mind(self, instances: list[str]) -> None:
        """Wait until the shells have their traps: before that, process 1 ignores what it is sent."""
        for one in instances:
            file = self.case.lab.path(f"/proc/{self.pid(one)}/status")
            self.wait(lambda file=file: int(CATCHES.findall(file.read_text())[0], 16) & USR1 != 0)

    def pid(self, one: str) -> int:
        """Its process 1; what has just been started has none for an instant."""
        pid = 0

        def there() -> bool:
            nonlocal pid
            with contextlib.suppress(labs.ApiError):
                pid = self.case.pid(one)
            return pid > 0

        self.wait(there)
        return pid

    def wait(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            states = self.case.states()
            assert time.monotonic() < end, {n: s for n, s in states.items() if s != "Running"}
            time.sleep(0.15)

    # --- what follows ---------------------------------------------------------------------------

    def starts(self) -> int:
        """How often the daemon has acted since it began."""
        return int(self.case.run(DAEMON, "python3", "-c", STARTS))

    def watching(self) -> None:
        self.wait(lambda: '"watching"' in self.case.read_volume(DAEMON, "/state.json"))

    def ready(self) -> None:
        """Everything runs, started by a person where it did not."""
        states = self.case.states()
        self.each(self.state("unfreeze"), [one for one, s in states.items() if s == "Frozen"])
        limited = [
            one for one in states if one.startswith("on-failure-2") and states[one] == "Running"
        ]
        self.each(self.state("restart", force=True), limited)  # a person's start: counted anew
        self.case.ic("up", "-d", timeout=120)
        self.wait(lambda: set(self.case.states().values()) == {"Running"})
        self.mind([one for one in self.case.states() if one != DAEMON])

    def go_through(self, *rows: policies.Row, how: str = "stop") -> None:
        """Make the ways of these rows happen, each to a slot of its own, and see what follows.

        `how` the server ends, where it does: `stop` or `kill`.
        """
        self.ready()
        ways = dict(enumerate(rows))
        [when] = {row.when for row in rows}
        server = {
            word for row in rows for word in ("server", "host") if f" {word} " in f" {row.way} "
        }
        before = {one: body["last_used_at"] for one, body in self.case.instances().items()}
        acted = self.starts()
        if when == "away":
            self.state("stop", force=True)(DAEMON)
            acted = 0
        for slot, row in ways.items():
            self.happen(row.way, [name(policy, slot) for policy in policies.POLICIES])
        if server:
            time.sleep(QUIET)  # the daemon has heard of what was stopped: else it ended unwatched
            self.without_server(ways, host="host" in server, how=how)
        if when == "away":
            # What ends only when the daemon is back ended before its eyes.
            goes_on = (policies.INCUS, policies.FROZEN)
            ended = [slot for slot, row in ways.items() if row.follows not in goes_on]
            names = [name(policy, slot) for slot in ended for policy in policies.POLICIES]
            self.wait(lambda: {self.case.states()[one] for one in names} <= {"Stopped"})
            self.state("start")(DAEMON)
        self.watching()
        expected = {
            name(policy, slot): (row, policy)
            for slot, row in ways.items()
            for policy in policies.POLICIES
        }
        end = time.monotonic() + 30
        quiet = time.monotonic() + QUIET
        while time.monotonic() < quiet:
            wrong = self.wrong(expected, before)
            if wrong:
                assert time.monotonic() < end, "\n".join(wrong)
                quiet = time.monotonic() + QUIET
            time.sleep(0.2)
        shown = self.case.ic("ps", "--json").json()["instances"]
        left = {
            one
            for one, (row, policy) in expected.items()
            if row.outcome(policy) == "left, and shown"
        }
        assert {one["name"] for one in shown if one.get("unwatched")} == left
        if not server:
            assert self.starts() - acted == sum(starts(*each) for each in expected.values())

    def without_server(self, ways: dict[int, policies.Row], *, host: bool, how: str) -> None:
        """The server goes and comes back; what happens meanwhile, happens."""
        running = [one for one, state in self.case.states().items() if state == "Running"]
        pids = {one: self.case.pid(one) for one in running}
        lab = self.case.lab
        (lab.kill_incusd if how == "kill" else lab.stop_incusd)()
        try:
            ends = {"exits 3, no server": "USR1", "host rebooted": "KILL"}
            for slot, row in ways.items():
                gone = [str(pids[n]) for p in policies.POLICIES if (n := name(p, slot)) in pids]
                if row.way in ends:
                    lab.run(["sh", "-c", f"kill -{ends[row.way]} {' '.join(gone)}"], check=True)
            if host:
                lab.run(["sh", "-c", f"kill -KILL {pids[DAEMON]}"], check=True)
            time.sleep(1.0)
        finally:
            lab.start_incusd()

    def wrong(
        self, expected: dict[str, tuple[policies.Row, str]], before: dict[str, str]
    ) -> list[str]:
        """What is not as the table says, for a person."""
        bodies = self.case.instances()
        found: list[str] = []
        for one, (row, policy) in expected.items():
            outcome = row.outcome(policy)
            again = outcome.startswith("started")
            status = "Running" if again or outcome == "runs on" else "Stopped"
            if outcome == "stays frozen":
                status = "Frozen"
            if outcome == "started N times" and policy == f"on-failure:{LIMIT}":
                status = "Stopped"
            seen = (bodies[one]["status"], bodies[one]["last_used_at"] != before[one])
            if seen != (status, again):
                found.append(f"{row.when}, {row.way}, {policy or 'none'}: {outcome}, but {seen}")
        return found


def starts(row: policies.Row, policy: str) -> int:
    """How often the daemon starts an instance."""
    outcome = row.outcome(policy)
    if outcome == "started N times" and policy == f"on-failure:{LIMIT}":
        return LIMIT
    if outcome in ("started", "started N times"):
        return LIMIT + 1 if row.way == "fails again" else 1
    return 0


@pytest.fixture(scope="module")
def stage(shared: scenario.Scenario) -> Stage:
    return Stage(shared)


def test_the_operator_is_shown_this_very_table() -> None:
    page = pathlib.Path(__file__).parents[2] / "docs" / "healthd.md"
    assert policies.shown() in page.read_text()


# The first of each in every run of the tests, the others in the long one.
HERE = [
    ("exits 0", "exits 3", "killed", "stop"),
    ("frozen", "fails again", "stop -f", "rebooted"),
    ("powered off", "signalled", "restart", "stopped by ic"),
    ("frozen, stop -f", "frozen, killed", "restart -f"),
]
AWAY = [
    ("exits 3", "stop", "stopped by ic", "frozen"),
    ("exits 0", "killed", "stop -f", "restart"),
    ("powered off", "rebooted", "frozen, killed"),
]
SERVER = ("server restarted", "exits 3, no server", "stop -f, server restarted")
HOST = ("host rebooted", "stop -f, host rebooted")


def rows(when: policies.When, ways: tuple[str, ...]) -> list[policies.Row]:
    return [policies.row(when, way) for way in ways]


def test_every_row_is_gone_through() -> None:
    named = {("here", way) for ways in (*HERE, SERVER, HOST) for way in ways}
    named |= {("away", way) for ways in AWAY for way in ways}
    assert named == {(one.when, one.way) for one in policies.TABLE}


def first(phases: list[tuple[str, ...]], count: int) -> list[Any]:
    """The phases, all but the first few of them long."""
    return [
        pytest.param(ways, id=", ".join(ways), marks=() if number < count else pytest.mark.long)
        for number, ways in enumerate(phases)
    ]


@pytest.mark.parametrize("ways", first(HERE, 2))
def test_while_the_daemon_is_here(stage: Stage, ways: tuple[str, ...]) -> None:
    stage.go_through(*rows("here", ways))


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.long)])
def test_while_the_server_is_down(stage: Stage, how: str) -> None:
    stage.go_through(*rows("here", SERVER), how=how)


@pytest.mark.parametrize("ways", first(AWAY, 1))
def test_while_the_daemon_is_away(stage: Stage, ways: tuple[str, ...]) -> None:
    stage.go_through(*rows("away", ways))


@pytest.mark.long
def test_when_the_host_is_rebooted(stage: Stage) -> None:
    stage.go_through(*rows("here", HOST))
