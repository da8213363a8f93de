"""What only a look at the value can tell: durations, sizes, file modes, counts, hosts.

Pure. Each function takes a node that has the right type and says why docker compose would not take its
value, as the end of the sentence "KEY: ..."; the empty text when it would. A section names one as the
`fault` of its Key.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ic import units

if TYPE_CHECKING:
    from collections.abc import Callable

    from ic.fields import tree


def duration(node: tree.Node) -> str:
    """A text like `1m30s`, with a sign or without."""
    return _reason(_signed, node)


def _signed(text: str) -> int:
    return units.duration_ms(text[1:] if text[:1] in ("-", "+") else text)


def negative(node: tree.Node) -> str:
    """A number that counts something."""
    if isinstance(node.data, (int, float)) and node.data < 0:
        return f"{node.data} must not be negative"
    return ""


def up_to(high: int, low: int = 0) -> Callable[[tree.Node], str]:
    """A number that docker compose keeps in few bits: of what does not fit it makes another one, or none."""

    def fault(node: tree.Node) -> str:
        data = node.data
        if isinstance(data, (int, float)) and not low <= data <= high:
            return f"{units.number_text(data)} is not a number from {low} to {high}"
        return ""

    return fault


def size(node: tree.Node) -> str:
    """A text like `64m`; numbers are bytes."""
    return _reason(units.size_bytes, node)


def _reason(read: Callable[[str], int], node: tree.Node) -> str:
    if not isinstance(node.data, str):
        return ""
    try:
        read(node.data)
    except ValueError as problem:
        return str(problem)
    return ""


_OCTAL = r"[+-]?[0-7]{1,21}"
_PLACES = "[0-9](_?[0-9])*"
_FLOAT = rf"(?i)[+-]?(({_PLACES}\.?({_PLACES})?|\.{_PLACES})(e[+-]?{_PLACES})?|inf(inity)?|nan)"


def mode(node: tree.Node) -> str:
    """A file mode: octal digits as text, or a whole number."""
    data = node.data
    if isinstance(data, str) and not re.fullmatch(_OCTAL, data):
        return f'invalid file mode {data!r}; write it like "0440"'
    if isinstance(data, float):
        return f"invalid file mode {data}"
    return ""


def whole(node: tree.Node) -> str:
    """A number, as text neither."""
    if isinstance(node.data, str):
        return f"must be an integer, not the string {node.data!r}"
    return ""


def no_fraction(node: tree.Node) -> str:
    """A number without a decimal point or an exponent; text is another matter."""
    if isinstance(node.data, float):
        return f"{units.number_text(node.data)} must be written without a point or an exponent"
    return ""


def given(node: tree.Node) -> str:
    """A value at all: what the schema lets be null, and docker compose cannot use so."""
    return "has no value" if node.data is None else ""


def exact(node: tree.Node) -> str:
    """A whole number written as one."""
    return whole(node) or no_fraction(node)


def option(node: tree.Node) -> str:
    """Text, or a whole number; nothing is an empty text."""
    fits = node.data is None or type(node.data) in (str, int)
    return "" if fits else "must be text"


def text(node: tree.Node) -> str:
    """Text where the schema would let other scalars pass."""
    if isinstance(node.data, (str, dict, list)):
        return ""
    return "must be a string"


def float_text(node: tree.Node) -> str:
    """A number, also as text."""
    data = node.data
    if isinstance(data, str) and not re.fullmatch(_FLOAT, data):
        return f"{data!r} is not a number"
    return ""


def count(node: tree.Node) -> str:
    """`all`, or a whole number, also as text."""
    data = node.data
    if isinstance(data, str) and data.lower() != "all" and not re.fullmatch(r"[+-]?[0-9]+", data):
        return f"{data!r} is an invalid value: 'all' or a number is allowed"
    return no_fraction(node)


def variable(node: tree.Node) -> str:
    """`NAME=VALUE` whose name does not end in a space."""
    name = node.data.partition("=")[0] if isinstance(node.data, str) else ""
    if name and name[-1].isspace():
        return f"{name!r} is not the name of an environment variable: it has a trailing space"
    return ""


def host(node: tree.Node) -> str:
    """`NAME=ADDRESS`, or with a colon."""
    if not isinstance(node.data, str):
        return ""
    name, found, _ = node.data.partition("=" if "=" in node.data else ":")
    if not found:
        return f"{node.data!r} has no IP address; write it like host=10.0.0.1"
    return _host_name(name)


def hosts(node: tree.Node) -> str:
    """A mapping of names of hosts."""
    for name in node.data if isinstance(node.data, dict) else ():
        reason = _host_name(name)
        if reason:
            return reason
    return ""


def _host_name(name: str) -> str:
    return f"{name!r} is not the name of a host" if not name or ":" in name or "=" in name else ""


def whole_text(node: tree.Node) -> str:
    """A whole number, also as text."""
    data = node.data
    if isinstance(data, str) and not re.fullmatch(r"[+-]?[0-9]+", data):
        return f"{data!r} is not a whole number"
    return ""
