"""How many of a service and how marked: `scale`, `deploy.replicas`, `container_name`, `labels`. Pure."""

from __future__ import annotations

import re

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.fields import tree
from ic.resources import kind


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The placement section. `replicas` is `deploy.replicas` or `scale`, 1 without either.

    `scale` and `deploy_replicas` are the two as written and `deploy` whether there is one, for `ic config`.
    """

    replicas: int = 1
    scale: int | None = None
    deploy: bool = False
    deploy_replicas: int | None = None
    container_name: str | None = None
    labels: dict[str, str] = {}


# --- reading half ---------------------------------------------------------------------------------------
KEYS: dict[str, tree.Rule | None] = {
    "scale": None,
    "deploy": None,
    "container_name": None,
    "labels": tree.PAIRS,
}
BELOW: tree.Rules = {("deploy", "labels"): tree.PAIRS}
PENDING = frozenset({"annotations", "attach", "label_file", "logging"})

_DEPLOY_PENDING = frozenset(
    {
        "endpoint_mode", "labels", "mode", "placement", "resources", "restart_policy",
        "rollback_config", "update_config",
    }
)  # fmt: skip
_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def normalize(service: tree.Node, where: str, report: tree.Report) -> Placement:
    """Read the section from a service's merged mapping; `scale` and `deploy.replicas` must agree."""
    deploy = service.child("deploy")
    tree.entries(deploy, f"{where}.deploy", report, null=True)
    tree.check_keys(deploy, f"{where}.deploy", report, ("replicas",), _DEPLOY_PENDING)
    scale = _count(service.child("scale"), f"{where}.scale", report)
    node = deploy.child("replicas") if deploy is not None else None
    replicas = _count(node, f"{where}.deploy.replicas", report)
    if node is not None and None not in (scale, replicas) and scale != replicas:
        report.error(
            tree.CONFLICT,
            f"{where}: scale is {scale} and deploy.replicas is {replicas}; they must be the same",
            node.position,
        )
    count = scale if scale is not None else replicas if replicas is not None else 1
    name_node = service.child("container_name")
    name = tree.text(name_node, f"{where}.container_name", report)
    if name_node is not None and name is not None and not _CONTAINER_NAME.search(name):
        report.error(
            tree.VALUE,
            f"{where}.container_name: {name!r} needs a letter or digit and at least two characters",
            name_node.position,
        )
    elif name_node is not None and name and count > 1:
        key = "scale" if scale is not None else "deploy.replicas"
        report.error(
            tree.CONFLICT,
            f"{where}: container_name {name!r} cannot be that of {count} replicas ({key})",
            name_node.position,
            "leave container_name out",
        )
    return Placement(
        replicas=count,
        scale=scale,
        deploy=deploy is not None and deploy.data is not None,
        deploy_replicas=replicas,
        container_name=name or None,
        labels=tree.labels(service.child("labels"), f"{where}.labels", report),
    )


def faults(section: Placement) -> list[tuple[str, str, str]]:
    """What could not run: key, reason and hint of each."""
    found: list[tuple[str, str, str]] = []
    name = section.container_name
    if name and not _CONTAINER_NAME.fullmatch(name):
        reason = f"{name!r} may hold letters, digits, '_', '.' and '-' only"
        found.append(("container_name", reason, ""))
    if "" in section.labels:
        found.append(("labels", "a label has an empty name", ""))
    return found


def _count(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
    value = tree.integer(node, where, report)
    if node is not None and value is not None and value < 0:
        report.error(tree.VALUE, f"{where} must not be negative", node.position)
        return None
    return value


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Placement, ctx: contribution.Context) -> contribution.Contribution:
    """Labels, and the service's name for people and other tools. Replicas are the address's matter."""
    return contribution.Contribution(
        fields={("config", names.SERVICE): ctx.service, **kind.label_fields(section.labels)}
    )
