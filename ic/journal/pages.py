"""The journal as keys of the project's config: read it, check it, write new lines into it, make room.

Pure. In: a project's config and the configs of its profiles; out: a Journal (lines, folded state, what is
wrong), or the config with lines folded in. Foreign keys are never touched. docs/journal-format.md
describes every key.

Lines may stand in three places: segments of the project, overflow profiles (of operators who may not
write the project) and the run object. They are one journal, by number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import errors, names
from ic.journal import events, fold, lease, lines, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ic.resources import kind

PLAIN_LIMIT = 16 * 1024  # of one plain segment
KEEP_PLAIN = 32 * 1024  # of the newest lines stays readable as it is
SNAPSHOT_EVENTS = 500
SNAPSHOT_BYTES = 128 * 1024
SEALED_KEPT = 256 * 1024
SOFT = 384 * 1024
HARD = 768 * 1024
#: The server's limit of a request body, to the byte (measured).
REQUEST = 1024 * 1024
#: What a run needs at least: less room than this, and it is not begun.
RESERVE = 64 * 1024
#: What an operator who may not write the project keeps in the run object before it moves to a profile.
OVERFLOW_FROM = 64 * 1024
#: The name of the health daemon's stream in the head, and the kind of a line that stands for lost ones.
HEALTH_STREAM = "hd"
HEALTH_GAP = "hd.gap"
#: How a journal is; only `ok` may be written to.
State = Literal["none", "ok", "damaged", "newer", "rollback"]


class Line(msgspec.Struct, frozen=True):
    """A line with its number; `last` is another one for lines that stand for several."""

    n: int
    last: int
    raw: bytes


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """A journal as read.

    `lines` are all that are retained and can be read, in order; those up to `trusted` are proven by the
    chain. `folded` is the last number that stands in the project, `stored` the last one in overflow profiles.
    `health` is the health daemon's stream, a profile with a lease like the run object's.
    """

    project: str
    lineage: str = ""
    key: bytes = b""
    head: events.Head | None = None
    lines: tuple[Line, ...] = ()
    folded: int = 0
    stored: int = 0
    trusted: int = 0
    base: fold.Snapshot | None = None
    recorded: fold.Recorded = fold.Recorded()
    run_object: lease.RunObject | None = None
    overflow: tuple[str, ...] = ()
    health: lease.RunObject | None = None

    @property
    def state(self) -> State:
        """How it is; only `ok` may be written to."""
        return self.recorded.state

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        return self.recorded.problems

    @property
    def busy(self) -> lease.Holder | None:
        """Who holds the lease, and may be at work: then open intents are under way, not in doubt."""
        return self.run_object.holder if self.run_object is not None else None

    def events(self) -> tuple[events.AnyEvent, ...]:
        """All readable events, decoded."""
        return tuple(events.decode(line.raw) for line in self.lines)

    def told(self) -> int:
        """How far the health daemon's stream stands in the journal: the number of its last line here."""
        known = self.head.streams.get(HEALTH_STREAM, 0) if self.head else 0
        return max([known, *stream_numbers(line.raw for line in self.lines)])

    def telling(self) -> tuple[events.Health, ...]:
        """What the health daemon told and is not in the journal yet, in its order; lost lines are a gap."""
        if self.health is None:
            return ()
        return unheard(self.health.config.get(names.EVENT, ""), self.told())

    def folding(self) -> fold.State:
        """The folded state of what is trusted, to go on from (a new one each time)."""
        return _folding(self.base, self.lines, self.trusted)


def stream_numbers(raw: Iterable[bytes]) -> list[int]:
    """The numbers in the health daemon's stream of those lines that were copied from it."""
    copied = [events.decode(one) for one in raw if b'"hn":' in one]
    return [one.stream for one in copied if isinstance(one, events.Health)]


