"""The journal's events: one tagged struct per kind, and the JSON object that each of them is on a line.

Pure. In: a JSON object's bytes; out: an event, and back. Every event has `n`, its number in the lineage
(gapless), and `t`, wall milliseconds; order is `n`, never `t`. What stands on a line is decided by two
keys: `p` is `i` for an intent and `o` for an outcome; every other line is told by its kind `k`.

An unknown kind or an unknown field is never an error: the line itself is what is kept and copied
(`ic.journal.lines`), an event is only a view of it. docs/journal-format.md has every key.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "err", "skip", "undone", "superseded", "unknown"]
RunStatus = Literal["ok", "failed", "interrupted"]

#: Journal format that this ic writes, and the oldest reader that understands what it writes.
VERSION = 1
MINIMUM = 1
#: What the kinds of the health daemon's events begin with.
HEALTH = "hd."


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every line has: the number and the time."""

    n: int
    t: int = 0


class Run(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="run",
    rename={
        "run": "r",
        "generation": "g",
        "command": "c",
        "actor": "a",
        "machine": "m",
        "boot": "b",
        "version": "v",
        "build": "x",
        "desired": "d",
        "chain": "pc",
    },
):
    """A run begins. Two lines with one `run` are one run: the first apply's project and the rest of it.

    `actor` is uid@host, `machine` and `boot` are hashes, `build` names the zipapp, `desired` the digest of
    what the files asked for, `chain` the chain just before this line: a checkpoint for readers.
    """

    run: str
    generation: int = 0
    command: str = ""
    actor: str = ""
    machine: str = ""
    boot: str = ""
    version: str = ""
    build: str = ""
    desired: str = ""
    chain: str = ""


class Intent(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="p",
    tag="i",
    rename={"kind": "k", "address": "o", "digest": "d", "effect": "w"},
):
    """A step is about to be done: its kind, its address, and what will be true once it is done.

    `effect` is the redacted record (`ic.journal.fold.Effect` in its JSON form), `digest` a keyed digest of
    it. The stamp on the resource is GENERATION/NUMBER, the generation being that of the run line before.
    """

    kind: str
    address: str = ""
    digest: str = ""
    effect: dict[str, object] = {}


class Outcome(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="p",
    tag="o",
    rename={
        "intent": "i",
        "status": "s",
        "error": "e",
        "text": "x",
        "result": "w",
    },
):
    """How an intent ended. `result` are public facts that only the server knew (an image's fingerprint)."""

    intent: int
    status: str
    ms: int | None = None
    error: str = ""
    text: str = ""
    result: dict[str, object] = {}


class End(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="end",
    rename={"run": "r", "status": "s", "state": "st"},
):
    """A run ended by itself. `state` is the digest of the folded state at this line."""

    run: str
    status: str
    state: str = ""


class Recover(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="recover",
    rename={"run": "r", "intents": "i"},
):
    """Steps in doubt were looked at; their outcomes follow, one each."""

    run: str = ""
    intents: tuple[int, ...] = ()


class Steal(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="lock.steal",
    rename={"generation": "g", "of": "pg", "holder": "h", "reason": "s", "actor": "a"},
):
    """The lease of generation `of` was taken from its holder by `generation`, and why."""

    generation: int
    of: int
    holder: str = ""
    reason: str = ""
    actor: str = ""


class Trunc(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="trunc",
    rename={"last": "to", "chain": "c"},
):
    """Stands for the lines `n`..`last`, which retention removed; a snapshot at or after `last` exists."""

    last: int
    count: int
    chain: str


class Gap(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="k",
    tag="gap",
    rename={"last": "to", "chain": "c", "reason": "s"},
):
    """Stands for the lines `n`..`last`, which are lost: what was applied before is not known any more.

    The folded state starts empty after it, so that marked resources are adopted again; `chain` is where
    the chain goes on from.
    """

    last: int
    chain: str
    reason: str = ""


class Health(
    Event,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "kind": "k",
        "address": "o",
        "run": "r",
        "cause": "s",
        "code": "e",
        "line": "x",
        "generation": "jg",
        "seen": "jn",
        "stream": "hn",
        "actor": "a",
        "version": "v",
        "build": "b",
    },
):
    """Something that the health daemon tells: a transition, an action of its own, its start and its end.

    `kind` is `hd.` and a word. `run` is one life of the daemon, `generation` and `seen` say how far the
    journal was when it was written, `line` is the last line of the probe. In the daemon's own stream `n` is
    the number there; in the journal `n` is the journal's, and `stream` the one in the stream.
    """

    kind: str
    address: str = ""
    run: str = ""
    cause: str = ""
    code: int | None = None
    line: str = ""
    generation: int = 0
    seen: int = 0
    stream: int = 0
    actor: str = ""
    version: str = ""
    build: str = ""


