"""What is wrong with a text that is no YAML, in words for who wrote it. Pure.

In: the parser's complaint (what it was at, what it found, where, and where that began) and the text. Out: a
reason, the place to look at, and what to do. The parser names its own rules, and the place where it
gave up; a person wants the line that is indented wrongly, the quote that is never closed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_QUOTES = "put it in quotes"
_QUOTES_ALL = "put all of it in quotes"
_UNFIT = "this line does not fit the lines above it"


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """What the parser says: lines and columns from 0; `began` is where the thing began that it was at."""

    context: str
    problem: str
    at: tuple[int, int] | None
    began: tuple[int, int] | None
    lines: tuple[str, ...]

    @property
    def found(self) -> str:
        """What stands where something else was expected."""
        match = re.search(r"(?:but found|but got) '?(.*?)'?$", self.problem)
        return match[1] if match else ""

    @property
    def words(self) -> str:
        """The parser's own words."""
        return f"{self.context} {self.problem}".strip()

    def line(self, number: int) -> str:
        """A line, empty behind the last."""
        return self.lines[number] if number < len(self.lines) else ""


class Fault(msgspec.Struct, frozen=True):
    """A reason, the place (line and column from 0) and a hint."""

    reason: str
    at: tuple[int, int] | None
    hint: str = ""


def explain(error: Any, text: str) -> Fault:
    """The fault that a parser's MarkedYAMLError is about."""

    def place(mark: Any) -> tuple[int, int] | None:
        return None if mark is None else (mark.line, mark.column)

    said = Complaint(
        context=error.context or "",
        problem=error.problem or "",
        at=place(error.problem_mark) or place(error.context_mark),
        began=place(error.context_mark),
        lines=tuple(text.splitlines()),
    )
    for pattern, judge in _JUDGES:
        if said.at is not None and re.search(pattern, said.words):
            return judge(said, *said.at)
    return Fault(said.words, said.at)


def _start(said: Complaint, row: int, column: int) -> Fault:
    """A character that begins nothing."""
    line = said.line(row)
    if line[column : column + 1] == "\t":
        if not line[:column].strip():
            return Fault("a tab cannot indent a line", (row, column), "indent with spaces")
        return Fault("a tab cannot start a token", (row, column), "write spaces")
    return Fault(f"a value cannot begin with {line[column : column + 1]!r}", (row, column), _QUOTES)


def _name(said: Complaint, row: int, column: int) -> Fault:
    """`*` or `&` without a name."""
    row, column = said.began or (row, column)
    what = "an alias" if "alias" in said.context else "an anchor"
    sign = said.line(row)[column : column + 1]
    return Fault(f"{sign!r} begins {what}, and no name follows", (row, column), _QUOTES)


def _colon(said: Complaint, row: int, column: int) -> Fault:
    """`key: value` where only a value can stand."""
    line = said.line(row)
    if re.search(r":\s", line[:column]):
        hint = "put the value in quotes when the ':' is a part of it"
        return Fault("a second ': ' in one line", (row, column), hint)
    before = _line_before(said, row)
    first = (row, _indent(line))
    reason = "this line goes on with the text of the line before, and has a ':'"
    if before is None:
        return Fault(reason, first)
    if re.match(r"\s*(- )?[\w.-]+:[^\s:]", said.line(before)):
        return Fault(reason, first, f"line {before + 1}: write a space behind the ':'")
    return Fault(reason, first, _indents(said, row, before))


def _item(_said: Complaint, row: int, column: int) -> Fault:
    reason = "an item of a list cannot begin here"
    return Fault(reason, (row, column), "begin it on a line of its own; or put the text in quotes")


def _block(said: Complaint, row: int, column: int) -> Fault:
    """A line that is no part of the mapping or list it stands in."""
    if said.began is None or said.found == "<stream end>":
        return Fault(said.words, (row, column))
    if column != _indent(said.line(row)):
        return Fault("a value ends here, and something follows", (row, column), _QUOTES_ALL)
    above, wanted = said.began
    what = "mapping" if "mapping" in said.context else "list"
    before = _line_before(said, row)
    if column != wanted:
        hint = (
            f"it is indented by {_spaces(column)}, the {what} from line {above + 1} on by {wanted}"
        )
        if before is not None and before != above:
            hint += f", line {before + 1} by {_indent(said.line(before))}"
        return Fault(_UNFIT, (row, column), hint)
    if what == "list":
        hint = f"line {above + 1} begins a list: every line of it begins with '- '"
        return Fault("this line is not an item of the list above it", (row, column), hint)
    if said.found != "-":
        return Fault(_UNFIT, (row, column))
    if before is not None and said.line(before).lstrip().startswith("- "):
        return Fault(_UNFIT, (row, column), _indents(said, row, before))
    hint = f"line {above + 1} begins a mapping: its lines are of the form `key: value`"
    return Fault("an item of a list in a mapping", (row, column), hint)


def _outside(said: Complaint, row: int, column: int) -> Fault:
    """A line that is indented less than the first one."""
    first = next((n for n in range(row) if said.lines[n].strip(" -")), row)
    return Fault(_UNFIT, (row, column), _indents(said, row, first) if first < row else "")


def _quote(said: Complaint, row: int, column: int) -> Fault:
    return Fault("the quote that begins here is never closed", said.began or (row, column))


def _escape(said: Complaint, row: int, column: int) -> Fault:
    sign = said.line(row)[column : column + 1]
    hint = "write \\\\ for a backslash, or put the text in single quotes"
    return Fault(f"\\{sign} means nothing within double quotes", (row, column), hint)


def _flow(said: Complaint, row: int, column: int) -> Fault:
    """`[` or `{` that is not closed where it should be."""
    above, start = said.began or (row, column)
    sign = said.line(above)[start : start + 1]
    close = {"[": "]", "{": "}"}.get(sign, "")
    if said.found == "<stream end>":
        if close:
            return Fault(f"the {sign!r} that begins here is never closed", (above, start))
        return Fault("the file ends within '[' or '{'", (row, column))
    if not close:
        return Fault(said.words, (row, column))
    hint = f"the {sign!r} on line {above + 1} is not closed yet"
    return Fault(f"',' or {close!r} is expected here", (row, column), hint)


def _key(said: Complaint, row: int, column: int) -> Fault:
    """A line that ought to be a key."""
    hint = "write `key: value`, with a space behind the ':'"
    return Fault("this line has no ':' behind its key", said.began or (row, column), hint)


def _line_before(said: Complaint, row: int) -> int | None:
    """The nearest line above with something on it."""
    for number in range(min(row, len(said.lines)) - 1, -1, -1):
        line = said.lines[number].strip()
        if line and not line.startswith("#"):
            return number
    return None


def _indents(said: Complaint, row: int, before: int) -> str:
    here, there = _indent(said.line(row)), _indent(said.line(before))
    return f"it is indented by {_spaces(here)}, line {before + 1} by {there}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _spaces(count: int) -> str:
    return f"{count} space{'' if count == 1 else 's'}"


_JUDGES: tuple[tuple[str, Callable[[Complaint, int, int], Fault]], ...] = (
    (r"that cannot start any token", _start),
    (r"scanning an (alias|anchor)", _name),
    (r"mapping values are not allowed", _colon),
    (r"sequence entries are not allowed", _item),
    (r"parsing a block (mapping|collection) expected <block end>", _block),
    (r"expected '<document start>'", _outside),
    (r"scanning a quoted scalar found unexpected (end|document)", _quote),
    (r"found unknown escape character", _escape),
    (r"parsing a flow \w+ (expected|did not find)", _flow),
    (r"scanning a simple key could not find", _key),
)
