"""Checks that look further than one value: what excludes, names or contradicts something else.

Pure; diagnostics go into a report. `validate` looks at single entries of a tree, `consistent` across a stack
in normal form, as docker compose does; `check_for_running` at a Stack that is to run on one host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, units
from ic.compose import model
from ic.fields import lifecycle, networking, placement, schema, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def validate(root: tree.Node, report: tree.Report) -> None:
    """What one entry of a stack cannot say at once, whatever the rest of the stack says."""
    for key, one in _entries(root.child("volumes")):
        _external(one, f"volumes.{key}", report)
    for kind, ways in (
        ("configs", ("file", "environment", "content")),
        ("secrets", ("file", "environment")),
    ):
        for key, one in _entries(root.child(kind)):
            _source(one, f"{kind}.{key}", ways, report)
    for name, service in _entries(root.child("services")):
        where = f"services.{name}"
        for index, port in enumerate(_items(service, "ports")):
            _host_address(port, f"{where}.ports[{index}]", report)
        for index, one in enumerate(_items(service, "develop", "watch")):
            path = one.child("path")
            if path is not None and path.data == "":
                report.error(
                    tree.VALUE, f"{where}.develop.watch[{index}].path is empty", path.position
                )
        for label, requests in (
            (f"{where}.gpus", _items(service, "gpus")),
            (
                f"{where}.deploy.resources.reservations.devices",
                _items(service, "deploy", "resources", "reservations", "devices"),
            ),
        ):
            for index, one in enumerate(requests):
                _request(one, f"{label}[{index}]", report)


def _external(node: tree.Node, where: str, report: tree.Report) -> None:
    external = node.child("external")
    if external is None or external.data is not True:
        return
    for key in _mapping(node):
        if key not in ("name", "external") and not key.startswith("x-"):
            report.error(
                tree.CONFLICT,
                f"{where}: {key} and external conflict (external stands at "
                f"{node.key_position('external')})",
                node.key_position(key),
            )


def _source(node: tree.Node, where: str, ways: tuple[str, ...], report: tree.Report) -> None:
    given = [key for key in ways if key in _mapping(node)]
    if len(given) > 1:
        report.error(
            tree.CONFLICT,
            f"{where}: {' and '.join(given)} are mutually exclusive "
            f"({given[0]} stands at {node.key_position(given[0])})",
            node.key_position(given[1]),
        )
    elif not given and node.child("driver") is None and node.child("external") is None:
        report.error(
            schema.MISSING, f"{where} needs one of {', '.join(ways)}; none is set", node.position
        )


def _host_address(port: tree.Node, where: str, report: tree.Report) -> None:
    address = port.child("host_ip")
    if address is None or not isinstance(address.data, str) or units.is_address(address.data):
        return
    report.error(
        tree.VALUE, f"{where}.host_ip: invalid IP address {address.data!r}", address.position
    )


def _request(node: tree.Node, where: str, report: tree.Report) -> None:
    if node.child("count") is not None and node.child("device_ids") is not None:
        report.error(
            tree.CONFLICT,
            f"{where}: count and device_ids are mutually exclusive "
            f"(count stands at {node.key_position('count')})",
            node.key_position("device_ids"),
        )


# --- across the stack ------------------------------------------------------------------------------------


def consistent(root: tree.Node, active: frozenset[str], report: tree.Report) -> None:
    """What docker compose refuses across a stack in normal form, of its active services."""
    services = _mapping(root.child("services"))
    for name, service in services.items():
        if name in active and isinstance(service.data, dict):
            one = _Service(name, service, root, active, report)
            one.image()
            one.references()
            one.dependencies()
            one.numbers()
            one.places()
    for key, one in _entries(root.child("secrets")):
        external = one.child("external")
        if (external is None or external.data is not True) and not (
            _text(one, "file") or _text(one, "environment")
        ):
            report.error(
                schema.MISSING, f"secrets.{key} needs one of file, environment", one.position
            )
    ring = _cycle(services, active)
    if ring:
        depends = services[ring[0]].child("depends_on")
        assert depends is not None
        report.error(
            "E_CYCLE",
            f"dependency cycle detected: {' -> '.join(ring)}",
            depends.key_position(ring[1]),
        )


class _Service:
    """One active service held against the rest of its stack."""

    def __init__(
        self,
        name: str,
        node: tree.Node,
        root: tree.Node,
        active: frozenset[str],
        report: tree.Report,
    ) -> None:
        services = root.child("services")
        self.where = f"services.{name}"
        self.at = services.key_position(name) if services is not None else node.position
        self.node = node
        self.root = root
        self.services = _mapping(services)
        self.active = active
        self.report = report

    def image(self) -> None:
        """An image or a way to get one; a build that does not contradict itself."""
        node, where, report = self.node, self.where, self.report
        build = node.child("build")
        image = node.child("image")
        if build is None and node.child("provider") is None:
            told = image is not None and (image.data or image.position in report.faulty)
            if not told and not _has_unknown(node):
                report.error(
                    schema.MISSING,
                    f"{where} has neither an image nor a build",
                    self.at,
                    "add image: or build:",
                )
        if build is None:
            return
        if _text(build, "dockerfile") and _text(build, "dockerfile_inline"):
            report.error(
                tree.CONFLICT,
                f"{where}.build: dockerfile and dockerfile_inline are mutually exclusive "
                f"(dockerfile stands at {build.key_position('dockerfile')})",
                build.key_position("dockerfile_inline"),
            )
        for key, context in _entries(build.child("additional_contexts")):
            text = context.data
            if isinstance(text, str) and text.startswith("service:"):
                self._context(key, text.removeprefix("service:"), context)
        platform = node.child("platform")
        platforms = [one.data for one in _items(build, "platforms")]
        if platform is not None and platform.data and platforms and platform.data not in platforms:
            report.error(
                tree.CONFLICT,
                f"{where}.build.platforms does not include the service's platform {platform.data!r} "
                f"(that stands at {platform.position})",
                build.key_position("platforms"),
            )

    def _context(self, key: str, name: str, at: tree.Node) -> None:
        label = f"{self.where}.build.additional_contexts.{key}"
        if name not in self.active:
            self._undefined(
                f"{label} uses the undefined service", name, self.services, "services", at
            )
        elif self.services[name].child("build") is None:
            self.report.error(
                tree.CONFLICT, f"{label}: the service {name!r} has no build", at.position
            )

    def _undefined(
        self, what: str, name: str, known: Iterable[str], top: str, at: tree.Node
    ) -> None:
        self.report.error(
            tree.REFERENCE,
            f"{what} {name!r}: {top} does not define it",
            at.position,
            lambda: tree.nearest_hint(name, known),
        )

    def references(self) -> None:
        """Networks, volumes, secrets, configs and models that the stack defines."""
        node, where, report = self.node, self.where, self.report
        mode, networks = node.child("network_mode"), node.child("networks")
        if mode is not None and mode.data and networks is not None and networks.data:
            report.error(
                tree.CONFLICT,
                f"{where}: network_mode and networks are mutually exclusive "
                f"(network_mode stands at {node.key_position('network_mode')})",
                node.key_position("networks"),
            )
        if mode is not None and isinstance(mode.data, str) and mode.data.startswith("service:"):
            name = mode.data.removeprefix("service:")
            if name not in self.active:
                self._undefined(
                    f"{where}.network_mode uses the undefined service",
                    name,
                    self.services,
                    "services",
                    mode,
                )
        for top, word, used in (
            ("networks", "network", [(key, at) for key, at in self._names("networks")]),
            ("models", "model", [(key, at) for key, at in self._names("models")]),
            ("secrets", "secret", self._sources(_items(node, "secrets"))),
            ("secrets", "build secret", self._sources(_items(node, "build", "secrets"))),
            ("configs", "config", self._sources(_items(node, "configs"))),
            ("volumes", "volume", self._volumes()),
        ):
            known = _mapping(self.root.child(top))
            for name, at in used:
                if name not in known:
                    report.error(
                        tree.REFERENCE,
                        f"{where} refers to the undefined {word} {name!r}: {top} does not define it",
                        at,
                        lambda name=name, known=known: tree.nearest_hint(name, known),
                    )
                elif top == "networks" and name.startswith("x-"):
                    # docker compose takes such a key of a service's networks for an extension of them.
                    report.error(
                        tree.REFERENCE,
                        f"{where} refers to the undefined network {name!r}: such a name is an "
                        "extension here",
                        at,
                        "give it a name that does not start with 'x-'",
                    )

    def _names(self, key: str) -> list[tuple[str, errors.Position]]:
        node = self.node.child(key)
        return [(name, node.key_position(name)) for name in _mapping(node)] if node else []

    def _sources(self, grants: list[tree.Node]) -> list[tuple[str, errors.Position]]:
        found: list[tuple[str, errors.Position]] = []
        for one in grants:
            source = one.child("source")
            if source is None:
                found.append(("", one.position))
            elif isinstance(source.data, str):
                found.append((source.data, source.position))
        return found

    def _volumes(self) -> list[tuple[str, errors.Position]]:
        found: list[tuple[str, errors.Position]] = []
        for mount in _items(self.node, "volumes"):
            source = mount.child("source")
            if _text(mount, "type") != "volume" or source is None:
                continue
            if isinstance(source.data, str) and source.data:
                found.append((source.data, source.position))
        return found

    def dependencies(self) -> None:
        """Services that are there and active, or need not be."""
        depends = self.node.child("depends_on")
        for name, one in _entries(depends):
            required = one.child("required")
            optional = required is not None and required.data is False
            if name in self.active or (name in self.services and optional):
                continue
            assert depends is not None
            reason, hint = f"the undefined service {name!r}: services does not define it", ""
            if name in self.services:
                profiles = [str(item.data) for item in _items(self.services[name], "profiles")]
                reason = (
                    f"the service {name!r}, undefined here: its profile ({', '.join(profiles)}) is "
                    "not active"
                )
                hint = f"add --profile {profiles[0]}" if profiles else ""
            self.report.error(
                tree.REFERENCE,
                f"{self.where} depends on {reason}",
                depends.key_position(name),
                hint or (lambda name=name: tree.nearest_hint(name, self.services)),
            )

    def numbers(self) -> None:
        """Limits and counts that are given in two places must agree; a name is for one replica."""
        node, where, report = self.node, self.where, self.report
        deploy = node.child("deploy")
        scale = _count(node.child("scale"), f"{where}.scale", report)
        given = deploy.child("replicas") if deploy is not None else None
        replicas = _count(given, f"{where}.deploy.replicas", report)
        if scale is not None and replicas is not None and scale != replicas and given is not None:
            report.error(
                tree.CONFLICT,
                f"{where}: distinct values: scale is {scale} and deploy.replicas is {replicas} "
                f"(scale stands at {node.key_position('scale')})",
                given.position,
            )
        name = node.child("container_name")
        count = scale if scale is not None else replicas
        if name is not None and name.data and count is not None and count > 1:
            key = "scale" if scale is not None else "deploy.replicas"
            report.error(
                tree.CONFLICT,
                f"{where}: container_name {name.data!r} cannot be that of {count} replicas ({key})",
                name.position,
                "leave container_name out",
            )
        for key, group, other, read in _TWICE:
            self._agree(key, group, other, read)

    def _agree(
        self, key: str, group: str, other: str, read: Callable[[tree.Node | None], float | None]
    ) -> None:
        limits = _below(self.node, "deploy", "resources", group)
        value = read(self.node.child(key))
        if limits is None or not value:
            return
        there = limits.child(other)
        second = read(there) if there is not None else 0
        if second is None or second == value:
            return
        at = there.position if there is not None else limits.position
        self.report.error(
            tree.CONFLICT,
            f"{self.where}: {key} and deploy.resources.{group}.{other} have distinct values "
            f"({key} stands at {self.node.key_position(key)})",
            at,
        )

    def places(self) -> None:
        """A target is mounted once; a check begins with its kind; what is watched has a target."""
        node, where, report = self.node, self.where, self.report
        test = _items(node, "healthcheck", "test")
        if test and test[0].data not in _TESTS:
            report.error(
                tree.VALUE,
                f"{where}.healthcheck.test must begin with CMD, CMD-SHELL or NONE, "
                f"not {test[0].data!r}",
                test[0].position,
                tree.nearest_hint(str(test[0].data).upper(), _TESTS)
                or "a command without a shell is: [CMD, program, argument]",
            )
        for index, one in enumerate(_items(node, "develop", "watch")):
            action = _text(one, "action")
            if not _text(one, "target") and action not in ("rebuild", "restart"):
                report.error(
                    schema.MISSING,
                    f"{where}.develop.watch[{index}] requires a target, as its action is {action}, "
                    "not rebuild or restart",
                    one.position,
                )
        seen: dict[str, tuple[str, errors.Position]] = {}
        tmpfs = node.child("tmpfs")
        listed = tree.as_list(tmpfs).data if tmpfs is not None else []
        for index, one in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(one.data, str):
                self._mount(one.data.partition(":")[0], f"tmpfs[{index}]", one, seen)
        for index, one in enumerate(_items(node, "volumes")):
            self._mount(_text(one, "target"), f"volumes[{index}]", one, seen)

    def _mount(
        self,
        target: str,
        label: str,
        one: tree.Node,
        seen: dict[str, tuple[str, errors.Position]],
    ) -> None:
        first, at = seen.setdefault(target, (label, one.position))
        if first != label:
            self.report.error(
                tree.CONFLICT,
                f"{self.where}.{label}: {target} is a duplicate: it is mounted already by {first} at {at}",
                one.position,
            )


_TESTS = ("CMD", "CMD-SHELL", "NONE")


def _has_unknown(service: tree.Node) -> bool:
    """Whether a key is told to be unknown already, which may be the one that is missed here."""
    known = model.SERVICE.keys or {}
    return any(key not in known and not key.startswith("x-") for key in _mapping(service))


def _cpus(node: tree.Node | None) -> float | None:
    data = node.data if node is not None else 0
    try:
        return float(data) if isinstance(data, (int, float, str)) else None
    except ValueError:
        return None


def _bytes(node: tree.Node | None) -> float | None:
    data = node.data if node is not None else 0
    try:
        return (
            units.size_bytes(data)
            if isinstance(data, str)
            else data
            if isinstance(data, int)
            else 0
        )
    except ValueError:
        return None


_TWICE: tuple[tuple[str, str, str, Callable[[tree.Node | None], float | None]], ...] = (
    ("cpus", "limits", "cpus", _cpus),
    ("mem_limit", "limits", "memory", _bytes),
    ("mem_reservation", "reservations", "memory", _bytes),
    ("pids_limit", "limits", "pids", _cpus),
)


def _count(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
    if node is None or not isinstance(node.data, int):
        return None
    if node.data < 0:
        report.error(
            tree.VALUE,
            f"{where} must be greater than or equal to 0, not {node.data}",
            node.position,
        )
    return node.data


def _mapping(node: tree.Node | None) -> dict[str, tree.Node]:
    return node.data if node is not None and isinstance(node.data, dict) else {}


def _entries(node: tree.Node | None) -> list[tuple[str, tree.Node]]:
    """The entries of a mapping that are mappings themselves, or texts."""
    return [(key, one) for key, one in _mapping(node).items() if one.data is not None]


def _below(node: tree.Node, *path: str) -> tree.Node | None:
    found: tree.Node | None = node
    for name in path:
        if found is None:
            return None
        found = found.child(name)
    return found


def _items(node: tree.Node, *path: str) -> list[tree.Node]:
    found = _below(node, *path)
    return found.data if found is not None and isinstance(found.data, list) else []


def _text(node: tree.Node, key: str) -> str:
    found = node.child(key)
    return found.data if found is not None and isinstance(found.data, str) else ""


def _cycle(services: dict[str, tree.Node], active: frozenset[str]) -> list[str]:
    """The services of a dependency cycle, the first repeated at the end; empty without one."""
    done: set[str] = set()
    for start in sorted(active):
        trail: dict[str, None] = {}
        waiting: list[tuple[str, bool]] = [(start, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                trail.pop(name)
                done.add(name)
                continue
            if name in trail:
                ring = list(trail)
                return [*ring[ring.index(name) :], name]
            if name in done:
                continue
            trail[name] = None
            waiting.append((name, True))
            depends = _mapping(services[name].child("depends_on"))
            waiting.extend((one, False) for one in depends if one in active)
    return []


# --- what matters only when it is to run -----------------------------------------------------------------


def _addresses(
    stack: model.Stack,
    service: model.Service,
    owners: dict[tuple[str, str], str],
    report: tree.Report,
) -> None:
    for key, attachment in service.networking.networks.items():
        network = stack.networks.get(key)
        address = attachment.ipv4_address
        if network is None or network.external or not address:
            continue
        fault, hint = _address_fault(network, address)
        code = tree.VALUE
        if not fault:
            code = tree.CONFLICT
            first = owners.setdefault((key, address), service.name)
            if address == network.gateway:
                fault = f"{address} is the gateway of {key!r}"
            elif service.placement.replicas > 1:
                fault = f"{service.placement.replicas} replicas cannot all have {address}"
            elif first != service.name:
                fault = f"{address} is that of {first!r} too"
        if fault:
            report.error(
                code,
                f"services.{service.name}.networks.{key}.ipv4_address: {fault}",
                stack.where("services", service.name, "networks", key, "ipv4_address"),
                hint,
            )


def _address_fault(network: model.Network, address: str) -> tuple[str, str]:
    """Why an address cannot be one of a network, and a hint; empty when it can."""
    number = units.ipv4(address)
    if number is None:
        return f"{address!r} is not an IPv4 address", ""
    if network.subnet is None:
        return (
            f"the network {network.key!r} has no subnet of its own to hold {address}",
            f"give networks.{network.key}.ipam.config a subnet",
        )
    try:
        first, prefix = units.ipv4_network(network.subnet)
    except ValueError:
        return "", ""  # reported where the subnet stands
    if number >> (32 - prefix) != first >> (32 - prefix):
        return f"{address} is not in {network.subnet}, the subnet of {network.key!r}", ""
    return "", ""


class _Published(msgspec.Struct, frozen=True):
    """A host port that one entry takes for itself."""

    service: str
    host_ip: str
    position: errors.Position | None


def check_for_running(stack: model.Stack, report: tree.Report) -> None:
    """A host port published twice, container names used twice, by the services that would run."""
    taken: dict[tuple[str, int], list[_Published]] = {}
    addresses: dict[tuple[str, str], str] = {}
    for service in stack.services.values():
        for index, port in enumerate(service.networking.ports):
            position = stack.where("services", service.name, "ports", index)
            _check_port(service, port, position, taken, report)
        _addresses(stack, service, addresses, report)
        for index, mount in enumerate(service.storage.volumes):
            if not mount.target.startswith("/"):
                report.error(
                    tree.VALUE,
                    f"services.{service.name}.volumes: the target {mount.target!r} "
                    "is not an absolute path",
                    _mounted_at(stack, service.name, index),
                    "one letter before ':' is read as a drive; use a longer name, or the long form"
                    if mount.target[1:2] == ":"
                    else "",
                )
        _faults(stack, service, report)
    _containers(stack, stack.services, report)


def check_containers(stack: model.Stack, names: Iterable[str]) -> None:
    """Raises ComposeError where two of these services want a container of the same name."""
    report = tree.Report()
    _containers(stack, names, report)
    if report.failed:
        first = report.diagnostics[0]
        raise errors.ComposeError(
            f"cannot read the stack: {first.summary}",
            code=first.code,
            diagnostics=tuple(report.diagnostics),
        )


def _containers(stack: model.Stack, names: Iterable[str], report: tree.Report) -> None:
    owners: dict[str, str] = {}
    for key in sorted(names):
        name = stack.services[key].placement.container_name
        first = owners.setdefault(name, key) if name else key
        if first != key:
            report.error(
                tree.CONFLICT,
                f"services.{key}: the container_name {name!r} is already in use by services.{first} "
                f"(that stands at {stack.where('services', first, 'container_name')})",
                stack.where("services", key, "container_name"),
            )


def _mounted_at(stack: model.Stack, name: str, index: int) -> errors.Position | None:
    """Where a mount was written: those of `tmpfs` come after those of `volumes`."""
    path = ("services", name, "volumes")
    node = _below(stack.tree, *path) if stack.tree is not None else None
    count = len(node.data) if node is not None and isinstance(node.data, list) else 0
    if index < count:
        return stack.where(*path, index)
    return stack.where("services", name, "tmpfs", index - count)


def _faults(stack: model.Stack, service: model.Service, report: tree.Report) -> None:
    found = [
        *lifecycle.faults(service.lifecycle),
        *networking.faults(service.networking),
        *placement.faults(service.placement),
    ]
    for key, reason, hint in found:
        report.error(
            tree.VALUE,
            f"services.{service.name}.{key}: {reason}",
            stack.where("services", service.name, key),
            hint,
        )


def _check_port(
    service: model.Service,
    port: networking.Port,
    position: errors.Position | None,
    taken: dict[tuple[str, int], list[_Published]],
    report: tree.Report,
) -> None:
    if port.published is None:
        return
    where = f"services.{service.name}.ports"
    replicas = service.placement.replicas
    end = port.published_end or port.published
    if end - port.published + 1 < replicas:
        report.error(
            "E_PORT_TWICE",
            f"{where}: {replicas} replicas cannot all publish port {_port_text(port)}",
            position,
            f"publish a range of {replicas} ports, or let the host choose: '{port.target}'",
        )
    if port.published_end is not None:
        return
    holders = taken.setdefault((port.protocol, port.published), [])
    for other in holders:
        if _overlap(other.host_ip, port.host_ip):
            there = f" at {other.position}" if other.position else ""
            report.error(
                "E_PORT_TWICE",
                f"{where}: the host port {_port_text(port)} is published twice; "
                f"first by {other.service!r}{there}",
                position,
            )
            break
    holders.append(_Published(service.name, port.host_ip, position))


def _port_text(port: networking.Port) -> str:
    last = f"-{port.published_end}" if port.published_end else ""
    return f"{port.published}{last}/{port.protocol}"


def _overlap(one: str, other: str) -> bool:
    anywhere = networking.WILDCARDS
    return one == other or one in anywhere or other in anywhere


def without_unused(stack: model.Stack) -> model.Stack:
    """The stack without networks and volumes that no service names; those of inactive services stay."""
    services = (*stack.services.values(), *stack.inactive.values())
    networks = {key for one in services for key in one.networking.networks}
    volumes = {mount.source for one in services for mount in one.storage.volumes}
    return msgspec.structs.replace(
        stack,
        networks={key: one for key, one in stack.networks.items() if key in networks},
        volumes={key: one for key, one in stack.volumes.items() if key in volumes},
    )
