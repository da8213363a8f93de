"""The watch over a project, against a server in memory: on time, by event, once, and never too much."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from ic import errors, names
from ic.healthd import acting, manager, probes, spec, storm
from tests.healthd import standin

TEST = '["CMD", "check"]'


class Calm(storm.Storm):
    """Weather in which every restart may begin."""

    def admits(self, interval: int, watched: int, now: int) -> bool:
        return True


class Watch:
    """A manager that runs in a thread."""

    def __init__(
        self,
        server: standin.Server,
        *,
        client: standin.Client | None = None,
        probe: manager.Probing | None = None,
        **more: Any,
    ) -> None:
        self.client = client or standin.Client(server)
        self.told: list[tuple[str, str, str, int | None, str]] = []
        more.setdefault("chance", random.Random(1))
        probing = probe or self.client.probe
        self.manager = manager.Manager(self.client, probing, self._tell, **more)
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.manager.run(self.stop)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def _tell(
        self,
        kind: str,
        address: str = "",
        *,
        cause: str = "",
        code: int | None = None,
        line: str = "",
    ) -> None:
        self.told.append((kind, address, cause, code, line))

    def kinds(self, address: str = "") -> list[str]:
        return [one[0] for one in self.told if not address or one[1] == address]

    def end(self) -> None:
        self.stop.set()
        self.client.server.tell_profile("ic.x")  # nothing to it, but it wakes who waits
        self.thread.join(10)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def watching(server: standin.Server, **more: Any) -> Generator[Watch]:
    watch = Watch(server, **more)
    try:
        until(lambda: watch.manager.view().connected or watch.failure)
        yield watch
    finally:
        watch.end()
    if watch.failure is not None:
        raise watch.failure


def until(condition: Callable[[], Any], seconds: float = 20.0) -> float:
    """Wait for a condition; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it does not come"
        time.sleep(0.005)
    return time.monotonic() - began


def status(server: standin.Server, name: str) -> str:
    return server.instances[name].config.get(names.HEALTH_STATUS, "")


# --- status ------------------------------------------------------------------------------------------------


def test_a_status_is_written_once_with_its_run_and_the_last_line():
    server = standin.Server()
    server.add("web", test=TEST, interval="50ms")
    with watching(server) as watch:
        until(lambda: status(server, "web") == "healthy")
        claim = standin.claim(server, "web")
        assert claim.run == server.instances["web"].last_used_at
        assert server.instances["web"].config[names.HEALTH_OUTPUT] == "two"
        until(lambda: watch.manager.figures().probes.get("exit", 0) > 10)
        assert server.calls.count("patch") == 1
        assert server.calls.count("list") == 1
        assert watch.kinds() == ["healthy"]
        view = watch.manager.view()
        assert (view.watched, view.connected, view.misconfigured) == (1, True, ())


def test_what_cannot_be_read_is_named_and_the_others_are_watched_on():
    server = standin.Server()
    server.add("bad", test="7", interval="50ms")
    server.add("web", test=TEST, interval="50ms")
    server.old()
    with watching(server) as watch:
        until(lambda: status(server, "web") == "healthy")
        assert watch.manager.view().misconfigured == (f"bad: {names.HEALTH_TEST}",)
        assert watch.kinds("instance:bad") == ["misconfigured"]
        server.instances["bad"].config[names.HEALTH_TEST] = TEST
        server.tell("instance-updated", "bad")
        until(lambda: status(server, "bad") == "healthy")
        assert watch.manager.view().misconfigured == ()


def test_the_daemons_own_instance_is_not_watched():
    server = standin.Server()
    server.add("ic-healthd", test=TEST, interval="50ms", daemon="true", restart="always")
    with watching(server) as watch:
        server.tell("instance-updated", "ic-healthd")
        time.sleep(0.3)
        assert "exec" not in server.calls
        assert watch.manager.view().watched == 0


def test_instances_come_and_go():
    server = standin.Server()
    with watching(server) as watch:
        server.add("web", test=TEST, interval="50ms", config="")
        server.old()
        server.tell("instance-created", "web", "person")
        until(lambda: status(server, "web") == "healthy")
        server.instances["shop"] = server.instances.pop("web")
        server.instances["shop"].name = "shop"
        server.tell("instance-renamed", "shop", "person", old_name="web")
        until(lambda: list(watch.manager.figures().states) == ["shop"])
        del server.instances["shop"]
        server.tell("instance-deleted", "shop", "person")
        until(lambda: not watch.manager.figures().states)


