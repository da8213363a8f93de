"""The REST API of Incus as calls: envelopes, ETags, background operations, files, console, logs.

In: paths (quoted already), queries, bodies as mappings. Out: the envelope's metadata, or an IcError. Knows
the shapes of requests, not what they are for. Cheap to make; safe to share between threads. Source of the
rules: the REST API specification of Incus, and what was measured of it (docs/architecture.md, "Server").
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import msgspec

from ic import errors
from ic.incus import transport

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from ic.incus import streams, websocket

# What ic uses of the API beyond its first version; a server without one of them is too old.
EXTENSIONS = (
    "etag",
    "patch",
    "projects",
    "instances",
    "instance_all_projects",
    "profiles_all_projects",
    "api_filtering_extended",
    "instance_nic_network",
    "instance_oci",
    "instance_oci_entrypoint",
    "instance_file_head",
    "container_exec_user_group_cwd",
    "container_disk_tmpfs",
    "container_disk_shift",
    "storage_api_project",
    "storage_shifted",
    "storage_initial_owner",
    "file_storage_volume",
    "file_delete_force",
    "disk_volume_subpath",
    "network",
    "proxy_udp",
    "event_lifecycle",
    "event_project",
)

WAIT_SLICE = 30  # seconds of one long poll; the server answers with "Running" after that
BUSY_PATIENCE = 30.0  # seconds: an instance is busy for the whole of another start or stop
SHOWN_OUTPUT_LINES = 10
STOPPED_LOOKS, STOPPED_PAUSE = 3, 0.4  # seconds between them
_RESTARTS = ("Restarting", "Restoring")  # how the server describes them
_GET_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.0)  # between tries of a read while the daemon restarts

Query = Mapping[str, str]
Guard = Callable[[], None]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to a request that changes something: done, or going on as `operation` (its path)."""

    metadata: Any = None
    operation: str = ""
    date_ms: int = 0
    etag: str = ""


