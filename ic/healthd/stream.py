"""What the daemon tells, written into a profile of its own: `ic history` reads it there.

In: transitions and actions, from any thread, at any time. Out: lines (`ic.journal.events.Health`) in the ring
of the health stream, at most one write a second. The profile has a lease like the run object's, with
longer times: a second daemon stands by with its lines until the first is gone. What is told is never worth
a restart or a probe: when nothing can be written it waits here, bounded, and what does not fit is counted.
A run of ic copies the lines into the journal (docs/journal-format.md).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from ic import errors, names
from ic.journal import events, lease, lines, pages

#: Heartbeat + timeout <= fence, and the time to live well beyond it: two daemons do no harm meanwhile.
TIMES = lease.Times(
    ttl=180.0, heartbeat=60.0, timeout=8.0, fence=120.0, settle=5.0, poll=30.0, linger=1.0
)
RING = 56 * 1024  # bytes of lines that are kept in the profile
WAITING = 1000  # lines that wait for a write at most
AGAIN = 5.0  # seconds until a server that did not answer is asked again


class About(msgspec.Struct, frozen=True, kw_only=True):
    """Whose lines these are: the project, an id of this life, version and build; and how it tells the time.

    `place` stands for the machine: a project has one sidecar, so of two starts in one place the older one
    is gone. `say` writes one line of the log.
    """

    project: str
    run: str
    place: str = "sidecar"
    say: Callable[[str, dict[str, Any]], None]
    version: str = ""
    build: str = ""
    clock: lease.Clock
    times: lease.Times = TIMES


class Writer:
    """The writer of one life's lines: `tell` at any time, `begin` when there is trust, `end` at the end."""

    def __init__(self, about: About) -> None:
        self._about = about
        self._queue = _Queue()
        self._session: _Session | None = None
        begun = self._event(
            "run",
            actor=f"{os.getuid()}@{os.uname().nodename}",
            version=about.version,
            build=about.build,
        )
        self._queue.put(begun)

    def tell(
        self,
        kind: str,
        address: str = "",
        *,
        cause: str = "",
        code: int | None = None,
        line: str = "",
    ) -> None:
        """Something happened; never blocks. `kind` is one word, `line` the last one of a probe."""
        event = self._event(kind, address=address, cause=cause, code=code, line=line)
        if not self._queue.put(event):
            self._queue.lose(lambda n: self._event("gap", cause=f"{n} lines could not be written"))

    def _event(self, kind: str, **fields: Any) -> events.Health:
        now = int(self._about.clock.wall() * 1000)
        kind = f"{events.HEALTH}{kind}"
        return events.Health(n=0, t=now, kind=kind, run=self._about.run, **fields)

    @property
    def refused(self) -> bool:
        """Whether the server has said no since `begin`."""
        return self._session is not None and self._session.refused

    def begin(self, client: lease.Server) -> None:
        """Write along, by a thread, until `pause` or `end`."""
        self._session = _Session(self._about, self._queue, client)
        self._session.thread.start()

    def pause(self, seconds: float) -> None:
        """Write nothing more for now: there is no trust. What is told waits."""
        self._leave(seconds, final=False)

    def end(self, seconds: float) -> None:
        """Write what waits and the end, give the lease back; left undone after so many seconds."""
        self._queue.put(self._event("end"), always=True)
        self._leave(seconds, final=True)

    def _leave(self, seconds: float, *, final: bool) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.final = final
            session.clock.broken.set()
            self._queue.wake()
            session.thread.join(seconds)


class _Queue:
    """Lines that wait to be written: many threads put, one takes."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._waiting: deque[events.Health] = deque()
        self._lost = 0
        self._gap: Callable[[int], events.Health] | None = None

    def put(self, event: events.Health, *, always: bool = False) -> bool:
        """Queue a line; False when there is no room."""
        with self._news:
            if len(self._waiting) >= WAITING and not always:
                return False
            self._waiting.append(event)
            self._news.notify()
        return True

    def lose(self, gap: Callable[[int], events.Health]) -> None:
        """Count a line that found no room; `gap` makes the line that says how many there were."""
        with self._news:
            self._lost += 1
            self._gap = gap

    def waiting(self) -> list[events.Health]:
        """All that waits; it stays until it is `written`."""
        with self._news:
            if self._gap is not None and len(self._waiting) < WAITING:
                self._waiting.append(self._gap(self._lost))
                self._lost, self._gap = 0, None
            return list(self._waiting)

    def written(self, count: int) -> None:
        """The first so many need not wait any more."""
        with self._news:
            for _ in range(count):
                self._waiting.popleft()

    def wake(self) -> None:
        """End a `wait`."""
        with self._news:
            self._news.notify_all()

    def wait(self, seconds: float, broken: threading.Event) -> None:
        """Wait for news, for the end, or for so many seconds."""
        with self._news:
            if not self._waiting and not broken.is_set():
                self._news.wait(seconds)


class _Breakable:
    """A clock whose sleeps end, with Interrupted, when writing along is over."""

    def __init__(self, real: lease.Clock) -> None:
        self._real = real
        self.broken = threading.Event()

    def boottime(self) -> float:
        """Seconds that count suspend as well."""
        return self._real.boottime()

    def wall(self) -> float:
        """The time of day."""
        return self._real.wall()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Interrupted when it is over."""
        if self.broken.wait(seconds):
            raise errors.Interrupted("cannot write the health stream: the daemon ends")