def test_200_stops_and_starts_by_a_person_during_status_changes_never_fail():
    server = standin.Server(start=0.002, stop=0.005, write=0.02)
    for number in range(8):
        server.add(f"web-{number}", test=TEST, interval="20ms", retries="1", restart="no")
    with watching(server):
        person = standin.Client(server, "person")
        for number in range(200):
            name = f"web-{number % 8}"
            server.failing ^= {name}
            person.stop(name, 1000)
            person.start(name)


# --- restarts ---------------------------------------------------------------------------------------------


def test_an_unhealthy_instance_is_restarted_soon_and_once():
    server = standin.Server()
    web = server.add("web", test=TEST, interval="300ms", retries="2")
    server.old()
    with watching(server, weather=Calm()) as watch:
        until(lambda: status(server, "web") == "healthy")
        failed: list[float] = []
        server.failing.add("web")
        watch.client.after = lambda call: (
            failed.append(time.monotonic()) if call == "exec" else None
        )
        until(lambda: len(web.starts) == 2)
        assert web.starts[1] - failed[1] < 0.5
        server.failing.clear()
        until(lambda: status(server, "web") == "healthy")
        assert len(web.starts) == 2
        assert standin.claim(server, "web").restarts == 1
        assert watch.kinds() == ["healthy", "unhealthy", "restart", "healthy"]
        unhealthy = next(one for one in watch.told if one[0] == "unhealthy")
        assert unhealthy == ("unhealthy", "instance:web", "exit", 1, "two")


@pytest.mark.parametrize("action", ["stop", "kill", "none"])
def test_other_actions_than_restarting(action: str):
    server = standin.Server()
    web = server.add("web", test=TEST, interval="50ms", retries="1", on_unhealthy=action)
    server.failing.add("web")
    with watching(server, weather=Calm()) as watch:
        until(lambda: "unhealthy" in watch.kinds())
        if action == "none":
            time.sleep(0.5)
            assert web.status == "Running"
        else:
            until(lambda: web.status == "Stopped")
            assert web.code == (137 if action == "kill" else 0)
            time.sleep(0.5)
        assert len(web.starts) == 1


def test_an_exit_is_followed_by_a_start_by_event_and_not_by_looking():
    server = standin.Server()
    for number in range(15):
        server.add(f"web-{number}", restart="always")
    waits: list[float] = []
    with watching(server) as watch:
        calls = server.calls.count("list")
        for number in range(15):
            web = server.instances[f"web-{number}"]
            began = time.monotonic()
            server.exit(web.name)
            until(lambda web=web: len(web.starts) == 2)
            waits.append(web.starts[1] - began - 0.1)  # docker's first pause
        waits.sort()
        assert waits[0] >= -0.001
        assert waits[7] <= 0.05
        assert waits[14] <= 0.2
        assert server.calls.count("list") == calls
        until(lambda: watch.kinds().count("exit") == 15)
        assert {one[3] for one in watch.told if one[0] == "exit"} == {1}


def test_on_failure_reads_the_exit_code_and_counts():
    server = standin.Server()
    good = server.add("good", restart="on-failure")
    bad = server.add("bad", restart="on-failure:2")
    with watching(server) as watch:
        server.exit("good", 0)
        for starts in (2, 3):
            server.exit("bad", 9)
            until(lambda starts=starts: len(bad.starts) == starts)
        server.exit("bad", 9)
        until(lambda: watch.kinds().count("exit") == 4)
        time.sleep(0.6)
        assert (len(good.starts), len(bad.starts)) == (1, 3)
        exits = [(one[1], one[2], one[3]) for one in watch.told if one[0] == "exit"]
        assert [one for one in exits if one[0] == "instance:good"] == [
            ("instance:good", "completed", 0)
        ]
        assert [one[1:] for one in exits if one[0] == "instance:bad"] == [
            *[("restart", 9), ("restart", 9), ("gave-up", 9)]
        ]


def test_what_a_person_stops_stays_stopped():
    server = standin.Server()
    web = server.add("web", restart="always", test=TEST, interval="20ms")
    with watching(server):
        standin.Client(server, "person").stop("web", 1000)
        time.sleep(0.5)
        assert len(web.starts) == 1


