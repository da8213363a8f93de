"""The write-ahead part: lines into the run object, one request for all that gathered meanwhile.

In: encoded lines with their numbers, from the thread that decides; out: acknowledgements. One thread of the
process writes the run object, because a profile has no compare-and-swap of its own; its *name* is what
fences: a write to a name that is gone is answered 404, and then this run is over. Every write raises the
heartbeat; without lines to write one is made every `heartbeat` seconds.

Touches the world.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.journal import lease, lines, pages

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Unfolded bytes after which the project is written in the middle of a run.
FOLD_BYTES = 256 * 1024


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    line: pages.Line
    chain: str
    acknowledge: Callable[[], None] | None = None


class Writer:
    """Writes the run object of a held lease. `put` and `guard` may be called from any thread.

    `kept` are lines that were there when the lease was taken and must stay; `fold_in` brings all lines up to
    a number into the project and returns the head's text. `lost` is set when nothing can be written any
    more; `failure` says why.
    """

    def __init__(
        self,
        client: lease.Server,
        taken: lease.Lease,
        *,
        kept: Iterable[pages.Line],
        head: str,
        tip: pages.Tip,
        folded: int,
        clock: lease.Clock,
        times: lease.Times,
        fold_in: Callable[[int], str],
        on_lost: Callable[[], None],
    ) -> None:
        self._client = client
        self._lease = taken
        self._clock = clock
        self._times = times
        self._fold_in = fold_in
        self._on_lost = on_lost
        self._lines = list(kept)
        self._pending: list[_Pending] = []
        self._head = head
        self._tip = tip
        self._folded = folded
        self._folded_at = clock.boottime()
        beat = taken.config.get(names.HEARTBEAT, "0")
        self._beat = int(beat) if beat.isdecimal() else 0
        self._urgent = False
        self._due: float | None = None
        self._may_fold = True
        self._closing = False
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self.acknowledged = taken.acknowledged
        self.lost = threading.Event()
        self.failure: errors.IcError | None = None

    # --- called by the thread that decides, and by pool threads ---

    def begin(self) -> None:
        """Start the writing thread (and with it the heartbeat)."""
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        self._thread.start()

    def put(
        self, line: pages.Line, chain: str, acknowledge: Callable[[], None] | None = None
    ) -> None:
        """Queue a line. One with `acknowledge` is written at once; others travel with it or within a second.

        `acknowledge` is called from the writing thread once the server has the line.
        """
        with self._wake:
            self.check()
            self._pending.append(_Pending(line=line, chain=chain, acknowledge=acknowledge))
            if acknowledge is not None:
                self._urgent = True
                self._wake.notify()
            elif self._due is None:
                self._due = self._clock.boottime() + self._times.linger
                self._wake.notify()

    def check(self) -> None:
        """Raise what ended this run, if anything did."""
        if self.failure is not None:
            raise self.failure

    def guard(self) -> None:
        """Raise Fenced when the lease is too old to act under (no acknowledgement for `fence` s)."""
        self.check()
        age = self._clock.boottime() - self.acknowledged
        if age >= self._times.fence:
            raise errors.Fenced(
                f"cannot go on: the stack's lease was not renewed for {age:.0f} s",
                hint="run the same command again: it goes on from what is done",
            )

    def confirm(self) -> None:
        """Look whether the run object still has our name; raise Fenced when it has not."""
        self.guard()
        try:
            lease.look(
                self._client, self._lease.path, self._query, clock=self._clock, times=self._times
            )
        except errors.NotFound:
            self._lose(self._fenced())
            self.check()

    # --- the writing thread ---

    @property
    def _query(self) -> dict[str, str]:
        return {"project": self._lease.project}

    def _fenced(self) -> errors.Fenced:
        return errors.Fenced(
            f"cannot go on: another ic took over the stack's lease (ours was generation "
            f"{self._lease.generation})",
            hint="ic history shows who; run the same command again when it is done",
        )

    def _lose(self, failure: errors.IcError) -> None:
        with self._wake:
            if self.failure is None:
                self.failure = failure
            self.lost.set()
        self._on_lost()

    def _next(self) -> float:
        """When the next write is due if nothing urgent comes."""
        beat = self.acknowledged + self._times.heartbeat
        return beat if self._due is None else min(beat, self._due)

    def _loop(self) -> None:
        try:
            while self._wait():
                self.flush()
                if self._fold_due():
                    self.fold()
        except errors.IcError as error:
            self._lose(error)
        finally:
            if not self._closing and self.failure is None:
                # A mistake in ic itself: whoever waits for an acknowledgement must hear of it.
                self._lose(
                    errors.JournalError(
                        "cannot write the journal: its thread ended", code="E_INTERNAL"
                    )
                )

    def _wait(self) -> bool:
        """Wait until something is to be written; false when the run is being closed."""
        with self._wake:
            while not self._closing and not self._urgent:
                wait = self._next() - self._clock.boottime()
                if wait <= 0:
                    break
                self._wake.wait(wait)
            return not self._closing

    def flush(self) -> None:
        """Write all that is queued in one request, then acknowledge. With nothing queued: a heartbeat."""
        with self._wake:
            batch, self._pending = self._pending, []
            self._urgent = False
            self._due = None
        if batch:
            self._lines.extend(one.line for one in batch)
            self._tip = pages.Tip(batch[-1].line.last, batch[-1].chain)
        self._write(lease.encode_holder(self._lease.holder))
        for one in batch:
            if one.acknowledge is not None:
                one.acknowledge()

    def _fold_due(self) -> bool:
        unfolded = sum(len(line.raw) for line in self._lines if line.n > self._folded)
        if not unfolded or not self._may_fold:
            return False
        old = self._clock.boottime() - self._folded_at >= self._times.fold_every
        return unfolded > FOLD_BYTES or old

    def fold(self) -> None:
        """Bring everything that is written into the project.

        Its lines stay in the run object until a later holder has read them back. Only a run that writes more
        than a request can hold drops those that were in the project already before this fold.
        """
        before = self._folded
        try:
            self._head = self._fold_in(self._tip.n)
        except errors.Forbidden:
            # A restricted operator: the lines stay where they are, for somebody who may.
            self._may_fold = False
            return
        except errors.JournalError:
            self.confirm()  # whoever took over may have folded already: then that is the reason
            raise
        self._folded = self._tip.n
        self._folded_at = self._clock.boottime()
        if sum(len(line.raw) for line in self._lines) > 2 * FOLD_BYTES:
            self._lines = [line for line in self._lines if line.n > before]

    def _write(self, hold: str) -> None:
        """Write the run object, trying until the lease is too old. Raises Fenced, Full, IncusError."""
        self._beat += 1
        body = {
            "description": lease.DESCRIPTION,
            "devices": {},
            "config": {
                names.HOLD: hold,
                names.GENERATION: str(self._lease.generation),
                names.HEARTBEAT: str(self._beat),
                names.HEAD: self._head,
                names.TIP: msgspec.json.encode(self._tip).decode(),
                names.WAL: lines.joined(line.raw for line in self._lines),
            },
        }
        if len(msgspec.json.encode(body)) > pages.REQUEST:
            raise errors.Full(
                "cannot write the journal: this run has more to say than one request can hold",
                hint="run the same command again: it goes on from what is done",
            )
        try:
            _, self.acknowledged = lease.insist(
                self._client,
                "PUT",
                self._lease.path,
                self._query,
                body,
                until=self.acknowledged + self._times.fence,
                clock=self._clock,
                times=self._times,
            )
        except errors.NotFound as error:
            raise self._fenced() from error

    # --- the end ---

    def stop(self) -> None:
        """End the writing thread; from now on the caller is the one who writes."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def release(self, head: str) -> None:
        """Give the lease back: everything stays as it is, the holder becomes `free`."""
        self._head = head or self._head
        self._write(lease.FREE)

    @property
    def folded(self) -> int:
        """The last line that is in the project."""
        return self._folded

    @property
    def unfolded(self) -> tuple[pages.Line, ...]:
        """The lines that are not in the project yet."""
        return tuple(line for line in self._lines if line.n > self._folded)
