"""Websockets of Incus: events and consoles. The only importer of websocket-client.

In: a Transport (its socket is connected, and pinned over HTTPS) and a query. Out: events as mappings, bytes
as written. Reconnecting is the caller's, because only the caller knows what to read again.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import msgspec

from ic import errors
from ic.incus import transport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import websocket


def _open(
    to: transport.Transport, path: str, query: Mapping[str, str], doing: str
) -> websocket.WebSocket:
    """A websocket on a socket of our own; raises Unreachable, Forbidden, NotFound, OperationFailed."""
    import websocket

    sock = to.socket()
    socket = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
    try:
        socket.connect(  # pyright: ignore[reportUnknownMemberType]
            f"ws://incus{path}?{urlencode(query, quote_via=quote)}",
            socket=sock,
            suppress_origin=True,
            redirect_limit=0,
        )
        transport.remember(to.server, sock)
    except websocket.WebSocketBadStatusException as cause:
        sock.close()
        text = (cause.resp_body or b"").decode(errors="replace")
        raise transport.failure(doing, cause.status_code, transport.error_text(text)) from cause
    except (websocket.WebSocketException, OSError) as cause:
        sock.close()
        raise errors.Unreachable(f"cannot {doing}: the websocket could not be opened") from cause
    except BaseException:
        sock.close()
        raise
    return socket


def _receive(
    socket: websocket.WebSocket, timeout: float | None, what: str, clock: Callable[[], float]
) -> bytes | None:
    """The next message of ours, empty at the end, None when none came within `timeout` seconds.

    Raises Unreachable when the connection broke.
    """
    import websocket

    deadline = None if timeout is None else clock() + timeout
    while True:
        # The server's pings are messages too: each would begin the time anew.
        left = None if deadline is None else deadline - clock()
        if left is not None and left <= 0:
            return None
        socket.settimeout(left)
        try:
            data = _message(socket)
        except websocket.WebSocketTimeoutException:
            return None
        except (websocket.WebSocketException, OSError) as cause:
            raise errors.Unreachable(f"cannot follow {what}: the connection broke") from cause
        if data is None:
            return b""
        if data:
            return data


class Events:
    """Events as they come: iterate, or ask for the `next` with a deadline."""

    def __init__(
        self, socket: websocket.WebSocket, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket = socket
        self._clock = clock

    def next(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next event, None when none came within `timeout` seconds. Raises Unreachable when it broke."""
        text = _receive(self._socket, timeout, "the server's events", self._clock)
        if text == b"":
            raise errors.Unreachable("cannot follow the server's events: the server ended them")
        return None if text is None else _event(text)

    def __iter__(self) -> Generator[dict[str, Any]]:
        while True:
            event = self.next()
            if event is not None:
                yield event


def _event(text: bytes) -> dict[str, Any]:
    try:
        event: object = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise errors.OperationFailed("cannot follow the server's events: not an event") from cause
    return cast("dict[str, Any]", event) if isinstance(event, dict) else {}


@contextlib.contextmanager
def events(to: transport.Transport, query: Mapping[str, str]) -> Generator[Events]:
    """The server's events from now on (`type`, and `project` or `all-projects`, in the query)."""
    socket = _open(to, "/1.0/events", query, "follow the server's events")
    try:
        yield Events(socket)
    finally:
        with contextlib.suppress(OSError):
            socket.shutdown()


class Console:
    """What an instance writes, as it comes."""

    def __init__(
        self, socket: websocket.WebSocket, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket = socket
        self._clock = clock

    def next(self, timeout: float | None = None) -> bytes | None:
        """The next piece, empty at the end, None when none came within `timeout` seconds.

        Raises Unreachable when the connection broke.
        """
        return _receive(self._socket, timeout, "a console", self._clock)


@contextlib.contextmanager
def console(to: transport.Transport, operation: str, secret: str, doing: str) -> Generator[Console]:
    """The stream of a console that was asked for (`operation`); leaving the `with` lets go of it."""
    socket = _open(to, operation + "/websocket", {"secret": secret}, doing)
    try:
        yield Console(socket)
    finally:
        with contextlib.suppress(OSError):
            socket.shutdown()


def _message(socket: websocket.WebSocket) -> bytes | None:
    """What one frame brings; empty when it is none of ours (a ping, which is answered); None at the end.

    Messages of Incus are single frames. The end is an empty message, a close, or a closed connection. Pings
    are answered here: at the end of a command the server is often gone before the answer, which is no
    loss, while the library would take it for one.
    """
    import websocket

    try:
        frame = socket.recv_frame()
    except websocket.WebSocketConnectionClosedException:
        return None
    if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
        return None
    if frame.opcode == websocket.ABNF.OPCODE_PING:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            socket.pong(frame.data)
        return b""
    if frame.opcode == websocket.ABNF.OPCODE_PONG:
        return b""
    data = frame.data.encode() if isinstance(frame.data, str) else bytes(frame.data)
    return data or None