def test_an_end_that_is_told_to_nobody_is_found_by_the_next_probe_or_after_the_start():
    server = standin.Server()
    web = server.add("web", restart="always", test=TEST, interval="50ms")
    job = server.add("job", restart="always")
    clock = Clock()
    with watching(server, clock=clock):
        server.lost_events = 1
        server.exit("web")
        began = clock()
        until(lambda: clock.ahead() or len(web.starts) == 2)
        server.exit("job")
        until(lambda: len(job.starts) == 2)
        server.lost_events = 1
        server.exit("job")
        assert clock() - began < 10_000
        began = clock()
        until(lambda: clock.ahead() or len(job.starts) == 3)
        assert clock() - began < 10_000


def test_a_fall_costs_no_listing():
    server = standin.Server()
    web = server.add("web", restart="always", want="running")
    client = standin.Client(server)
    # As the real one: the daemon writes what it has to tell of a fall into a profile of the journal.
    client.after = lambda call: (
        server.tell_profile("ic.hd.0a1b.00000001", "daemon") if call in ("code", "start") else None
    )
    clock = Clock()
    with watching(server, client=client, clock=clock):
        lists = server.calls.count("list")
        for starts in (2, 3):
            server.exit("web")
            until(lambda starts=starts: len(web.starts) == starts)
        before = clock()
        until(lambda: clock.ahead() or clock() > before + 2 * manager.PROFILES_MS)
        time.sleep(0.3)
        assert server.calls.count("list") == lists
        assert server.calls.count("events") == 1
        server.tell_profile("default", "person")  # where keys of instances may stand
        until(lambda: clock.ahead(50) or server.calls.count("list") == lists + 1)


def let_pass(watch: Watch, clock: Clock, seconds: int) -> None:
    """So much time, in steps that are no standstill; the loop has turned in each of them."""
    for _ in range(0, seconds, 4):
        clock.ahead(4_000)
        for _ in range(2):
            beat = watch.manager.beat
            watch.client.server.tell_profile("ic.x")
            until(lambda beat=beat: watch.manager.beat > beat)


def test_an_idle_minute_costs_no_call_and_every_five_minutes_everything_is_looked_at():
    server = standin.Server()
    for number in range(30):
        server.add(f"web-{number}", restart="always")
    server.old()
    job = server.add("job", restart="always")
    clock = Clock()
    with watching(server, clock=clock) as watch:
        let_pass(watch, clock, 8)  # it was looked at once after its start
        before = len(server.calls)
        let_pass(watch, clock, 60)
        assert len(server.calls) - before <= 2
        server.lost_events = 1
        server.exit("job")
        let_pass(watch, clock, 200)
        assert len(job.starts) == 1
        let_pass(watch, clock, 40)
        until(lambda: clock.ahead() or len(job.starts) == 2)
        assert server.calls.count("list") == 2
        assert server.calls.count("events") == 1


def test_a_look_in_vain_asks_again_for_that_one_instance():
    server = standin.Server()
    server.add("web", restart="always")
    client = standin.Client(server)
    fails = iter([True, True, True])

    def refuse(call: str) -> None:
        if call == "get" and next(fails, False):
            raise errors.OperationFailed("cannot read web: Invalid PID -1")

    client.before = refuse
    clock = Clock()
    with watching(server, client=client, clock=clock):
        server.instances["web"].config[names.HEALTH_TEST] = TEST
        server.tell("instance-updated", "web")
        until(lambda: clock.ahead(50) or status(server, "web") == "healthy")
        assert server.calls.count("list") == 1
        assert server.calls.count("events") == 1


@pytest.mark.parametrize("told", [(3, False), (137, True)], ids=["exit", "forced"])
def test_what_ended_before_the_very_first_watch_is_started_unless_it_was_stopped(
    told: tuple[int, bool],
):
    server = standin.Server()
    web = server.add("web", restart="on-failure", want="running")
    server.exit("web")
    web.code, web.forced = told
    with watching(server) as watch:
        if web.forced:
            until(lambda: watch.kinds() == ["stopped"])
            time.sleep(0.3)
            assert len(web.starts) == 1
            return
        until(lambda: len(web.starts) == 2)
        assert watch.kinds()[:2] == ["exit", "start"]
        until(lambda: standin.claim(server, "web").run)
    # Watched once, it is not new to the next daemon.
    server.exit("web")
    with watching(server) as successor:
        until(lambda: successor.kinds() == ["stopped"])
        assert len(web.starts) == 2


def test_a_signal_that_has_to_be_given_from_inside_goes_with_the_call():
    server = standin.Server()
    web = server.add("web", test=TEST, interval="50ms", retries="1")
    web.config |= {names.SIGNAL: "SIGQUIT", names.GRACE: "7"}
    server.failing.add("web")
    client = standin.Client(server)
    client.shell_less = True
    with watching(server, client=client, weather=Calm()) as watch:
        until(lambda: "ungraceful" in watch.kinds())
        assert client.graces[0] == ("web", 7_000, "SIGQUIT")


