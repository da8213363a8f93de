"""Watches the instances of one project: one thread decides, a few carry out.

In: the server (`Api`), a way to run a probe and one to tell of things. Out: probes on time, restarts, status
keys; `view` and `figures` for whoever looks. The thread that calls `run` owns every state, keeps what is due
in a heap, and makes no call itself: lanes of threads run one job each and put its answer into the inbox.
Each instance has at most one probe, one action, one write and one look under way, which bounds every queue;
events that come faster than they are read are dropped for a full listing.

What a verdict means is decided in `worker`, when a restart has to wait in `storm`. Nothing but a refusal (a
403, or a server with another certificate) ends `run` by itself: that is raised, after all work has stopped.
"""

from __future__ import annotations

import contextlib
import heapq
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote, urlsplit

import msgspec

from ic import errors, names, units
from ic.healthd import acting, daemon, inbox, probes, spec, storm, watched, worker
from ic.incus import transport

if TYPE_CHECKING:
    from ic.healthd import calls

Body = dict[str, Any]
Probing = Callable[[probes.Order, threading.Event], probes.Result]
"""Runs one probe to its end; kills it when the event is set."""

PROBES = (
    8  # at one time: throughput peaks at 4 on two cores, and latency suffers from 16 on [measured]
)
RESTARTS = 4  # health restarts wait for a grace period each, in a lane of their own
CALLS = 2
STARTS = 16  # of a crowd that ends together: with 4 at once the tenth waits a second, and none runs sooner
LIST_MS = 300_000
RELIST_MS = 1_000  # after one in vain
HOLD_LOOK_MS = 5_000
HOLD_STALE_MS = (
    30_000  # a run whose heartbeat stands still for so long has fenced itself (lease.Times)
)
ECHO_MS = 5_000  # so long after a slow answer a timeout may be the server's
GAP_MS = 5_000  # the loop turns several times a second: it was stopped, or the machine slept
TURN_S = 0.25
EVENT_S = 0.3
INBOX_EVENTS = 10_000
RECONNECT_S = (0.5, 10.0)
PROFILES_MS = 5_000
PEERS = 8
LATE_MS = 1_000.0  # probes that begin so late on average are an overload
ON_TIME_MS = 250.0
LATE_BOUNDS_MS = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 5000.0, float("inf"))
LEAVING_S = 1.2

_STATUS: dict[str, worker.Status] = {
    word: word for word in ("starting", "healthy", "unhealthy", "stopped", "unknown")
}
_NEVER = "0001-01-01"
_STARTS = ("instance-started", "instance-restarted")
_ENDS = ("instance-shutdown", "instance-stopped")
_CHANGES = ("instance-created", "instance-renamed", "instance-updated")
_ACTIONS = frozenset(
    (*_STARTS, *_ENDS, *_CHANGES, "instance-paused", "instance-resumed", "instance-deleted")
) | {"profile-updated"}


