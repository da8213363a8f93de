"""What may be written in clear, and keyed digests for everything else. Pure.

A whitelist decides (`ic.resources.kind.is_public`): a field that is not named there is journaled as
HMAC-SHA256 with the stack's key, 24 hex digits. Equality is all that planning needs of it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec

from ic.journal import fold
from ic.resources import kind

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How much of a server's sentence goes into an outcome line.
TEXT_LIMIT = 120


def digest(key: bytes, text: str) -> str:
    """The keyed digest of a value: 24 hex digits."""
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:24]


def value(path: kind.Path, text: str, key: bytes) -> fold.Value:
    """The value as it may be written down: itself where the whitelist allows it, else its keyed digest."""
    return text if kind.is_public(path) else fold.Digest(digest(key, text))


def effect(record: kind.Record, key: bytes) -> dict[str, object]:
    """A step's record as it goes on an intent line, in the form that reading the line gives."""
    written = fold.Effect(
        name=record.name,
        pool=record.pool,
        fields={
            fold.path_text(path): value(path, text, key) for path, text in record.fields.items()
        },
        unset=tuple(fold.path_text(path) for path in record.unset),
        facts=record.facts,
        power=record.power or "",
        gone=record.gone,
    )
    return as_read(written)


def as_read(written: object) -> dict[str, object]:
    """A value as it comes back from a line: plain JSON types, no tuples and no structs."""
    return msgspec.json.decode(msgspec.json.encode(written), type=dict[str, object])


def body(written: Mapping[str, object], key: bytes) -> str:
    """12 hex digits for an effect: equal effects have equal ones, and nobody can guess values from it."""
    return digest(key, msgspec.json.encode(written, order="sorted").decode())[:12]


def message(text: str, secrets: tuple[str, ...] = ()) -> str:
    """The beginning of an error's text, printable ASCII only, with values that may be secret taken out.

    Servers repeat what they were sent (a refused config value, for one), so every private value of the
    step is looked for.
    """
    for secret in sorted((secret for secret in secrets if len(secret) > 3), key=len, reverse=True):
        text = text.replace(secret, "[...]")
    clean = "".join(character if " " <= character <= "~" else "?" for character in text)
    return clean[:TEXT_LIMIT]


def private_values(record: kind.Record) -> tuple[str, ...]:
    """The values of a record that must not appear in any text."""
    return tuple(text for path, text in record.fields.items() if not kind.is_public(path))
