"""What the Compose Specification allows at one place of a document, and how that place is read.

Pure. A section's `SCHEMA` gives each of its keys a `Key`: the types, words, patterns and ranges that docker
compose 2.40.3 takes there (compose-go 2.9.1), how two files' values become one (`merge`, `index`), how text
becomes a typed value (`cast`), how the short form becomes the long one (`long`), what its absence means
(`fill`), what only a look at the text can tell (`fault`), whether ic carries it out (`pending`), and which
value is docker's own default, so that writing it asks for nothing (`usual`).
`validate` holds a tree against a Key; `rewrite` walks only where a stage has something to do.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, cast

from ic import units
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from fractions import Fraction

    Merge = Callable[[tree.Node, tree.Node, "Key", str, tree.Report], tree.Node]
    Index = Callable[[tree.Node], str | None]
    Cast = Callable[[str], tree.Scalar]
    Rewrite = Callable[[tree.Node, str, tree.Report], tree.Node]
    Fault = Callable[[tree.Node], str]

NULL = frozenset({type(None)})
TEXT = frozenset({str})
NUMBER = frozenset({int, float})
WHOLE = frozenset({int})
FLAG = frozenset({bool})
LIST = frozenset({list})
MAPPING = frozenset({dict})

_WORDS: tuple[tuple[type, str], ...] = (
    (dict, "a mapping"),
    (list, "an array"),
    (float, "a number"),
    (int, "an integer"),
    (bool, "a boolean"),
    (str, "a string"),
    (type(None), "null"),
)


class Key:
    """What may stand at one place. Everything is optional; without `types` anything may.

    Patterns are compiled when they are first needed, not at import. `told` says what a text lacks that does
    not fit the `pattern`, `near` are words that it may have meant.
    `keys` are the names of a closed mapping, `names` is what every name of an open one leads to, `item` what
    a list holds. `loose` lets other names stand beside those, unread, `tolerant` with a warning. `newer`
    are keys that the published specification has and docker compose 2.40.3 has not.
    """

    __slots__ = (
        "cast",
        "distinct",
        "enum",
        "extensions",
        "fault",
        "fill",
        "high",
        "index",
        "item",
        "keys",
        "long",
        "loose",
        "low",
        "merge",
        "name_pattern",
        "names",
        "near",
        "newer",
        "pattern",
        "pending",
        "required",
        "stages",
        "told",
        "tolerant",
        "types",
        "usual",
    )  # fmt: skip

    def __init__(
        self,
        types: frozenset[type] | None = None,
        *,
        enum: tuple[str, ...] = (),
        pattern: str = "",
        told: str = "",
        near: tuple[str, ...] = (),
        low: int | None = None,
        high: int | None = None,
        keys: dict[str, Key] | None = None,
        names: Key | None = None,
        name_pattern: str = "",
        extensions: bool = True,
        loose: bool = False,
        tolerant: bool = False,
        newer: tuple[str, ...] = (),
        required: tuple[str, ...] = (),
        item: Key | None = None,
        distinct: bool = False,
        cast: Cast | None = None,
        merge: Merge | None = None,
        index: Index | None = None,
        long: Rewrite | None = None,
        fill: Rewrite | None = None,
        fault: Fault | None = None,
        pending: bool = False,
        usual: tuple[tree.Scalar, ...] = (False, 0),
    ) -> None:
        self.types = types
        self.enum = enum
        self.pattern = pattern
        self.told = told
        self.near = near
        self.low = low
        self.high = high
        self.keys = keys
        self.names = names
        self.name_pattern = name_pattern
        self.extensions = extensions
        self.loose = loose
        self.tolerant = tolerant
        self.newer = newer
        self.required = required
        self.item = item
        self.distinct = distinct
        self.cast = cast
        self.merge = merge
        self.index = index
        self.long = long
        self.fill = fill
        self.fault = fault
        self.pending = pending
        self.usual = usual
        below = [*(keys or {}).values(), *(one for one in (names, item) if one is not None)]
        here = {name for name in _STAGES if getattr(self, name)}
        self.stages = frozenset(here.union(*(one.stages for one in below)))

    def but(self, **changes: object) -> Key:
        """The same with some things changed."""
        given: dict[str, object] = {
            name: getattr(self, name) for name in self.__slots__ if name != "stages"
        }
        return Key(**(given | changes))  # pyright: ignore[reportArgumentType]

    def below(self, name: str) -> Key | None:
        """What stands under a name of this mapping; None where nothing is said of it."""
        if self.keys is not None:
            found = self.keys.get(name)
            if found is not None:
                return found
        return self.names

    def asks_nothing(self, node: tree.Node) -> bool:
        """Whether a value here is as if it were not written: empty, or docker's own default.

        Without another word that is false, and 0 where a number may stand; with `usual` () nothing is, nor
        what is empty.
        """
        data = node.data
        if data is None or isinstance(data, (dict, list)):
            return not data and bool(self.usual)
        if isinstance(data, str) and bool in (self.types or ()):
            data = tree.word_as_boolean(data)
        if isinstance(data, str) and int in (self.types or ()) and data == "0":
            data = 0
        return data in self.usual or (data == "" and bool(self.usual))

    def words(self) -> str:
        """What may stand here, in words."""
        types = self.types or frozenset()
        if self.cast is not None:
            types = types - TEXT  # text is taken for what it says
        if float in types:
            types = types - {int}
        found = [words for one, words in _WORDS if one in types]
        if len(found) > 1 and "null" in found:
            found.remove("null")
        return (
            " or ".join(filter(None, [", ".join(found[:-1]), found[-1]])) if found else "anything"
        )


_STAGES = ("cast", "index", "long", "fill", "fault", "pending")


# --- words for the tables -----------------------------------------------------------------------------


def to_boolean(text: str) -> tree.Scalar:
    """`true` and `false`, and what YAML 1.1 had for them. Raises ValueError."""
    found = tree.word_as_boolean(text)
    if found is None:
        raise ValueError("must be a boolean, true or false")
    return found


_INTEGER = r"[+-]?[0-9]+"
_FLOAT = r"[+-]?([0-9](_?[0-9])*\.?([0-9](_?[0-9])*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"


def to_integer(text: str) -> tree.Scalar:
    """A whole number of 64 bits. Raises ValueError."""
    if not re.fullmatch(_INTEGER, text) or len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError("must be an integer")
    return int(text)


def to_float(text: str) -> tree.Scalar:
    """A number. Raises ValueError."""
    if text.lower().lstrip("+-") in {"inf", "infinity", "nan"}:
        return float(text)
    if not re.fullmatch(_FLOAT, text) or len(text) > 400:
        raise ValueError("must be a number")
    return float(text)


def text(pattern: str = "", **more: object) -> Key:
    """A text."""
    return Key(TEXT, pattern=pattern, **more)  # pyright: ignore[reportArgumentType]


def word(*enum: str, **more: object) -> Key:
    """A text out of a closed list."""
    return Key(TEXT, enum=enum, **more)  # pyright: ignore[reportArgumentType]


def flag(**more: object) -> Key:
    """A boolean that may be written as text, and becomes one before anything is checked."""
    return Key(FLAG | TEXT, cast=to_boolean, **more)  # pyright: ignore[reportArgumentType]


def late_flag(**more: object) -> Key:
    """A boolean that may be written as text, and stays it until the end."""
    return Key(FLAG | TEXT, fault=not_boolean, **more)  # pyright: ignore[reportArgumentType]


def whole(**more: object) -> Key:
    """A whole number that may be written as text, and becomes one."""
    return Key(WHOLE | TEXT, cast=to_integer, **more)  # pyright: ignore[reportArgumentType]


def number(**more: object) -> Key:
    """A number that may be written as text, and becomes one."""
    return Key(NUMBER | TEXT, cast=to_float, **more)  # pyright: ignore[reportArgumentType]


def long_number(**more: object) -> Key:
    """A number that may be written as text; the text must be a whole one."""
    return Key(NUMBER | TEXT, cast=to_integer, **more)  # pyright: ignore[reportArgumentType]


def texts(**more: object) -> Key:
    """A list of different texts."""
    return Key(LIST, item=text(), **({"distinct": True} | more))  # pyright: ignore[reportArgumentType]


def text_or_texts(**more: object) -> Key:
    """One text, or a list of different ones."""
    return Key(TEXT | LIST, item=text(), **({"distinct": True} | more))  # pyright: ignore[reportArgumentType]


def pairs(**more: object) -> Key:
    """A mapping of names to scalars, or a list of `NAME=VALUE`."""
    scalar = Key(TEXT | NUMBER | FLAG | NULL)
    given: dict[str, object] = {
        "names": scalar,
        "item": text(),
        "distinct": True,
        "extensions": False,
    }
    return Key(MAPPING | LIST, name_pattern=".+", **(given | more))  # pyright: ignore[reportArgumentType]


def mapping(keys: dict[str, Key], **more: object) -> Key:
    """A mapping with these keys, and `x-*`."""
    return Key(MAPPING, keys=keys, **more)  # pyright: ignore[reportArgumentType]


def named(key: Key, pattern: str = "", **more: object) -> Key:
    """A mapping of any names, or of those that fit a pattern."""
    given: dict[str, object] = {"extensions": False}
    return Key(MAPPING, names=key, name_pattern=pattern, **(given | more))  # pyright: ignore[reportArgumentType]


def listing(item: Key, **more: object) -> Key:
    """A list of things."""
    return Key(LIST, item=item, **more)  # pyright: ignore[reportArgumentType]


MISSING = "E_MISSING"
NEWER = "E_NEWER_KEY"
NAME = r"^[a-zA-Z0-9._-]+$"


# --- holding a tree against it ------------------------------------------------------------------------


def _fault_in_quotes(node: tree.Node, key: Key) -> str:
    """Why a number would be no better as a text: `5` of a duration lacks its unit. Empty when it would be."""
    data = node.data
    if key.fault is None or isinstance(data, bool) or not isinstance(data, (int, float)):
        return ""
    return key.fault(tree.Node(units.number_text(data), node.position))


class _Walk:
    """One pass over a tree, from the top down, without recursion into Python's own stack limits."""

    __slots__ = ("path", "report")

    def __init__(self, report: tree.Report, where: str) -> None:
        self.report = report
        self.path = [where] if where else []

    def where(self) -> str:
        return ".".join(self.path).replace(".[", "[")

    def check(self, node: tree.Node, key: Key) -> None:
        data = node.data
        if key.types is not None and type(data) not in key.types and not self._fits(data, key):
            self._wrong_type(node, key)
            return
        if isinstance(data, dict):
            self._mapping(node, data, key)
        elif isinstance(data, list):
            self._list(data, key)
        elif key.enum or key.pattern or key.low is not None:
            self._scalar(node, key)

    def _fits(self, data: object, key: Key) -> bool:
        return (
            isinstance(data, float)
            and data.is_integer()
            and -(2.0**63) <= data < 2.0**63
            and key.types is not None
            and int in key.types
        )

    def _wrong_type(self, node: tree.Node, key: Key) -> None:
        where = self.where() or "the top level"
        hint = _fault_in_quotes(node, key)
        if not hint:
            tree.wrong_type(node, where, self.report, key.words())
            return
        wrong = f"{where} must be {key.words()}, not {tree.kind_of(node)}"
        self.report.error(tree.TYPE, wrong, node.position, hint)

    def _mapping(self, node: tree.Node, data: dict[str, tree.Node], key: Key) -> None:
        keys, names = key.keys, key.names
        for name, one in data.items():
            below = keys.get(name) if keys is not None else None
            if below is None:
                if names is not None and not (key.extensions and name.startswith("x-")):
                    if not key.name_pattern or re.search(key.name_pattern, name):
                        below = names
                    elif not key.loose:
                        self._bad_name(node, name)
                        continue
                    elif names.types is not None and type(one.data) not in names.types:
                        below = Key(names.types)  # nothing more is asked of what has such a name
                if below is None:
                    if not key.loose and not (key.extensions and name.startswith("x-")):
                        self._unknown(node, name, key)
                    continue
            self.path.append(name)
            self.check(one, below)
            self.path.pop()
        for name in key.required:
            if name not in data:
                where = self.where()
                self.report.error(
                    MISSING,
                    f"{where}: the required property {name!r} is missing",
                    node.position,
                    f"add {name}:",
                )

    def _bad_name(self, node: tree.Node, name: str) -> None:
        where = self.where()
        if not name:
            summary = f"{where} has an empty name"
        else:
            summary = (
                f"{where} has the name {name!r}: letters, digits, '.', '_' and '-' are allowed"
            )
        self.report.error(tree.NAME, summary, node.key_position(name))

    def _unknown(self, node: tree.Node, name: str, key: Key) -> None:
        where = self.where() or "the top level"
        position = node.key_position(name)
        if name in key.newer:
            self.report.error(
                NEWER,
                f"{where} has the key {name!r}, which is newer than docker compose 2.40.3",
                position,
            )
            return
        if key.tolerant:
            hint = tree.nearest_hint(name, sorted(key.keys or ()))
            told = f"{where} has the key {name!r}, which ic does not know"
            self.report.warn("W_EXTENSION", f"{told}; {hint}" if hint else told, position)
            return
        self.report.error(
            tree.UNKNOWN_KEY,
            f"{where} has the unknown key {name!r}, which is not allowed",
            position,
            lambda: tree.nearest_hint(name, sorted(key.keys or ())),
        )

    def _list(self, data: list[tree.Node], key: Key) -> None:
        item = key.item
        if item is None:
            return
        path = self.path
        for index, one in enumerate(data):
            path.append(f"[{index}]")
            self.check(one, item)
            path.pop()
        if key.distinct and len(data) > 1:
            self._distinct(data)

    def _distinct(self, data: list[tree.Node]) -> None:
        seen: dict[str, int] = {}
        numbers = len(data) <= _COMPARED and any(type(one.data) is not str for one in data)
        plain = [tree.plain(one) for one in data] if numbers else []
        for index, one in enumerate(data):
            if numbers:
                alike = (at for at in range(index) if _equal(plain[index], plain[at]))
                first = next(alike, index)
            else:
                mark = one.data if type(one.data) is str else repr(tree.plain(one))
                first = seen.setdefault(mark, index)
            if first != index:
                self.report.error(
                    tree.VALUE,
                    f"{self.where()}: items {first} and {index} are equal and must be unique; "
                    f"the first stands at {data[first].position}",
                    one.position,
                )

    def _scalar(self, node: tree.Node, key: Key) -> None:
        data = node.data
        if isinstance(data, str):
            if key.enum and data not in key.enum:
                self.report.error(
                    tree.VALUE,
                    f"{self.where()} must be one of {', '.join(key.enum)}, not {data!r}",
                    node.position,
                    lambda: tree.nearest_hint(data, key.enum),
                )
            elif key.pattern and not re.search(key.pattern, data):
                self.report.error(
                    tree.VALUE,
                    f"{self.where()}: {data!r} {key.told}",
                    node.position,
                    lambda: tree.nearest_hint(data, key.near),
                )
        elif isinstance(data, (int, float)) and not isinstance(data, bool):
            if key.low is not None and data < key.low:
                reason = f"greater than or equal to {key.low}"
            elif key.high is not None and data > key.high:
                reason = f"less than or equal to {key.high}"
            else:
                return
            self.report.error(
                tree.VALUE, f"{self.where()} must be {reason}, not {data}", node.position
            )


