"""Bytes and errors: one connection per thread, bounds, texts cleaned, and what each failure is called."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.incus import remotes, transport
from tests.incus import fake
from tests.lab import lab as labs


def to(path: Path) -> transport.Transport:
    return transport.connect(remotes.Server(name="fake", socket=str(path)))


def test_one_connection_serves_many_paths_of_one_thread(tmp_path: Path) -> None:
    with fake.on_socket(str(tmp_path / "s"), lambda one: fake.Reply(one.path.encode())) as server:
        way = to(tmp_path / "s")
        assert [way.request("GET", f"/{n}").body for n in range(40)] == [
            b"/%d" % n for n in range(40)
        ]
        way.close()
    assert server.connections == 1


def test_each_thread_has_a_connection_of_its_own(tmp_path: Path) -> None:
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(b"x")) as server:
        way = to(tmp_path / "s")
        threads = [
            threading.Thread(target=lambda: [way.request("GET", "/") for _ in range(5)])
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        way.close()
    assert (server.connections, len(server.requests)) == (3, 15)


def test_a_query_is_quoted_and_headers_are_lower_case(tmp_path: Path) -> None:
    with fake.on_socket(
        str(tmp_path / "s"), lambda _: fake.Reply(b"", 200, {"X-Odd": "1"})
    ) as server:
        way = to(tmp_path / "s")
        answer = way.request("GET", "/a", query={"filter": "name eq x&y", "p": "ü"})
        way.close()
    assert answer.headers["x-odd"] == "1"
    assert server.requests[0].target == "/a?filter=name%20eq%20x%26y&p=%C3%BC"


def test_a_redirect_is_an_answer_and_is_not_followed(tmp_path: Path) -> None:
    moved = fake.Reply(b"", 302, {"Location": "/elsewhere"})
    with fake.on_socket(str(tmp_path / "s"), lambda _: moved) as server:
        way = to(tmp_path / "s")
        assert way.request("GET", "/here").status == 302
        way.close()
    assert server.targets == ["GET /here"]


def test_proxies_and_netrc_of_the_environment_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(b"x")) as server:
        way = to(tmp_path / "s")
        assert way.request("GET", "/").body == b"x"
        way.close()
    assert "authorization" not in server.requests[0].headers


def test_an_answer_over_the_limit_is_refused(tmp_path: Path) -> None:
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(b"x" * 2000)):
        way = to(tmp_path / "s")
        with pytest.raises(errors.OperationFailed, match="over 1000 bytes"):
            way.request("GET", "/1.0", limit=1000)
        assert way.request("GET", "/1.0", limit=2000).body == b"x" * 2000
        way.close()


def test_headers_without_end_are_refused(tmp_path: Path) -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"Content-Length: 0\r\n\r\n"
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(raw=endless)):
        way = to(tmp_path / "s")
        with pytest.raises(errors.TimedOut):
            way.request("GET", "/1.0")
        way.close()


def test_silence_is_timed_out(tmp_path: Path) -> None:
    release = threading.Event()

    def wait(_: fake.Request) -> fake.Reply:
        release.wait(10)
        return fake.Reply(b"late")

    with fake.on_socket(str(tmp_path / "s"), wait):
        way = to(tmp_path / "s")
        with pytest.raises(
            errors.TimedOut, match="cannot change the state of instance web: .* in time"
        ):
            way.request("PUT", "/1.0/instances/web/state", timeout=0.1)
        release.set()
        way.close()


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", b"no http at all\r\n\r\n"]
)
def test_an_answer_that_was_lost_is_told_from_a_server_that_is_not_there(
    tmp_path: Path, raw: bytes
) -> None:
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(raw=raw)):
        way = to(tmp_path / "s")
        with pytest.raises(errors.TimedOut) as caught:
            way.request("POST", "/1.0/instances")
        assert caught.value.code == "E_BROKEN"
        way.close()


def test_a_connection_that_the_server_closed_while_idle_is_replaced(tmp_path: Path) -> None:
    polite = fake.Reply(b"x", 200, {"Connection": "close"})
    with fake.on_socket(str(tmp_path / "s"), lambda _: polite) as server:
        way = to(tmp_path / "s")
        assert [way.request("GET", "/").status for _ in range(3)] == [200] * 3
        way.close()
    assert server.connections == 3


def test_a_body_can_be_streamed_both_ways(tmp_path: Path) -> None:
    def echo(one: fake.Request) -> fake.Reply:
        return fake.Reply(one.body)

    with fake.on_socket(str(tmp_path / "s"), echo) as server:
        way = to(tmp_path / "s")
        with way.stream("POST", "/files", body=iter([b"a" * 10, b"b" * 5])) as stream:
            assert b"".join(stream.chunks) == b"a" * 10 + b"b" * 5
        way.close()
    assert server.requests[0].headers["transfer-encoding"] == "chunked"


def test_a_stream_that_is_left_early_does_not_spoil_the_next_request(tmp_path: Path) -> None:
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(b"x" * 1_000_000)):
        way = to(tmp_path / "s")
        with pytest.raises(KeyError), way.stream("GET", "/big") as stream:
            assert next(iter(stream.chunks))
            raise KeyError
        assert len(way.request("GET", "/big").body) == 1_000_000
        way.close()


def test_every_request_is_counted_with_its_time(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    with fake.on_socket(str(tmp_path / "s"), lambda _: fake.Reply(b"x")):
        way = to(tmp_path / "s")
        way.on_request = lambda method, target, seconds: (
            seen.append((method, target)) if seconds > 0 else None
        )
        way.request("GET", "/1.0", query={"a": "b"})
        way.close()
    assert seen == [("GET", "/1.0?a=b")]


# --- no server ---


def test_a_missing_socket_asks_whether_incus_runs(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable, match="no such socket") as caught:
        to(tmp_path / "none").request("GET", "/1.0")
    assert "installed and running" in caught.value.hint


def test_a_socket_without_a_listener_says_start_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(errors.Unreachable, match="nothing listens") as caught:
        to(path).request("GET", "/1.0")
    assert "systemctl start incus" in caught.value.hint


def test_a_forbidden_socket_names_the_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        os.chmod(path, 0)
        os.chmod(tmp_path, 0o755)
        for parent in tmp_path.parents[:2]:
            os.chmod(parent, 0o755)
        child = os.fork()
        if child == 0:
            os.setgid(65534)
            os.setuid(65534)
            try:
                to(path).request("GET", "/1.0")
            except errors.Unreachable as error:
                os._exit(0 if "incus-admin" in error.hint else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_socket_path_over_the_kernels_limit_is_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable, match="too long"):
        to(tmp_path / ("x" * 200)).request("GET", "/1.0")


def test_a_server_is_reached_at_the_first_of_its_addresses_that_answers() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as gone,
        socket.create_server(("127.0.0.1", 0)) as there,
    ):
        closed, port = gone.getsockname()[1], there.getsockname()[1]
        gone.close()
        here = "127.0.0.1"
        server = remotes.Server(name="x", host=here, port=closed, others=((here, port),))
        with transport._reached(server, 5) as found:
            assert found.getpeername()[1] == port
    nobody = remotes.Server(name="x", host=here, port=closed, others=(("no.host.invalid", 1),))
    with pytest.raises(ConnectionRefusedError):
        transport._reached(nobody, 5)


def test_an_https_server_without_a_pinned_certificate_is_not_talked_to(tmp_path: Path) -> None:
    server = remotes.Server(name="far", host="127.0.0.1", port=9, pinned=str(tmp_path / "no.crt"))
    with pytest.raises(errors.Untrusted, match="no certificate is pinned") as caught:
        transport.connect(server).request("GET", "/1.0")
    assert "incus remote add far https://127.0.0.1:9" in caught.value.hint


# --- texts ---


def test_escape_codes_and_newlines_of_the_server_are_taken_out() -> None:
    assert transport.clean("a\x1b[31mb\n\tc\u202ed\x07") == "a [31mb c d"
    assert len(transport.clean("x" * 100_000)) == transport.TEXT_LIMIT


@pytest.mark.parametrize(
    ("method", "path", "name", "words"),
    [
        ("GET", "/1.0", "", "read the server's settings"),
        ("GET", "/1.0/instances", "", "read instances"),
        ("GET", "/1.0/instances/web", "", "read instance web"),
        ("POST", "/1.0/instances", "web", "create instance web"),
        ("PUT", "/1.0/instances/web/state", "", "change the state of instance web"),
        ("PATCH", "/1.0/instances/web", "", "change instance web"),
        ("POST", "/1.0/profiles/a%20b", "", "rename profile a b"),
        ("DELETE", "/1.0/storage-pools/default/volumes/custom/data", "", "delete volume data"),
        ("POST", "/1.0/storage-pools/default/volumes/custom", "data", "create volume data"),
        ("GET", "/1.0/instances/web/files", "", "read a file of instance web"),
        ("GET", "/1.0/instances/web/logs/lxc.log", "", "read a log of instance web"),
        ("DELETE", "/1.0/networks/br", "", "delete network br"),
    ],
)
def test_a_request_has_a_phrase(method: str, path: str, name: str, words: str) -> None:
    assert transport.phrase(method, path, name) == words


@pytest.mark.parametrize(
    ("status", "text", "kind", "code"),
    [
        (
            500,
            'Error inserting "x" into database: The profile already exists',
            errors.Conflict,
            "E_EXISTS",
        ),
        (409, "Volume by that name exists", errors.Conflict, "E_EXISTS"),
        (400, 'Instance is busy running a "stop" operation', errors.Conflict, "E_BUSY"),
        (500, 'Instance is busy running a "start" operation', errors.Conflict, "E_BUSY"),
        (404, "Instance not found", errors.NotFound, "E_NOT_FOUND"),
        (500, "Profile doesn't exist", errors.NotFound, "E_NOT_FOUND"),
        (412, "ETag doesn't match", errors.PreconditionFailed, "E_PRECONDITION"),
        (403, "not authorized", errors.Forbidden, "E_FORBIDDEN"),
        (500, "disk I/O error", errors.OperationFailed, "E_DISK_FULL"),
        (500, "write /x: no space left on device", errors.OperationFailed, "E_DISK_FULL"),
        (
            400,
            'Invalid device "p" on container "w" of project "rp": Proxy devices are forbidden',
            errors.Forbidden,
            "E_RESTRICTED",
        ),
        (
            400,
            'Failed to start device "bind-1": Required idmapping abilities are required but not there',
            errors.OperationFailed,
            "E_IDMAP",
        ),
        (500, "anything else", errors.OperationFailed, "E_OPERATION"),
        (500, "", errors.OperationFailed, "E_OPERATION"),
    ],
)
def test_the_servers_text_decides_before_its_status(
    status: int, text: str, kind: type[errors.IncusError], code: str
) -> None:
    error = transport.failure("do it", status, text)
    assert (type(error), error.code) == (kind, code)
    assert error.summary.startswith("cannot do it: ")


def test_an_operation_that_cannot_find_a_file_is_not_a_missing_object() -> None:
    error = transport.failure(
        "start instance web", 400, "Missing source path: not found", operation=True
    )
    assert type(error) is errors.OperationFailed


# --- registries ---


def test_a_redirect_to_another_host_loses_the_authorization() -> None:
    with fake.on_port(lambda _: fake.Reply(b"there")) as (other, port):

        def away(_: fake.Request) -> fake.Reply:
            return fake.Reply(b"", 307, {"Location": f"http://localhost:{port}/blob"})

        with fake.on_port(away) as (_, first), transport.Web() as web:
            answer = web.get(
                f"http://127.0.0.1:{first}/x", {"Authorization": "Bearer secret"}, insecure=True
            )
    assert answer.body == b"there"
    assert "authorization" not in other.requests[0].headers


def test_a_redirect_away_from_https_is_refused_and_one_in_circles_ends() -> None:
    with fake.on_port(lambda one: fake.Reply(b"", 302, {"Location": one.target})) as (server, port):
        with transport.Web() as web, pytest.raises(errors.Unreachable, match="redirects"):
            web.get(f"http://127.0.0.1:{port}/x", {}, insecure=True)
        assert len(server.requests) == 6
        with transport.Web() as web, pytest.raises(errors.Unreachable, match="away from https"):
            web.get(f"http://127.0.0.1:{port}/x", {})


def test_netrc_is_not_sent_to_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with fake.on_port(lambda _: fake.Reply(b"x")) as (server, port), transport.Web() as web:
        web.get(f"http://127.0.0.1:{port}/x", {}, insecure=True)
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://no-such-host.invalid/v2/", "no host of that name"),
        ("https://127.0.0.1:1/v2/", "connection refused"),
    ],
)
def test_a_registry_that_is_not_there_is_described(url: str, why: str) -> None:
    with transport.Web() as web, pytest.raises(errors.Unreachable, match=why):
        web.get(url, {})


# --- HTTPS, in the lab's own network ---

PINNED = """
import json, sys
from ic.incus import client, remotes, transport
found = remotes.resolve("lab", {"INCUS_CONF": sys.argv[1], "INCUS_GLOBAL_CONF": "/nonexistent"})
out = []
for certificate, key in ((found.certificate, found.key), ("", "")):
    server = remotes.Server(
        name="lab", host=found.host, port=found.port, fingerprint=sys.argv[2],
        certificate=certificate, key=key,
    )
    with client.Client(transport.connect(server)) as one:
        out.append(one.get("/1.0")["auth"])
        if certificate:
            with one.events({"project": "default"}) as events:
                events.next(0.05)
        with one.transport.socket() as again:
            out.append(again.session_reused)
        one.close()
        out.append(one.get("/1.0")["auth"])
