"""Events as the runs that people ask for: who, when, which command, step by step, and how it ended. Pure.

In: a Journal; out: values in the shape of `ic.history/1` (docs/schemas), newest run first. Outcomes that a
later run found out (recovery) stand in the run whose intents they settle, with the run that found them. Each
life of the health daemon is a run too, put where it belongs between the others: not before what it had
seen of the journal, and by the clock from there on. Neither the journal's order nor the stream's is broken.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import errors
from ic.journal import events
from ic.resources import sidecar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ic.journal import pages


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One step, with its intent's number; or something else that happened to the journal itself.

    Of the health daemon: the number in its stream, `cause` in words, and the last line of the probe.
    """

    n: int
    time: str
    kind: str
    address: str
    phase: Literal["intent", "done"]
    status: str | None = None
    ms: int | None = None
    error: str | None = None
    recovered_by: str | None = None
    cause: str | None = None
    output: str | None = None


class HistoryRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `counts` are its changes by the plan's action, `failed` and `open` besides."""

    run: str
    generation: int
    command: str
    actor: str
    started: str
    ended: str | None
    status: Literal["ok", "failed", "interrupted", "running"]
    counts: dict[str, int]
    events: tuple[Event, ...]


#: The kinds with which a life of the health daemon begins and ends.
HEALTH_RUN = "hd.run"
HEALTH_END = "hd.end"
_PUT_OUT = ("inst.stop", "inst.delete", "inst.restart", "cert.revoke")


