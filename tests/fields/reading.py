"""Sections from text: what the tests of the reading half share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ic.fields import tree
from tests.compose import stacks

if TYPE_CHECKING:
    from types import ModuleType


def read(module: ModuleType, body: str, **more: Any) -> tuple[Any, list[str]]:
    """A section of the service `w` (YAML of its keys), and what was said: `CODE column summary (hint)`."""
    report = tree.Report()
    node = stacks.node(body or "{}", report)
    section = module.normalize(node, "w", report, **more)
    return section, said(report)


def said(report: tree.Report) -> list[str]:
    """All diagnostics of a report in one line each."""
    return [
        f"{one.code} {one.position.column if one.position else 0} {one.summary}"
        + (f" ({one.hint})" if one.hint else "")
        for one in report.diagnostics
    ]


def right(module: ModuleType, body: str, **more: Any) -> Any:
    """A section that is read without a word."""
    section, words = read(module, body, **more)
    assert words == []
    return section


def fault(module: ModuleType, body: str) -> str:
    """The one thing that is said of a section."""
    _, words = read(module, body)
    (word,) = words
    return word