print(json.dumps(out))
"""

PROGRAM = """
import json, sys
from ic import errors
from ic.incus import client, remotes, transport
out = {}
server = remotes.resolve("lab", {"INCUS_CONF": sys.argv[1], "INCUS_GLOBAL_CONF": "/nonexistent"})
try:
    with client.Client(transport.connect(server)) as one:
        found = one.server()
        out["auth"] = [found["auth"], found["auth_user_method"]]
        with one.events({"project": "default"}) as events:
            out["quiet"] = events.next(0.05)
        out["instances"] = one.get("/1.0/instances", {"all-projects": "true"}) is not None
except errors.IcError as error:
    out["error"] = [type(error).__name__, error.summary, list(error.details), error.hint]
print(json.dumps(out))
"""


@pytest.fixture
def conf(lab: labs.Lab, tmp_path: Path) -> Path:
    """The incus client's folder of another machine that the lab trusts."""
    machine = lab.trusted_remote("other")
    shutil.copytree(machine.path("/root/.config/incus"), tmp_path / "conf")
    return tmp_path / "conf"


def over_https(lab: labs.Lab, conf: Path, program: str = PROGRAM, *more: str) -> Any:
    """What a client with these remotes and certificates sees."""
    argv = [
        "nsenter",
        "-t",
        str(lab.pid()),
        "-n",
        sys.executable,
        "-W",
        "error",
        "-c",
        program,
        str(conf),
        *more,
    ]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ran = subprocess.run(
        argv, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(ran.stdout)


def test_a_pinned_server_is_talked_to_with_the_clients_certificate(
    lab: labs.Lab, conf: Path
) -> None:
    assert over_https(lab, conf) == {"auth": ["trusted", "tls"], "quiet": None, "instances": True}


def test_another_certificate_than_the_pinned_one_is_refused_before_a_request(
    lab: labs.Lab, conf: Path
) -> None:
    shutil.copy(conf / "client.crt", conf / "servercerts/lab.crt")
    kind, summary, details, hint = over_https(lab, conf)["error"]
    assert (kind, "another certificate than the pinned one" in summary) == ("Untrusted", True)
    shown = lab.api("GET", "/1.0")["environment"]["certificate_fingerprint"]
    assert details[1] == f"shown:  {shown}"
    assert details[0].startswith("pinned: ")
    assert shown not in details[0]
    assert "incus remote add lab" in hint


def test_a_server_that_is_not_pinned_is_not_talked_to(lab: labs.Lab, conf: Path) -> None:
    (conf / "servercerts/lab.crt").unlink()
    assert "no certificate is pinned" in over_https(lab, conf)["error"][1]


def test_a_client_without_a_certificate_is_told_how_to_get_one(lab: labs.Lab, conf: Path) -> None:
    (conf / "client.crt").unlink()
    kind, summary, _, hint = over_https(lab, conf)["error"]
    assert (kind, "no such file" in summary, "incus remote add" in hint) == (
        "Untrusted",
        True,
        True,
    )


def test_a_broken_pin_is_told(lab: labs.Lab, conf: Path) -> None:
    (conf / "servercerts/lab.crt").write_text("no certificate")
    assert "not a readable certificate" in over_https(lab, conf)["error"][1]


def test_a_fingerprint_is_pin_enough_and_sessions_are_resumed_with_the_same_rights(
    lab: labs.Lab, conf: Path
) -> None:
    shown = lab.api("GET", "/1.0")["environment"]["certificate_fingerprint"]
    assert over_https(lab, conf, PINNED, shown) == [
        *("trusted", True, "trusted"),
        *("untrusted", True, "untrusted"),
    ]


# --- TLS through a socket ---


class Secured:
    """A server of TLS 1.3 on a unix socket: what it was sent, and which connections resumed a session."""

    def __init__(self, folder: Path) -> None:
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
        files = ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
        subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
        der = ssl.PEM_cert_to_DER_cert((folder / "crt").read_text())
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self.path = str(folder / "s")
        self.received: list[bytes] = []
        self.resumed: list[bool] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "crt", folder / "key")

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            plain.settimeout(10)
            with contextlib.suppress(OSError), self.context.wrap_socket(plain, True) as one:
                self.resumed.append(bool(one.session_reused))
                data = one.recv(65536)
                self.received.append(data)
                if data:
                    one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def secured(tmp_path: Path) -> Generator[Secured]:
    made = Secured(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(made.path)
        listener.listen()
        thread = threading.Thread(target=made.serve, args=(listener,))
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_tls_goes_through_a_socket_and_a_second_connection_resumes_the_session(
    secured: Secured,
) -> None:
    server = remotes.Server(
        name="api", socket=secured.path, tls=True, fingerprint=secured.fingerprint.upper()
    )
    for _ in range(3):
        with contextlib.closing(transport.connect(server)) as way:
            assert way.request("GET", "/1.0").body == b"ok"
    assert secured.resumed == [False, True, True]
    assert server.url == f"tls+unix://{secured.path}"
    assert not server.local


def test_a_certificate_with_another_fingerprint_is_refused_before_a_byte_is_sent(
    secured: Secured,
) -> None:
    server = remotes.Server(name="api", socket=secured.path, tls=True, fingerprint="ab" * 32)
    with pytest.raises(errors.Untrusted, match="another certificate") as caught:
        transport.connect(server).request("GET", "/1.0")
    assert caught.value.code == "E_TLS_PIN"
    assert caught.value.details == (
        f"pinned: {'ab' * 32}",
        f"shown:  {secured.fingerprint}",
    )
    assert "incus remote" not in caught.value.hint
    assert b"".join(secured.received) == b""


def test_a_client_certificate_that_was_replaced_is_read_again(
    secured: Secured, tmp_path: Path
) -> None:
    server = remotes.Server(
        name="api",
        socket=secured.path,
        tls=True,
        fingerprint=secured.fingerprint,
        certificate=str(tmp_path / "own.crt"),
        key=str(tmp_path / "own.key"),
    )
    shutil.copy(tmp_path / "crt", tmp_path / "own.crt")
    shutil.copy(tmp_path / "key", tmp_path / "own.key")
    before = transport._tls_of(server)
    assert transport._tls_of(server) is before
    shutil.copy(tmp_path / "key", tmp_path / "new.key")
    os.replace(tmp_path / "new.key", tmp_path / "own.key")
    assert transport._tls_of(server) is not before


def test_a_socket_with_nothing_behind_it_is_unreachable(tmp_path: Path) -> None:
    server = remotes.Server(name="api", socket=str(tmp_path / "s"), tls=True, fingerprint="0" * 64)
    with pytest.raises(errors.Unreachable, match="no such socket"):
        transport.connect(server).request("GET", "/1.0")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(server.socket)
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(errors.Unreachable, match="closed at once"):
            transport.connect(server).request("GET", "/1.0")
        thread.join()


def test_a_failed_write_on_one_connection_does_not_break_another_of_the_same_thread(
    secured: Secured,
) -> None:
    server = remotes.Server(
        name="api", socket=secured.path, tls=True, fingerprint=secured.fingerprint
    )
    with transport.connected(server) as gone:
        gone.sendall(b"x")
        assert gone.recv(100)
        socket.socket.shutdown(gone, socket.SHUT_WR)
        with pytest.raises(OSError, match="Broken pipe|EOF occurred"):
            gone.sendall(b"x")
    with transport.connected(server, 0.2) as quiet:
        with pytest.raises(TimeoutError):
            quiet.recv(1)
        quiet.sendall(b"x")
        assert quiet.recv(100).endswith(b"ok")