def moment(ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond; for any number that a damaged clock may have written."""
    seconds, rest = divmod(ms, 1000)
    try:
        form = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "1970-01-01T00:00:00.000Z"
    return f"{form}.{rest:03d}Z"


def action(steps: Sequence[Event]) -> str:
    """What a run did to one address, in the plan's word; `failed`, `open`, or empty when nothing came of it.

    A change is several steps: what was deleted and created was replaced, what was stopped and started was
    restarted, what was created may have been updated and started besides.
    """
    if any(step.status == "err" for step in steps):
        return "failed"
    if any(step.phase == "intent" for step in steps):
        return "open"
    verbs = [step.kind.rpartition(".")[2] for step in steps if step.status == "ok"]
    if "create" in verbs:
        return "replace" if "delete" in verbs else "create"
    if "restart" in verbs or ("stop" in verbs and "start" in verbs):
        return "restart"
    for verb in ("delete", "update", "start", "stop"):
        if verb in verbs:
            return verb
    return verbs[-1] if verbs else ""


class _Gathering:
    """A run while its lines are read."""

    def __init__(self, event: events.Run | None, n: int, t: int) -> None:
        self.n = n
        self.run = event.run if event else ""
        self.generation = event.generation if event else 0
        self.command = event.command if event else ""
        self.actor = event.actor if event else ""
        self.started = t
        self.ended: int | None = None
        self.status = ""
        self.steps: dict[int, Event] = {}

    def done(self, *, running: int) -> HistoryRun:
        """The run as a value; `running` is the generation that holds the lease now, 0 for none."""
        status: Literal["ok", "failed", "interrupted", "running"] = "interrupted"
        if self.status in ("ok", "failed", "interrupted"):
            status = self.status
        elif not self.status and running and self.generation == running:
            status = "running"
        steps: dict[str, list[Event]] = {}
        for step in self.steps.values():
            steps.setdefault(step.address, []).append(step)
        counts: dict[str, int] = {}
        for one in steps.values():
            label = action(one)
            if label:
                counts[label] = counts.get(label, 0) + 1
        return HistoryRun(
            run=self.run,
            generation=self.generation,
            command=self.command,
            actor=self.actor,
            started=moment(self.started),
            ended=None if self.ended is None else moment(self.ended),
            status=status,
            counts=counts,
            events=tuple(self.steps[n] for n in sorted(self.steps)),
        )


class _Story:
    """All runs while the lines are read, in order."""

    def __init__(self) -> None:
        self.runs: list[_Gathering] = []
        self.told: list[events.Health] = []
        self.by_id: dict[str, _Gathering] = {}
        self.owner: dict[int, _Gathering] = {}

    def current(self, event: events.AnyEvent) -> _Gathering:
        """The run that a line belongs to; lines without one (their beginning is gone) get a nameless one."""
        if not self.runs:
            self.runs.append(_Gathering(None, event.n, event.t))
        return self.runs[-1]

    def take(self, event: events.AnyEvent) -> None:
        """Take in the next line."""
        match event:
            case events.Run():
                self._run(event)
            case events.Intent():
                run = self.current(event)
                self.owner[event.n] = run
                run.steps[event.n] = Event(
                    n=event.n,
                    time=moment(event.t),
                    kind=event.kind,
                    address=event.address,
                    phase="intent",
                )
            case events.Outcome():
                self._outcome(event)
            case events.End():
                run = self.by_id.get(event.run) or self.current(event)
                run.ended, run.status = event.t, event.status
            case events.Steal():
                self._note(
                    event,
                    f"taken from {event.holder or 'somebody'} (generation {event.of}): {event.reason}",
                )
            case events.Gap():
                lost = _Gathering(None, event.n, event.t)
                lost.command, lost.ended = "gap", event.t
                self.runs.append(lost)
                self._note(event, f"lines {event.n} to {event.last} are lost: {event.reason}")
            case events.Health():
                self.told.append(event)
            case events.Other():
                self._note(event, None)
            case events.Trunc() | events.Recover():
                pass

    def _run(self, event: events.Run) -> None:
        known = self.by_id.get(event.run)
        if known is not None:
            known.generation = max(known.generation, event.generation)
            self.runs.remove(known)
            self.runs.append(known)
            return
        begun = _Gathering(event, event.n, event.t)
        self.by_id[event.run] = begun
        self.runs.append(begun)

    def _outcome(self, event: events.Outcome) -> None:
        run = self.owner.pop(event.intent, None)
        if run is None:
            return
        here = self.current(event)
        step = run.steps[event.intent]
        run.steps[event.intent] = msgspec.structs.replace(
            step,
            phase="done",
            status=event.status,
            ms=event.ms,
            error=" ".join(part for part in (event.error, event.text) if part) or None,
            recovered_by=None if here is run else here.run,
        )

    def _note(self, event: events.AnyEvent, text: str | None) -> None:
        kind = (
            event.kind
            if isinstance(event, events.Other)
            else str(type(event).__struct_config__.tag)
        )
        address = event.address if isinstance(event, events.Other) else ""
        self.current(event).steps[event.n] = Event(
            n=event.n,
            time=moment(event.t),
            kind=kind,
            address=address,
            phase="done",
            status=None,
            error=text,
        )


def runs(journal: pages.Journal) -> tuple[HistoryRun, ...]:
    """All runs of a journal, newest first, those of the health daemon among them.

    A run without an end is `running` while the lease is held at its generation, else `interrupted`.
    """
    story = _Story()
    for event in journal.events():
        story.take(event)
    top = journal.run_object
    running = top.generation if top is not None and top.held else 0
    told = sorted((*story.told, *journal.telling()), key=_number)
    found = [(run.n, run.started, run.done(running=running)) for run in story.runs]
    lives = _lives(journal, told, _put_out([run for _, _, run in found]))
    return tuple(reversed(_between(found, lives)))


def _number(event: events.Health) -> int:
    """The number in the daemon's stream, of a line that stands there or was copied from there."""
    return event.stream or event.n


_Placed = tuple[int, int, HistoryRun]  # of the journal: number and time of its first line


def _between(found: list[_Placed], lives: list[_Placed]) -> list[HistoryRun]:
    """Put the daemon's lives between the runs, both in their own order."""
    merged: list[HistoryRun] = []
    at = 0
    for seen, began, life in lives:
        while at < len(found) and (found[at][0] <= seen or found[at][1] <= began):
            merged.append(found[at][2])
            at += 1
        merged.append(life)
    merged.extend(run for _, _, run in found[at:])
    return merged


def _put_out(found: Sequence[HistoryRun]) -> str:
    """When a run last stopped the health daemon, or took its rights away before it could say so."""
    times = [
        step.time
        for run in found
        for step in run.events
        if step.address == sidecar.ADDRESS and step.kind in _PUT_OUT and step.status == "ok"
    ]
    return max(times, default="")


def _lives(journal: pages.Journal, told: Sequence[events.Health], put_out: str) -> list[_Placed]:
    """The daemon's lives: what it had seen of the journal when each began, when, and the life as a run."""
    by_run: dict[str, list[events.Health]] = {}
    for event in told:
        by_run.setdefault(event.run, []).append(event)
    holder = journal.health.holder if journal.health is not None else None
    return [
        (
            log[0].seen,
            log[0].t,
            _life(
                log,
                alive=holder is not None and holder.run == run and moment(log[0].t) > put_out,
            ),
        )
        for run, log in by_run.items()
    ]


def _life(log: Sequence[events.Health], *, alive: bool) -> HistoryRun:
    first, last = log[0], log[-1]
    over = last.kind == HEALTH_END
    counts: dict[str, int] = {}
    for event in log:
        label = event.kind.removeprefix(events.HEALTH)
        if event.kind not in (HEALTH_RUN, HEALTH_END):
            counts[label] = counts.get(label, 0) + 1
    return HistoryRun(
        run=first.run,
        generation=first.generation,
        command="healthd",
        actor=next((event.actor for event in log if event.actor), ""),
        started=moment(first.t),
        ended=moment(last.t) if over else None,
        status="ok" if over else "running" if alive else "interrupted",
        counts=counts,
        events=tuple(_told(event) for event in log),
    )


def _told(event: events.Health) -> Event:
    cause = event.cause
    if event.code is not None:
        cause = f"{cause} (exit code {event.code})" if cause not in ("", "exit") else ""
        cause = cause or f"exit code {event.code}"
    return Event(
        n=_number(event),
        time=moment(event.t),
        kind=event.kind,
        address=event.address,
        phase="done",
        cause=cause or None,
        output=event.line or None,
    )


def find(found: Sequence[HistoryRun], text: str) -> HistoryRun:
    """The run that a user means: by id, by a unique beginning of it, or by generation.

    Raises UsageError when there is none, or several.
    """
    exact = [run for run in found if run.run == text]
    if exact:
        return exact[0]
    if text.isdecimal():
        numbered = [run for run in found if run.generation == int(text)]
        if len(numbered) == 1:
            return numbered[0]
    matching = [run for run in found if text and run.run.startswith(text)]
    if len(matching) == 1:
        return matching[0]
    reason = "no such run" if not matching else f"{len(matching)} runs begin like this"
    raise errors.UsageError(f"cannot show run {text!r}: {reason}", hint="ic history lists them")
