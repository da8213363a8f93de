"""A journal as one file: a header, every retained line as it is, the digest of the folded state. Pure.

In: a Journal; out: NDJSON. No key, no secret and no volume data: private values are keyed digests in the
lines already. docs/journal-format.md, "Export".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic.journal import events

if TYPE_CHECKING:
    from ic.journal import pages

SCHEMA = "ic.journal-export/1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: whose journal this is, which lines it has, and what wrote it."""

    schema: str = SCHEMA
    stack: str
    lineage: str
    first: int
    last: int
    chain: str
    version: int = events.VERSION
    ic: str


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line: the digest of the state that all lines fold to."""

    schema: str = f"{SCHEMA}-end"
    lines: int
    state: str


def export(journal: pages.Journal, *, stack: str, version: str) -> bytes:
    """The file's bytes; `version` is that of ic."""
    header = Header(
        stack=stack,
        lineage=journal.lineage,
        first=journal.lines[0].n if journal.lines else 0,
        last=journal.recorded.sequence,
        chain=journal.recorded.chain,
        ic=version,
    )
    footer = Footer(lines=len(journal.lines), state=journal.folding().digest())
    parts = [msgspec.json.encode(header), *(line.raw for line in journal.lines)]
    parts.append(msgspec.json.encode(footer))
    return b"".join(part.rstrip(b"\n") + b"\n" for part in parts)