class Tell(Protocol):
    """Takes what the history shall know; never blocks (`ic.healthd.stream.Writer.tell`)."""

    def __call__(
        self,
        kind: str,
        address: str = "",
        *,
        cause: str = "",
        code: int | None = None,
        line: str = "",
    ) -> None: ...


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a round: whose it is, what came of it, and what is wrong with the instance's keys."""

    name: str
    result: probes.Result | None = None
    problems: tuple[spec.Problem, ...] = ()


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start. `late_ms` is the sum over all probes."""

    probes: dict[str, int]
    acts: dict[str, int]
    writes: int
    listings: int
    late_ms: float
    late: dict[
        float, int
    ]  # how many probes began so many ms late at most, and not below the bound before
    states: dict[str, tuple[str, str, int]]  # name -> power, status, restarts
    brown_out: str


def _boottime_ms() -> int:
    """A clock that counts suspended time as well and is never set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Manager:
    """The watch over one project. `run` on a thread of its own; `beat`, `view`, `figures` from any thread.

    `me` is the name under which the server knows this client (its certificate's fingerprint), empty when it
    is not known: then changes of power with a requestor are told apart by what was under way.
    """

    def __init__(
        self,
        api: calls.Api,
        probe: Probing,
        tell: Tell,
        *,
        me: str = "",
        clock: Callable[[], int] = _boottime_ms,
        wall: Callable[[], float] = time.time,
        chance: random.Random | None = None,
        weather: storm.Storm | None = None,
    ) -> None:
        self._api = api
        self._run_probe = probe
        self._tell = tell
        self._me = me
        # Other daemons, by what stands in their claims; the newest last.
        self._peers: list[str] = []
        self._clock = clock
        self._wall = wall
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrecy
        self._entries: dict[str, watched.Entry] = {}
        self._heap: list[tuple[int, int, str]] = []
        self._order = 0
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._probe_lane = inbox.Lane("probe", PROBES, self._inbox.put)
        self._start_lane = inbox.Lane("start", STARTS, self._inbox.put)
        self._restart_lane = inbox.Lane("restart", RESTARTS, self._inbox.put)
        self._call_lane = inbox.Lane("call", CALLS, self._inbox.put)
        self._storm = weather or storm.Storm()
        self._brown = ""
        self._latencies: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._slow_at = -(2**60)
        self._cancel = threading.Event()  # ends probes under way, and the reader
        self._renew = (
            threading.Event()
        )  # the event stream may be dead without knowing: open it anew
        self._doubt = False
        self._online = False
        self._connected_at = 0
        self._listing = False
        self._list_at: int | None = None
        self._reason = "not connected yet"
        self._holds: dict[
            str, tuple[str, int]
        ] = {}  # generation -> heartbeat, and since when it stands
        self._hold_at: int | None = None
        self._void: set[str] = set()
        self._acting = acting.Acting(
            api, self._say, me=me, wall=wall, cancel=self._cancel, void=self._void
        )
        self._turned = 0
        self._late = 0.0
        self._overload = False
        self._counts: dict[str, int] = {}
        self._acts: dict[str, int] = {}
        self._listings = 0
        self._late_sum = 0.0
        self._late_counts = dict.fromkeys(LATE_BOUNDS_MS, 0)
        self.beat = 0
        self._handlers: dict[type, Callable[[Any], None]] = {
            inbox.Fault: self._take_fault,
            inbox.Online: self._take_online,
            inbox.Offline: self._take_offline,
            inbox.Told: self._take_told,
            inbox.Listed: self._take_listed,
            inbox.Looked: self._take_looked,
            inbox.Answer: self._take_answer,
            inbox.Probe: self._take_probe,
            inbox.Held: self._take_held,
            type(None): self._take_nothing,
        }

    # --- from any thread -------------------------------------------------------------------------

    def view(self) -> daemon.View:
        """How it goes."""
        entries = list(self._entries.values())
        return daemon.View(
            watched=sum(entry.asked.watched for entry in entries),
            misconfigured=tuple(
                sorted(
                    f"{entry.name}: {key}" for entry in entries for key, _ in entry.asked.problems
                )
            ),
            connected=self._online,
            detail="" if self._online else self._reason,
        )

    def figures(self) -> Figures:
        """Counts, and how each watched instance stands."""
        return Figures(
            probes=dict(self._counts),
            acts=dict(self._acts),
            writes=self._acting.writes,
            listings=self._listings,
            late_ms=self._late_sum,
            late=dict(self._late_counts),
            states={
                entry.name: (entry.state.power, entry.state.status, entry.state.claim.restarts)
                for entry in list(self._entries.values())
                if entry.asked.watched
            },
            brown_out=self._brown,
        )

    # --- the loop --------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set. Raises Forbidden or Untrusted, when the server says no."""
        self._api.heard = self._latencies.put
        reader = threading.Thread(target=self._read_events, name="events", daemon=True)
        reader.start()
        self._turned = self._clock()
        try:
            while not stop.is_set():
                self._turn()
        finally:
            self._leave(reader)

    def _leave(self, reader: threading.Thread) -> None:
        """No new work; probes under way are killed, calls under way get a moment to end."""
        self._cancel.set()
        lanes = (self._probe_lane, self._start_lane, self._restart_lane, self._call_lane)
        for lane in lanes:
            lane.close()
        until = time.monotonic() + LEAVING_S
        for thread in (*(thread for lane in lanes for thread in lane.threads), reader):
            thread.join(max(0.0, until - time.monotonic()))

    def _turn(self) -> None:
        self.beat += 1
        timeout = TURN_S
        if self._heap and self._online:
            timeout = min(timeout, max(0.0, (self._heap[0][0] - self._clock()) / 1000))
        with contextlib.suppress(queue.Empty):
            self._take(self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait())
            for _ in range(100):
                self._take(self._inbox.get_nowait())
        now = self._clock()
        if now - self._turned > GAP_MS:
            self._gap(now)
        self._turned = now
        self._weather(now)
        if self._list_at is not None and now >= self._list_at:
            self._list(first=not self._online)
        if self._online:
            self._due(now)

    def _due(self, now: int) -> None:
        """Do everything whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            at, _, name = heapq.heappop(self._heap)
            entry = self._entries.get(name)
            if entry is None or entry.at != at:
                continue
            entry.at = None
            calm = not entry.state.want or self._storm.admits(
                entry.asked.interval_ms, self._watched(), now
            )
            self._step(entry, worker.Tick(calm=calm))
        if self._hold_at is not None and now >= self._hold_at:
            self._look_at_holds()

    def _watched(self) -> int:
        return sum(entry.asked.watched for entry in self._entries.values())

    def _gap(self, now: int) -> None:
        """The process or the machine stood still: what is overdue is spread anew."""
        for entry in self._entries.values():
            self._step(entry, worker.Gap())
        self._storm.connected(now)
        self._renew.set()

    def _weather(self, now: int) -> None:
        """Take in how fast the server answers, and say when a brown-out begins or ends."""
        with contextlib.suppress(queue.Empty):
            while True:
                latency = self._latencies.get_nowait()
                if self._storm.slow(latency):
                    self._slow_at = now
                self._storm.answered(latency)
        brown = self._storm.brown_out(now)
        if bool(brown) != bool(self._brown):
            self._tell("brown-out" if brown else "calm", cause=brown)
        self._brown = brown

    # --- messages --------------------------------------------------------------------------------

    def _take(self, message: Any) -> None:
        self._handlers[type(message)](message)

    def _take_fault(self, message: inbox.Fault) -> None:
        raise message.error

    def _take_online(self, message: inbox.Online) -> None:
        del message
        self._connected_at = self._clock()
        self._renew.clear()
        self._doubt = False
        for entry in self._entries.values():
            entry.own = 0
        self._list(first=True)

    def _take_offline(self, message: inbox.Offline) -> None:
        self._online = False
        self._list_at = None
        self._reason = message.reason

    def _take_told(self, message: inbox.Told) -> None:
        self._event(message.event)

    def _take_answer(self, message: inbox.Answer) -> None:
        self._doubt_of(failed=message.doubt)
        if isinstance(message.event, worker.Acted):
            self._storm.ended(message.name)
        entry = self._entries.get(message.name)
        if entry is not None:
            self._step(entry, message.event)

    def _doubt_of(self, *, failed: bool) -> None:
        """After the first call that works again the event stream is opened anew: it may have died too."""
        if failed:
            self._doubt = True
        elif self._doubt:
            self._doubt = False
            self._renew.set()

    # --- listings and looks ----------------------------------------------------------------------

    def _list(self, *, first: bool) -> None:
        self._list_at = None
        if self._listing and not first:
            return
        self._listing = True
        asked = self._clock()

        def job() -> inbox.Listed | inbox.Fault:
            try:
                return inbox.Listed(asked, first, self._api.instances())
            except errors.IncusError as error:
                return inbox.refusal(error) or inbox.Listed(asked, first, None)

        self._call_lane.put(job)

    def _take_listed(self, message: inbox.Listed) -> None:
        self._listing = False
        now = self._clock()
        if message.first and message.asked < self._connected_at:
            return  # of the connection before
        self._listings += 1
        if message.bodies is None:
            self._list_at = now + RELIST_MS
            return
        self._list_at = now + LIST_MS
        seen: set[str] = set()
        for body in message.bodies:
            name = str(body.get("name", ""))
            seen.add(name)
            entry = self._entries.get(name)
            if entry is not None and entry.touched > message.asked:
                self._look(entry)  # an event came meanwhile: the listing may be older
                continue
            self._body(name, body, fresh=message.first)
        for name in [name for name in self._entries if name not in seen]:
            if self._entries[name].touched <= message.asked:
                self._forget(name)
        if message.first:
            self._online = True
            self._storm.connected(now)
            for entry in self._entries.values():
                self._step(entry, worker.Gap())

    def _look(self, entry: watched.Entry) -> None:
        if entry.looking:
            entry.look_again = True
            return
        entry.looking = True
        self._call_lane.put(self._look_job(entry.name, entry.changed))

    def _look_job(self, name: str, changed: int) -> Callable[[], Any]:
        def job() -> inbox.Looked | inbox.Fault:
            try:
                return inbox.Looked(name, changed, self._api.instance(name)[0])
            except errors.NotFound:
                return inbox.Looked(name, changed, None)
            except errors.IncusError as error:
                doubt = inbox.doubtful(error)
                return inbox.refusal(error) or inbox.Looked(
                    name, changed, None, failed=True, doubt=doubt
                )

        return job

    def _take_looked(self, message: inbox.Looked) -> None:
        entry = self._entries.get(message.name)
        again = False
        if entry is not None:
            entry.looking = False
            again = entry.look_again or entry.changed != message.changed
            entry.look_again = False
        if message.failed:
            self._look_later(message, entry)
            return
        self._doubt_of(failed=False)
        if again and entry is not None:
            self._look(entry)
        elif message.body is None:
            self._forget(message.name)
        else:
            self._body(message.name, message.body, fresh=False)

    def _look_later(self, message: inbox.Looked, entry: watched.Entry | None) -> None:
        """One look in vain is that one instance's matter: it alone is asked for again, later and later.

        The second in a row that found no server says that the events may not come any more either. What is
        not known yet has no state to keep the time in: the listing finds it.
        """
        if entry is None:
            at = self._clock() + RELIST_MS
            self._list_at = at if self._list_at is None else min(self._list_at, at)
            return
        if message.doubt and entry.state.look_pause > worker.RETRY_MS:
            self._doubt_of(failed=True)
        self._step(entry, worker.Unread())

    def _body(self, name: str, body: Body, *, fresh: bool) -> None:
        """Take in an instance as the server has it."""
        own = cast("dict[str, Any]", body.get("config") or {})
        config = cast("dict[str, Any]", body.get("expanded_config") or own)
        asked = spec.read(name, config)
        if asked.daemon:
            self._forget(name)
            return
        holding = asked.held
        if holding:
            asked = self._with_hold(asked)
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = watched.Entry(name, asked)
            self._say_problems(entry, ())
        entry.holding = holding
        label = own.get(names.RESOURCE)
        entry.address = names.address(
            "instance", label if isinstance(label, str) and label else name
        )
        if entry.asked != asked:
            self._respec(entry, asked)
        claim = spec.claim(own)
        self._meet(claim.by)
        run = str(body.get("last_used_at") or "")
        ever = bool(run) and not run.startswith((_NEVER, "1970-01-01"))
        self._step(
            entry,
            worker.Seen(
                power=watched.POWER.get(str(body.get("status", "")), "unknown"),
                run=run,
                age_ms=self._age_ms(run) if ever else 0,
                ever_started=ever,
                status=_STATUS.get(str(own.get(names.HEALTH_STATUS) or ""), ""),
                claim=claim,
                fresh=fresh,
            ),
        )

    def _meet(self, by: str) -> None:
        """Remember another daemon by its claim."""
        if by and self._me and by != self._me[: acting.NAME_KEPT] and by not in self._peers:
            self._peers = [*self._peers, by][-PEERS:]

    def _respec(self, entry: watched.Entry, asked: spec.Spec) -> None:
        before, entry.asked = entry.asked, asked
        if before.problems != asked.problems:
            self._say_problems(entry, before.problems)
        self._step(entry, worker.Respec(before=before))

    def _say_problems(self, entry: watched.Entry, before: tuple[spec.Problem, ...]) -> None:
        for key, reason in entry.asked.problems:
            if (key, reason) not in before:
                self._tell("misconfigured", entry.address, cause=f"{key}: {reason}")

    def _forget(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            self._storm.forget(name)

    def _age_ms(self, run: str) -> int:
        """How long ago a time of the server (RFC 3339) was, by this machine's time of day."""
        at = units.time_ms(run)
        return 0 if at is None else max(0, int(self._wall() * 1000) - at)

    # --- events ----------------------------------------------------------------------------------

    def _read_events(self) -> None:
        """The reader's thread: connect, hand on, connect again; a refusal is handed on and ends it."""
        low, high = RECONNECT_S
        pause = low
        while not self._cancel.is_set():
            try:
                with self._api.events() as stream:
                    self._inbox.put(inbox.Online())
                    pause = low
                    self._hand_on(stream)
                continue  # at once: what happens in between is not seen
            except errors.IncusError as error:
                refusal = inbox.refusal(error)
                if refusal is not None:
                    self._inbox.put(refusal)
                    return
                reason = error.summary
            except Exception as error:  # noqa: BLE001 - the loop's boundary: the deciding thread raises it
                self._inbox.put(inbox.Fault(error))
                return
            self._inbox.put(inbox.Offline(reason))
            if self._cancel.wait(pause * self._chance.uniform(0.8, 1.2)):
                return
            pause = min(2 * pause, high)

    def _hand_on(self, stream: calls.Events) -> None:
        self._renew.clear()
        while not self._cancel.is_set() and not self._renew.is_set():
            event = stream.next(EVENT_S)
            if event is None or not _concerns(event):
                continue
            if self._inbox.qsize() > INBOX_EVENTS:
                return  # connect again, and list
            self._inbox.put(inbox.Told(event))

    def _event(self, event: Body) -> None:
        metadata = cast("Body", event.get("metadata") or {})
        action = str(metadata.get("action", ""))
        if action == "profile-updated" and not _name(metadata, "profiles").startswith("ic."):
            at = self._clock() + PROFILES_MS
            self._list_at = at if self._list_at is None else min(self._list_at, at)
        if not action.startswith("instance-"):
            return
        name = _name(metadata, "instances")
        entry = self._entries.get(name)
        if action in ("instance-deleted", "instance-renamed"):
            context = cast("Body", metadata.get("context") or {})
            self._forget(str(context.get("old_name") or name))
        if action == "instance-updated" and entry is not None and entry.unexpect():
            return
        happened = self._happening(action, metadata)
        if happened is None and action not in _CHANGES:
            return
        if entry is None:
            if action != "instance-deleted" and name:
                self._call_lane.put(self._look_job(name, 0))
            return
        if happened is None:
            self._look(entry)
            return
        entry.changed += 1
        entry.touched = self._clock()
        self._step(entry, happened)

    def _happening(self, action: str, metadata: Body) -> worker.Event | None:
        """What an event says about power, None when nothing."""
        if action in _STARTS:
            return worker.Started(by=self._by(metadata), both=action == "instance-restarted")
        if action in _ENDS:
            return worker.Ended(by=self._by(metadata))
        if action == "instance-paused":
            return worker.Frozen()
        if action == "instance-resumed":
            return worker.Thawed()
        return None

    def _by(self, metadata: Body) -> worker.By:
        requestor = cast("Body", metadata.get("requestor") or {})
        if not requestor:
            return "none"
        if not self._me:
            return "somebody"
        name = str(requestor.get("username", ""))
        if name == self._me:
            return "me"
        return "peer" if name[: acting.NAME_KEPT] in self._peers else "other"

    # --- holds -----------------------------------------------------------------------------------

    def _with_hold(self, asked: spec.Spec) -> spec.Spec:
        """The Spec, without a hold that is known to be void."""
        if asked.held in self._void:
            return msgspec.structs.replace(asked, held="")
        if asked.held not in self._holds:
            self._holds[asked.held] = ("", self._clock())
            self._hold_at = self._clock()
        return asked

    def _look_at_holds(self) -> None:
        self._hold_at = None
        current = {entry.holding for entry in self._entries.values() if entry.holding}
        for generation in [one for one in self._holds if one not in current]:
            del self._holds[generation]
        self._void &= current
        for generation in self._holds:
            self._call_lane.put(self._hold_job(generation))

    def _hold_job(self, generation: str) -> Callable[[], Any]:
        def job() -> inbox.Held | inbox.Fault:
            try:
                return inbox.Held(generation, self._api.heartbeat(generation))
            except errors.IncusError as error:
                return inbox.refusal(error) or inbox.Held(generation, None)

        return job

    def _take_held(self, message: inbox.Held) -> None:
        now = self._clock()
        known = self._holds.get(message.generation)
        if known is None:
            return
        if message.heartbeat and message.heartbeat != known[0]:
            self._holds[message.generation] = known = (message.heartbeat, now)
        void = message.heartbeat == "" or now - known[1] >= HOLD_STALE_MS
        if message.heartbeat is None or not void:
            self._hold_at = now + HOLD_LOOK_MS
            return
        del self._holds[message.generation]
        self._void.add(message.generation)
        for entry in list(self._entries.values()):
            if entry.asked.held == message.generation:
                self._respec(entry, msgspec.structs.replace(entry.asked, held=""))

    # --- commands --------------------------------------------------------------------------------

    def _step(self, entry: watched.Entry, event: worker.Event) -> None:
        now = self._clock()
        due = entry.state.due
        entry.state, commands = worker.step(entry.state, entry.asked, event, now)
        for command in commands:
            if isinstance(command, worker.Probe):
                self._probe(entry, command, now if due is None else due)
            elif isinstance(command, worker.Do):
                self._do(entry, command, now)
            elif isinstance(command, worker.Write):
                self._write(entry, command)
            elif isinstance(command, worker.Look):
                self._look(entry)
            elif isinstance(command, worker.ReadCode):
                self._call_lane.put(self._code_job(entry.name))
            else:
                self._say(entry, command)
        at = worker.wake(entry.state, entry.asked)
        if at is not None and at != entry.at:
            self._order += 1
            heapq.heappush(self._heap, (at, self._order, entry.name))
        entry.at = at

    def _say(self, entry: watched.Entry, told: worker.Tell) -> None:
        line = transport.clean(told.line)[: watched.OUTPUT_SHOWN]
        self._tell(
            told.kind, entry.address, cause=transport.clean(told.cause), code=told.code, line=line
        )

    def _probe(self, entry: watched.Entry, command: worker.Probe, due: int) -> None:
        ordered = order(
            entry.asked,
            f"{entry.name}.{command.number}.{self._chance.getrandbits(32):08x}",
            entry.state.run,
        )
        name = entry.name

        def job() -> inbox.Probe:
            started = self._clock()
            return inbox.Probe(
                name, command.number, due, started, self._run_probe(ordered, self._cancel)
            )

        self._probe_lane.put(job)

    def _take_probe(self, message: inbox.Probe) -> None:
        late = max(0.0, float(message.started - message.due))
        self._late_sum += late
        self._late_counts[next(bound for bound in LATE_BOUNDS_MS if late <= bound)] += 1
        self._late += (late - self._late) / 20
        if (self._late > LATE_MS) != self._overload and not ON_TIME_MS < self._late <= LATE_MS:
            self._overload = not self._overload
            self._tell(
                "overload" if self._overload else "on-time", cause=f"{self._late:.0f} ms late"
            )
        result = message.result
        if result.error is not None and (refusal := inbox.refusal(result.error)) is not None:
            raise refusal.error
        entry = self._entries.get(message.name)
        if entry is None:
            return
        kind = result.kind
        now = self._clock()
        if kind == "timeout" and now - self._slow_at <= entry.asked.timeout_ms + ECHO_MS:
            kind = "error"  # late answers of the server look like a slow service
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._doubt_of(failed=result.error is not None and inbox.doubtful(result.error))
        self._step(
            entry,
            worker.Probed(
                number=message.number,
                started=message.started,
                kind=kind,
                code=result.code,
                line=_last_line(result.output),
                leaked=result.leaked,
            ),
        )
        if kind in ("exit", "timeout"):
            good = entry.state.streak == 0  # what is not counted is no sign of trouble either
            self._storm.probed(entry.name, entry.asked.interval_ms, now, good=good)

    def _code_job(self, name: str) -> Callable[[], Any]:
        def job() -> inbox.Answer | inbox.Fault | None:
            try:
                code, forced = self._api.ending(name)
                return inbox.Answer(name, worker.Exited(code=code, forced=forced))
            except errors.NotFound:
                return inbox.Answer(name, worker.Exited(code=None))
            except errors.IncusError as error:
                return inbox.refusal(error)  # it is asked for again where it matters

        return job

    def _take_nothing(self, message: None) -> None:
        del message

    # --- actions ---------------------------------------------------------------------------------

    def _do(self, entry: watched.Entry, command: worker.Do, now: int) -> None:
        self._acts[command.act] = self._acts.get(command.act, 0) + 1
        if command.act == "start":
            self._say(entry, worker.Tell(kind="start", cause=command.why))
            self._start_lane.put(lambda: self._acting.act(entry, command, None))
            return
        self._storm.began(entry.name, now)
        self._restart_lane.put(lambda: self._acting.claim_and_act(entry, command))

    def _write(self, entry: watched.Entry, command: worker.Write) -> None:
        state = entry.state
        self._call_lane.put(lambda: self._acting.write(entry, command, state))

    # --- one round -------------------------------------------------------------------------------

    def once(self, patience: float = 120.0) -> tuple[Round, ...]:
        """Run every check once, and change nothing; what each gave, by name. `patience` in seconds.

        Raises IncusError when the instances cannot be listed, Forbidden when the server says no.
        """
        rounds: list[Round] = []
        under_way: set[str] = set()
        for body in self._api.instances():
            name = str(body.get("name", ""))
            config = cast("Body", body.get("expanded_config") or body.get("config") or {})
            asked = spec.read(name, config)
            if (
                asked.test
                and asked.watched
                and watched.POWER.get(str(body.get("status"))) == "running"
            ):
                entry = self._entries[name] = watched.Entry(name, asked)
                under_way.add(name)
                self._probe(entry, worker.Probe(number=1), self._clock())
            elif asked.problems and not asked.daemon:
                rounds.append(Round(name=name, problems=asked.problems))
        until = time.monotonic() + patience
        while under_way and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                message = self._inbox.get(timeout=1.0)
                if isinstance(message, inbox.Fault):
                    raise message.error
                if isinstance(message, inbox.Probe):
                    under_way.discard(message.name)
                    problems = self._entries[message.name].asked.problems
                    rounds.append(
                        Round(name=message.name, result=message.result, problems=problems)
                    )
        self._cancel.set()
        self._probe_lane.close()
        rounds += [Round(name=name) for name in under_way]
        return tuple(sorted(rounds, key=lambda one: one.name))


