"""A server for the manager's tests: instances in memory, with Incus's rules of writes, states and events.

What it has of the real one (docs/architecture.md, "Server"): a write needs the ETag of what was read, and of
those who have the same one a single writer wins; it is refused while the instance starts or stops, and they
are while it is written; both say "is busy running a"; a write in the middle of a restart is taken, and breaks
the restart; starts of one instance merge; an exit is told without a requestor, a write without one as well;
events are not repeated for who comes late.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from ic import errors, names
from ic.healthd import probes, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

Body = dict[str, Any]
SOON = 0.02  # seconds


class Killed(Exception):
    """The process that called is dead: nothing of it goes on."""


class Instance:
    """One instance."""

    def __init__(self, name: str, config: Mapping[str, str]) -> None:
        self.name = name
        self.config = dict(config)
        self.status = "Stopped"
        self.last_used_at = "1970-01-01T00:00:00Z"
        self.version = 0
        self.busy = ""
        self.broken = 0  # restarts that a write has broken
        self.code: int | None = 0
        self.forced = False
        self.starts: list[float] = []


class Server:
    """The server that all clients share. `takes` are the seconds of a start, a stop, a write."""

    def __init__(self, *, start: float = 0.0, stop: float = 0.0, write: float = 0.0) -> None:
        self.lock = threading.RLock()
        self.instances: dict[str, Instance] = {}
        self.takes = {"start": start, "stop": stop, "restart": stop, "update": write}
        self.streams: list[queue.SimpleQueue[Body | None]] = []
        self.up = True
        self.delay = 0.0
        self.loss = 0.0
        self.chance = random.Random(7)
        self.heartbeats: dict[str, str] = {}
        self.calls: list[str] = []
        self.failing: set[str] = set()  # instances whose check fails
        self.lost_events = 0  # so many of the next exits are told to nobody
        self.untrusted = False

    # --- by hand ---

    def add(self, name: str, *, running: bool = True, **keys: str) -> Instance:
        """An instance with keys: `test='["CMD","x"]'`, `restart="always"`, or whole names in `config`."""
        known = {"restart": names.RESTART, "want": names.WANT, "held": names.HELD}
        config = {known.get(key, names.HEALTH_PREFIX + key): value for key, value in keys.items()}
        with self.lock:
            found = self.instances[name] = Instance(name, config)
            if running:
                self._run(found)
        return found

    def old(self) -> None:
        """Everything that runs was started long ago."""
        for number, found in enumerate(self.instances.values()):
            found.last_used_at = f"2020-01-01T00:00:00.{number:09d}Z"

    def exit(self, name: str, code: int = 1) -> None:
        """Its process ends by itself."""
        with self.lock:
            found = self.instances[name]
            found.status, found.code = "Stopped", code
            found.version += 1
            if self.lost_events:
                self.lost_events -= 1
            else:
                self.tell("instance-shutdown", name)

    def tell(self, action: str, name: str, by: str = "", **context: str) -> None:
        """An event for all who listen."""
        metadata: Body = {"action": action, "source": f"/1.0/instances/{name}?project=p"}
        if by:
            metadata["requestor"] = {"username": by}
        if context:
            metadata["context"] = context
        for stream in list(self.streams):
            stream.put({"type": "lifecycle", "metadata": metadata})

    def tell_profile(self, name: str, by: str = "") -> None:
        """A profile was written: of those events only `source` has the name, as measured."""
        metadata: Body = {"action": "profile-updated", "source": f"/1.0/profiles/{name}?project=p"}
        metadata["requestor"] = {"username": by}
        for stream in list(self.streams):
            stream.put({"type": "lifecycle", "metadata": metadata})

    def cut(self) -> None:
        """Every event stream breaks."""
        with self.lock:
            streams, self.streams = self.streams, []
        for stream in streams:
            stream.put(None)

    def body(self, name: str) -> Body:
        """An instance as it is listed."""
        with self.lock:
            found = self.instances[name]
            return {
                "name": name,
                "status": found.status,
                "last_used_at": found.last_used_at,
                "config": dict(found.config),
                "expanded_config": dict(found.config),
            }

    def _run(self, found: Instance) -> None:
        found.status = "Running"
        now = dt.datetime.now(dt.timezone.utc)
        found.last_used_at = f"{now:%Y-%m-%dT%H:%M:%S}.{time.time_ns() % 10**9:09d}Z"
        found.version += 1
        found.starts.append(time.monotonic())

    @contextlib.contextmanager
    def operation(self, name: str, what: str) -> Generator[Instance]:
        """Something that keeps others of another kind away."""
        with self.lock:
            found = self.instances.get(name)
            if found is None:
                raise errors.NotFound(f"cannot {what} {name}: not found")
            restarting = found.busy == "restart"
            if found.busy and not (restarting and what == "update"):
                raise errors.Conflict(
                    f'cannot {what} {name}: Instance is busy running a "{found.busy}" operation',
                    code="E_BUSY",
                )
            found.broken += restarting
            found.busy = what
        try:
            if self.takes[what]:
                time.sleep(self.takes[what])
            yield found
        finally:
            with self.lock:
                found.busy = ""


class Client:
    """One client of the server, with a name of its own; stands for `ic.healthd.calls.Api`.

    `before` is called with the name of every call, before it is carried out, and may raise; `after` behind it.
    """

    def __init__(self, server: Server, me: str = "daemon") -> None:
        self.server = server
        self.me = me
        self.heard: Callable[[float], None] | None = None
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None
        self.graces: list[tuple[str, int, str]] = []  # what restarts and stops were asked to give
        self.shell_less = False

    @contextlib.contextmanager
    def _call(self, call: str) -> Generator[None]:
        began = time.monotonic()
        self.before(call)
        server = self.server
        server.calls.append(call)
        if server.delay:
            time.sleep(server.delay)
        if not server.up or server.chance.random() < server.loss:
            raise errors.Unreachable(f"cannot {call}: the server is away")
        if server.untrusted:
            raise errors.Forbidden(f"cannot {call}: not authorized")
        yield
        self.after(call)
        if self.heard is not None:
            self.heard((time.monotonic() - began) * 1000)
        if server.chance.random() < server.loss:
            raise errors.TimedOut(f"cannot {call}: the answer was lost")

    def instances(self) -> list[Body]:
        with self._call("list"), self.server.lock:
            return [self.server.body(name) for name in self.server.instances]

    def instance(self, name: str) -> tuple[Body, str]:
        with self._call("get"), self.server.lock:
            if name not in self.server.instances:
                raise errors.NotFound(f"cannot read {name}: not found")
            return self.server.body(name), f'"{self.server.instances[name].version}"'

    def patch(self, name: str, config: Mapping[str, str], etag: str) -> None:
        with self._call("patch"), self.server.operation(name, "update") as found:
            with self.server.lock:
                if etag != f'"{found.version}"':
                    raise errors.PreconditionFailed(f"cannot change {name}: it was changed")
                found.version += 1
                found.config.update(config)
                found.config = {key: value for key, value in found.config.items() if value}
                self.server.tell("instance-updated", name)

    def moving(self, name: str) -> bool:
        with self._call("operations"), self.server.lock:
            return self.server.instances[name].busy == "restart"

    def start(self, name: str, *, wanted: Callable[[], bool] = lambda: True) -> None:
        if not wanted():
            return
        with self._call("start"), self.server.operation(name, "start") as found, self.server.lock:
            if found.status != "Running":
                self.server._run(found)
                self.server.tell("instance-started", name, self.me)

    def restart(
        self,
        name: str,
        grace_ms: int,
        signal: str = "",
        *,
        run: str = "",
        wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        self.graces.append((name, grace_ms, signal))
        with self._call("restart"):
            if not wanted() or run not in ("", self.server.instances[name].last_used_at):
                return True
            with self.server.operation(name, "restart") as found, self.server.lock:
                broken, found.broken = found.broken, 0
                found.status = "Stopped"
                found.version += 1
            if broken:
                self.server.tell("instance-shutdown", name)
                raise errors.OperationFailed(f"cannot restart {name}: Failed shutting down")
        self.before("restart-start")
        with self.server.operation(name, "start") as found, self.server.lock:
            self.server._run(found)
            self.server.tell("instance-restarted", name, self.me)
        return not self.shell_less

    def stop(
        self,
        name: str,
        grace_ms: int,
        signal: str = "",
        *,
        run: str = "",
        wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        if not wanted() or run not in ("", self.server.instances[name].last_used_at):
            return True
        self.graces.append((name, grace_ms, signal))
        with self._call("stop"), self.server.operation(name, "stop") as found, self.server.lock:
            if found.status == "Running":
                found.status, found.code = "Stopped", 0 if grace_ms else 137
                found.version += 1
                self.server.tell("instance-shutdown", name, self.me)
        return not self.shell_less

    def ending(self, name: str) -> tuple[int | None, bool]:
        with self._call("code"):
            found = self.server.instances[name]
            return found.code, found.forced

    def heartbeat(self, generation: str) -> str:
        with self._call("profiles"):
            return self.server.heartbeats.get(generation, "")

    @contextlib.contextmanager
    def events(self) -> Generator[Events]:
        stream: queue.SimpleQueue[Body | None] = queue.SimpleQueue()
        with self._call("events"):
            self.server.streams.append(stream)
        try:
            yield Events(stream)
        finally:
            with contextlib.suppress(ValueError):
                self.server.streams.remove(stream)

    def probe(self, order: probes.Order, stop: threading.Event) -> probes.Result:
        """A probe as this server answers it."""
        server = self.server
        if stop.is_set():
            return probes.Result(kind="error")
        try:
            with self._call("exec"):
                found = server.instances.get(order.instance)
                if found is None or found.status != "Running":
                    return probes.Result(kind="gone")
                if server.delay * 1000 > order.timeout_ms:
                    return probes.Result(kind="timeout")
                return probes.Result(
                    kind="exit", code=int(order.instance in server.failing), output=b"one\ntwo\n"
                )
        except errors.IncusError as error:
            return probes.Result(kind="error", error=error)


class Events:
    """What one listener gets."""

    def __init__(self, stream: queue.SimpleQueue[Body | None]) -> None:
        self._stream = stream

    def next(self, timeout: float | None = None) -> Body | None:
        try:
            # Soon: nobody has to wait for a listener that is to end, or to connect anew.
            event = self._stream.get(timeout=SOON if timeout is None else min(timeout, SOON))
        except queue.Empty:
            return None
        if event is None:
            raise errors.Unreachable("cannot follow the server's events: the server ended them")
        return event


def claim(server: Server, name: str) -> spec.Claim:
    """The claim on an instance."""
    return spec.claim(server.instances[name].config)
