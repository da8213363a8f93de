"""A stack's journal as the rest of ic uses it: read it, begin a run under the lease, write, close.

In: a client, a project, steps; out: a Journal (pure, see `ic.journal.pages`) and a Run. A run writes in this
order: intents and outcomes into the run object while it goes on (`ic.journal.wal`), everything into the
project's config once at its end, and then the lease is given back.

    journal = book.read(project, config, profiles)          nothing is called
    with book.begin(client, project, start=..., terms=...) as run:
        run.intend(step, on_ack)                            on_ack(Intent) when the server has it
        run.guard()                                         directly before every request of a step
        run.outcome(n, "ok", ms)
        run.close("ok")

Touches the world, but for `read` and `genesis`.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from ic import errors, names
from ic.journal import events, fold, lease, lines, pages, redact, wal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.resources import kind

Journal = pages.Journal
Start = pages.Start
read = pages.read
genesis = pages.genesis

FOLD_TRIES = 8


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """An intent that the server has: its number, and the stamp for the request's body (GENERATION/NUMBER)."""

    n: int
    stamp: str


def start(
    command: str,
    *,
    version: str,
    build: str = "",
    desired: str = "",
    clock: lease.Clock | None = None,
) -> Start:
    """How this process begins a run now: who, where, with what."""
    run = os.urandom(4).hex()
    me = lease.identity(command=command, run=run)
    return Start(
        run=run,
        command=command,
        actor=me.actor,
        machine=me.machine,
        boot=me.boot,
        version=version,
        build=build,
        desired=desired,
        time=int((clock or lease.SystemClock()).wall() * 1000),
    )


def _quiet(_: str) -> None:
    """Say nothing."""


def begin(
    client: lease.Server,
    project: str,
    start: Start,
    *,
    lock_timeout: float = 10.0,
    say: Callable[[str], None] = _quiet,
    clock: lease.Clock | None = None,
    times: lease.Times | None = None,
    force: int | None = None,
    on_lost: Callable[[], None] | None = None,
) -> Run:
    """Take the lease (waiting for it as long as `lock_timeout` s allow) and read the journal under it.

    `force` takes the lease of exactly that generation (`ic unlock`).
    `on_lost` is called once, from another thread, when the run can write nothing any more.

    Raises Locked; Corrupt, Rollback or NewerVersion when the journal may not be written to; Full when there
    is no room; IncusError. The lease is given back before.
    """
    clock = clock or lease.SystemClock()
    times = times or lease.Times()
    holder = msgspec.structs.replace(
        lease.identity(command=start.command, run=start.run, since=int(clock.wall() * 1000)),
        actor=start.actor,
    )
    terms = lease.Terms(
        holder=holder,
        nonce=lambda: os.urandom(4).hex(),
        say=say,
        lock_timeout=lock_timeout,
        clock=clock,
        times=times,
        force=force,
    )
    taken = lease.acquire(client, project, terms)
    run = Run(client, taken, start, clock=clock, times=times, on_lost=on_lost)
    try:
        run.enter()
    except errors.IcError:
        run.leave()
        raise
    run.write_along()
    return run


