"""How a service is reached: `networks`, `ports`, `expose`, `hostname`. Compose Specification. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import units
from ic.fields import section as contribution
from ic.fields import tree

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
    `app_protocol` say nothing to one host, as with docker compose; they are kept for `ic config`.
    """

    target: int
    published: int | None = None
    published_end: int | None = None
    protocol: Protocol = "tcp"
    host_ip: str = ""
    mode: str = "ingress"
    name: str = ""
    app_protocol: str = ""


class Networking(msgspec.Struct, frozen=True, kw_only=True):
    """The networking section. `networks` keeps the file's order; without the key it is {"default": ...}."""

    networks: dict[str, Attachment] = {}
    ports: tuple[Port, ...] = ()
    expose: tuple[str, ...] = ()
    hostname: str | None = None


# --- reading half ---------------------------------------------------------------------------------------
KEYS: dict[str, tree.Rule | None] = {
    "networks": tree.MAPPING,
    "ports": None,
    "expose": None,
    "hostname": None,
}
BELOW: tree.Rules = {}
PENDING = frozenset(
    {
        "dns", "dns_opt", "dns_search", "domainname", "external_links", "extra_hosts", "links",
        "mac_address", "network_mode",
    }
)  # fmt: skip

_ATTACHMENT_PENDING = frozenset(
    {
        "driver_opts", "gw_priority", "interface_name", "ipv6_address", "link_local_ips",
        "mac_address", "priority",
    }
)  # fmt: skip
_PORT_KEYS = ("name", "mode", "host_ip", "target", "published", "protocol", "app_protocol")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def normalize(service: tree.Node, where: str, report: tree.Report) -> Networking:
    """Read the section from a service's merged mapping."""
    return Networking(
        networks=_attachments(service.child("networks"), f"{where}.networks", report),
        ports=tuple(port for port, _ in read_ports(service.child("ports"), where, report)),
        expose=_expose(service.child("expose"), f"{where}.expose", report),
        hostname=tree.text(service.child("hostname"), f"{where}.hostname", report) or None,
    )


def faults(section: Networking) -> list[tuple[str, str, str]]:
    """What could not run: key, reason and hint of each."""
    host = section.hostname
    if host and _HOST_NAME.fullmatch(host) is None:
        return [("hostname", f"{host!r} is not a host name", "")]
    return []


def _attachments(node: tree.Node | None, where: str, report: tree.Report) -> dict[str, Attachment]:
    given = tree.as_mapping(node) if node is not None else None
    found: dict[str, Attachment] = {}
    for name, one in tree.entries(given, where, report).items():
        label = f"{where}.{name}"
        tree.entries(one, label, report, null=True)
        tree.check_keys(one, label, report, ("aliases", "ipv4_address"), _ATTACHMENT_PENDING)
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
        if item.data is None or isinstance(item.data, (bool, float)):
            tree.wrong_type(item, f"{where}[{index}]", report, "a port")
            continue
        found[tree.scalar_text(item, f"{where}[{index}]", report) or ""] = None
    return tuple(found)


def read_ports(
    service_ports: tree.Node | None, where: str, report: tree.Report
) -> list[tuple[Port, tree.Node]]:
    """The ports of a service, ranges spread out, each with the node it was written in.

    A port given twice counts once, the later one (as when files are merged).
    """
    found: dict[tuple[str, str, int, str], tuple[Port, tree.Node]] = {}
    for index, node in enumerate(tree.items(service_ports, f"{where}.ports", report)):
        label = f"{where}.ports[{index}]"
        for port in _port(node, label, report):
            published = f"{port.published}-{port.published_end}"
            found[port.host_ip or "0.0.0.0", published, port.target, port.protocol] = (port, node)  # noqa: S104
    return list(found.values())


def _port(node: tree.Node, where: str, report: tree.Report) -> list[Port]:
    if isinstance(node.data, dict):
        port = _long_port(node, where, report)
        return [] if port is None else [port]
    if isinstance(node.data, (list, bool)) or node.data is None:
        tree.wrong_type(node, where, report, "a port like 8080:80, or a mapping")
        return []
    text = node.data if isinstance(node.data, str) else units.number_text(node.data)
    try:
        return parse_ports(text)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
    except NotImplementedError as pending:
        tree.unsupported(f"{where}: {pending}", node.position, report)
    return []


