"""YAML text to a tree of nodes that remember file, line and column: the only importer of yaml.

Pure: bytes and a file's name in, one tree per document out; raises ComposeError with every fault found.
Scalars are resolved as docker compose's YAML library does (`22:22` and `yes` are text, `017` is 15), not
as PyYAML: the events of its parser are used, its composer, resolver and constructors are not. Most files need
not even the parser: `blocks` makes the same events of the everyday part of YAML in a fifth of the time.
Anchors, aliases and merge keys are resolved here, `!reset` and `!override` become marks on nodes,
duplicate keys are refused.

Limits: 5 MiB of text, 150,000 nodes after aliases are spread out, 128 levels.
"""

from __future__ import annotations

import codecs
import functools
import re
from typing import TYPE_CHECKING, Any, ClassVar

from ic import errors, units
from ic.compose import blocks
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIZE_LIMIT = 5 * 2**20
NODE_LIMIT = 150_000
DEPTH_LIMIT = 128

_TAG_PREFIX = "tag:yaml.org,2002:"
_MERGE_TAG = _TAG_PREFIX + "merge"


@functools.cache
def _parser() -> Any:
    """PyYAML's parser without what follows it. It is loaded for texts that `blocks` leaves alone."""
    from yaml import parser, reader, scanner, tokens

    from ic.compose import scanning

    class Events(scanning.Blanks, reader.Reader, scanner.Scanner, parser.Parser):  # pyright: ignore[reportIncompatibleVariableOverride]
        """Reader, scanner and parser in one, as PyYAML's own loaders are."""

        token = tokens.ScalarToken
        fault = scanner.ScannerError
        # The escape for a slash belongs to JSON; docker compose's YAML library has one for a quote instead.
        ESCAPE_REPLACEMENTS: ClassVar[dict[str, str]] = {  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
            **{key: one for key, one in scanner.Scanner.ESCAPE_REPLACEMENTS.items() if key != "/"},
            "'": "'",
        }

        def __init__(self, text: str) -> None:
            reader.Reader.__init__(self, text)
            scanner.Scanner.__init__(self)
            parser.Parser.__init__(self)

        def scan_flow_scalar_non_spaces(self, double: bool, start_mark: Any) -> list[str]:  # noqa: FBT001
            plain: Any = super()
            run = self.quoted_run(double=double)
            return [run, *plain.scan_flow_scalar_non_spaces(double, start_mark)]

    return Events


def events(text: str) -> Iterator[blocks.Event]:
    """The events of PyYAML's parser as plain ones."""
    import yaml

    source: Any = _parser()(text)
    take = source.get_event
    kinds: dict[Any, int] = {
        yaml.ScalarEvent: blocks.SCALAR,
        yaml.MappingStartEvent: blocks.MAPPING,
        yaml.SequenceStartEvent: blocks.SEQUENCE,
        yaml.MappingEndEvent: blocks.END,
        yaml.SequenceEndEvent: blocks.END,
        yaml.AliasEvent: blocks.ALIAS,
        yaml.DocumentStartEvent: blocks.DOCUMENT,
        yaml.DocumentEndEvent: blocks.DOCUMENT_END,
    }
    while True:
        event = take()
        if event.__class__ is yaml.StreamEndEvent:
            return
        kind = kinds.get(event.__class__)
        if kind is None:
            continue
        mark = event.start_mark
        value, style, tag, anchor = "", "", None, None
        if kind == blocks.SCALAR:
            value, style = event.value, event.style or ""
            tag, anchor = event.tag, event.anchor
        elif kind in (blocks.MAPPING, blocks.SEQUENCE):
            tag, anchor = event.tag, event.anchor
        elif kind == blocks.ALIAS:
            value = event.anchor
        elif kind == blocks.DOCUMENT and event.version:
            value = ".".join(map(str, event.version))
        yield kind, mark.line, mark.column, value, style, tag, anchor


