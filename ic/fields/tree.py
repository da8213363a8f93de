"""The tree that a compose document is read into, and the pieces that all sections share in reading it.

Pure. A document enters as `Node`s that remember where they were written; what is wrong with it goes into a
`Report`, so that every mistake is told in one go. For reading, a section module `ic.fields.X` has

* a frozen struct whose attributes are the compose keys that ic carries out,
* `SCHEMA`: every key of its family that the Compose Specification knows (`ic.fields.schema`),
* `normalize(service, where, report)`: the struct of a service whose short forms are long ones already.

Reading functions take `(node, where, report)`: `where` is the dotted name used in messages
(`services.web.ports[0]`). They return a harmless value after having reported an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from ic import errors, units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Scalar = str | int | float | bool | None
Mark = Literal["", "reset", "override"]


class Node:
    """One value of a compose document: a scalar, a list of nodes or a mapping of text to nodes.

    `keys` holds the positions of a mapping's keys. `mark` is the tag `!reset` or `!override`. Nodes are
    shared by aliases and never changed once the document is read.
    """

    __slots__ = ("data", "keys", "mark", "position")

    def __init__(
        self,
        data: Scalar | list[Node] | dict[str, Node],
        position: errors.Position,
        keys: dict[str, errors.Position] | None = None,
        mark: Mark = "",
    ) -> None:
        self.data = data
        self.position = position
        self.keys = keys
        self.mark: Mark = mark

    def key_position(self, key: str) -> errors.Position:
        """Where a key of this mapping was written; of a key that was made, where its value was."""
        found = (self.keys or {}).get(key)
        if found is not None:
            return found
        value = self.child(key)
        return self.position if value is None else value.position

    def child(self, key: str) -> Node | None:
        """The value of a key, when this is a mapping that has it."""
        return self.data.get(key) if isinstance(self.data, dict) else None


MOST_ERRORS = 1_000  # that are told; who has more has seen enough
MOST_MADE = 200_000  # values that ranges, env files and extends may bring beside those written
MOST_TEXT = 16 * 2**20  # characters that variables and env files may bring
MOST_READ = 200_000  # values of all files, each counted as often as it is included
MOST_LAID = 2_000_000  # values of what files and documents are laid on, counted for each of them
LONG_TEXT = 512  # characters for which a text counts as one value more
_MOST_HINTS = 50  # that take a search
_MOST_LOOKED_AT = 300  # words among which a near one is looked for


class Report:
    """Collects diagnostics while a document is read; the one thing that the stages add to.

    It is `lenient` while variables are not filled in: what cannot be read yet is no mistake then.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.diagnostics: list[errors.Diagnostic] = []
        self.lenient = lenient
        self._told: set[str] = set()
        self._said: set[tuple[str, errors.Position | None]] = set()
        self._errors = 0
        self._made = 0
        self._grown = 0
        self._hints = 0
        self._read = 0
        self._laid = 0
        self.faulty: set[errors.Position] = (
            set()
        )  # values that could not be made: no second error there

    def error(
        self,
        code: str,
        summary: str,
        position: errors.Position | None,
        hint: str | Callable[[], str] = "",
    ) -> None:
        """Note an error. A hint that takes a search is given as what searches: not all errors are told."""
        if position in self.faulty or self._errors >= MOST_ERRORS:
            return
        if not isinstance(hint, str):
            self._hints += 1
            hint = hint() if self._hints <= _MOST_HINTS else ""
        self._add("error", code, summary, position, hint)

    def make(self, count: int, where: str, position: errors.Position | None) -> None:
        """Count values that were not written one by one. Raises ComposeError when they are too many."""
        self._made += count
        self.has_room(0, where, position)

    def has_room(self, count: int, where: str, position: errors.Position | None) -> None:
        """Look whether so many values may still be made. Raises ComposeError when not."""
        if self._made + count > MOST_MADE:
            reason = f"ranges of ports, env files and extends make over {MOST_MADE} values"
            raise _beyond(f"{where}: {reason}", position)

    def grow(self, count: int, where: str, position: errors.Position | None) -> None:
        """Count characters that variables brought. Raises ComposeError when they are too many."""
        self._grown += count
        if self._grown > MOST_TEXT:
            reason = f"variables and env files bring over {MOST_TEXT} characters"
            raise _beyond(f"{where}: {reason}", position)

    def read(self, count: int, position: errors.Position) -> None:
        """Count values of a file that is laid on others. Raises ComposeError when they are too many."""
        self._read += count
        if self._read > MOST_READ:
            raise _beyond(f"all files together hold over {MOST_READ} values", position)

    @property
    def readable(self) -> int:
        """How many values of files may still be read."""
        return MOST_READ - self._read

    def lay(self, count: int, position: errors.Position) -> None:
        """Count values that something is laid on. Raises ComposeError when they are too many."""
        self._laid += count
        self.has_ground(0, position)

    def has_ground(self, count: int, position: errors.Position) -> None:
        """Look whether so many values may still be laid on. Raises ComposeError when not."""
        if self._laid + count > MOST_LAID:
            reason = f"files and documents are laid on over {MOST_LAID} values, counted each time"
            raise _beyond(reason, position)

    def warn(
        self, code: str, summary: str, position: errors.Position | None, *, once: str = ""
    ) -> None:
        """Note a warning; with `once`, only the first of that name."""
        if once:
            if once in self._told:
                return
            self._told.add(once)
        self._add("warning", code, summary, position, "")

    def _add(
        self,
        severity: errors.Severity,
        code: str,
        summary: str,
        position: errors.Position | None,
        hint: str,
    ) -> None:
        said = (summary, position)
        if position is not None and said in self._said:
            return
        self._said.add(said)
        self._errors += severity == "error"
        self.diagnostics.append(
            errors.Diagnostic(
                severity=severity, code=code, summary=summary, position=position, hint=hint
            )
        )

    @property
    def failed(self) -> bool:
        """Whether an error is among the diagnostics."""
        return any(one.severity == "error" for one in self.diagnostics)


