"""How a service is reached: `networks`, `ports`, `expose`, `hostname`. Compose Specification, Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

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