def unheard(value: str, known: int) -> tuple[events.Health, ...]:
    """The lines of a stream's ring after number `known`; what the ring has lost since is one `hd.gap`.

    A line that cannot be read is left out: it is another's, and nothing is decided by it.
    """
    found: list[events.Health] = []
    for raw in lines.split(value):
        try:
            event = events.decode(raw)
        except ValueError:
            continue
        if isinstance(event, events.Health) and event.n > known:
            found.append(event)
    found.sort(key=lambda one: one.n)
    if found and found[0].n > known + 1:
        first = found[0]
        lost = events.Health(
            n=first.n - 1,
            t=first.t,
            kind=HEALTH_GAP,
            run=first.run,
            cause=f"lines {known + 1} to {first.n - 1} were written over before any run copied them",
            generation=first.generation,
            seen=first.seen,
        )
        found.insert(0, lost)
    return tuple(found)


def segment_key(first: int) -> str:
    """The key of the segment that begins with a number."""
    return f"{names.SEGMENT_PREFIX}{first:08d}"


def snapshot_key(last: int) -> str:
    """The key of the snapshot at a number."""
    return f"{names.SNAPSHOT_PREFIX}{last:08d}"


def overflow_prefix(project: str) -> str:
    """The beginning of the names of a project's overflow profiles."""
    return f"ic.j.{names.short_hash(project)}."


def overflow_name(project: str, first: int) -> str:
    """The profile that holds an overflow segment."""
    return f"{overflow_prefix(project)}{first:08d}"


# --- genesis ---------------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a run begins: what its run line will say. `time` is wall milliseconds."""

    run: str
    command: str
    actor: str = ""
    machine: str = ""
    boot: str = ""
    version: str = ""
    build: str = ""
    desired: str = ""
    time: int = 0


def run_line(start: Start, *, n: int, time: int, generation: int, chain: str) -> events.Run:
    """The run event of a start."""
    return events.Run(
        n=n,
        t=time,
        run=start.run,
        generation=generation,
        command=start.command,
        actor=start.actor,
        machine=start.machine,
        boot=start.boot,
        version=start.version,
        build=start.build,
        desired=start.desired,
        chain=chain,
    )


def genesis(
    step: kind.Step, start: Start, *, entropy: Callable[[int], bytes] = os.urandom
) -> dict[str, str]:
    """The journal's keys for the POST that creates a project: lineage, key, head, and that very creation.

    Record and effect are one write, so the creation's intent and outcome stand there together. Its run
    goes on under the lease (`book.begin` with the same Start).
    """
    lineage = entropy(6).hex()
    key = entropy(32)
    chain = lines.start(lineage)
    written = redact.effect(step.record, key)
    log: tuple[events.AnyEvent, ...] = (
        run_line(start, n=1, time=start.time, generation=0, chain=chain),
        events.Intent(
            n=2,
            t=start.time,
            kind=step.event,
            address=step.address,
            digest=redact.body(written, key),
            effect=written,
        ),
        events.Outcome(n=3, t=start.time, intent=2, status="ok"),
    )
    raw = [events.encode(event) for event in log]
    head = events.Head(lineage=lineage, sequence=3, chain=lines.end_of(chain, raw))
    return {
        names.LINEAGE: lineage,
        names.KEY: key.hex(),
        names.HEAD: events.encode_head(head),
        segment_key(1): lines.joined(raw),
    }


# --- reading ---------------------------------------------------------------------------------------------


class _Checkpoint(msgspec.Struct, frozen=True, order=True):
    """Somewhere it is written that the chain after line `n` is `chain`."""

    n: int
    chain: str
    where: str


