"""Which image a service runs and how it is made: `image`, `pull_policy`, `build`, `develop` and more.

Compose Specification, sections Services, Build, Develop. Pure.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from ic import names
from ic.fields import forms, merging, networking, process, schema, storage, tree, values
from ic.fields import section as contribution

PullPolicy = Literal["always", "missing", "never"]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The image section. `if_not_present` is read as `missing`."""

    image: str | None = None
    pull_policy: PullPolicy | None = None


# --- reading half ---------------------------------------------------------------------------------------


def _ssh(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    if not isinstance(node.data, list):
        return node
    data: dict[str, tree.Node] = {}
    for item in node.data:
        if not isinstance(item.data, str):
            continue
        name, equals, path = item.data.partition("=")
        if not equals and name != "default":
            report.error(
                tree.VALUE, f"{where}: {name!r} is not an SSH key; write NAME=PATH", item.position
            )
        data[name] = tree.Node(path if equals else None, item.position)
    return tree.Node(data, node.position)


def _contexts(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    if not isinstance(node.data, list):
        return node
    data: dict[str, tree.Node] = {}
    for index, item in enumerate(node.data):
        name, equals, value = str(item.data).partition("=")
        if not equals:
            if report.lenient:
                return node
            report.error(
                tree.VALUE,
                f"{where}[{index}]: {item.data!r} is not of the form NAME=CONTEXT",
                item.position,
            )
        data[name] = tree.Node(value, item.position)
    return tree.Node(data, node.position)


def _build(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    return merging.as_build(node)


def _context(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    return forms.having(node, context=".")


_LIMIT = schema.Key(schema.WHOLE | schema.TEXT, fault=values.exact)
# Text is no number inside of a build, where docker compose makes none of it.
_ULIMIT = _LIMIT.but(
    types=schema.WHOLE | schema.TEXT | schema.MAPPING,
    keys={"soft": _LIMIT, "hard": _LIMIT},
    long=forms.limit,
    required=("soft", "hard"),
)
_IMAGE_TEXT = schema.Key(schema.TEXT | schema.FLAG, long=forms.as_text)
_MANY = schema.texts(distinct=False)
BUILD = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={
        "context": schema.text(),
        "dockerfile": schema.text(),
        "dockerfile_inline": schema.text(),
        "entitlements": _MANY,
        "args": process.ENVIRONMENT.but(merge=merging.sequences, index=merging.by_name),
        "ssh": schema.pairs(long=_ssh),
        "labels": schema.pairs(merge=merging.sequences, index=merging.by_name),
        "cache_from": _MANY,
        "cache_to": _MANY,
        "no_cache": schema.late_flag(),
        "additional_contexts": schema.pairs(
            names=schema.Key(
                schema.TEXT | schema.NUMBER | schema.FLAG | schema.NULL, fault=values.text
            ),
            merge=merging.sequences,
            index=merging.by_name,
            long=_contexts,
        ),
        "network": schema.text(),
        "provenance": _IMAGE_TEXT,
        "sbom": _IMAGE_TEXT,
        "pull": schema.late_flag(),
        "target": schema.text(),
        "shm_size": schema.Key(schema.WHOLE | schema.TEXT, fault=values.size),
        "extra_hosts": networking.HOSTS.but(pending=False),
        "isolation": schema.text(),
        "privileged": schema.late_flag(),
        "secrets": schema.listing(storage.GRANT),
        "tags": _MANY.but(index=merging.by_name),
        "ulimits": schema.named(_ULIMIT, "^[a-z]+$", loose=True),
        "platforms": _MANY,
    },
    newer=("no_cache_filter", "platform"),
    merge=merging.build,
    long=_build,
    fill=_context,
    pending=True,
)
_POLICIES = ("always", "missing", "never", "if_not_present")
_TIMED = ("build", "refresh", "daily", "weekly")
_PATTERNS = schema.text_or_texts(long=forms.as_list)
_WATCH = schema.mapping(
    {
        "ignore": _PATTERNS,
        "include": _PATTERNS,
        "path": schema.text(),
        "action": schema.word("rebuild", "sync", "restart", "sync+restart", "sync+exec"),
        "target": schema.text(),
        "exec": process.HOOK,
        "initial_sync": schema.Key(schema.FLAG),
    },
    required=("path", "action"),
)
_OPTION = schema.TEXT | schema.NUMBER | schema.FLAG
_MODEL = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={"endpoint_var": schema.text(), "model_var": schema.text()},
)
SCHEMA: dict[str, schema.Key] = {
    "build": BUILD,
    "develop": schema.Key(
        schema.MAPPING | schema.NULL, keys={"watch": schema.listing(_WATCH)}, pending=True
    ),
    "image": schema.text(),
    "models": schema.Key(
        schema.MAPPING | schema.LIST,
        names=_MODEL,
        name_pattern=schema.NAME,
        extensions=False,
        loose=True,
        item=schema.text(),
        distinct=True,
        merge=merging.names,
        long=forms.as_mapping,
        pending=True,
    ),
    "platform": schema.text(pending=True),
    "provider": schema.mapping(
        {
            "type": schema.text(),
            "options": schema.named(
                schema.Key(_OPTION | schema.LIST, item=schema.Key(_OPTION)), ".+"
            ),
        },
        required=("type",),
        pending=True,
    ),
    "pull_policy": schema.text(
        rf"{'|'.join(_POLICIES + _TIMED)}|every_([0-9]+[wdhms])+",
        told=f"does not match: it is none of {', '.join(_POLICIES + _TIMED)} and every_TIME",
        near=_POLICIES + _TIMED,
    ),
    "pull_refresh_after": schema.text(pending=True),
    "runtime": schema.text(pending=True),
}


def normalize(service: tree.Node, where: str, report: tree.Report) -> Image:
    """Read the section from a service's merged mapping."""
    name = tree.text(service.child("image"), f"{where}.image", report)
    node = service.child("pull_policy")
    policy = tree.text(node, f"{where}.pull_policy", report)
    if node is not None and policy is not None and policy not in _POLICIES:
        tree.unsupported(f"{where}.pull_policy: {policy!r}", node.position, report)
        return Image(image=name)
    if policy == "if_not_present":
        policy = "missing"
    return Image(image=name, pull_policy=cast("PullPolicy | None", policy))


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Image, ctx: contribution.Context) -> contribution.Contribution:  # noqa: ARG001
    """The mark of the image that an instance is made from: a change of its digest replaces the instance."""
    return contribution.Contribution(fields={("config", names.IMAGE): ctx.image_mark})
