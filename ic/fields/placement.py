"""How many of a service and how marked: `scale`, `deploy.replicas`, `container_name`, `labels`. Pure."""

from __future__ import annotations

import re

import msgspec

from ic import names
from ic.fields import forms, merging, schema, tree, values
from ic.fields import section as contribution
from ic.resources import kind


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The placement section. `replicas` is `deploy.replicas` or `scale`, 1 without either."""

    replicas: int = 1
    container_name: str | None = None
    labels: dict[str, str] = {}


# --- reading half ---------------------------------------------------------------------------------------


_DURATION = schema.text(fault=values.duration)
_UPDATE = schema.mapping(
    {
        "parallelism": schema.whole(fault=values.negative),
        "delay": _DURATION,
        "failure_action": schema.text(),
        "monitor": _DURATION,
        "max_failure_ratio": schema.number(),
        "order": schema.word("start-first", "stop-first"),
    },
    pending=True,
)
_CPUS = schema.Key(schema.NUMBER | schema.TEXT, fault=values.float_text)
_MEMORY = schema.text(fault=values.size)
REQUEST: dict[str, schema.Key] = {
    "capabilities": schema.texts(),
    "count": schema.Key(schema.TEXT | schema.WHOLE, fault=values.count),
    "device_ids": schema.texts(),
    "driver": schema.text(),
    "options": schema.pairs(),
}
_GENERIC = schema.mapping(
    {
        "discrete_resource_spec": schema.mapping(
            {
                "kind": schema.text(),
                "value": schema.Key(
                    schema.NUMBER | schema.TEXT,
                    fault=lambda node: (
                        values.whole_text(node) or values.up_to(2**63 - 1, -(2**63))(node)
                    ),
                ),
            }
        )
    }
)
_RESOURCES = schema.mapping(
    {
        "limits": schema.mapping(
            {
                "cpus": _CPUS,
                "memory": _MEMORY,
                "pids": schema.Key(schema.WHOLE | schema.TEXT, fault=values.whole_text),
            }
        ),
        "reservations": schema.mapping(
            {
                "cpus": _CPUS,
                "memory": _MEMORY,
                "generic_resources": schema.listing(_GENERIC),
                "devices": schema.listing(
                    schema.mapping(REQUEST, required=("capabilities",), fill=forms.request)
                ),
            }
        ),
    },
    pending=True,
)
DEPLOY = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={
        "mode": schema.text(pending=True, usual=("replicated",)),
        "endpoint_mode": schema.text(pending=True, usual=("vip",)),
        "replicas": schema.whole(),
        "labels": schema.pairs(merge=merging.sequences, index=merging.by_name, pending=True),
        "rollback_config": _UPDATE,
        "update_config": _UPDATE,
        "resources": _RESOURCES,
        "restart_policy": schema.mapping(
            {
                "condition": schema.text(),
                "delay": _DURATION,
                "max_attempts": schema.whole(fault=values.negative),
                "window": _DURATION,
            },
            pending=True,
            usual=(),  # even an empty one stands over `restart`
        ),
        "placement": schema.mapping(
            {
                "constraints": schema.texts(distinct=False),
                "preferences": schema.listing(schema.mapping({"spread": schema.text()})),
                "max_replicas_per_node": schema.whole(fault=values.negative),
            },
            pending=True,
        ),
    },
)
SCHEMA: dict[str, schema.Key] = {
    "annotations": schema.pairs(merge=merging.sequences, index=merging.by_name, pending=True),
    "attach": schema.late_flag(pending=True, usual=(True,)),
    "container_name": schema.text(
        "[a-zA-Z0-9][a-zA-Z0-9_.-]+",
        told="does not match [a-zA-Z0-9][a-zA-Z0-9_.-]+: it needs a letter or digit and at least "
        "two characters",
    ),
    "deploy": DEPLOY,
    "label_file": schema.Key(
        schema.TEXT | schema.LIST, item=schema.text(), merge=merging.sequences, long=forms.as_list
    ),
    "labels": schema.pairs(merge=merging.sequences, index=merging.by_name),
    "logging": schema.mapping(
        {
            "driver": schema.text(),
            "options": schema.named(schema.Key(schema.TEXT | schema.NUMBER | schema.NULL), ".+"),
        },
        merge=merging.logging,
        pending=True,
    ),
    "scale": schema.whole(),
}
_CONTAINER_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"


def normalize(service: tree.Node, where: str, report: tree.Report) -> Placement:
    """Read the section from a service's long form, in which `scale` and `deploy.replicas` agree."""
    scale = tree.integer(service.child("scale"), f"{where}.scale", report)
    deploy = service.child("deploy")
    node = deploy.child("replicas") if deploy is not None else None
    replicas = tree.integer(node, f"{where}.deploy.replicas", report)
    count = scale if scale is not None else replicas if replicas is not None else 1
    return Placement(
        replicas=count,
        container_name=tree.text(service.child("container_name"), f"{where}.container_name", report)
        or None,
        labels=tree.labels(service.child("labels"), f"{where}.labels", report),
    )


def faults(section: Placement) -> list[tuple[str, str, str]]:
    """What could not run: key, reason and hint of each."""
    found: list[tuple[str, str, str]] = []
    name = section.container_name
    if name and not re.fullmatch(_CONTAINER_NAME, name):
        reason = f"{name!r} may hold letters, digits, '_', '.' and '-' only"
        found.append(("container_name", reason, ""))
    if "" in section.labels:
        found.append(("labels", "a label has an empty name", ""))
    return found


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Placement, ctx: contribution.Context) -> contribution.Contribution:
    """Labels, and the service's name for people and other tools. Replicas are the address's matter."""
    return contribution.Contribution(
        fields={("config", names.SERVICE): ctx.service, **kind.label_fields(section.labels)}
    )
