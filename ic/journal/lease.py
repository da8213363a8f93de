"""The run object: a small profile whose *name* is the lease. Acquire, watch, take over, fence, guard.

In: a client and a project; out: a held lease, or Locked. The profile is `ic.lock.HASH.GENERATION.NONCE`;
renaming it to the next generation with a nonce of one's own is the compare-and-swap (of any number of
renames of one profile the server lets exactly one win), and every write to an old name is answered 404:
the server itself fences. Wall clocks are never compared: a contender takes over what has not changed for
a whole TTL of its *own* clock, or at once what a dead process of this very machine holds.

Pure apart from `acquire`, `identity` and `tick_of`; clocks, times and randomness come in as parameters.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import msgspec

from ic import errors, names
from ic.journal import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FREE = "free"
GENESIS_NONCE = "00000000"
DESCRIPTION = "ic: lease and write-ahead journal of this stack; leave it alone"
STEM = "ic.lock"
#: The health daemon's stream has a lease of the same kind, under a name of its own.
HEALTH_STEM = "ic.hd"
HEALTH_DESCRIPTION = "ic: what the health daemon of this stack tells; leave it alone"


class Reply(Protocol):
    """What a request brings back: metadata, ETag, and the server's Date (ms, 0 when not known)."""

    @property
    def metadata(self) -> Any: ...
    @property
    def etag(self) -> str: ...
    @property
    def date_ms(self) -> int: ...


class Server(Protocol):
    """The part of `ic.incus.client.Client` that the journal uses."""

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        *,
        etag: str | None = None,
        timeout: float = ...,
    ) -> Reply:
        """One request, sent once; a failure is an IncusError."""
        ...


class Clock(Protocol):
    """Time as the lease needs it; seconds."""

    def boottime(self) -> float:
        """Counts suspend as well; never set back."""
        ...

    def wall(self) -> float:
        """The time of day: written down, never compared."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def boottime(self) -> float:
        """CLOCK_BOOTTIME: a suspended machine's lease grows old too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        """The time of day."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """The lease's times in seconds (journal-format.md): heartbeat + timeout <= fence, ttl - fence >= 10 s."""

    ttl: float = 30.0
    heartbeat: float = 10.0
    timeout: float = 8.0
    fence: float = 20.0
    settle: float = 2.0  # how long one who renamed may take to say who he is
    poll: float = 0.3
    linger: float = 1.0  # how long an outcome may wait for an intent to travel with
    fold_every: float = 60.0

    def scaled(self, factor: float) -> Times:
        """All of them times a factor: tests do not wait for half a minute."""
        return Times(**{name: getattr(self, name) * factor for name in self.__struct_fields__})


class Holder(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "actor": "a",
        "machine": "m",
        "boot": "b",
        "namespace": "ns",
        "pid": "p",
        "tick": "s",
        "command": "c",
        "run": "r",
        "since": "t",
    },
):
    """Who holds a lease: enough for a process of the same machine to see that it is dead, and for people."""

    actor: str = ""
    machine: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    tick: int = 0
    command: str = ""
    run: str = ""
    since: int = 0


class RunObject(msgspec.Struct, frozen=True, kw_only=True):
    """A run object as read: its name taken apart, and its config."""

    name: str
    generation: int
    nonce: str
    config: dict[str, str] = {}

    @property
    def held(self) -> bool:
        """Whether somebody holds it."""
        return self.config.get(names.HOLD, FREE) not in ("", FREE)

    @property
    def settled(self) -> bool:
        """Whether the holder's text is of this generation; if not, somebody is about to hold it."""
        return self.config.get(names.GENERATION) == str(self.generation)

    @property
    def holder(self) -> Holder | None:
        """Who holds it; an empty Holder when the text cannot be read, None when it is free."""
        if not self.held:
            return None
        try:
            return msgspec.json.decode(self.config[names.HOLD], type=Holder)
        except ValueError:
            return Holder()

    @property
    def beat(self) -> int:
        """The heartbeat counter."""
        text = self.config.get(names.HEARTBEAT, "0")
        return int(text) if text.isdecimal() else 0


