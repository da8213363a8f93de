"""Events to the last applied state: what the journal says ic did. Pure, deterministic, total.

In: events in the order of their numbers; out: the state of every address, the steps in doubt (intents
without an outcome), and the run that is open. The rules:

- an intent alone changes nothing: it is a doubt until its outcome;
- outcome `ok` applies the intent's effect; `superseded` applies a removal only; `unknown` marks the
  address; `err`, `skip` and `undone` apply nothing;
- a kind that ends in `.create` starts its address anew, every other one adds to what is recorded;
- a `gap` empties the state: what was applied before is not known;
- a kind that is not known marks the address that it names as unknown.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import msgspec

from ic.journal import events
from ic.resources import kind

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The meaning of fold: a snapshot of another version is not used.
VERSION = 1


class Digest(msgspec.Struct, frozen=True, rename={"hmac": "$h"}):
    """A value that is not written in clear: HMAC-SHA256 with the stack's key, 24 hex digits."""

    hmac: str


Value = str | Digest


class Effect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an intent will have changed: a step's record, redacted; paths are text (`path_text`)."""

    name: str = ""
    pool: str = ""
    fields: dict[str, Value] = msgspec.field(default={}, name="set")
    unset: tuple[str, ...] = ()
    facts: dict[str, object] = {}
    power: str = ""
    gone: bool = False


class RecordedResource(msgspec.Struct, frozen=True, kw_only=True):
    """The last applied state of one address. `facts` are public facts kept verbatim (image config)."""

    address: str
    name: str = ""
    pool: str = ""
    fields: dict[kind.Path, Value] = {}
    facts: dict[str, object] = {}
    power: str = ""
    event: str = ""  # gen/seq of the last intent that touched it
    unknown: bool = False  # damaged journal: what was applied is not known


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """An intent without an outcome: a run was cut off between asking and knowing.

    `fields` and `unset` are what it would have changed, `time` when it was written (wall milliseconds).
    """

    n: int
    event: str  # journal kind, inst.create
    address: str
    name: str
    stamp: str  # gen/seq, as on the resource
    digest: str = ""
    pool: str = ""
    fields: dict[kind.Path, Value] = {}
    unset: tuple[kind.Path, ...] = ()
    facts: dict[str, object] = {}
    power: str = ""
    gone: bool = False
    time: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step in doubt, by the rule of `ic.engine.recover`; reason in words for people.

    `half_made` asks for the remains of a creation to be deleted before it is tried again.
    """

    n: int
    address: str
    event: str
    status: events.Status
    reason: str = ""
    half_made: bool = False


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """The journal replayed. An empty lineage means that there is no journal (no project yet)."""

    lineage: str = ""
    generation: int = 0
    sequence: int = 0
    chain: str = ""
    resources: dict[str, RecordedResource] = {}
    doubts: tuple[Doubt, ...] = ()
    state: Literal["none", "ok", "damaged", "newer", "rollback"] = "none"
    problems: tuple[str, ...] = ()


def path_text(path: kind.Path) -> str:
    """A path as one text that can be taken apart again: `devices/eth0/mtu` (`/` is ~1, `~` is ~0)."""
    return "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)


def path_of(text: str) -> kind.Path:
    """The path that `path_text` wrote."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/"))


_Stamped = tuple[int, events.Intent]  # the generation that the intent was written in


