"""What the daemon asks of the server: one method per call, on the instances of one project.

In: a client and a project. Out: bodies as the API has them, or an IcError; nothing is decided here. Every
call has a deadline. `Api` is what the daemon takes; tests have a stand-in of their own.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any, Protocol, cast

from ic import errors, names
from ic.incus import client as incus
from ic.incus import lxclog
from ic.journal import lease

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from ic.incus import websocket

Body = dict[str, Any]

PATCH_SECONDS = 10.0
START_SECONDS = 60.0
FORCE_SECONDS = 30.0
ENDING_SECONDS = 10.0  # for what was ended by force to be stopped for good
_STOPPED = ("already stopped", "is not running", "isn't running")
_RUNNING = ("already running",)


class Events(Protocol):
    """Events as they come."""

    def next(self, timeout: float | None = None) -> Body | None:
        """The next one, None when none came within `timeout` seconds. Raises Unreachable when it broke."""
        ...


class Api(Protocol):
    """What is asked of the server; failures are IncusErrors."""

    heard: Callable[[float], None] | None

    def instances(self) -> list[Body]: ...
    def instance(self, name: str) -> tuple[Body, str]: ...
    def patch(self, name: str, config: Mapping[str, str], etag: str) -> None: ...
    def moving(self, name: str) -> bool: ...
    def start(self, name: str, *, wanted: Callable[[], bool]) -> None: ...
    def restart(
        self, name: str, grace_ms: int, signal: str, *, run: str, wanted: Callable[[], bool]
    ) -> bool: ...
    def stop(
        self, name: str, grace_ms: int, signal: str, *, run: str, wanted: Callable[[], bool]
    ) -> bool: ...
    def ending(self, name: str) -> tuple[int | None, bool]: ...
    def heartbeat(self, generation: str) -> str: ...
    def events(self) -> AbstractContextManager[Events]: ...


class _Settled(Exception):
    """The run that was to be ended is over by somebody else's doing, or it is not to be ended any more."""


def _always() -> bool:
    return True


