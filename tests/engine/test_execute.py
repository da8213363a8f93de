"""The walk over a plan: order, lanes, failures, interruption, a lost lease. Deeds and journal are fakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pytest

from ic import errors
from ic.engine import execute
from ic.plan import changes
from ic.resources import kind


def step(
    name: str,
    *needs: str,
    after: tuple[str, ...] = (),
    lane: str = "create",
    event: str = "inst.create",
) -> kind.Step:
    return kind.Step(
        id=name,
        address=f"instance:{name}/1",
        event=event,
        deed=kind.Call(method="POST", path="/1.0/instances", body={"name": name}),
        needs=needs,
        after=after,
        lane=lane,
    )


def plan_of(*steps: kind.Step) -> changes.Plan:
    return changes.Plan(
        stack="shop",
        project="shop",
        server="local",
        changes=tuple(
            changes.Change(address=one.address, action="create", cause="new", steps=(one,))
            for one in steps
        ),
    )


class Intent:
    def __init__(self, n: int) -> None:
        self.n = n
        self.stamp = f"7/{n}"


class Journal:
    """Acknowledges intents on another thread, as the real writer does, and remembers everything."""

    lineage = "abc"

    def __init__(self) -> None:
        self.lost = threading.Event()
        self.lines: list[tuple[str, ...]] = []
        self.names: dict[int, str] = {}
        self.held: list[Callable[[], None]] | None = None

    def intend(self, step: kind.Step, on_ack: Callable[[execute.Intent], None]) -> int:
        n = len(self.lines) + 1
        self.names[n] = step.id
        self.lines.append(("intent", step.id))

        def acknowledge() -> None:
            self.lines.append(("acknowledged", step.id))
            on_ack(Intent(n))

        if self.held is not None:
            self.held.append(acknowledge)
        else:
            threading.Thread(target=acknowledge).start()
        return n

    def outcome(
        self,
        n: int,
        status: str,
        ms: int | None = None,
        error: str | None = None,
        result: Mapping[str, object] | None = None,
    ) -> None:
        self.lines.append(("outcome", self.names[n], status, error or ""))

    def guard(self) -> None:
        if self.lost.is_set():
            raise errors.Fenced("cannot go on: another ic has taken over")

    def outcomes(self) -> dict[str, str]:
        return {line[1]: line[2] for line in self.lines if line[0] == "outcome"}


class Report:
    """What a display is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.on_tick: Callable[[], None] = lambda: None

    def started(self, step: kind.Step) -> None:
        self.told.append(("started", step.id))

    def finished(self, outcome: execute.Outcome) -> None:
        self.told.append((outcome.status, outcome.step.id))

    def tick(self) -> None:
        self.on_tick()

    def say(self, text: str) -> None:
        self.told.append(("said", text))


