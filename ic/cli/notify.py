"""Tells a service manager how far a command is: `up --wait` as a `Type=notify` unit of systemd.

Enters: the environment's NOTIFY_SOCKET, and what is to be told. Leaves: datagrams (READY=1, STATUS=...,
EXTEND_TIMEOUT_USEC=...) to that socket, a path or (`@...`) an abstract name; nothing where there is none.
A manager that does not listen is no failure. Source of the rules: sd_notify(3).
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

BEAT_SECONDS = 10.0
EXTENDED_USEC = 30_000_000  # what each beat asks for: three beats


class Notifier:
    """The way to the manager; `address` is NOTIFY_SOCKET's text, empty where nobody waits."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._told = ""

    def status(self, text: str) -> None:
        """What goes on, in one line; told when it is another one."""
        line = " ".join(text.split())
        if line != self._told:
            self._told = line
            self._send(f"STATUS={line}")

    def ready(self, text: str) -> None:
        """Everything is up."""
        self._send(f"READY=1\nSTATUS={' '.join(text.split())}")

    def extend(self) -> None:
        """Still at it: the manager's time for starting begins anew."""
        self._send(f"EXTEND_TIMEOUT_USEC={EXTENDED_USEC}")

    def _send(self, text: str) -> None:
        import socket

        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect(self._address)
            sock.send(text.encode())


@contextlib.contextmanager
def telling(
    env: Mapping[str, str], *, wanted: bool, beat_seconds: float = BEAT_SECONDS
) -> Generator[Notifier]:
    """A notifier that keeps the manager's patience for as long as the block lasts; silent unless wanted."""
    notifier = Notifier(env.get("NOTIFY_SOCKET", "") if wanted else "")
    done = threading.Event()

    def beat() -> None:
        while not done.is_set():
            notifier.extend()
            done.wait(beat_seconds)

    if wanted and env.get("NOTIFY_SOCKET"):
        threading.Thread(target=beat, daemon=True).start()
    try:
        yield notifier
    finally:
        done.set()