class Other(
    Event, frozen=True, kw_only=True, omit_defaults=True, rename={"kind": "k", "address": "o"}
):
    """A line of a kind that this ic does not know; what it touched is known to have been touched."""

    kind: str = ""
    address: str = ""


AnyEvent = Run | Intent | Outcome | End | Recover | Steal | Trunc | Gap | Health | Other


class Head(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "version": "v",
        "minimum": "min",
        "lineage": "lin",
        "generation": "g",
        "sequence": "n",
        "chain": "c",
        "snapshot": "s",
        "streams": "hw",
    },
):
    """`user.ic.head`: where the journal in the project's config ends.

    `generation` is the last one that was folded, `snapshot` the number of the newest snapshot (0: none),
    `streams` how far other streams were copied (`hd`: the health daemon's).
    """

    version: int = VERSION
    minimum: int = MINIMUM
    lineage: str
    generation: int = 0
    sequence: int = 0
    chain: str
    snapshot: int = 0
    streams: dict[str, int] = {}


class _Peek(msgspec.Struct, frozen=True):
    k: str = ""
    p: str = ""


_peek = msgspec.json.Decoder(_Peek)
_other = msgspec.json.Decoder(Other)
_PHASES: dict[str, msgspec.json.Decoder[AnyEvent]] = {
    "i": msgspec.json.Decoder(Intent),
    "o": msgspec.json.Decoder(Outcome),
}
_KINDS: dict[str, msgspec.json.Decoder[AnyEvent]] = {
    "run": msgspec.json.Decoder(Run),
    "end": msgspec.json.Decoder(End),
    "recover": msgspec.json.Decoder(Recover),
    "lock.steal": msgspec.json.Decoder(Steal),
    "trunc": msgspec.json.Decoder(Trunc),
    "gap": msgspec.json.Decoder(Gap),
}
_health: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(Health)
_head = msgspec.json.Decoder(Head)


def decode(line: bytes) -> AnyEvent:
    """The event on a line. A known kind in a form that this ic does not know becomes Other.

    Raises ValueError (msgspec.DecodeError) when the line is no JSON object with a number `n`.
    """
    try:
        peek = _peek.decode(line)
    except msgspec.ValidationError:
        return _other_of(line)
    decoder = _PHASES.get(peek.p) if peek.p else _KINDS.get(peek.k)
    if decoder is None and peek.k.startswith(HEALTH):
        decoder = _health
    if decoder is None:
        return _other_of(line)
    try:
        return decoder.decode(line)
    except msgspec.ValidationError:
        return _other_of(line)


class _Number(msgspec.Struct, frozen=True):
    n: int


_number = msgspec.json.Decoder(_Number)


def _other_of(line: bytes) -> Other:
    try:
        return _other.decode(line)
    except msgspec.ValidationError:
        return Other(n=_number.decode(line).n)


def number_of(line: bytes) -> int:
    """The number of a line. Raises ValueError when it is no JSON object with one."""
    return _number.decode(line).n


def encode(event: AnyEvent) -> bytes:
    """The JSON object of an event, ASCII, keys in the order of docs/journal-format.md."""
    return ascii_only(msgspec.json.encode(_ordered(event)))


def _ordered(event: AnyEvent) -> dict[str, object]:
    """`n` and `t` first, then what says which kind it is, then the rest: made for eyes."""
    fields: dict[str, object] = msgspec.to_builtins(event)
    first = {key: fields[key] for key in ("n", "t", "p", "k") if key in fields}
    return first | fields


def ascii_only(text: bytes) -> bytes:
    """Escape everything beyond ASCII in JSON text, as `\\uXXXX`: a terminal shows what is there.

    DEL too, and so there is no control character on a line (JSON escapes the others by itself).
    """
    if text.isascii() and b"\x7f" not in text:
        return text
    units: list[str] = []
    for character in text.decode():
        code = ord(character)
        if code < 0x7F:
            units.append(character)
        elif code < 0x10000:
            units.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            units.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return "".join(units).encode()


def decode_head(text: str) -> Head:
    """The head. Raises ValueError when it is none."""
    return _head.decode(text.encode())


def encode_head(head: Head) -> str:
    """The head as it stands in `user.ic.head`."""
    return ascii_only(msgspec.json.encode(head)).decode()
