"""The output of a command in an instance, as it comes: exec's websockets, without a library.

In: a Transport, the operation of an exec and its secrets. Out: pieces of output, and the end. A health check
opens three websockets for a few bytes each, and a stack makes hundreds of checks a minute: what a library
does per connection and frame was measured to be a third of the daemon's whole CPU (docs/adr/0022). Only what
exec needs of RFC 6455 is here: one handshake, frames from the server, answers to its pings.

How exec behaves was measured on Incus 7.0.2: the process begins when 0, 1 and 2 are connected (within 10 s);
closing 0 is the end of its input; closing 1 and 2 while it runs kills it, its direct process only (a control
connection would make that its own business, so none is opened); when it has ended and something else still
holds its output, both streams end 1 s later.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from ic import errors
from ic.incus import transport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

FRAME_LIMIT = 1024 * 1024
CHUNK = 64 * 1024
TICK = 0.5  # seconds: pings are answered when nothing else arrives for so long
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class Websocket:
    """One websocket to an operation: opened, then read piece by piece."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._left = 0  # bytes of the present data frame that are still to come
        self._ping: bytes | None = None

    @property
    def held(self) -> bool:
        """Whether TLS has bytes that `poll` does not see."""
        pending = getattr(self.sock, "pending", None)
        return pending is not None and pending() > 0

    def begin(self, target: str) -> str:
        """Send the upgrade; what `finish` needs of it."""
        key = base64.b64encode(os.urandom(16)).decode()
        more = ("Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
        transport.ask_upgrade(self.sock, target, "websocket", more)
        return key

    def finish(self, key: str, doing: str) -> None:
        """Read the answer to the upgrade; raises what the server says instead."""
        headers, early = transport.upgraded(self.sock, doing)
        proof = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
        if headers.get("sec-websocket-accept") != base64.b64encode(proof).decode():
            raise ConnectionError("the answer to the upgrade is not a websocket's")
        self._buffer += early

    def read(self, keep: Callable[[memoryview], None]) -> bool:
        """Read once, and give what has arrived to `keep`; False at the end: an empty message, a close, EOF.

        It waits when nothing is there. Raises ConnectionError for what is no frame of a server.
        """
        piece = self.sock.recv(CHUNK)
        if not piece:
            return False
        if self._left >= len(piece) and not self._buffer:  # within a frame: much output
            self._left -= len(piece)
            keep(memoryview(piece))
            return True
        self._buffer += piece
        return self.frames(keep)

    def frames(self, keep: Callable[[memoryview], None]) -> bool:
        """As `read`, for what has been read already."""
        buffer = self._buffer
        while buffer:
            if self._left:
                some = bytes(buffer[: self._left])
                del buffer[: len(some)]
                self._left -= len(some)
                keep(memoryview(some))
                continue
            head = _head(buffer)
            if head is None:
                return True
            kind, size, length = head
            if kind in (_TEXT, _BINARY, 0):
                del buffer[:length]
                if size == 0:
                    return False
                self._left = size
            elif len(buffer) < length + size:
                return True
            else:
                content = bytes(buffer[length : length + size])
                del buffer[: length + size]
                if kind == _CLOSE:
                    return False
                if kind == _PING:
                    self._ping = content
        return True

    def pong(self) -> None:
        """Answer the last ping; a server that is gone by now needs no answer."""
        content, self._ping = self._ping, None
        if content is None:
            return
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(content))
        with contextlib.suppress(OSError):
            self.sock.sendall(bytes((0x80 | _PONG, 0x80 | len(content))) + mask + masked)

    def close(self) -> None:
        """Close the connection, without a word: that is what ends a command."""
        self.sock.close()


def _head(buffer: bytearray) -> tuple[int, int, int] | None:
    """Kind, size and length of the head of the frame that begins here; None when it is not here yet."""
    if len(buffer) < 2:
        return None
    first, second = buffer[0], buffer[1]
    kind, size, length = first & 0x0F, second & 0x7F, 2
    if first & 0x70 or second & 0x80 or kind not in (0, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
        raise ConnectionError("not a frame of a server")
    if kind >= _CLOSE and size > 125:
        raise ConnectionError("a control frame that is too long")
    if size > 125:
        length = 4 if size == 126 else 10
        if len(buffer) < length:
            return None
        size = int.from_bytes(buffer[2:length], "big")
        if size > FRAME_LIMIT:
            raise ConnectionError(f"a frame of over {FRAME_LIMIT} bytes")
    return kind, size, length


class Command:
    """A command that runs in an instance: its output until both streams have ended. Closing it kills it.

    `began` is when its process began (seconds of `clock`).
    """

    def __init__(self, operation: str, began: float, outputs: tuple[Websocket, ...]) -> None:
        self.operation = operation
        self.began = began
        self._open = list(outputs)
        self._fresh = True

    @property
    def ended(self) -> bool:
        """Whether both streams have ended (or were closed)."""
        return not self._open

    def read(self, keep: Callable[[memoryview], None], timeout: float) -> None:
        """Wait up to `timeout` seconds for output and give it to `keep`, both streams as they come.

        Raises Unreachable when a connection broke; closed ends are seen in `ended`.
        """
        try:
            if self._fresh:  # frames that came with the answers to the upgrades
                self._fresh = False
                self._drop([one for one in self._open if not one.frames(keep)])
            if self._open:
                self._drop([one for one in self._ready(timeout) if not one.read(keep)])
        except OSError as cause:
            raise errors.Unreachable(
                "cannot read the output of a command: the connection broke"
            ) from cause

    def _drop(self, ended: list[Websocket]) -> None:
        for one in ended:
            one.close()
            self._open.remove(one)

    def _ready(self, timeout: float) -> list[Websocket]:
        held = [one for one in self._open if one.held]
        if held:
            return held
        poll = select.poll()
        numbers = {one.sock.fileno(): one for one in self._open}
        for number in numbers:
            poll.register(number, select.POLLIN)
        ready = poll.poll(max(0.0, min(timeout, TICK)) * 1000)
        if not ready:
            for one in self._open:
                one.pong()
        return [numbers[number] for number, _ in ready]

    def close(self) -> None:
        """Close what is open; a process that still runs is killed by that."""
        for one in self._open:
            one.close()
        self._open.clear()


def start(
    to: transport.Transport,
    operation: str,
    secrets: Mapping[str, str],
    doing: str,
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
) -> Command:
    """Connect to a command that was asked for, which makes it begin; its input is at its end at once.

    `timeout` in seconds is that of each answer. Raises Unreachable, TimedOut, or what the server says.
    """
    opened: list[Websocket] = []
    try:
        keys: list[str] = []
        for name in ("0", "1", "2"):
            one = Websocket(to.socket(timeout))
            opened.append(one)
            query = urlencode({"secret": secrets.get(name, "")}, quote_via=quote)
            keys.append(one.begin(f"{operation}/websocket?{query}"))
        for one, key in zip(opened, keys, strict=True):
            one.finish(key, doing)
        transport.remember(to.server, opened[0].sock)
        began = clock()
        opened[0].close()
        return Command(operation, began, tuple(opened[1:]))
    except BaseException as cause:
        for one in opened:
            one.close()
        if isinstance(cause, TimeoutError):
            raise errors.TimedOut(f"cannot {doing}: the server did not answer in time") from cause
        if isinstance(cause, OSError):
            raise errors.Unreachable(f"cannot {doing}: the connection broke") from cause
        raise
