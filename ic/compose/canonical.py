"""The normalised tree of a stack to the documents that `ic config` prints, as docker compose 2.40.3 does.

Pure. Enters: the tree as plain values (every service of the files, in long form), the names of the active
services. Leaves: plain values in the order of printing, or their text. Three degrees: what is selected of
the stack (`document`), the model before types are given to it (`model_document`, for `--no-interpolate`), one
service for its digest (`digest`).

YAML: `name services networks volumes secrets configs models x-*`, names of maps sorted, keys of a service
in docker compose's order. JSON: the top level alphabetical, `command` and `entrypoint` always there, no
models. A dollar is written `$$`, so that the document reads back to the same stack.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from ic import errors
from ic.compose import shapes, writing
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ic.compose import model
    from ic.compose.shapes import Document, Value

RESOURCES = ("networks", "volumes", "secrets", "configs", "models")
_KNOWN = frozenset(("name", "services", "include", "version", *RESOURCES))
_SHAPES = {
    "networks": shapes.NETWORK,
    "volumes": shapes.VOLUME,
    "secrets": shapes.FILE,
    "configs": shapes.FILE,
    "models": shapes.MODEL,
}


# --- what is selected -----------------------------------------------------------------------------------


def _section(root: Mapping[str, Value], name: str) -> Document:
    found = root.get(name)
    return cast("Document", found) if isinstance(found, dict) else {}


def _names(value: Value) -> list[str]:
    if isinstance(value, dict):
        return list(cast("Document", value))
    return [one for one in cast("list[Value]", value or []) if isinstance(one, str)]


def selected(
    root: Mapping[str, Value],
    active: Collection[str],
    wanted: Iterable[str] = (),
    *,
    everything: bool = False,
) -> Document:
    """The part of a tree that is printed: `wanted` services and what they depend on, or all active ones.

    Networks, volumes, secrets, configs and models that none of them uses are left out, unless `everything`.
    Raises UsageError for a wanted service that is not there.
    """
    services = _section(root, "services")
    chosen = {name: services[name] for name in services if name in active}
    wanted = tuple(wanted)
    if wanted:
        chosen = _with_dependencies(chosen, wanted)
    made = {**root, "services": chosen}
    if everything:
        return made
    used = _used(chosen.values())
    for section in RESOURCES:
        if section in made:
            given = _section(root, section)
            made[section] = {name: given[name] for name in given if name in used[section]}
    return made


def _with_dependencies(services: Document, wanted: Iterable[str]) -> Document:
    """The wanted services and all that they depend on; other dependencies are taken off."""
    chosen: set[str] = set()
    waiting = [(name, True) for name in wanted]
    while waiting:
        pattern, required = waiting.pop()
        meant = _meant(pattern, services)
        if not meant and required:
            raise errors.UsageError(
                f"cannot select the service {pattern!r}: no such service",
                hint=tree.nearest_hint(pattern, services),
                code="E_REFERENCE",
            )
        for name in meant - chosen:
            dependencies = cast("Document", services[name] or {}).get("depends_on")
            waiting += [
                (other, _is_required(dependencies, other)) for other in _names(dependencies)
            ]
        chosen |= meant
    made: Document = {}
    for name in services:
        if name not in chosen:
            continue
        service = cast("Document", services[name])
        dependencies = service.get("depends_on")
        if isinstance(dependencies, dict):
            kept = {
                other: one
                for other, one in cast("Document", dependencies).items()
                if other in chosen
            }
            service = {**service, "depends_on": kept}
        made[name] = service
    return made


_PATTERN = r"(\*)|(\?)|\[(\^?)((?:\\?[^\]\\-](?:-\\?[^\]\\-])?)+)\]|\\?([^\[\\])"


def _meant(pattern: str, services: Document) -> set[str]:
    """The services that an argument names; it may be a pattern with `*`, `?` and `[...]`."""
    if pattern in services:
        return {pattern}
    if not set("*?[\\") & set(pattern):
        return set()
    made, at = "", 0
    while at < len(pattern):
        found = re.compile(_PATTERN).match(pattern, at)
        if found is None:
            return set()
        several, one, negated, within, literal = found.groups()
        if several or one:
            made += ".*" if several else "."
        elif literal:
            made += re.escape(literal)
        else:
            made += f"[{negated}{within}]"
        at = found.end()
    return {name for name in services if re.fullmatch(made, name)}


def _is_required(dependencies: Value, name: str) -> bool:
    one = cast("Document", dependencies).get(name) if isinstance(dependencies, dict) else None
    return not isinstance(one, dict) or bool(cast("Document", one).get("required", True))


def _used(services: Iterable[Value]) -> dict[str, set[str]]:
    used: dict[str, set[str]] = {section: set() for section in RESOURCES}
    for one in services:
        service = cast("Document", one) if isinstance(one, dict) else {}
        used["networks"].update(_names(service.get("networks")))
        used["models"].update(_names(service.get("models")))
        for mount in cast("list[Value]", service.get("volumes") or []):
            given = cast("Document", mount) if isinstance(mount, dict) else {}
            if given.get("type") == "volume" and given.get("source"):
                used["volumes"].add(str(given["source"]))
        build = service.get("build")
        grants = _sources(service.get("secrets"))
        if isinstance(build, dict):
            grants += _sources(cast("Document", build).get("secrets"))
        used["secrets"].update(grants)
        used["configs"].update(_sources(service.get("configs")))
    return used


def _sources(value: Value) -> list[str]:
    found: list[str] = []
    for one in cast("list[Value]", value or []):
        source = cast("Document", one).get("source") if isinstance(one, dict) else one
        if isinstance(source, str):
            found.append(source)
    return found


# --- the documents --------------------------------------------------------------------------------------


def document(root: Mapping[str, Value], name: str, *, json: bool = False) -> Document:
    """A selected tree in the order and the types of printing."""
    services = _section(root, "services")
    made: Document = {
        "name": name,
        "services": {
            key: shapes.printed(cast("Document", services[key] or {}), shapes.SERVICE, json=json)
            for key in shapes.ordered(services, json=json)
        },
    }
    if not name and not json:
        del made["name"]
    for section in RESOURCES:
        given = _section(root, section)
        if given and not (json and section == "models"):
            made[section] = {
                key: shapes.printed(_resource(section, given[key]), _SHAPES[section], json=json)
                for key in shapes.ordered(given, json=json)
            }
    extensions = {key: root[key] for key in root if key not in _KNOWN and key.startswith("x-")}
    made |= shapes.in_order(extensions, json=json)
    return dict(sorted(made.items())) if json else made


def _resource(section: str, value: Value) -> Document:
    """A resource as it is printed: without the content that came out of the environment."""
    given = cast("Document", value) if isinstance(value, dict) else {}
    secret = section == "secrets" or (section == "configs" and given.get("environment"))
    return {key: given[key] for key in given if key != "content"} if secret else given


def model_document(root: Mapping[str, Value], *, json: bool = False) -> Document:
    """A tree whose variables are not filled in: all alphabetical, types and short forms as they are."""
    return shapes.in_order(root, json=json)


def text_of(made: Document, *, json: bool = False, dollars: bool = True) -> str:
    """The text of a document; with `dollars` each `$` is doubled. JSON has no newline at its end.

    Raises IcError for a number that JSON has no word for.
    """
    text = writing.to_json(made) if json else writing.to_yaml(made)
    return text.replace("$", "$$") if dollars else text


_NOT_DIGESTED = frozenset({"build", "pull_policy", "scale", "depends_on", "profiles"})


def digest(service: Mapping[str, Value]) -> str:
    """docker compose's digest of a service (SHA-256, hexadecimal), by which it sees what has changed.

    It is that of its JSON without what only matters before it runs.
    """
    import hashlib

    made = shapes.printed(service, shapes.SERVICE, json=True)
    kept = {key: one for key, one in made.items() if key not in _NOT_DIGESTED}
    deploy = kept.get("deploy")
    if isinstance(deploy, dict):
        given = cast("Document", deploy)
        kept["deploy"] = {key: given[key] for key in given if key != "replicas"}
    return hashlib.sha256(writing.to_compact_json(kept).encode()).hexdigest()


def images_only(root: Mapping[str, Value]) -> Document:
    """A tree with the images of its services alone."""
    services = _section(root, "services")
    made = {
        name: {key: one for key, one in cast("Document", service or {}).items() if key == "image"}
        for name, service in services.items()
    }
    return {"services": made}


# --- a stack --------------------------------------------------------------------------------------------


def plain_tree(stack: model.Stack) -> Document:
    """The normalised tree of a stack as plain values."""
    return cast("Document", tree.plain(stack.tree) if stack.tree is not None else {})


def to_json(stack: model.Stack) -> str:
    """What is active of a stack, as JSON."""
    root = selected(plain_tree(stack), stack.services)
    return text_of(document(root, stack.name, json=True), json=True)


def to_yaml(stack: model.Stack) -> str:
    """What is active of a stack, as YAML, with a newline at the end."""
    root = selected(plain_tree(stack), stack.services)
    return text_of(document(root, stack.name))
