"""A stack in normal form: what its files imply is written down.

Pure: the long form of a whole stack in, the same with the network `default`, dependencies that links and
shared namespaces bring, names of networks and volumes, and variables of environments and build arguments
filled in. `docker compose config --no-normalize` leaves this out.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from ic.compose import graft
from ic.fields import forms, tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ic import errors

_SHARED = ("network_mode", "ipc", "pid", "uts", "cgroup")
_NAMED = ("networks", "volumes", "configs", "secrets")


def normalize(node: tree.Node, name: str, env: Mapping[str, str]) -> tree.Node:
    """The stack `name` in normal form; `env` gives variables without a value theirs."""
    if not isinstance(node.data, dict):
        return node
    data = dict(node.data)
    data["name"] = tree.Node(name, node.key_position("name"))
    services = data.get("services")
    if services is not None and isinstance(services.data, dict):
        made = {key: _service(one, env) for key, one in services.data.items()}
        data["services"] = tree.Node(made, services.position, services.keys)
        if any(_uses_default(one) for one in made.values()):
            data["networks"] = _with_default(data.get("networks"), node.position)
    for key in _NAMED:
        if key in data:
            data[key] = _with_names(data[key], name)
    return tree.Node(data, node.position, node.keys)


def with_replicas(root: tree.Node, active: frozenset[str]) -> tree.Node:
    """The stack whose services with a `deploy` have their `scale` there as `replicas` too.

    docker compose writes it down where it checks that the two agree.
    """

    def one(name: str, service: tree.Node) -> tree.Node:
        scale, deploy = service.child("scale"), service.child("deploy")
        if name not in active or scale is None or deploy is None or deploy.data is None:
            return service
        changed = graft.with_child(deploy, "replicas", scale, service.key_position("scale"))
        return graft.with_child(service, "deploy", changed)

    return graft.changed(root, "services", lambda services: graft.mapped(services, one))


def _uses_default(service: tree.Node) -> bool:
    networks = service.child("networks")
    if service.child("provider") is not None or service.child("network_mode") is not None:
        return False
    return networks is not None and networks.child("default") is not None


def _with_default(networks: tree.Node | None, position: errors.Position) -> tree.Node:
    if networks is None or not isinstance(networks.data, dict):
        return tree.Node({"default": tree.Node(None, position)}, position)
    if "default" in networks.data:
        return networks
    data = {**networks.data, "default": tree.Node(None, networks.position)}
    return tree.Node(data, networks.position, networks.keys)


def _with_names(top: tree.Node, stack: str) -> tree.Node:
    if not isinstance(top.data, dict):
        return top
    data: dict[str, tree.Node] = {}
    for key, one in top.data.items():
        resource = one if isinstance(one.data, dict) else tree.Node({}, one.position)
        named = resource.child("name")
        if named is None or named.data is None:
            external = resource.child("external")
            name = key if external is not None and _is_true(external.data) else f"{stack}_{key}"
            resource = tree.Node(
                {**_mapping(resource), "name": tree.Node(name, resource.position)},
                resource.position,
                resource.keys,
            )
        data[key] = resource
    return tree.Node(data, top.position, top.keys)


def _is_true(data: object) -> bool:
    """Whether a value says yes; text still does where no variables are filled in."""
    return data is True or data in ("1", "t", "T", "TRUE", "true", "True")


def _mapping(node: tree.Node) -> dict[str, tree.Node]:
    return node.data if isinstance(node.data, dict) else {}


def _service(service: tree.Node, env: Mapping[str, str]) -> tree.Node:
    if not isinstance(service.data, dict):
        return service
    data = dict(service.data)
    policy = data.get("pull_policy")
    if policy is not None and policy.data == "if_not_present":
        data["pull_policy"] = tree.Node("missing", policy.position)
    build = data.get("build")
    if build is not None and isinstance(build.data, dict):
        data["build"] = _build(build, env)
    environment = data.get("environment")
    if environment is not None:
        data["environment"] = _resolved(environment, env, keep=True)
    volumes = data.get("volumes")
    if volumes is not None and isinstance(volumes.data, list):
        cleaned = [_with_clean_target(one) for one in volumes.data]
        data["volumes"] = tree.Node(cleaned, volumes.position)
    _attach(data, service.position)
    dependencies = _dependencies(data, service.position)
    if dependencies is not None:
        data["depends_on"] = dependencies
    return tree.Node(data, service.position, service.keys)


def _attach(data: dict[str, tree.Node], position: errors.Position) -> None:
    """A service without networks is in `default`, unless it has none at all."""
    if "provider" in data or "network_mode" in data:
        return
    networks = data.get("networks")
    if networks is None or not networks.data:
        at = position if networks is None else networks.position
        data["networks"] = tree.Node({"default": tree.Node(None, at)}, at)


def _build(build: tree.Node, env: Mapping[str, str]) -> tree.Node:
    data = dict(_mapping(build))
    context = data.get("context")
    if context is None or context.data is None:
        data["context"] = tree.Node(".", build.position)
    if all(_null(data.get(key)) for key in ("dockerfile", "dockerfile_inline")):
        data["dockerfile"] = tree.Node("Dockerfile", build.position)
    if "args" in data:
        data["args"] = _resolved(data["args"], env, keep=False)
    return tree.Node(data, build.position, build.keys)


def _null(node: tree.Node | None) -> bool:
    return node is None or node.data is None


def _resolved(node: tree.Node, env: Mapping[str, str], *, keep: bool) -> tree.Node:
    """Names without a value get the variable's; one that is not set stays (`keep`) or goes."""
    if isinstance(node.data, dict):
        data: dict[str, tree.Node] = {}
        for key, one in node.data.items():
            if one.data is not None:
                data[key] = one
            elif key in env:
                data[key] = tree.Node(env[key], one.position)
            elif keep:
                data[key] = one
        return tree.Node(data, node.position, node.keys)
    if not isinstance(node.data, list):
        return node
    listed: list[tree.Node] = []
    for one in node.data:
        text = one.data
        if isinstance(text, str) and "=" not in text and text in env:
            listed.append(tree.Node(f"{text}={env[text]}", one.position))
        elif keep or (isinstance(text, str) and "=" in text):
            listed.append(one)
    return tree.Node(listed, node.position)