def test_a_start_in_vain_is_tried_later_and_later():
    server = standin.Server()
    web = server.add("web", restart="always")
    client = standin.Client(server)
    tries: list[float] = []

    def refuse(call: str) -> None:
        if call == "start" and len(tries) < 3:
            tries.append(time.monotonic())
            raise errors.OperationFailed("cannot start web: no such file")

    client.before = refuse
    with watching(server, client=client) as watch:
        server.exit("web")
        until(lambda: len(web.starts) == 2)
        waits = [b - a for a, b in zip(tries, [*tries[1:], web.starts[1]], strict=True)]
        assert [round(wait, 1) for wait in waits] == [0.2, 0.4, 0.8]
        assert watch.kinds().count("start-failed") == 3


# --- holds ----------------------------------------------------------------------------------------------------


def test_what_an_apply_holds_is_left_alone_until_it_lets_go():
    server = standin.Server()
    server.heartbeats["12"] = "1"
    web = server.add("web", restart="always", test=TEST, interval="20ms", retries="1", held="12")
    server.failing.add("web")
    with watching(server, weather=Calm()):
        time.sleep(0.5)
        assert len(web.starts) == 1
        assert "patch" not in server.calls
        with server.lock:
            del web.config[names.HELD]
            web.version += 1
        server.tell("instance-updated", "web")
        until(lambda: len(web.starts) == 2)


def test_a_hold_of_a_run_that_is_over_is_void():
    server = standin.Server()
    web = server.add("web", restart="always", held="12")
    with watching(server) as watch:
        until(lambda: server.calls.count("profiles") == 1)
        time.sleep(0.1)
        server.exit("web")
        until(lambda: len(web.starts) == 2)
        assert watch.manager.view().connected


def test_a_hold_whose_heartbeat_stands_still_is_void():
    server = standin.Server()
    server.heartbeats["12"] = "7"
    web = server.add("web", restart="always", held="12", test=TEST, interval="1s", retries="1")
    server.failing.add("web")
    clock = Clock()
    with watching(server, clock=clock, weather=Calm()):
        until(lambda: server.calls.count("profiles") == 1)
        until(lambda: clock.ahead(75) or len(web.starts) == 2)
        assert server.calls.count("profiles") > 1


class Clock:
    """A clock that can be set ahead, in ms."""

    def __init__(self) -> None:
        self.offset = 0

    def __call__(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self.offset

    def ahead(self, ms: int = 50) -> None:
        """A little at a time: no gap."""
        self.offset += ms


# --- connections ------------------------------------------------------------------------------------------------


def test_after_the_stream_broke_everything_is_listed_and_judged():
    server = standin.Server()
    for policy in ("always", "unless-stopped", "on-failure"):
        server.add(policy, restart=policy)
    quiet = server.add("quiet", restart="always", test=TEST, interval="100ms", retries="3")
    clock = Clock()
    with watching(server, clock=clock) as watch:
        until(lambda: clock.ahead() or status(server, "quiet") == "healthy")
        server.up = False
        server.cut()
        for policy in ("always", "unless-stopped", "on-failure"):
            server.exit(policy)
        until(lambda: not watch.manager.view().connected)
        time.sleep(0.3)
        server.up = True
        until(lambda: watch.manager.view().connected)
        until(lambda: clock.ahead() or len(server.instances["always"].starts) == 2)
        assert len(server.instances["unless-stopped"].starts) == 1
        assert len(server.instances["on-failure"].starts) == 1
        assert watch.kinds("instance:unless-stopped") == ["stopped"]
        assert len(quiet.starts) == 1
        assert status(server, "quiet") == "healthy"


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.long)])
def test_many_restarts_of_the_server_restart_nothing(count: int):
    server = standin.Server()
    for number in range(20):
        server.add(f"web-{number}", restart="always", test=TEST, interval="100ms", retries="1")
    with watching(server) as watch:
        for _ in range(count):
            server.cut()
            until(lambda: len(server.streams) == 1)
        until(lambda: watch.manager.view().connected)
        assert all(len(web.starts) == 1 for web in server.instances.values())
        assert watch.failure is None


