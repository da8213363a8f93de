"""Where PyYAML's scanner and docker compose's YAML library part: tabs, and colons in flow collections.

Pure: a base class that `document` puts before PyYAML's own scanner; it moves over the text through that one's
`peek` and `forward` and gives the tokens that the parser wants. The rules are those of go-yaml v3: a tab may
stand between tokens, but not before a key or an entry of a block, and not in an indentation.
"""

from __future__ import annotations

import re
from typing import Any

_ENDS = "\0\r\n\x85\u2028\u2029"
_BLANKS = " \t\r\n\x85\u2028\u2029"
_BOUNDS = _BLANKS + "\0"
# Where a word without quotes ends, and the part of a quoted text that is taken as it is.
_WORD_ENDS = re.compile(rf"[{_BOUNDS}]|:(?=[{_BOUNDS}])")
_FLOW_WORD_ENDS = re.compile(rf"[{_BOUNDS},?\[\]{{}}]|:(?=[{_BOUNDS}])")
_DOUBLE_ENDS = re.compile(rf"[{_ENDS}\"\\]")
_SINGLE_ENDS = re.compile(rf"[{_ENDS}']")


class Blanks:
    """The parts of a scanner that meet blanks. The scanner behind it has the rest, and the position."""

    token: Any  # makes the token of a scalar without quotes: text, True, start, end
    fault: Any  # makes an exception: what was going on, since where, what is wrong, where
    peek: Any
    prefix: Any
    forward: Any
    get_mark: Any
    scan_line_break: Any
    allow_simple_key: bool
    buffer: str
    pointer: int
    index: int
    flow_level: int
    indent: int
    column: int

    def scan_to_next_token(self) -> None:
        """Skip blanks, comments and line breaks; tabs too, where no key of a block may begin."""
        while True:
            blanks = " \t" if self.flow_level or not self.allow_simple_key else " "
            while self.peek() in blanks:
                self.forward()
            self._skip_comment()
            if not self.scan_line_break():
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def _skip_comment(self) -> None:
        if self.peek() == "#":
            while self.peek() not in _ENDS:
                self.forward()

    def scan_directive_name(self, start_mark: Any) -> str:
        """The name of a directive: there are two."""
        for name in ("YAML", "TAG"):
            if self.prefix(len(name)) == name and self.peek(len(name)) in _BOUNDS:
                self.forward(len(name))
                return name
        raise self.fault(
            "while scanning a directive",
            start_mark,
            "expected %YAML or %TAG",
            self.get_mark(),
        )

    def scan_plain(self) -> Any:
        """A scalar without quotes, over several lines maybe."""
        start = end = self.get_mark()
        parts: list[str] = []
        gap = ""
        has_break = False
        while not self._is_over():
            length = self._word_length()
            if length:
                parts += (gap, self._taken(length))
                end = self.get_mark()
                gap, has_break = "", False
            if self.peek() not in _BLANKS:
                break
            gap, has_break = self._gap(start)
            if not self.flow_level and self.column <= self.indent:
                break
        if has_break:
            self.allow_simple_key = True
        return self.token("".join(parts), plain=True, start_mark=start, end_mark=end)

    def _is_over(self) -> bool:
        if self.peek() == "#":
            return True
        is_marker = self.column == 0 and self.prefix(3) in ("---", "...")
        return is_marker and self.peek(3) in _BOUNDS

    def _word_length(self) -> int:
        ends = _FLOW_WORD_ENDS if self.flow_level else _WORD_ENDS
        found = ends.search(self.buffer, self.pointer)
        return (found.start() if found else len(self.buffer)) - self.pointer

    def _taken(self, length: int) -> str:
        """The next characters, of which none ends a line; moves behind them."""
        end = self.pointer + length
        text = self.buffer[self.pointer : end]
        self.pointer = end
        self.index += length
        self.column += length - text.count("\ufeff")
        return text

    def quoted_run(self, *, double: bool) -> str:
        """What of a quoted text stands here up to the line's end, a quote or an escape."""
        ends = _DOUBLE_ENDS if double else _SINGLE_ENDS
        found = ends.search(self.buffer, self.pointer)
        end = found.start() if found else len(self.buffer)
        run = self.buffer[self.pointer : end]
        if found and found[0] in _ENDS:
            run = run.rstrip(" \t")
        return self._taken(len(run))

    def _gap(self, start: Any) -> tuple[str, bool]:
        """What stands between two words once lines are folded, and whether a line ends there."""
        blanks: list[str] = []
        breaks: list[str] = []
        while (ch := self.peek()) in _BLANKS:
            if ch not in " \t":
                breaks.append(self.scan_line_break())
                continue
            if not breaks:
                blanks.append(ch)
            elif ch == "\t" and self.column <= self.indent:
                raise self.fault(
                    "while scanning a plain scalar",
                    start,
                    "found a tab that violates indentation",
                    self.get_mark(),
                )
            self.forward()
        if not breaks:
            return "".join(blanks), False
        first, more = breaks[0], "".join(breaks[1:])
        return (more or " ") if first == "\n" else first + more, True

    def scan_block_scalar_indicators(self, start_mark: Any) -> tuple[bool | None, int | None]:
        """Whether a block scalar keeps or drops its last line breaks, and by how much it is indented."""
        keeps: bool | None = None
        increment: int | None = None
        for _ in range(2):
            ch = self.peek()
            if ch in "+-" and keeps is None:
                keeps = ch == "+"
            elif "0" <= ch <= "9" and increment is None:
                increment = int(ch)
            else:
                break
            self.forward()
        if increment == 0:
            raise self.fault(
                "while scanning a block scalar",
                start_mark,
                "expected an indentation from 1 to 9, but found 0",
                self.get_mark(),
            )
        return keeps, increment

    def scan_block_scalar_ignored_line(self, start_mark: Any) -> None:
        """The rest of the line with the mark of a block scalar."""
        while self.peek() in " \t":
            self.forward()
        self._skip_comment()
        if self.peek() not in _ENDS:
            raise self.fault(
                "while scanning a block scalar",
                start_mark,
                f"expected a comment or a line break, but found {self.peek()!r}",
                self.get_mark(),
            )
        self.scan_line_break()

    def scan_block_scalar_indentation(self) -> tuple[list[str], int, Any]:
        """The line breaks before a block scalar's first line, how far that one is indented, and their end."""
        breaks: list[str] = []
        deepest = 0
        end = self.get_mark()
        while (ch := self.peek()) == " " or ch in _ENDS[1:]:
            if ch == " ":
                self.forward()
                deepest = max(deepest, self.column)
            else:
                breaks.append(self.scan_line_break())
                end = self.get_mark()
        if self.peek() == "\t":
            raise self.fault(
                "while scanning a block scalar",
                end,
                "found a tab where an indentation must be of spaces",
                self.get_mark(),
            )
        return breaks, deepest, end
