"""One probe: the command of a health check, run once in its instance, to its end or its time's.

In: a client, and an Order. Out: a Result, whatever happens; nothing is decided about it here. The command
runs as docker runs one: as the service's user with that user's HOME, in its directory and environment,
without a terminal, its input empty. Its time counts from when its process began, not from the request, and
what the server needs to tell of a begin it may need to tell of an end: a late answer is no slow service. All
of its output is read, the end of it kept. When its time is over, or the daemon's, it is killed with all that
it has started (`sweep`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import msgspec

from ic import errors
from ic.healthd import sweep
from ic.incus import client as incus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ic.incus import streams

START_SECONDS = (
    30.0  # until the command runs; over that it is the server that fails, not the service
)
END_SECONDS = 5.0  # for a killed command to end
KEPT = 4096  # bytes of output
TURN = 0.25  # seconds: how soon the daemon's end is noticed
LEAVING_SECONDS = 0.7  # for all of that when the daemon itself has to end
GONE_SECONDS = 1.5  # a stopping instance kills what runs in it before it is seen to be stopped
PASSWD_SECONDS = 300.0
_PASSWD_LIMIT = 1024 * 1024
_PASSWD_LINKS = 5
_ENDED_BY_A_STOP = (137, 143)
_NOT_RUNNING = ("is not running", "isn't running", "instance is stopped")


class Stop(Protocol):
    """Tells a probe to end; a threading.Event is one."""

    def is_set(self) -> bool:
        """Whether it shall end."""
        ...


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `instance` is its name; `timeout_ms` counts from the process's begin.

    `environment` is added to that of the instance; HOME and USER are looked up in the instance when they are
    not in it. `marker` is another one for each probe. `run` names the run of the instance (its
    `last_used_at`), empty when it is not known.
    """

    instance: str
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    uid: int = 0
    gid: int = 0
    cwd: str = "/"
    timeout_ms: int
    marker: str
    run: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a probe.

    `exit`: it ended with `code` (127: no such command, 126: not executable, 128+n: killed by signal n).
    `timeout`: killed for taking too long. `error`: the server could not run it, or did not tell how it ended
    (`error` says why). `gone`: the instance stopped, or is not running. `output` is the end of what it wrote,
    both streams as they came; `leaked` names the processes of it that are left.
    """

    kind: Literal["exit", "timeout", "error", "gone"]
    code: int = 0
    output: bytes = b""
    leaked: tuple[str, ...] = ()
    error: errors.IncusError | None = None


class _Tail:
    """The last bytes of much."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = bytearray()

    def add(self, piece: memoryview) -> None:
        self._kept += piece[-self._size :]
        if len(self._kept) > 2 * self._size:
            del self._kept[: -self._size]

    @property
    def bytes(self) -> bytes:
        return bytes(self._kept[-self._size :])


class User(msgspec.Struct, frozen=True):
    """An entry of an instance's user database."""

    name: str
    home: str


def user_of(passwd: bytes, uid: int) -> User | None:
    """The first user of that id in an /etc/passwd. Pure."""
    for line in passwd.decode(errors="replace").splitlines():
        words = line.split(":")
        if len(words) >= 6 and words[2] == str(uid):
            return User(words[0], words[5] or "/")
    return None