def _beyond(summary: str, position: errors.Position | None) -> errors.ComposeError:
    one = errors.Diagnostic(severity="error", code="E_LIMIT", summary=summary, position=position)
    return errors.ComposeError(
        f"cannot read the stack: {summary}", diagnostics=(one,), code="E_LIMIT"
    )


# --- codes of diagnostics that more than one room uses ---
TYPE = "E_TYPE"
VALUE = "E_VALUE"
CONTROL = "E_VALUE_CTRL"
UNKNOWN_KEY = "E_UNKNOWN_KEY"
UNSUPPORTED = "E_UNSUPPORTED"
REFERENCE = "E_REFERENCE"
CONFLICT = "E_MODEL_CONFLICT"
NAME = "E_NAME"


def kind_of(node: Node) -> str:
    """What a node is, in words for a message."""
    data = node.data
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, list):
        return "an array"
    if data is None:
        return "null"
    if isinstance(data, bool):
        return "a boolean"
    if isinstance(data, (int, float)):
        return "a number"
    return "a string"


def wrong_type(node: Node, where: str, report: Report, wanted: str) -> None:
    """Note that a node is not what its place wants."""
    hint = ""
    takes_numbers = "number" in wanted or "integer" in wanted
    if "string" in wanted and not takes_numbers and isinstance(node.data, (bool, int, float)):
        hint = f'put it in quotes: "{units.number_text(node.data)}"'
    report.error(TYPE, f"{where} must be {wanted}, not {kind_of(node)}", node.position, hint)


# --- scalars ------------------------------------------------------------------------------------------


def text(node: Node | None, where: str, report: Report) -> str | None:
    """A text; None when absent."""
    if node is None:
        return None
    if isinstance(node.data, str):
        return node.data
    wrong_type(node, where, report, "a string")
    return None


_BOOLEANS = {"true": True, "false": False}
_OLD_BOOLEANS = {"y": True, "yes": True, "on": True, "n": False, "no": False, "off": False}


def word_as_boolean(text: str) -> bool | None:
    """`true` and `false` in any case, and the words of YAML 1.1 for them; None for anything else."""
    low = text.lower()
    return _BOOLEANS.get(low, _OLD_BOOLEANS.get(low))


def is_old_boolean(text: str) -> bool:
    """Whether a text is a word of YAML 1.1 for true or false, and not of YAML 1.2."""
    return text.lower() in _OLD_BOOLEANS


