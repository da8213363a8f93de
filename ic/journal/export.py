"""A journal as one file: a header, every retained line as it is, the digest of the folded state. Pure.

Where retention has removed the beginning, the header carries the snapshot that the lines go on from.

In: a Journal; out: NDJSON. No key, no secret and no volume data: private values are keyed digests in the
lines already. docs/journal-format.md, "Export".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic.journal import events, fold

if TYPE_CHECKING:
    from ic.journal import pages

SCHEMA = "ic.journal-export/1"


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The first line: whose journal this is, which lines it has, and what wrote it."""

    schema: str
    stack: str
    lineage: str
    first: int
    last: int
    chain: str
    version: int
    ic: str
    snapshot: fold.Snapshot | None = None


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """The last line: the digest of the state that all lines fold to."""

    schema: str = f"{SCHEMA}-end"
    lines: int
    state: str


def export(journal: pages.Journal, *, stack: str, version: str) -> bytes:
    """The file's bytes; `version` is that of ic."""
    truncated = bool(journal.lines) and journal.lines[0].last > journal.lines[0].n
    header = Header(
        schema=SCHEMA,
        version=events.VERSION,
        snapshot=journal.base if truncated else None,
        stack=stack,
        lineage=journal.lineage,
        first=journal.lines[0].n if journal.lines else 0,
        last=journal.recorded.sequence,
        chain=journal.recorded.chain,
        ic=version,
    )
    footer = Footer(lines=len(journal.lines), state=journal.folding().digest())
    parts = [
        events.ascii_only(msgspec.json.encode(header)),
        *(line.raw for line in journal.lines),
        msgspec.json.encode(footer),
    ]
    return b"".join(part + b"\n" for part in parts)