class Prober:
    """Runs probes in the instances of one project; may be called from several threads at once."""

    def __init__(
        self,
        client: incus.Client,
        project: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._query = {"project": project}
        self._clock = clock
        self._sleep = sleep
        self._users: dict[tuple[str, int], tuple[str, float, User | None]] = {}

    def __call__(self, order: Order, stop: Stop) -> Result:
        """Run one probe to its end. Every failure of the server is a Result."""
        tail = _Tail(KEPT)
        try:
            result = self._run(order, stop, tail)
        except errors.NotFound as error:
            return Result(kind="gone", output=tail.bytes, error=error)
        except errors.IncusError as error:
            low = error.summary.lower()
            gone = any(text in low for text in _NOT_RUNNING)
            return Result(kind="gone" if gone else "error", output=tail.bytes, error=error)
        if result.kind == "exit" and result.code in _ENDED_BY_A_STOP and self._is_gone(order):
            return msgspec.structs.replace(result, kind="gone")
        return result

    def _run(self, order: Order, stop: Stop, tail: _Tail) -> Result:
        path = incus.path("instances", order.instance)
        environment = {**self._identity(order), **order.environment, sweep.MARKER: order.marker}
        asked = self._clock()
        with self._client.exec(
            path,
            order.argv,
            self._query,
            user=order.uid,
            group=order.gid,
            cwd=order.cwd,
            environment=environment,
            timeout=START_SECONDS,
        ) as running:
            # Two answers one after the other: the operation, and its streams.
            lag = min(max(0.0, running.began - asked) / 2, START_SECONDS)
            code = self._follow(running, order, stop, tail, lag)
            if code is not None:
                return Result(kind="exit", code=code, output=tail.bytes)
            leaving = stop.is_set()
            # Before its own process is killed: its children are still known as such.
            left = self._sweep(order, LEAVING_SECONDS if leaving else sweep.PATIENCE)
        # Leaving the `with` has killed its own process, where no program of the image could.
        if leaving:
            return Result(kind="error", output=tail.bytes)
        if self._client.exec_status(running, END_SECONDS) is None or left:
            left = self._sweep(order, sweep.PATIENCE)
        return Result(kind="timeout", output=tail.bytes, leaked=left)

    def _follow(
        self, running: streams.Command, order: Order, stop: Stop, tail: _Tail, lag: float
    ) -> int | None:
        """The exit status; None when its time is over, or the daemon's. News come `lag` seconds late."""
        deadline = running.began + order.timeout_ms / 1000 + lag
        while (left := deadline - self._clock()) > 0 and not stop.is_set():
            if not running.ended:
                running.read(tail.add, min(left, TURN))
                continue
            # A process may close its output long before it ends; mostly it has ended already.
            code = self._client.exec_status(running, min(left, 1.0))
            if code is not None:
                return code
            if left < 1.0:
                self._sleep(min(left, 0.05))
        # What has ended before it could be killed has not timed out.
        return None if stop.is_set() else self._client.exec_status(running, 0)

    def _sweep(self, order: Order, patience: float) -> tuple[str, ...]:
        """What is left of a probe; nothing when the server does not let us look."""
        path = incus.path("instances", order.instance)
        try:
            return sweep.sweep(
                self._client,
                path,
                self._query,
                order.marker,
                patience=patience,
                clock=self._clock,
                sleep=self._sleep,
            )
        except errors.IncusError:
            return ()

    def _is_gone(self, order: Order) -> bool:
        """Whether the instance has stopped, or was started anew, since the probe began."""
        deadline = self._clock() + GONE_SECONDS
        while True:
            try:
                body = cast(
                    "dict[str, Any]",
                    self._client.get(incus.path("instances", order.instance), self._query),
                )
            except errors.NotFound:
                return True
            except errors.IncusError:
                return False
            if body.get("status") != "Running":
                return True
            if order.run and body.get("last_used_at") != order.run:
                return True
            if self._clock() >= deadline:
                return False
            self._sleep(0.3)

    def _identity(self, order: Order) -> dict[str, str]:
        """HOME and USER of the user that a probe runs as; docker's HOME of an unknown one is `/`."""
        if "HOME" in order.environment and "USER" in order.environment:
            return {}
        key = (order.instance, order.uid)
        run, at, user = self._users.get(key, ("", float("-inf"), None))
        if run != order.run or self._clock() - at > PASSWD_SECONDS:
            user = user_of(self._passwd(order.instance), order.uid)
            self._users[key] = (order.run, self._clock(), user)
        if user is None:
            return {"HOME": "/"}
        return {"HOME": user.home, "USER": user.name}

    def _passwd(self, instance: str) -> bytes:
        """The /etc/passwd of an instance, empty when it has none."""
        path, file = incus.path("instances", instance), "/etc/passwd"
        for _ in range(_PASSWD_LINKS):
            try:
                stat, content = self._client.file_get(path, file, self._query, limit=_PASSWD_LIMIT)
            except (errors.NotFound, errors.OperationFailed):
                return b""
            if stat.type != "symlink":
                return content if stat.type == "file" else b""
            target = content.decode(errors="surrogateescape")
            file = target if target.startswith("/") else f"/etc/{target}"
        return b""
