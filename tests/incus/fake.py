"""A server that answers what a test tells it to: for faults that a real one cannot be made to have.

Real HTTP over a real unix socket or a port of the loopback, in threads of the test's own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ic.incus import client, remotes, transport


class Request:
    """One request as it arrived."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.target = target
        self.path = target.partition("?")[0]
        self.headers = headers
        self.body = body


class Reply:
    """An answer. With `raw` these bytes are sent instead, and the connection is closed."""

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}
        self.raw = raw


Respond = Callable[[Request], Reply]


def metadata(value: Any, **headers: str) -> Reply:
    """A successful answer of the API."""
    body = {"type": "sync", "status": "Success", "status_code": 200, "metadata": value}
    return Reply(json.dumps(body).encode(), 200, {"Content-Type": "application/json", **headers})


def started(operation: str) -> Reply:
    """A background operation that has begun."""
    body = {"type": "async", "status_code": 100, "operation": operation, "metadata": {}}
    return Reply(json.dumps(body).encode(), 202, {"Content-Type": "application/json"})


def ended(code: int, err: str = "", **values: Any) -> Reply:
    """What waiting for a background operation gives."""
    return metadata({"status_code": code, "err": err, "metadata": values})


def failed(status: int, text: str) -> Reply:
    """An error of the API."""
    body = {"type": "error", "error": text, "error_code": status}
    return Reply(json.dumps(body).encode(), status, {"Content-Type": "application/json"})


class Server:
    """What came in: requests in order, and how many connections brought them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0

    @property
    def targets(self) -> list[str]:
        """`GET /1.0` for each request."""
        return [f"{one.method} {one.target}" for one in self.requests]


def _handler(server: Server, respond: Respond) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server.connections += 1

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "test"

        def answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            if headers.get("transfer-encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            request = Request(self.command, self.path, headers, body)
            server.requests.append(request)
            reply = respond(request)
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    return Handler


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A test that drops the connection is no error."""


class _Tcp(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A test that drops the connection is no error."""


@contextlib.contextmanager
def on_socket(path: str, respond: Respond) -> Generator[Server]:
    """Serve on a unix socket."""
    server = Server()
    with _Unix(path, _handler(server, respond)) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            served.shutdown()
            thread.join()
            os.unlink(path)


@contextlib.contextmanager
def on_port(respond: Respond) -> Generator[tuple[Server, int]]:
    """Serve on a free port of 127.0.0.1."""
    server = Server()
    with _Tcp(("127.0.0.1", 0), _handler(server, respond)) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server, served.server_address[1]
        finally:
            served.shutdown()
            thread.join()


@contextlib.contextmanager
def client_of(
    path: str, respond: Respond, **options: Any
) -> Generator[tuple[client.Client, Server]]:
    """A client of a server that answers so."""
    with on_socket(path, respond) as server:
        to = transport.connect(remotes.Server(name="fake", socket=path))
        with client.Client(to, **options) as made:
            yield made, server
