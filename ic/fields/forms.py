"""Short forms that become long ones, and what stands for an absent key.

Pure. Each function takes a node, its dotted name and the report, and gives the node in its long form; a node
that is long already is given back as it is. Where the report is `lenient` (variables are not filled in yet),
what cannot be read stays as it is. Forms that belong to one section alone stand there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import units
from ic.fields import tree, values

if TYPE_CHECKING:
    from ic import errors


def scalar(value: tree.Scalar, position: errors.Position) -> tree.Node:
    """A node of its own for a value that a short form implies."""
    return tree.Node(value, position)


def made(position: errors.Position, **values: tree.Scalar) -> tree.Node:
    """A mapping that a short form stands for."""
    return tree.Node({key: scalar(one, position) for key, one in values.items()}, position)


def having(node: tree.Node, **values: tree.Scalar) -> tree.Node:
    """A mapping with these values where it has none."""
    data = node.data
    if not isinstance(data, dict):
        return node
    missing = {key: one for key, one in values.items() if key not in data}
    if not missing:
        return node
    more = {key: scalar(one, node.position) for key, one in missing.items()}
    return tree.Node({**data, **more}, node.position, node.keys, node.mark)


def as_list(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """One text as a list of it."""
    del where, report
    return tree.as_list(node)


def without_empty(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """One text as a list; a list without what is empty."""
    del where, report
    data = tree.as_list(node).data
    if not isinstance(data, list):
        return node
    return tree.Node([one for one in data if one.data not in (None, "")], node.position)


def as_mapping(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A list of names as a mapping of names to null."""
    del where, report
    return tree.as_mapping(node)


def as_text(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A boolean or a number as text."""
    del where, report
    if isinstance(node.data, (bool, int, float)):
        return tree.Node(units.number_text(node.data), node.position)
    return node


def grant(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A secret or config by its name."""
    del where, report
    return made(node.position, source=node.data) if isinstance(node.data, str) else node


def external(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """`external: {name: X}`, the old spelling, as `external: true` and `name: X`."""
    given = node.child("external")
    if given is None or not isinstance(given.data, dict) or not isinstance(node.data, dict):
        return node
    yes: tree.Scalar = True
    data = {**node.data, "external": scalar(yes, given.position)}
    old, name = given.child("name"), node.child("name")
    if old is not None:
        report.warn(
            "W_DEPRECATED", f"{where}.external.name is deprecated; use name", given.position
        )
        if name is None:
            data["name"] = old
        elif name.data != old.data:
            report.error(
                tree.CONFLICT,
                f"{where}: name and external.name conflict: they differ",
                old.position,
                f"use name; it stands at {name.position}",
            )
    return tree.Node(data, node.position, node.keys, node.mark)


def limit(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A limit as it is: no number with a point, and with variables not filled in no text."""
    reason = values.no_fraction(node)
    if reason:
        report.error(tree.VALUE, f"{where}: {reason}", node.position)
    if report.lenient and isinstance(node.data, str):
        tree.wrong_type(node, where, report, "an integer or a mapping")
    return node


def request(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """A request for devices without a count and without ids: all of them."""
    del where, report
    if node.child("count") is None and node.child("device_ids") is None:
        return having(node, count="all")
    return node
