"""Values that a schema takes: what tests of every key write into their files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ic import errors
from ic.fields import tree

if TYPE_CHECKING:
    from ic.fields import schema


def value(key: schema.Key) -> object:
    """The smallest value that says something and that the reader takes."""
    types = key.types or frozenset({str})
    if key.fault is not None and key.cast is None and str in types:
        for text in ("1s", "64m", "0440", "1", "true", "false", "h=10.0.0.1"):
            if not (key.fault(_node(text)) or key.asks_nothing(_node(text))):
                return text
    if int in types:
        return max(key.low or 0, 1)
    if bool in types:
        return True not in key.usual
    if str in types:
        return key.enum[0] if key.enum else "always"
    if list in types and key.item is not None:
        return [value(key.item)]
    if key.keys is not None:
        names = key.required or tuple(key.keys)[:1]
        return {name: value(key.keys[name]) for name in names}
    return {"some": value(key.names)} if key.names is not None else {}


def flow(key: schema.Key) -> str:
    """That value as YAML on one line."""
    return json.dumps(value(key))


def _node(text: str) -> tree.Node:
    return tree.Node(text, errors.Position("f", 1, 1))
