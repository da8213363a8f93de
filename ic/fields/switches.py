"""ic's own switches in a compose file: `x-ic` of a service and of the stack.

Pure. Not of the Compose Specification: other tools ignore them, as every key that begins with `x-`.
docs/healthd.md has what they mean.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from ic import names
from ic.fields import schema, tree
from ic.fields import section as contribution

KEY = "x-ic"
OnUnhealthy = Literal["restart", "stop", "kill", "none"]
Isolation = Literal["default", "strict"]


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """Those of a service. `on_unhealthy` is None when absent: then the restart policy decides."""

    on_unhealthy: OnUnhealthy | None = None


class StackSwitches(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the stack. `healthd` false: nobody watches; `image`: what the health daemon runs in."""

    healthd: bool = True
    image: str = ""
    isolation: Isolation = "default"


# --- reading half ---------------------------------------------------------------------------------------
_ON_UNHEALTHY = ("restart", "stop", "kill", "none")
_ISOLATION = ("default", "strict")
SERVICE = schema.Key(
    schema.MAPPING | schema.NULL, keys={"on_unhealthy": schema.word(*_ON_UNHEALTHY)}
)
STACK = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={
        "healthd": schema.Key(
            schema.FLAG | schema.TEXT | schema.MAPPING,
            keys={"image": schema.text()},
            cast=schema.to_boolean,
        ),
        "isolation": schema.word(*_ISOLATION),
    },
)


def normalize(service: tree.Node, where: str, report: tree.Report) -> Switches:
    """Read those of a service."""
    node, where = service.child(KEY), f"{where}.{KEY}"
    given = tree.entries(node, where, report, null=True)
    word = tree.text(given.get("on_unhealthy"), f"{where}.on_unhealthy", report)
    return Switches(on_unhealthy=cast("OnUnhealthy | None", word))


def normalize_stack(root: tree.Node, report: tree.Report) -> StackSwitches:
    """Read those of the whole stack; `healthd` is a boolean, or a mapping with an image."""
    given = tree.entries(root.child(KEY), KEY, report, null=True)
    word = tree.text(given.get("isolation"), f"{KEY}.isolation", report)
    healthd, label = given.get("healthd"), f"{KEY}.healthd"
    wanted, image = True, None
    if healthd is not None and isinstance(healthd.data, dict):
        image = tree.text(healthd.child("image"), f"{label}.image", report)
    else:
        wanted = tree.boolean(healthd, label, report, default=True)
    return StackSwitches(
        healthd=wanted, image=image or "", isolation=cast("Isolation", word or "default")
    )


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Switches, ctx: contribution.Context) -> contribution.Contribution:  # noqa: ARG001
    """What is done with an unhealthy service, as the health daemon reads it."""
    if section.on_unhealthy is None:
        return contribution.Contribution()
    return contribution.Contribution(
        fields={("config", names.HEALTH_ON_UNHEALTHY): section.on_unhealthy}
    )
