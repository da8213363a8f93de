"""A proxy in front of a server's Unix socket that numbers every request and can fail any of them.

Enters: HTTP/1.1 of a client, request by request. Leaves: the same bytes to the server and its bytes
back, unchanged, but for the one request that a `Fault` chooses. What passed is kept as `Passed`
records in the order of the requests' arrival, for those who count calls or look at bodies. One
thread per connection; a reply that upgrades the connection (websocket) is passed on as it comes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Mode = Literal["before", "executed", "after", "drop", "hold", "error", "cut", "reset", "twice"]
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclasses.dataclass
class Passed:
    """One request and how it was answered. Times are of the monotonic clock, in seconds."""

    number: int
    method: str
    path: str
    body: bytes
    began: float
    ended: float = 0.0
    status: int = 0
    fault: str = ""

    @property
    def writes(self) -> bool:
        return self.method in WRITES


@dataclasses.dataclass
class Fault:
    """What to do at which request, once.

    `at` is the number of the request, from 1, among those that `where` accepts. Modes: `before` (the
    action, and the request never reaches the server), `executed` (the server has answered; the action,
    and the client never hears of it), `after` (the client has the whole reply; the action), `drop` (executed,
    the connection is closed without a reply), `hold` (the reply comes `seconds` late), `error` (answered
    500, never executed), `cut` (half of the reply, then the end), `reset` (the connection ends with the
    request unread), `twice` (executed two times, the second reply is given).
    """

    at: int
    mode: Mode
    action: Callable[[], None] = lambda: None
    seconds: float = 0.0
    where: Callable[[Passed], bool] = lambda passed: True
    fired: threading.Event = dataclasses.field(default_factory=threading.Event)
    seen: int = 0


class Reader:
    """Reads HTTP messages from a socket and keeps every byte as it came."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.buffer = b""

    def more(self) -> bool:
        chunk = self.link.recv(65536)
        self.buffer += chunk
        return bool(chunk)

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes; EOFError when the peer ends before."""
        while len(self.buffer) < size:
            if not self.more():
                raise EOFError
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with a mark; EOFError when the peer ends before."""
        while mark not in self.buffer:
            if not self.more():
                raise EOFError
        return self.take(self.buffer.index(mark) + len(mark))

    def rest(self) -> bytes:
        while self.more():
            pass
        return self.take(len(self.buffer))

    def body(self, head: bytes, *, reply: bool) -> bytes:
        """The body that a message's head announces, in its framing."""
        fields = header_fields(head)
        if "chunked" in fields.get("transfer-encoding", "").lower():
            whole = b""
            while True:
                line = self.until(b"\r\n")
                size = int(line.split(b";")[0], 16)
                if size == 0:
                    return whole + line + self.until(b"\r\n")
                whole += line + self.take(size + 2)
        if "content-length" in fields:
            return self.take(int(fields["content-length"]))
        return self.rest() if reply else b""


