"""What this host itself says, for planning on a server that is this host: listeners, routes, bind sources.

In: the kernel's tables below /proc/net, and paths. Out: plain values. Not pure (reads files), changes
nothing. Incus does not notice a published port that a process of the host holds, nor a subnet that the
host already routes elsewhere, so ic looks itself. Formats: the kernel's documentation of proc_net_tcp.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Literal

from ic.plan import facts

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC = "/proc/net"
OWNER = "a process on this host"
_LISTEN, _BOUND = "0A", "07"  # TCP_LISTEN; an unconnected UDP socket


def listeners(proc: str = PROC) -> tuple[facts.Listener, ...]:
    """The TCP and UDP ports that processes of this host listen on, sorted."""
    found: set[tuple[str, str, int]] = set()
    for name, state in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _BOUND), ("udp6", _BOUND)):
        for columns in _rows(f"{proc}/{name}"):
            if len(columns) > 3 and columns[3] == state:
                address, _, port = columns[1].partition(":")
                found.add((name[:3], _address(address), int(port, 16)))
    return tuple(
        facts.Listener(protocol=protocol, address=address, port=port, owner=OWNER)
        for protocol, address, port in sorted(found)
    )


def routes(proc: str = PROC) -> tuple[tuple[str, str], ...]:
    """(CIDR, interface) of this host's IPv4 routes without the default one, sorted."""
    found: set[tuple[str, str]] = set()
    for columns in _rows(f"{proc}/route"):
        if len(columns) < 8:
            continue
        # Both are written as the machine's own integers: little-endian on every machine ic runs on.
        length = int(columns[7], 16).bit_count()
        if length:
            network = socket.inet_ntoa(struct.pack("<L", int(columns[1], 16)))
            found.add((f"{network}/{length}", columns[0]))
    return tuple(sorted(found))


def bind_sources(paths: Iterable[str]) -> dict[str, Literal["directory", "file", "missing"]]:
    """What stands at each path; links are followed, as a mount does."""
    return {path: _kind(path) for path in sorted(set(paths))}


def _kind(path: str) -> Literal["directory", "file", "missing"]:
    if os.path.isdir(path):
        return "directory"
    return "file" if os.path.exists(path) else "missing"


def _rows(path: str) -> list[list[str]]:
    """The rows of a table below its heading; none when the kernel does not have it (no IPv6)."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []


def _address(text: str) -> str:
    """An address as the tables write it: words of 32 bits in the machine's order, in hex."""
    raw = b"".join(struct.pack("<L", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    mapped = raw[:12] == b"\0" * 10 + b"\xff\xff"
    return socket.inet_ntop(*((socket.AF_INET, raw[12:]) if mapped else (socket.AF_INET6, raw)))