def test_events_that_come_faster_than_they_are_read_are_dropped_for_a_listing():
    server = standin.Server()
    web = server.add("web", restart="always")
    goes_on = threading.Event()
    goes_on.set()

    def clock() -> int:
        goes_on.wait(10)
        return time.monotonic_ns() // 1_000_000

    with watching(server, clock=clock):
        goes_on.clear()
        for _ in range(manager.INBOX_EVENTS + 1_000):
            server.tell("instance-updated", "web")
        until(lambda: server.calls.count("events") == 2)
        goes_on.set()
        until(lambda: server.calls.count("list") >= 2)
        server.exit("web")
        until(lambda: len(web.starts) == 2)


def test_a_server_restart_with_200_instances_restarts_none():
    server = standin.Server()
    for number in range(200):
        server.add(f"web-{number}", restart="always", test=TEST, interval="500ms", retries="1")
    with watching(server) as watch:
        until(lambda: watch.manager.figures().probes.get("exit", 0) > 200)
        server.up = False
        server.cut()
        time.sleep(0.8)
        server.up = True
        until(lambda: watch.manager.view().connected)
        before = watch.manager.figures().probes["exit"]
        until(lambda: watch.manager.figures().probes["exit"] > before + 200)
        assert all(len(web.starts) == 1 for web in server.instances.values())


def test_a_slow_server_restarts_nothing_healthy():
    server = standin.Server()
    for number in range(10):
        server.add(
            f"web-{number}",
            restart="always",
            test=TEST,
            interval="200ms",
            timeout="500ms",
            retries="2",
        )
    with watching(server) as watch:
        until(lambda: watch.manager.figures().probes.get("exit", 0) > 50)
        server.delay = 1.1
        until(lambda: "brown-out" in watch.kinds())
        time.sleep(1.5)
        server.delay = 0.0
        time.sleep(0.5)
        assert all(len(web.starts) == 1 for web in server.instances.values())
        assert "brown-out" in watch.kinds()
        assert watch.manager.figures().probes.get("error", 0) > 0
        until(lambda: "calm" in watch.kinds())


def test_half_of_all_requests_lost_restarts_nothing_healthy():
    server = standin.Server()
    for number in range(20):
        server.add(f"web-{number}", restart="always", test=TEST, interval="100ms", retries="1")
    with watching(server) as watch:
        server.loss = 0.5
        time.sleep(2)
        server.loss = 0.0
        until(lambda: watch.manager.view().connected)
        assert all(len(web.starts) == 1 for web in server.instances.values())


def test_a_refusal_ends_all_work_at_once():
    server = standin.Server()
    for number in range(20):
        server.add(f"web-{number}", test=TEST, interval="50ms")
    watch = Watch(server)
    until(lambda: watch.manager.figures().probes.get("exit", 0) > 20)
    server.untrusted = True
    watch.thread.join(5)
    assert isinstance(watch.failure, errors.Forbidden)
    assert server.streams == []
    calls = len(server.calls)
    time.sleep(0.3)
    assert len(server.calls) == calls


def test_a_refusal_ends_a_watch_that_only_listens():
    server = standin.Server()
    server.add("web", restart="always")
    watch = Watch(server)
    until(lambda: watch.manager.view().connected)
    server.untrusted = True
    server.cut()
    watch.thread.join(5)
    assert isinstance(watch.failure, errors.Forbidden)


# --- storms and crowds -----------------------------------------------------------------------------------------


def test_200_that_exit_together_run_again_in_time():
    # A tenth of the real times: a start takes 0.3 s there, and 120 s are allowed.
    server = standin.Server(start=0.03)
    for number in range(200):
        server.add(f"web-{number}", restart="always")
    with watching(server):
        for number in range(200):
            server.exit(f"web-{number}")
        took = until(lambda: all(web.status == "Running" for web in server.instances.values()), 60)
        assert took < 12


def test_ten_that_exit_together_are_asked_for_at_once_and_a_crowd_sixteen_at_a_time():
    server = standin.Server(start=0.3)
    for number in range(40):
        server.add(f"web-{number}", restart="always")
    client = standin.Client(server)
    asked: list[float] = []
    under_way: set[int] = set()
    most = 0

    def before(call: str) -> None:
        nonlocal most
        if call == "start":
            asked.append(time.monotonic())
            under_way.add(threading.get_ident())
            most = max(most, len(under_way))

    def after(call: str) -> None:
        if call == "start":
            under_way.discard(threading.get_ident())

    client.before, client.after = before, after
    with watching(server, client=client):
        began = time.monotonic()
        for number in range(10):
            server.exit(f"web-{number}")
        until(lambda: len(asked) == 10)
        assert asked[-1] - began - 0.1 < 0.2  # docker's first pause
        until(lambda: all(web.status == "Running" for web in server.instances.values()))
        for number in range(10, 40):
            server.exit(f"web-{number}")
        until(lambda: len(asked) == 40)
        until(lambda: all(web.status == "Running" for web in server.instances.values()))
        assert most == manager.STARTS


