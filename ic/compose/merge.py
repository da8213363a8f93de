"""Overlay one tree on another: several files, or several documents of one file, become one.

Pure. By shape: mappings are merged key by key, lists follow each other, scalars are replaced, null keeps
what is there; where the Compose Specification says otherwise, by the rule of the key's section.
`!reset` removes what earlier files say, `!override` replaces it whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Mapping

ANY = "*"


class Table:
    """Merge rules by path, `*` standing for any name; kept as a tree: one step a level, no search."""

    __slots__ = ("below", "rule")

    def __init__(self, rules: Mapping[tuple[str, ...], tree.Rule] | None = None) -> None:
        self.rule: tree.Rule | None = None
        self.below: dict[str, Table] = {}
        for path, rule in (rules or {}).items():
            here = self
            for name in path:
                here = here.below.setdefault(name, Table())
            here.rule = rule

    def step(self, name: str) -> Table | None:
        """The rules below one name."""
        return self.below.get(name) or self.below.get(ANY)


def merge(base: tree.Node | None, over: tree.Node, table: Table, report: tree.Report) -> tree.Node:
    """`over` laid on `base`. A list on a mapping, and the like, is an error in the report."""
    if base is None:
        return _settled(over)
    return _merge(_without_marked(base, over), _settled(over), table, "", report)


def _without_marked(base: tree.Node, over: tree.Node) -> tree.Node:
    """The base without everything that `over` marks: `!reset` drops it, `!override` brings its own."""
    if not isinstance(base.data, dict) or not isinstance(over.data, dict):
        return base
    data = base.data
    for key, value in over.data.items():
        if key not in data:
            continue
        if value.mark:
            data = {name: one for name, one in data.items() if name != key}
            continue
        left = _without_marked(data[key], value)
        if left is not data[key]:
            data = {**data, key: left}
    if data is base.data:
        return base
    return tree.Node(data, base.position, base.keys)


def _settled(node: tree.Node) -> tree.Node:
    """The tree without what is marked `!reset`."""
    data = node.data
    if isinstance(data, dict):
        kept = {key: _settled(value) for key, value in data.items() if value.mark != "reset"}
        if len(kept) == len(data) and all(kept[key] is data[key] for key in kept):
            return node
        return tree.Node(kept, node.position, node.keys)
    if isinstance(data, list):
        left = [_settled(item) for item in data if item.mark != "reset"]
        if len(left) == len(data) and all(a is b for a, b in zip(left, data, strict=True)):
            return node
        return tree.Node(left, node.position)
    return node


def _merge(
    base: tree.Node, over: tree.Node, table: Table | None, where: str, report: tree.Report
) -> tree.Node:
    rule = table.rule if table else None
    if rule is not None:
        if rule.replaces:
            return over
        base, over = rule.prepare(base), rule.prepare(over)
    if over.data is None:
        return base
    if isinstance(base.data, dict):
        if isinstance(over.data, dict):
            return _mappings(base, over, table, where, report)
    elif isinstance(base.data, list):
        if isinstance(over.data, list):
            return tree.Node(base.data + over.data, base.position)
    else:
        return over
    report.error(
        tree.CONFLICT,
        f"{where} is {tree.kind_of(over)} here and {tree.kind_of(base)} at {base.position}",
        over.position,
    )
    return base


def _mappings(
    base: tree.Node, over: tree.Node, table: Table | None, where: str, report: tree.Report
) -> tree.Node:
    assert isinstance(base.data, dict)
    assert isinstance(over.data, dict)
    data = dict(base.data)
    for key, value in over.data.items():
        if key in data:
            below = table.step(key) if table else None
            data[key] = _merge(data[key], value, below, f"{where}.{key}" if where else key, report)
        else:
            data[key] = value
    return tree.Node(data, base.position, (base.keys or {}) | (over.keys or {}))