class _Reading:
    """What reading finds out, step by step."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.state: State = "ok"
        self.lines: dict[int, Line] = {}
        self.chains: dict[int, str] = {}
        self.checkpoints: list[_Checkpoint] = []
        self.snapshots: list[fold.Snapshot] = []
        self.trusted = 0

    def bad(self, state: State, problem: str) -> None:
        """Note what is wrong; the first trouble names the state."""
        if self.state == "ok":
            self.state = state
        self.problems.append(problem)

    def take(self, where: str, value: str) -> int:
        """Take the lines of a segment or a run object; the number of the last of them (0: none)."""
        try:
            raw_lines = lines.open_segment(value)
        except ValueError as error:
            self.bad("damaged", f"{where} cannot be opened: {error}")
            return 0
        last = 0
        for index, raw in enumerate(raw_lines):
            try:
                line = line_of(raw)
            except ValueError:
                self.bad("damaged", f"{where}: line {index + 1} cannot be read")
                return last
            known = self.lines.setdefault(line.n, line)
            if known.raw != raw:
                self.bad("damaged", f"{where}: line {line.n} differs from the one in the journal")
                return last
            last = line.last
        return last

    def walk(self, lineage: str) -> None:
        """Compute the chain after each line, as far as they follow each other without a gap."""
        chain = lines.start(lineage)
        expected = 1
        for number in sorted(self.lines):
            line = self.lines[number]
            if number != expected:
                self.bad("damaged", f"lines {expected} to {number - 1} are missing")
                return
            chain = _chain_after(chain, line)
            self.chains[line.last] = chain
            expected = line.last + 1

    def judge(self) -> None:
        """Find how far the lines are proven: to their end when every checkpoint agrees."""
        end = max(self.chains, default=0)
        wrong = [one for one in self.checkpoints if self.chains.get(one.n) != one.chain]
        for one in sorted(wrong):
            if one.n > end:
                self.bad(
                    "damaged", f"{one.where} knows of line {one.n}, but the lines end at {end}"
                )
            else:
                self.bad("damaged", f"the lines up to {one.n} do not have the chain of {one.where}")
        if self.state in ("ok", "newer"):
            self.trusted = end
            return
        self.checkpoints.extend(self._of_runs())
        good = [one.n for one in self.checkpoints if self.chains.get(one.n) == one.chain]
        bad = [one.n for one in self.checkpoints if self.chains.get(one.n) != one.chain]
        limit = min(bad, default=end + 1)
        self.trusted = max((n for n in good if n < limit), default=0)

    def _of_runs(self) -> list[_Checkpoint]:
        """Every run line tells the chain before it."""
        found: list[_Checkpoint] = []
        for line in self.lines.values():
            event = events.decode(line.raw)
            if isinstance(event, events.Run) and event.chain and event.n > 1:
                found.append(
                    _Checkpoint(n=event.n - 1, chain=event.chain, where=f"run {event.run}")
                )
        return found

    def base(self, lineage: str) -> fold.Snapshot | None:
        """The newest snapshot that agrees with the lines."""
        for taken in sorted(self.snapshots, key=lambda one: one.sequence, reverse=True):
            agrees = self.chains.get(taken.sequence) == taken.chain and taken.lineage == lineage
            if agrees and taken.sequence <= self.trusted:
                return taken
        return None


def line_of(raw: bytes) -> Line:
    """A line taken apart. Raises ValueError when it is no JSON object with a number."""
    if b'"k":"trunc"' in raw or b'"k":"gap"' in raw:
        event = events.decode(raw)
        if isinstance(event, events.Trunc | events.Gap):
            return Line(event.n, event.last, raw)
    number = events.number_of(raw)
    return Line(number, number, raw)


def read_lines(value: str) -> tuple[Line, ...]:
    """The lines of a segment or run object that was read and checked before."""
    return tuple(line_of(raw) for raw in lines.open_segment(value))


def _chain_after(chain: str, line: Line) -> str:
    if line.last != line.n or b'"k":"trunc"' in line.raw or b'"k":"gap"' in line.raw:
        event = events.decode(line.raw)
        if isinstance(event, events.Trunc | events.Gap):
            return event.chain
    return lines.after(chain, line.raw)


def read(
    project: str, config: Mapping[str, str], profiles: Mapping[str, Mapping[str, str]]
) -> Journal:
    """The journal of a project, from its config and the configs of its profiles.

    The profiles must have been read before the project (a line is first in the run object, then in the
    project). Never raises: what is wrong stands in `problems`, and `recorded` has what can be trusted.
    """
    runs = lease.objects(project, profiles)
    top = runs[0] if runs else None
    reading = _Reading()
    head = head_of(config)
    copy = head_of(top.config) if top else None
    lineage = head.lineage if head else config.get(names.LINEAGE, copy.lineage if copy else "")
    written = any(name.startswith(_OURS) for name in config)
    streams = lease.objects(project, profiles, lease.HEALTH_STEM)
    health = streams[0] if streams else None
    if not lineage and not written:
        return Journal(project=project, run_object=top, health=health)
    if head is not None and head.minimum > events.VERSION:
        reading.bad(
            "newer", f"it needs a reader of version {head.minimum}, this is {events.VERSION}"
        )
    if head is None:
        reading.bad("rollback" if copy else "damaged", f"{names.HEAD} is missing or cannot be read")
    key = _key(config.get(names.KEY, ""), reading)
    folded = _take_project(reading, config, head)
    overflow = tuple(sorted(one for one in profiles if one.startswith(overflow_prefix(project))))
    mine = copy is None or copy.lineage == lineage
    stored = 0
    if mine:
        for name in overflow:
            stored = max(stored, reading.take(name, profiles[name].get(names.WAL, "")))
        if top is not None:
            reading.take(top.name, top.config.get(names.WAL, ""))
            _check_run_object(reading, top, head, copy)
    reading.walk(lineage)
    reading.judge()
    base = reading.base(lineage)
    readable = tuple(reading.lines[number] for number in sorted(reading.lines))
    if base is None and _lacks_beginning(readable, reading.trusted):
        reading.bad("damaged", "its beginning was removed by retention and no snapshot can be used")
        reading.trusted = 0
    return Journal(
        project=project,
        lineage=lineage,
        key=key,
        head=head,
        lines=readable,
        folded=folded,
        stored=stored,
        trusted=reading.trusted,
        base=base,
        recorded=_recorded(reading, lineage, base, readable, top),
        run_object=top,
        overflow=overflow,
        health=health,
    )


def _lacks_beginning(log: tuple[Line, ...], trusted: int) -> bool:
    """Whether lines alone cannot be folded: their beginning is gone, and no gap follows."""
    if not log or b'"k":"trunc"' not in log[0].raw:
        return False
    marks = (line for line in log if b'"k":"gap"' in line.raw and line.last <= trusted)
    return not any(isinstance(events.decode(line.raw), events.Gap) for line in marks)


_OURS = (names.SEGMENT_PREFIX, names.SNAPSHOT_PREFIX, names.HEAD, names.KEY)


def head_of(config: Mapping[str, str]) -> events.Head | None:
    """The head in a project's config (or its copy in a run object's), None when none can be read."""
    text = config.get(names.HEAD, "")
    try:
        return events.decode_head(text) if text else None
    except ValueError:
        return None


def _take_project(reading: _Reading, config: Mapping[str, str], head: events.Head | None) -> int:
    """Take segments and snapshots of the project; the number of the last line there."""
    last = 0
    for name in sorted(config):
        if name.startswith(names.SEGMENT_PREFIX):
            last = max(last, reading.take(name, config[name]))
        elif name.startswith(names.SNAPSHOT_PREFIX):
            _take_snapshot(reading, name, config[name])
    if head is not None:
        reading.checkpoints.append(_Checkpoint(n=head.sequence, chain=head.chain, where=names.HEAD))
        if last != head.sequence:
            reading.bad(
                "damaged", f"{names.HEAD} ends at line {head.sequence}, the segments at {last}"
            )
    return last


def _key(text: str, reading: _Reading) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        reading.bad("damaged", f"{names.KEY} is missing or is no key")
    return key


def _take_snapshot(reading: _Reading, name: str, value: str) -> None:
    """A snapshot is a cache: one that is damaged is noted and not used."""
    try:
        taken = fold.decode_snapshot(lines.unseal(value))
        fold.restore(taken)
    except ValueError as error:
        reading.problems.append(f"{name} is not used: {error}")
        return
    reading.snapshots.append(taken)


def _check_run_object(
    reading: _Reading, top: lease.RunObject, head: events.Head | None, copy: events.Head | None
) -> None:
    """The run object remembers how far the project's journal was, and where its own lines end.

    A project that is behind is healed by the lines that are kept in the run object for this (redo), when
    they reach; when they do not, somebody restored an older config.
    """
    end = max(reading.lines, default=0)
    if copy is not None and head is not None and head.sequence < copy.sequence:
        missing = [n for n in range(head.sequence + 1, copy.sequence + 1) if n not in reading.lines]
        if missing:
            reading.bad(
                "rollback",
                f"the project's journal ends at line {head.sequence}, but it was at {copy.sequence} before",
            )
    tip = tip_of(top.config.get(names.TIP, ""))
    if tip is None:
        if top.config.get(names.WAL):
            reading.bad("damaged", f"{top.name}: {names.TIP} is missing or cannot be read")
    elif tip.n <= end or reading.state == "ok":
        reading.checkpoints.append(_Checkpoint(n=tip.n, chain=tip.c, where=top.name))


class Tip(msgspec.Struct, frozen=True):
    """Where the run object's lines end: number and chain."""

    n: int
    c: str


