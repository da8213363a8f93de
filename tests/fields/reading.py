"""Sections from text: what the tests of the reading half share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ic.compose import checks, merge, stages
from ic.fields import tree
from tests.compose import stacks

if TYPE_CHECKING:
    from types import ModuleType


def read(module: ModuleType, body: str) -> tuple[Any, list[str]]:
    """A section of the service `w` (YAML of its keys), and what was said: `CODE column summary (hint)`."""
    report = tree.Report()
    node = long(stacks.node(body or "{}", report), report)
    section = None if report.failed else module.normalize(node, "services.w", report)
    return section, said(report)


def long(service: tree.Node, report: tree.Report) -> tree.Node:
    """A service through the stages that its section is read after."""
    at = service.position
    root = tree.Node({"services": tree.Node({"w": service}, at)}, at)
    root = merge.unique(stages.cast(root, report))
    stages.check(root, report)
    root = stages.fill(merge.unique(stages.long(root, report)), report)
    checks.validate(root, report)
    stages.values(root, report)
    found = root.child("services")
    assert found is not None
    read = found.child("w")
    assert read is not None
    return read


def said(report: tree.Report) -> list[str]:
    """All diagnostics of a report in one line each."""
    return [
        f"{one.code} {one.position.column if one.position else 0} "
        + one.summary.replace("services.w", "w")
        + (f" ({one.hint})" if one.hint else "")
        for one in report.diagnostics
    ]


def right(module: ModuleType, body: str) -> Any:
    """A section that is read without a word."""
    section, words = read(module, body)
    assert words == []
    return section


def fault(module: ModuleType, body: str) -> str:
    """The one thing that is said of a section."""
    _, words = read(module, body)
    (word,) = words
    return word