def prefix(project: str, stem: str = STEM) -> str:
    """The beginning of the names of a project's run objects (profiles may be shared between projects)."""
    return f"{stem}.{names.short_hash(project)}."


def name_for(project: str, generation: int, nonce: str, stem: str = STEM) -> str:
    """The run object's name at a generation."""
    return f"{prefix(project, stem)}{generation:08d}.{nonce}"


def parse_name(project: str, name: str, stem: str = STEM) -> tuple[int, str] | None:
    """Generation and nonce of a run object's name, None for any other profile."""
    begin = prefix(project, stem)
    if not name.startswith(begin):
        return None
    generation, _, nonce = name[len(begin) :].partition(".")
    return (int(generation), nonce) if generation.isdecimal() else None


def objects(
    project: str, profiles: Mapping[str, Mapping[str, str]], stem: str = STEM
) -> tuple[RunObject, ...]:
    """The run objects among the profiles (name -> config), highest generation first.

    Of one generation (see `_alone`) the one that has or had a holder comes first: the others never did.
    """
    found: list[RunObject] = []
    for name, config in profiles.items():
        parsed = parse_name(project, name, stem)
        if parsed is not None:
            found.append(
                RunObject(name=name, generation=parsed[0], nonce=parsed[1], config=dict(config))
            )
    return tuple(
        sorted(found, key=lambda one: (one.generation, one.settled, one.name), reverse=True)
    )


# --- who is who ------------------------------------------------------------------------------------------


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def tick_of(pid: int) -> int | None:
    """The clock tick at which a process of this machine began, None when there is no such process.

    A number alone is not enough: numbers are used again, and a zombie is dead.
    """
    text = _first_line(f"/proc/{pid}/stat")
    rest = text.rpartition(") ")[2].split()
    if len(rest) < 20 or rest[0] in ("Z", "X", "x"):
        return None
    return int(rest[19])


def identity(*, command: str, run: str, actor: str = "", since: int = 0) -> Holder:
    """This process as a holder. Works with an empty or missing machine-id."""
    machine = _first_line("/etc/machine-id")
    boot = _first_line("/proc/sys/kernel/random/boot_id")
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return Holder(
        actor=actor or f"{os.getuid()}@{os.uname().nodename}",
        machine=names.short_hash(machine) if machine else "",
        boot=names.short_hash(boot) if boot else "",
        namespace=namespace,
        pid=os.getpid(),
        tick=tick_of(os.getpid()) or 0,
        command=command,
        run=run,
        since=since,
    )


def dead(holder: Holder, me: Holder, tick: Callable[[int], int | None]) -> str:
    """Why a holder is known to be dead, seen from `me`; empty when it is not known.

    Known only on the same machine: it was started again since (another boot), or the process is gone or
    is another one (in the same process namespace, where numbers mean the same).
    """
    same_machine = bool(holder.machine) and holder.machine == me.machine
    if same_machine and holder.boot and me.boot and holder.boot != me.boot:
        return "this machine was started again since"
    if holder.machine != me.machine or not holder.boot or holder.boot != me.boot:
        return ""
    if not holder.pid or not holder.namespace or holder.namespace != me.namespace:
        return ""
    seen = tick(holder.pid)
    if seen is None:
        return f"its process {holder.pid} is gone"
    if holder.tick and seen != holder.tick:
        return f"its process {holder.pid} is another one now"
    return ""


# --- taking it --------------------------------------------------------------------------------------------


class Stolen(msgspec.Struct, frozen=True, kw_only=True):
    """Whose lease was taken, and why that was right."""

    generation: int
    holder: Holder
    reason: str


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that was just taken: `config` is the run object as read *after* the rename, `profiles` are
    all profiles as read then, the run object among them under its new name.

    `acknowledged` is when (boottime) the write that was answered last was sent, `skew` what to add to
    this machine's wall milliseconds to have the server's.
    """

    project: str
    name: str
    generation: int
    holder: Holder
    config: dict[str, str]
    profiles: dict[str, dict[str, str]]
    acknowledged: float
    stolen: Stolen | None = None
    skew: int = 0
    older: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The run object's path."""
        return path_of(self.name)


