"""Cross-checks of a whole stack: references, cycles, ports, names. A Stack in, diagnostics out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, units
from ic.fields import lifecycle, networking, placement, tree

if TYPE_CHECKING:
    from ic.compose import model


def check(stack: model.Stack, report: tree.Report, *, unread: frozenset[str]) -> None:
    """What docker compose refuses too: references to nothing, missing images, cycles.

    `unread` are services whose image comes from a key that ic does not read yet; that is said already.
    """
    for service in stack.services.values():
        where = f"services.{service.name}"
        if not service.image.image and service.name not in unread:
            report.error(tree.VALUE, f"{where} has no image", stack.where("services", service.name))
        _references(stack, service, report)
        _dependencies(stack, service, report)
    cycle = _cycle(stack)
    if cycle:
        report.error(
            "E_CYCLE",
            f"services wait for each other: {' -> '.join(cycle)}",
            stack.where("services", cycle[0], "depends_on", cycle[1]),
        )


def _references(stack: model.Stack, service: model.Service, report: tree.Report) -> None:
    where = f"services.{service.name}"
    for key in service.networking.networks:
        if key not in stack.networks:
            report.error(
                tree.REFERENCE,
                f"{where} uses the network {key!r}, which networks does not define",
                stack.where("services", service.name, "networks", key),
                tree.nearest_hint(key, stack.networks),
            )
    for index, mount in enumerate(service.storage.volumes):
        if mount.type == "volume" and mount.source and mount.source not in stack.volumes:
            report.error(
                tree.REFERENCE,
                f"{where} uses the volume {mount.source!r}, which volumes does not define",
                stack.where("services", service.name, "volumes", index),
                tree.nearest_hint(mount.source, stack.volumes),
            )


def _dependencies(stack: model.Stack, service: model.Service, report: tree.Report) -> None:
    for name, dependency in service.lifecycle.depends_on.items():
        if name in stack.services or (name in stack.inactive and not dependency.required):
            continue
        hint = tree.nearest_hint(name, stack.services)
        reason = "which services does not define"
        if name in stack.inactive:
            profiles = ", ".join(stack.inactive[name].lifecycle.profiles)
            reason = f"whose profile ({profiles}) is not active"
            hint = f"add --profile {stack.inactive[name].lifecycle.profiles[0]}"
        report.error(
            tree.REFERENCE,
            f"services.{service.name} depends on the service {name!r}, {reason}",
            stack.where("services", service.name, "depends_on", name),
            hint,
        )


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


def _cycle(stack: model.Stack) -> list[str]:
    """The services of a dependency cycle, the first repeated at the end; empty without one."""
    done: set[str] = set()
    for start in stack.services:
        trail: dict[str, None] = {}
        pending: list[tuple[str, bool]] = [(start, False)]
        while pending:
            name, leaving = pending.pop()
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
            pending.append((name, True))
            depends = stack.services[name].lifecycle.depends_on
            pending.extend((one, False) for one in depends if one in stack.services)
    return []


# --- what matters only when it is to run -----------------------------------------------------------------


class _Published(msgspec.Struct, frozen=True):
    """A host port that one entry takes for itself."""

    service: str
    host_ip: str
    position: errors.Position | None


def check_for_running(stack: model.Stack, report: tree.Report) -> None:
    """A host port published twice, container names used twice, by the services that would run."""
    taken: dict[tuple[str, int], list[_Published]] = {}
    owners: dict[str, str] = {}
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
                    stack.where("services", service.name, "volumes", index),
                    "one letter before ':' is read as a drive; use a longer name, or the long form"
                    if mount.target[1:2] == ":"
                    else "",
                )
        _faults(stack, service, report)
        name = service.placement.container_name
        if name:
            first = owners.setdefault(name, service.name)
            if first != service.name:
                report.error(
                    tree.CONFLICT,
                    f"services.{service.name}: the container_name {name!r} is that of {first!r} too",
                    stack.where("services", service.name, "container_name"),
                )


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
            f"{where}: {replicas} replicas cannot all publish port {_text(port)}",
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
                f"{where}: the host port {_text(port)} is published twice; "
                f"first by {other.service!r}{there}",
                position,
            )
            break
    holders.append(_Published(service.name, port.host_ip, position))


def _text(port: networking.Port) -> str:
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
