"""Which image a service runs: `image`, `pull_policy`. Compose Specification, section Services. Pure."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.fields import tree

PullPolicy = Literal["always", "missing", "never"]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The image section. `if_not_present` is read as `missing`."""

    image: str | None = None
    pull_policy: PullPolicy | None = None


# --- reading half ---------------------------------------------------------------------------------------
KEYS: dict[str, tree.Rule | None] = {"image": None, "pull_policy": None}
BELOW: tree.Rules = {}
PENDING = frozenset(
    {"build", "develop", "models", "platform", "provider", "pull_refresh_after", "runtime"}
)

_POLICIES = ("always", "missing", "never", "if_not_present")
_TIMED = ("build", "refresh", "daily", "weekly")


def normalize(service: tree.Node, where: str, report: tree.Report) -> Image:
    """Read the section from a service's merged mapping."""
    name = tree.text(service.child("image"), f"{where}.image", report)
    node = service.child("pull_policy")
    if node is not None and isinstance(node.data, str) and node.data.startswith("every_"):
        tree.unsupported(f"{where}.pull_policy: {node.data!r}", node.position, report)
        return Image(image=name)
    policy = tree.word(node, f"{where}.pull_policy", report, _POLICIES, _TIMED)
    if policy == "if_not_present":
        policy = "missing"
    return Image(image=name, pull_policy=cast("PullPolicy | None", policy))


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Image, ctx: contribution.Context) -> contribution.Contribution:  # noqa: ARG001
    """The mark of the image that an instance is made from: a change of its digest replaces the instance."""
    return contribution.Contribution(fields={("config", names.IMAGE): ctx.image_mark})