def header_fields(head: bytes) -> dict[str, str]:
    """The header fields of a message's head, names in lower case."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {
        name.strip().lower(): value.strip()
        for name, colon, value in (line.partition(":") for line in lines)
        if colon
    }


def unchunked(body: bytes, head: bytes) -> bytes:
    """A body without its transfer framing."""
    if "chunked" not in header_fields(head).get("transfer-encoding", "").lower():
        return body
    plain = b""
    while body:
        line, _, body = body.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        plain, body = plain + body[:size], body[size + 2 :]
        if size == 0:
            break
    return plain


class Proxy:
    """A listening socket at `path` in front of `server`. Use as a context manager."""

    def __init__(self, path: Path, server: Path, fault: Fault | None = None) -> None:
        self.path = path
        self.server = server
        self.fault = fault
        self.passed: list[Passed] = []
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)
        self.open: set[socket.socket] = set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.acceptor = threading.Thread(target=self.accept, daemon=True)

    def __enter__(self) -> Proxy:
        self.path.unlink(missing_ok=True)
        self.listener.bind(str(self.path))
        self.listener.listen(128)
        self.acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept() is woken by shutdown, not by close.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()
        with self.lock:
            left = list(self.open)
        for link in left:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self.path.unlink(missing_ok=True)

    @property
    def writes(self) -> list[Passed]:
        """The requests that may change something on the server."""
        return [passed for passed in self.passed if passed.writes]

    def clear(self) -> None:
        """Forget what has passed; numbering goes on."""
        with self.lock:
            self.passed.clear()

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(link,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        """Carry one connection until either side ends it."""
        upstream = socket.socket(socket.AF_UNIX)
        links = {client, upstream}
        with self.lock:
            self.open |= links
        try:
            upstream.connect(str(self.server))
            source, answers = Reader(client), Reader(upstream)
            while awaited(source, answers) and self.exchange(source, answers):
                pass
        except (OSError, EOFError):
            pass  # an end of either side ends the connection; the client sees it as from the server
        finally:
            with self.lock:
                self.open -= links
            for link in links:
                link.close()

    def choose(self, passed: Passed) -> Fault | None:
        """The fault, when this is its request."""
        fault = self.fault
        if fault is None or fault.fired.is_set() or not fault.where(passed):
            return None
        fault.seen += 1
        if fault.seen != fault.at:
            return None
        passed.fault = fault.mode
        return fault

    def exchange(self, source: Reader, answers: Reader) -> bool:
        """One request and its reply; False when the connection is over."""
        head = source.until(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        with self.lock:
            passed = Passed(next(self.numbers), method, path, b"", time.monotonic())
            self.passed.append(passed)
            fault = self.choose(passed)
        if fault and fault.mode == "reset":
            # Closing with bytes unread makes a Unix socket answer ECONNRESET.
            fault.fired.set()
            return False
        if "100-continue" in header_fields(head).get("expect", "").lower():
            source.link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = source.body(head, reply=False)
        passed.body = unchunked(body, head)
        if fault and fault.mode == "before":
            fault.action()
            fault.fired.set()
            return False
        if fault and fault.mode == "error":
            text = (
                b'{"type":"error","status":"","status_code":0,"error_code":500,"error":"injected"}'
            )
            reply = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
            source.link.sendall(reply + b"Content-Length: %d\r\n\r\n%s" % (len(text), text))
            passed.status, passed.ended = 500, time.monotonic()
            fault.fired.set()
            return True
        bodiless, reply, reply_head = False, b"", b""
        for _ in range(2 if fault and fault.mode == "twice" else 1):
            answers.link.sendall(head + body)
            reply_head = answers.until(b"\r\n\r\n")
            passed.status = int(reply_head.split(b" ", 2)[1])
            if passed.status == 101:
                source.link.sendall(reply_head)
                splice(source, answers)
                return False
            bodiless = method == "HEAD" or passed.status in (204, 304)
            reply = reply_head if bodiless else reply_head + answers.body(reply_head, reply=True)
        passed.ended = time.monotonic()
        if fault and fault.mode == "executed":
            fault.action()
            fault.fired.set()
            return False
        if fault and fault.mode == "drop":
            fault.fired.set()
            return False
        if fault and fault.mode == "cut":
            source.link.sendall(reply[: len(reply) - max(1, (len(reply) - len(reply_head)) // 2)])
            fault.fired.set()
            return False
        if fault and fault.mode == "hold":
            fault.fired.set()
            time.sleep(fault.seconds)
        source.link.sendall(reply)
        if fault and fault.mode in ("after", "twice"):
            fault.action()
            fault.fired.set()
        fields = header_fields(reply_head)
        return fields.get("connection", "").lower() != "close" and (
            bodiless or "content-length" in fields or "transfer-encoding" in fields
        )


def awaited(source: Reader, answers: Reader) -> bool:
    """Wait for the next request; False when the server ends an idle connection before, as servers do."""
    if source.buffer:
        return True
    ready, _, _ = select.select([source.link, answers.link], [], [])
    return answers.link not in ready


def splice(left: Reader, right: Reader) -> None:
    """Pass bytes both ways until one side ends."""
    for one, other in ((left, right), (right, left)):
        if one.buffer:
            other.link.sendall(one.buffer)
            one.buffer = b""
    pairs = {left.link: right.link, right.link: left.link}
    while True:
        ready, _, _ = select.select(list(pairs), [], [])
        for link in ready:
            data = link.recv(65536)
            if not data:
                return
            pairs[link].sendall(data)
