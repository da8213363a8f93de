"""The stages of reading that walk a whole tree by its schema: cast, check, long forms, defaults, values.

Pure: a tree and a report in, a tree out; the given tree stays as it is, what does not change is shared.
What is done where stands in the sections' `SCHEMA` (ic.fields) and in `model`.
"""

from __future__ import annotations

from ic.compose import model
from ic.fields import schema, tree


def cast(node: tree.Node, report: tree.Report) -> tree.Node:
    """Texts where the schema wants numbers and booleans become those; variables are filled in already."""

    def one(here: tree.Node, key: schema.Key, where: str) -> tree.Node:
        text = here.data
        if not isinstance(text, str) or key.cast is None:
            return here
        try:
            value = key.cast(text)
        except ValueError as problem:
            report.error(tree.TYPE, f"{where} {problem}, not {text!r}", here.position)
            report.faulty.add(here.position)
            return here
        if isinstance(value, bool) and tree.is_old_boolean(text):
            meant = "true" if value else "false"
            report.warn(
                "W_BOOLEAN", f"{where}: {text!r} is read as {meant}; write {meant}", here.position
            )
        return tree.Node(value, here.position, None, here.mark)

    return schema.rewrite(node, model.STACK, "cast", one)


def check(node: tree.Node, report: tree.Report) -> None:
    """Report everything that the schema does not allow: unknown keys, types, words, ranges."""
    if node.child("version") is not None:
        report.warn(
            "W_VERSION",
            "version has no meaning any more and is ignored",
            node.key_position("version"),
            once="version",
        )
    schema.validate(node, model.STACK, report)


def long(node: tree.Node, report: tree.Report) -> tree.Node:
    """Short forms become long ones; with a lenient report, what cannot be read stays as it is."""

    def one(here: tree.Node, key: schema.Key, where: str) -> tree.Node:
        return key.long(here, where, report) if key.long is not None else here

    return schema.rewrite(node, model.STACK, "long", one)


def fill(node: tree.Node, report: tree.Report) -> tree.Node:
    """What stands for an absent key is written down."""

    def one(here: tree.Node, key: schema.Key, where: str) -> tree.Node:
        return key.fill(here, where, report) if key.fill is not None else here

    return schema.rewrite(node, model.STACK, "fill", one)


def values(node: tree.Node, report: tree.Report) -> None:
    """Report what has the right type and still cannot be read: durations, sizes, command lines."""

    def one(here: tree.Node, key: schema.Key, where: str) -> None:
        reason = key.fault(here) if key.fault is not None else ""
        if reason:
            report.error(tree.VALUE, f"{where}: {reason}", here.position)

    schema.visit(node, model.STACK, "fault", one)
    services = node.child("services")
    data = services.data if services is not None else None
    for name, service in data.items() if isinstance(data, dict) else ():
        for key in ("ports", "volumes"):
            listed = service.child(key)
            items = listed.data if listed is not None and isinstance(listed.data, list) else []
            for at, item in enumerate(items):
                if isinstance(item.data, str):  # a variable in it was not filled in
                    tree.wrong_type(item, f"services.{name}.{key}[{at}]", report, "a mapping")
                target = item.child("target") if key == "ports" else None
                if target is not None and isinstance(target.data, str):
                    where = f"services.{name}.ports[{at}].target"
                    tree.wrong_type(target, where, report, "an integer")
