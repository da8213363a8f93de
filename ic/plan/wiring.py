"""Networks: bridges, subnets, planned addresses, the names that a bridge answers for, and cards. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

import msgspec

from ic import names
from ic.fields import section
from ic.plan import allot, claims
from ic.resources import kind, network

if TYPE_CHECKING:
    from ic.compose import model
    from ic.plan import ground

Member = tuple["model.Service", int, str]
"""A replica: its service, its number, its address."""

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


class Wires:
    """The networks of a stack with everything about them planned. `instances` are Incus names by address."""

    def __init__(self, base: ground.Ground, instances: dict[str, str]) -> None:
        self.ground = base
        self.instances = instances
        self.resources: dict[str, kind.Resource] = {}
        self.subnets: dict[str, network.Subnet] = {}  # network key -> subnet
        self.bridges: dict[str, str] = {}  # network key -> Incus name
        self.addresses: dict[str, dict[str, str]] = {}  # network key -> instance address -> IP
        self._lay()

    def _lay(self) -> None:
        used = {key for name in self.ground.selected for key in self._networks_of(name)}
        members = self.ground.members()
        present = {key for service, _, _ in members for key in service.networking.networks}
        owners: dict[str, str] = {}
        for key in sorted(present):
            given = self.ground.stack.networks[key]
            if given.external:
                self._lay_external(key, given, check=key in used)
                continue
            name = given.name or names.bridge(self.ground.stack.name, key)
            if len(name) > names.BRIDGE_LIMIT:
                self.ground.problem(
                    f"cannot name network {key!r}: {name!r} has {len(name)} characters, "
                    f"at most {names.BRIDGE_LIMIT}",
                    "networks",
                    key,
                    hint="choose a shorter name:, or none",
                )
                continue
            if name in owners:
                self.ground.problem(
                    f"cannot name network {key!r}: {owners[name]!r} is the same bridge {name!r}",
                    "networks",
                    key,
                )
                continue
            owners[name] = key
            self.bridges[key] = name
            subnet = self._subnet(key, given, name)
            if subnet is not None:
                self.subnets[key] = subnet
        for key in sorted(self.subnets):
            self._give_addresses(key, members)
        if self.ground.problems:
            return
        records = self._records(members)
        for key in sorted(used & set(self.subnets)):
            given = self.ground.stack.networks[key]
            self.ground.check_labels(given.labels, f"network {key!r}", "networks", key)
            resource = network.resource(
                key=key,
                name=self.bridges[key],
                subnet=self.subnets[key],
                internal=given.internal,
                labels=given.labels,
                records=(*records[key], *self._kept_records(key)),
            )
            self.resources[resource.address] = msgspec.structs.replace(
                resource, position=self.ground.stack.where("networks", key)
            )

    def _networks_of(self, service: str) -> tuple[str, ...]:
        return tuple(self.ground.stack.services[service].networking.networks)

    def _lay_external(self, key: str, given: model.Network, *, check: bool) -> None:
        name = given.name or key
        self.bridges[key] = name
        if check and name not in self.ground.facts.external_networks:
            self.ground.problem(
                f"cannot use network {name!r}: it is external and does not exist",
                "networks",
                key,
                hint=f"create it with: incus network create {name}",
            )

    def _subnet(self, key: str, given: model.Network, name: str) -> network.Subnet | None:
        address = names.address("network", key)
        was, now = self.ground.field(address, ("config", "ipv4.address"))
        known = self.ground.recorded.resources.get(address)
        live = self.ground.observed.live.get(address)
        if known is not None and known.name != name:
            was = None
        own = allot.from_bridge(now)
        if live is not None and live.name != name:
            now = None
        taken = [
            (cidr, owner)
            for cidr, owner in self.ground.facts.subnets
            if not (own is not None and now is not None and _same_net(cidr, own.cidr))
        ]
        if given.subnet is not None:
            return self._given_subnet(key, given.subnet, given.gateway, taken)
        for earlier in (was, now):
            found = allot.from_bridge(earlier)
            if found is not None and (now is not None or not allot.overlap(found.cidr, taken)):
                return found
        planned = [(subnet.cidr, other) for other, subnet in self.subnets.items()]
        chosen = allot.first_subnet(self.ground.stack.name, key, [*taken, *planned])
        if chosen is None:
            self.ground.problem(
                f"cannot give network {key!r} a subnet: all of {allot.RANGE} is in use",
                "networks",
                key,
                hint="choose one with ipam: config: - subnet:",
            )
        return chosen

    def _given_subnet(
        self, key: str, cidr: str, gateway: str | None, taken: list[tuple[str, str]]
    ) -> network.Subnet | None:
        where = ("networks", key, "ipam")
        try:
            subnet = allot.given(cidr, gateway)
        except ValueError as error:
            self.ground.problem(f"cannot use subnet {cidr!r} of network {key!r}: {error}", *where)
            return None
        planned = [(other.cidr, f"network {name!r}") for name, other in self.subnets.items()]
        found = allot.overlap(subnet.cidr, [*taken, *planned])
        if found is not None:
            self.ground.problem(
                f"cannot use subnet {cidr} of network {key!r}: it overlaps {found[0]} ({found[1]})",
                *where,
            )
            return None
        return subnet

    def _give_addresses(self, key: str, members: list[Member]) -> None:
        subnet = self.subnets[key]
        wanted: dict[str, str | None] = {}
        fixed: dict[str, str] = {}
        for service, replica, address in members:
            attachment = service.networking.networks.get(key)
            if attachment is None:
                continue
            wanted[address] = attachment.ipv4_address
            if attachment.ipv4_address is not None:
                self._check_fixed(key, service, replica, attachment.ipv4_address, fixed)
        recorded, live = self._earlier(self.bridges[key])
        others = {
            value
            for known in (recorded, live)
            for member, value in known.items()
            if member not in wanted
        }
        chosen = allot.addresses(subnet, wanted, (recorded, live), frozenset(others))
        if chosen is None:
            self.ground.problem(
                f"cannot plan {len(wanted)} addresses in network {key!r}: "
                f"{subnet.cidr} has not enough outside its DHCP range",
                "networks",
                key,
                hint="give it a larger subnet",
            )
            return
        self.addresses[key] = chosen

    def _check_fixed(
        self, key: str, service: model.Service, replica: int, text: str, fixed: dict[str, str]
    ) -> None:
        where = ("services", service.name, "networks", key, "ipv4_address")
        label = f"address {text!r} of service {service.name!r}"
        subnet = self.subnets[key]
        try:
            value = ipaddress.IPv4Address(text)
        except ValueError:
            self.ground.problem(f"cannot use {label}: not an IPv4 address", *where)
            return
        if value not in subnet.net or text == subnet.gateway:
            self.ground.problem(
                f"cannot use {label}: not a free address of {subnet.cidr} (network {key!r})",
                *where,
            )
        elif text in fixed:
            self.ground.problem(
                f"cannot use {label} for {service.name}/{replica}: {fixed[text]} has it", *where
            )
        fixed[text] = f"{service.name}/{replica}"

    def _earlier(self, bridge: str) -> tuple[dict[str, str], dict[str, str]]:
        """The addresses that instances have on a bridge, as recorded and as live."""
        recorded = {
            address: claims.address_on(bridge, resource.fields)
            for address, resource in self.ground.recorded.resources.items()
        }
        live = {
            address: claims.address_on(bridge, resource.fields)
            for address, resource in self.ground.observed.live.items()
        }
        return (
            {address: value for address, value in recorded.items() if value},
            {address: value for address, value in live.items() if value},
        )

    def _records(self, members: list[Member]) -> dict[str, tuple[tuple[str, str], ...]]:
        """The names that each bridge answers for.

        An instance asks the name server of one network alone, so that one answers for the other networks
        of its instances too, where it has no such name itself.
        """
        own: dict[str, set[tuple[str, str]]] = {key: set() for key in self.subnets}
        for service, _, address in members:
            for key, attachment in service.networking.networks.items():
                if key not in self.subnets:
                    continue
                ip = self.addresses[key][address]
                given = service.placement.container_name
                hosts = {service.name, self.instances[address], *attachment.aliases}
                hosts |= {given} if given else set()
                for host in sorted(hosts):
                    if not _HOST.fullmatch(host):
                        self.ground.problem(
                            f"cannot answer for the name {host!r} of service {service.name!r}: "
                            "not a host name",
                            "services",
                            service.name,
                            "networks",
                            key,
                        )
                    own[key].add((host, ip))
        whole = {key: set(records) for key, records in own.items()}
        for service, _, address in members:
            keys = list(service.networking.networks)
            asked = self._primary(service) or next(iter(keys), None)
            if asked not in own:
                self._warn_of_names(service, asked)
                continue
            have = {host for host, _ in own[asked]}
            host = service.networking.hostname
            if host and host not in have:  # a program looks its own host name up
                whole[asked].add((host, self.addresses[asked][address]))
            for other in keys:
                whole[asked] |= {
                    (host, ip) for host, ip in own.get(other, set()) if host not in have
                }
        return {key: tuple(sorted(records)) for key, records in whole.items()}

    def _kept_records(self, key: str) -> tuple[tuple[str, str], ...]:
        """What a bridge answers for instances that no file names any more and that are left alone."""
        observed = self.ground.observed.live
        bridge = observed.get(names.address("network", key))
        addresses = {
            value.partition("/")[0]
            for address in self.ground.orphans
            for path, value in observed[address].fields.items()
            if path[0] == "devices" and path[2:] == ("ipv4.address",)
        }
        text = bridge.fields.get(("config", "raw.dnsmasq"), "") if bridge else ""
        return tuple(one for one in network.records_of(text) if one[1] in addresses)

    def _warn_of_names(self, service: model.Service, asked: str | None) -> None:
        """The name server of an external network is not ic's: it knows Incus's own names alone."""
        if asked is None or service.name not in self.ground.selected:
            return
        networks = service.networking.networks
        if len(networks) > 1 or networks[asked].aliases:
            self.ground.warn(
                "W_NAMES",
                f"service {service.name!r} asks the name server of external network {asked!r}, "
                "which does not know aliases and the names of other networks",
                "services",
                service.name,
                "networks",
                asked,
            )

    def _primary(self, service: model.Service) -> str | None:
        """The network that gives the default route and the name server: the first that is not internal."""
        keys = service.networking.networks
        return next((key for key in keys if not self.ground.stack.networks[key].internal), None)

    def cards(self, service: model.Service, address: str) -> tuple[section.Nic, ...]:
        """The planned cards of one instance, in the order of the file."""
        primary = self._primary(service)
        found: list[section.Nic] = []
        for key, attachment in service.networking.networks.items():
            bridge = self.bridges[key]
            if self.ground.stack.networks[key].external:
                own = allot.interface(
                    self.ground.facts.external_networks[bridge].get("ipv4.address")
                )
                planned, prefix, gateway = (
                    attachment.ipv4_address,
                    own.network.prefixlen if own else 24,
                    "",
                )
            else:
                subnet = self.subnets[key]
                planned, prefix, gateway = (
                    self.addresses[key][address],
                    subnet.net.prefixlen,
                    subnet.gateway,
                )
            found.append(
                section.Nic(
                    network=key,
                    bridge=bridge,
                    address=planned,
                    prefix=prefix,
                    gateway=gateway,
                    primary=key == primary,
                )
            )
        return tuple(found)


def _same_net(one: str, other: str) -> bool:
    left, right = allot.interface(one), allot.interface(other)
    return left is not None and right is not None and left.network == right.network
