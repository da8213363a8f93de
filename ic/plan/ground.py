"""What all stages of building the desired state stand on: the inputs, and the problems found so far.

Pure. Problems are collected and raised together, each with the place in the file that it comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors, names
from ic.plan import facts

if TYPE_CHECKING:
    from ic.compose import model
    from ic.journal import fold
    from ic.resources import kind


class Ground:
    """The inputs of one planning, and what there is to say about them.

    `selected` are service names, `orphans` the addresses of instances that no file names and that this plan
    leaves alone.
    """

    def __init__(
        self,
        stack: model.Stack,
        recorded: fold.Recorded,
        observed: facts.Observed,
        selected: frozenset[str],
        orphans: frozenset[str] = frozenset(),
    ) -> None:
        self.stack = stack
        self.recorded = recorded
        self.observed = facts.prefer(
            observed,
            {
                names.address("network", key): given.name or names.bridge(stack.name, key)
                for key, given in stack.networks.items()
                if not given.external
            },
        )
        self.facts = observed.facts
        self.selected = selected
        self.orphans = orphans
        self.unselected = frozenset({*stack.services, *stack.inactive}) - selected
        self.project = names.project(stack.name)
        self.problems: list[errors.Diagnostic] = []
        self.warnings: list[errors.Diagnostic] = []

    def problem(self, summary: str, *where: str | int, hint: str = "") -> None:
        """Something that stops the plan; `where` is a path in the merged document."""
        self.problems.append(
            errors.Diagnostic(
                severity="error",
                code="E_PLAN",
                summary=summary,
                position=self.stack.where(*where) if where else None,
                hint=hint,
            )
        )

    def warn(self, code: str, summary: str, *where: str | int) -> None:
        """Something to know; the plan goes on."""
        self.warnings.append(
            errors.Diagnostic(
                severity="warning", code=code, summary=summary, position=self.stack.where(*where)
            )
        )

    def check_labels(self, labels: dict[str, str], what: str, *where: str | int) -> None:
        """Say which labels cannot be kept (`kind.label_fields`)."""
        bare = sorted(label for label, value in labels.items() if not value)
        if bare:
            self.warn(
                "W_LABEL",
                f"{what}: labels without a value are not kept: {', '.join(bare)}",
                *where,
                "labels",
            )

    def raise_all(self) -> None:
        """Raise PlanError for all problems together, if there are any."""
        if not self.problems:
            return
        first = self.problems[0]
        rest = len(self.problems) - 1
        raise errors.PlanError(
            first.summary
            if not rest
            else f"cannot plan stack {self.stack.name!r}: {rest + 1} problems",
            hint=first.hint if not rest else "",
            diagnostics=tuple(self.problems),
        )

    def field(self, address: str, path: kind.Path) -> tuple[str | None, str | None]:
        """A field as recorded and as live, each None where it is not (or not readable)."""
        known = self.recorded.resources.get(address)
        was = known.fields.get(path) if known else None
        live = self.observed.live.get(address)
        return (was if isinstance(was, str) else None), (live.fields.get(path) if live else None)

    def exists(self, address: str) -> bool:
        """Whether ic made it before, or it is there."""
        return address in self.recorded.resources or address in self.observed.live

    def members(self) -> list[tuple[model.Service, int, str]]:
        """Every replica that is there or will be: active services, and what exists of inactive ones."""
        found: list[tuple[model.Service, int, str]] = []
        for name in sorted({**self.stack.inactive, **self.stack.services}):
            active = name in self.stack.services
            service = self.stack.services[name] if active else self.stack.inactive[name]
            for replica in replicas(service):
                address = names.address("instance", f"{name}/{replica}")
                if active or self.exists(address):
                    found.append((service, replica, address))
        return found


def replicas(service: model.Service) -> range:
    """The replicas of a service, counted from 1."""
    return range(1, service.placement.replicas + 1)