# --- pieces ----------------------------------------------------------------------------------


def order(asked: spec.Spec, marker: str, run: str = "") -> probes.Order:
    """What is to be run for a check. The server adds the environment of image and instance by itself."""
    environment = {"HOME": asked.home, "USER": asked.user}
    return probes.Order(
        instance=asked.name,
        argv=asked.argv,
        environment={key: value for key, value in environment.items() if value},
        uid=asked.uid,
        gid=asked.gid,
        cwd=asked.cwd,
        timeout_ms=asked.timeout_ms,
        marker=marker,
        run=run,
    )


def _concerns(event: Body) -> bool:
    """Whether an event may matter. Every probe is one of those that do not."""
    metadata = cast("Body", event.get("metadata") or {})
    return metadata.get("action") in _ACTIONS


def _name(metadata: Body, collection: str) -> str:
    """The object of a collection that an event is about; only instances have a `name` besides [measured]."""
    path = urlsplit(str(metadata.get("source", ""))).path.split("/")
    return unquote(path[3]) if len(path) > 3 and path[2] == collection else ""


def _last_line(output: bytes) -> str:
    """The last line that a probe wrote, without control characters."""
    lines = output[-4096:].decode(errors="replace").split("\n")
    return next((clean for line in reversed(lines) if (clean := transport.clean(line))), "")