def tip_of(text: str) -> Tip | None:
    """The tip as it stands in `user.ic.tip`, None when there is none."""
    try:
        return msgspec.json.decode(text.encode(), type=Tip) if text else None
    except ValueError:
        return None


def _folding(base: fold.Snapshot | None, log: Iterable[Line], trusted: int) -> fold.State:
    state = fold.restore(base) if base else fold.State()
    first = base.sequence if base else 0
    return fold.fold(
        (events.decode(line.raw) for line in log if first < line.last <= trusted), state
    )


def _recorded(
    reading: _Reading,
    lineage: str,
    base: fold.Snapshot | None,
    log: tuple[Line, ...],
    top: lease.RunObject | None,
) -> fold.Recorded:
    state = _folding(base, log, reading.trusted)
    resources = state.resources
    if reading.state == "damaged":
        resources = {
            address: msgspec.structs.replace(one, unknown=True)
            for address, one in resources.items()
        }
    return fold.Recorded(
        lineage=lineage,
        generation=max(state.generation, top.generation if top else 0),
        sequence=reading.trusted,
        chain=reading.chains.get(reading.trusted, lines.start(lineage)),
        resources=resources,
        doubts=state.doubts(),
        state=reading.state,
        problems=tuple(reading.problems),
    )


# --- writing ---------------------------------------------------------------------------------------------