def test_a_crowd_that_fails_together_is_reported_and_not_restarted():
    server = standin.Server()
    for number in range(20):
        server.add(f"web-{number}", test=TEST, interval="300ms", retries="2")
    server.old()
    with watching(server) as watch:
        until(lambda: all(status(server, name) == "healthy" for name in server.instances))
        server.failing.update(server.instances)
        until(lambda: watch.kinds().count("unhealthy") == 20)
        until(lambda: "brown-out" in watch.kinds())
        restarts = sum(len(web.starts) - 1 for web in server.instances.values())
        assert restarts <= 1


def test_500_checks_begin_on_time():
    server = standin.Server()
    for number in range(500):
        server.add(f"web-{number}", test=TEST, interval="30s")
    server.old()
    began = time.monotonic()

    def probe(order: probes.Order, stop: threading.Event) -> probes.Result:
        stop.wait(0.02)
        return probes.Result(kind="exit")

    with watching(server, probe=probe) as watch:
        time.sleep(5)
        figures = watch.manager.figures()
    count = sum(figures.late.values())
    assert count > 16 * (time.monotonic() - began) * 0.6, figures
    assert figures.late_ms / count <= 50, figures
    below = sum(number for bound, number in figures.late.items() if bound <= 250)
    assert below >= 0.99 * count, figures


