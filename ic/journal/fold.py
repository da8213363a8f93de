"""Events to the last applied state: what the journal says ic did. Pure, deterministic, total."""

from __future__ import annotations

from typing import Literal

import msgspec

from ic.resources import kind


class Digest(msgspec.Struct, frozen=True, rename={"hmac": "$h"}):
    """A value that is not written in clear: HMAC-SHA256 with the stack's key, 24 hex digits."""

    hmac: str


Value = str | Digest


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
    """An intent without an outcome: a run was cut off between asking and knowing."""

    n: int
    event: str  # journal kind, inst.create
    address: str
    name: str
    stamp: str  # gen/seq, as on the resource
    digest: str = ""
    record: kind.Record = kind.Record()


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
