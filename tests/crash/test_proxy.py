"""The proxy is a contract: it passes everything on unchanged, but for the one request that is chosen."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.crash import proxy


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent, remembers it, and upgrades to a line echo on /upgrade."""

    protocol_version = "HTTP/1.1"
    received: list[tuple[str, str, bytes]]

    def setup(self) -> None:
        assert isinstance(self.server, EchoServer)
        self.received = self.server.received
        super().setup()

    def answer(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.received.append((self.command, self.path, body))
        if self.path == "/upgrade":
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n")
            while line := self.rfile.readline():
                self.wfile.write(line.upper())
            self.close_connection = True
            return
        text = json.dumps(
            {"n": len(self.received), "body": base64.b64encode(body).decode()}
        ).encode()
        self.send_response(200)
        if self.path == "/last":
            # The reply does not say that the connection ends, as when a server's patience is over.
            self.close_connection = True
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text))
        else:
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class EchoServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, where: Path) -> None:
        self.where = where
        self.received: list[tuple[str, str, bytes]] = []
        super().__init__(str(where), Echo)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        link, _ = super().get_request()
        return link, ("unix", 0)


class Client(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("echo", timeout=10)
        self.unix = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.unix))

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
        self.request(method, path, body)
        reply = self.getresponse()
        return reply.status, json.loads(reply.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EchoServer]:
    made = EchoServer(tmp_path / "server")
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@contextlib.contextmanager
def between(
    server: EchoServer, fault: proxy.Fault | None = None
) -> Generator[tuple[proxy.Proxy, Client]]:
    where = server.where
    with proxy.Proxy(where.with_name("proxy"), where, fault) as made:
        client = Client(made.path)
        yield made, client
        client.close()


def test_requests_and_replies_pass_unchanged_over_one_connection(server: EchoServer) -> None:
    body = bytes(range(256)) * 300
    with between(server) as (made, client):
        assert client.ask("GET", "/a?x=1")[0] == 200
        status, reply = client.ask("PUT", "/b", body)
        assert client.ask("POST", "/chunked", b"")[1]["n"] == 3
    assert (status, base64.b64decode(reply["body"])) == (200, body)
    assert server.received == [
        ("GET", "/a?x=1", b""),
        ("PUT", "/b", body),
        ("POST", "/chunked", b""),
    ]
    assert [(p.number, p.method, p.path, p.status) for p in made.passed] == [
        (1, "GET", "/a?x=1", 200),
        (2, "PUT", "/b", 200),
        (3, "POST", "/chunked", 200),
    ]
    assert made.passed[1].body == body
    assert [p.number for p in made.writes] == [2, 3]
    assert all(p.ended >= p.began for p in made.passed)


def test_a_chunked_request_passes_and_its_body_is_kept_without_the_framing(
    server: EchoServer,
) -> None:
    with between(server) as (made, client):
        client.request("POST", "/c", iter([b"one ", b"two"]), encode_chunked=True)
        client.getresponse().read()
    assert server.received == [("POST", "/c", b"one two")]
    assert made.passed[0].body == b"one two"


def test_an_upgraded_connection_passes_both_ways_until_one_side_ends(server: EchoServer) -> None:
    with between(server) as (made, client):
        client.connect()
        client.sock.sendall(b"GET /upgrade HTTP/1.1\r\nHost: x\r\n\r\n")
        stream = client.sock.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while stream.readline().strip():
            pass
        client.sock.sendall(b"over\n")
        assert stream.readline() == b"OVER\n"
        client.sock.sendall(b"and back\n")
        assert stream.readline() == b"AND BACK\n"
    assert made.passed[0].status == 101


def test_many_connections_are_numbered_without_a_gap(server: EchoServer) -> None:
    with between(server) as (made, _):

        def ask() -> None:
            client = Client(made.path)
            for _ in range(10):
                client.ask("GET", "/x")
            client.close()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(p.number for p in made.passed) == list(range(1, 81))


@pytest.mark.parametrize(
    ("mode", "executed", "answered"),
    [
        ("before", 0, False),
        ("executed", 1, False),
        ("after", 1, True),
        ("drop", 1, False),
        ("hold", 1, True),
        ("cut", 1, False),
        ("reset", 0, False),
        ("twice", 2, True),
    ],
)
def test_a_fault_strikes_its_request_alone(
    server: EchoServer, mode: proxy.Mode, executed: int, answered: bool
) -> None:
    acted: list[int] = []
    fault = proxy.Fault(2, mode, lambda: acted.append(len(server.received)), seconds=0.05)
    with between(server, fault) as (made, client):
        client.ask("POST", "/1", b"first")
        if answered:
            assert client.ask("POST", "/2", b"second")[0] == 200
        else:
            with pytest.raises((http.client.HTTPException, OSError)):
                client.ask("POST", "/2", b"second")
            client.close()
        assert fault.fired.wait(5)
        assert client.ask("POST", "/3", b"third")[0] == 200
    assert [path for _, path, _ in server.received] == ["/1"] + ["/2"] * executed + ["/3"]
    assert [p.fault for p in made.passed] == ["", mode, ""]
    expected = {"before": [1], "executed": [2], "after": [2], "twice": [3]}
    assert acted == expected.get(mode, [])


def test_an_injected_error_is_an_answer_without_an_execution(server: EchoServer) -> None:
    with between(server, proxy.Fault(1, "error")) as (_, client):
        status, reply = client.ask("POST", "/1", b"x")
        assert (status, reply["type"], reply["error_code"]) == (500, "error", 500)
        assert client.ask("POST", "/2")[0] == 200
    assert [path for _, path, _ in server.received] == ["/2"]


def test_a_fault_counts_only_the_requests_it_is_for(server: EchoServer) -> None:
    fault = proxy.Fault(2, "error", where=lambda passed: passed.writes)
    with between(server, fault) as (_, client):
        statuses = [client.ask(m, "/")[0] for m in ("POST", "GET", "GET", "POST", "POST")]
    assert statuses == [200, 200, 200, 500, 200]


def test_an_idle_connection_that_the_server_ends_is_ended_for_the_client(
    server: EchoServer,
) -> None:
    with between(server) as (_, client):
        assert client.ask("GET", "/last")[0] == 200
        assert client.sock.recv(1) == b""


def test_a_server_that_is_not_there_ends_the_connection(tmp_path: Path) -> None:
    nobody = proxy.Proxy(tmp_path / "proxy", tmp_path / "nobody")
    with nobody as made, contextlib.closing(Client(made.path)) as client:
        with pytest.raises((http.client.HTTPException, OSError)):
            client.ask("GET", "/")
    assert not made.path.exists()