class Run:
    """A run under its lease. Numbers, state and lines belong to the thread that decides.

    `guard`, `confirm_delete` and `lost` may be used from pool threads.
    """

    def __init__(
        self,
        client: lease.Server,
        taken: lease.Lease,
        start: Start,
        *,
        clock: lease.Clock,
        times: lease.Times,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._lease = taken
        self._start = start
        self._clock = clock
        self._times = times
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._begun = False
        self._private: dict[int, tuple[str, ...]] = {}
        self._log: list[pages.Line] = []
        self._chain = ""
        self._state = fold.State()
        self._writer: wal.Writer | None = None
        self.journal = pages.Journal(project=taken.project)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._writer is None:
            return
        if error is None:
            self.close("ok")
        elif isinstance(error, errors.Interrupted | KeyboardInterrupt):
            self.close("interrupted")
        else:
            self.close("failed")

    # --- entering and leaving ---

    def enter(self) -> None:
        """Read the journal afresh, under the lease. Raises what `begin` raises."""
        project = self._lease.project
        config = self._project()[0]
        self.journal = pages.read(project, config, self._lease.profiles)
        require_writable(self.journal, config)
        self._log = list(self.journal.lines)
        self._chain = self.journal.recorded.chain
        self._state = self.journal.folding()
        confirmed = max(self.journal.folded, self.journal.stored)
        held = pages.read_lines(self._lease.config.get(names.WAL, ""))
        self._writer = wal.Writer(
            self._client,
            self._lease,
            kept=[line for line in held if line.n > confirmed],
            head=config[names.HEAD],
            tip=pages.Tip(self._state.sequence, self._chain),
            folded=self.journal.folded,
            clock=self._clock,
            times=self._times,
            fold_in=self._fold_in,
            on_lost=self._lost,
        )
        stolen = self._lease.stolen
        if stolen is not None:
            self._append(
                lambda n, t: events.Steal(
                    n=n,
                    t=t,
                    generation=self.generation,
                    of=stolen.generation,
                    holder=stolen.holder.actor,
                    reason=stolen.reason,
                    actor=self._start.actor,
                )
            )

    def write_along(self) -> None:
        """Let a thread write what is queued from now on; without it the caller flushes (tests do)."""
        self._open.begin()

    def leave(self) -> None:
        """Give the lease back without writing anything else: nothing was begun."""
        try:
            self._client.send(
                "PATCH",
                self._lease.path,
                {"project": self._lease.project},
                {"config": {names.HOLD: lease.FREE}},
                timeout=self._times.timeout,
            )
        except errors.IncusError:
            # Whoever comes next sees that this process is gone, or waits for a while.
            return

    def _lost(self) -> None:
        if self._on_lost is not None:
            self._on_lost()

    @property
    def _project_path(self) -> str:
        return f"/1.0/projects/{quote(self._lease.project)}"

    def _project(self) -> tuple[dict[str, str], str, str]:
        """The project as it is now: config, description, ETag."""
        reply = lease.look(
            self._client, self._project_path, {}, clock=self._clock, times=self._times
        )
        body = reply.metadata
        return dict(body.get("config") or {}), str(body.get("description") or ""), reply.etag

    # --- what the thread that decides does ---

    @property
    def id(self) -> str:
        """The run's id, 8 hex digits."""
        return self._start.run

    @property
    def lineage(self) -> str:
        """The journal's lineage: the mark on every resource."""
        return self.journal.lineage

    @property
    def generation(self) -> int:
        """The lease's generation."""
        return self._lease.generation

    @property
    def key(self) -> bytes:
        """The digest key."""
        return self.journal.key

    @property
    def recorded(self) -> fold.Recorded:
        """The last applied state as of now, this run's outcomes included."""
        with self._lock:
            return msgspec.structs.replace(
                self.journal.recorded,
                generation=self.generation,
                sequence=self._state.sequence,
                chain=self._chain,
                resources=dict(self._state.resources),
                doubts=self._state.doubts(),
            )

    @property
    def lost(self) -> threading.Event:
        """Set when nothing can be written any more."""
        return self._open.lost

    @property
    def _open(self) -> wal.Writer:
        if self._writer is None:
            raise errors.JournalError(
                "cannot write the journal: the run is closed", code="E_INTERNAL"
            )
        return self._writer

    def intend(self, step: kind.Step, on_ack: Callable[[Intent], None]) -> int:
        """Queue a step's intent; its number. `on_ack` comes from the writing thread once the server has it.

        Raises Fenced (or what else ended the run); then nothing was queued.
        """
        written = redact.effect(step.record, self.key)
        stamped: list[Intent] = []
        n = self._append(
            lambda n, t: events.Intent(
                n=n,
                t=t,
                kind=step.event,
                address=step.address,
                digest=redact.body(written, self.key),
                effect=written,
            ),
            lambda: on_ack(stamped[0]),
            before=lambda n: stamped.append(Intent(n=n, stamp=f"{self.generation}/{n}")),
        )
        self._private[n] = redact.private_values(step.record)
        return n

    def outcome(
        self,
        n: int,
        status: events.Status,
        ms: int | None = None,
        error: str | None = None,
        result: Mapping[str, object] | None = None,
    ) -> None:
        """Queue how an intent ended. A result that is not known gets no outcome: the next run looks.

        `error` is a code and a sentence; private values of the step are taken out of it. `result` are
        public facts that become part of what is recorded (an image's fingerprint).
        """
        code, _, sentence = (error or "").partition(" ")
        if not code.startswith("E_"):
            code, sentence = "", error or ""
        secrets = self._private.pop(n, ())
        self._append(
            lambda number, t: events.Outcome(
                n=number,
                t=t,
                intent=n,
                status=status,
                ms=ms,
                error=code,
                text=redact.message(sentence, secrets),
                result=redact.as_read(dict(result or {})),
            )
        )

    def recover(self, verdicts: tuple[fold.Verdict, ...]) -> None:
        """Queue what became of steps in doubt: one `recover`, then an outcome each."""
        numbers = tuple(verdict.n for verdict in verdicts)
        self._append(lambda n, t: events.Recover(n=n, t=t, run=self.id, intents=numbers))
        for verdict in verdicts:
            self._append(
                lambda n, t, verdict=verdict: events.Outcome(
                    n=n,
                    t=t,
                    intent=verdict.n,
                    status=verdict.status,
                    text=redact.message(verdict.reason),
                )
            )

    def _append(
        self,
        make: Callable[[int, int], events.AnyEvent],
        acknowledge: Callable[[], None] | None = None,
        before: Callable[[int], None] | None = None,
    ) -> int:
        """Number an event, take it into the state and queue its line. The run's own line comes first."""
        writer = self._open
        writer.check()
        with self._lock:
            time = int(self._clock.wall() * 1000) + self._lease.skew
            if not self._begun:
                self._begun = True
                first = pages.run_line(
                    self._start,
                    n=self._state.sequence + 1,
                    time=time,
                    generation=self.generation,
                    chain=self._chain,
                )
                self._queue(writer, first, None)
                self._hear(writer)
            event = make(self._state.sequence + 1, time)
            if before is not None:
                before(event.n)
            self._queue(writer, event, acknowledge)
            return event.n

    def _hear(self, writer: wal.Writer) -> None:
        """Copy what the health daemon has told since the last run: its stream is a ring."""
        for told in self.journal.telling():
            line = msgspec.structs.replace(told, n=self._state.sequence + 1, stream=told.n)
            self._queue(writer, line, None)

    def _queue(
        self, writer: wal.Writer, event: events.AnyEvent, acknowledge: Callable[[], None] | None
    ) -> None:
        raw = events.encode(event)
        line = pages.Line(event.n, event.n, raw)
        self._state.apply(event)
        self._chain = lines.after(self._chain, raw)
        self._log.append(line)
        writer.put(line, self._chain, acknowledge)

    # --- guarding ---

    def guard(self) -> None:
        """Raise Fenced when this run may not act any more. No request: call it before every one of them."""
        self._open.guard()

    def confirm_delete(self) -> None:
        """Look at the run object itself before something is deleted: a deletion cannot be fenced by ETag."""
        self._open.confirm()

    # --- the end ---

    def close(self, status: events.RunStatus) -> tuple[errors.Diagnostic, ...]:
        """Write the end, fold everything into the project's config, give the lease back.

        A run that wrote nothing leaves no trace, unless it has founded the journal. Warnings say what could
        not be folded (it stays where it is, nothing is lost). Raises Fenced and IncusError; the run is closed
        all the same.
        """
        writer = self._open
        try:
            if self._begun or self._has_founded():
                digest = self._state.digest()
                self._append(
                    lambda n, t: events.End(n=n, t=t, run=self.id, status=status, state=digest)
                )
            writer.stop()
            writer.check()
            if self._begun:
                writer.flush()
            return self._put_away(writer)
        finally:
            writer.stop()
            self._writer = None

    def _has_founded(self) -> bool:
        """Whether the project was made by this very run, and another one was faster to do all the rest."""
        mine = f'"r":"{self.id}"'.encode()
        return any(mine in line.raw for line in self.journal.lines)

    def _put_away(self, writer: wal.Writer) -> tuple[errors.Diagnostic, ...]:
        """Fold what is not folded and release; what cannot be folded stays in profiles."""
        warnings: list[errors.Diagnostic] = []
        head = ""
        if writer.folded < self._state.sequence:
            try:
                head = self._fold_in(self._state.sequence)
            except errors.Forbidden:
                self._overflow(writer)
            except (errors.JournalError, errors.IncusError) as error:
                warnings.append(
                    errors.Diagnostic(
                        severity="warning",
                        code=error.code,
                        summary=f"the journal stays in profile {self._lease.name}: {error.summary}",
                        hint="the next run folds it into the project",
                    )
                )
        writer.release(head)
        older = [*self._lease.older]
        if self.journal.stored <= self.journal.folded:
            older.extend(self.journal.overflow)
        lease.remove(self._client, self._lease.project, older, self._times.timeout)
        return tuple(warnings)

    def _fold_in(self, last: int) -> str:
        """Bring all lines up to `last` into the project's config; the new head's text.

        If-Match alone does not hold on a project (two transactions on the server), so what was written is
        read back and compared, and written again where it is not there. Called by the one thread that writes.
        """
        with self._lock:
            log = tuple(line for line in self._log if line.last <= last)
            state = self._state.copy() if self._state.sequence == last else None
        if state is None:
            state = fold.State() if self.journal.base is None else fold.restore(self.journal.base)
            first = state.sequence
            fold.fold((events.decode(line.raw) for line in log if line.last > first), state)
        packed: dict[str, str] | None = None
        failure: errors.IcError = errors.JournalError(
            "cannot fold the journal into the project: somebody else writes the project all the time"
        )
        for attempt in range(FOLD_TRIES):
            config, description, etag = self._project()
            if packed is not None and pages.holds(config, packed):
                break
            packed = pages.pack(
                config,
                log,
                state,
                lineage=self.lineage,
                generation=self.generation,
                described=description,
            )
            if pages.holds(config, packed):
                break
            try:
                self._client.send(
                    "PUT",
                    self._project_path,
                    None,
                    {"config": packed, "description": description},
                    etag=etag,
                    timeout=self._times.timeout,
                )
            except (errors.Forbidden, errors.NotFound):
                raise
            except errors.PreconditionFailed:
                continue
            except errors.IncusError as error:
                # Whether it was done shows when the project is read again.
                failure = error
                self._clock.sleep(min(0.2 * 2**attempt, 3.0))
        else:
            raise failure
        return packed[names.HEAD]

    def _overflow(self, writer: wal.Writer) -> None:
        """Keep what may not go into the project in a profile of its own, once it is much."""
        unfolded = writer.unfolded
        if sum(len(line.raw) for line in unfolded) < pages.OVERFLOW_FROM:
            return
        name = pages.overflow_name(self._lease.project, unfolded[0].n)
        body = {
            "name": name,
            "description": "ic: journal of this stack that is not in its project yet; leave it alone",
            "config": pages.overflowed(unfolded),
            "devices": {},
        }
        query = {"project": self._lease.project}
        try:
            self._client.send("POST", "/1.0/profiles", query, body, timeout=self._times.timeout)
        except errors.IncusError:
            # It stays in the run object; the next run tries again.
            return


def require_writable(journal: Journal, config: Mapping[str, str]) -> None:
    """Raise what keeps a journal from being written: NewerVersion, Rollback, Corrupt or Full.

    Commands that are about to change something ask this before they plan; `begin` asks it again. The hint
    of a damaged journal is a sequence of commands that works as it stands.
    """
    if journal.state == "ok":
        pages.require_room(journal, config)
        return
    if journal.state == "newer":
        raise errors.NewerVersion(
            "cannot write the journal: it was written by a newer ic",
            details=journal.problems,
            hint="use that ic; reading works with this one",
        )
    commands = pages.mend(journal, config)
    if journal.state in ("rollback", "none"):
        which: type[errors.JournalError] = errors.Rollback
        reason = "the project's part of it is missing or older than what ran last"
    else:
        which, reason = errors.Corrupt, "it is damaged"
    raise which(
        f"cannot write the journal: {reason}",
        details=journal.problems,
        hint="\n".join(
            (
                "put the damaged part aside, then apply again; what runs is adopted, volumes stay:",
                *(f"  {command}" for command in commands),
                "  ic apply",
            )
        )
        if commands
        else "ic history shows what can still be read",
    )
