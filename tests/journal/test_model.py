"""Several runs at once, stopped, killed or overtaken at any request: the protocol's promises as a state machine.

The processes are threads that run the real code against the server in memory; each of their requests, and each
of their waits, stops until the schedule lets it go on. The schedule is drawn by Hypothesis: let one of
them do its next request, kill one, or let a whole TTL pass. A project is written in two parts, as on the
real server. Whatever the schedule: nothing that was acknowledged is lost, nothing is numbered twice, nobody writes
after he was followed, and every reader at every moment sees a good journal.
"""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ic import errors, names
from ic.journal import book, events, lease
from ic.resources import kind
from tests.journal import server as fakes
from tests.journal import stage

RUNS = 3
EVENTS = 2


class Killed(BaseException):
    """As kill -9: nothing of ic catches it."""


class Gate:
    """Where a process waits to be let on."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.here = threading.Semaphore(0)
        self.killed = False
        self.done = False
        self.where = ""

    def wait(self, where: str = "") -> None:
        """On the process's thread: stop until the schedule comes by."""
        self.where = where
        self.here.release()
        self.go.acquire()
        if self.killed:
            raise Killed

    def step(self) -> None:
        """On the schedule's thread: one request further."""
        self.go.release()
        self.here.acquire()


class Gated:
    """The server as one process sees it."""

    def __init__(self, server: fakes.Server, gate: Gate, clock: fakes.Clock) -> None:
        self.server = server
        self.gate = gate
        self.clock = clock

    def send(self, method: str, path: str, query: Any = None, body: Any = None, **how: Any) -> Any:
        """One request, when it is its turn; stopped once more after it took effect."""
        self.gate.wait(f"before {method} {path.split('/')[2]}")
        reply = self.server.send(method, path, query, body, **how)
        self.gate.wait()
        return reply

    def boottime(self) -> float:
        """Seconds."""
        return self.clock.boottime()

    def wall(self) -> float:
        """Seconds."""
        return self.clock.wall()

    def sleep(self, seconds: float) -> None:
        """Only the schedule lets time pass."""
        self.gate.wait()


