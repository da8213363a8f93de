"""The kernel's own tables, read as facts; and what stands at a path."""

from __future__ import annotations

import socket
from pathlib import Path

from ic.engine import host
from ic.plan import facts

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0100007F:9999 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 3 1
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0
   1: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 0
   2: 0000000000000000FFFF00000100007F:1234 00000000000000000000000000000000:0000 0A 0
"""
UDP = """\
  sl  local_address rem_address   st
   0: 3500007F:0035 00000000:0000 07 0
   1: 00000000:1111 0100007F:0035 01 0
"""
ROUTE = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
wg0	0000800A	00000000	0001	0	0	0	000080FF	0	0	0
broken
"""


def table(tmp_path: Path) -> str:
    for name, text in (("tcp", TCP), ("tcp6", TCP6), ("udp", UDP), ("route", ROUTE)):
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_listening_ports_are_read_and_connections_are_not(tmp_path: Path) -> None:
    found = host.listeners(table(tmp_path))
    assert [(one.protocol, one.address, one.port) for one in found] == [
        ("tcp", "0.0.0.0", 80),
        ("tcp", "127.0.0.1", 4660),
        ("tcp", "127.0.0.1", 8080),
        ("tcp", "::", 22),
        ("tcp", "::1", 5432),
        ("udp", "127.0.0.53", 53),
    ]
    assert {one.owner for one in found} == {"a process on this host"}


def test_routes_are_read_without_the_default_one(tmp_path: Path) -> None:
    assert host.routes(table(tmp_path)) == (("10.128.0.0/9", "wg0"), ("192.0.2.0/24", "eth0"))


def test_a_kernel_without_a_table_has_nothing(tmp_path: Path) -> None:
    assert host.listeners(str(tmp_path)) == ()
    assert host.routes(str(tmp_path)) == ()


def test_this_hosts_own_tables_are_understood() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        mine = facts.Listener(protocol="tcp", address="127.0.0.1", port=port, owner=host.OWNER)
        assert mine in host.listeners()
    assert mine not in host.listeners()


def test_paths_are_directories_files_or_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dead").symlink_to(tmp_path / "none")
    paths = [str(tmp_path / name) for name in ("", "file", "link", "dead", "none", "file")]
    assert host.bind_sources(paths) == {
        str(tmp_path): "directory",
        str(tmp_path / "file"): "file",
        str(tmp_path / "link"): "directory",
        str(tmp_path / "dead"): "missing",
        str(tmp_path / "none"): "missing",
    }
