"""Results to text, tables or one JSON document. With `cli.progress` the only place that prints.

Enters: values of the other rooms. Leaves: bytes on stdout (what was asked for) and stderr (everything
else). Text from outside is shown with terminal escapes and other control characters written out (`\\x1b`).
A closed stdout or stderr is remembered, never raised: what is being applied goes on.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import sys
import time
from typing import TYPE_CHECKING, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ic import errors
    from ic.cli import documents
    from ic.plan import changes

# Everything that moves a cursor, changes colours or turns the reading direction; newline and tab stay.
# Compiled where a text has something else than plain characters, not at every start.
_UNSAFE = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_TELLTALE = r"(?i)pass|secret|token|credential|private|api_?key"
_ASSIGNMENT = r"""^(\s*(?:-\s+)?["']?[\w.-]+(?: [\w.-]+){0,3}["']?\s*(?:=|:\s))(.*)$"""
# Of a longer source line only what is around the mistake is shown; a terminal may have less room.
_EXCERPT = 200
_LABEL = 8  # columns: the line's number and a bar

_COLOURS = {
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "dim": "2",
    "bold": "1",
}
_CHANGE = r" {2,4}(\+|~|-/\+|-|\.) \S"  # a change's first line in the plan's text form
_SIGN_COLOURS = {"+": "green", "~": "yellow", "-/+": "yellow", "-": "red", ".": "cyan"}


def clean(text: str) -> str:
    """Text from outside, safe to print: control and direction characters become `\\x1b`, `\\u202e`."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return re.sub(_UNSAFE, _spelled, text)


def _spelled(found: re.Match[str]) -> str:
    number = ord(found.group())
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def paint(text: str, colour: str) -> str:
    """Text in a colour of the terminal's own palette."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


class Output:
    """Where a command's result goes. `json` says that stdout carries exactly one document."""

    def __init__(
        self,
        *,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        colour: bool = False,
        error_colour: bool = False,
        json: bool = False,
        quiet: bool = False,
    ) -> None:
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.colour = colour
        self.error_colour = error_colour
        self.json = json
        self.quiet = quiet
        self.closed: set[int] = set()  # streams that nobody reads any more
        # Why the result did not reach stdout; a closed pipe is no reason.
        self.lost: OSError | None = None

    # --- the two streams ---

    def close(self) -> None:
        """Flush, so that nothing is left for the interpreter to fail at when it ends."""
        for stream in (self.stdout, self.stderr):
            self._write(stream, "")

    def _write(self, stream: TextIO | None, text: str) -> None:
        if stream is None or id(stream) in self.closed:
            return
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode("ascii", "backslashreplace").decode())
            stream.flush()
        except (OSError, ValueError) as error:  # a closed pipe, a full disk, a closed file
            if stream is self.stdout and isinstance(error, OSError) and error.errno != errno.EPIPE:
                self.lost = error
            self._give_up(stream)

    def _give_up(self, stream: TextIO) -> None:
        """Nobody reads this stream: send it to /dev/null, so that the interpreter's exit stays silent."""
        self.closed.add(id(stream))
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            pass

    def text(self, text: str) -> None:
        """A block of our own text on stdout, cleaned line by line."""
        self._write(self.stdout, clean(text) if text.endswith("\n") else clean(text) + "\n")

    def raw(self, text: str) -> None:
        """Text on stdout that was cleaned and painted already."""
        self._write(self.stdout, text)

    def line(self, label: str, text: str) -> None:
        """One line of foreign text on stdout after a label that was painted already."""
        self._write(self.stdout, f"{label}{clean(text)}\n")

    def note(self, text: str, colour: str | None = None) -> None:
        """A remark on stderr: what goes on, not what was asked for. Silent with `-q`."""
        if not self.quiet:
            self._write(self.stderr, self.tint(clean(text), colour, error=True) + "\n")

    def live(self, text: str) -> None:
        """Progress on stderr, painted already (`cli.progress`)."""
        self._write(self.stderr, text)

    def tint(self, text: str, colour: str | None, *, error: bool = False) -> str:
        """Painted, where that stream shows colours."""
        shown = self.error_colour if error else self.colour
        return paint(text, colour) if colour and shown else text

    # --- shapes ---

    def document(self, document: documents.Document) -> None:
        """One JSON document on stdout; control characters are escaped by JSON itself."""
        self._write(self.stdout, _encoded(document) + "\n")

    def values(self, values: list[str] | dict[str, str]) -> None:
        """Names, or names with their texts, as one JSON document on stdout that has no schema."""
        made = msgspec.json.format(msgspec.json.encode(values), indent=2).decode()
        self._write(self.stdout, ascii_json(made) + "\n")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns as wide as their longest cell; the last one is not padded."""
        cells = [[clean(cell).replace("\n", " ") for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
        head = _padded(heads, widths)
        lines = [self.tint(head, "bold"), *(_padded(row, widths) for row in cells)]
        self._write(self.stdout, "".join(f"{line}\n" for line in lines))

    def plan(self, rendered: str) -> None:
        """The plan's text form, each change in its sign's colour."""
        self._write(
            self.stdout, "".join(self._plan_line(line) + "\n" for line in rendered.splitlines())
        )

    def _plan_line(self, line: str) -> str:
        shown = clean(line)
        if not self.colour:
            return shown
        head = re.match(_CHANGE, shown)
        return paint(shown, _SIGN_COLOURS[head.group(1)]) if head else shown

    def diagnostics(self, found: Iterable[errors.Diagnostic]) -> None:
        """Each with its place, the line it stands on, and a caret; warnings are silent with `-q`."""
        told = [one for one in found if one.severity != "warning" or not self.quiet]
        lines_of = _lines_of([one.position for one in told if one.position])
        for one in told:
            colour = "red" if one.severity == "error" else "yellow"
            word = self.tint(one.severity, colour, error=True)
            where = f"{clean(str(one.position))}: " if one.position else ""
            source = _source(one.position, lines_of, _room(self.stderr))
            lines = [f"{where}{word}: {clean(one.summary)}", *source]
            if one.hint:
                lines.append(f"  hint: {clean(one.hint)}")
            self._write(self.stderr, "".join(f"{line}\n" for line in lines))

    def error(self, error: errors.IcError) -> None:
        """An error as people read it, or as `ic.error/1` with `--json`; always on stderr."""
        if self.json:
            from ic.cli import documents

            self._write(self.stderr, _encoded(documents.error(error)) + "\n")
            return
        self.diagnostics(error.diagnostics)
        found = [one for one in error.diagnostics if one.severity == "error"]
        if len(found) == 1 and error.summary.endswith(found[0].summary) and not error.details:
            return  # it was all said, with its place
        lines = [f"{self.tint('error', 'red', error=True)}: {clean(error.summary)}"]
        lines += [f"  {clean(line)}" for detail in error.details for line in detail.splitlines()]
        if error.hint:
            lines.append(f"  hint: {clean(error.hint)}")
        self._write(self.stderr, "".join(f"{line}\n" for line in lines))

    def ask(self, question: str, stdin: TextIO) -> bool:
        """A question on the terminal; only `y` or `yes` is a yes, an end of input is a no."""
        self._write(self.stderr, f"{clean(question)} [y/N] ")
        answer = stdin.readline()
        if not answer.endswith("\n"):
            self._write(self.stderr, "\n")
        return answer.strip().lower() in ("y", "yes")


def _encoded(document: msgspec.Struct) -> str:
    """JSON with two blanks of indent, in ASCII."""
    return ascii_json(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def ascii_json(text: str) -> str:
    """JSON text with everything beyond ASCII escaped: no byte that a terminal could act on."""
    return "".join(
        char if char == "\n" or " " <= char <= "~" else _json_escape(char) for char in text
    )


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds, of milliseconds since 1970."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000))
    return f"{seconds}.{ms % 1000:03d}Z"


def _json_escape(char: str) -> str:
    number = ord(char)
    if number > 0xFFFF:
        number -= 0x10000
        return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
    return f"\\u{number:04x}"


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def _room(stream: TextIO | None) -> int:
    """How many columns a source line may take: what a terminal leaves beside the line's number."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        columns = os.get_terminal_size(stream.fileno()).columns if stream else 0
        return max(min(columns - _LABEL, _EXCERPT), 20) if columns else _EXCERPT
    return _EXCERPT


def _width(text: str) -> int:
    """How many columns a terminal takes for a text: two for a wide letter, none for an accent."""
    if text.isascii():
        return len(text)
    import unicodedata

    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.combining(one) != 0 for one in text)


