"""Plain values to text: YAML and JSON, byte for byte as docker compose 2.40.3 writes them.

Pure. Mappings are written in the order that they have; `shapes` has put them in order. YAML is that of
go-yaml v3 with an indent of two; JSON that of Go's encoding/json, indented or in one line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from ic import errors, units

if TYPE_CHECKING:
    from ic.compose.shapes import Document, Value


# --- YAML -----------------------------------------------------------------------------------------------


def to_yaml(document: Document) -> str:
    """A document as YAML, with a newline at the end."""
    if not document:
        return "{}\n"
    lines: list[str] = []
    _mapping(document, "", lines)
    lines.append("")
    return "\n".join(lines).replace(_JOINED, "")


def to_wide_yaml(document: Document) -> str:
    """A document of texts, and of mappings of texts without newlines, as YAML with an indent of four."""
    return re.sub("^  ", "    ", to_yaml(document), flags=re.MULTILINE)


def _mapping(values: Document, indent: str, lines: list[str], first: str | None = None) -> None:
    """Append the lines of a mapping; `first` begins its first line (`- ` of the list it stands in)."""
    start = indent if first is None else first
    for key, value in values.items():
        simple = _SIMPLE.get(key)
        if simple is None:
            if (not key.isprintable() and re.search(_LINE_BREAK, key)) or len(
                key.encode()
            ) > _LONGEST_KEY:
                _long_key(start, key, value, indent, lines)
                start = indent
                continue
            simple = text(key)
        head = f"{start}{simple}:"
        start = indent
        if value.__class__ is str:
            _text_line(head + " ", cast("str", value), indent, lines)
        elif value and isinstance(value, dict):
            lines.append(head)
            _mapping(cast("Document", value), indent + "  ", lines)
        elif value and isinstance(value, list):
            lines.append(head)
            _list(cast("list[Value]", value), indent + "  ", lines)
        else:
            lines.append(f"{head} {plain(value)}")


def _long_key(start: str, key: str, value: Value, indent: str, lines: list[str]) -> None:
    """A key of several lines, or a long one: after a question mark, the value after a colon below it."""
    _text_line(start + "? ", key, indent, lines)
    _value(indent + ": ", value, indent, lines)


def _list(values: list[Value], indent: str, lines: list[str], first: str | None = None) -> None:
    start = indent if first is None else first
    for value in values:
        head = start + "- "
        start = indent
        _value(head, value, indent, lines)


def _value(head: str, value: Value, indent: str, lines: list[str]) -> None:
    """What stands after a dash, or after the colon of a long key: its first line begins there."""
    if value.__class__ is str:
        _text_line(head, cast("str", value), indent, lines)
    elif isinstance(value, dict) and value:
        _mapping(cast("Document", value), indent + "  ", lines, head)
    elif isinstance(value, list) and value:
        _list(cast("list[Value]", value), indent + "  ", lines, head)
    else:
        lines.append(head + plain(cast("Value", value)))


def _text_line(head: str, value: str, indent: str, lines: list[str]) -> None:
    simple = _SIMPLE.get(value)
    if simple is not None:
        lines.append(head + simple)
    elif "\n" in value and _block_allowed(value):
        lines.append(head + "|" + _block_hints(value))
        _block(value, indent + "  ", lines)
    elif _has_separator(value) and "\n" not in value:
        lines.append(head + _with_separators(value, len(indent) + 2))
    else:
        lines.append(head + text(value))


def _block(value: str, indent: str, lines: list[str]) -> None:
    if not _has_separator(value):
        body = value.removesuffix("\n")
        lines.extend(indent + line if line else "" for line in body.split("\n"))
        return
    pieces = [
        indent + piece if piece and piece not in _BREAKS else piece
        for piece in re.split(_EVERY_BREAK, value)
    ]
    if value[-1] != "\n":
        lines.append("".join(pieces) + (_JOINED[0] if value[-1] in _BREAKS else ""))
    else:
        lines.append("".join(pieces).removesuffix("\n"))


def _has_separator(value: str) -> bool:
    return not value.isascii() and ("\u2028" in value or "\u2029" in value)


def _with_separators(value: str, indent: int) -> str:
    """A text with U+2028 or U+2029 but no newline: go-yaml takes these for breaks and indents after them."""
    if (
        _is_special(value)
        or "\t" in value
        or re.search(_SPACE_BREAK, value)
        or re.search(_BREAK_SPACE, value)
    ):
        return _double(value)
    if _reads_as_other(value):
        return _double(value)
    made = "'"
    column = -1  # in a new line; -1 where none was begun
    for one in value:
        if one in _BREAKS:
            column = 0
        elif column >= 0 and one == " ":
            column += 1
        elif column >= 0:
            made += " " * (indent - column) if column <= indent else "\n" + " " * indent
            column = -1
        made += "''" if one == "'" else one
    return made + "'"


def plain(value: Value) -> str:
    """A value that is no text, on one line; mappings and lists only when they are empty."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:  # noqa: PLR0124 - the one value that differs from itself
            return ".nan"
        if value in _INFINITE:
            return ".inf" if value > 0 else "-.inf"
        return units.number_text(value)
    return str(value)  # a whole number, a date, {} or []