def pack(
    config: Mapping[str, str],
    log: tuple[Line, ...],
    state: fold.State,
    *,
    lineage: str,
    generation: int,
    described: str = "",
) -> dict[str, str]:
    """The project's config with all lines of `log` in it, compacted where it is time.

    `config` was just read; every key of it that is not the journal's stays as it is. `log` are all lines
    that are retained, in order; `state` is folded from them. `described` is the project's description, for
    the size of the request.

    Raises Rollback when the project's head is not on the chain of `log`, Full when there is no room.
    """
    head = head_of(config)
    chains = _chains(lineage, log)
    last = log[-1].last
    if head is None or head.lineage != lineage or chains.get(head.sequence) != head.chain:
        raise errors.Rollback(
            "cannot write the journal: the one in the project is not the one that was read",
            details=("somebody changed the keys user.ic.* while this run was going on",),
        )
    packed = dict(config)
    added = [line for line in log if line.n > head.sequence]
    _append(packed, added)
    copied = stream_numbers(line.raw for line in added)
    if copied:
        told = max(head.streams.get(HEALTH_STREAM, 0), *copied)
        head = msgspec.structs.replace(head, streams={**head.streams, HEALTH_STREAM: told})
    snapshot = head.snapshot
    if _due(packed, last, head.snapshot):
        snapshot = _compact(packed, state, log, chains, lineage)
    packed[names.HEAD] = _head_text(
        head, generation=generation, last=last, chain=chains[last], snapshot=snapshot
    )
    if ours_size(packed) > SOFT or request_size(packed, described) > REQUEST - PLAIN_LIMIT:
        snapshot = _compact(packed, state, log, chains, lineage)
        packed[names.HEAD] = _head_text(
            head, generation=generation, last=last, chain=chains[last], snapshot=snapshot
        )
    _check_room(packed, described, 0)
    return packed