def parse(content: bytes, file: str, report: tree.Report) -> list[tree.Node]:
    """The documents of a file. Faults that leave a tree (duplicate keys, unknown tags) go into the report.

    Raises ComposeError where no tree can be made. `file` is the name used in positions.
    """
    if len(content) > SIZE_LIMIT:
        raise _refusal(
            "E_YAML_LIMIT",
            f"the file has {len(content)} bytes, at most {SIZE_LIMIT} are read",
            errors.Position(file, 1, 1),
        )
    if len(content) > 2 * NODE_LIMIT:
        from ic.compose import census

        if census.is_beyond(content, NODE_LIMIT):
            raise _too_many(errors.Position(file, 1, 1))
    text = _decode(content, file)
    quick = tree.Report()
    try:
        found = _Builder(file, quick).documents(blocks.read(text))
    except blocks.Endless:
        raise _too_many(errors.Position(file, 1, 1)) from None
    except blocks.Deep as place:
        raise _too_deep(errors.Position(file, place.line + 1, place.column + 1)) from None
    except blocks.Odd:
        return _parsed(text, file, report)
    report.diagnostics.extend(quick.diagnostics)
    return found


def _parsed(text: str, file: str, report: tree.Report) -> list[tree.Node]:
    import yaml
    from yaml import reader

    try:
        return _Builder(file, report).documents(events(text))
    except yaml.MarkedYAMLError as problem:
        from ic.compose import malformed

        fault = malformed.explain(problem, text)
        where = errors.Position(file, fault.at[0] + 1, fault.at[1] + 1) if fault.at else None
        raise _refusal(
            "E_YAML", f"this is not YAML: {fault.reason}", where, fault.hint
        ) from problem
    except reader.ReaderError as problem:
        raise _refusal(
            "E_YAML",
            f"this is not YAML: the character U+{ord(text[problem.position]):04X} is not allowed",
            _position_of(text, problem.position, file),
        ) from problem


def _too_many(position: errors.Position) -> errors.ComposeError:
    return _refusal(
        "E_YAML_LIMIT",
        f"more than {NODE_LIMIT} values, counted with every alias spread out",
        position,
    )


def _too_deep(position: errors.Position) -> errors.ComposeError:
    return _refusal("E_YAML_LIMIT", f"nested deeper than {DEPTH_LIMIT} levels", position)


def _refusal(
    code: str, summary: str, position: errors.Position | None, hint: str = ""
) -> errors.ComposeError:
    one = errors.Diagnostic(
        severity="error", code=code, summary=summary, position=position, hint=hint
    )
    return errors.ComposeError(str(one), diagnostics=(one,), code=code)


def _position_of(text: str, index: int, file: str) -> errors.Position:
    start = text.rfind("\n", 0, index) + 1
    return errors.Position(file, text.count("\n", 0, index) + 1, index - start + 1)


def _decode(content: bytes, file: str) -> str:
    encoding = "utf-8"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        before = content[: problem.start].decode(encoding, "replace")
        where = _position_of(before, len(before), file)
        raise _refusal("E_YAML", f"this is not {encoding.upper()} text", where) from problem


# --- scalars ------------------------------------------------------------------------------------------

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_WORDS: dict[str, tree.Scalar] = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    ".nan": float("nan"), ".NaN": float("nan"), ".NAN": float("nan"),
}  # fmt: skip
for _sign, _value in (("", "inf"), ("+", "inf"), ("-", "-inf")):
    for _word in (".inf", ".Inf", ".INF"):
        _WORDS[_sign + _word] = float(_value)

_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_INTEGERS = (
    (r"[-+]?0[xX][0-9a-fA-F]+", 16),
    (r"[-+]?0[bB][01]+", 2),
    (r"[-+]?0[oO][0-7]+", 8),
    (r"[-+]?0[0-7]+", 8),
    (r"[-+]?(0|[1-9][0-9]*)", 10),
)
_TIMESTAMP = (
    r"(?a)(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:(?:([Tt])| )(\d{1,2}):(\d{1,2}):(\d{1,2})(\.\d+)?(?(4)(Z|[-+]\d\d:\d\d)))?"
)
_LONGEST_NUMBER = 400
_SAFE_DIGITS = 19  # fewer are always less than 2**63


def resolve(text: str) -> tree.Scalar:
    """The value of a plain scalar, as docker compose's YAML library (go-yaml v3) resolves it.

    Raises ValueError for a bare date, which docker compose refuses.
    """
    if text in _NULLS:
        return None
    first = text[0]
    if first in "tTfF.+-":
        if text in _WORDS:
            return _WORDS[text]
    elif not "0" <= first <= "9":
        return text
    if first in "tTfF" or len(text) > _LONGEST_NUMBER:
        return text
    if text[4:5] == "-" and date(text):
        raise ValueError(f"{text} is read as a date; put it in quotes")
    return _number(text)


