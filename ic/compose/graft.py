"""A tree with one place changed: what the stages share in making new trees out of old ones.

Pure. Nodes are shared by aliases and never changed; what a change does not touch is the same node as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ic import errors


def changed(node: tree.Node, key: str, change: Callable[[tree.Node], tree.Node]) -> tree.Node:
    """The node with the value of a key changed; the same node where there is no such key."""
    old = node.child(key)
    if old is None:
        return node
    new = change(old)
    return node if new is old else with_child(node, key, new)


def mapped(node: tree.Node, change: Callable[[str, tree.Node], tree.Node]) -> tree.Node:
    """A mapping with every value changed; anything else as it is."""
    data = node.data
    if not isinstance(data, dict):
        return node
    new = {key: change(key, value) for key, value in data.items()}
    if all(new[key] is data[key] for key in data):
        return node
    return tree.Node(new, node.position, node.keys, node.mark)


def with_child(
    node: tree.Node, key: str, value: tree.Node, at: errors.Position | None = None
) -> tree.Node:
    """A mapping with a value set; a key that is new stands `at`, or where its value does."""
    assert isinstance(node.data, dict)
    keys = node.keys or {}
    if key not in node.data:
        keys = {**keys, key: at or value.position}
    return tree.Node({**node.data, key: value}, node.position, keys, node.mark)


def without(node: tree.Node, key: str) -> tree.Node:
    """A mapping without a key."""
    data = node.data
    if not isinstance(data, dict) or key not in data:
        return node
    left = {name: value for name, value in data.items() if name != key}
    return tree.Node(left, node.position, node.keys, node.mark)


def part(whole: tree.Node, like: tree.Node) -> tree.Node:
    """What of a tree another one speaks of too: its entries, and of mappings the entries in them."""
    return _part(whole, like, 2)


def _part(whole: tree.Node, like: tree.Node, levels: int) -> tree.Node:
    data, names = whole.data, like.data
    if not (levels and isinstance(data, dict) and isinstance(names, dict)):
        return whole
    kept = {name: _part(data[name], one, levels - 1) for name, one in names.items() if name in data}
    return tree.Node(kept, whole.position, whole.keys, whole.mark)


def with_part(whole: tree.Node, old: tree.Node, new: tree.Node) -> tree.Node:
    """A tree with its part `old` made into `new`, which has the same names."""
    before, after, data = old.data, new.data, whole.data
    if not (isinstance(before, dict) and isinstance(after, dict) and isinstance(data, dict)):
        return new
    if old.data is whole.data:
        return new
    changes = {
        name: with_part(data[name], before[name], one)
        for name, one in after.items()
        if one is not before[name]
    }
    if not changes:
        return whole
    return tree.Node({**data, **changes}, whole.position, whole.keys, whole.mark)


def without_path(node: tree.Node, path: Sequence[str]) -> tree.Node:
    """A mapping without what stands at a path of keys below it."""
    if len(path) == 1:
        return without(node, path[0])
    return changed(node, path[0], lambda one: without_path(one, path[1:]))


def marked(node: tree.Node) -> list[tuple[str, ...]]:
    """The paths of keys of everything below a mapping that is marked `!reset` or `!override`."""
    found: list[tuple[str, ...]] = []
    for key, value in node.data.items() if isinstance(node.data, dict) else ():
        if value.mark:
            found.append((key,))
        else:
            found += [(key, *path) for path in marked(value)]
    return found


def without_marks(node: tree.Node) -> tree.Node:
    """The tree without what is marked `!reset`, and with `!override` forgotten."""
    data = node.data
    if isinstance(data, dict):
        kept = {key: without_marks(one) for key, one in data.items() if one.mark != "reset"}
        if not node.mark and len(kept) == len(data) and all(kept[key] is data[key] for key in kept):
            return node
        return tree.Node(kept, node.position, node.keys)
    if isinstance(data, list):
        left = [without_marks(one) for one in data if one.mark != "reset"]
        if not node.mark and len(left) == len(data) and all(map(_is, left, data)):
            return node
        return tree.Node(left, node.position)
    return tree.Node(data, node.position) if node.mark else node


def _is(one: tree.Node, other: tree.Node) -> bool:
    return one is other


def size(node: tree.Node, known: dict[int, int]) -> int:
    """How many values a tree has, with every alias spread out; `known` keeps those of shared ones.

    A long text counts as several.
    """
    data = node.data
    if isinstance(data, str):
        return 1 + len(data) // tree.LONG_TEXT
    if not isinstance(data, (dict, list)):
        return 1
    found = known.get(id(node))
    if found is None:
        items = data.values() if isinstance(data, dict) else data
        found = known[id(node)] = 1 + sum(size(one, known) for one in items)
    return found


def same(one: tree.Node, other: tree.Node) -> bool:
    """Whether two trees hold the same values; a number is not the text of it, true is not 1."""
    if one is other:
        return True
    left, right = one.data, other.data
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right