class FileStat(msgspec.Struct, frozen=True, kw_only=True):
    """One file as the server sees it; ids are those inside the container, `mode` the permission bits."""

    type: str  # file, directory, symlink
    mode: int
    uid: int
    gid: int


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A command that ran inside an instance: its exit status (128+n when killed) and what it wrote."""

    status: int
    output: bytes


class _Envelope(msgspec.Struct):
    type: str = ""
    operation: str = ""
    error: str = ""
    error_code: int = 0
    metadata: Any = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def path(*parts: str) -> str:
    """A path of the API from unquoted parts: path("instances", "a b") is /1.0/instances/a%20b."""
    return "/".join(("/1.0", *(quote(part, safe="") for part in parts)))


class Client:
    """Calls on one server. `sleep` and `clock` (monotonic seconds) are for tests."""

    def __init__(
        self,
        to: transport.Transport,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport = to
        self._sleep = sleep
        self._clock = clock
        self._answered = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all threads."""
        self.transport.close()

    @property
    def on_request(self) -> transport.Hook | None:
        """Called as (method, target, seconds) after each answer."""
        return self.transport.on_request

    @on_request.setter
    def on_request(self, hook: transport.Hook | None) -> None:
        self.transport.on_request = hook

    # --- reading ---

    def get(self, path: str, query: Query | None = None) -> Any:
        """The metadata of a GET. Read again for a few seconds when a server that has answered goes away."""
        return self._read(path, query)[1].metadata

    def get_tagged(self, path: str, query: Query | None = None) -> tuple[Any, str]:
        """The metadata of a GET and its ETag (quoted as the server gives it), for If-Match."""
        answer, envelope = self._read(path, query)
        return envelope.metadata, answer.headers.get("etag", "")

    def date_ms(self) -> int:
        """The server's clock, in ms since 1970, as its Date header says (whole seconds)."""
        return _date_ms(self._read("/1.0", None)[0].headers)

    def _read(self, path: str, query: Query | None) -> tuple[transport.Answer, _Envelope]:
        pauses = iter(_GET_PAUSES if self._answered else ())
        while True:
            found = self._attempt(path, query)
            if not isinstance(found, errors.IncusError):
                self._answered = True
                return found
            pause = next(pauses, None)
            if pause is None or not _passing(found):
                raise found
            self._sleep(pause)

    def _attempt(
        self, path: str, query: Query | None
    ) -> tuple[transport.Answer, _Envelope] | errors.IncusError:
        try:
            answer = self.transport.request("GET", path, query=query)
            return answer, self._open("GET", path, answer)
        except errors.IncusError as error:
            return error

    # --- changing ---

    def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, object] | None = None,
        *,
        etag: str | None = None,
        timeout: float = transport.READ_TIMEOUT,
    ) -> Reply:
        """Send one request that changes something, once; a background operation is started, not awaited.

        `timeout` in seconds. Raises Conflict (exists; code E_BUSY when busy), NotFound, Forbidden,
        PreconditionFailed, OperationFailed; Unreachable when nothing was sent; TimedOut when the outcome is
        not known and live state has to be read.
        """
        headers = {"Content-Type": "application/json"}
        if etag:
            headers["If-Match"] = etag
        doing = _doing(method, path, body)
        answer = self.transport.request(
            method,
            path,
            query=query,
            headers=headers,
            body=b"" if body is None else encode(body),
            timeout=timeout,
            doing=doing,
        )
        envelope = self._open(method, path, answer, doing)
        self._answered = True
        return Reply(
            metadata=envelope.metadata,
            operation=envelope.operation if answer.status == 202 else "",
            date_ms=_date_ms(answer.headers),
            etag=answer.headers.get("etag", ""),
        )

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, object] | None = None,
        *,
        etag: str | None = None,
        guard: Guard | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send, wait for the end of a background operation, and give its metadata.

        "Is busy" means that nothing was done: it is sent again for up to 30 s, `guard` being called before
        every send. `timeout` (seconds) bounds the waiting. Raises as `send`, and as `wait`.
        """
        deadline = self._clock() + BUSY_PATIENCE
        pause = 0.05
        while True:
            if guard is not None:
                guard()
            try:
                reply = self.send(method, path, query, body, etag=etag)
                if not reply.operation:
                    return reply.metadata
                doing = _doing(method, path, body)
                return self.wait(reply.operation, timeout=timeout, doing=doing)
            except errors.IncusError as error:
                if not transport.is_busy(error) or self._clock() + pause > deadline:
                    raise
            self._sleep(pause)
            pause = min(1.0, pause * 1.6)

    def wait(self, operation: str, *, timeout: float | None = None, doing: str = "") -> Any:
        """The metadata of a background operation once it has ended.

        Raises what the server's text says when it failed; TimedOut after `timeout` seconds, and (code
        E_UNKNOWN) when the operation is gone: the server forgets one 5 s after its end.
        """
        doing = doing or "finish a background operation"
        deadline = None if timeout is None else self._clock() + timeout
        path = operation.partition("?")[0] + "/wait"
        while True:
            left = WAIT_SLICE if deadline is None else min(WAIT_SLICE, deadline - self._clock())
            if left <= 0:
                raise errors.TimedOut(f"cannot {doing}: not done after {timeout:g} s")
            seconds = max(1, round(left))
            answer = self.transport.request(
                "GET", path, query={"timeout": str(seconds)}, timeout=seconds + 30, doing=doing
            )
            if answer.status == 404:
                raise errors.TimedOut(
                    f"cannot {doing}: the server no longer knows how it ended",
                    hint="run the same command again",
                    code="E_UNKNOWN",
                )
            found = cast("dict[str, Any]", self._open("GET", path, answer, doing).metadata or {})
            code = found.get("status_code")
            if code == 200:
                return found.get("metadata") or {}
            if code in (400, 401):
                text = str(found.get("err") or ("cancelled" if code == 401 else "it failed"))
                raise transport.failure(doing, 400, text, operation=True)

    def _open(self, method: str, path: str, answer: transport.Answer, doing: str = "") -> _Envelope:
        """The envelope of an answer; raises when it is none, or holds an error."""
        doing = doing or transport.phrase(method, path)
        if answer.content_type != "application/json":
            if answer.status >= 400:
                raise transport.failure(
                    doing, answer.status, answer.body[:500].decode(errors="replace")
                )
            shown = transport.clean(answer.content_type) or "untyped"
            raise errors.OperationFailed(
                f"cannot {doing}: the answer is {shown}, not JSON",
                hint="is that an Incus server?",
            )
        try:
            envelope = _ENVELOPE.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
            raise errors.OperationFailed(
                f"cannot {doing}: the answer is not an Incus answer"
            ) from cause
        if envelope.type == "error" or answer.status >= 300:
            raise transport.failure(
                doing,
                answer.status if answer.status >= 300 else envelope.error_code,
                envelope.error,
            )
        return envelope

    # --- the server ---

    def server(self) -> dict[str, Any]:
        """GET /1.0. Raises Untrusted when the server does not know this client's certificate."""
        found = cast("dict[str, Any]", self.get("/1.0"))
        if found.get("auth") == "untrusted":
            at = self.transport.server
            raise errors.Untrusted(
                f"cannot use {at}: it does not trust this client's certificate",
                hint="on the server `incus config trust add NAME` gives a token; "
                "then here `incus remote add NAME TOKEN`",
            )
        return found

    def operations(self, project: str) -> list[dict[str, Any]]:
        """The background operations under way in a project, each as the API shows it."""
        found = self.get("/1.0/operations", {"recursion": "1", "project": project})
        groups = cast("dict[str, list[dict[str, Any]]]", found or {})
        return [
            entry for name in ("pending", "running", "cancelling") for entry in groups.get(name, ())
        ]

    # --- files of instances and volumes ---

    def file_stat(self, of: str, file: str, query: Query | None = None) -> FileStat | None:
        """Owner, mode and type of a file, None when there is none. `of` is an instance's or volume's path."""
        answer = self.transport.request(
            "HEAD", of + "/files", query={**(query or {}), "path": file}
        )
        if answer.status == 404:
            return None
        self._file_ok("HEAD", of, file, answer)
        return _stat(answer.headers)

    def file_get(
        self, of: str, file: str, query: Query | None = None, *, limit: int = transport.BODY_LIMIT
    ) -> tuple[FileStat, bytes]:
        """A file and its content: bytes, a symlink's target, or a directory's listing (see `file_list`)."""
        answer = self.transport.request(
            "GET", of + "/files", query={**(query or {}), "path": file}, limit=limit
        )
        self._file_ok("GET", of, file, answer)
        return _stat(answer.headers), answer.body

    def file_list(self, of: str, file: str, query: Query | None = None) -> tuple[str, ...]:
        """The names in a directory, sorted. Raises NotFound; OperationFailed when it is no directory."""
        stat, body = self.file_get(of, file, query)
        doing = f"list {transport.clean(file)}"
        if stat.type != "directory":
            raise errors.OperationFailed(f"cannot {doing}: it is no directory")
        try:
            names = cast("object", _ENVELOPE.decode(body).metadata)
        except msgspec.MsgspecError as cause:
            raise errors.OperationFailed(
                f"cannot {doing}: the answer is not an Incus answer"
            ) from cause
        if not isinstance(names, list):
            return ()
        return tuple(sorted(str(name) for name in cast("list[object]", names)))

    def file_push(
        self,
        of: str,
        file: str,
        query: Query | None = None,
        *,
        stat: FileStat,
        content: transport.Body = b"",
    ) -> None:
        """Write a file, a symlink (content: its target) or a directory (exists already: fine).

        Owner and mode count only for what is new. The parent must exist (NotFound).
        """
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Incus-type": stat.type,
            "X-Incus-mode": f"{stat.mode:04o}",
            "X-Incus-uid": str(stat.uid),
            "X-Incus-gid": str(stat.gid),
            "X-Incus-write": "overwrite",
        }
        answer = self.transport.request(
            "POST",
            of + "/files",
            query={**(query or {}), "path": file},
            headers=headers,
            body=content,
        )
        self._file_ok("POST", of, file, answer)

    def file_copy(
        self,
        source: str,
        source_file: str,
        target: str,
        target_file: str,
        query: Query | None = None,
        *,
        relink: Callable[[str], str] | None = None,
    ) -> FileStat:
        """Copy one file or symlink from one instance or volume to another, without holding it in memory.

        `relink` is given a symlink's target (which the server makes absolute when it begins with `..`).
        """
        with self.transport.stream(
            "GET", source + "/files", query={**(query or {}), "path": source_file}
        ) as stream:
            if stream.answer.status >= 300:
                text = b"".join(stream.chunks)[: transport.TEXT_LIMIT]
                answer = msgspec.structs.replace(stream.answer, body=text)
                self._file_ok("GET", source, source_file, answer)
            stat = _stat(stream.answer.headers)
            content: transport.Body = stream.chunks
            if stat.type == "symlink" and relink is not None:
                content = relink(b"".join(content).decode(errors="surrogateescape")).encode(
                    errors="surrogateescape"
                )
            self.file_push(target, target_file, query, stat=stat, content=content)
        return stat

    def file_delete(
        self, of: str, file: str, query: Query | None = None, *, tree: bool = False
    ) -> None:
        """Remove a file, or with `tree` a directory and all below it. Missing: NotFound."""
        headers = {"X-Incus-force": "true"} if tree else None
        answer = self.transport.request(
            "DELETE", of + "/files", query={**(query or {}), "path": file}, headers=headers
        )
        self._file_ok("DELETE", of, file, answer)

    def _file_ok(self, method: str, of: str, file: str, answer: transport.Answer) -> None:
        if answer.status < 300:
            return
        where = transport.phrase("GET", of).removeprefix("read ")
        verb = {"POST": "write", "DELETE": "delete"}.get(method, "read")
        doing = f"{verb} {transport.clean(file)} of {where}"
        if answer.content_type == "application/json":
            self._open(method, of + "/files", answer, doing)
        raise transport.failure(doing, answer.status, answer.body[:500].decode(errors="replace"))

    # --- output and logs ---

    def console_log(self, instance: str, query: Query | None = None) -> bytes:
        """The last 128 KiB that an instance wrote, raw; empty when it has never run."""
        return self._raw(instance + "/console", query)

    def last_output(self, instance: str, query: Query | None = None) -> tuple[str, ...]:
        """The last lines that an instance wrote, for a message; none where its console cannot be read now."""
        try:
            text = self.console_log(instance, query).decode(errors="replace")
        except errors.IncusError:
            return ()
        return tuple(line.rstrip() for line in text.splitlines()[-SHOWN_OUTPUT_LINES:])

    def log_file(self, instance: str, name: str, query: Query | None = None) -> bytes:
        """A log of an instance (`lxc.log`), raw; empty when there is none."""
        return self._raw(f"{instance}/logs/{quote(name, safe='')}", query)

    def _raw(self, path: str, query: Query | None) -> bytes:
        answer = self.transport.request("GET", path, query=query)
        if answer.status == 404:
            return b""
        if answer.status >= 300:
            self._open("GET", path, answer)
        return answer.body

    # --- websockets ---

    @contextlib.contextmanager
    def events(
        self, query: Query | None = None, types: Iterable[str] = ("lifecycle",)
    ) -> Generator[websocket.Events]:
        """Events from now on; leaving the `with` ends them. Nothing is replayed to who connects again."""
        from ic.incus import websocket

        full = {**(query or {}), "type": ",".join(types)}
        with websocket.events(self.transport, full) as stream:
            yield stream

    @contextlib.contextmanager
    def console(self, instance: str, query: Query | None = None) -> Generator[websocket.Console]:
        """What a running instance writes from now on. Exclusive: OperationFailed when it is taken."""
        from ic.incus import websocket

        doing = f"follow the console of {transport.phrase('GET', instance).removeprefix('read ')}"
        body: dict[str, object] = {"type": "console", "width": 0, "height": 0}
        reply = self.send("POST", instance + "/console", query, body)
        found = cast("dict[str, dict[str, Any]]", reply.metadata or {})
        secrets = cast("dict[str, str]", found.get("metadata", {}).get("fds") or {})
        operation = reply.operation.partition("?")[0]
        with websocket.console(self.transport, operation, secrets.get("0", ""), doing) as stream:
            yield stream

    @contextlib.contextmanager
    def exec(
        self,
        instance: str,
        command: Sequence[str],
        query: Query | None = None,
        *,
        user: int = 0,
        group: int = 0,
        cwd: str = "",
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Generator[streams.Command]:
        """Run a command in a running instance; leaving the `with` kills it if it still runs (SIGKILL, its
        direct process only). It has no terminal, and its input is empty.

        `timeout` in seconds is that of each request until it runs. Raises OperationFailed when the instance
        does not run, and as `send`. One that cannot be executed ends at once, with status 127 or 126.
        """
        from ic.incus import streams

        body: dict[str, object] = {
            "command": list(command),
            "environment": dict(environment or {}),
            "wait-for-websocket": True,
            "interactive": False,
            "user": user,
            "group": group,
        }
        if cwd:
            body["cwd"] = cwd
        reply = self.send("POST", instance + "/exec", query, body, timeout=timeout)
        doing = transport.phrase("POST", instance + "/exec")
        found = cast("dict[str, dict[str, Any]]", reply.metadata or {})
        secrets = cast("dict[str, str]", found.get("metadata", {}).get("fds") or {})
        running = streams.start(
            self.transport,
            reply.operation.partition("?")[0],
            secrets,
            doing,
            timeout=timeout,
            clock=self._clock,
        )
        with contextlib.closing(running):
            yield running

    def exec_status(self, running: streams.Command, timeout: float) -> int | None:
        """The exit status of a command (128+n when killed by signal n), None when it still runs.

        Waits up to `timeout` seconds, whole ones; less than one is no waiting. Raises as `wait`; TimedOut
        (E_UNKNOWN) when the server has forgotten it.
        """
        doing = "wait for a command"
        answer = self.transport.request(
            "GET",
            running.operation + "/wait",
            query={"timeout": str(int(timeout))},
            timeout=int(timeout) + 30,
            doing=doing,
        )
        if answer.status == 404:
            raise errors.TimedOut(
                f"cannot {doing}: the server no longer knows how it ended", code="E_UNKNOWN"
            )
        found = cast("dict[str, Any]", self._open("GET", running.operation, answer, doing).metadata)
        code = cast("dict[str, object]", found.get("metadata") or {}).get("return")
        if found.get("status_code") in (200, 400) and isinstance(code, int):
            return code
        if found.get("status_code") in (400, 401):
            text = str(found.get("err") or "it was cancelled")
            raise transport.failure(doing, 400, text, operation=True)
        return None

    def exec_output(
        self,
        instance: str,
        command: Sequence[str],
        query: Query | None = None,
        *,
        timeout: float = 30.0,
        limit: int = 1024 * 1024,
    ) -> Finished:
        """Run a command as root and collect what it writes, both streams as they come (`limit` bytes).

        After `timeout` seconds it is killed and TimedOut raised. Raises as `exec`.
        """
        kept = bytearray()

        def keep(piece: memoryview) -> None:
            kept.extend(piece[: limit - len(kept)])

        with self.exec(instance, command, query, timeout=timeout) as running:
            deadline = running.began + timeout
            while (left := deadline - self._clock()) > 0:
                if not running.ended:
                    running.read(keep, left)
                    continue
                status = self.exec_status(running, max(1.0, left))
                if status is not None:
                    return Finished(status=status, output=bytes(kept))
        raise errors.TimedOut(
            f"cannot {transport.phrase('POST', instance + '/exec')}: not done after {timeout:g} s, killed"
        )

    def signal_main(
        self, instance: str, signal: str, query: Query | None = None, *, timeout: float = 10.0
    ) -> bool:
        """Give an instance's main process a signal (`TERM`, `SIGQUIT`, `15`) from inside.

        False when the image has no shell to do that with, or the instance does not run. Raises as `exec`.
        """
        words = ("/bin/sh", "-c", _SIGNAL_MAIN, "sh", signal.removeprefix("SIG"))
        try:
            return self.exec_output(instance, words, query, timeout=timeout).status == 0
        except errors.OperationFailed:
            return False


def touched(operation: Mapping[str, Any]) -> set[str]:
    """The paths of the objects that a background operation is about. Pure."""
    resources = cast("dict[str, list[str] | None]", operation.get("resources") or {})
    return {one.partition("?")[0] for group in resources.values() for one in group or ()}


def restarting(operations: Iterable[Mapping[str, Any]], path: str) -> bool:
    """Whether one of these operations is a restart of that instance. Pure.

    A write of its keys would be let in, end the restart, and leave the instance stopped [measured]; while
    it is started or stopped the server itself refuses one as busy.
    """
    return any(
        str(one.get("description", "")).startswith(_RESTARTS) and path in touched(one)
        for one in operations
    )


def stays_stopped(
    stopped: Callable[[], bool],
    seconds: float,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> bool:
    """Whether an instance that was told to end is stopped within so many seconds, and stays it.

    What ends by itself is called stopped for an instant and then running again [measured]: looks in a row
    count. `stopped` takes one.
    """
    end = clock() + seconds
    seen = 0
    while clock() < end or seen:
        seen = seen + 1 if stopped() else 0
        if seen == STOPPED_LOOKS:
            return True
        sleep(STOPPED_PAUSE)
    return False


# --- pieces ------------------------------------------------------------------------------------------

# The main process is the first child of the server's own process 1; what is executed has no parent inside.
# The list has no newline at its end, so reading it counts as a failure.
_SIGNAL_MAIN = 'read -r first _ </proc/1/task/1/children; kill "-$1" "$first"'


def encode(body: Mapping[str, object]) -> bytes:
    """A request body as JSON."""
    return msgspec.json.encode(body)


def missing_extensions(server: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of the API extensions that ic needs a server (its GET /1.0) lacks."""
    has = set(cast("list[str]", server.get("api_extensions") or []))
    return tuple(name for name in EXTENSIONS if name not in has)


def require(server: Mapping[str, Any], where: str) -> None:
    """Raise TooOld, naming what is missing, when a server lacks something that ic needs."""
    missing = missing_extensions(server)
    if not missing:
        return
    environment = cast("dict[str, Any]", server.get("environment") or {})
    version = transport.clean(str(environment.get("server_version") or "unknown"))
    raise errors.TooOld(
        f"cannot use {where}: Incus {version} lacks API extensions that ic needs",
        details=missing,
        hint="ic needs Incus 7.0 or newer",
    )


def _doing(method: str, path: str, body: Mapping[str, object] | None) -> str:
    """ "<verb> <thing>" of a request, by what its body is about where the path is a collection's."""
    if not body:
        return transport.phrase(method, path)
    source = body.get("source")
    if method == "POST" and path == "/1.0/images" and isinstance(source, dict):
        alias = cast("dict[str, object]", source).get("alias", "")
        return transport.clean(f"pull image {alias}")
    action = body.get("action")
    if path.endswith("/state") and isinstance(action, str):
        return (
            f"{transport.clean(action)} {transport.phrase('GET', path[:-6]).removeprefix('read ')}"
        )
    name = body.get("name")
    return transport.phrase(method, path, name if isinstance(name, str) else "")


def _passing(error: errors.IncusError) -> bool:
    """Whether an error is what a restarting daemon gives: no socket, a broken connection, no database."""
    if isinstance(error, errors.Unreachable):
        return True
    low = error.summary.lower()
    return error.code == "E_BROKEN" or "database is closed" in low or "daemon is starting up" in low


def _stat(headers: Mapping[str, str]) -> FileStat:
    def number(name: str, base: int) -> int:
        try:
            return int(headers.get(name, "0"), base)
        except ValueError:
            return 0

    return FileStat(
        type=headers.get("x-incus-type", "file"),
        mode=number("x-incus-mode", 8) & 0o7777,
        uid=number("x-incus-uid", 10),
        gid=number("x-incus-gid", 10),
    )


def _date_ms(headers: Mapping[str, str]) -> int:
    """The Date header in ms since 1970, 0 without one."""
    import calendar
    from email import utils

    parsed = utils.parsedate(headers.get("date", ""))
    return calendar.timegm(parsed) * 1000 if parsed else 0