def boolean(node: Node | None, where: str, report: Report, *, default: bool = False) -> bool:
    """A boolean, also spelled as text; the YAML 1.1 words `yes` and `no` are taken with a warning."""
    if node is None:
        return default
    data = node.data
    if isinstance(data, bool):
        return data
    if isinstance(data, str):
        low = data.lower()
        if low in _BOOLEANS:
            return _BOOLEANS[low]
        if low in _OLD_BOOLEANS:
            meant = "true" if _OLD_BOOLEANS[low] else "false"
            report.warn(
                "W_BOOLEAN", f"{where}: {data!r} is read as {meant}; write {meant}", node.position
            )
            return _OLD_BOOLEANS[low]
    wrong_type(node, where, report, "a boolean, true or false")
    return default


_INTEGER = r"[+-]?\d{1,18}"


def integer(node: Node | None, where: str, report: Report) -> int | None:
    """A whole number, also spelled as text; None when absent."""
    if node is None:
        return None
    data = node.data
    if isinstance(data, int) and not isinstance(data, bool):
        return data
    if isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, str) and re.fullmatch(_INTEGER, data, re.ASCII):
        return int(data)
    wrong_type(node, where, report, "an integer")
    return None


def scalar_text(node: Node, where: str, report: Report) -> str | None:
    """Any scalar as the text docker compose makes of it; None for null."""
    data = node.data
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, (bool, int, float)):
        return units.number_text(data)
    wrong_type(node, where, report, "a string, a number or a boolean")
    return None


# Compiled where a text has something else than letters, not at every start.
_CONTROL = "[\x00-\x1f\x7f-\x9f]"
_NEVER = "[\x00\ud800-\udfff]"


def control_fault(text: str, *, strict: bool = False) -> str:
    """What is in a text that Incus would cut off or garble: NUL and lone surrogates; empty when nothing is.

    `strict` is for keys and names: no control character at all.
    """
    if text.isprintable():
        return ""
    found = re.search(_NEVER, text) or (re.search(_CONTROL, text) if strict else None)
    if found is None:
        return ""
    if found[0] == "\x00":
        return "a NUL character"
    if "\ud800" <= found[0] <= "\udfff":
        return f"the lone surrogate U+{ord(found[0]):04X}"
    return f"the control character U+{ord(found[0]):04X}"


def at_home(path: str, home: str, node: Node, where: str, report: Report) -> str:
    """A path that begins with `~`, below the home directory; empty, and an error, without one."""
    if not home:
        report.error(VALUE, f"{where}: '~' has no meaning: HOME is not set", node.position)
        return ""
    return f"{home}/{path[1:].lstrip('/')}" if len(path) > 1 else home


# --- collections --------------------------------------------------------------------------------------


def items(node: Node | None, where: str, report: Report) -> list[Node]:
    """The items of a list; empty when absent."""
    if node is None:
        return []
    if isinstance(node.data, list):
        return node.data
    wrong_type(node, where, report, "an array")
    return []


def entries(
    node: Node | None, where: str, report: Report, *, null: bool = False
) -> dict[str, Node]:
    """The entries of a mapping; empty when absent and, where `null` may stand for one, when null."""
    if node is None or (null and node.data is None):
        return {}
    if isinstance(node.data, dict):
        return node.data
    wrong_type(node, where, report, "a mapping")
    return {}


def strings(
    node: Node | None, where: str, report: Report, *, single: bool = False
) -> tuple[str, ...]:
    """A list of texts (with `single`, one text too), each kept once, in order."""
    if single and node is not None and isinstance(node.data, str):
        return (node.data,)
    found: dict[str, None] = {}
    for index, item in enumerate(items(node, where, report)):
        if isinstance(item.data, str):
            found[item.data] = None
        else:
            wrong_type(item, f"{where}[{index}]", report, "a string")
    return tuple(found)