def parse_ports(text: str) -> list[Port]:
    """The short form `[HOST_IP:][PUBLISHED:]TARGET[/PROTOCOL]`, ranges spread out.

    Raises ValueError, and NotImplementedError (with what it is) for a protocol without a mapping.
    A range of host ports for one target is one port that takes any of the range.
    """
    spec, slash, protocol = text.partition("/")
    if not spec or (slash and not protocol):
        raise ValueError(f"{text!r} names no port")
    kind_ = _protocol(protocol.lower() or "tcp")
    rest, _, target_text = spec.rpartition(":")
    host_ip, _, published_text = rest.rpartition(":")
    host_ip = _host_ip(host_ip, text)
    if not target_text:
        raise ValueError(f"{text!r} names no port of the service")
    first, last = units.port_range(target_text)
    if first == 0:
        raise ValueError(f"{text!r}: a service cannot listen on port 0")
    if not published_text:
        ports = [
            Port(target=one, protocol=kind_, host_ip=host_ip) for one in range(first, last + 1)
        ]
    else:
        begin, end = units.port_range(published_text)
        if first == last and begin != end:
            return [_any_of(first, begin, end, kind_, host_ip)]
        if end - begin != last - first:
            raise ValueError(f"{text!r}: the two ranges of ports differ in length")
        ports = [
            _any_of(first + step, begin + step, begin + step, kind_, host_ip)
            for step in range(last - first + 1)
        ]
    # docker compose sorts the ports of a range as text.
    return sorted(ports, key=lambda port: f"{port.target}/{port.protocol}")


def _any_of(target: int, begin: int, end: int, protocol: Protocol, host_ip: str) -> Port:
    """A port published on one of a range; port 0 leaves the choice to the host."""
    return Port(
        target=target,
        published=begin or None,
        published_end=end if end != begin else None,
        protocol=protocol,
        host_ip=host_ip,
    )


def _protocol(text: str) -> Protocol:
    if text in ("tcp", "udp"):
        return text
    if text == "sctp":
        raise NotImplementedError("the protocol sctp")
    raise ValueError(f"{text!r} is not a protocol; tcp and udp are")


def _host_ip(text: str, whole: str) -> str:
    bracketed = text.startswith("[") and text.endswith("]")
    inner = text[1:-1] if bracketed else text
    if inner and (not units.is_address(inner) or (":" in inner and not bracketed)):
        raise ValueError(f"{whole!r}: {text!r} is not an IP address; IPv6 stands in brackets")
    return inner


def _long_port(node: tree.Node, where: str, report: tree.Report) -> Port | None:
    tree.check_keys(node, where, report, _PORT_KEYS)
    target = tree.integer(node.child("target"), f"{where}.target", report)
    if target is None:
        if not node.child("target"):
            report.error(tree.VALUE, f"{where} names no target port", node.position)
        return None
    published_node = node.child("published")
    published = ""
    if published_node is not None:
        if isinstance(published_node.data, (str, int)) and not isinstance(
            published_node.data, bool
        ):
            published = str(published_node.data)
        else:
            tree.wrong_type(published_node, f"{where}.published", report, "a port")
    try:
        if not 1 <= target <= units.PORT_LIMIT:
            raise ValueError(f"{target} is not a port of a service (1 to {units.PORT_LIMIT})")
        begin, end = units.port_range(published) if published else (0, 0)
        host_ip = tree.text(node.child("host_ip"), f"{where}.host_ip", report)
        if host_ip is not None and not units.is_address(host_ip):
            raise ValueError(f"{host_ip!r} is not an IP address")
        protocol = tree.text(node.child("protocol"), f"{where}.protocol", report) or "tcp"
        port = _any_of(target, begin, end, _protocol(protocol.lower()), host_ip or "")
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None
    except NotImplementedError as pending:
        tree.unsupported(f"{where}: {pending}", node.position, report)
        return None
    return msgspec.structs.replace(
        port,
        name=tree.text(node.child("name"), f"{where}.name", report) or "",
        mode=tree.text(node.child("mode"), f"{where}.mode", report) or "ingress",
        app_protocol=tree.text(node.child("app_protocol"), f"{where}.app_protocol", report) or "",
    )


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