def _with_clean_target(mount: tree.Node) -> tree.Node:
    target = mount.child("target")
    if target is None or not isinstance(target.data, str):
        return mount
    clean = clean_path(target.data)
    if clean == target.data:
        return mount
    data = {**_mapping(mount), "target": tree.Node(clean, target.position)}
    return tree.Node(data, mount.position, mount.keys)


def clean_path(text: str) -> str:
    """A path without what leads nowhere; one slash at its start."""
    path = posixpath.normpath(text)
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _dependencies(data: dict[str, tree.Node], position: errors.Position) -> tree.Node | None:
    """`depends_on` with what links, shared namespaces and volumes of others imply; None for nothing new."""
    given = data.get("depends_on")
    found: dict[str, tree.Node] = {}

    def add(name: str, at: errors.Position, *, restart: bool) -> None:
        if given is not None and given.child(name) is not None:
            return
        found.setdefault(
            name,
            forms.made(at, condition="service_started", restart=restart, required=True),
        )

    for link, at in _texts(data.get("links")):
        parts = link.split(":")
        add(parts[0] if len(parts) == 2 else link, at, restart=True)
    for key in _SHARED:
        node = data.get(key)
        if node is not None and isinstance(node.data, str) and node.data.startswith("service:"):
            add(node.data.removeprefix("service:"), node.position, restart=True)
    for source, at in _texts(data.get("volumes_from")):
        if not source.startswith("container:"):
            add(source.split(":")[0], at, restart=False)
    if not found:
        return None
    if given is None or not isinstance(given.data, dict):
        return tree.Node(found, position)
    return tree.Node({**given.data, **found}, given.position, given.keys)


def _texts(node: tree.Node | None) -> list[tuple[str, errors.Position]]:
    items = node.data if node is not None and isinstance(node.data, list) else []
    return [(one.data, one.position) for one in items if isinstance(one.data, str)]