def pairs(node: Node | None, where: str, report: Report) -> dict[str, str | None]:
    """A mapping of names to scalars, or a list of `NAME=VALUE`; None stands for a name without a value."""
    if node is None:
        return {}
    if isinstance(node.data, dict):
        if "" in node.data:
            report.error(VALUE, f"{where} has an empty name", node.key_position(""))
        return {
            key: scalar_text(value, f"{where}.{key}", report) for key, value in node.data.items()
        }
    if not isinstance(node.data, list):
        wrong_type(node, where, report, "a mapping or an array")
        return {}
    found: dict[str, str | None] = {}
    for index, item in enumerate(node.data):
        if not isinstance(item.data, str):
            wrong_type(item, f"{where}[{index}]", report, "a string of the form NAME=VALUE")
            continue
        key, equals, value = item.data.partition("=")
        fault = control_fault(key, strict=True)
        if fault:
            report.error(
                CONTROL, f"{where}[{index}]: the name {key!r} holds {fault}", item.position
            )
        found[key] = value if equals else None
    return found


def labels(node: Node | None, where: str, report: Report) -> dict[str, str]:
    """Labels, as a mapping or a list; a label without a value is empty."""
    return {key: value or "" for key, value in pairs(node, where, report).items()}


def extensions(node: Node | None) -> dict[str, object]:
    """The `x-*` entries of a mapping as plain values."""
    if node is None or not isinstance(node.data, dict):
        return {}
    return {key: plain(value) for key, value in node.data.items() if key.startswith("x-")}


def plain(node: Node) -> object:
    """A node and everything below it as plain values."""
    if isinstance(node.data, dict):
        return {key: plain(value) for key, value in node.data.items()}
    if isinstance(node.data, list):
        return [plain(item) for item in node.data]
    return node.data


# --- keys ---------------------------------------------------------------------------------------------


def unsupported(what: str, position: errors.Position | None, report: Report) -> None:
    """Note that something of the specification is not mapped yet; it is never dropped."""
    report.error(UNSUPPORTED, f"{what} is not supported yet", position)


def warn_of_ignored(
    node: Node, where: str, known: Iterable[str], code: str, report: Report
) -> None:
    """Warn of keys of a mapping that docker compose takes there and does nothing with."""
    known = tuple(known)
    for key in node.data if isinstance(node.data, dict) else ():
        if key not in known:
            near = nearest_hint(key, known)
            report.warn(
                code,
                f"{where} has the unknown key {key!r}, which is ignored{': ' if near else ''}{near}",
                node.key_position(key),
            )


def nearest_hint(given: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest known word, or nothing when none is near."""
    # Fewer edits than letters: a single letter would be near to every other.
    best, least = "", min(len(given), 3 if len(given) > 4 else 2)
    word = given.lower().replace("-", "_")
    letters = set(word)
    for at, one in enumerate(known):
        if at >= _MOST_LOOKED_AT:
            break
        # Each edit brings or takes one letter at most, or changes one into another.
        if len(letters.symmetric_difference(one.lower())) > 2 * least:
            continue
        distance = _distance(word, one.lower().replace("-", "_"), least)
        if distance < least:
            best, least = one, distance
    return f"did you mean {best!r}?" if best else ""


def _distance(one: str, other: str, limit: int) -> int:
    """Edits (insert, delete, replace, swap of neighbours) from one word to the other, up to `limit`."""
    if abs(len(one) - len(other)) >= limit or len(one) > 60:
        return limit
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        now = [i]
        for j, b in enumerate(other, 1):
            cost = min(now[j - 1] + 1, row[j] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            now.append(cost)
        before, row = row, now
    return row[-1]


# --- other forms of the same ---------------------------------------------------------------------------


def as_list(node: Node) -> Node:
    """One text as a list of it; what a list has twice is sorted out when it is read."""
    return Node([node], node.position) if isinstance(node.data, str) else node


def as_mapping(node: Node, default: dict[str, Scalar] | None = None) -> Node:
    """A list of names as a mapping of names: each to null, or to a mapping of the given scalars."""
    if not isinstance(node.data, list):
        return node
    data: dict[str, Node] = {}
    keys: dict[str, errors.Position] = {}
    for item in node.data:
        if isinstance(item.data, str):
            data[item.data] = Node(
                None
                if default is None
                else {key: Node(value, item.position) for key, value in default.items()},
                item.position,
            )
            keys[item.data] = item.position
        else:
            data[f"[{len(data)}]"] = Node([item], item.position)
    return Node(data, node.position, keys)
