"""A server that the health daemon itself can talk to: TLS, HTTP and websockets, instances in memory.

For what needs hundreds of instances, or a server that answers late. It answers as Incus does, as far as the
daemon asks; tests/healthd/test_wire.py holds both to one transcript. Checks are answered by the first word of
their command: `true` and `false` end at once, `sleep` runs until it is killed, `late` after the seconds given.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import json
import queue
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Body = dict[str, Any]
PASSWD = b"root:x:0:0:root:/root:/bin/sh\n"
END = b"\x81\x00"
PING = b"\x89\x09keepalive"


class Instance:
    """One instance."""

    def __init__(self, name: str, config: Mapping[str, str]) -> None:
        self.name = name
        self.config = dict(config)
        self.status = "Stopped"
        self.last_used_at = "1970-01-01T00:00:00Z"
        self.version = 0
        self.busy = ""


class Operation:
    """A background operation; `done` when it has ended."""

    def __init__(self, instance: str, command: list[str] | None = None) -> None:
        self.id = str(uuid.uuid4())
        self.instance = instance
        self.command = command or []
        self.description = "Executing command" if command else ""
        self.fds = {name: uuid.uuid4().hex * 2 for name in ("0", "1", "2", "control")}
        self.streams: dict[str, socket.socket] = {}
        self.done = threading.Event()
        self.exited = False  # nobody is killed any more by letting go of the output
        self.ended = 0.0
        self.code = 103
        self.err = ""
        self.result: Body = {}

    def end(self, code: int = 200, err: str = "", result: Body | None = None) -> None:
        self.code, self.err, self.ended = code, err, time.monotonic()
        self.result = result or {}
        self.done.set()

    def body(self) -> Body:
        status = {103: "Running", 200: "Success", 400: "Failure"}[self.code]
        metadata: Body = self.result
        if self.command:
            metadata = {"command": self.command, "fds": self.fds, **self.result}
        return {
            "id": self.id,
            "class": "websocket" if self.command else "task",
            "description": self.description,
            "resources": {"instances": [f"/1.0/instances/{self.instance}?project=p"]},
            "status": status,
            "status_code": self.code,
            "metadata": metadata,
            "err": self.err,
        }


class Begun:
    """A check that ran, as the server saw it: when it began and when it ended (seconds, monotonic)."""

    def __init__(self, instance: str, at: float) -> None:
        self.instance = instance
        self.at = at
        self.ended = at


class Server:
    """The server. `states` are the requests that change power.

    `delay` seconds pass before anything is done; everything that it says arrives `behind` seconds later.
    """

    def __init__(self, project: str = "p") -> None:
        self.project = project
        self.lock = threading.RLock()
        self.instances: dict[str, Instance] = {}
        self.profiles: dict[str, dict[str, str]] = {"default": {}}
        self.operations: dict[str, Operation] = {}
        self.listeners: list[queue.SimpleQueue[bytes]] = []
        self.delay = 0.0
        self.behind = 0.0
        self.late: dict[str, float] = {}  # seconds by the first word of a command
        self.requests: dict[str, int] = {}
        self.states: list[tuple[str, str]] = []
        self.begun: list[Begun] = []

    # --- by hand ---

    def add(
        self, name: str, config: Mapping[str, str] | None = None, *, running: bool = True
    ) -> Instance:
        """An instance with these keys."""
        with self.lock:
            found = self.instances[name] = Instance(name, config or {})
            if running:
                self._run(found)
        return found

    def _run(self, found: Instance) -> None:
        found.status = "Running"
        now = dt.datetime.now(dt.timezone.utc)
        found.last_used_at = f"{now:%Y-%m-%dT%H:%M:%S}.{time.time_ns() % 10**9:09d}Z"
        found.version += 1

    def tell(self, action: str, name: str, *, by: str = "", **context: object) -> None:
        """A lifecycle event for all who listen."""
        metadata: Body = {
            "action": action,
            "source": f"/1.0/instances/{name}?project={self.project}",
            "name": name,
            "project": self.project,
        }
        if by:
            metadata["requestor"] = {"username": by, "protocol": "tls", "address": "@"}
        if context:
            metadata["context"] = context
        event = {"type": "lifecycle", "metadata": metadata, "project": self.project}
        content = json.dumps(event).encode()
        for listener in list(self.listeners):
            listener.put(content)

    # --- serving ---

    def serve(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Answer until the listener is shut down; each connection on a thread of its own."""
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(plain, context), daemon=True).start()

    def _connection(self, plain: socket.socket, context: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            one = context.wrap_socket(plain, server_side=True) if context else plain
            with one, one.makefile("rb") as file:
                while self._request(one, file):
                    pass

    def _request(self, one: socket.socket, file: Any) -> bool:
        words = file.readline().split()
        if len(words) != 3:
            return False
        headers: dict[str, str] = {}
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        content = file.read(int(headers.get("content-length", "0")))
        method, target = words[0].decode(), urlsplit(words[1].decode())
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        parts = [unquote(part) for part in target.path.split("/")[2:]]
        kind = f"{method} {parts[0] if parts else ''}{'/' + parts[-1] if len(parts) > 2 else ''}"
        with self.lock:
            self.requests[kind] = self.requests.get(kind, 0) + 1
        if self.delay:
            time.sleep(self.delay)
        if "upgrade" in headers:
            return self._upgraded(one, headers, parts, query)
        body: Body = json.loads(content) if content else {}
        said = self._answer(method, parts, query, headers, body)
        time.sleep(self.behind)
        one.sendall(said)
        return True

    def _answer(
        self,
        method: str,
        parts: list[str],
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Body,
    ) -> bytes:
        if not parts:
            return answer({"auth": "trusted", "config": {}, "environment": {}})
        if query.get("project", self.project) != self.project:
            return refuse(403, "User does not have permission for project")
        handler: Callable[..., bytes] | None = {
            "projects": self._projects,
            "instances": self._instances,
            "profiles": self._profiles,
            "operations": self._operations,
        }.get(parts[0])
        if handler is None:
            return refuse(404, "not found")
        return handler(method, parts[1:], query, headers, body)

    def _projects(self, _method: str, parts: list[str], *_: object) -> bytes:
        if parts != [self.project]:
            return refuse(404, "Project not found")
        return answer({"name": self.project, "config": {}, "description": ""})

    def _operations(
        self, _method: str, parts: list[str], query: Mapping[str, str], *_: object
    ) -> bytes:
        if not parts:
            with self.lock:
                under_way = [one for one in self.operations.values() if not one.done.is_set()]
            return answer({"running": [one.body() for one in under_way]})
        found = self.operations.get(parts[0])
        if found is None or (found.done.is_set() and time.monotonic() - found.ended > 5):
            return refuse(404, "Operation not found")
        found.done.wait(float(query.get("timeout", "30")))
        return answer(found.body())

    def _profiles(
        self,
        method: str,
        parts: list[str],
        _query: Mapping[str, str],
        _headers: object,
        body: Body,
    ) -> bytes:
        with self.lock:
            have = self.profiles
            if not parts:
                if method == "GET":
                    return answer(
                        [
                            {"name": name, "config": dict(config), "project": self.project}
                            for name, config in sorted(have.items())
                        ]
                    )
                if body["name"] in have:
                    return refuse(500, "Error inserting into database: The profile already exists")
                have[body["name"]] = dict(body.get("config") or {})
                return answer(None, 201)
            name = parts[0]
            if name not in have:
                return (
                    refuse(500, f'Profile "{name}" doesn\'t exist')
                    if method == "POST"
                    else refuse(404, "Profile not found")
                )
            if method == "POST":
                have[body["name"]] = have.pop(name)
                return answer(None, 201)
            if method == "DELETE":
                del have[name]
            elif method == "PATCH":
                have[name].update(body.get("config") or {})
            elif method == "PUT":
                have[name] = dict(body.get("config") or {})
            return answer({"name": name, "config": have[name]} if method == "GET" else {})

    def _shown(self, found: Instance) -> Body:
        return {
            "name": found.name,
            "status": found.status,
            "last_used_at": found.last_used_at,
            "config": dict(found.config),
            "expanded_config": dict(found.config),
            "profiles": [],
            "project": self.project,
            "type": "container",
        }

    def _instances(
        self,
        method: str,
        parts: list[str],
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: Body,
    ) -> bytes:
        with self.lock:
            if not parts:
                return answer([self._shown(found) for found in self.instances.values()])
            found = self.instances.get(parts[0])
        if found is None:
            return refuse(404, "Instance not found")
        what = parts[1] if len(parts) > 1 else ""
        if what == "exec":
            return self._exec(found, body)
        if what == "files":
            return raw(PASSWD) if query.get("path") == "/etc/passwd" else refuse(404, "not found")
        if what == "logs":
            return raw(b"lxc test 20261123 INFO start - Started\n")
        if what == "state":
            return self._state(found, body)
        with self.lock:
            if method == "GET":
                return answer(self._shown(found), Etag=f'"{found.version}"')
            if found.busy:
                return refuse(500, f'Instance is busy running a "{found.busy}" operation')
            if headers.get("if-match", f'"{found.version}"') != f'"{found.version}"':
                return refuse(412, "ETag doesn't match")
            for key, value in (body.get("config") or {}).items():
                found.config.pop(key, None)
                if value:
                    found.config[key] = value
            found.version += 1
        self.tell("instance-updated", found.name)
        return answer({})

    def _state(self, found: Instance, body: Body) -> bytes:
        action = body["action"]
        operation = self._operation(Operation(found.name))
        words = {"start": "Starting", "stop": "Stopping", "restart": "Restarting"}
        operation.description = f"{words[action]} instance"
        with self.lock:
            self.states.append((action, found.name))
            if found.busy:
                return refuse(500, f'Instance is busy running a "{found.busy}" operation')
            if action == "stop" and found.status == "Stopped":
                operation.end(400, "The instance is already stopped")
                return answer(operation.body(), 202, operation=operation.id)
            found.busy = action
        threading.Thread(target=self._change, args=(found, action, operation), daemon=True).start()
        return answer(operation.body(), 202, operation=operation.id)

    def _change(self, found: Instance, action: str, operation: Operation) -> None:
        time.sleep(0.2)
        with self.lock:
            if action in ("stop", "restart"):
                found.status = "Stopped"
                found.version += 1
            if action in ("start", "restart"):
                self._run(found)
            found.busy = ""
        said = {"start": "started", "stop": "stopped", "restart": "restarted"}[action]
        self.tell(f"instance-{said}", found.name, by="daemon")
        operation.end()

    def _operation(self, made: Operation) -> Operation:
        with self.lock:
            self.operations[made.id] = made
            if len(self.operations) > 2000:
                for name in list(self.operations)[:1000]:
                    if self.operations[name].done.is_set():
                        del self.operations[name]
        return made

    # --- websockets ---

    def _exec(self, found: Instance, body: Body) -> bytes:
        if found.status != "Running":
            return refuse(400, "Instance is not running")
        made = self._operation(Operation(found.name, body["command"]))
        self.tell("instance-exec", found.name, by="daemon", command=body["command"])
        return answer(made.body(), 202, operation=made.id)

    def _upgraded(
        self,
        one: socket.socket,
        headers: Mapping[str, str],
        parts: list[str],
        query: Mapping[str, str],
    ) -> bool:
        if headers["upgrade"] != "websocket":
            one.sendall(refuse(404, "not found"))
            return False
        proof = headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(proof).digest())
        agreed = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        if parts == ["events"]:
            listener: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            self.listeners.append(listener)
            one.sendall(agreed)
            try:
                self._events(one, listener)
            finally:
                self.listeners.remove(listener)
            return False
        made = self.operations[parts[1]]
        name = next((name for name, value in made.fds.items() if value == query["secret"]), "")
        if not name:
            one.sendall(refuse(403, "not authorized"))
            return False
        agreed += PING if name != "0" else b""
        if not self.behind:
            one.sendall(agreed)
        with self.lock:
            made.streams[name] = one
            complete = {"0", "1", "2"} <= made.streams.keys()
        if complete:
            begun = Begun(made.instance, time.monotonic())
            self.begun.append(begun)
            threading.Thread(target=self._process, args=(made, begun), daemon=True).start()
        if self.behind:
            time.sleep(self.behind)
            one.sendall(agreed)
        with contextlib.suppress(OSError):
            while one.recv(4096):
                pass
        if name != "0" and not made.exited and not made.done.is_set():
            made.end(result={"return": 137})  # whoever lets go of the output kills the process
        return False

    def _process(self, made: Operation, begun: Begun) -> None:
        word = made.command[0]
        time.sleep(self.late.get(word, 0.005))
        if word == "sleep":
            return
        code = 0 if word == "true" else 1 if word == "false" else 127
        err = "Command not found" if code == 127 else ""
        made.exited = True
        time.sleep(self.behind)
        with contextlib.suppress(OSError):
            if word == "false":
                made.streams["1"].sendall(b"\x82\x04bad\n")
            for name in ("1", "2"):
                made.streams[name].sendall(END)
        begun.ended = time.monotonic()
        made.end(400 if err else 200, err, {"return": code})

    def _events(self, one: socket.socket, listener: queue.SimpleQueue[bytes]) -> None:
        one.settimeout(None)
        while True:
            try:
                content = listener.get(timeout=10)
            except queue.Empty:
                one.sendall(PING)
                continue
            size = len(content)
            head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
            one.sendall(head + content)


# --- answers -----------------------------------------------------------------------------------------


def raw(content: bytes, status: int = 200, **headers: str) -> bytes:
    """An answer with any content."""
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def answer(metadata: object, status: int = 200, *, operation: str = "", **headers: str) -> bytes:
    """A successful answer of the API."""
    body = {
        "type": "async" if operation else "sync",
        "status_code": 100 if operation else 200,
        "operation": f"/1.0/operations/{operation}" if operation else "",
        "error": "",
        "error_code": 0,
        "metadata": metadata,
    }
    headers["Content-Type"] = "application/json"
    return raw(json.dumps(body).encode(), status, **headers)


def refuse(status: int, text: str) -> bytes:
    """An error of the API."""
    body = {"type": "error", "error": text, "error_code": status, "metadata": None}
    return raw(json.dumps(body).encode(), status, **{"Content-Type": "application/json"})


@contextlib.contextmanager
def serving(path: str, server: Server, context: ssl.SSLContext | None = None) -> Generator[Server]:
    """Serve on a unix socket for as long as the `with` lasts."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        thread = threading.Thread(target=server.serve, args=(listener, context), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
