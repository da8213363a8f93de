"""Frames as a server may send them: cut anywhere, too long, not frames at all; and how a command ends."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from ic import errors
from ic.incus import remotes, streams, transport

SECRETS = {"0": "in", "1": "out", "2": "err"}


def accept_of(request: bytes) -> bytes:
    """The answer to an upgrade, as RFC 6455 has it."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    proof = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(proof) + b"\r\n\r\n"
    )


def frame(content: bytes, kind: int = 2) -> bytes:
    size = len(content)
    if size < 126:
        return bytes((0x80 | kind, size)) + content
    if size < 65536:
        return bytes((0x80 | kind, 126)) + size.to_bytes(2, "big") + content
    return bytes((0x80 | kind, 127)) + size.to_bytes(8, "big") + content


END = frame(b"", 1)


class Server:
    """Websockets on a unix socket: what each of 0, 1 and 2 is sent after its upgrade, and what it sent."""

    def __init__(self, path: Path, scripts: dict[str, Callable[[socket.socket], None]]) -> None:
        self.scripts = scripts
        self.requests: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.threads: list[threading.Thread] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.listener.accept()
                thread = threading.Thread(target=self.answer, args=(one,), daemon=True)
                thread.start()
                self.threads.append(thread)

    def answer(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            one.settimeout(10)
            request = one.recv(65536)
            target = request.split()[1].decode()
            self.requests.append(target)
            name = next(name for name, secret in SECRETS.items() if target.endswith(secret))
            script = self.scripts.get(name)
            if script is None:
                one.sendall(accept_of(request) + END)
            else:
                one.sendall(accept_of(request))
                script(one)


Serve = Callable[..., streams.Command]


@pytest.fixture
def serve(tmp_path: Path) -> Generator[Serve]:
    made: list[Server] = []
    begun: list[streams.Command] = []

    def begin(**scripts: Callable[[socket.socket], None]) -> streams.Command:
        named = {name.removeprefix("on"): script for name, script in scripts.items()}
        made.append(Server(tmp_path / "s", named))
        way = transport.connect(remotes.Server(name="fake", socket=str(tmp_path / "s")))
        begun.append(streams.start(way, "/1.0/operations/x", SECRETS, "run it", timeout=5))
        return begun[-1]

    yield begin
    for command in begun:
        command.close()
    for server in made:
        server.listener.close()


def whole(command: streams.Command, seconds: float = 10.0) -> bytes:
    """All output of a command."""
    pieces: list[bytes] = []
    deadline = time.monotonic() + seconds
    while not command.ended and time.monotonic() < deadline:
        command.read(lambda piece: pieces.append(bytes(piece)), 0.2)
    assert command.ended
    return b"".join(pieces)


def test_output_comes_as_it_was_sent_and_ends_with_an_empty_message(serve: Serve) -> None:
    command = serve(
        on1=lambda one: one.sendall(frame(b"a" * 200_000) + frame(b"b", 1) + END),
        on2=lambda one: one.sendall(frame(b"", 8)),
    )
    assert whole(command) == b"a" * 200_000 + b"b"


def test_frames_may_be_cut_anywhere(serve: Serve) -> None:
    def slowly(one: socket.socket) -> None:
        for byte in frame(b"x" * 300) + frame(b"ping", 9) + frame(b"tail") + END:
            one.sendall(bytes((byte,)))

    assert whole(serve(on1=slowly)) == b"x" * 300 + b"tail"


def test_a_closed_connection_is_an_end(serve: Serve) -> None:
    assert whole(serve(on1=lambda one: one.sendall(frame(b"so far")))) == b"so far"


def test_a_ping_is_answered_when_nothing_else_arrives(serve: Serve) -> None:
    got: list[bytes] = []

    def ping(one: socket.socket) -> None:
        one.sendall(frame(b"first", 9) + frame(b"still there", 9))
        got.append(one.recv(100))
        one.sendall(END)

    assert whole(serve(on1=ping)) == b""
    answer = got[0]
    assert answer[:2] == bytes((0x8A, 0x80 | 11))
    mask, content = answer[2:6], answer[6:]
    assert bytes(b ^ mask[n % 4] for n, b in enumerate(content)) == b"still there"


@pytest.mark.parametrize(
    "bytes_sent",
    [
        bytes((0x82, 0x81)) + b"maskx",
        bytes((0xF2, 1)) + b"x",
        bytes((0x83, 1)) + b"x",
        bytes((0x89, 126)) + b"\1\0",
        bytes((0x82, 127)) + (2**63).to_bytes(8, "big"),
        bytes((0x82, 127)) + (streams.FRAME_LIMIT + 1).to_bytes(8, "big"),
    ],
    ids=["masked", "reserved bits", "unknown kind", "long ping", "2^63 bytes", "over the limit"],
)
def test_what_is_no_frame_of_a_server_breaks_the_connection(
    serve: Serve, bytes_sent: bytes
) -> None:
    def send(one: socket.socket) -> None:
        one.sendall(bytes_sent)
        one.recv(1)

    with pytest.raises(errors.Unreachable, match="connection broke"):
        whole(serve(on1=send))


def answering(tmp_path: Path, answer: bytes) -> streams.Command:
    """A command on a server that answers every upgrade with these bytes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def once() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = listener.accept()
                    with one:
                        one.recv(65536)
                        one.sendall(answer)

        threading.Thread(target=once, daemon=True).start()
        way = transport.connect(remotes.Server(name="fake", socket=str(tmp_path / "s")))
        try:
            return streams.start(way, "/1.0/operations/x", SECRETS, "run it", timeout=0.5)
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"", errors.Unreachable, "connection broke"),
        (b"SSH-2.0\r\n\r\n", errors.Unreachable, "connection broke"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: another\r\n\r\n",
            errors.Unreachable,
            "connection broke",
        ),
        (
            b'HTTP/1.1 403 Forbidden\r\n\r\n{"type":"error","error":"not for you"}',
            errors.Forbidden,
            "cannot run it: not for you",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", errors.NotFound, "cannot run it"),
        (b"X: y\r\n" * 20_000, errors.Unreachable, "connection broke"),
    ],
)
def test_an_answer_that_is_no_websocket_is_told(
    tmp_path: Path, answer: bytes, kind: type[errors.IncusError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        answering(tmp_path, answer)


def test_closing_closes_every_connection(serve: Serve) -> None:
    seen: list[bytes] = []
    command = serve(on1=lambda one: seen.append(one.recv(10)), on2=lambda one: seen.append(b"2"))
    command.read(lambda _: None, 0.01)
    command.close()
    deadline = time.monotonic() + 5
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(seen) == [b"", b"2"]
    assert command.ended