def _source(
    position: errors.Position | None, lines_of: dict[str, dict[int, str]], room: int
) -> list[str]:
    """The line something was written on and a caret below it; nothing where it cannot be read again."""
    shown = lines_of[position.file].get(position.line) if position else None
    if position is None or shown is None:
        return []
    column = position.column - 1
    whole = len(shown) <= room and _width(shown) <= room
    first = 0 if whole else max(min(column - room // 2, len(shown) - room), 0)
    last = len(shown) if whole else first + room
    while not whole and last > column + 1 and _width(shown[first:last]) > room:
        last -= 1
    label = f"{position.line:>5} | "
    before = _width(clean(shown[first:column]))
    caret = " " * (len(label) - 2) + "| " + " " * before + "^"
    excerpt = label + clean(shown[first:last]).replace("\t", " ")
    return [excerpt, caret] if column <= len(shown) else [excerpt]


def _lines_of(positions: list[errors.Position]) -> dict[str, dict[int, str]]:
    """By file, the lines that positions name without secrets, and no others: a file may have millions."""
    wanted: dict[str, set[int]] = {}
    for one in positions:
        wanted.setdefault(one.file, set()).add(one.line)
    return {path: _lines(path, numbers) for path, numbers in wanted.items()}


def _lines(path: str, numbers: set[int]) -> dict[int, str]:
    """Some lines of a file; none where it cannot be read again."""
    # A pipe (`-f <(...)`) was read to its end; opening it again would wait for ever.
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            upto = enumerate(itertools.islice(file, max(numbers)), 1)
            return {
                number: _without_secret(line.rstrip("\n"))
                for number, line in upto
                if number in numbers
            }
    except OSError:
        return {}


def _without_secret(line: str) -> str:
    """The source line, with what looks like a secret's value left out."""
    found = re.match(_ASSIGNMENT, line)
    if found is None or not found.group(2).strip():
        return line
    if found.group(1).rstrip().endswith("=") or re.search(_TELLTALE, found.group(1)):
        return f"{found.group(1)}..."
    return line


def summary(plan: changes.Plan) -> str:
    """`2 to create, 1 to update` in the order of the signs."""
    return ", ".join(f"{count} to {action}" for action, count in plan.summary().items())
