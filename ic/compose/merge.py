"""Overlay one tree on another: several files, or several documents of one file, become one.

Pure. By shape, or by the rule of the key's section (`ic.fields.merging`). `!reset` removes what earlier files
say, `!override` replaces it whole; entries of a list that mean the same thing count once, the later one.
"""

from __future__ import annotations

from ic.compose import model
from ic.fields import merging, schema, tree


def merge(base: tree.Node | None, over: tree.Node, report: tree.Report) -> tree.Node:
    """A document laid on what came before it. A list on a mapping, and the like, is an error."""
    if base is None:
        return _settled(over)
    return merging.merge(unmarked(base, over), _settled(over), model.STACK, "", report)


def extend(base: tree.Node, over: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A service laid on the one that it extends; `where` is its name in messages."""
    return merging.merge(unmarked(base, over), _settled(over), model.SERVICE, where, report)


def unique(node: tree.Node) -> tree.Node:
    """The stack whose lists have each entry once: the last that was written, in the place of the first."""
    return schema.rewrite(node, model.STACK, "index", _unique)


def _unique(node: tree.Node, key: schema.Key, where: str) -> tree.Node:
    del where
    data = node.data
    if not isinstance(data, list) or len(data) < 2:
        return node
    assert key.index is not None
    found: dict[str | int, tree.Node] = {}
    for position, one in enumerate(data):
        found[_mark(key.index(one), position)] = one
    return node if len(found) == len(data) else tree.Node(list(found.values()), node.position)


def _mark(name: str | None, position: int) -> str | int:
    return position if name is None else name


def unmarked(base: tree.Node, over: tree.Node) -> tree.Node:
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
        left = unmarked(data[key], value)
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