def require_room(journal: Journal, config: Mapping[str, str]) -> None:
    """Raise Full when a run would not fit any more, even after compaction. Nothing is written."""
    if ours_size(config) <= SOFT and request_size(config, "") <= REQUEST - RESERVE:
        return
    packed = pack(
        config,
        journal.lines,
        journal.folding(),
        lineage=journal.lineage,
        generation=journal.recorded.generation,
    )
    _check_room(packed, "", RESERVE)


def _check_room(packed: Mapping[str, str], description: str, reserve: int) -> None:
    ours, whole = ours_size(packed), request_size(packed, description)
    if ours > HARD - reserve or whole > REQUEST - reserve:
        raise errors.Full(
            f"cannot write the journal: there is no room left in the project's config "
            f"({ours // 1024} KiB of it are the journal, {(whole - ours) // 1024} KiB are not)",
            details=(
                f"at most {HARD // 1024} KiB, and {REQUEST // 1024} KiB with everything else in it",
            ),
            hint="`incus project show` shows large keys of others; a smaller stack has a smaller journal",
        )


def _head_text(old: events.Head, *, generation: int, last: int, chain: str, snapshot: int) -> str:
    return events.encode_head(
        events.Head(
            minimum=max(old.minimum, events.MINIMUM),
            lineage=old.lineage,
            generation=max(generation, old.generation),
            sequence=last,
            chain=chain,
            snapshot=snapshot,
            streams=old.streams,
        )
    )


def _chains(lineage: str, log: Iterable[Line]) -> dict[int, str]:
    """The chain after each line, and before the first."""
    chain = lines.start(lineage)
    found = {0: chain}
    for line in log:
        chain = _chain_after(chain, line)
        found[line.last] = chain
    return found


def _segments(config: Mapping[str, str]) -> list[str]:
    return sorted(name for name in config if name.startswith(names.SEGMENT_PREFIX))


def _append(packed: dict[str, str], added: list[Line]) -> None:
    """Put lines behind the newest plain segment, beginning new ones where it is full."""
    present = _segments(packed)
    current = present[-1] if present and not packed[present[-1]].startswith(lines.SEALED) else ""
    for line in added:
        text = line.raw.decode("ascii") + "\n"
        if not current or len(packed[current]) + len(text) > PLAIN_LIMIT:
            current = segment_key(line.n)
            packed[current] = ""
        elif not packed[current].endswith("\n"):
            packed[current] += "\n"  # an editor may have taken it away
        packed[current] += text


def _due(packed: Mapping[str, str], last: int, snapshot: int) -> bool:
    """Whether it is time for a snapshot."""
    if last - snapshot >= SNAPSHOT_EVENTS:
        return True
    since = segment_key(snapshot + 1)
    return sum(len(packed[name]) for name in _segments(packed) if name >= since) >= SNAPSHOT_BYTES


def _compact(
    packed: dict[str, str],
    state: fold.State,
    log: tuple[Line, ...],
    chains: Mapping[int, str],
    lineage: str,
) -> int:
    """Take a snapshot, seal what is old, apply retention; the snapshot's number."""
    last = log[-1].last
    taken = fold.snapshot(state, lineage=lineage, chain=chains[last])
    packed[snapshot_key(last)] = lines.seal(fold.encode_snapshot(taken))
    good = [name for name in _snapshots(packed) if _usable(packed[name], chains)]
    for name in _snapshots(packed):
        if name not in good[-2:]:
            del packed[name]
    _seal_old(packed)
    _retain(packed, chains, covered=int(good[-2:][0].removeprefix(names.SNAPSHOT_PREFIX)))
    return last


def _snapshots(packed: Mapping[str, str]) -> list[str]:
    return sorted(name for name in packed if name.startswith(names.SNAPSHOT_PREFIX))


def _usable(value: str, chains: Mapping[int, str]) -> bool:
    try:
        taken = fold.decode_snapshot(lines.unseal(value))
    except ValueError:
        return False
    return chains.get(taken.sequence) == taken.chain


