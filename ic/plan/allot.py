"""Planned values: subnets, addresses and host ports, chosen before anything is created.

Pure. The rule is everywhere the same: what the file says; else what was recorded; else what is live; else
the first free one in a fixed order. So a plan is complete before the first call, equal inputs give equal
values, and a scaled, replaced or restarted instance keeps its address.

Private range: subnets are /22 blocks of 10.128.0.0/9, tried from a place that a hash of stack and network
gives. In a block the first address is the bridge, the last quarter is for DHCP, the rest is planned.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ic import names
from ic.resources import network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RANGE = ipaddress.IPv4Network("10.128.0.0/9")
BLOCK = 22
EPHEMERAL = range(32768, 61000)  # the kernel's own default range


def interface(text: str | None) -> ipaddress.IPv4Interface | None:
    """`10.0.0.1/24` as a value, None for anything else (`none`, `auto`, IPv6)."""
    if not text or "/" not in text:
        return None
    try:
        return ipaddress.IPv4Interface(text)
    except ValueError:
        return None


def from_bridge(text: str | None) -> network.Subnet | None:
    """The subnet of a bridge's `ipv4.address`."""
    found = interface(text)
    return network.Subnet(cidr=str(found.network), gateway=str(found.ip)) if found else None


def given(cidr: str, gateway: str | None) -> network.Subnet:
    """The subnet of `ipam`, with the first host address as gateway when none is given.

    Raises ValueError with the reason when it is not an IPv4 subnet with room for a gateway and a guest.
    """
    net = ipaddress.IPv4Network(cidr)
    if net.prefixlen > 30:
        raise ValueError(f"{cidr} has no room for a gateway and an instance")
    own = ipaddress.IPv4Address(gateway) if gateway else net.network_address + 1
    if own not in net or own in {net.network_address, net.broadcast_address}:
        raise ValueError(f"gateway {own} is not a host address of {cidr}")
    return network.Subnet(cidr=str(net), gateway=str(own))


def overlap(cidr: str, taken: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """The first of the taken subnets that overlaps, with its owner."""
    net = ipaddress.IPv4Network(cidr)
    for other, owner in taken:
        found = interface(other)
        if found is not None and found.network.prefixlen > 0 and found.network.overlaps(net):
            return other, owner
    return None


def first_subnet(stack: str, key: str, taken: Iterable[tuple[str, str]]) -> network.Subnet | None:
    """The first free block, starting at a hash of stack and network; None when all are taken."""
    used = [
        found.network
        for found in (interface(cidr) for cidr, _ in taken)
        if found is not None and found.network.prefixlen > 0
    ]
    count = 1 << (BLOCK - RANGE.prefixlen)
    start = int(names.short_hash(f"{stack}/{key}"), 16) % count
    size = 1 << (32 - BLOCK)
    for index in range(count):
        base = RANGE.network_address + ((start + index) % count) * size
        net = ipaddress.IPv4Network((base, BLOCK))
        if not any(net.overlaps(other) for other in used):
            return network.Subnet(cidr=str(net), gateway=str(base + 1))
    return None


def planned(subnet: network.Subnet) -> Iterator[str]:
    """The addresses that may be planned, in order: all hosts but the gateway and the DHCP range."""
    first, last = network.dynamic(subnet)
    gateway = ipaddress.IPv4Address(subnet.gateway)
    for host in subnet.net.hosts():
        if host != gateway and not first <= host <= last:
            yield str(host)


def addresses(
    subnet: network.Subnet,
    wanted: Mapping[str, str | None],
    earlier: Iterable[Mapping[str, str]],
    occupied: frozenset[str],
) -> dict[str, str] | None:
    """An address for each wanted member, None when there are not enough.

    `wanted` maps a member (an instance's address) to the one that the file gives it; `earlier` are
    mappings of members to the ones they had (recorded, then live); `occupied` belong to others.
    """
    chosen = {member: fixed for member, fixed in wanted.items() if fixed is not None}
    used = set(chosen.values()) | occupied | {subnet.gateway}
    for known in earlier:
        for member in sorted(wanted):
            had = known.get(member)
            if member in chosen or had is None or had in used:
                continue
            if ipaddress.IPv4Address(had) in subnet.net:
                chosen[member] = had
                used.add(had)
    free = (address for address in planned(subnet) if address not in used)
    for member in sorted(wanted, key=_natural):
        if member not in chosen:
            found = next(free, None)
            if found is None:
                return None
            chosen[member] = found
    return chosen


def _natural(member: str) -> tuple[str, int]:
    """web/2 before web/10."""
    service, _, replica = member.rpartition("/")
    return service, int(replica)


def host_port(
    seed: str,
    among: range,
    earlier: Iterable[int | None],
    occupied: frozenset[int],
    *,
    from_start: bool,
) -> int | None:
    """A host port among a range: the one it had, else the first free from a hash (or from the start)."""
    for had in earlier:
        if had is not None and had in among and had not in occupied:
            return had
    offset = 0 if from_start else int(names.short_hash(seed), 16) % len(among)
    for index in range(len(among)):
        port = among[(offset + index) % len(among)]
        if port not in occupied:
            return port
    return None


WILD = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - compared with, never bound


def clash(one: str, other: str) -> bool:
    """Whether two listening addresses cannot share a port: equal, or one of them is every address."""
    return one == other or one in WILD or other in WILD
