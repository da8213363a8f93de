"""How the daemon does, in the OpenMetrics text format, on a unix socket of its own.

In: its state, the manager's counts, what the process uses. Out: text (`render` is pure), served to whoever
connects: by HTTP when asked by HTTP, else as it is. The socket lies in the sidecar's memory; there is no
network card, so nobody outside can connect.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, get_args

from ic.resources import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ic.healthd import manager

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
REQUEST_LIMIT = 8192
PATIENCE = 1.0  # seconds for whoever connects
_PREFIX = "ic_healthd_"
Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]


def render(
    state: sidecar.State, figures: manager.Figures | None, *, cpu: float = 0.0, memory: int = 0
) -> str:
    """The text. `cpu` in seconds, `memory` in bytes; `figures` None while there is no work."""
    out: list[str] = []

    def family(name: str, kind: str, about: str, samples: Iterable[Sample], unit: str = "") -> None:
        full = name if name.startswith("process_") else _PREFIX + name
        out.append(f"# TYPE {full} {kind}\n")
        if unit:
            out.append(f"# UNIT {full} {unit}\n")
        out.append(f"# HELP {full} {about}\n")
        suffix = {"counter": "_total", "info": "_info"}.get(kind, "")
        out.extend(
            f"{full}{suffix}{_labels(labels)} {_number(value)}\n" for labels, value in samples
        )

    words: tuple[str, ...] = get_args(sidecar.Word)
    family(
        "state",
        "stateset",
        "What the daemon says of itself.",
        [(((_PREFIX + "state", word),), float(word == state.state)) for word in words],
    )
    about: Labels = (("build", state.build), ("project", state.project))
    family("build", "info", "The running ic.pyz and the project that it watches.", [(about, 1.0)])
    plain: Labels = ()
    family("watched", "gauge", "Instances that are watched.", [(plain, float(state.watched))])
    family(
        "misconfigured",
        "gauge",
        "Keys that cannot be read.",
        [(plain, float(len(state.misconfigured)))],
    )
    if figures is not None:
        for name, kind, help_text, samples in _of(figures):
            family(name, kind, help_text, samples)
        out.extend(_lateness(figures))
    family("process_cpu_seconds", "counter", "CPU time of the daemon.", [(plain, cpu)], "seconds")
    family(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of the daemon.",
        [(plain, float(memory))],
        "bytes",
    )
    out.append("# EOF\n")
    return "".join(out)


def _of(figures: manager.Figures) -> Iterable[tuple[str, str, str, list[Sample]]]:
    plain: Labels = ()
    yield "probes", "counter", "Probes by how they ended.", _by("result", figures.probes)
    yield "acts", "counter", "Starts, stops and restarts.", _by("act", figures.acts)
    yield "writes", "counter", "Status keys written.", [(plain, float(figures.writes))]
    yield "listings", "counter", "Listings of the project.", [(plain, float(figures.listings))]
    brown = [(plain, float(bool(figures.brown_out)))]
    yield "brown_out", "gauge", "Whether restarts are held back.", brown
    states = sorted(figures.states.items())
    health: list[Sample] = [
        ((("instance", name), ("power", power), ("health", status or "none")), 1.0)
        for name, (power, status, _) in states
    ]
    yield "instance", "gauge", "Watched instances as they are.", health
    restarts: list[Sample] = [((("instance", name),), float(n)) for name, (_, _, n) in states]
    yield "instance_restarts", "counter", "Restarts by the daemon.", restarts


def _lateness(figures: manager.Figures) -> Iterable[str]:
    """How late probes began, as a histogram: each bucket holds those of the buckets before it."""
    name = _PREFIX + "probe_late_seconds"
    yield f"# TYPE {name} histogram\n# UNIT {name} seconds\n# HELP {name} How late probes began.\n"
    count = 0
    for bound, here in sorted(figures.late.items()):
        count += here
        if bound != float("inf"):
            yield f'{name}_bucket{{le="{bound / 1000:g}"}} {count}\n'
    yield f'{name}_bucket{{le="+Inf"}} {count}\n{name}_count {count}\n'
    yield f"{name}_sum {_number(figures.late_ms / 1000)}\n"


def _by(label: str, counts: Mapping[str, int]) -> list[Sample]:
    return [(((label, key),), float(count)) for key, count in sorted(counts.items())]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def usage() -> tuple[float, int]:
    """CPU seconds and resident bytes of this process."""
    times = os.times()
    pages = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return times.user + times.system, pages * os.sysconf("SC_PAGE_SIZE")


class Server:
    """Answers on a unix socket, one connection after the other."""

    def __init__(self, path: str, text: Callable[[], str]) -> None:
        self._text = text
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._socket.bind(path)
        finally:
            os.umask(before)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(PATIENCE)
                connection.sendall(self._answer(connection))

    def _answer(self, connection: socket.socket) -> bytes:
        asked = b""
        with contextlib.suppress(TimeoutError):
            while b"\r\n\r\n" not in asked and len(asked) < REQUEST_LIMIT:
                piece = connection.recv(1024)
                if not piece:
                    break
                asked += piece
        body = self._text().encode()
        if not asked.startswith((b"GET ", b"HEAD ")):
            return body
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        ).encode()
        return head if asked.startswith(b"HEAD ") else head + body