_LONGEST_KEY = 128  # bytes
# Patterns that few texts need are compiled when they do, not at every start.
_LINE_BREAK = "[\r\n\x85\u2028\u2029]"
_JOINED = "\x00\n"  # go-yaml begins no line after a block that ends with U+2028
_BREAKS = "\n\u2028\u2029"
_EVERY_BREAK = "([\n\u2028\u2029])"
_SPACE_BREAK = " [\n\u2028\u2029]"
_BREAK_SPACE = "[\u2028\u2029] "
_INFINITE = (float("inf"), float("-inf"))
_SIMPLE: dict[str, str] = {}  # what was written before; short texts alone, so that it stays small
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.@+-]*")


def text(value: str) -> str:
    """A text on one line: plain where it reads back as itself, else in quotes."""
    if _reads_as_other(value) or "\n" in value:
        return _double(value)
    if not _PLAIN.fullmatch(value):
        if _is_special(value) or "\t" in value:
            return _double(value)
        if value.strip(" ") != value or _INDICATOR.search(value):
            return "'" + value.replace("'", "''") + "'"
    if len(value) < 64 and len(_SIMPLE) < 4096:
        _SIMPLE[value] = value
    return value


_OLD_BOOLEANS = frozenset(
    one
    for word in ("y", "yes", "on", "n", "no", "off")
    for one in (word, word.title(), word.upper())
)
_BASE_60 = r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"


def _is_special(value: str) -> bool:
    """Whether a text has what YAML does not call printable, or what is beyond the basic plane."""
    if value.isascii():
        return not value.replace("\n", "").replace("\t", "").isprintable()
    return re.search(_SPECIAL, value) is not None


_SPECIAL = "[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd]"


_INDICATOR = re.compile(
    r"\A(---|\.\.\.)|\A[#,\[\]{}&*!|>'\"%@`]|\A[?:-](?=[ \t]|\Z)|:(?=[ \t]|\Z)|(?<=[ \t])#"
)


def _reads_as_other(value: str) -> bool:
    from ic.compose import document as reading

    if value in _OLD_BOOLEANS or (":" in value and re.fullmatch(_BASE_60, value)):
        return True
    try:
        return not isinstance(reading.resolve(value), str)
    except ValueError:
        return True


def _block_allowed(value: str) -> bool:
    return not value.endswith(" ") and not re.search(_SPACE_BREAK, value) and not _is_special(value)


