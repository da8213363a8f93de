"""Bytes to and from a server: unix sockets, pinned TLS, registries; every foreign failure gets its name here.

In: a Server and a request. Out: an Answer, or an IcError. The only importer of requests, and only inside
functions: a command that talks to nobody never loads it. Redirects of Incus are not followed, proxies,
netrc and CA bundles of the environment are not looked at, bodies and headers are bounded.

Incus is spoken to through a connection pool, one per thread and server: requests-unixsocket's for a unix
socket, urllib3's for TLS. The adapter of the former would make a pool per full URL with 60 s whatever is
asked, and what a requests Session adds (cookies, redirects, environment) must not happen here and costs four
times the rest. Registries get a plain requests Session.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlencode, urljoin, urlsplit

import msgspec

from ic import errors

if TYPE_CHECKING:
    import ssl

    import requests
    import urllib3

    from ic.incus import remotes

BODY_LIMIT = 32 * 1024 * 1024
TEXT_LIMIT = 2000
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 60.0
CHUNK = 256 * 1024
_HEAD_LIMIT = 64 * 1024

Body = bytes | Iterable[bytes]
Hook = Callable[[str, str, float], None]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def content_type(self) -> str:
        """The media type without its parameters, lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer whose body is still to be read, in chunks, once."""

    answer: Answer
    chunks: Iterable[bytes]


# --- texts from outside ------------------------------------------------------------------------------


def clean(text: str) -> str:
    """A foreign text without control characters and escape codes, on one line, of bounded length."""
    kept = text[: 4 * TEXT_LIMIT]
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " for c in kept)
    kept = " ".join(kept.split())
    return kept if len(kept) <= TEXT_LIMIT else kept[: TEXT_LIMIT - 1] + "…"


_ONE = {
    "instances": "instance",
    "images": "image",
    "networks": "network",
    "profiles": "profile",
    "projects": "project",
    "operations": "operation",
    "certificates": "certificate",
    "storage-pools": "storage pool",
    "aliases": "image alias",
    "custom": "volume",
}
_VERBS = {"GET": "read", "HEAD": "read", "POST": "create", "DELETE": "delete"}


def phrase(method: str, path: str, name: str = "") -> str:
    """`delete volume data` for a request: the "<verb> <thing>" of an error's summary.

    `name` is the object's name where the path is that of a collection.
    """
    parts = [unquote(part) for part in path.partition("?")[0].split("/")[2:]]
    verb = _VERBS.get(method, "change")
    if not parts:
        return f"{verb} the server's settings"
    at = len(parts) - 1
    while at > 0 and parts[at] not in _ONE:
        at -= 1
    kind = _ONE.get(parts[at], parts[at])
    rest = parts[at + 1 :]
    thing = " ".join(part for part in (kind, rest[0] if rest else name) if part)
    if len(rest) < 2:
        if method == "POST" and rest:
            return f"rename {clean(thing)}"
        plural = method in ("GET", "HEAD") and not rest and not name
        return clean(f"{verb} {parts[at] if plural else thing}")
    inner = {
        "state": ("read the state of", "change the state of"),
        "files": ("read a file of", "write a file of"),
        "exec": ("run a command in", "run a command in"),
        "console": ("read the console of", "clear the console of"),
        "logs": ("read a log of", "delete a log of"),
        "wait": ("wait for", "wait for"),
    }.get(rest[1], ("read", "change"))
    return clean(f"{inner[method not in ('GET', 'HEAD')]} {thing}")


# --- errors by status and text -----------------------------------------------------------------------

# Measured on 7.0.2: one failure has different codes for different objects, so the text decides first.
_BUSY = ("is busy running a", "already being created", "in use by another operation")
_EXISTS = ("already exists", "unique constraint failed", "duplicate entry")
_FULL = (
    "no space left on device",
    "disk i/o error",
    "database or disk is full",
    "disk quota exceeded",
)
_RESTRICTED = (
    "is forbidden",
    "are forbidden",
    "certificate is restricted",
    "not allowed in project",
    "reached maximum number",
)
# Failures with a remedy: pieces of the server's text, our code, the reason around that text, the hint.
_FAILURES = (
    (
        _FULL,
        "E_DISK_FULL",
        "the server's disk is full ({})",
        "free space on the server, then run the same command again",
    ),
    (
        ("idmapping abilities are required",),
        "E_IDMAP",
        "{}",
        "a bind mount's source lies on a filesystem that cannot shift owners (overlay, NFS and others);"
        " bind from a local disk, or use a named volume",
    ),
)
_GONE = ("not found", "doesn't exist", "does not exist")


def failure(doing: str, status: int, text: str, *, operation: bool = False) -> errors.IncusError:
    """The error for an HTTP status (or a failed background operation) and the server's text.

    `doing` is "<verb> <thing>". Texts come before statuses, because the server answers 500 for most things.
    """
    text = clean(text) or f"status {status}"
    low = text.lower()
    summary = f"cannot {doing}: {text}"

    def has(pieces: tuple[str, ...]) -> bool:
        return any(piece in low for piece in pieces)

    if status == 412:
        return errors.PreconditionFailed(
            f"cannot {doing}: it was changed by somebody else meanwhile"
        )
    for texts, code, reason, hint in _FAILURES:
        if has(texts):
            return errors.OperationFailed(
                f"cannot {doing}: {reason.format(text)}", hint=hint, code=code
            )
    if has(_BUSY):
        return errors.Conflict(summary, hint="try again in a moment", code="E_BUSY")
    if status == 409 or has(_EXISTS):
        return errors.Conflict(summary)
    if status != 404 and has(_RESTRICTED):
        return errors.Forbidden(
            summary,
            hint="the project or the certificate is restricted; `incus project show` lists its"
            " `restricted.*` keys, an administrator can change them",
            code="E_RESTRICTED",
        )
    if status in (401, 403):
        return errors.Forbidden(
            summary,
            hint="this client's certificate is not trusted, or restricted to other projects",
        )
    if status == 404 or (status >= 400 and not operation and has(_GONE)):
        return errors.NotFound(summary)
    return errors.OperationFailed(summary)


def error_text(body: str) -> str:
    """The text of an error's envelope; the whole body where it is none."""
    try:
        found: object = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return body
    return (
        str(cast("dict[str, object]", found).get("error", "")) if isinstance(found, dict) else body
    )


