"""The variables that texts of compose files use, and what stands for a missing one.

Pure: the tree as plain values, not interpolated, in; variables by name out. For `ic config --variables`: what
is found, and how, is what docker compose 2.40.3 finds; it reads a text line by line, never past a newline.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_USE = re.compile(r"\$(?:(\$)|([_A-Za-z][_A-Za-z0-9]*)|(\{))")
_NAME = re.compile(r"[_A-Za-z0-9]*")
_BRACED = re.compile(r"[_A-Za-z][_A-Za-z0-9]*(?:(?=\})|:?[-+?])")
_BRACES = re.compile(r"\{.?|\}")
_DEPTH_LIMIT = 64


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """One variable: what stands for it when it is missing, and when it is there (each empty for itself)."""

    name: str
    default: str = ""
    alternate: str = ""
    required: bool = False


def of_tree(root: Mapping[str, object]) -> dict[str, Variable]:
    """The variables of all texts of a tree, by name; of several uses the last one stands."""
    found: dict[str, Variable] = {}
    waiting: list[object] = [dict(root)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "$" in value:
                found.update((one.name, one) for one in of_text(value))
        elif isinstance(value, dict):
            below = cast("dict[str, object]", value)
            waiting.extend(below[name] for name in sorted(below, reverse=True))
        elif isinstance(value, list):
            waiting.extend(reversed(cast("list[object]", value)))
    return found


def of_text(text: str, depth: int = 0) -> list[Variable]:
    """The variables of one text, with those of their defaults behind them."""
    found: list[Variable] = []
    chain: list[list[Variable]] = []  # braces of one line, of which the first use counts
    chain_end = -1
    use = _USE.search(text)
    while use:
        at = use.end()
        if use.start() > chain_end:
            found.extend(one for group in reversed(chain) for one in group)
            chain = []
        if use[3] is None:
            if use[2] is not None:
                chain.append([Variable(name=use[2])])
        elif not _BRACED.match(text, at) or (last := _last_brace(text, at)) < 0:
            chain.append([Variable(name="")])
        else:
            chain_end = max(chain_end, last)
            close = _closing(text, at, last)
            chain.append(_variable(text[at:close], depth))
            at = close + 1
        use = _USE.search(text, at)
    found.extend(one for group in reversed(chain) for one in group)
    return found


def _last_brace(text: str, at: int) -> int:
    newline = text.find("\n", at)
    return text.rfind("}", at, len(text) if newline < 0 else newline)


def _closing(text: str, at: int, last: int) -> int:
    """Where the brace that is open closes; the last one of the line where none does."""
    level = 1
    for found in _BRACES.finditer(text, at, last + 1):
        level += -1 if found[0] == "}" else 1
        if not level:
            return found.start()
    return last


def _variable(inside: str, depth: int) -> list[Variable]:
    """What stands in braces, and the variables of its default or alternate text."""
    name = _NAME.match(inside)
    assert name is not None
    rest = inside[name.end() :].removeprefix(":")
    kind, text = rest[:1], rest[1:]
    made = Variable(
        name=name[0],
        default=text if kind == "-" else "",
        alternate=text if kind == "+" else "",
        required=kind == "?",
    )
    below = of_text(text, depth + 1) if kind in ("-", "+") and depth < _DEPTH_LIMIT else []
    return [made, *below]