_COMPARED = 20  # items of a list that docker compose compares each with each
_BASES = {"": (10, "0-9"), "0x": (16, "0-9a-fA-F"), "0o": (8, "0-7"), "0b": (2, "01")}
_LONGEST_NUMBER = 400  # characters, and decimal places: no number of a file is written with more


def _equal(value: object, earlier: object) -> bool:
    """Whether docker compose takes two values of a list for the same: `80` is that after `"80"` too."""
    if isinstance(value, dict) and isinstance(earlier, dict):
        one, other = cast("dict[str, object]", value), cast("dict[str, object]", earlier)
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(value, list) and isinstance(earlier, list):
        these, those = cast("list[object]", value), cast("list[object]", earlier)
        return len(these) == len(those) and all(map(_equal, these, those))
    if isinstance(value, bool) or isinstance(earlier, bool):
        return value is earlier
    if isinstance(value, (int, float)) and isinstance(earlier, str):
        from fractions import Fraction

        return math.isfinite(value) and _number(earlier) == Fraction(repr(value))
    return value == earlier


def _number(text: str) -> Fraction | None:
    """A text as the number that Go's big.Rat reads in it: a fraction of whole numbers, or a decimal one."""
    from fractions import Fraction

    if len(text) > _LONGEST_NUMBER:
        return None
    above, slash, below = text.partition("/")
    if slash:
        over, under = _whole(above), _whole(below) if below[:1] not in {"+", "-"} else None
        return Fraction(over, under) if over is not None and under else None
    sign = -1 if text.startswith("-") else 1
    text = text.removeprefix("-" if sign < 0 else "+")
    prefix = text[:2].lower() if text[:2].lower() in _BASES else ""
    base, digit = _BASES[prefix]
    run = f"[{digit}](?:_?[{digit}])*"
    mantissa = (
        rf"(?:_(?=[{digit}]))?({run})?(?:\.({run})?)?" if prefix else rf"({run})?(?:\.({run})?)?"
    )
    found = re.fullmatch(rf"{mantissa}(?:([eEpP])([+-]?[0-9](?:_?[0-9])*))?", text[len(prefix) :])
    if found is None or not (found[1] or found[2]):
        return None
    whole, part = ((found[one] or "").replace("_", "") for one in (1, 2))
    power = int((found[4] or "0").replace("_", ""))
    if abs(power) > _LONGEST_NUMBER:
        return None
    scale = Fraction(2 if (found[3] or "").lower() == "p" else 10) ** power
    return sign * Fraction(int(whole + part, base), base ** len(part)) * scale


