"""Websockets of Incus: events, and the streams of a command. The only importer of websocket-client.

In: a Transport (its socket is connected, and pinned over HTTPS) and a query. Out: events as mappings, bytes
as written. Reconnecting is the caller's, because only the caller knows what to read again.
"""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import msgspec

from ic import errors
from ic.incus import transport

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import websocket

_TICK = 1.0  # seconds between looks at the clock while nothing arrives


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
        raise transport.failure(doing, cause.status_code, _error_text(text)) from cause
    except (websocket.WebSocketException, OSError) as cause:
        sock.close()
        raise errors.Unreachable(f"cannot {doing}: the websocket could not be opened") from cause
    except BaseException:
        sock.close()
        raise
    return socket


def _error_text(body: str) -> str:
    try:
        found: object = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body
    return (
        str(cast("dict[str, object]", found).get("error", "")) if isinstance(found, dict) else body
    )


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


def collect(
    to: transport.Transport,
    operation: str,
    secrets: Mapping[str, str],
    *,
    timeout: float,
    limit: int,
    doing: str,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[bytes, bytes, bool]:
    """What a command writes on 1 and 2, and whether that is all of it; nothing is sent to its 0.

    It is not all when a websocket broke, or could not be opened because the command is over already (it
    could not be executed): the operation tells. After `timeout` seconds the control socket is closed, which
    kills the command, and TimedOut raised. Output beyond `limit` bytes per stream is dropped.
    """
    import websocket

    deadline = clock() + timeout
    sockets: dict[str, websocket.WebSocket] = {}
    written = {"1": bytearray(), "2": bytearray()}
    whole = False
    try:
        for name in ("control", "0", "1", "2"):
            if name in secrets:
                query = {"secret": secrets[name]}
                sockets[name] = _open(to, operation + "/websocket", query, doing)
        sockets["0"].send("")
        open_ones = {sockets[name].fileno(): name for name in written}
        while open_ones:
            left = deadline - clock()
            if left <= 0:
                raise errors.TimedOut(f"cannot {doing}: not done after {timeout:g} s, killed")
            for number in _ready(open_ones, sockets, min(left, _TICK)):
                name = open_ones[number]
                data = _message(sockets[name])
                if data is not None:
                    kept = written[name]
                    kept += data[: limit - len(kept)]
                else:
                    del open_ones[number]
        whole = True
    except (websocket.WebSocketException, OSError, errors.Unreachable, errors.NotFound):
        pass
    finally:
        for socket in sockets.values():
            with contextlib.suppress(OSError):
                socket.shutdown()
    return bytes(written["1"]), bytes(written["2"]), whole


def _ready(
    open_ones: Mapping[int, str], sockets: Mapping[str, websocket.WebSocket], timeout: float
) -> list[int]:
    """The file numbers with something to read; TLS may hold bytes that `select` does not see."""
    held: list[int] = []
    for number, name in open_ones.items():
        pending = getattr(sockets[name].sock, "pending", None)
        if pending is not None and pending():
            held.append(number)
    return held or select.select(list(open_ones), [], [], timeout)[0]


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