class Process:
    """One run of some steps, on a thread of its own."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.gate = Gate()
        self.acknowledged: list[int] = []
        self.held: int | None = None
        self.end = ""
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()
        self.gate.here.acquire()

    def live(self) -> None:
        try:
            self.work()
            self.end = "closed"
        except Killed:
            self.end = "killed"
        except errors.JournalError as error:
            self.end = error.code
        finally:
            self.gate.done = True
            self.gate.here.release()

    def work(self) -> None:
        server = Gated(self.world.server, self.gate, self.world.clock)
        holder = lease.Holder(actor=f"{self.index}@m", machine=f"m{self.index}", boot="b", pid=1)
        terms = lease.Terms(
            holder=holder,
            nonce=self.world.nonce,
            say=lambda _: None,
            lock_timeout=1e9,
            clock=server,
            times=lease.Times(),
        )
        taken = lease.acquire(server, stage.PROJECT, terms)
        start = stage.start(run=f"{self.index:08x}")
        run = book.Run(server, taken, start, clock=server, times=lease.Times())
        run.enter()
        self.held = run.generation
        for number in range(EVENTS):
            step = kind.Step(
                id=f"{self.index}.{number}",
                address=f"instance:{self.index}/{number}",
                event="inst.create",
                deed=kind.Call(method="POST", path="/1.0/instances"),
                record=kind.Record(name=f"i{self.index}-{number}"),
            )
            n = run.intend(step, lambda intent: self.acknowledged.append(intent.n))
            run._open.flush()
            run.guard()
            self.gate.wait()
            self.world.acts.append((n, run.generation))
            run.outcome(n, "ok")
        run.close("ok")


class World:
    """A stack, its processes, and what must be true at every moment."""

    def __init__(self) -> None:
        self.server = fakes.Server()
        self.clock = fakes.Clock()
        stage.found(self.server)
        self.acts: list[tuple[int, int]] = []
        self.nonces = iter(range(1, 1_000_000))
        self.lines: dict[int, bytes] = {}
        self.owners: dict[int, str] = {}
        self.server.fault = self.between
        self.processes = [Process(self, index) for index in range(1, RUNS + 1)]

    def nonce(self) -> str:
        return f"{next(self.nonces):08x}"

    def between(self, moment: str, method: str, path: str) -> None:
        """Stop the process that is in the middle of writing the project."""
        if moment == "between":
            for process in self.processes:
                if process.thread is threading.current_thread():
                    self.server._lock.release()
                    try:
                        process.gate.wait("between")
                    finally:
                        self.server._lock.acquire()

    def check(self) -> None:
        """What a reader sees now, and what must be there."""
        journal = stage.read(self.server)
        assert (journal.state, journal.problems) == ("ok", ())
        numbers = [line.n for line in journal.lines]
        assert numbers == list(range(1, len(numbers) + 1))
        seen = {line.n: line.raw for line in journal.lines}
        for process in self.processes:
            for n in process.acknowledged:
                assert n in seen, f"{n} was acknowledged and is gone"
                known = self.lines.setdefault(n, seen[n])
                assert known == seen[n], f"line {n} has changed"
        top = journal.run_object
        if top is not None:
            assert self.owners.setdefault(top.generation, top.nonce) == top.nonce
        folded = {event.n for event in journal.events() if isinstance(event, events.Intent)}
        assert {n for n, _ in self.acts} <= folded
        generations = [g for _, g in sorted(self.acts)]
        assert generations == sorted(generations)

    def finish(self) -> None:
        """Whoever still lives comes to his end, one after the other."""
        for _ in range(20):
            for process in self.processes:
                for _ in range(80):
                    if process.gate.done:
                        break
                    process.gate.step()
            if all(process.gate.done for process in self.processes):
                return
            self.clock.now += 31
        raise AssertionError([(process.index, process.end) for process in self.processes])

    def stop(self) -> None:
        """Leave no thread behind."""
        for process in self.processes:
            while not process.gate.done:
                process.gate.killed = True
                process.gate.step()
            process.thread.join()


# --- the very first lease ------------------------------------------------------------------------------


class Contender(Gated):
    """Takes the lease of a stack that has no run object yet, writes under it twice, and lets it go."""

    def __init__(
        self, server: fakes.Server, clock: fakes.Clock, index: int, log: list[tuple[int, str]]
    ) -> None:
        super().__init__(server, Gate(), clock)
        self.index = index
        self.log = log  # (generation, what), in the order in which the writes took effect
        self.drawn = 0
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()
        self.gate.here.acquire()

    def send(self, method: str, path: str, query: Any = None, body: Any = None, **how: Any) -> Any:
        """One request, when it is its turn."""
        self.gate.wait()
        reply = self.server.send(method, path, query, body, **how)
        if method == "PATCH":
            found = lease.parse_name(stage.PROJECT, path.rpartition("/")[2])
            assert found is not None
            self.log.append((found[0], "held" if names.GENERATION in body["config"] else "wrote"))
        return reply

    def nonce(self) -> str:
        self.drawn += 1
        return f"{self.index:04x}{self.drawn:04x}"

    def live(self) -> None:
        with contextlib.suppress(Killed, errors.NotFound):
            self.work()
        self.gate.done = True
        self.gate.here.release()

    def work(self) -> None:
        terms = lease.Terms(
            holder=lease.Holder(actor=f"{self.index}@m", machine=f"m{self.index}"),
            nonce=self.nonce,
            say=lambda _: None,
            lock_timeout=1e9,
            clock=self,
            times=lease.Times(),
        )
        taken = lease.acquire(self, stage.PROJECT, terms)
        for changes in ({"user.mine": "1"}, {"user.mine": "2"}, {names.HOLD: lease.FREE}):
            self.send("PATCH", taken.path, {"project": stage.PROJECT}, {"config": changes})


@pytest.mark.parametrize("lives", [1.0, 0.98])
def test_the_first_lease_has_one_holder_in_any_order_of_requests(lives: float) -> None:
    """Each request on its turn, and now and then a second or a TTL goes by; below 1 some are killed."""
    held = 0
    for seed in range(150):
        dice = random.Random(seed)
        server, clock = fakes.Server(), fakes.Clock()
        stage.found(server)
        log: list[tuple[int, str]] = []
        contenders = [Contender(server, clock, index, log) for index in range(1, 5)]
        left = contenders
        while left:
            one = dice.choice(left)
            one.gate.killed = dice.random() > lives
            one.gate.step()
            clock.now += 1 if dice.random() < 0.05 else 0
            clock.now += 31 if lives < 1 and dice.random() < 0.01 else 0
            left = [other for other in left if not other.gate.done]
        for contender in contenders:
            contender.thread.join()
        generations = [generation for generation, what in log if what == "held"]
        assert len(set(generations)) == len(generations), (seed, log)
        assert log == sorted(log, key=lambda one: one[0]), (seed, log)  # who was followed is fenced
        assert lives < 1 or len(generations) == 4, (seed, log)
        held += len(generations)
    assert held > 150


MOVES = st.one_of(
    st.tuples(st.just("step"), st.integers(0, RUNS - 1), st.integers(1, 12) | st.just(80)),
    st.tuples(st.just("kill"), st.integers(0, RUNS - 1), st.just(0)),
    st.tuples(st.just("wait"), st.just(0), st.integers(1, 40)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MOVES, max_size=40))
def test_no_schedule_breaks_a_promise(schedule: list[tuple[str, int, int]]) -> None:
    world = World()
    try:
        for what, index, count in schedule:
            process = world.processes[index]
            if what == "wait":
                world.clock.now += count
            elif what == "kill":
                process.gate.killed = True
            for _ in range(count if what == "step" else 0):
                if process.gate.done:
                    break
                process.gate.step()
                world.check()
        world.finish()
        world.check()
        last = stage.begin(world.server, lock_timeout=0) if free(world) else None
        if last is not None:
            assert {n for process in world.processes for n in process.acknowledged} <= {
                line.n for line in last.journal.lines
            }
            last.close("ok")
        ends = {process.end for process in world.processes}
        assert ends <= {"closed", "killed", "E_FENCED"}
        if not any(what == "kill" for what, _, _ in schedule):
            assert "closed" in ends
    finally:
        world.stop()


def free(world: World) -> bool:
    """Whether nobody holds the lease any more."""
    top = stage.read(world.server).run_object
    return top is None or (not top.held and top.settled)


def test_a_write_of_the_project_that_arrives_after_a_takeover_loses_nothing() -> None:
    """The server stalls one run's PUT between its two transactions; the next run folds meanwhile."""
    world = World()
    stalled, following, last = world.processes
    try:
        while stalled.gate.where != "between":
            stalled.gate.step()
        world.clock.now += 1
        for _ in range(8):
            following.gate.step()
        world.clock.now += 31
        while not following.gate.done:
            following.gate.step()
            world.check()
        assert following.end == "closed"
        while not stalled.gate.done:
            stalled.gate.step()
            world.check()
        assert stalled.end in ("E_FENCED", "closed")
        while not last.gate.done:
            last.gate.step()
            world.check()
        alone = book.read(stage.PROJECT, world.server.config(stage.PROJECT), {})
        assert {n for process in world.processes for n in process.acknowledged} <= {
            line.n for line in alone.lines
        }
    finally:
        world.stop()


def test_a_writer_between_our_check_and_our_write_is_found_out() -> None:
    """Somebody's older copy of the project lands directly after ours was written."""
    world = World()
    first = world.processes[0]
    old = world.server.config(stage.PROJECT)
    try:
        while first.gate.where != "between":
            first.gate.step()
        first.gate.step()
        world.server.projects[stage.PROJECT]["config"] = {**old, "user.other": "theirs"}
        while not first.gate.done:
            first.gate.step()
        alone = book.read(stage.PROJECT, world.server.config(stage.PROJECT), {})
        assert first.end == "closed"
        assert set(first.acknowledged) <= {line.n for line in alone.lines}
        assert world.server.config(stage.PROJECT)["user.other"] == "theirs"
    finally:
        world.stop()