def is_busy(error: errors.IncusError) -> bool:
    """Whether the server refused because another change of the same object is under way: nothing was done."""
    return error.code == "E_BUSY"


# --- connecting ----------------------------------------------------------------------------------------


def connected(server: remotes.Server, timeout: float | None = CONNECT_TIMEOUT) -> socket.socket:
    """A connected socket to a server; over HTTPS its certificate has been compared before this returns.

    `timeout` in seconds. Raises Unreachable or Untrusted. The caller closes it.
    """
    if server.socket and not server.tls:
        return _unix(server, timeout)
    return _tls(server, timeout)


def _unix(server: remotes.Server, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(server.socket)
    except OSError as cause:
        sock.close()
        raise _no_socket(server, cause) from cause
    except BaseException:
        sock.close()
        raise
    return sock


def _no_socket(server: remotes.Server, cause: OSError) -> errors.Unreachable:
    where = f"cannot reach Incus at {clean(server.url)}"
    elsewhere = "for another server give --remote NAME"
    if isinstance(cause, PermissionError):
        return errors.Unreachable(
            f"{where}: this user may not use the socket",
            hint="become a member of group incus-admin (`sudo usermod -aG incus-admin $USER`, then log in"
            " again), or use sudo",
        )
    if isinstance(cause, (FileNotFoundError, NotADirectoryError)):
        return errors.Unreachable(
            f"{where}: there is no such socket",
            hint=f"is Incus installed and running (`systemctl status incus`)? {elsewhere}",
        )
    if isinstance(cause, ConnectionRefusedError):
        return errors.Unreachable(
            f"{where}: nothing listens there",
            hint=f"start Incus (`systemctl start incus`); {elsewhere}",
        )
    reason = cause.strerror or clean(str(cause))
    return errors.Unreachable(f"{where}: {reason}", hint=elsewhere)


@functools.cache
def _socket_class() -> type[ssl.SSLSocket]:
    """TLS sockets whose failures stay their own.

    Measured with CPython 3.13.5 and OpenSSL 3.5: a write to a connection that the other end has closed
    leaves its error in the thread's queue, where the next read of *another* connection that has to wait
    takes it for its own and raises BrokenPipeError. Making any TLS object empties the queue.
    """
    import ssl

    class Socket(ssl.SSLSocket):
        """One connection."""

        def forget(self) -> None:
            self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())

        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as ssl has it
            try:
                super().do_handshake(block)
            except OSError:
                self.forget()
                raise

        def read(self, len: Any = 1024, buffer: Any = None) -> Any:
            try:
                return super().read(len, buffer)  # pyright: ignore[reportDeprecated] - recv's inside
            except OSError:
                self.forget()
                raise

        def send(self, data: Any, flags: int = 0) -> int:
            try:
                return super().send(data, flags)
            except OSError:
                self.forget()
                raise

    return Socket