def path_of(name: str) -> str:
    """The path of a profile."""
    return f"/1.0/profiles/{name}"


def fetch(client: Server, project: str, clock: Clock, times: Times) -> dict[str, dict[str, str]]:
    """All profiles of a project: name -> config. Tried again while the server restarts."""
    query = {"project": project, "recursion": "1"}
    listed = look(client, "/1.0/profiles", query, clock=clock, times=times).metadata
    return {one["name"]: one.get("config") or {} for one in listed or ()}


def look(
    client: Server, path: str, query: Mapping[str, str], *, clock: Clock, times: Times
) -> Reply:
    """A GET that rides out a restart of the server: tried for as long as a lease is good."""
    until = clock.boottime() + times.fence
    return insist(client, "GET", path, query, None, until=until, clock=clock, times=times)[0]


class _Watch:
    """What a contender has seen of a held lease, on its own clock."""

    def __init__(self) -> None:
        self.seen: tuple[str, str, str] | None = None
        self.begun = 0.0
        self.changed = 0.0
        self.said: set[str] = set()

    def look(self, top: RunObject, now: float) -> None:
        """Take in what is there now."""
        found = (top.name, top.config.get(names.HEARTBEAT, ""), top.config.get(names.HOLD, ""))
        if found == self.seen:
            return
        if self.seen is None:
            self.begun = now
        self.seen = found
        self.changed = now
        self.said.discard("silent")

    @property
    def alive_for(self) -> float:
        """How long the holder was seen alive: the time that counts for --lock-timeout."""
        return self.changed - self.begun


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a lease is asked for. `lock_timeout` (s) counts while the holder is seen alive; 0: fail at once.

    `force` takes the lease of exactly that generation, whoever holds it (`ic unlock`). `nonce` gives 8
    characters, `tick` the start tick of a process of this machine, `say` takes a sentence for the user.
    `stem` tells which of a project's leases it is: the run object's, or that of the health stream.
    """

    holder: Holder
    nonce: Callable[[], str]
    say: Callable[[str], None]
    lock_timeout: float = 10.0
    clock: Clock
    times: Times
    tick: Callable[[int], int | None] = tick_of
    force: int | None = None
    stem: str = STEM


def acquire(client: Server, project: str, terms: Terms) -> Lease:
    """Take the lease: find, rename, read again, hold (docs/journal-format.md, "Taking the lease").

    Raises Locked (another holds it, or `force` names another generation) and IncusError.
    """
    watch = _Watch()
    made = 0
    while True:
        found = objects(project, fetch(client, project, terms.clock, terms.times), terms.stem)
        if not found:
            made += 1
            _make(client, project, terms, attempt=made)
            continue
        top = found[0]
        stolen = _taken_from(top, terms, watch)
        if stolen is None and (top.held or not top.settled):
            terms.clock.sleep(terms.times.poll)
            continue
        lease = _take(client, project, top, terms)
        if lease is not None:
            return msgspec.structs.replace(
                lease, stolen=stolen, older=tuple(one.name for one in found[1:])
            )


def _make(client: Server, project: str, terms: Terms, *, attempt: int) -> None:
    """Create the run object at the generation after that of the project's head: none is ever used twice.

    Its name is fixed, so of two creators one wins and both go on. One that comes after the winner has
    renamed it makes it again; what it makes is below all that was renamed, as the head was read before
    it was seen that there is none, and `_alone` keeps anybody from holding it.
    """
    body = look(
        client, f"/1.0/projects/{quote(project)}", {}, clock=terms.clock, times=terms.times
    ).metadata
    config: dict[str, str] = body.get("config") or {}
    head = config.get(names.HEAD, "")
    try:
        generation = events.decode_head(head).generation + 1
    except ValueError:
        generation = 1  # no journal, or a damaged one: reading it under the lease tells
    first = {names.HOLD: FREE, names.GENERATION: str(generation), names.HEARTBEAT: "0"}
    if head:
        first[names.HEAD] = head
    made = {
        "name": name_for(project, generation, GENESIS_NONCE, terms.stem),
        "description": DESCRIPTION if terms.stem == STEM else HEALTH_DESCRIPTION,
        "config": first,
        "devices": {},
    }
    query = {"project": project}
    if objects(project, fetch(client, project, terms.clock, terms.times), terms.stem):
        return
    try:
        client.send("POST", "/1.0/profiles", query, made, timeout=terms.times.timeout)
    except (errors.Forbidden, errors.NotFound):
        raise
    except errors.IncusError:
        # "Already exists" comes with a status of its own choice, and a lost reply says nothing: the
        # list tells. Several failures in a row are no race.
        if attempt >= 3:
            raise


def _taken_from(top: RunObject, terms: Terms, watch: _Watch) -> Stolen | None:
    """From whom a held lease may be taken now, and why; None: it is free, or its holder may be alive.

    Raises Locked when waiting is over, or when `force` does not fit what is there.
    """
    if terms.force not in (None, top.generation):
        raise errors.Locked(
            f"cannot unlock generation {terms.force}: the lease is at generation {top.generation}",
            hint="ic history shows who holds it",
        )
    now = terms.clock.boottime()
    watch.look(top, now)
    silent = now - watch.changed
    if not top.settled:
        # Taking it from who is about to hold is harmless (that write is answered 404), but it would
        # follow a holder who has just been told that the lease is his.
        if silent < terms.times.settle:
            return None
        return Stolen(
            generation=top.generation, holder=Holder(), reason="it was taken and then never held"
        )
    holder = top.holder
    if holder is None:
        if terms.force is not None:
            raise errors.Locked(f"cannot unlock generation {terms.force}: nobody holds the lease")
        return None
    reason = "unlock" if terms.force is not None else dead(holder, terms.holder, terms.tick)
    if reason:
        return Stolen(generation=top.generation, holder=holder, reason=reason)
    if terms.lock_timeout <= 0 or watch.alive_for >= terms.lock_timeout:
        raise locked(top, holder)
    if silent >= terms.times.ttl:
        return Stolen(
            generation=top.generation, holder=holder, reason=f"no sign of life for {silent:.0f} s"
        )
    if "held" not in watch.said:
        watch.said.add("held")
        terms.say(f"waiting for {described(top, holder)}")
    if silent >= terms.times.heartbeat * 1.5 and "silent" not in watch.said:
        watch.said.add("silent")
        terms.say(
            f"no sign of life for {silent:.0f} s from {holder.actor or 'the holder'}; "
            f"taking over when it is {terms.times.ttl:.0f} s"
        )
    return None


def described(top: RunObject, holder: Holder) -> str:
    """The holder in words."""
    what = f"ic {holder.command}" if holder.command else "another ic"
    pid = f", process {holder.pid}" if holder.pid else ""
    return f"{what} of {holder.actor or 'somebody'}{pid} (generation {top.generation})"


def locked(top: RunObject, holder: Holder) -> errors.Locked:
    """The error for a lease that somebody else holds."""
    return errors.Locked(
        f"cannot lock the stack: held by {described(top, holder)}",
        hint=f"wait for it, or, if it is surely gone: ic unlock --gen {top.generation}",
    )


def _take(client: Server, project: str, top: RunObject, terms: Terms) -> Lease | None:
    """Rename, read again, hold. None when another was faster: look again."""
    generation = top.generation + 1
    name = name_for(project, generation, terms.nonce(), terms.stem)
    query = {"project": project}
    timeout = terms.times.timeout
    try:
        client.send("POST", path_of(top.name), query, {"name": name}, timeout=timeout)
    except errors.Forbidden:
        raise
    except errors.IncusError:
        # Lost, or won with the reply lost: only the list knows.
        if name not in fetch(client, project, terms.clock, terms.times):
            return None
    try:
        profiles = _alone(client, project, top, name, terms)
        if profiles is None:
            return None
        config = dict(profiles[name])
        beat = config.get(names.HEARTBEAT, "0")
        config[names.HEARTBEAT] = str(int(beat) + 1 if beat.isdecimal() else 1)
        config[names.HOLD] = encode_holder(terms.holder)
        config[names.GENERATION] = str(generation)
        held = {key: config[key] for key in (names.HOLD, names.GENERATION, names.HEARTBEAT)}
        reply, sent = insist(
            client,
            "PATCH",
            path_of(name),
            query,
            {"config": held},
            until=terms.clock.boottime() + terms.times.fence,
            clock=terms.clock,
            times=terms.times,
        )
    except errors.NotFound:
        return None
    skew = reply.date_ms - int(terms.clock.wall() * 1000) if reply.date_ms else 0
    return Lease(
        project=project,
        name=name,
        generation=generation,
        holder=terms.holder,
        config=config,
        profiles={**profiles, name: config},
        acknowledged=sent,
        skew=skew if abs(skew) > 2000 else 0,
    )


def _alone(
    client: Server, project: str, top: RunObject, mine: str, terms: Terms
) -> dict[str, dict[str, str]] | None:
    """All profiles as read now, when what was renamed from `top` to `mine` is the lease; None: give way.

    What was read before the rename may be older than the last acknowledged line. And where there was no
    run object, one who still believes so makes it again after the first contender has renamed it, and a
    third, who had listed the first, may rename the second as well (measured: six first runs at once, 21 of
    60 rounds). Both own a name of one generation then; the later of the two sees the earlier here, and
    gives way. Is it killed before that, it leaves a twin that nobody ever held: who takes over from one of
    them gives way to a holder who has come forward meanwhile, and takes the others away before it holds.
    """
    while True:
        profiles = fetch(client, project, terms.clock, terms.times)
        if mine not in profiles:
            return None
        others = [one for one in objects(project, profiles, terms.stem) if one.name != mine]
        twins = [one for one in others if one.generation == top.generation]
        if any(one.generation > top.generation for one in others) or any(
            one.settled for one in twins
        ):
            # Made of a run object that nobody wrote into; one with lines is another's to find.
            if not any(profiles[mine].get(key) for key in (names.WAL, names.EVENT)):
                remove(client, project, (mine,), terms.times.timeout)
            return None
        if not twins:
            return profiles
        remove(client, project, (one.name for one in twins), terms.times.timeout)


def insist(
    client: Server,
    method: str,
    path: str,
    query: Mapping[str, str],
    body: Mapping[str, object] | None,
    *,
    until: float,
    clock: Clock,
    times: Times,
) -> tuple[Reply, float]:
    """A request that may be sent twice, tried until `until` (boottime); the reply, and when it was sent.

    Raises NotFound (fenced) and Forbidden at once, another IncusError when there is no time left.
    """
    import random

    pause = 0.2
    while True:
        sent = clock.boottime()
        try:
            return client.send(method, path, query, body, timeout=times.timeout), sent
        except (errors.NotFound, errors.Forbidden):
            raise
        except errors.IncusError:
            if clock.boottime() + pause >= until:
                raise
            clock.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
            pause = min(2 * pause, 3.0)


def encode_holder(holder: Holder) -> str:
    """The holder as it stands in `user.ic.hold`."""
    return events.ascii_only(msgspec.json.encode(holder)).decode()


def remove(client: Server, project: str, which: Iterable[str], timeout: float) -> None:
    """Delete profiles of ours that are not needed any more; one that is gone already is fine."""
    import contextlib

    for name in which:
        with contextlib.suppress(errors.NotFound):
            client.send("DELETE", path_of(name), {"project": project}, timeout=timeout)
