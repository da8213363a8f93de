"""How two files' values of one key become one: the general rule by shape, and the special ones of keys.

Pure. Compose Specification, "Merge and override", as docker compose carries it out: mappings are merged key
by key, lists follow each other, scalars are replaced, null keeps what is there. A section names one of these
functions as `merge` of its key where that is not so. Nodes keep the positions of the file that wrote them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import units
from ic.fields import tree

if TYPE_CHECKING:
    from ic import errors
    from ic.fields import schema


def merge(
    base: tree.Node, over: tree.Node, key: schema.Key | None, where: str, report: tree.Report
) -> tree.Node:
    """`over` laid on `base` by the rule of the key, or by shape."""
    if key is not None and key.merge is not None:
        return key.merge(base, over, key, where, report)
    if over.data is None:
        return base
    if isinstance(base.data, dict):
        if isinstance(over.data, dict):
            return mappings(base, over, key, where, report)
    elif isinstance(base.data, list):
        if isinstance(over.data, list):
            return tree.Node(base.data + over.data, base.position)
    else:
        return over
    return _unlike(base, over, where, report)


def _unlike(base: tree.Node, over: tree.Node, where: str, report: tree.Report) -> tree.Node:
    report.error(
        tree.CONFLICT,
        f"{where} is {tree.kind_of(over)} here and {tree.kind_of(base)} at {base.position}",
        over.position,
    )
    return base


def mappings(
    base: tree.Node, over: tree.Node, key: schema.Key | None, where: str, report: tree.Report
) -> tree.Node:
    """Two mappings key by key."""
    if not isinstance(base.data, dict) or not isinstance(over.data, dict):
        return _unlike(base, over, where, report)
    if not over.data:
        return base
    data = dict(base.data)
    keys = dict(base.keys or {})
    for name, value in over.data.items():
        if name in data:
            below = key.below(name) if key is not None else None
            data[name] = merge(
                data[name], value, below, f"{where}.{name}" if where else name, report
            )
        else:
            data[name] = value
        keys[name] = over.key_position(name)
    return tree.Node(data, base.position, keys, base.mark)


# --- special rules ------------------------------------------------------------------------------------


def replace(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """The later one alone, null included."""
    del base, key, where, report
    return over


def sequences(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """Mappings, lists and single texts as lists of `NAME=VALUE`, one after the other."""
    del key, where, report
    return tree.Node(_sequence(base) + _sequence(over), base.position)


def hosts(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """As `sequences`, without what is there already."""
    del key, where, report
    first = _sequence(base)
    there = {one.data for one in first if isinstance(one.data, str)}
    more = [
        one for one in _sequence(over) if not isinstance(one.data, str) or one.data not in there
    ]
    return tree.Node(first + more, base.position)


def _sequence(node: tree.Node) -> list[tree.Node]:
    data = node.data
    if isinstance(data, list):
        return data
    if isinstance(data, str):
        return [node]
    if not isinstance(data, dict):
        return []
    found: list[tree.Node] = []
    for name, value in data.items():
        several = value.data if isinstance(value.data, list) else [value]
        found.extend(_pair(name, one, node.key_position(name)) for one in several)
    return sorted(found, key=lambda one: str(one.data).encode("utf-8", "surrogatepass"))


def _pair(name: str, value: tree.Node, position: errors.Position) -> tree.Node:
    data = value.data
    if isinstance(data, (dict, list)):
        return value  # no list of texts; told when the whole is checked
    if data is None:
        return tree.Node(name, position)
    text = data if isinstance(data, str) else units.number_text(data)
    return tree.Node(f"{name}={text}", value.position)


def names(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """Lists of names as mappings of names to null, then key by key; of two without any, an empty one."""
    first, second = tree.as_mapping(base), tree.as_mapping(over)
    if first.data is None and not second.data:
        return tree.Node({}, first.position, {})
    if second.data is None:
        return first
    return mappings(first, second, key, where, report)


def build(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """A text is the context; then key by key."""
    first, second = as_build(base), as_build(over)
    if second.data is None:
        return first
    if first.data is None:
        return second
    return mappings(first, second, key, where, report)


def as_build(node: tree.Node) -> tree.Node:
    """A build's short form as its long one."""
    if not isinstance(node.data, str):
        return node
    return tree.Node({"context": tree.Node(node.data, node.position)}, node.position)