class _Tls:
    """What all connections with one pair of certificate files share: the context, and sessions to resume.

    A session is kept by the server and the fingerprint that it showed. Whoever resumes the session of an
    earlier connection spares both ends the signatures of a handshake; a server that has forgotten it makes
    a full handshake of it by itself, and its certificate is compared then as ever.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.sessions: dict[tuple[str, str], ssl.SSLSession] = {}


def _tls_of(server: remotes.Server) -> _Tls:
    """What connections to a server share: one for each pair of certificate files, anew when they changed."""
    stamps: list[tuple[int, int]] = []
    for path in (server.certificate, server.key):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            stamps.append((found.st_ino, found.st_mtime_ns))
    near = bool(server.socket)
    return _made_tls(server.certificate, server.key, tuple(stamps), near=near)


@functools.lru_cache(maxsize=8)
def _made_tls(
    certificate: str,
    key: str,
    _stamps: tuple[tuple[int, int], ...],  # what was loaded from those paths is known by them
    *,
    near: bool,
) -> _Tls:
    """TLS 1.3 with the client's certificate; the server's is compared by hand, so no authority is asked.

    `near`: the bytes stay on this machine, so the plain curve will do where newer OpenSSL offers a
    post-quantum one as well (a quarter of a resumed handshake's CPU).
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _socket_class()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if near:
        with contextlib.suppress(ssl.SSLError, ValueError):  # older ones begin with it anyway
            context.set_ecdh_curve("X25519")
    if not certificate and not key:
        return _Tls(context)
    try:
        context.load_cert_chain(certificate, key)
    except FileNotFoundError as cause:
        raise errors.Untrusted(
            f"cannot use the client certificate {certificate}: there is no such file",
            hint="`incus config trust add NAME` on the server gives a token; "
            "`incus remote add NAME TOKEN` here makes the certificate",
        ) from cause
    except (OSError, ssl.SSLError) as cause:
        raise errors.Untrusted(
            f"cannot use the client certificate {certificate}: {clean(cause.strerror or str(cause))}"
        ) from cause
    return _Tls(context)


def _pinned(server: remotes.Server) -> str:
    """SHA-256 (hex) of the one certificate that a server may show."""
    import hashlib
    import ssl

    if server.fingerprint:
        return server.fingerprint.lower()
    try:
        with open(server.pinned, encoding="ascii") as file:
            der = ssl.PEM_cert_to_DER_cert(file.read(64 * 1024).strip())
    except FileNotFoundError as cause:
        raise errors.Untrusted(
            f"cannot trust {clean(server.name)} ({clean(server.url)}): no certificate is pinned for it",
            hint=f"`incus remote remove {clean(server.name)}; incus remote add {clean(server.name)} "
            f"{clean(server.url)}` shows the server's certificate and pins it",
        ) from cause
    except (OSError, ValueError) as cause:
        raise errors.Untrusted(
            f"cannot trust {clean(server.name)}: {server.pinned} is not a readable certificate"
        ) from cause
    return hashlib.sha256(der).hexdigest()


def _reached(server: remotes.Server, timeout: float | None) -> socket.socket:
    """A connection to the first of the server's addresses that takes one; raises what the first one said."""
    failures: list[OSError | UnicodeError] = []
    for place in ((server.host, server.port), *server.others):
        try:
            return socket.create_connection(place, timeout)
        except (OSError, UnicodeError) as cause:  # noqa: PERF203 - each address has its own failure
            failures.append(cause)
    raise failures[0]


def remember(server: remotes.Server, sock: socket.socket | None) -> None:
    """Keep the TLS session of a connection that `connected` made, for the connections after it.

    To be called once something was read from it: TLS 1.3 brings the ticket after the handshake. Nothing
    happens for a connection without TLS, or one that resumed a session itself.
    """
    if server.socket and not server.tls:
        return
    import ssl

    if not isinstance(sock, ssl.SSLSocket) or sock.session_reused:
        return
    session = sock.session
    if session is not None and session.has_ticket:
        _tls_of(server).sessions[server.url, _pinned(server)] = session


def _tls(server: remotes.Server, timeout: float | None) -> socket.socket:
    import hashlib
    import ssl

    expected = _pinned(server)
    shared = _tls_of(server)
    where = f"cannot reach Incus at {clean(server.url)}"
    try:
        plain = _unix(server, timeout) if server.socket else _reached(server, timeout)
    except (OSError, UnicodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise errors.Unreachable(
            f"{where}: {clean(reason)}", hint="is the server up, and its core.https_address set?"
        ) from cause
    try:
        if not server.socket:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # No server_hostname: the server is known by its certificate's digest, not by a name.
        session = shared.sessions.get((server.url, expected))
        sock = shared.context.wrap_socket(plain, session=session)
    except (ssl.SSLEOFError, ConnectionError) as cause:
        plain.close()
        raise errors.Unreachable(
            f"{where}: the connection was closed at once",
            hint="is the server up, and its core.https_address set?",
        ) from cause
    except (OSError, ssl.SSLError) as cause:
        plain.close()
        reason = getattr(cause, "reason", None) or cause.strerror or str(cause)
        raise errors.Unreachable(
            f"{where}: TLS 1.3 could not be agreed ({clean(reason)})"
        ) from cause
    except BaseException:
        plain.close()
        raise
    shown = hashlib.sha256(sock.getpeercert(binary_form=True) or b"").hexdigest()
    if shown != expected:
        sock.close()
        raise _another(server, expected, shown)
    return sock


def _another(server: remotes.Server, expected: str, shown: str) -> errors.Untrusted:
    """The error for a server that shows another certificate than the pinned one."""
    name = clean(server.name)
    again = (
        "give it the new one"
        if server.fingerprint
        else f"pin its certificate again: `incus remote remove {name};"
        f" incus remote add {name} {clean(server.url)}`"
    )
    return errors.Untrusted(
        f"cannot trust {name} ({clean(server.url)}): it shows another certificate than the pinned one",
        details=(f"pinned: {expected}", f"shown:  {shown}"),
        hint=f"if the server was set up anew, {again}; if it was not, somebody stands in between",
    )


# --- requests ------------------------------------------------------------------------------------------


def _bases(*, tls: bool) -> tuple[Any, Any]:
    """The connection and the pool that ours are made of.

    Those of requests-unixsocket for a unix socket; with TLS urllib3's own, so that the health daemon, which
    speaks nothing else, does without requests: a tenth of its memory.
    """
    if tls:
        from urllib3 import connection, connectionpool

        return connection.HTTPConnection, connectionpool.HTTPConnectionPool
    from requests_unixsocket import adapters

    return cast("Any", adapters).UnixHTTPConnection, cast("Any", adapters).UnixHTTPConnectionPool


@functools.cache
def _pool_class(*, tls: bool) -> Callable[[remotes.Server], urllib3.HTTPConnectionPool]:
    """A connection pool of a library, one per server, with our timeouts and our way to connect."""
    import queue

    connection_base, pool_base = _bases(tls=tls)

    class Connection(connection_base):
        """One keep-alive connection, over a unix socket or over pinned TLS."""

        def __init__(self, server: remotes.Server) -> None:
            base: Any = super()
            base.__init__("localhost", timeout=int(CONNECT_TIMEOUT))
            self.server = server
            self.fresh = False

        def connect(self) -> None:
            limit: object = self.timeout
            self.sock = connected(
                self.server, limit if isinstance(limit, float) else CONNECT_TIMEOUT
            )
            self.fresh = True

        def getresponse(self) -> Any:
            base: Any = super()
            response = base.getresponse()
            if self.fresh:
                self.fresh = False
                remember(self.server, self.sock)
            return response

    class Pool(pool_base):
        """The connections of one thread to one server: two when a body is copied from file to file."""

        def __init__(self, server: remotes.Server) -> None:
            base: Any = super()
            base.__init__("localhost", timeout=int(READ_TIMEOUT))
            self.server = server
            # Not every base can be told how many connections to keep.
            kept: queue.LifoQueue[object] = queue.LifoQueue(2)
            kept.put(None)
            kept.put(None)
            self.pool = kept

        def _new_conn(self) -> Connection:
            return Connection(self.server)

    return cast("Callable[[remotes.Server], urllib3.HTTPConnectionPool]", Pool)


class Transport:
    """Requests to one server; safe to share between threads, each thread has its own connections.

    `on_request(method, target, seconds)` is called after each answer, for counting and for --debug.
    """

    def __init__(self, server: remotes.Server) -> None:
        self.server = server
        self.on_request: Hook | None = None
        self._local = threading.local()
        self._lock = threading.Lock()
        self._pools: list[urllib3.HTTPConnectionPool] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        timeout: float = READ_TIMEOUT,
        limit: int = BODY_LIMIT,
        doing: str = "",
    ) -> Answer:
        """One request and its whole answer, whatever its status.

        `path` is quoted already, `query` is not. `timeout` in seconds is that of connecting (at most 5) and
        of each silence of the server. Raises Unreachable when nothing was sent, TimedOut when the answer
        was lost, OperationFailed when it is over `limit` bytes.
        """
        with self.stream(
            method,
            path,
            query=query,
            headers=headers,
            body=body,
            timeout=timeout,
            limit=limit,
            doing=doing,
        ) as stream:
            content = b"".join(stream.chunks)
            return Answer(status=stream.answer.status, headers=stream.answer.headers, body=content)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        timeout: float = READ_TIMEOUT,
        limit: int | None = None,
        doing: str = "",
    ) -> Generator[Stream]:
        """As `request`, with the body read by the caller inside the `with`; `limit` None means unbounded."""
        target = f"{path}?{urlencode(query, quote_via=quote)}" if query else path
        doing = doing or phrase(method, path)
        began = time.monotonic()
        response = self._send(
            method, target, headers=headers, body=body, timeout=timeout, doing=doing
        )
        answer = Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.headers.items()},
        )
        whole = False
        try:
            yield Stream(answer=answer, chunks=_chunks(response, limit, doing))
            whole = True
        finally:
            if not whole:
                response.close()
            response.release_conn()
            if self.on_request is not None:
                self.on_request(method, target, time.monotonic() - began)

    def socket(self, timeout: float | None = CONNECT_TIMEOUT) -> socket.socket:
        """A connected (and, over HTTPS, pinned) socket of the caller's own, for a websocket."""
        return connected(self.server, timeout)

    def close(self) -> None:
        """Close the connections of all threads. The transport may be used again afterwards."""
        with self._lock:
            pools, self._pools = self._pools, []
            self._local = threading.local()
        for pool in pools:
            pool.close()

    def _pool(self) -> urllib3.HTTPConnectionPool:
        found: urllib3.HTTPConnectionPool | None = getattr(self._local, "pool", None)
        if found is None:
            tls = self.server.tls or not self.server.socket
            found = _pool_class(tls=tls)(self.server)
            self._local.pool = found
            with self._lock:
                self._pools.append(found)
        return found

    def _send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None,
        body: Body | None,
        timeout: float,
        doing: str,
    ) -> urllib3.BaseHTTPResponse:
        pool = self._pool()
        import urllib3

        sent = {"Host": "incus", "User-Agent": "ic", "Accept-Encoding": "identity"}
        if headers:
            sent.update(headers)
        if isinstance(body, bytes):
            sent["Content-Length"] = str(len(body))
        try:
            return pool.urlopen(
                method,
                target,
                body=body,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                chunked=body is not None and not isinstance(body, bytes),
                timeout=urllib3.Timeout(connect=min(timeout, CONNECT_TIMEOUT), read=timeout),
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as cause:
            raise _lost(doing, cause) from cause


def _lost(doing: str, cause: BaseException) -> errors.TimedOut:
    """The error for an answer that did not come, whole: what the server did is not known."""
    import urllib3

    if isinstance(cause, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return errors.TimedOut(
            f"cannot {doing}: the server did not answer in time",
            hint="what it did is not known; run the same command again",
        )
    return errors.TimedOut(
        f"cannot {doing}: the connection broke before the answer was complete",
        hint="the server may have been restarted; run the same command again",
        code="E_BROKEN",
    )


def _chunks(response: urllib3.BaseHTTPResponse, limit: int | None, doing: str) -> Generator[bytes]:
    """The body in pieces, at most `limit` bytes of it."""
    import urllib3

    total = 0
    try:
        while piece := response.read(CHUNK, decode_content=False):
            total += len(piece)
            if limit is not None and total > limit:
                raise errors.OperationFailed(f"cannot {doing}: the answer is over {limit} bytes")
            yield piece
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as cause:
        raise _lost(doing, cause) from cause


# --- a connection that becomes something else ---


def ask_upgrade(
    sock: socket.socket, target: str, protocol: str, more: tuple[str, ...] = ()
) -> None:
    """Ask for another protocol on a connection of the caller's own; `more` are further header lines.

    Raises OSError, as a socket does.
    """
    lines = (
        f"GET {target} HTTP/1.1",
        "Host: incus",
        "User-Agent: ic",
        "Connection: Upgrade",
        f"Upgrade: {protocol}",
        *more,
        "",
        "",
    )
    sock.sendall("\r\n".join(lines).encode())


def upgraded(sock: socket.socket, doing: str) -> tuple[dict[str, str], bytes]:
    """The answer to `ask_upgrade`: its headers (names lower case), and what came after them.

    Raises what the server says instead of agreeing; OSError, as a socket does, for no answer at all.
    """
    buffer = bytearray()
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        piece = sock.recv(_HEAD_LIMIT)
        if not piece or len(buffer) > _HEAD_LIMIT:
            raise ConnectionError("no answer to the upgrade")
        buffer += piece
    status, *lines = buffer[:end].decode("latin-1").split("\r\n")
    rest = bytes(buffer[end + 4 :])
    words = status.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ConnectionError("the answer to the upgrade is not HTTP")
    if words[1] != "101":
        # An error's text is short, and comes with the head or right behind it.
        with contextlib.suppress(OSError):
            rest += b"" if rest else sock.recv(_HEAD_LIMIT)
        raise failure(doing, int(words[1]), error_text(rest.decode(errors="replace")))
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    return headers, rest


# --- registries ----------------------------------------------------------------------------------------

_REDIRECTS = 5


class Web:
    """GET requests to registries, with a requests Session of its own: proxies and authorities of the
    environment count here, netrc does not. Use it in a `with`, on one thread.
    """

    def __init__(self) -> None:
        import requests

        self._session = requests.Session()
        self._session.auth = _as_it_is

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        insecure: bool = False,
        limit: int = BODY_LIMIT,
        timeout: float = 20.0,
    ) -> Answer:
        """One GET, redirects followed: five at most, to https alone unless `insecure`, the Authorization
        header only to the host that it was meant for. `insecure` accepts any certificate.

        Raises Unreachable when there is no whole answer.
        """
        import requests
        import urllib3
        from urllib3 import exceptions

        if insecure:  # said once, by registries.conf, not again by every request
            urllib3.disable_warnings(exceptions.InsecureRequestWarning)
        sent = dict(headers)
        for _ in range(_REDIRECTS + 1):
            try:
                response = self._session.get(
                    url,
                    headers=sent,
                    timeout=(CONNECT_TIMEOUT, timeout),
                    allow_redirects=False,
                    stream=True,
                    verify=False if insecure else None,
                )
                with response:
                    if not response.is_redirect:
                        return _whole(response, limit)
                    target = urljoin(url, response.headers["location"])
            except (requests.RequestException, exceptions.HTTPError, OSError, ValueError) as cause:
                raise _no_answer(url, cause) from cause
            if not insecure and not target.startswith("https://"):
                raise errors.Unreachable(f"cannot fetch {_host(url)}: it leads away from https")
            if _host(target) != _host(url):
                sent.pop("Authorization", None)
            url = target
        raise errors.Unreachable(f"cannot fetch {_host(url)}: more than {_REDIRECTS} redirects")


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An "authentication" that adds nothing: with one in place requests does not look into netrc."""
    return request


def _whole(response: requests.Response, limit: int) -> Answer:
    body = bytearray()
    for piece in response.iter_content(CHUNK):
        body += piece
        if len(body) > limit:
            raise ValueError(f"the answer is over {limit} bytes")
    return Answer(
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        body=bytes(body),
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _no_answer(url: str, cause: BaseException) -> errors.Unreachable:
    """The error for a registry that did not answer: why, in words."""
    import requests

    chain = f"{cause!r} {cause}".lower()
    hint = ""
    if "nameresolution" in chain or "name or service not known" in chain or "getaddrinfo" in chain:
        reason = "there is no host of that name"
        hint = "check the registry's name, and this machine's DNS"
    elif isinstance(cause, requests.exceptions.SSLError):
        reason = "its TLS certificate is not trusted, or it does not speak TLS"
        hint = "for a registry of your own: `insecure = true` for its location in registries.conf"
    elif isinstance(cause, requests.Timeout):
        reason = "it did not answer in time"
    elif "refused" in chain:
        reason = "nothing listens there (connection refused)"
    elif isinstance(cause, ValueError) and not isinstance(cause, requests.RequestException):
        reason = clean(str(cause))
    else:
        reason = "the connection failed"
    return errors.Unreachable(f"cannot fetch {clean(_host(url))}: {reason}", hint=hint)


def reason(error: errors.IcError) -> str:
    """What stands after the colon of an error's summary."""
    return error.summary.partition(": ")[2] or error.summary


# --- the way in --------------------------------------------------------------------------------------


def connect(server: remotes.Server) -> Transport:
    """A transport to a server; nothing is sent yet."""
    return Transport(server)
