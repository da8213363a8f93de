"""Walks a plan: an intent is acknowledged, its call is made, its outcome is journaled, what waits goes on.

Enters: a plan, the run that holds the lease, and a function that carries out one deed. Leaves: a Result with
one Outcome per step. Not pure. One thread (the caller's) decides and owns all state; pool threads carry out
one deed each and hand back a value through a queue. There are no barriers between kinds: a step starts as
soon as everything it needs is done, its intent is acknowledged and its lane has
room (docs/journal-format.md).
"""

from __future__ import annotations

import graphlib
import queue
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from ic import errors
from ic.resources import kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.plan import changes

LANES: dict[str, int] = {
    "create": 3,
    "start": 4,
    "stop": 16,
    "delete": 4,
    "network": 4,
    "volume": 4,
    "image": 4,
    "trust": 4,
    "wait": 1000,  # waiting costs a thread of its own and no call
}
"""How many steps of a lane run at once: creating does not scale on the server, stopping does."""

TICK_SECONDS = 0.1

Status = Literal["ok", "failed", "unknown", "not-started"]
Results = dict[tuple[str, str], str]
"""Values that steps brought, by (address, key): what a `kind.Result` in a later request stands for."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one step ended. `unknown` is a call whose effect could not be found out, or was not waited for.

    An `ok` with an error is a wait that failed and that nobody needs.
    """

    step: kind.Step
    status: Status
    ms: int = 0
    error: errors.IcError | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Every step's outcome in the plan's order, and what stopped the walk before its end, if anything did."""

    outcomes: tuple[Outcome, ...]
    interrupted: bool = False
    stopped_by: errors.IcError | None = None

    @property
    def status(self) -> Literal["ok", "failed", "interrupted"]:
        """The word for the run: `ok` only if every step is done."""
        if self.interrupted:
            return "interrupted"
        return "ok" if all(one.status == "ok" for one in self.outcomes) else "failed"


class Intent(Protocol):
    """What an acknowledged intent tells: its number in the journal, and the stamp `generation/number`."""

    @property
    def n(self) -> int: ...
    @property
    def stamp(self) -> str: ...


class Run(Protocol):
    """What is needed of the run that holds the lease (`journal.book.Run`)."""

    @property
    def lineage(self) -> str: ...
    @property
    def lost(self) -> threading.Event: ...
    def intend(self, step: kind.Step, on_ack: Callable[[Intent], None]) -> int: ...
    def outcome(
        self,
        n: int,
        status: Literal["ok", "err", "skip"],
        ms: int | None = None,
        error: str | None = None,
        result: Mapping[str, object] | None = None,
    ) -> None: ...
    def guard(self) -> None: ...


class Report(Protocol):
    """Who is told while it happens (`cli.progress`): always from the deciding thread."""

    def started(self, step: kind.Step) -> None: ...
    def finished(self, outcome: Outcome) -> None: ...
    def tick(self) -> None: ...
    def say(self, text: str) -> None: ...


class Perform(Protocol):
    """Carries out one stamped deed on a pool thread (`deeds.perform`); what it brought. Raises IcError."""

    def __call__(
        self, step: kind.Step, deed: kind.Deed, stamp: str, results: Mapping[tuple[str, str], str]
    ) -> dict[str, str]: ...


class Interrupts:
    """SIGINT and SIGTERM while something is carried out: the first asks to stop, the second leaves at once.

    Used as a context manager on the main thread; elsewhere (a library's caller in a thread) it changes no
    signal and never asks. `leave` is called for the second signal and must not return.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self.requested = threading.Event()
        self._leave = leave
        self._listeners: list[Callable[[], None]] = []
        self._before: dict[int, object] = {}

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` (from a signal handler: it may only put on a SimpleQueue) at the first signal."""
        self._listeners.append(listener)

    def __enter__(self) -> Interrupts:
        import signal

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before.clear()

    def _signalled(self, *_: object) -> None:
        if self.requested.is_set():
            self._leave()
        self.requested.set()
        for listener in self._listeners:
            listener()


class _Acknowledged(msgspec.Struct, frozen=True):
    step: kind.Step
    intent: Intent


class _Ended(msgspec.Struct, frozen=True):
    step: kind.Step
    ms: int
    brought: dict[str, str]
    error: errors.IcError | None


class _Bug(msgspec.Struct, frozen=True):
    error: BaseException


class _Wake(msgspec.Struct, frozen=True):
    pass


class _Walk:
    """The state of one walk; only the deciding thread touches it, `inbox` aside."""

    def __init__(
        self,
        plan: changes.Plan,
        run: Run,
        perform: Perform,
        *,
        report: Report,
        interrupts: Interrupts,
        clock: Callable[[], float],
    ) -> None:
        self.plan = plan
        self.run = run
        self.perform = perform
        self.report = report
        self.interrupts = interrupts
        self.clock = clock
        self.steps = {step.id: step for step in plan.steps}
        self.order = _sorted(self.steps)
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.workers = 0
        self.outcomes: dict[str, Outcome] = {}
        self.results: Results = {}
        self.intents: dict[str, Intent] = {}
        self.asked: set[str] = set()  # intents queued, not yet acknowledged
        self.waiting: dict[str, deque[kind.Step]] = {lane: deque() for lane in LANES}
        self.running: dict[str, dict[str, kind.Step]] = {lane: {} for lane in LANES}
        self.stopped_by: errors.IcError | None = None
        self.told = False  # that it was interrupted

    # --- the loop ---

    def walk(self) -> Result:
        self.interrupts.listen(lambda: self.inbox.put(_Wake()))
        try:
            self._advance()
            while self._pending():
                self._receive()
                self._advance()
        finally:
            for _ in range(self.workers):
                self.work.put(None)
        for step in self.steps.values():
            if step.id not in self.outcomes:
                began = any(step.id in lane for lane in self.running.values())
                known = "unknown" if began and step.event else "not-started"
                self.outcomes[step.id] = Outcome(step=step, status=known)
        return Result(
            outcomes=tuple(self.outcomes[step.id] for step in self.plan.steps),
            interrupted=self.interrupts.requested.is_set(),
            stopped_by=self.stopped_by,
        )

    def _pending(self) -> bool:
        """Whether there is anything to wait for. Fenced: nothing. Interrupted: only calls under way."""
        if self.stopped_by is not None:
            return False
        if self.interrupts.requested.is_set():
            calls = any(self.running[lane] for lane in LANES if lane != "wait")
            return calls or bool(self.asked)
        return self.order.is_active()

    def _receive(self) -> None:
        try:
            message = self.inbox.get(timeout=TICK_SECONDS)
        except queue.Empty:
            message = None
        while message is not None:
            if isinstance(message, _Acknowledged):
                self.asked.discard(message.step.id)
                self.intents[message.step.id] = message.intent
                self.waiting[message.step.lane].append(message.step)
            elif isinstance(message, _Ended):
                self._ended(message)
            elif isinstance(message, _Bug):
                raise message.error
            try:
                message = self.inbox.get_nowait()
            except queue.Empty:
                message = None
        self.report.tick()
        if self.run.lost.is_set():
            self._journaled(self.run.guard)

    def _advance(self) -> None:
        if self.stopped_by is not None:
            return
        if self.interrupts.requested.is_set():
            if not self.told:
                self.told = True
                self.report.say("interrupted: what is under way is ended; once more leaves at once")
            self._skip_acknowledged()
            return
        while self.order.is_active():
            ready = self.order.get_ready()
            if not ready:
                break
            for name in ready:
                self._ready(self.steps[name])
        for lane, waiting in self.waiting.items():
            while waiting and len(self.running[lane]) < LANES[lane]:
                self._start(waiting.popleft())

    # --- one step's way ---

    def _ready(self, step: kind.Step) -> None:
        """Everything in `needs` and `after` has ended; what is in `needs` must have ended well."""
        if any(self.outcomes[need].status != "ok" for need in step.needs):
            self._settle(Outcome(step=step, status="not-started"))
        elif not step.event:
            self.waiting[step.lane].append(step)
        else:
            self.asked.add(step.id)
            self._journaled(
                lambda: self.run.intend(
                    step, lambda intent: self.inbox.put(_Acknowledged(step, intent))
                )
            )

    def _journaled(self, write: Callable[[], object]) -> None:
        """Write to the journal; when that is not possible any more, nothing else is."""
        try:
            write()
        except errors.IcError as error:
            self.stopped_by = self.stopped_by or error

    def _start(self, step: kind.Step) -> None:
        self.running[step.lane][step.id] = step
        intent = self.intents.get(step.id)
        stamp = intent.stamp if intent is not None else ""
        deed = step.deed
        if intent is not None:
            deed = kind.stamped(step, self.run.lineage, self.plan.stack, stamp)
        known = dict(self.results)
        self.report.started(step)
        self._submit(lambda: self._carry_out(step, deed, stamp, known))

    def _carry_out(
        self, step: kind.Step, deed: kind.Deed, stamp: str, known: Mapping[tuple[str, str], str]
    ) -> None:
        """On a pool thread: one deed, its value or its error into the inbox."""
        begun = self.clock()
        brought: dict[str, str] = {}
        error: errors.IcError | None = None
        try:
            brought = self.perform(step, deed, stamp, known)
        except errors.IcError as caught:
            error = caught
        except BaseException as caught:  # noqa: BLE001 - handed to the deciding thread, raised there
            self.inbox.put(_Bug(caught))
            return
        self.inbox.put(_Ended(step, round((self.clock() - begun) * 1000), brought, error))

    def _ended(self, end: _Ended) -> None:
        step = end.step
        self.running[step.lane].pop(step.id, None)
        if isinstance(end.error, errors.JournalError):
            self.stopped_by = end.error
            return
        status: Status = "ok"
        if end.error is not None and not self._harmless(step):
            status = "unknown" if isinstance(end.error, errors.TimedOut) else "failed"
        intent = self.intents.get(step.id)
        if intent is not None:
            self._journal(intent, status, end)
        for key, value in end.brought.items():
            self.results[step.address, key] = value
        self._settle(Outcome(step=step, status=status, ms=end.ms, error=end.error))

    def _harmless(self, step: kind.Step) -> bool:
        """Whether a wait that failed keeps nobody from going on (`required: false`): told, no failure."""
        return step.lane == "wait" and not any(step.id in one.needs for one in self.steps.values())

    def _journal(self, intent: Intent, status: Status, end: _Ended) -> None:
        if status == "unknown":
            return  # an intent without an outcome is what recovery settles from live state
        word: Literal["ok", "err"] = "ok" if status == "ok" else "err"
        text = f"{end.error.code} {end.error.summary}" if end.error is not None else None
        self._journaled(lambda: self.run.outcome(intent.n, word, end.ms, text, end.brought))

    def _settle(self, outcome: Outcome) -> None:
        self.outcomes[outcome.step.id] = outcome
        self.order.done(outcome.step.id)
        self.report.finished(outcome)

    def _skip_acknowledged(self) -> None:
        for waiting in self.waiting.values():
            while waiting:
                step = waiting.popleft()
                intent = self.intents.get(step.id)
                if intent is not None:
                    self._journaled(partial(self.run.outcome, intent.n, "skip"))
                self._settle(Outcome(step=step, status="not-started"))

    # --- threads ---

    def _submit(self, job: Callable[[], None]) -> None:
        """Threads stay for the whole walk (a connection belongs to one), and never hold up leaving."""
        busy = sum(len(running) for running in self.running.values())
        if busy > self.workers:
            self.workers += 1
            threading.Thread(target=self._serve, daemon=True).start()
        self.work.put(job)

    def _serve(self) -> None:
        while (job := self.work.get()) is not None:
            job()


def _sorted(steps: Mapping[str, kind.Step]) -> graphlib.TopologicalSorter[str]:
    """The steps' order. Raises PlanError for a need that is no step, DependencyCycle for a circle."""
    for step in steps.values():
        for need in (*step.needs, *step.after):
            if need not in steps:
                raise errors.PlanError(
                    f"cannot carry out the plan: {step.id} needs {need}, which is not in it"
                )
    order = graphlib.TopologicalSorter(
        {step.id: (*step.needs, *step.after) for step in steps.values()}
    )
    try:
        order.prepare()
    except graphlib.CycleError as error:
        circle: list[str] = error.args[1]
        raise errors.DependencyCycle(
            "cannot carry out the plan: steps wait for each other", details=tuple(circle)
        ) from error
    return order


def execute(
    plan: changes.Plan,
    run: Run,
    perform: Perform,
    *,
    report: Report,
    interrupts: Interrupts,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Carry out a plan under a run; `perform` does one deed on a pool thread.

    A step that fails stops what needs it, the rest goes on. An interruption starts nothing new and waits for
    the calls under way. A lost lease, or a journal that cannot be written, stops at once: calls under way
    are reported as unknown. Raises DependencyCycle and PlanError before the first call.
    """
    walk = _Walk(plan, run, perform, report=report, interrupts=interrupts, clock=clock)
    return walk.walk()