def logging(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """Key by key for one driver; another driver brings its own options."""
    first, second = base.child("driver"), over.child("driver")
    if over.data is None:
        return base
    if first is None or second is None or first.data == second.data:
        return mappings(base, over, key, where, report)
    return over


def ulimit(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """The later one alone."""
    return replace(base, over, key, where, report)


def subnets(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    """Pools of addresses: those of one subnet are merged, others stand beside each other.

    The base's pools go through all later ones in turn, as docker compose has it: a pool of the base that no
    later one names is kept only where the later file has none at all. A pool stays the same one wherever it
    was put on its way, so that what it becomes later shows in every place (`_in_turn`).
    """
    if not isinstance(base.data, list) or not isinstance(over.data, list):
        return over if over.data is not None else base
    firsts = base.data
    if len(firsts) * len(over.data) <= _FEW_POOLS:
        return tree.Node(_in_turn(firsts, over.data, key, where, report), base.position)
    if all(map(_named_subnet, (*firsts, *over.data))):
        # Each goes through them all and puts its own in the place of what those before it left.
        firsts = [firsts[0], firsts[-1]]
    else:
        report.make(len(firsts) * len(over.data), where, over.position)
    found: dict[object, tree.Node] = {}
    for first in firsts:
        merged = first
        for second in over.data:
            if _subnet(second) != _subnet(merged) and _subnet(second) not in found:
                found[_subnet(second)] = second
                continue
            merged = mappings(merged, second, key.item, where, report)
            found[_subnet(merged)] = merged
    return tree.Node(list(found.values()), base.position)


_FEW_POOLS = 1_000  # pairs of pools; where there are more, one that is put twice shows once


def _in_turn(
    firsts: list[tree.Node],
    seconds: list[tree.Node],
    key: schema.Key,
    where: str,
    report: tree.Report,
) -> list[tree.Node]:
    found: list[
        list[tree.Node]
    ] = []  # each pool in a place of its own, which a pool may have several times
    for first in firsts:
        own = [first]
        for second in seconds:
            there = any(_subnet(one[0]) == _subnet(second) for one in found)
            if _subnet(second) != _subnet(own[0]) and not there:
                found.append([second])
                continue
            own[0] = mappings(own[0], second, key.item, where, report)
            wanted = _subnet(own[0])
            at = next((at for at, one in enumerate(found) if _subnet(one[0]) == wanted), None)
            if at is None:
                found.append(own)
            else:
                found[at] = own
    return [one[0] for one in found]


def _named_subnet(pool: tree.Node) -> bool:
    return isinstance(_subnet(pool), str)


def _subnet(pool: tree.Node) -> object:
    node = pool.child("subnet")
    return None if node is None or isinstance(node.data, (dict, list)) else node.data


# --- what makes two entries of a list one -------------------------------------------------------------


def by_name(node: tree.Node) -> str | None:
    """What stands before the first `=`."""
    return node.data.partition("=")[0] if isinstance(node.data, str) else None


def by_text(node: tree.Node) -> str | None:
    """The text, or the digits of a number."""
    data = node.data
    if isinstance(data, str):
        return data
    return str(data) if isinstance(data, int) and not isinstance(data, bool) else None


def by_key(name: str) -> schema.Index:
    """A text, or that of one key of a mapping."""

    def index(node: tree.Node) -> str | None:
        one = node.child(name) if isinstance(node.data, dict) else node
        return one.data if one is not None and isinstance(one.data, str) else None

    return index