class State:
    """The state while folding; `apply` takes the next event. Not for several threads: each has a `copy`."""

    def __init__(self) -> None:
        self.sequence = 0
        self.generation = 0
        self.run = ""
        self.resources: dict[str, RecordedResource] = {}
        self.open: dict[int, _Stamped] = {}

    def copy(self) -> State:
        """A state of its own that goes on from here."""
        other = State()
        other.sequence, other.generation, other.run = self.sequence, self.generation, self.run
        other.resources, other.open = dict(self.resources), dict(self.open)
        return other

    def apply(self, event: events.AnyEvent) -> None:
        """Take in the next event."""
        self.sequence = event.n
        match event:
            case events.Run():
                self.run = event.run
                self.generation = max(self.generation, event.generation)
            case events.Intent():
                self.open[event.n] = (self.generation, event)
            case events.Outcome():
                self._settle(event.intent, event.status, event.result)
            case events.End():
                self.run = ""
            case events.Steal():
                self.generation = max(self.generation, event.generation)
            case events.Trunc():
                self.sequence = event.last
            case events.Gap():
                self.sequence = event.last
                self.run = ""
                self.resources.clear()
                self.open.clear()
            case events.Other():
                self._touch(event.address)
            case events.Recover() | events.Health():
                pass

    def _settle(self, number: int, status: str, result: dict[str, object]) -> None:
        opened = self.open.pop(number, None)
        if opened is None:
            return
        generation, intent = opened
        if status == "unknown":
            self._touch(intent.address)
            return
        if status not in ("ok", "superseded"):
            return
        try:
            effect = msgspec.convert(intent.effect, Effect)
        except msgspec.ValidationError:
            self._touch(intent.address)
            return
        if effect.gone:
            self.resources.pop(intent.address, None)
        elif status == "ok":
            self.resources[intent.address] = _applied(
                None if intent.kind.endswith(".create") else self.resources.get(intent.address),
                intent,
                effect,
                stamp=f"{generation}/{intent.n}",
                result=result,
            )

    def _touch(self, address: str) -> None:
        known = self.resources.get(address)
        if known is not None:
            self.resources[address] = msgspec.structs.replace(known, unknown=True)

    def doubts(self) -> tuple[Doubt, ...]:
        """The intents without an outcome, oldest first."""
        return tuple(_doubt(*self.open[number]) for number in sorted(self.open))

    def digest(self) -> str:
        """16 hex digits that are equal for equal states, whatever the order in which they came to be."""
        text = msgspec.json.encode(
            [_resource_form(self.resources[address]) for address in sorted(self.resources)],
            order="sorted",
        )
        return hashlib.sha256(text).hexdigest()[:16]


def _applied(
    known: RecordedResource | None,
    intent: events.Intent,
    effect: Effect,
    *,
    stamp: str,
    result: dict[str, object],
) -> RecordedResource:
    old = known or RecordedResource(address=intent.address)
    fields = dict(old.fields)
    for text in effect.unset:
        fields.pop(path_of(text), None)
    fields.update({path_of(text): value for text, value in effect.fields.items()})
    return RecordedResource(
        address=intent.address,
        name=effect.name or old.name,
        pool=effect.pool or old.pool,
        fields=fields,
        facts={**old.facts, **effect.facts, **result},
        power=effect.power or old.power,
        event=stamp,
        unknown=old.unknown,
    )


def _doubt(generation: int, intent: events.Intent) -> Doubt:
    try:
        effect = msgspec.convert(intent.effect, Effect)
    except msgspec.ValidationError:
        effect = Effect()
    return Doubt(
        n=intent.n,
        event=intent.kind,
        address=intent.address,
        name=effect.name,
        stamp=f"{generation}/{intent.n}",
        digest=intent.digest,
        pool=effect.pool,
        fields={path_of(text): value for text, value in effect.fields.items()},
        unset=tuple(path_of(text) for text in effect.unset),
        facts=effect.facts,
        power=effect.power,
        gone=effect.gone,
        time=intent.t,
    )


def fold(log: Iterable[events.AnyEvent], state: State | None = None) -> State:
    """The state after all events, beginning with `state` (which is changed) or with nothing."""
    result = state or State()
    for event in log:
        result.apply(event)
    return result