def _block_hints(value: str) -> str:
    hint = "2" if value[0] in " \n\u2028\u2029" else ""
    if value[-1] not in _BREAKS:
        return hint + "-"
    return hint + ("+" if len(value) == 1 or value[-2] in _BREAKS else "")


_ESCAPES = {
    "\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r",
    "\x1b": "e", '"': '"', "\\": "\\", "\x85": "N", "\u2028": "L", "\u2029": "P",
}  # fmt: skip


def _double(value: str) -> str:
    # go-yaml looks for a byte order mark at the beginning of the text, whichever character it writes.
    every = value.startswith("\ufeff")
    return '"' + "".join([_escaped(one, every=every) for one in value]) + '"'


def _escaped(one: str, *, every: bool) -> str:
    if one in _ESCAPES:
        return "\\" + _ESCAPES[one]
    if not every and not _is_special(one):
        return one
    if one == "\xa0":
        return "\\_"
    code = ord(one)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


# --- JSON -----------------------------------------------------------------------------------------------


def to_json(value: Value) -> str:
    """A value as JSON with an indent of two, without a newline at the end."""
    parts: list[str] = []
    _json(value, "\n", "  ", parts)
    return "".join(parts)


def to_compact_json(value: Value) -> str:
    """A value as JSON in one line without a space."""
    parts: list[str] = []
    _json(value, "", "", parts)
    return "".join(parts)


def to_wide_json(value: Value) -> str:
    """A value as JSON with an indent of four, `<`, `>` and `&` as they are: the form of its tables."""
    parts: list[str] = []
    _json(value, "\n", "    ", parts)
    return re.sub(_MARKUP, lambda found: chr(int(found[1], 16)), "".join(parts))


_MARKUP = r"(?<!\\)\\u00(3c|3e|26)"


def _json(value: Value, newline: str, step: str, parts: list[str]) -> None:
    """Append the pieces; `newline` begins a line as far in as the value stands, and is empty for one line."""
    if isinstance(value, str):
        parts.append(_quoted(value))
    elif isinstance(value, dict) and value:
        inner = newline + step
        mark = "{"
        colon = ": " if newline else ":"
        for key, one in cast("Document", value).items():
            parts.append(f"{mark}{inner}{_quoted(key)}{colon}")
            _json(one, inner, step, parts)
            mark = ","
        parts.append(newline + "}")
    elif isinstance(value, list) and value:
        inner = newline + step
        mark = "["
        for one in cast("list[Value]", value):
            parts.append(mark + inner)
            _json(one, inner, step, parts)
            mark = ","
        parts.append(newline + "]")
    elif isinstance(value, float):
        parts.append(_json_number(value))
    else:
        parts.append(plain(cast("Value", value)))


def _json_number(value: float) -> str:
    """A number as encoding/json writes it. Raises IcError for one that JSON has no word for."""
    if value != value or value in _INFINITE:  # noqa: PLR0124 - not a number
        reason = f"JSON has no word for {units.number_text(value)}"
        raise errors.IcError(f"cannot print as JSON: {reason}", code="E_VALUE")
    if value and not 1e-6 <= abs(value) < 1e21:
        mantissa, _, exponent = repr(value).partition("e")
        if not exponent:
            mantissa, _, exponent = f"{value:e}".partition("e")
        sign = exponent[0] if exponent[0] in "+-" else "+"
        return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-0')}"
    if value.is_integer():
        return "-0" if value == 0 and str(value)[0] == "-" else str(int(value))
    written = repr(value)
    if "e" in written:
        from decimal import Decimal

        return f"{Decimal(written):f}"
    return written


_ESCAPED = '["\\\\\x00-\x1f<>&\u2028\u2029]'
_JSON_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
}  # fmt: skip


def _quoted(value: str) -> str:
    if re.search(_ESCAPED, value):
        value = re.sub(_ESCAPED, _json_escape, value)
    return f'"{value}"'


def _json_escape(found: re.Match[str]) -> str:
    return _JSON_ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}"
