"""The everyday part of YAML, line by line: block collections, scalars and flow collections on one line.

Pure: a text in; its events out, the very ones that PyYAML's parser gives, or Odd raised as soon as anything
else stands in the text (scalars over several lines, tags, tabs, several documents, every mistake): then the
parser has to read it from the start. It exists for speed alone: PyYAML's scanner is most of the time that
reading a stack takes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCALAR, MAPPING, SEQUENCE, END, ALIAS, DOCUMENT, DOCUMENT_END = range(7)

# kind, line and column from 0, value (of a scalar; an alias' name), style, tag, anchor
Event = tuple[int, int, int, str, str, "str | None", "str | None"]

# What only texts beyond ASCII need is compiled for them, not at every start.
_ODD = "[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_MARKER = re.compile(r"^(---|\.\.\.|%)", re.MULTILINE)

_WORD = r"[A-Za-z0-9_./$<(~+=^][^\s:,\[\]{}#&*!|>'\"%@`?]*"
_KEY = re.compile(
    rf"(?:(?P<word>{_WORD})|\"(?P<double>[^\"\\\n]*)\"|'(?P<single>[^'\n]*)'):(?P<gap> +|\Z)"
)
_DOUBLE = re.compile(r'"([^"\\]*(?:\\["\\nrt][^"\\]*){0,2000})"')
_SINGLE = re.compile(r"'([^']*(?:''[^']*){0,2000})'(?!')")
_END = re.compile(r" *(?: #.*)?\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./$(<~+=^\\;")
_CUT = re.compile(r" +#|:(?: |\Z)")
_ESCAPE = re.compile(r'\\(["\\nrt])')
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_FLOW = re.compile(
    r" *(?:(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,)"
    r"|\"(?P<double>[^\"\\]*(?:\\[\"\\nrt][^\"\\]*){0,2000})\"|'(?P<single>[^']*(?:''[^']*){0,2000})'(?!')"
    r"|\*(?P<alias>[A-Za-z0-9_-]+)(?=[ ,\]}])"
    r"|(?P<plain>(?:[A-Za-z0-9_./$(<~+=^]|-(?=[A-Za-z0-9_./$-]))"
    r"(?:[A-Za-z0-9_./$()<~+=^@%*&!-]+|:(?=[A-Za-z0-9_./$-])| +(?=[A-Za-z0-9_./$(<~+=^@%-])){0,2000}))"
)
_FLOW_CLOSE = re.compile(r" *[\]}]")
_PREFIXED = frozenset({"double", "single", "alias"})
_STYLES = {"plain": "", "double": '"', "single": "'"}
_ENDED: Event = (END, 0, 0, "", "", None, None)
# Repeated groups are bounded: the matcher remembers every turn.
_DEEPEST = 128
_MOST_EVENTS = 300_002  # of one line; no file may hold half as many values
_LONGEST_KEY = 1000  # of YAML's 1024 characters


class Endless(Exception):
    """More values on one line than any file may hold."""


class Deep(Exception):
    """More levels than any file may have."""

    def __init__(self, line: int, column: int) -> None:
        super().__init__()
        self.line = line
        self.column = column


class Odd(Exception):
    """Something that the parser has to read."""


def read(text: str) -> Iterator[Event]:
    """The events of a text; raises Odd, maybe after some of them, when it is for the parser to read."""
    start = 4 if text.startswith("---\n") else 0
    if _is_odd(text) or _MARKER.search(text, start):
        raise Odd
    return _Lines(text.split("\n"), 1 if start else 0).events()


def _is_odd(text: str) -> bool:
    """Whether a text has a character that is for the parser to read."""
    if text.isascii():
        return not text.replace("\n", "").isprintable()
    return re.search(_ODD, text) is not None


class _Lines:
    """The lines of one document being read."""

    def __init__(self, lines: list[str], first: int) -> None:
        self.lines = lines
        self.first = first
        self.out: list[Event] = []
        self.frames: list[tuple[int, int]] = []  # kind and column of every open collection
        self.wants: tuple[int, int, str | None] | None = (
            None  # where a value is missing; its anchor
        )
        self.anchor_at = (0, 0)
        self.started = False

    def events(self) -> Iterator[Event]:
        out, lines = self.out, self.lines
        at = self.first
        total = len(lines)
        yield (DOCUMENT, 0, 0, "", "", None, None)
        while at < total:
            line = lines[at]
            body = line.lstrip(" ")
            if not body or body[0] == "#":
                at += 1
                continue
            at = self._content(at, line, len(line) - len(body))
            yield from out
            out.clear()
        if not self.started:
            raise Odd
        self._close(-1, dash=False)
        yield from out
        yield (DOCUMENT_END, total, 0, "", "", None, None)

    def _close(self, column: int, *, dash: bool) -> None:
        """End the collections that a line beginning at a column is not part of."""
        frames = self.frames
        while frames:
            kind, at = frames[-1]
            if at < column or (at == column and (kind == MAPPING or dash)):
                break
            self._null()
            frames.pop()
            self.out.append(_ENDED)

    def _null(self) -> None:
        """A value that is missing is null."""
        if self.wants is not None:
            line, column, anchor = self.wants
            if anchor is not None:
                raise Odd
            self.out.append((SCALAR, line, column, "", "", None, None))
            self.wants = None

    def _content(self, at: int, line: str, column: int) -> int:
        """Read a line from a column on; the number of the next line to read."""
        dash = line[column] == "-" and (column + 1 == len(line) or line[column + 1] == " ")
        self._close(column, dash=dash)
        while dash:
            self._entry(at, column, SEQUENCE)
            self.wants = (at, column + 1, None)
            rest = line[column + 1 :].lstrip(" ")
            if not rest or rest[0] == "#":
                return at + 1
            column = len(line) - len(rest)
            dash = rest[0] == "-" and (len(rest) == 1 or rest[1] == " ")
            if not dash and _KEY.match(line, column) is None:
                return self._value(at, line, column)
        key = _KEY.match(line, column)
        if key is None or key.end() - column > _LONGEST_KEY:
            raise Odd
        self._entry(at, column, MAPPING)
        word = key["word"]
        if word is not None:
            self.out.append((SCALAR, at, column, word, "", None, None))
        elif key["double"] is not None:
            self.out.append((SCALAR, at, column, key["double"], '"', None, None))
        else:
            self.out.append((SCALAR, at, column, key["single"], "'", None, None))
        end = key.end()
        self.wants = (at, key.start("gap"), None)
        if end == len(line) or (line[end] == "#"):
            return at + 1
        return self._value(at, line, end)

    def _entry(self, at: int, column: int, kind: int) -> None:
        """Be in a collection at a column: the open one, or a new one that is the value that is missing."""
        frames = self.frames
        if frames:
            open_kind, open_at = frames[-1]
            if open_kind == kind and open_at == column:
                self._null()
                return
            inside = open_at < column or (
                open_at == column and kind == SEQUENCE and open_kind == MAPPING
            )
            if not inside or self.wants is None:
                raise Odd
            anchor = self.wants[2]
        elif self.started:
            raise Odd
        else:
            self.started = True
            anchor = None
        line, start = (at, column) if anchor is None else self.anchor_at
        self.out.append((kind, line, start, "", "", None, anchor))
        self.wants = None
        frames.append((kind, column))

    def _value(self, at: int, line: str, column: int) -> int:
        """The value that a line has at a column, and what may follow it; the number of the next line."""
        anchor: str | None = None
        start = column
        if line[column] == "&":
            column, anchor = self._anchor(at, line, column)
            if self.wants is not None and self.wants[2] is not None:
                return at + 1
        first = line[column]
        if first == "|":
            return self._literal(at, line, column, start, anchor)
        if first in "\"'":
            end = self._quoted(at, line, column, start, anchor)
        elif first in "[{":
            end = self._flow(at, line, column, start, anchor)
        elif first == "*":
            found = _NAME.match(line, column + 1)
            if found is None or anchor is not None:
                raise Odd
            self.out.append((ALIAS, at, column, found[0], "", None, None))
            self.wants = None
            end = found.end()
        else:
            if first not in _PLAIN and not _begins_plain(first, line[column + 1 : column + 2]):
                raise Odd
            cut = _CUT.search(line, column)
            if cut is not None and cut[0][0] != " ":
                raise Odd
            end = len(line) if cut is None else cut.start()
            self._scalar(at, start, line[column:end].rstrip(" "), "", anchor)
        if _END.match(line, end) is None:
            raise Odd
        return at + 1

    def _anchor(self, at: int, line: str, column: int) -> tuple[int, str]:
        """An anchor and where what it is for begins; on another line, the missing value knows of it."""
        name = _NAME.match(line, column + 1)
        if name is None:
            raise Odd
        end = name.end()
        self.anchor_at = (at, column)
        rest = line[end:].lstrip(" ")
        if rest and line[end] != " ":
            raise Odd
        if not rest or rest[0] == "#":
            self.wants = (at, end, name[0])
        elif rest[0] in "-&" or _KEY.match(rest):
            raise Odd
        return len(line) - len(rest), name[0]

    def _quoted(self, at: int, line: str, column: int, start: int, anchor: str | None) -> int:
        quote = line[column]
        found = (_DOUBLE if quote == '"' else _SINGLE).match(line, column)
        if found is None:
            raise Odd
        self._scalar(at, start, _unquoted(found[1], quote), quote, anchor)
        return found.end()

    def _scalar(self, at: int, column: int, value: str, style: str, anchor: str | None) -> None:
        self.out.append((SCALAR, at, column, value, style, None, anchor))
        self.wants = None

    def _literal(self, at: int, line: str, column: int, start: int, anchor: str | None) -> int:
        """A text that follows `|`, `|-` or `|+`, up to the next line that is not indented."""
        head = line[column:].rstrip(" ")
        if head not in ("|", "|-", "|+"):
            raise Odd
        lines = self.lines
        outer = max(self.frames[-1][1], 0)
        first = at + 1
        while first < len(lines) and not lines[first]:
            first += 1
        if first >= len(lines):
            raise Odd
        indent = len(lines[first]) - len(lines[first].lstrip(" "))
        if indent <= outer or indent == len(lines[first]):
            raise Odd
        margin = " " * indent
        body: list[str] = [""] * (first - at - 1)
        end = first
        while end < len(lines):
            one = lines[end]
            if one.startswith(margin):
                body.append(one[indent:])
            elif not one.strip(" "):
                body.append("")
            else:
                break
            end += 1
        if end >= len(lines) and lines[-1]:
            raise Odd  # the text ends without a line's end
        if end >= len(lines):
            body.pop()
        last = len(body)
        while last and not body[last - 1]:
            last -= 1
        if head == "|+":
            value = "\n".join(body) + "\n"
        else:
            value = "\n".join(body[:last]) + ("" if head == "|-" else "\n")
        self._scalar(at, start, value, "|", anchor)
        return end

    def _flow(self, at: int, line: str, column: int, start: int, anchor: str | None) -> int:
        """A flow collection that ends on its line; the column behind it."""
        out = self.out
        opened: list[str] = []
        may = "item"  # what may come next: an item (or the end), a value, a comma (or the end)
        while True:
            token = _FLOW.match(line, column)
            if token is None:
                raise Odd
            kind = token.lastgroup or ""
            column = token.end()
            if kind == "close":
                if opened.pop() != token["close"] or may == "value":
                    raise Odd
                out.append(_ENDED)
                if not opened:
                    self.wants = None
                    return column
                may = "comma"
            elif kind == "comma":
                # What follows a comma must not be the end.
                if may != "comma" or _FLOW_CLOSE.match(line, column):
                    raise Odd
                may = "item"
            elif may == "comma":
                raise Odd
            elif kind == "open":
                where = (at, token.start(kind)) if opened else (at, start)
                self._flow_open(token, where, None if opened else anchor, opened, may)
                may = "item"
            else:
                where = (at, token.start(kind) - (kind in _PREFIXED))
                is_key = may == "item" and opened[-1] == "}"
                column = (self._flow_key if is_key else self._flow_value)(where, token, line)
                may = "value" if is_key else "comma"

    def _flow_open(
        self,
        token: re.Match[str],
        where: tuple[int, int],
        anchor: str | None,
        opened: list[str],
        may: str,
    ) -> None:
        if may == "item" and opened and opened[-1] == "}":
            raise Odd
        if len(self.out) > _MOST_EVENTS:
            raise Endless
        if len(opened) >= _DEEPEST:
            raise Deep(*where)
        is_mapping = token["open"] == "{"
        self.out.append((MAPPING if is_mapping else SEQUENCE, *where, "", "", None, anchor))
        opened.append("}" if is_mapping else "]")

    def _flow_key(self, where: tuple[int, int], token: re.Match[str], line: str) -> int:
        end = token.end()
        kind = token.lastgroup or ""
        if kind == "alias" or line[end : end + 2] != ": " or end - where[1] > _LONGEST_KEY:
            raise Odd
        style = _STYLES[kind]
        self.out.append((SCALAR, *where, _unquoted(token[kind], style), style, None, None))
        return end + 2

    def _flow_value(self, where: tuple[int, int], token: re.Match[str], line: str) -> int:
        kind = token.lastgroup or ""
        if len(self.out) > _MOST_EVENTS:
            raise Endless
        if kind == "alias":
            self.out.append((ALIAS, *where, token["alias"], "", None, None))
            return token.end()
        if line[token.end() : token.end() + 1] == ":":
            raise Odd
        style = _STYLES[kind]
        self.out.append((SCALAR, *where, _unquoted(token[kind], style), style, None, None))
        return token.end()


def _begins_plain(first: str, second: str) -> bool:
    """Whether a character that is no ASCII letter or the like begins a plain scalar."""
    if first in "-:":
        return second not in ("", " ")
    return "\xa1" <= first <= "\ud7ff" or "\ue000" <= first <= "\ufefe" or first >= "\uff00"


def _unquoted(text: str, style: str) -> str:
    if style == '"':
        return _ESCAPE.sub(_unescaped, text) if "\\" in text else text
    return text.replace("''", "'") if style else text


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPES[found[1]]
