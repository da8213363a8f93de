"""What only one instance of a stack can have: a host port, a planned address. Read from fields. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic.plan import allot

if TYPE_CHECKING:
    from ic.journal import fold
    from ic.resources import kind

Claim = tuple[str, str, str]
"""What, where, which: ("tcp", "0.0.0.0", "8080"), ("ip", "shop-default", "10.128.0.2")."""


def of(fields: kind.Fields) -> tuple[Claim, ...]:
    """What only one instance can have: (what, where, which) of ports and planned addresses."""
    ports = [(protocol, host, str(port)) for protocol, host, port in proxies(fields)]
    addresses = [
        ("ip", fields.get((*path[:2], "network"), ""), value.partition("/")[0])
        for path, value in sorted(fields.items())
        if path[0] == "devices" and path[2:] == ("ipv4.address",) and value != "none"
    ]
    return (*ports, *addresses)


def meets(claim: Claim, others: tuple[Claim, ...]) -> bool:
    what, where, which = claim
    return any(
        what == other
        and which == number
        and (where == place if what == "ip" else allot.clash(where, place))
        for other, place, number in others
    )


def text(claim: Claim) -> str:
    what, _, which = claim
    return f"address {which}" if what == "ip" else f"port {which}/{what}"


def proxies(fields: dict[kind.Path, str]) -> list[tuple[str, str, int]]:
    """Protocol, address and port of every proxy device among an instance's fields."""
    found: list[tuple[str, str, int]] = []
    for path, value in sorted(fields.items()):
        if path[0] == "devices" and path[2:] == ("listen",):
            protocol, _, rest = value.partition(":")
            host, _, _ = rest.rpartition(":")
            port = port_of(value)
            if port is not None:
                found.append((protocol, host.strip("[]"), port))
    return found


def port_of(listen: str | None) -> int | None:
    """8080 of `tcp:0.0.0.0:8080`."""
    text = (listen or "").rpartition(":")[2]
    return int(text) if text.isdecimal() else None


def address_on(bridge: str, fields: dict[kind.Path, str] | dict[kind.Path, fold.Value]) -> str:
    """The planned address that an instance's fields give it on a bridge, empty without one."""
    for path, value in fields.items():
        if path[0] == "devices" and path[2:] == ("network",) and value == bridge:
            found = fields.get((*path[:2], "ipv4.address"))
            if isinstance(found, str) and found not in {"", "none"}:
                return found.partition("/")[0]
    return ""