def _whole(text: str) -> int | None:
    """A whole number as Go writes them in programs: `0x1f`, `0b11`, `0o17`, `017`, `1_000`."""
    if octal := re.fullmatch(r"([+-]?)0((?:_?[0-7])+)", text):
        return int(octal[1] + octal[2].replace("_", ""), 8)
    try:
        return int(text, 0) if text.isascii() and text.strip() == text else None
    except ValueError:
        return None


def validate(node: tree.Node, key: Key, report: tree.Report, where: str = "") -> None:
    """Report everything below a node that the specification does not allow there."""
    _Walk(report, where).check(node, key)


def rewrite(
    node: tree.Node,
    key: Key,
    stage: str,
    change: Callable[[tree.Node, Key, str], tree.Node],
    where: str = "",
) -> tree.Node:
    """The tree with `change` made wherever a Key has something for the stage, parents before children.

    What does not change is shared with the given tree, which stays as it is.
    """
    if stage not in key.stages or node.mark == "reset":
        return node
    if getattr(key, stage):
        node = change(node, key, where)
    data = node.data
    if isinstance(data, dict):
        changed: dict[str, tree.Node] | None = None
        for name, one in data.items():
            below = key.below(name)
            if below is None or stage not in below.stages:
                continue
            made = rewrite(one, below, stage, change, f"{where}.{name}" if where else name)
            if made is not one:
                if changed is None:
                    changed = dict(data)
                changed[name] = made
        if changed is not None:
            return tree.Node(changed, node.position, node.keys, node.mark)
    elif isinstance(data, list) and key.item is not None and stage in key.item.stages:
        item = key.item
        listed = [
            rewrite(one, item, stage, change, f"{where}[{index}]") for index, one in enumerate(data)
        ]
        if any(one is not old for one, old in zip(listed, data, strict=True)):
            return tree.Node(listed, node.position, node.keys, node.mark)
    return node


def visit(
    node: tree.Node,
    key: Key,
    stage: str,
    look: Callable[[tree.Node, Key, str], None],
    where: str = "",
) -> None:
    """Show `look` every node whose Key has something for the stage."""

    def change(one: tree.Node, its: Key, place: str) -> tree.Node:
        look(one, its, place)
        return one

    rewrite(node, key, stage, change, where)


# --- what only a look at the value can tell -----------------------------------------------------------


def not_boolean(node: tree.Node) -> str:
    """Why a value is no boolean in the end; empty when it is one."""
    data = node.data
    if isinstance(data, str) and tree.word_as_boolean(data) is None:
        return f"{data!r} is an invalid boolean: neither true nor false"
    return ""


def keys_of(key: Key, where: str = "") -> Iterable[str]:
    """Every path of keys below, `*` standing for any name and `[]` for the items of a list."""
    for name, one in (key.keys or {}).items():
        path = f"{where}.{name}" if where else name
        yield path
        yield from keys_of(one, path)
    if key.names is not None:
        yield from keys_of(key.names, f"{where}.*" if where else "*")
    if key.item is not None:
        yield from keys_of(key.item, f"{where}[]")
