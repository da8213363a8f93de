"""How a service is reached: `networks`, `ports`, `expose`, `hostname`. Compose Specification. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import units
from ic.fields import foreign, forms, merging, schema, tree, values
from ic.fields import section as contribution

if TYPE_CHECKING:
    from ic.resources import kind

Protocol = Literal["tcp", "udp"]


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One network of a service, by the network's key."""

    aliases: tuple[str, ...] = ()
    ipv4_address: str | None = None


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One published port after ranges are spread out. `published` is None for an ephemeral one.

    `published_end` is set only when one target may take any of a range of host ports. `mode`, `name` and
    `app_protocol` say nothing to one host, as with docker compose.
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


# --- reading half ---------------------------------------------------------------------------------------


def _long_ports(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    """Ranges are spread out. In a lenient reading, one that cannot be read leaves all as they are."""
    if not isinstance(node.data, list):
        return node
    for index, item in enumerate(node.data):
        if isinstance(item.data, str) and "-" in item.data:
            report.make(_PORT_VALUES * _steps(item.data), f"{where}[{index}]", item.position)
    listed: list[tree.Node] = []
    for index, item in enumerate(node.data):
        data = item.data
        if isinstance(data, dict):
            listed.append(item)
            continue
        label = f"{where}[{index}]"
        if isinstance(data, float):
            report.error(tree.TYPE, f"{label} must be a port, not the number {data}", item.position)
        if not isinstance(data, (str, int)) or isinstance(data, bool):
            continue
        try:
            listed += [forms.made(item.position, **one) for one in parse_ports(str(data))]
        except ValueError as problem:
            if report.lenient:
                return node
            report.error(tree.VALUE, f"{label}: {problem}", item.position)
    return tree.Node(listed, node.position)


# What a port of a range counts as: one range of all ports there are is still taken.
_PORT_VALUES = 3


def _steps(text: str) -> int:
    """How many ports a short form makes beside the first, by the last range in it."""
    begin, _, end = text.rpartition(":")[2].partition("/")[0].partition("-")
    if not (begin.isdecimal() and end.isdecimal() and len(begin) < 6 and len(end) < 6):
        return 0
    return max(int(end) - int(begin), 0)


def _port_index(node: tree.Node) -> str | None:
    data = node.data
    if isinstance(data, (str, int)):
        return str(data)
    if not isinstance(data, dict):
        return None
    parts = [
        _index_text(data.get(key), default)
        for key, default in (
            ("host_ip", repr("0.0.0.0")),  # noqa: S104 - a name of an address, nothing is bound here
            ("published", ""),
            ("target", ""),
            ("protocol", repr("tcp")),
        )
    ]
    return "|".join(parts)


def _index_text(node: tree.Node | None, default: str) -> str:
    # A port written as a number is another one than the same in quotes, as docker compose has it.
    return default if node is None else repr(node.data)


def _port_defaults(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    return forms.having(node, protocol="tcp", mode="ingress")


HOSTS = schema.Key(
    schema.MAPPING | schema.LIST,
    names=schema.Key(schema.TEXT | schema.LIST, item=schema.text()),
    name_pattern=".+",
    extensions=False,
    item=schema.text(fault=values.host),
    distinct=True,
    merge=merging.hosts,
    fault=values.hosts,
    pending=True,
)
_TEXT = schema.text(pending=True)
_ADDRESSES = schema.texts(index=merging.by_name)
_ATTACHMENT = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={
        "aliases": _ADDRESSES,
        "interface_name": _TEXT,
        "ipv4_address": schema.text(),
        "ipv6_address": _TEXT,
        "link_local_ips": _ADDRESSES.but(pending=True),
        "mac_address": _TEXT,
        "driver_opts": schema.named(
            schema.Key(schema.TEXT | schema.NUMBER), ".+", loose=True, pending=True
        ),
        "priority": schema.Key(schema.NUMBER, pending=True),
        "gw_priority": schema.Key(schema.NUMBER, pending=True),
        **foreign.ATTACHMENT,
    },
)
_PORT = schema.Key(
    schema.NUMBER | schema.TEXT | schema.MAPPING,
    keys={
        "name": schema.text(),
        "mode": schema.text(),
        "host_ip": schema.text(),
        "target": schema.whole(fault=values.up_to(2**32 - 1)),
        "published": schema.Key(schema.TEXT | schema.WHOLE, fault=values.no_fraction),
        "protocol": schema.text(),
        "app_protocol": schema.text(),
        **foreign.PORT,
    },
    required=("target",),
    fill=_port_defaults,
)
_DNS = schema.Key(
    schema.TEXT | schema.LIST,
    item=schema.text(),
    distinct=True,
    merge=merging.sequences,
    index=merging.by_name,
    pending=True,
)
SCHEMA: dict[str, schema.Key] = {
    "dns": _DNS.but(long=forms.without_empty),
    "dns_opt": schema.texts(merge=merging.sequences, index=merging.by_name, pending=True),
    "dns_search": _DNS,
    "domainname": _TEXT,
    "expose": schema.listing(
        schema.Key(schema.TEXT | schema.NUMBER, fault=values.no_fraction),
        distinct=True,
        index=merging.by_text,
    ),
    "external_links": schema.texts(pending=True),
    "extra_hosts": HOSTS,
    "hostname": schema.text(),
    "links": schema.texts(index=merging.by_name, pending=True),
    "mac_address": _TEXT,
    "network_mode": _TEXT,
    "networks": schema.Key(
        schema.MAPPING | schema.LIST,
        names=_ATTACHMENT,
        name_pattern=schema.NAME,
        extensions=False,
        item=schema.text(),
        distinct=True,
        merge=merging.names,
        long=forms.as_mapping,
    ),
    "ports": schema.listing(_PORT, distinct=True, index=_port_index, long=_long_ports),
}
_HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?"


def normalize(service: tree.Node, where: str, report: tree.Report) -> Networking:
    """Read the section from a service's merged mapping."""
    return Networking(
        networks=_attachments(service.child("networks"), f"{where}.networks", report),
        ports=_ports(service.child("ports"), f"{where}.ports", report),
        expose=_expose(service.child("expose"), f"{where}.expose", report),
        hostname=tree.text(service.child("hostname"), f"{where}.hostname", report) or None,
    )


def faults(section: Networking) -> list[tuple[str, str, str]]:
    """What could not run: key, reason and hint of each."""
    host = section.hostname
    if host and re.fullmatch(_HOST_NAME, host) is None:
        return [("hostname", f"{host!r} is not a host name", "")]
    return []


def _attachments(node: tree.Node | None, where: str, report: tree.Report) -> dict[str, Attachment]:
    given = tree.as_mapping(node) if node is not None else None
    found: dict[str, Attachment] = {}
    for name, one in tree.entries(given, where, report).items():
        label = f"{where}.{name}"
        tree.entries(one, label, report, null=True)
        found[name] = Attachment(
            aliases=tree.strings(one.child("aliases"), f"{label}.aliases", report),
            ipv4_address=tree.text(one.child("ipv4_address"), f"{label}.ipv4_address", report)
            or None,
        )
    return found or {"default": Attachment()}


def _expose(node: tree.Node | None, where: str, report: tree.Report) -> tuple[str, ...]:
    """Ports that a service listens on, as text; they need no publishing inside of a network."""
    found: dict[str, None] = {}
    for index, item in enumerate(tree.items(node, where, report)):
        found[tree.scalar_text(item, f"{where}[{index}]", report) or ""] = None
    return tuple(found)


def _ports(node: tree.Node | None, where: str, report: tree.Report) -> tuple[Port, ...]:
    found: list[Port] = []
    for index, item in enumerate(tree.items(node, where, report)):
        label = f"{where}[{index}]"
        port = _port(item, label, report)
        if port is not None:
            found.append(port)
    return tuple(found)


def _port(node: tree.Node, where: str, report: tree.Report) -> Port | None:
    target = tree.integer(node.child("target"), f"{where}.target", report)
    if target is None:
        return None
    given = node.child("published")
    published = "" if given is None or given.data is None else str(given.data)
    protocol = (tree.text(node.child("protocol"), f"{where}.protocol", report) or "tcp").lower()
    try:
        if not 1 <= target <= units.PORT_LIMIT:
            raise ValueError(f"{target} is not a port of a service (1 to {units.PORT_LIMIT})")
        begin, end = units.port_range(published) if published else (0, 0)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None
    if protocol not in _PROTOCOLS:
        tree.unsupported(f"{where}: the protocol {protocol}", node.position, report)
        return None
    return Port(
        target=target,
        published=begin or None,
        published_end=end if end != begin else None,
        protocol=protocol,
        host_ip=tree.text(node.child("host_ip"), f"{where}.host_ip", report) or "",
    )


_PROTOCOLS = ("tcp", "udp")


def parse_ports(text: str) -> list[dict[str, str | int]]:
    """The short form `[HOST_IP:][PUBLISHED:]TARGET[/PROTOCOL]` in long forms, ranges spread out.

    Raises ValueError. A range of host ports for one target is one port that takes any of the range; docker
    compose sorts the ports of a range as text.
    """
    rest, _, target_text = text.rpartition(":")
    target_text, _, protocol = target_text.partition("/")
    protocol = protocol.partition("/")[0]
    host_ip, _, published_text = rest.rpartition(":")
    host_ip = _host_ip(host_ip, text)
    if not target_text:
        raise ValueError(f"{text!r} names no container port")
    kind_ = _protocol(protocol.lower() or "tcp")
    first, last = units.port_range(target_text)
    if first == 0:
        raise ValueError(f"{text!r}: a service cannot listen on port 0")
    begin, end = units.port_range(published_text) if published_text else (first, last)
    if end - begin != last - first and first != last:
        raise ValueError(f"{text!r}: the ranges of host and container ports differ in length")
    found: list[dict[str, str | int]] = []
    for step in range(last - first + 1):
        one: dict[str, str | int] = {"mode": "ingress", "target": first + step}
        if host_ip:
            one["host_ip"] = host_ip
        if published_text:
            range_ = first == last and begin != end
            one["published"] = f"{begin}-{end}" if range_ else str(begin + step)
        one["protocol"] = kind_
        found.append(one)
    return sorted(found, key=lambda one: f"{one['target']}/{kind_}")


def _protocol(text: str) -> str:
    if text in ("tcp", "udp", "sctp"):
        return text
    raise ValueError(f"invalid protocol {text!r}; tcp, udp and sctp are")


def _host_ip(text: str, whole: str) -> str:
    bracketed = text.startswith("[") and text.endswith("]")
    inner = text[1:-1] if bracketed else text
    if inner and (not units.is_address(inner) or (":" in inner and not bracketed)):
        raise ValueError(f"{whole!r}: invalid IP address {text!r}; IPv6 stands in brackets")
    return inner


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

    The primary card is configured by DHCP with its planned address and gives the default route; the others
    carry theirs as a static CIDR, which brings no route of its own. So an instance of internal networks
    alone has no way out; its name server must be named then. `ipv6.address: none` spares each start the
    wait for a DHCPv6 answer (5 s).
    """
    fields: kind.Fields = {}
    for index, nic in enumerate(ctx.nics):
        device = f"eth{index}"
        fields["devices", device, "type"] = "nic"
        fields["devices", device, "name"] = device
        fields["devices", device, "network"] = nic.bridge
        fields["devices", device, "ipv6.address"] = "none"
        if nic.address is not None:
            static = nic.address if nic.primary else f"{nic.address}/{nic.prefix}"
            fields["devices", device, "ipv4.address"] = static
    if ctx.nics and ctx.nics[0].gateway and not any(nic.primary for nic in ctx.nics):
        fields["config", "oci.dns.nameservers"] = ctx.nics[0].gateway
        fields["config", "oci.dns.search"] = "incus"
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