class _Session:
    """Writing along for as long as there is trust: a thread, and the lease that it takes."""

    def __init__(self, about: About, queue: _Queue, client: lease.Server) -> None:
        self.final = False
        self.refused = False
        self.clock = _Breakable(about.clock)
        self.thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._about = about
        self._queue = queue
        self._client = client
        self._fenced = False

    def _run(self) -> None:
        times = self._about.times
        while not self.clock.broken.is_set():
            try:
                self._hold(self._take())
            except errors.Interrupted:
                return
            except errors.Forbidden as error:
                self.refused = True
                self._about.say("stream", {"error": error.summary})
                return
            except errors.NotFound:
                self._fenced = True
                self._about.say("stream", {"standby": "another daemon writes it"})
            except errors.IcError as error:
                self._about.say("stream", {"error": error.summary})
            self.clock.broken.wait(min(AGAIN, times.poll))

    # --- the lease ---

    def _take(self) -> lease.Lease:
        """Take the lease, waiting for as long as another has it. Raises Interrupted at the end."""
        terms = lease.Terms(
            holder=self._holder(),
            nonce=lambda: os.urandom(4).hex(),
            say=lambda text: self._about.say("stream", {"standby": text}),
            lock_timeout=float("inf"),
            clock=self.clock,
            times=self._about.times,
            tick=_tick,
            stem=lease.HEALTH_STEM,
        )
        return lease.acquire(self._client, self._about.project, terms)

    def _holder(self) -> lease.Holder:
        """This daemon as a holder. Containers have no machine-id, but each start has a boot id of its own.

        Who was fenced has met a second one that lives: from then on silence alone decides.
        """
        now = int(self.clock.wall() * 1000)
        found = lease.identity(command="healthd", run=self._about.run, since=now)
        machine = "" if self._fenced else names.short_hash(self._about.place)
        return msgspec.structs.replace(found, machine=machine)

    # --- writing ---

    def _hold(self, taken: lease.Lease) -> None:
        """Write until the end. Raises NotFound when the lease was lost, and what `insist` raises."""
        ring = lines.split(taken.config.get(names.EVENT, ""))
        told = self._head().streams.get(pages.HEALTH_STREAM, 0)
        last = max([told, *_numbers(ring)])
        top = lease.RunObject(name=taken.name, generation=0, nonce="", config=taken.config)
        beat = top.beat
        lease.remove(self._client, self._about.project, taken.older, self._about.times.timeout)
        while True:
            over = self.clock.broken.is_set()
            if over and not self.final:
                return
            fresh = self._fresh(last)
            beat += 1
            written = {names.HEARTBEAT: str(beat)}
            if fresh:
                ring = _kept([*ring, *fresh])
                written[names.EVENT] = lines.joined(ring)
            if over:
                written[names.HOLD] = lease.FREE
            self._patch(taken, written)
            last += len(fresh)
            self._queue.written(len(fresh))
            if over:
                return
            self._queue.wait(self._about.times.heartbeat, self.clock.broken)
            self.clock.broken.wait(self._about.times.linger)  # what belongs together comes together

    def _fresh(self, last: int) -> list[bytes]:
        """The lines that wait, numbered after `last`, with how far the journal is now."""
        told = self._queue.waiting()
        if not told:
            return []
        head = self._head()
        return [
            events.encode(
                msgspec.structs.replace(
                    event, n=number, generation=head.generation, seen=head.sequence
                )
            )
            for number, event in enumerate(told, last + 1)
        ]

    def _patch(self, taken: lease.Lease, config: dict[str, str]) -> None:
        times = self._about.times
        lease.insist(
            self._client,
            "PATCH",
            taken.path,
            {"project": self._about.project},
            {"config": config},
            until=self.clock.boottime() + times.fence,
            clock=self.clock,
            times=times,
        )

    def _head(self) -> events.Head:
        """How far the journal is; an empty head in a project that ic did not make."""
        path = f"/1.0/projects/{quote(self._about.project, safe='')}"
        times = self._about.times
        found = lease.look(self._client, path, {}, clock=self.clock, times=times).metadata
        head = pages.head_of(found.get("config") or {})
        return head or events.Head(lineage="", chain="")


def _tick(pid: int) -> int | None:
    """When a process began. A lease that this very process holds (an answer was lost) may be taken again."""
    return None if pid == os.getpid() else lease.tick_of(pid)


def _numbers(ring: list[bytes]) -> list[int]:
    """The numbers of a ring's lines; one that cannot be read has none."""
    return [number for raw in ring for number in _number(raw)]


def _number(raw: bytes) -> tuple[int, ...]:
    try:
        return (events.number_of(raw),)
    except ValueError:
        return ()


def _kept(ring: list[bytes]) -> list[bytes]:
    """The newest lines that fit."""
    size = 0
    for count, raw in enumerate(reversed(ring)):
        size += len(raw) + 1
        if size > RING:
            return ring[len(ring) - count :]
    return ring