class Calls:
    """The calls on one project. `heard(milliseconds)` is told how long each short call took."""

    def __init__(
        self,
        client: incus.Client,
        project: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._project = project
        self._query = {"project": project}
        self.heard: Callable[[float], None] | None = None
        self._before = client.on_request
        client.on_request = self._on_request

    def _on_request(self, method: str, target: str, seconds: float) -> None:
        if self._before is not None:
            self._before(method, target, seconds)
        if self.heard is not None and "/wait" not in target and "/websocket" not in target:
            self.heard(seconds * 1000)

    def instances(self) -> list[Body]:
        """Every instance of the project, with its config and that of its profiles."""
        found = self._client.get("/1.0/instances", {**self._query, "recursion": "1"})
        return cast("list[Body]", found or [])

    def instance(self, name: str) -> tuple[Body, str]:
        """One instance, and its ETag. Raises NotFound."""
        body, etag = self._client.get_tagged(_path(name), self._query)
        return cast("Body", body), etag

    def patch(self, name: str, config: Mapping[str, str], etag: str) -> None:
        """Set keys (an empty value takes one away), only if the instance is still the same.

        Sent once: PreconditionFailed when it has changed, Conflict (E_BUSY) when something is under way.
        """
        body: dict[str, object] = {"config": dict(config)}
        self._client.send("PATCH", _path(name), self._query, body, etag=etag, timeout=PATCH_SECONDS)

    def moving(self, name: str) -> bool:
        """Whether the server is at a restart of it, which a write of its keys would break."""
        return incus.restarting(self._client.operations(self._project), _path(name))

    def start(self, name: str, *, wanted: Callable[[], bool] = _always) -> None:
        """Start it, as long as that is `wanted`; one that runs is fine.

        Raises OperationFailed when it cannot be run.
        """
        with contextlib.suppress(_Settled):
            self._start(name, lambda: self._go_on(name, "", wanted))

    def _start(self, name: str, guard: Callable[[], None]) -> None:
        body: dict[str, object] = {"action": "start", "timeout": 30}
        self._change(name, body, START_SECONDS, _RUNNING, guard)

    def restart(
        self,
        name: str,
        grace_ms: int,
        signal: str = "",
        *,
        run: str = "",
        wanted: Callable[[], bool] = _always,
    ) -> bool:
        """Restart it, gracefully at first, then by force; one that is stopped is started.

        With a `signal` that is given from inside, and `grace_ms` are waited for; False when that could not
        be: then the server gives what it gives (SIGTERM, and a second). `run` is the one that is to be ended
        (empty: whichever): when somebody else has ended it and begun another, that is as good. Nothing more
        is sent as soon as it is not `wanted` any more.
        """
        try:
            return self._restart(name, grace_ms, signal, lambda: self._go_on(name, run, wanted))
        except _Settled:
            return True

    def _go_on(self, name: str, run: str, wanted: Callable[[], bool]) -> None:
        """Before each request. Raises _Settled when none is needed any more."""
        if not wanted():
            raise _Settled
        if run and str(self.instance(name)[0].get("last_used_at") or "") != run:
            raise _Settled

    def _restart(self, name: str, grace_ms: int, signal: str, guard: Callable[[], None]) -> bool:
        seconds = math.ceil(grace_ms / 1000)
        given = not (seconds and signal)
        if not given:
            given, ended = self._ended_on_signal(name, grace_ms, signal)
            if ended:
                self._start(name, guard)
                return True
            seconds = 0 if given else seconds
        if seconds:
            with contextlib.suppress(errors.OperationFailed):
                body: dict[str, object] = {"action": "restart", "timeout": seconds, "force": False}
                self._change(name, body, seconds + FORCE_SECONDS, guard=guard)
                return given
        with contextlib.suppress(errors.OperationFailed):
            body = {"action": "restart", "timeout": 30, "force": True}
            self._change(name, body, 2 * FORCE_SECONDS, guard=guard)
            return given
        # Ended by somebody else in the middle: until it has ended for good a start fails, or is answered
        # "already running" [measured].
        self._stays_stopped(name, ENDING_SECONDS)
        self._start(name, guard)
        return given

    def stop(
        self,
        name: str,
        grace_ms: int,
        signal: str = "",
        *,
        run: str = "",
        wanted: Callable[[], bool] = _always,
    ) -> bool:
        """Stop it, gracefully at first; one that is stopped is fine. With no grace it is killed.

        `signal`, `run`, `wanted` and the answer as in `restart`.
        """
        try:
            return self._stop(name, grace_ms, signal, lambda: self._go_on(name, run, wanted))
        except _Settled:
            return True

    def _stop(self, name: str, grace_ms: int, signal: str, guard: Callable[[], None]) -> bool:
        seconds = math.ceil(grace_ms / 1000)
        given = not (seconds and signal)
        if not given:
            given, ended = self._ended_on_signal(name, grace_ms, signal)
            if ended:
                return True
            seconds = 0 if given else seconds
        if seconds:
            with contextlib.suppress(errors.OperationFailed):
                body: dict[str, object] = {"action": "stop", "timeout": seconds, "force": False}
                self._change(name, body, seconds + FORCE_SECONDS, _STOPPED, guard)
                return given
        body = {"action": "stop", "timeout": 30, "force": True}
        self._change(name, body, 2 * FORCE_SECONDS, _STOPPED, guard)
        return given

    def _ended_on_signal(self, name: str, grace_ms: int, signal: str) -> tuple[bool, bool]:
        """Whether its stop signal could be given from inside, and whether it ended on that in time."""
        if not self._client.signal_main(_path(name), signal, self._query):
            return False, False
        return True, self._stays_stopped(name, grace_ms / 1000)

    def _stays_stopped(self, name: str, seconds: float) -> bool:
        """Whether it is stopped within so many seconds, for good."""

        def stopped() -> bool:
            with contextlib.suppress(errors.Unreachable, errors.TimedOut, errors.OperationFailed):
                return self.instance(name)[0].get("status") == "Stopped"
            return False

        return incus.stays_stopped(stopped, seconds, clock=self._clock, sleep=self._sleep)

    def _change(
        self,
        name: str,
        body: dict[str, object],
        timeout: float,
        settled: tuple[str, ...] = (),
        guard: Callable[[], None] | None = None,
    ) -> None:
        path = f"{_path(name)}/state"
        try:
            self._client.call("PUT", path, self._query, body, guard=guard, timeout=timeout)
        except errors.IncusError as error:
            if not any(piece in error.summary for piece in settled):
                raise

    def ending(self, name: str) -> tuple[int | None, bool]:
        """The exit code of its last run, None when the server does not keep it; and whether it was forced.

        What is stopped although its log tells no end was cut off with its host: that is no 0.
        """
        log = self._client.log_file(_path(name), "lxc.log", self._query)
        cut_off = lxclog.goes_on(log) and self._is_at_rest(name)
        return None if cut_off else lxclog.exit_code(log), lxclog.forced(log)

    def _is_at_rest(self, name: str) -> bool:
        stopped = self.instance(name)[0].get("status") == "Stopped"
        at = _path(name)
        under_way = self._client.operations(self._project)
        return stopped and not any(at in incus.touched(one) for one in under_way)

    def heartbeat(self, generation: str) -> str:
        """What moves while the ic run of that generation holds the project; empty when none does."""
        listed = self._client.get("/1.0/profiles", {**self._query, "recursion": "1"})
        profiles: dict[str, dict[str, str]] = {
            one["name"]: one.get("config") or {} for one in cast("list[Body]", listed or [])
        }
        found = lease.objects(self._project, profiles)
        if not found or str(found[0].generation) != generation or not found[0].held:
            return ""
        return f"{found[0].name} {found[0].config.get(names.HEARTBEAT, '')}"

    @contextlib.contextmanager
    def events(self) -> Generator[websocket.Events]:
        """The lifecycle events of the project from now on."""
        with self._client.events(self._query) as stream:
            yield stream


def _path(name: str) -> str:
    return incus.path("instances", name)
