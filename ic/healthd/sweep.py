"""What a probe has left behind in an instance: found by its marker, and killed by whatever the image has.

In: a client, an instance, the marker that stood in the probe's environment. Out: the names of what could not
be killed. A process is the probe's when the marker stands in its own environment, or when its parent is one
of them (a cleaned environment), whatever it did with sessions and signals. The server's sftp endpoint reads
/proc in any image; killing needs a program of the image, and the usual ones are tried in turn.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from ic.incus import sftp, transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ic.incus import client as incus

MARKER = "IC_PROBE"
PATIENCE = 4.0  # seconds for looking and killing, again and again while the found ones fork
_PAUSE = 0.05
_KILL_SECONDS = 3.0
_SHOWN = 10
_PYTHON = """
import os, sys
for word in sys.argv[1:]:
    try:
        os.kill(int(word), 9)
    except ProcessLookupError:
        pass
"""
_MEANS = (
    ("/bin/sh", "-c", 'kill -9 "$@"', "kill"),
    ("kill", "-9"),
    ("busybox", "kill", "-9"),
    ("/busybox/busybox", "kill", "-9"),
    ("bash", "-c", 'kill -9 "$@"', "kill"),
    ("python3", "-c", _PYTHON),
    ("perl", "-e", "kill 9, @ARGV"),
)
_CANNOT_RUN = (126, 127)


class Process(msgspec.Struct, frozen=True):
    """A process of an instance, as /proc tells: ids inside the instance."""

    pid: int
    parent: int
    name: str
    dead: bool
    marked: bool


def process(pid: int, stat: bytes, variables: bytes, marker: str) -> Process | None:
    """A process from its /proc files; None when they are those of one that has just gone. Pure."""
    name, _, rest = stat.partition(b"(")[2].rpartition(b") ")
    words = rest.split()
    if len(words) < 2 or not words[1].isdigit():
        return None
    wanted = f"\0{MARKER}={marker}\0".encode()
    return Process(
        pid,
        int(words[1]),
        transport.clean(name.decode(errors="replace")),
        words[0] in (b"Z", b"X"),
        wanted in b"\0" + variables + b"\0",
    )


def family(processes: Sequence[Process]) -> list[Process]:
    """Those alive that are marked, or descend from one that is. Pure."""
    kin = {one.pid for one in processes if one.marked}
    grown = True
    while grown:
        more = {one.pid for one in processes if one.parent in kin} - kin
        grown = bool(more)
        kin |= more
    return [one for one in processes if one.pid in kin and not one.dead]


def sweep(
    client: incus.Client,
    instance: str,
    query: Mapping[str, str],
    marker: str,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """Kill what bears the marker until nothing does; `NAME (PID)` of what is left after `patience` seconds.

    `instance` is its path in the API. Raises an IncusError when it cannot be looked at.
    """
    deadline = clock() + patience
    means: list[tuple[str, ...]] = list(_MEANS)
    with sftp.files(client.transport, instance, query, "look for processes") as files:
        while True:
            found = family(_all(files, marker))
            if not found:
                return ()
            if not means or clock() >= deadline:
                return tuple(f"{one.name} ({one.pid})" for one in found[:_SHOWN])
            _kill(client, instance, query, found, means)
            sleep(_PAUSE)


def _all(files: sftp.Files, marker: str) -> list[Process]:
    found: list[Process] = []
    for word in files.names("/proc"):
        if not word.isdigit():
            continue
        stat = files.read(f"/proc/{word}/stat")
        variables = files.read(f"/proc/{word}/environ")
        one = process(int(word), stat or b"", variables or b"", marker)
        if one is not None:
            found.append(one)
    return found


def _kill(
    client: incus.Client,
    instance: str,
    query: Mapping[str, str],
    found: Sequence[Process],
    means: list[tuple[str, ...]],
) -> None:
    """Kill by the first means that can be run; those that cannot are taken off the list."""
    numbers = [str(one.pid) for one in found]
    while means:
        ran = client.exec_output(
            instance,
            [*means[0], *numbers],
            query,
            timeout=_KILL_SECONDS,
            limit=transport.TEXT_LIMIT,
        )
        if ran.status not in _CANNOT_RUN:
            return
        del means[0]
