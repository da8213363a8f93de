"""Lines and their chain: events as bytes, packed into the config values that hold them.

Pure. A *line* is one JSON object, ASCII, without a newline in it. The *chain* after a line is
`sha256(chain before + line + newline)`, the first 16 hex digits; it starts from the lineage. It finds
accidents and lost updates; who may write the project can write a new chain, so it stops no one.
A *segment* is the value of one key: lines joined by newlines, or `z:` and the base64 of their zlib form.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEALED = "z:"
#: A sealed value that grows beyond this when opened is not ours (a journal is at most 1 MiB of requests).
OPENED_LIMIT = 64 * 1024 * 1024


def start(lineage: str) -> str:
    """The chain before the first line of a lineage."""
    return hashlib.sha256(f"ic journal {lineage}".encode()).hexdigest()[:16]


def after(chain: str, line: bytes) -> str:
    """The chain after a line."""
    return hashlib.sha256(chain.encode() + line + b"\n").hexdigest()[:16]


def chained(chain: str, lines: Iterable[bytes]) -> Iterator[str]:
    """The chain after each of the lines."""
    for line in lines:
        chain = after(chain, line)
        yield chain


def end_of(chain: str, lines: Iterable[bytes]) -> str:
    """The chain after all of the lines."""
    for line in lines:
        chain = after(chain, line)
    return chain


def joined(lines: Iterable[bytes]) -> str:
    """A plain segment: one line each, a newline after each."""
    return "".join(line.decode("ascii") + "\n" for line in lines)


def split(text: str) -> list[bytes]:
    """The lines of a plain segment, as bytes; empty lines are nothing (an editor may add one)."""
    return [line for line in text.encode().split(b"\n") if line.strip()]


def seal(text: str) -> str:
    """A sealed value: compressed, then base64 (the config holds text)."""
    import base64
    import zlib

    return SEALED + base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def unseal(value: str) -> str:
    """The text of a sealed or plain value.

    Raises ValueError when base64 or compression is damaged, cut short or larger than OPENED_LIMIT.
    """
    if not value.startswith(SEALED):
        return value
    import base64
    import zlib

    packed = base64.b64decode(value[len(SEALED) :], validate=True)
    opener = zlib.decompressobj()
    try:
        text = opener.decompress(packed, OPENED_LIMIT)
    except zlib.error as error:
        raise ValueError(f"damaged compression: {error}") from error
    if not opener.eof or opener.unused_data:
        raise ValueError("sealed value is cut short, too long or followed by something else")
    return text.decode()


def open_segment(value: str) -> list[bytes]:
    """The lines of a segment, sealed or plain. Raises ValueError when it is damaged."""
    return split(unseal(value))
