"""Actions, changes and the plan: a DAG of steps that is shown, saved, carried out and journaled as it is.

Pure. A *change* is everything that happens to one resource; its steps share it as their group. The plan
is complete before the first call.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import errors
from ic.resources import kind

Action = Literal[
    "create", "update", "restart", "replace", "delete", "start", "stop", "forget", "adopt"
]

SIGNS: dict[str, str] = {
    "create": "+",
    "update": "~",
    "restart": "~",
    "replace": "-/+",
    "delete": "-",
    "start": ".",
    "stop": ".",
    "forget": ".",
    "adopt": ".",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that would change: what, why in words, field by field, and the steps that do it."""

    address: str
    action: Action
    cause: str
    fields: tuple[kind.FieldChange, ...] = ()
    steps: tuple[kind.Step, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that would change, in a fixed order; no changes means that nothing is to be done."""

    stack: str
    project: str
    server: str
    changes: tuple[Change, ...] = ()
    diagnostics: tuple[errors.Diagnostic, ...] = ()

    @property
    def steps(self) -> tuple[kind.Step, ...]:
        """All steps, in the order of the changes."""
        return tuple(step for change in self.changes for step in change.steps)

    def summary(self) -> dict[str, int]:
        """How many changes there are of each action, in the order of the signs table."""
        counts = {action: 0 for action in SIGNS}
        for change in self.changes:
            counts[change.action] += 1
        return {action: count for action, count in counts.items() if count}
