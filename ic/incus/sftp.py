"""Files of an instance by the server's sftp endpoint: those whose size says nothing, as all of /proc.

In: a Transport, a running instance, paths. Out: their bytes. The files API shows /proc but gives every file
in it as empty, because its size is 0 (measured on 7.0.2). Reading is all there is here, of version 3 of the
protocol (draft-ietf-secsh-filexfer-02), one request at a time.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from ic import errors
from ic.incus import transport

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Mapping

PACKET_LIMIT = 256 * 1024
READ_SIZE = 32 * 1024
_VERSION = 3
_INIT, _OPEN, _CLOSE, _READ, _OPENDIR, _READDIR = 1, 3, 4, 5, 11, 12
_STATUS, _HANDLE, _DATA, _NAME = 101, 102, 103, 104
_FOR_READING = 1
_TIMEOUT = 10.0


class Files:
    """The files of one instance. Raises Unreachable when the connection breaks or speaks no sftp."""

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self._sock = sock
        self._buffer = bytearray(early)
        self._number = 0

    def read(self, path: str, limit: int = 256 * 1024) -> bytes | None:
        """The content of a file (at most `limit` bytes); None when there is none, or it may not be read."""
        with self._handle(_OPEN, path, struct.pack(">II", _FOR_READING, 0)) as handle:
            if handle is None:
                return None
            content = bytearray()
            while len(content) < limit:
                position = struct.pack(">QI", len(content), READ_SIZE)
                kind, body = self._ask(_READ, _text(handle) + position)
                if kind != _DATA:
                    break
                content += _first_text(body)[0]
            return bytes(content[:limit])

    def names(self, path: str) -> list[str]:
        """The names in a directory; none when there is no such directory."""
        with self._handle(_OPENDIR, path, b"") as handle:
            found: list[str] = []
            while handle is not None:
                kind, body = self._ask(_READDIR, _text(handle))
                if kind != _NAME:
                    break
                found += _names(body)
            return found

    @contextlib.contextmanager
    def _handle(self, kind: int, path: str, more: bytes) -> Generator[bytes | None]:
        answer, body = self._ask(kind, _text(path.encode()) + more)
        if answer != _HANDLE:
            yield None
            return
        handle = _first_text(body)[0]
        yield handle
        self._ask(_CLOSE, _text(handle))

    def _ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The answer to one request: its kind, and what follows the number."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._send(kind, struct.pack(">I", self._number) + body)
        answer, content = self._packet()
        if content[:4] != struct.pack(">I", self._number):
            raise errors.Unreachable("cannot read files: the server answers another question")
        return answer, content[4:]

    def greet(self) -> None:
        """Agree on the protocol's version."""
        self._send(_INIT, struct.pack(">I", _VERSION))
        self._packet()

    def _send(self, kind: int, body: bytes) -> None:
        try:
            self._sock.sendall(struct.pack(">IB", len(body) + 1, kind) + body)
        except OSError as cause:
            raise _broken() from cause

    def _packet(self) -> tuple[int, bytes]:
        length = int.from_bytes(self._take(4), "big")
        if not 0 < length <= PACKET_LIMIT:
            raise errors.Unreachable("cannot read files: the server speaks no sftp")
        content = self._take(length)
        return content[0], content[1:]

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                piece = self._sock.recv(READ_SIZE)
            except OSError as cause:
                raise _broken() from cause
            if not piece:
                raise _broken()
            self._buffer += piece
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _broken() -> errors.Unreachable:
    return errors.Unreachable("cannot read files: the connection broke")


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _first_text(body: bytes) -> tuple[bytes, bytes]:
    """The string that a body begins with, and what follows it."""
    end = 4 + int.from_bytes(body[:4], "big")
    return body[4:end], body[end:]


def _names(body: bytes) -> list[str]:
    """The file names of an answer to READDIR: each with a long form, and attributes by flags."""
    count, rest = int.from_bytes(body[:4], "big"), body[4:]
    found: list[str] = []
    for _ in range(count):
        if not rest:
            break
        name, rest = _first_text(rest)
        _, rest = _first_text(rest)
        flags, rest = int.from_bytes(rest[:4], "big"), rest[4:]
        rest = rest[8 * bool(flags & 1) + 8 * bool(flags & 2) + 4 * bool(flags & 4) :]
        rest = rest[8 * bool(flags & 8) :]
        if flags & 0x80000000:
            pairs, rest = int.from_bytes(rest[:4], "big"), rest[4:]
            for _ in range(2 * pairs):
                _, rest = _first_text(rest)
        found.append(name.decode(errors="surrogateescape"))
    return found


@contextlib.contextmanager
def files(
    to: transport.Transport, instance: str, query: Mapping[str, str], doing: str
) -> Generator[Files]:
    """The files of a running instance (its path in the API); leaving the `with` closes the connection.

    Raises Unreachable, NotFound, Forbidden, OperationFailed as the server says.
    """
    target = f"{instance}/sftp?{urlencode(query, quote_via=quote)}"
    with to.socket(_TIMEOUT) as sock:
        try:
            transport.ask_upgrade(sock, target, "sftp")
            early = transport.upgraded(sock, doing)[1]
        except OSError as cause:
            raise errors.Unreachable(f"cannot {doing}: the connection broke") from cause
        made = Files(sock, early)
        made.greet()
        yield made
