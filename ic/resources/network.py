"""A compose network as a bridge of the default project: body, host records, impacts, steps. Pure.

Bridges live in default (only OVN networks can live elsewhere), so their names are unique on a server.
"""

from __future__ import annotations

import ipaddress

import msgspec

from ic import names
from ic.resources import kind

QUERY = {"project": "default"}


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """A planned IPv4 subnet: `cidr` is the network, `gateway` the bridge's own address."""

    cidr: str
    gateway: str

    @property
    def net(self) -> ipaddress.IPv4Network:
        """As a value to reckon with."""
        return ipaddress.IPv4Network(self.cidr)


def dynamic(subnet: Subnet) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """The DHCP range, first and last: the last quarter, for guests that ic did not plan."""
    net = subnet.net
    hosts = max(net.num_addresses - 2, 1)
    last = net.broadcast_address - 1 if net.num_addresses > 2 else net.broadcast_address
    return last - max(hosts // 4, 1) + 1, last


def resource(
    *,
    key: str,
    name: str,
    subnet: Subnet,
    internal: bool,
    labels: dict[str, str],
    records: tuple[tuple[str, str], ...],
) -> kind.Resource:
    """The bridge as desired. `records` are (name, address) pairs that it answers for from the first moment.

    An internal network has no NAT, and instances get no route there (`ic.fields.networking`). DHCP goes on
    offering one: Incus's own DHCP client refuses a lease without. `ipv4.routing` stays on: switched off, the
    server rejects whatever is forwarded, and where bridged packets pass the firewall too (br_netfilter, as on
    every host with Docker) that cuts the instances of the network off from each other.
    """
    first, last = dynamic(subnet)
    fields: kind.Fields = {
        ("config", "ipv4.address"): f"{subnet.gateway}/{subnet.net.prefixlen}",
        ("config", "ipv4.dhcp.ranges"): f"{first}-{last}",
        ("config", "ipv4.nat"): "false" if internal else "true",
        ("config", "ipv6.address"): "none",
    }
    if records:
        fields["config", "raw.dnsmasq"] = "\n".join(
            _record(host, address) for host, address in sorted(set(records))
        )
    fields |= kind.label_fields(labels)
    return kind.Resource(address=names.address("network", key), name=name, fields=fields)


def _record(host: str, address: str) -> str:
    return f"host-record={host},{host}.incus,{address}"


def records_of(text: str) -> tuple[tuple[str, str], ...]:
    """The (name, address) pairs in a bridge's `raw.dnsmasq` that are written as `resource` writes them."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        host, _, rest = line.removeprefix("host-record=").partition(",")
        address = rest.rpartition(",")[2]
        if line == _record(host, address):
            found.append((host, address))
    return tuple(found)


def impact(path: kind.Path, old: str | None, new: str | None) -> kind.Impact:  # noqa: ARG001
    """Everything on a bridge is changed in place; only its name cannot be."""
    return "replace" if path == ("name",) else "in-place"


def create(desired: kind.Resource) -> kind.Step:
    """One POST with everything in it: names are answered before the first lease."""
    return kind.Step(
        id=f"{desired.address}#create",
        address=desired.address,
        event="net.create",
        deed=kind.Call(
            method="POST",
            path="/1.0/networks",
            query=QUERY,
            body={
                "name": desired.name,
                "type": "bridge",
                "config": {path[1]: value for path, value in sorted(desired.fields.items())},
            },
        ),
        lane="network",
        record=kind.Record(name=desired.name, fields=desired.fields),
    )


def update(
    address: str,
    name: str,
    *,
    set_: kind.Fields,
    unset: tuple[kind.Path, ...],
    record: kind.Record,
) -> kind.Step:
    """One write, 0.8 s and 0.2 s without DNS when anything but `user.*` is in it."""
    return kind.Step(
        id=f"{address}#update",
        address=address,
        event="net.update",
        deed=kind.Merge(path=f"/1.0/networks/{name}", query=QUERY, set=set_, unset=unset),
        lane="network",
        record=record,
    )


def delete(address: str, name: str) -> kind.Step:
    """Only after everything that used it is gone."""
    return kind.Step(
        id=f"{address}#delete",
        address=address,
        event="net.delete",
        deed=kind.Call(
            method="DELETE",
            path=f"/1.0/networks/{name}",
            query=QUERY,
            settled_by=("not found",),
        ),
        lane="network",
        record=kind.Record(name=name, gone=True),
    )