def settled(recorded: Recorded, verdicts: tuple[Verdict, ...]) -> Recorded:
    """What the journal would say once the verdicts stood in it; for commands that write nothing."""
    by_number = {doubt.n: doubt for doubt in recorded.doubts}
    resources = dict(recorded.resources)
    for verdict in verdicts:
        doubt = by_number.pop(verdict.n, None)
        if doubt is None:
            continue
        known = resources.get(doubt.address)
        if verdict.status == "unknown":
            if known is not None:
                resources[doubt.address] = msgspec.structs.replace(known, unknown=True)
        elif verdict.status in ("ok", "superseded") and doubt.gone:
            resources.pop(doubt.address, None)
        elif verdict.status == "ok":
            resources[doubt.address] = _applied(
                None if doubt.event.endswith(".create") else known,
                events.Intent(n=doubt.n, kind=doubt.event, address=doubt.address),
                Effect(
                    name=doubt.name,
                    pool=doubt.pool,
                    fields={path_text(path): value for path, value in doubt.fields.items()},
                    unset=tuple(path_text(path) for path in doubt.unset),
                    facts=doubt.facts,
                    power=doubt.power,
                ),
                stamp=doubt.stamp,
                result={},
            )
    return msgspec.structs.replace(
        recorded,
        resources=resources,
        doubts=tuple(by_number[number] for number in sorted(by_number)),
    )


# --- snapshots ------------------------------------------------------------------------------------------


class _ResourceForm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    address: str
    name: str = ""
    pool: str = ""
    fields: dict[str, Value] = {}
    facts: dict[str, object] = {}
    power: str = ""
    event: str = ""
    unknown: bool = False


class _OpenForm(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    intent: msgspec.Raw


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A folded state as it is kept: `version` of fold, the last number in it, the chain there, its digest."""

    version: int
    lineage: str
    sequence: int
    chain: str
    digest: str
    generation: int
    run: str = ""
    resources: tuple[_ResourceForm, ...] = ()
    open: tuple[_OpenForm, ...] = ()


def _resource_form(resource: RecordedResource) -> _ResourceForm:
    return _ResourceForm(
        address=resource.address,
        name=resource.name,
        pool=resource.pool,
        fields={path_text(path): resource.fields[path] for path in sorted(resource.fields)},
        facts=resource.facts,
        power=resource.power,
        event=resource.event,
        unknown=resource.unknown,
    )


def snapshot(state: State, *, lineage: str, chain: str) -> Snapshot:
    """The state as a snapshot value; `restore` brings back a state that folds on just the same."""
    return Snapshot(
        version=VERSION,
        lineage=lineage,
        sequence=state.sequence,
        chain=chain,
        digest=state.digest(),
        generation=state.generation,
        run=state.run,
        resources=tuple(
            _resource_form(state.resources[address]) for address in sorted(state.resources)
        ),
        open=tuple(
            _OpenForm(generation=generation, intent=msgspec.Raw(events.encode(intent)))
            for _, (generation, intent) in sorted(state.open.items())
        ),
    )


def encode_snapshot(taken: Snapshot) -> str:
    """The JSON text of a snapshot."""
    return events.ascii_only(msgspec.json.encode(taken)).decode()


_snapshot = msgspec.json.Decoder(Snapshot)
_version = msgspec.json.Decoder(dict[str, object])


def decode_snapshot(text: str) -> Snapshot:
    """A snapshot of this fold version. Raises ValueError when it is none or was made by another version."""
    if _version.decode(text.encode()).get("version") != VERSION:
        raise ValueError("snapshot of another fold version")
    return _snapshot.decode(text.encode())


def restore(taken: Snapshot) -> State:
    """The state of a snapshot. Raises ValueError when its content does not have the digest it claims."""
    state = State()
    state.sequence = taken.sequence
    state.generation = taken.generation
    state.run = taken.run
    for form in taken.resources:
        state.resources[form.address] = RecordedResource(
            address=form.address,
            name=form.name,
            pool=form.pool,
            fields={path_of(text): value for text, value in form.fields.items()},
            facts=form.facts,
            power=form.power,
            event=form.event,
            unknown=form.unknown,
        )
    for entry in taken.open:
        intent = events.decode(bytes(entry.intent))
        if not isinstance(intent, events.Intent):
            raise ValueError("snapshot holds an open step that is no intent")  # noqa: TRY004
        state.open[intent.n] = (entry.generation, intent)
    if state.digest() != taken.digest:
        raise ValueError("snapshot does not have the digest that it claims")
    return state