def _seal_old(packed: dict[str, str]) -> None:
    """Seal the plain segments, but for the newest KEEP_PLAIN bytes: recent runs stay readable."""
    plain = [name for name in _segments(packed) if not packed[name].startswith(lines.SEALED)]
    kept = 0
    while plain and (not kept or kept + len(packed[plain[-1]]) <= KEEP_PLAIN):
        kept += len(packed[plain.pop()])
    old = [name for name in plain if not _is_trunc(packed[name])]
    if old:
        text = "".join(packed.pop(name) for name in old)
        packed[old[0]] = lines.seal(text)


def _is_trunc(value: str) -> bool:
    return value.startswith("{") and '"k":"trunc"' in value.partition("\n")[0]


def _retain(packed: dict[str, str], chains: Mapping[int, str], *, covered: int) -> None:
    """Replace the oldest sealed segments by one `trunc` line while they take too much room.

    Only lines up to `covered` go: both snapshots know what they did.
    """
    while True:
        order = _segments(packed)
        sealed = [name for name in order if packed[name].startswith(lines.SEALED)]
        total = sum(len(packed[name]) for name in sealed)
        if len(sealed) < 1 or (total <= SEALED_KEPT and ours_size(packed) <= SOFT):
            return
        index = order.index(sealed[0])
        following = order[index + 1] if index + 1 < len(order) else ""
        last = int(following.removeprefix(names.SEGMENT_PREFIX)) - 1 if following else 0
        if not 0 < last <= covered:
            return
        for name in order[: index + 1]:
            del packed[name]
        gone = events.Trunc(n=1, last=last, count=last, chain=chains[last])
        packed[segment_key(1)] = lines.joined([events.encode(gone)])


# --- a damaged journal ------------------------------------------------------------------------------------


def mend(journal: Journal, config: Mapping[str, str]) -> tuple[str, ...]:
    """Commands that put the damaged part of a journal aside and let ic go on; () when there are none.

    What is proven stays, damaged segments are kept under `user.ic.bad.`, and a `gap` line says that what
    was applied is not known: the next apply adopts every resource that carries the stack's mark. Nothing
    but the journal is touched, volumes least of all.
    """
    if journal.state not in ("damaged", "rollback"):
        return ()
    import shlex

    kept = _whole_segments(journal, config)
    begin = kept[-1] if kept else 0
    known = max([0, *_known_numbers(journal, config)])
    proven = journal.trusted >= known and len(kept) == len(_segments(config))
    if begin and proven and journal.key:
        return _mend_head(journal, config, begin)
    end = max(begin + 1, known)
    top = journal.run_object
    generation = max(journal.recorded.generation, journal.head.generation if journal.head else 0)
    chain = lines.start(f"after line {end}")
    times = [event.t for event in journal.events()]
    gap = events.Gap(n=begin + 1, t=max(times, default=0), last=end, chain=chain, reason="damaged")
    lineage = journal.lineage or "LINEAGE"
    head = events.Head(lineage=lineage, generation=generation, sequence=end, chain=chain)
    settings: list[str] = []
    for name in sorted(config):
        if name.startswith(names.SEGMENT_PREFIX) and int(_digits(name)) > begin:
            aside = f"{names.BAD_PREFIX}{_digits(name)}"
            settings.append(f'{aside}="$(incus project get {journal.project} {name})"')
            settings.append(f"{name}=")
        elif name.startswith(names.SNAPSHOT_PREFIX):
            settings.append(f"{name}=")
    settings = [one for one in settings if one != f"{segment_key(begin + 1)}="]
    gap_text = events.encode(gap).decode()
    settings.append(shlex.quote(f"{segment_key(begin + 1)}={gap_text}"))
    if names.STACK not in config:
        # The project's own marks are gone too; those of its instances tell whose it is.
        listed = f"incus list --project {journal.project} -f csv -c {names.STACK}"
        settings.append(f'{names.STACK}="$({listed} | sort -u | tail -n 1)"')
        settings.append(f"{names.RESOURCE}={journal.project}")
    if config.get(names.LINEAGE) != lineage:
        settings.append(f"'{names.LINEAGE}={lineage}'")
    if not journal.key:
        settings.append(f"{names.KEY}=\"$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \\n')\"")
    settings.append(shlex.quote(f"{names.HEAD}={events.encode_head(head)}"))
    commands = [f"incus project show {journal.project} > {journal.project}.project.yaml"]
    doomed = [*([top.name] if top else ()), *journal.overflow]
    for name in doomed:
        where = f"{name} --project {journal.project}"
        commands.append(f"incus profile show {where} > {name}.yaml")
        commands.append(f"incus profile delete {where}")
    change = " \\\n    ".join([f"incus project set {journal.project}", *settings])
    if not journal.lineage:
        # Nothing in the journal tells the lineage any more, but every instance carries it.
        listed = f"incus list --project {journal.project} -f csv -c {names.LINEAGE}"
        commands.append(f'LINEAGE="$({listed} | sort -u | tail -n 1)"')
        change = change.replace("LINEAGE", "'\"$LINEAGE\"'")
    commands.append(change)
    return tuple(commands)


