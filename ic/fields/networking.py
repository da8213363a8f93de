"""How a service is reached: `networks`, `ports`, `expose`, `hostname`. Compose Specification, Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from ic.fields import section as contribution
from ic.resources import kind

Protocol = Literal["tcp", "udp"]


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One network of a service, by the network's key."""

    aliases: tuple[str, ...] = ()
    ipv4_address: str | None = None


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One published port after ranges are spread out. `published` is None for an ephemeral one.

    `published_end` is set only when one target may take any of a range of host ports.
    """

    target: int
    published: int | None = None
    published_end: int | None = None
    protocol: Protocol = "tcp"
    host_ip: str = ""


class Networking(msgspec.Struct, frozen=True, kw_only=True):
    """The networking section. `networks` keeps the file's order; without the key it is {"default": ...}."""

    networks: dict[str, Attachment] = {}
    ports: tuple[Port, ...] = ()
    expose: tuple[str, ...] = ()
    hostname: str | None = None


# --- mapping half ---------------------------------------------------------------------------------------

WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 - names of addresses, nothing is bound here


def listen_address(port: Port) -> str:
    """The host address of a published port; without one every address, IPv4 and IPv6, as docker has it."""
    return port.host_ip or "0.0.0.0"  # noqa: S104


def port_device(port: Port) -> str:
    """The proxy's device name: protocol, address and host port as written, and what tells twins apart."""
    if port.published is None:
        host = f"any-{port.target}"
    elif port.published_end is not None:
        host = f"{port.published}-{port.published_end}-{port.target}"
    else:
        host = str(port.published)
    return f"{port.protocol}-{listen_address(port)}-{host}"


def _endpoint(protocol: str, address: str, port: int) -> str:
    return f"{protocol}:[{address}]:{port}" if ":" in address else f"{protocol}:{address}:{port}"


def contribute(section: Networking, ctx: contribution.Context) -> contribution.Contribution:
    """Network cards in the order of the file, a userspace proxy per published port, the host name.

    The first card is configured by DHCP with its planned address and gives the default route; the others
    carry theirs as a static CIDR, which brings no route of its own. `ipv6.address: none` spares each start
    the wait for a DHCPv6 answer (5 s).
    """
    fields: kind.Fields = {}
    for index, nic in enumerate(ctx.nics):
        device = f"eth{index}"
        fields["devices", device, "type"] = "nic"
        fields["devices", device, "name"] = device
        fields["devices", device, "network"] = nic.bridge
        fields["devices", device, "ipv6.address"] = "none"
        if nic.address is not None:
            static = nic.address if index == 0 else f"{nic.address}/{nic.prefix}"
            fields["devices", device, "ipv4.address"] = static
    inside = ctx.nics[0].address if ctx.nics and ctx.nics[0].address else "127.0.0.1"
    for port, listen in zip(section.ports, ctx.listens, strict=True):
        device = port_device(port)
        host = listen_address(port)
        fields["devices", device, "type"] = "proxy"
        fields["devices", device, "bind"] = "host"
        fields["devices", device, "listen"] = _endpoint(port.protocol, host, listen)
        fields["devices", device, "connect"] = _endpoint(port.protocol, inside, port.target)
    lxc = (("lxc.uts.name", section.hostname),) if section.hostname else ()
    return contribution.Contribution(fields=fields, lxc=lxc)