class Deeds:
    """Carries out nothing, but knows what was asked for, in which order, and how much at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.stamps: dict[str, str] = {}
        self.bodies: dict[str, object] = {}
        self.known: dict[str, dict[tuple[str, str], str]] = {}
        self.now = 0
        self.most = 0
        self.fails: dict[str, errors.IcError] = {}
        self.brings: dict[str, dict[str, str]] = {}
        self.seconds = 0.0
        self.blocked: dict[str, threading.Event] = {}
        self.journal: Journal | None = None

    def __call__(
        self,
        step: kind.Step,
        deed: kind.Deed,
        stamp: str,
        results: Mapping[tuple[str, str], str],
    ) -> dict[str, str]:
        with self.lock:
            if self.journal is not None and step.event:
                assert ("acknowledged", step.id) in self.journal.lines
            self.begun.append(step.id)
            self.stamps[step.id] = stamp
            self.known[step.id] = dict(results)
            if isinstance(deed, kind.Call):
                self.bodies[step.id] = deed.body
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        if step.id in self.blocked:
            assert self.blocked[step.id].wait(20)
        with self.lock:
            self.now -= 1
            self.ended.append(step.id)
        if step.id in self.fails:
            raise self.fails[step.id]
        return self.brings.get(step.id, {})


class Bench:
    """Everything that a walk needs."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.deeds = Deeds()
        self.deeds.journal = self.journal
        self.report = Report()
        self.left: list[str] = []
        self.interrupts = execute.Interrupts(lambda: self.left.append("left"))

    def walk(self, *steps: kind.Step) -> execute.Result:
        return execute.execute(
            plan_of(*steps),
            self.journal,
            self.deeds,
            report=self.report,
            interrupts=self.interrupts,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def statuses(result: execute.Result) -> dict[str, str]:
    return {one.step.id: one.status for one in result.outcomes}


def test_every_call_follows_its_acknowledged_intent_and_what_it_needs(bench: Bench) -> None:
    result = bench.walk(step("c", "b"), step("a"), step("b", "a"))
    assert result.status == "ok"
    assert bench.deeds.begun == ["a", "b", "c"]
    assert [one.step.id for one in result.outcomes] == ["c", "a", "b"]  # the plan's order
    assert bench.journal.outcomes() == {"a": "ok", "b": "ok", "c": "ok"}


def test_the_stamp_of_the_intent_is_written_into_what_is_sent(bench: Bench) -> None:
    bench.walk(step("a"))
    body = bench.deeds.bodies["a"]
    assert isinstance(body, dict)
    assert body["config"]["user.ic.ev"] == bench.deeds.stamps["a"] == "7/1"
    assert body["config"]["user.ic.lin"] == "abc"


def test_a_failed_step_stops_what_needs_it_and_nothing_else(bench: Bench) -> None:
    bench.deeds.fails["a"] = errors.OperationFailed("cannot create a: no")
    result = bench.walk(
        step("a"), step("b", "a"), step("c", "b"), step("d"), step("e", after=("a",))
    )
    assert statuses(result) == {
        "a": "failed",
        "b": "not-started",
        "c": "not-started",
        "d": "ok",
        "e": "ok",
    }
    assert result.status == "failed"
    assert bench.journal.outcomes() == {"a": "err", "d": "ok", "e": "ok"}
    assert ("outcome", "a", "err", "E_OPERATION cannot create a: no") in bench.journal.lines


def test_what_is_not_known_gets_no_outcome(bench: Bench) -> None:
    bench.deeds.fails["a"] = errors.TimedOut("cannot create a: no answer")
    result = bench.walk(step("a"), step("b", "a"))
    assert statuses(result) == {"a": "unknown", "b": "not-started"}
    assert bench.journal.outcomes() == {}


def test_a_lane_holds_no_more_than_its_limit_and_lanes_do_not_wait_for_each_other(
    bench: Bench,
) -> None:
    bench.deeds.seconds = 0.02
    creates = [step(f"c{n}") for n in range(9)]
    bench.walk(*creates)
    assert bench.deeds.most == execute.LANES["create"]
    other = Bench()
    other.deeds.blocked["slow"] = threading.Event()
    other.report.on_tick = lambda: (
        other.deeds.blocked["slow"].set() if "quick" in other.deeds.ended else None
    )
    steps = [step("slow", lane="stop"), step("first"), step("quick", "first", lane="start")]
    assert other.walk(*steps).status == "ok"


def test_a_waiting_step_is_not_journaled_and_holds_no_lane(bench: Bench) -> None:
    waits = [step(f"w{n}", lane="wait", event="") for n in range(6)]
    for one in waits:
        bench.deeds.blocked[one.id] = threading.Event()

    def release() -> None:
        if len(bench.deeds.begun) >= 7:
            for event in bench.deeds.blocked.values():
                event.set()

    bench.report.on_tick = release
    assert bench.walk(*waits, step("a")).status == "ok"
    assert set(bench.journal.outcomes()) == {"a"}


def test_what_a_step_brings_is_known_to_those_after_it(bench: Bench) -> None:
    bench.deeds.brings["pull"] = {"fingerprint": "f00d"}
    bench.walk(step("pull", lane="image", event="img.create"), step("a", "pull"))
    assert bench.deeds.known["a"] == {("instance:pull/1", "fingerprint"): "f00d"}


def test_an_interruption_starts_nothing_new_and_waits_for_what_is_under_way(bench: Bench) -> None:
    bench.deeds.blocked["a"] = threading.Event()

    def interrupt() -> None:
        if "a" in bench.deeds.begun and not bench.interrupts.requested.is_set():
            bench.interrupts.requested.set()
            bench.deeds.blocked["a"].set()

    bench.report.on_tick = interrupt
    result = bench.walk(step("a"), step("b", "a"), step("c", "b"))
    assert statuses(result) == {"a": "ok", "b": "not-started", "c": "not-started"}
    assert result.interrupted
    assert result.status == "interrupted"
    assert bench.deeds.begun == ["a"]
    assert len([word for word, _ in bench.report.told if word == "said"]) == 1


def test_an_interruption_skips_what_is_acknowledged_but_not_begun(bench: Bench) -> None:
    limit = execute.LANES["create"]
    steps = [step(f"s{n}") for n in range(limit + 2)]
    release = threading.Event()
    bench.deeds.blocked = {one.id: release for one in steps}

    def interrupt() -> None:
        acknowledged = [line for line in bench.journal.lines if line[0] == "acknowledged"]
        if len(acknowledged) == len(steps) and len(bench.deeds.begun) == limit:
            bench.interrupts.requested.set()
            release.set()

    bench.report.on_tick = interrupt
    result = bench.walk(*steps)
    assert sorted(bench.journal.outcomes().values()) == ["ok"] * limit + ["skip"] * 2
    assert sorted(statuses(result).values()) == ["not-started"] * 2 + ["ok"] * limit


def test_an_interruption_does_not_wait_for_waiting_steps(bench: Bench) -> None:
    bench.deeds.blocked["w"] = threading.Event()
    bench.report.on_tick = lambda: (
        bench.interrupts.requested.set() if "w" in bench.deeds.begun else None
    )
    try:
        result = bench.walk(step("w", lane="wait", event=""))
        assert result.interrupted
        assert statuses(result) == {"w": "not-started"}
    finally:
        bench.deeds.blocked["w"].set()


def test_a_lost_lease_stops_at_once(bench: Bench) -> None:
    bench.deeds.blocked["a"] = threading.Event()
    bench.report.on_tick = lambda: bench.journal.lost.set() if bench.deeds.begun else None
    try:
        result = bench.walk(step("a"), step("b", "a"))
        assert isinstance(result.stopped_by, errors.Fenced)
        assert statuses(result) == {"a": "unknown", "b": "not-started"}
        assert result.status == "failed"
    finally:
        bench.deeds.blocked["a"].set()


def test_a_guard_that_refuses_in_a_pool_thread_stops_at_once(bench: Bench) -> None:
    bench.deeds.fails["a"] = errors.Fenced("cannot go on: the lease is too old")
    result = bench.walk(step("a"), step("b", "a"))
    assert isinstance(result.stopped_by, errors.Fenced)
    assert bench.journal.outcomes() == {}


def test_a_journal_that_cannot_be_written_stops_before_the_call(bench: Bench) -> None:
    def full(step: kind.Step, on_ack: Callable[[execute.Intent], None]) -> int:
        raise errors.Full("cannot write the journal: it is full")

    bench.journal.intend = full
    result = bench.walk(step("a"))
    assert isinstance(result.stopped_by, errors.Full)
    assert bench.deeds.begun == []


def test_a_fault_of_ic_itself_is_raised_where_it_is_decided(bench: Bench) -> None:
    def broken(
        step: kind.Step,
        deed: kind.Deed,
        stamp: str,
        results: Mapping[tuple[str, str], str],
    ) -> dict[str, str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute.execute(
            plan_of(step("a")),
            bench.journal,
            broken,
            report=bench.report,
            interrupts=bench.interrupts,
        )


def test_circles_and_unknown_needs_are_refused_before_anything_is_written(bench: Bench) -> None:
    with pytest.raises(errors.DependencyCycle):
        bench.walk(step("a", "b"), step("b", "a"))
    with pytest.raises(errors.PlanError, match="needs nobody"):
        bench.walk(step("a", "nobody"))
    assert bench.journal.lines == []


def test_an_empty_plan_is_done(bench: Bench) -> None:
    assert bench.walk() == execute.Result(outcomes=())


def test_two_signals_ask_first_and_then_leave() -> None:
    import os
    import signal

    before = signal.getsignal(signal.SIGINT)
    left: list[str] = []
    heard: list[str] = []
    with execute.Interrupts(lambda: left.append("left")) as interrupts:
        interrupts.listen(lambda: heard.append("first"))
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.requested.wait(5)
        assert (heard, left) == (["first"], [])
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):
            if left:
                break
            time.sleep(0.01)
        assert left == ["left"]
    assert signal.getsignal(signal.SIGINT) is before