def test_more_checks_than_can_be_run_come_later_all_alike_and_that_is_said():
    server = standin.Server()
    for number in range(60):
        server.add(f"web-{number}", test=TEST, interval="100ms")
    server.old()
    ran: dict[str, int] = {}
    takes = 0.06

    def probe(order: probes.Order, stop: threading.Event) -> probes.Result:
        stop.wait(takes)
        ran[order.instance] = ran.get(order.instance, 0) + 1
        return probes.Result(kind="exit")

    pace = (5, 0)  # times the time that passes, and so much more: one value, as threads read it

    def clock() -> int:
        times, more = pace
        return time.monotonic_ns() // 1_000_000 * times + more

    with watching(server, probe=probe, clock=clock) as watch:
        until(lambda: "overload" in watch.kinds())
        ran.clear()
        until(lambda: sum(ran.values()) >= 240)
        assert max(ran.values()) - min(ran.values()) <= 2, ran
        assert all(len(web.starts) == 1 for web in server.instances.values())
        takes = 0.0
        pace = (1, clock() - time.monotonic_ns() // 1_000_000)
        for number in range(10, 60):
            server.instances[f"web-{number}"].config[names.HEALTH_INTERVAL] = "100s"
            server.tell("instance-updated", f"web-{number}")
        until(lambda: "on-time" in watch.kinds())


def test_after_a_standstill_there_is_no_burst():
    server = standin.Server()
    for number in range(200):
        server.add(f"web-{number}", test=TEST, interval="20s", restart="always", retries="1")
    server.old()
    clock = Clock()
    with watching(server, clock=clock) as watch:
        time.sleep(0.5)
        before = watch.manager.figures().probes.get("exit", 0)
        clock.ahead(300_000)
        time.sleep(1.0)
        # 200 in 20 s are 10 a second.
        assert 0 < watch.manager.figures().probes.get("exit", 0) - before < 60
        assert "unknown" not in watch.kinds()
        assert all(len(web.starts) == 1 for web in server.instances.values())


# --- two daemons and a person ----------------------------------------------------------------------------------


def test_two_daemons_and_a_person_restart_once_per_verdict_in_200_races():
    server = standin.Server(start=0.001, stop=0.001, write=0.001)
    races = [f"web-{number}" for number in range(200)]
    for name in races:
        server.add(name, test=TEST, interval="400ms", retries="2", restart="always")
    # Over the unix socket all have one name; over TLS two daemons share a certificate.
    with (
        watching(server, weather=Calm()) as one,
        watching(server, weather=Calm(), client=standin.Client(server, "other")) as two,
    ):
        until(lambda: all(status(server, name) == "healthy" for name in races))
        ran = {name: server.instances[name].last_used_at for name in races}
        server.failing.update(races)
        person = standin.Client(server, "person")
        chance = random.Random(5)
        for name in chance.sample(races, 20):
            with contextlib.suppress(errors.Conflict):
                person.restart(name, 0)
        until(lambda: all(server.instances[name].last_used_at != ran[name] for name in races))
        server.failing.clear()
        until(lambda: all(status(server, name) == "healthy" for name in races))
        for name in races:
            web = server.instances[name]
            verdicts = sum(
                one_told[:2] == ("unhealthy", f"instance:{name}")
                for watch in (one, two)
                for one_told in watch.told
            )
            assert standin.claim(server, name).restarts <= max(1, verdicts), (name, verdicts)
            by_person = 1
            assert len(web.starts) - 1 <= standin.claim(server, name).restarts + by_person
        assert sum(standin.claim(server, name).restarts for name in races) <= 220
        # The server does both halves of a restart: whoever starts has taken it for an exit.
        assert "start" not in one.manager.figures().acts | two.manager.figures().acts
        # What the person was first with needs none; and one of the two may win every race.
        acts = [watch.manager.figures().acts.get("restart", 0) for watch in (one, two)]
        assert sum(acts) >= len(races) - 20


def test_a_persons_restart_is_not_broken_by_a_verdict():
    server = standin.Server(stop=0.6)
    web = server.add("web", test=TEST, interval="50ms", retries="1")
    server.old()
    with watching(server, weather=Calm()):
        until(lambda: status(server, "web") == "healthy")
        server.failing.add("web")
        for action in ("none", "restart"):
            web.config[names.HEALTH_ON_UNHEALTHY] = action
            server.tell("instance-updated", "web")
            before = web.version
            standin.Client(server, "person").restart("web", 10_000)  # raises when it is broken
            assert web.version == before + 2  # stopped and started, and not written in between
            server.failing.clear()
            until(lambda: status(server, "web") == "healthy")
            server.failing.add("web")


def test_what_another_daemon_has_promised_is_not_written_over():
    server = standin.Server()
    web = server.add("web", test=TEST, interval="50ms", retries="1", on_unhealthy="none")
    server.old()
    client = standin.Client(server)
    promise = spec.Claim(restarts=1, run=web.last_used_at, do="restart", by="another")

    def claimed(call: str) -> None:
        if call == "get" and not standin.claim(server, "web").restarts:
            with server.lock:  # nobody is told: what is read has to be enough
                web.config[names.HEALTH] = spec.claim_text(promise)
                web.version += 1

    client.before = claimed
    with watching(server, client=client) as watch:
        until(lambda: watch.kinds() == ["healthy"] and standin.claim(server, "web").restarts)
        until(lambda: server.calls.count("get") >= 2)
        time.sleep(0.3)
        assert standin.claim(server, "web") == promise


def test_what_a_person_stops_in_the_middle_of_a_restart_stays_stopped():
    server = standin.Server()
    web = server.add("web", test=TEST, interval="50ms", retries="1", restart="always")
    server.old()
    client = standin.Client(server)

    def stopped(call: str) -> None:
        if call == "restart" and web.status == "Running":
            standin.Client(server, "person").stop("web", 0)
            time.sleep(0.3)  # the daemon hears of it

    client.before = stopped
    with watching(server, client=client, weather=Calm(), me="daemon") as watch:
        until(lambda: status(server, "web") == "healthy")
        server.failing.add("web")
        until(lambda: web.status == "Stopped")
        time.sleep(1.0)
        assert (web.status, len(web.starts)) == ("Stopped", 1)
        assert "start" not in watch.kinds()


@pytest.mark.parametrize("known", [True, False])
def test_another_daemon_is_known_by_its_claims_and_is_no_person(*, known: bool):
    server = standin.Server()
    web = server.add("web", restart="always")
    other = "another daemon, a fingerprint"
    if known:
        web.config[names.HEALTH] = spec.claim_text(spec.Claim(by=other[: acting.NAME_KEPT]))
    with watching(server, me="daemon"):
        standin.Client(server, other).stop("web", 1_000)
        if known:
            until(lambda: web.status == "Running")
        else:
            time.sleep(0.5)
            assert web.status == "Stopped"


# --- killed at every call ---------------------------------------------------------------------------------------


def _killed_at(point: int | str, kind: str, policy: str) -> str:
    """One life that ends at its nth call, or its first of a name (before it, or behind it), and its successor.

    Where it was killed; empty when it did not come to that.

    With no policy a failing check asks for the restart, else an exit does.
    """
    server = standin.Server()
    web = server.add("web", test=TEST, interval="100ms", retries="1", restart=policy)
    client = standin.Client(server)
    calls: list[str] = []
    dead = threading.Event()

    def count(call: str) -> None:
        if call in ("exec", "events", "list") and not dead.is_set():
            return
        if not dead.is_set():
            calls.append(call)
        if dead.is_set() or point in (len(calls), call):
            dead.set()
            raise standin.Killed(call)

    setattr(client, kind, count)
    clock = Clock()
    watch = Watch(server, client=client, weather=Calm(), clock=clock)
    until(lambda: watch.manager.view().connected or watch.failure)
    if policy:
        server.exit("web")
    else:
        server.failing.add("web")
    until(
        lambda: (
            clock.ahead()
            or watch.failure
            or (len(web.starts) == 2 and standin.claim(server, "web").run == web.last_used_at)
        )
    )
    server.failing.clear()
    watch.end()
    # Before anything was written of it, nobody saw this exit.
    unseen = policy == "unless-stopped" and not standin.claim(server, "web").do
    with watching(server, weather=Calm(), clock=clock) as successor:
        if unseen and web.status == "Stopped":
            until(lambda: "stopped" in successor.kinds())
        else:
            until(
                lambda: (
                    clock.ahead()
                    or (web.status == "Running" and status(server, "web") == "healthy")
                ),
                15,
            )
        before = web.status
        time.sleep(0.3)
        assert web.status == before
    assert len(web.starts) <= 2  # whoever made it: one start for one end or one verdict
    return calls[-1] if dead.is_set() else ""


@pytest.mark.parametrize("policy", ["", "always", "unless-stopped"])
def test_killed_at_every_call_of_a_restart_nothing_is_left_stopped(policy: str):
    found: list[str] = []
    faults: list[BaseException] = []

    def life(point: int | str, kind: str) -> None:
        try:
            found.append(_killed_at(point, kind, policy))
        except BaseException as error:  # noqa: BLE001 - the test raises it
            faults.append(error)

    threads = [
        threading.Thread(target=life, args=(point, kind))
        for point in (*range(1, 8), "patch")  # when looks come between them is not always the same
        for kind in ("before", "after")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults, faults
    assert {"patch", "get", "start" if policy else "restart"} <= set(found)


# --- the end, and one round --------------------------------------------------------------------------------------


def test_the_end_comes_at_once_and_kills_what_runs():
    server = standin.Server()
    server.add("web", test=TEST, interval="20ms")
    killed = threading.Event()
    began = threading.Event()

    def probe(order: probes.Order, stop: threading.Event) -> probes.Result:
        began.set()
        if stop.wait(30):
            killed.set()
        return probes.Result(kind="error")

    watch = Watch(server, probe=probe)
    assert began.wait(5)
    at = time.monotonic()
    watch.end()
    assert time.monotonic() - at < 3
    assert killed.is_set()
    assert watch.failure is None


def test_the_beat_goes_on_while_idle():
    server = standin.Server()
    with watching(server) as watch:
        beat = watch.manager.beat
        until(lambda: watch.manager.beat > beat + 2, 3)


def test_a_round_runs_every_check_once_and_changes_nothing():
    server = standin.Server()
    server.add("good", test=TEST)
    server.add("bad", test=TEST)
    server.add("off", test=TEST, running=False)
    server.add("broken", test="x")
    server.add("plain", restart="always")
    server.failing.add("bad")
    client = standin.Client(server)
    found = manager.Manager(client, client.probe, lambda *_, **__: None).once()
    assert [(one.name, one.result and one.result.code, bool(one.problems)) for one in found] == [
        ("bad", 1, False),
        ("broken", None, True),
        ("good", 0, False),
    ]
    assert set(server.calls) == {"list", "exec"}


def test_an_order_has_what_the_keys_say():
    asked = spec.read(
        "web",
        {
            "user.healthcheck.test": '["CMD-SHELL", "true"]',
            "user.healthcheck.timeout": "2s",
            "oci.uid": "33",
            "environment.HOME": "/srv",
            "environment.SECRET": "hunter2",
        },
    )
    order = manager.order(asked, "m", "one")
    assert order == probes.Order(
        instance="web",
        argv=("/bin/sh", "-c", "true"),
        environment={"HOME": "/srv"},
        uid=33,
        timeout_ms=2_000,
        marker="m",
        run="one",
    )
    assert "hunter2" not in repr(order)
