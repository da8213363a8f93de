"""ic's own switches in a compose file: `x-ic` of a service and of the stack.

Pure. Not of the Compose Specification: other tools ignore them, as every key that begins with `x-`.
docs/healthd.md has what they mean.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.fields import tree

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
SERVICE_KEYS = ("on_unhealthy",)
STACK_KEYS = ("healthd", "isolation")
HEALTHD_KEYS = ("image",)


def normalize(service: tree.Node, where: str, report: tree.Report) -> Switches:
    """Read those of a service."""
    node, where = service.child(KEY), f"{where}.{KEY}"
    given = tree.entries(node, where, report, null=True)
    tree.check_keys(node, where, report, SERVICE_KEYS)
    word = tree.word(given.get("on_unhealthy"), f"{where}.on_unhealthy", report, _ON_UNHEALTHY)
    return Switches(on_unhealthy=cast("OnUnhealthy | None", word))


def normalize_stack(root: tree.Node, report: tree.Report) -> StackSwitches:
    """Read those of the whole stack; `healthd` is a boolean, or a mapping with an image."""
    node = root.child(KEY)
    given = tree.entries(node, KEY, report, null=True)
    tree.check_keys(node, KEY, report, STACK_KEYS)
    word = tree.word(given.get("isolation"), f"{KEY}.isolation", report, _ISOLATION)
    healthd, label = given.get("healthd"), f"{KEY}.healthd"
    wanted, image = True, None
    if healthd is not None and isinstance(healthd.data, dict):
        tree.check_keys(healthd, label, report, HEALTHD_KEYS)
        image = tree.text(healthd.child("image"), f"{label}.image", report)
    elif healthd is not None and isinstance(healthd.data, (bool, str)):
        wanted = tree.boolean(healthd, label, report)
    elif healthd is not None:
        tree.wrong_type(healthd, label, report, "true, false or a mapping with an image")
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