def _mend_head(journal: Journal, config: Mapping[str, str], last: int) -> tuple[str, ...]:
    """Commands for a journal that lacks nothing but its head: every line is there and proven."""
    import shlex

    head = events.Head(
        lineage=journal.lineage,
        generation=journal.recorded.generation,
        sequence=last,
        chain=_chains(journal.lineage, journal.lines)[last],
        snapshot=max([0, *(int(_digits(name)) for name in _snapshots(config))]),
    )
    return (
        f"incus project show {journal.project} > {journal.project}.project.yaml",
        f"incus project set {journal.project} {shlex.quote(f'{names.HEAD}={events.encode_head(head)}')}",
    )


def _digits(name: str) -> str:
    """The number at the end of a key, `0` when somebody gave it another name."""
    text = name.rpartition(".")[2]
    return text if text.isdecimal() else "0"


def _whole_segments(journal: Journal, config: Mapping[str, str]) -> list[int]:
    """The last numbers of the segments at the beginning that are proven as a whole."""
    ends: list[int] = []
    expected = 1
    for name in _segments(config):
        try:
            found = read_lines(config[name])
        except ValueError:
            break
        if not found or found[0].n != expected or found[-1].last > journal.trusted:
            break
        ends.append(found[-1].last)
        expected = found[-1].last + 1
    return ends


def _known_numbers(journal: Journal, config: Mapping[str, str]) -> list[int]:
    """Every number that the journal is known to have reached."""
    found = [line.last for line in journal.lines]
    if journal.head is not None:
        found.append(journal.head.sequence)
    top = journal.run_object
    if top is not None:
        copy, tip = head_of(top.config), tip_of(top.config.get(names.TIP, ""))
        found.extend([copy.sequence if copy else 0, tip.n if tip else 0])
    found.extend(int(_digits(name)) for name in config if name.startswith(_OURS[:2]))
    return found


# --- small questions -------------------------------------------------------------------------------------


def holds(config: Mapping[str, str], packed: Mapping[str, str]) -> bool:
    """Whether the journal's keys of a config are, byte by byte, those of another."""

    def ours(of: Mapping[str, str]) -> dict[str, str]:
        return {name: text for name, text in of.items() if name.startswith(_OURS)}

    return ours(config) == ours(packed)


def overflowed(log: Iterable[Line]) -> dict[str, str]:
    """The config of an overflow profile that holds these lines."""
    return {names.WAL: lines.seal(lines.joined(line.raw for line in log))}


def ours_size(config: Mapping[str, str]) -> int:
    """How many bytes of a request the journal's keys take."""
    ours = {name: text for name, text in config.items() if name.startswith("user.ic.")}
    return len(msgspec.json.encode(ours))


def request_size(config: Mapping[str, str], description: str) -> int:
    """How long the request is that writes this config, to the byte."""
    return len(msgspec.json.encode({"config": config, "description": description}))