def date(text: str) -> str:
    """A plain scalar that is a date, or a date with a time, as docker compose prints it; else empty."""
    stamp = re.fullmatch(_TIMESTAMP, text)
    if stamp is None:
        return ""
    year, month, day, hour, minute, second = (
        int(one or 0) for one in stamp.group(1, 2, 3, 5, 6, 7)
    )
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = (31, 29 if is_leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (
        1 <= month <= 12 and 1 <= day <= days[month - 1] and hour < 24 and minute < 60 > second
    ):
        return ""
    part = (stamp[8] or "")[:10].rstrip("0").rstrip(".")
    zone = stamp[9] or "Z"
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{part}{zone}"


def _number(text: str) -> tree.Scalar:
    if text[0] != "0" and len(text) < _SAFE_DIGITS and text.isascii() and text.isdecimal():
        return int(text)
    plain = text if text[0] == "." else text.replace("_", "")
    for pattern, base in _INTEGERS:
        if re.fullmatch(pattern, plain):
            value = int(plain if base != 8 else plain.replace("o", "").replace("O", ""), base)
            if -(2**63) <= value < 2**64:
                return value
    if not re.fullmatch(_FLOAT, plain):
        return text
    number = float(plain)
    return text if number in _INFINITE else number


_INFINITE = (float("inf"), float("-inf"))


_SCALAR_TAGS: dict[str, type | tuple[type, ...] | None] = {
    "str": None, "timestamp": None, "int": int, "float": (int, float), "bool": bool, "null": type(None),
}  # fmt: skip
_COLLECTION_TAGS = frozenset(
    {"!", *(_TAG_PREFIX + one for one in ("map", "seq", "set", "omap", "pairs"))}
)


# --- building -----------------------------------------------------------------------------------------


class _Open:
    """A list or mapping that is being read."""

    __slots__ = ("anchor", "count", "depth", "key", "key_position", "merges", "node")

    def __init__(self, node: tree.Node, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None
        self.key_position = node.position
        self.merges: list[tree.Node] | None = None
        self.count = 1  # nodes in here, with aliases spread out
        self.depth = 1  # levels in here, likewise


class _Builder:
    """Turns parser events into nodes, without recursion."""

    def __init__(self, file: str, report: tree.Report) -> None:
        self.file = file
        self.report = report
        self.anchors: dict[str, tuple[tree.Node, int, int]] = {}
        self.stack: list[_Open] = []
        self.root: tree.Node | None = None
        self.total = 0
        self.has_resets = False

    def documents(self, events: Iterable[blocks.Event]) -> list[tree.Node]:
        """All documents of the stream; one without content is a null node."""
        found: list[tree.Node] = []
        file = self.file
        for kind, line, column, value, style, tag, anchor in events:
            if kind == blocks.SCALAR:
                self._scalar(value, style, tag, anchor, errors.Position(file, line + 1, column + 1))
            elif kind in (blocks.MAPPING, blocks.SEQUENCE):
                position = errors.Position(file, line + 1, column + 1)
                self._start(tag, anchor, position, is_mapping=kind == blocks.MAPPING)
            elif kind == blocks.END:
                self._end()
            elif kind == blocks.ALIAS:
                self._alias(value, errors.Position(file, line + 1, column + 1))
            elif kind == blocks.DOCUMENT:
                self._document_start(value, errors.Position(file, line + 1, column + 1))
            else:
                assert self.root is not None
                found.append(self.root)
        return found

    def _document_start(self, version: str, position: errors.Position) -> None:
        if version not in ("", "1.1"):
            raise _refusal(
                "E_YAML", "this is not YAML: only the directive %YAML 1.1 is understood", position
            )
        self.anchors.clear()
        self.root = None

    def _scalar(
        self, text: str, style: str, tag: str | None, anchor: str | None, position: errors.Position
    ) -> None:
        value: tree.Scalar = text
        top = self.stack[-1] if self.stack else None
        as_key = top is not None and top.node.keys is not None and top.key is None
        mark: tree.Mark = ""
        if tag is None:
            if not style:
                if as_key and text == "<<":
                    assert top is not None
                    self._merge_key(top, position)
                    return
                value = self._resolved(text, position)
            elif style == '"':
                self._check_text(text, position)
        elif as_key and text == "<<" and (tag == _MERGE_TAG or (tag == "!" and not style)):
            assert top is not None
            self._merge_key(top, position)
            return
        else:
            value, mark = self._tagged(text, style, tag, position)
            if isinstance(value, str):
                self._check_text(value, position)
        if as_key:
            assert top is not None
            self._key(top, value, text, position)
            return
        node = tree.Node(value, position, mark=mark)
        count = 1 + len(text) // tree.LONG_TEXT
        if anchor is not None:
            self.anchors[anchor] = (node, count, 1)
        self._place(node, count, 1)

    def _resolved(self, text: str, position: errors.Position) -> tree.Scalar:
        try:
            return resolve(text)
        except ValueError as problem:
            in_extension = any(one.key and one.key.startswith("x-") for one in self.stack)
            if in_extension:
                return units.Date(date(text))
            path = _path(self.stack)
            told = f"{path}: {problem}" if path else str(problem)
            self.report.error("E_YAML_DATE", told, position)
            return text

    def _check_text(self, text: str, position: errors.Position) -> None:
        fault = tree.control_fault(text)
        if fault:
            path = _path(self.stack)
            named = f" of {path}" if path else ""
            self.report.error(tree.CONTROL, f"the value{named} holds {fault}", position)

    def _tagged(
        self, text: str, style: str, tag: str, position: errors.Position
    ) -> tuple[tree.Scalar, tree.Mark]:
        mark = self._marked(tag)
        if mark:
            return text, mark
        if tag == "!":
            return (text if style else self._resolved(text, position)), ""
        return self._typed(tag, text, position), ""

    def _marked(self, tag: str | None) -> tree.Mark:
        """What a tag marks a node as; nothing does inside of an `!override`, as in docker compose."""
        if tag not in ("!reset", "!override") or any(
            one.node.mark == "override" for one in self.stack
        ):
            return ""
        self.has_resets = self.has_resets or tag == "!reset"
        return "reset" if tag == "!reset" else "override"

    def _ignored_tag(self, tag: str, position: errors.Position) -> None:
        self.report.warn(
            "W_YAML_TAG", f"the tag {tag} is not known and ignored", position, once=f"tag {tag}"
        )

    def _typed(self, tag: str, text: str, position: errors.Position) -> tree.Scalar:
        """A value by its tag; one whose tag has no meaning is text."""
        name = tag.removeprefix(_TAG_PREFIX)
        if name == "binary" and name != tag:
            import base64

            try:
                return base64.b64decode("".join(text.split()), validate=True).decode()
            except ValueError:
                self.report.error("E_YAML_TAG", "this is not base64 of UTF-8 text", position)
                return ""
        if name == tag or name not in _SCALAR_TAGS:
            self._ignored_tag(tag, position)
            return text
        if name == "timestamp" and date(text):
            return self._resolved(text, position)
        wanted = _SCALAR_TAGS[name]
        if wanted is None:
            return text
        value = self._resolved(text, position)
        if not isinstance(value, wanted):
            self.report.error("E_YAML_TAG", f"{text!r} cannot be read as !!{name}", position)
            return text
        return float(value) if name == "float" and isinstance(value, int) else value

    def _start(
        self, tag: str | None, anchor: str | None, position: errors.Position, *, is_mapping: bool
    ) -> None:
        top = self.stack[-1] if self.stack else None
        if top is not None and top.node.keys is not None and top.key is None:
            told = f"a key{self._place_in_words()} must be a string, not a mapping or an array"
            raise _refusal("E_YAML_KEY", told, position)
        mark = self._marked(tag)
        if tag is not None and not mark and tag not in _COLLECTION_TAGS:
            self._ignored_tag(tag, position)
        node = tree.Node({}, position, {}) if is_mapping else tree.Node([], position)
        node.mark = mark
        if len(self.stack) >= DEPTH_LIMIT:
            raise _too_deep(position)
        if anchor is not None:
            # An alias to it inside of itself is found by the missing count.
            self.anchors[anchor] = (node, 0, 0)
        self.stack.append(_Open(node, anchor))

    def _end(self) -> None:
        done = self.stack.pop()
        if done.merges is not None:
            _spread(done.node, done.merges)
        if done.anchor is not None and self.anchors[done.anchor][0] is done.node:
            self.anchors[done.anchor] = (done.node, done.count, done.depth)
        self._place(done.node, done.count, done.depth)

    def _alias(self, anchor: str, position: errors.Position) -> None:
        if anchor not in self.anchors:
            raise _refusal(
                "E_YAML",
                f"the alias *{anchor} has an unknown anchor: {anchor!r} stands nowhere above it",
                position,
            )
        node, count, depth = self.anchors[anchor]
        if not count:
            raise _refusal(
                "E_YAML", f"cycle: the alias *{anchor}{self._there()} contains itself", position
            )
        top = self.stack[-1] if self.stack else None
        if top is not None and top.node.keys is not None and top.key is None:
            self._key(top, *_scalar_of(node), position)
            return
        # As in docker compose, a `!reset` inside of what is anchored counts there and not where it is used.
        self._place(_without_resets(node) if self.has_resets else node, count, depth)

    def _key(
        self, top: _Open, value: tree.Scalar | object, text: str, position: errors.Position
    ) -> None:
        if not isinstance(value, str):
            shown = f"{text!r} is not" if text else "nothing is not"
            self.report.error(
                "E_YAML_KEY",
                f"a key{self._place_in_words()} must be a string: {shown}",
                position,
                f"write '{text}' in quotes",
            )
            value = text
        fault = tree.control_fault(value, strict=True)
        if fault:
            self.report.error(tree.CONTROL, f"the key {value!r} holds {fault}", position)
        assert isinstance(top.node.data, dict)
        if value in top.node.data:
            first = top.node.key_position(value)
            self.report.error(
                "E_YAML_DUPKEY",
                f"duplicate key {value!r}: it is already defined on line {first.line}",
                position,
            )
        top.key = value
        top.key_position = position

    def _place_in_words(self) -> str:
        """Which mapping the innermost open one is: ` of services.web`; empty for the top level."""
        path = _path(self.stack[:-1])
        return f" of {path}" if path else ""

    def _there(self) -> str:
        path = _path(self.stack)
        return f" at {path}" if path else ""

    def _merge_key(self, top: _Open, position: errors.Position) -> None:
        if top.merges is not None:
            self.report.error("E_YAML_DUPKEY", "duplicate key '<<'", position)
        top.merges = []
        top.key = "<<"
        top.key_position = position

    def _place(self, node: tree.Node, count: int, depth: int) -> None:
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        top.count += count
        top.depth = max(top.depth, depth + 1)
        self.total += 1
        if top.count > NODE_LIMIT or self.total > NODE_LIMIT:
            raise _too_many(node.position)
        if depth + len(self.stack) > DEPTH_LIMIT:
            raise _too_deep(node.position)
        data = top.node.data
        if isinstance(data, list):
            data.append(node)
            return
        assert isinstance(data, dict)
        assert top.key is not None
        assert top.node.keys is not None
        if top.key == "<<" and top.merges is not None and not top.merges and "<<" not in data:
            self._take_merge(top, node)
        else:
            data[top.key] = node
            top.node.keys[top.key] = top.key_position
        top.key = None

    def _take_merge(self, top: _Open, node: tree.Node) -> None:
        if node.mark and len(self.stack) > 1 and not top.node.mark:
            # As docker compose has it, a mark on `<<` is one on the mapping that it stands in.
            top.node.mark = "override"
        if node.mark == "reset":
            return
        sources = node.data if isinstance(node.data, list) else [node]
        for source in sources:
            if not isinstance(source.data, dict):
                raise _refusal(
                    "E_YAML",
                    "a merge ('<<') requires a mapping or an array of mappings",
                    source.position,
                )
        top.merges = sources


def _path(stack: list[_Open]) -> str:
    """Where something is that stands in these, one in the other: `services.web.ports[0]`."""
    path = ""
    for one in stack:
        if isinstance(one.node.data, list):
            path += f"[{len(one.node.data)}]"
        elif one.key is not None:
            path += f".{one.key}"
    return path.removeprefix(".")


def _scalar_of(node: tree.Node) -> tuple[object, str]:
    return (node.data, str(node.data))


def _without_resets(node: tree.Node) -> tree.Node:
    """A node without the entries below it that are marked `!reset`."""
    data = node.data
    if isinstance(data, dict):
        kept = {key: _without_resets(one) for key, one in data.items() if one.mark != "reset"}
        return tree.Node(kept, node.position, node.keys, node.mark)
    if isinstance(data, list):
        left = [_without_resets(one) for one in data if one.mark != "reset"]
        return tree.Node(left, node.position, None, node.mark)
    return node


def _spread(node: tree.Node, sources: list[tree.Node]) -> None:
    """Add what the sources of a `<<` have and the mapping has not; the first source wins."""
    assert isinstance(node.data, dict)
    assert node.keys is not None
    for source in sources:
        assert isinstance(source.data, dict)
        for key, value in source.data.items():
            if key not in node.data:
                node.data[key] = value
                node.keys[key] = source.key_position(key)
