"""Waits until instances are as they shall be: healthy, or only running, or ended well.

Enters: a client, and what is waited for. Leaves: nothing, or the IcError of the first that failed. Waits on
the server's events, and looks now and then, because not every end of a short-lived process is told. How
an instance stands is read off its keys by `standing`, which is pure; the status in them is the daemon's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote

import msgspec

from ic import errors, names
from ic.engine import sidecar as sidecars
from ic.healthd import spec
from ic.incus import client as incus
from ic.incus import lxclog
from ic.plan import desired

if TYPE_CHECKING:
    from ic.compose import model
    from ic.engine import probing
    from ic.resources import kind

Body = dict[str, Any]
Condition = Literal["healthy", "running", "completed"]

LOOK_SECONDS = 2.0  # without an event, everything is looked at again after this long
STATE_SECONDS = 5.0  # how often the daemon itself is looked at
AGAIN_SECONDS = 90.0  # the daemon's longest pause before a start is a minute
SETTLE_SECONDS = 0.5  # what was just started has to run for so long; docker compose's first look
TICK_SECONDS = 0.25  # how soon an interruption is noticed
JOB_HINT = (
    "`--wait` wants every service to run on, also one with `restart: on-failure`, unless another one waits "
    "for its end: `depends_on: {JOB: {condition: service_completed_successfully}}`"
)


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that is waited for.

    `healthy` needs a healthcheck; `running` is content with a running instance that has none, else it must
    be healthy as well (docker's `running or healthy`); `completed` is an end with status 0. `ends` is how
    many ends that its restart policy makes up for are borne, None: all of them. `checked`: it was seen to be
    healthy in this run, and nobody watches it. `started`: it was started just now, and has to go on running.
    """

    name: str
    condition: Condition = "healthy"
    ends: int | None = 0
    checked: bool = False
    started: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How an instance stands: `word` is done, waiting, ended, or failed; `reason` in words."""

    word: Literal["done", "waiting", "ended", "failed"]
    reason: str = ""


def standing(body: Mapping[str, Any], condition: Condition, status: str | None = None) -> Standing:
    """How an instance stands, by its body as the API shows it and its health status. Pure.

    Without a `status` it is the one that the daemon has written; one that was written before the last start
    is of an earlier run, and says nothing.
    """
    config = cast("dict[str, str]", body.get("config") or {})
    power = str(body.get("status", ""))
    if power == "Stopped":
        return Standing("ended")
    if condition == "completed":
        return Standing("waiting", "has not ended")
    if power != "Running":
        return Standing("waiting", f"is {power.lower() or 'unknown'}")
    if not spec.read("", config).test:
        if condition == "running":
            return Standing("done")
        return Standing("failed", "has no healthcheck")
    status = spec.status(body) if status is None else status
    if status == "healthy":
        return Standing("done")
    if status == "unhealthy":
        return Standing("failed", "is unhealthy")
    return Standing("waiting", f"is {status or 'not checked yet'}")


def conditions(stack: model.Stack, services: tuple[str, ...]) -> dict[str, Condition]:
    """What `up --wait` waits for, by service: those named (or all) with what they depend on. Pure.

    A service whose completion another one waits for has to end well, every other one has to run, and to be
    healthy when it has a healthcheck: docker compose's rule.
    """
    selected = desired.selection(stack, services)
    jobs = {
        other
        for name in selected
        for other, dependency in stack.services[name].lifecycle.depends_on.items()
        if dependency.condition == "service_completed_successfully"
    }
    return {name: "completed" if name in jobs else "running" for name in sorted(selected)}


def left_alone(body: Mapping[str, Any]) -> bool:
    """Whether it is stopped, although nobody wanted that and its policy makes up for ends. Pure."""
    asked = spec.read("", cast("dict[str, str]", body.get("config") or {}))
    policy = asked.restart in ("unless-stopped", "on-failure")
    return body.get("status") == "Stopped" and policy and not asked.want_stopped


class Daemon(msgspec.Struct, frozen=True, kw_only=True):
    """The health daemon whose word is waited for: its volume, and for how long (ms) it may not watch."""

    state_path: str
    state_query: dict[str, str] = {}
    patience_ms: int = 30_000


def daemon_of(found: sidecars.Found | None) -> Daemon | None:
    """The daemon in a sidecar that was found. Pure."""
    if found is None or not found.volume:
        return None
    return Daemon(state_path=found.volume, state_query=found.query)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What ends the waiting: `timeout` in seconds (0: none), and a person.

    `told` takes what is waited for: a reason by instance.
    """

    timeout: float = 0.0
    interrupted: Callable[[], bool] = lambda: False
    told: Callable[[Mapping[str, str]], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def wait(
    client: incus.Client,
    query: Mapping[str, str],
    watches: tuple[Watch, ...],
    daemon: Daemon | None,
    limits: Limits,
) -> None:
    """Wait until all are as they shall be. Without a daemon the checks are run from here.

    Raises OperationFailed for the first that is unhealthy (E_UNHEALTHY), ended (E_EXIT_CODE), or whose health
    daemon does not watch (E_HEALTHD); TimedOut; Interrupted; NotFound for an instance that is gone.
    """
    waiting = _Waiting(client, query, watches, daemon, limits)
    if daemon is not None:
        waiting.run()
        return
    from ic.engine import probing
    from ic.healthd import probes

    with probing.Probing(probes.Prober(client, query.get("project", "default"))) as checks:
        waiting.probing = checks
        waiting.run()


class _Waiting:
    def __init__(
        self,
        client: incus.Client,
        query: Mapping[str, str],
        watches: tuple[Watch, ...],
        daemon: Daemon | None,
        limits: Limits,
    ) -> None:
        self.client = client
        self.query = query
        self.limits = limits
        self.daemon = daemon
        self.left = {one.name: one for one in watches}
        self.reasons: dict[str, str] = {}
        self.ends: dict[str, dict[str, float]] = {}  # since when each run is seen to have ended
        self.began = limits.clock()
        self.looked = self.began
        self.asked = self.began  # when the daemon was looked at last
        self.well = self.began  # when it watched, or nothing was asked of it, last
        self.borne: set[str] = set()  # who has ended, and waits for the daemon's start
        self.probing: probing.Probing | None = None
        self.lines: dict[str, str] = {}  # the last line of a probe, where they are run from here

    # --- events ---

    def run(self) -> None:
        """Wait, whatever the server does meanwhile."""
        while not self.over():
            self.check()  # the server restarts: connect and look again
            self.limits.sleep(TICK_SECONDS)

    def over(self) -> bool:
        """Whether all are as they shall be; False when the server went away before."""
        try:
            with self.client.events(self.query) as stream:
                self.look()  # after the subscription, so that nothing is missed in between
                while self.left:
                    self.take(stream.next(min(TICK_SECONDS, self._settling() or TICK_SECONDS)))
        except errors.Unreachable:
            return False
        return True

    def take(self, event: Mapping[str, Any] | None) -> None:
        """An event, or none for a tick: look at whom it is about, or (now and then) at all."""
        self.check()
        metadata = cast("Body", (event or {}).get("metadata") or {})
        name = str(metadata.get("name", ""))
        action = str(metadata.get("action", ""))
        changed = self.probing.news() if self.probing is not None else ()
        if action.startswith("instance-"):
            changed = (*changed, name)
        for one in dict.fromkeys(changed):
            if one in self.left:
                self._judge(one)
        settled = self.looked - self.began < SETTLE_SECONDS and not self._settling()
        if settled or self.limits.clock() - self.looked >= LOOK_SECONDS:
            self.look()

    def look(self) -> None:
        """Look at all that is left."""
        self.looked = self.limits.clock()
        for name in tuple(self.left):
            self._judge(name)
        self.limits.told(dict(self.reasons))

    def check(self) -> None:
        """Raise when the waiting is over: a person, the time, a daemon that does not watch."""
        limits = self.limits
        if limits.interrupted():
            raise errors.Interrupted("cannot wait any longer: interrupted")
        now = limits.clock()
        if limits.timeout and now - self.began >= limits.timeout:
            what = [f"{name} {self.reasons.get(name, '')}".strip() for name in sorted(self.left)]
            raise errors.TimedOut(
                f"cannot wait any longer: not all is well after {limits.timeout:g} s",
                details=tuple(what),
                hint="`ic ps` shows how the services are",
                code="E_WAIT_TIMEOUT",
            )
        if self.daemon is None:
            return
        if self._needs_daemon():
            self._check_daemon(self.daemon, now)
        else:
            self.well = now

    def _needs_daemon(self) -> bool:
        """Whether a verdict is waited for, or the start of a job that has ended badly."""
        return any(
            one.condition != "completed" or one.name in self.borne for one in self.left.values()
        )

    def _check_daemon(self, daemon: Daemon, now: float) -> None:
        patience = daemon.patience_ms / 1000
        if now - self.asked < STATE_SECONDS and now - self.well < patience:
            return
        if now - self.asked < TICK_SECONDS:
            return
        self.asked = now
        why = sidecars.why_not(self.client, daemon.state_path, daemon.state_query)
        if not why:
            self.well = now
        elif now - self.well >= patience:
            jobs = sorted(self.borne & self.left.keys())
            what = f"{', '.join(jobs)} to be started again" if jobs else "health"
            raise errors.OperationFailed(
                f"cannot wait for {what}: the health daemon does not watch: {why}",
                details=tuple(f"{name} {why}" for name, why in sorted(self.reasons.items())),
                hint="`ic healthd status` and `ic healthd logs` tell more",
                code="E_HEALTHD",
            )

    # --- one instance ---

    def _judge(self, name: str) -> None:
        watch = self.left[name]
        body = cast("Body", self.client.get(incus.path("instances", name), self.query))
        found = standing(body, watch.condition, self._probed(name, body))
        self.reasons[name] = found.reason
        self.borne.discard(name)
        if found.word == "ended":
            self._ended(watch, body)
        elif found.word == "failed":
            raise self._failed(name, body, found.reason)
        elif found.word == "done" and not self._falters(watch, body):
            self._done(name)

    def _settling(self) -> float:
        """For how many seconds more what was just started is not believed to run on."""
        return max(self.began + SETTLE_SECONDS - self.limits.clock(), 0.0)

    def _falters(self, watch: Watch, body: Body) -> bool:
        """Whether what was just started may have ended already, as it is not running for long.

        An end is told by its log before the server has cleared up. Raises OperationFailed for one.
        """
        asked = spec.read(watch.name, cast("dict[str, str]", body.get("config") or {}))
        if not watch.started or asked.test:
            return False
        if self._settling():
            return True
        path = incus.path("instances", watch.name)
        if not lxclog.over(self.client.log_file(path, "lxc.log", self.query)):
            return False
        self._ended(watch, body)
        return True

    def _probed(self, name: str, body: Body) -> str | None:
        """The status by the checks that are run from here; None where they are the daemon's."""
        asked = spec.read(name, cast("dict[str, str]", body.get("config") or {}))
        if self.probing is None or body.get("status") != "Running" or not asked.test:
            return None
        if self.left[name].checked:
            return "healthy"
        status, self.lines[name] = self.probing.status(body)
        return status

    def _done(self, name: str) -> None:
        del self.left[name]
        self.reasons.pop(name, None)

    def _ended(self, watch: Watch, body: Body) -> None:
        path = incus.path("instances", watch.name)
        log = self.client.log_file(path, "lxc.log", self.query)
        code = lxclog.exit_code(log)
        now = cast("Body", self.client.get(path, self.query))
        run = str(body.get("last_used_at", ""))
        # A start empties the log before it changes anything else.
        another = lxclog.goes_on(log) or str(now.get("last_used_at", "")) != run
        config = cast("dict[str, str]", body.get("config") or {})
        # Without that key no code is to be had: W_CONFINED.
        known = lxclog.LEVEL_KEY in config.get("raw.lxc", "")
        if watch.condition == "completed" and not another and (code == 0 or not known):
            self._done(watch.name)
            return
        asked = spec.read(watch.name, config)
        ends = self.ends.setdefault(watch.name, {})
        since = ends.setdefault(run, self.limits.clock())
        most = (asked.restart_limit or len(ends)) if watch.ends is None else watch.ends
        again = another or (len(ends) <= most and comes_back(asked.restart, code))
        if again and self.limits.clock() - since < AGAIN_SECONDS:
            self.reasons[watch.name] = "has ended, and waits to be started again"
            if not another:
                self.borne.add(watch.name)
            return
        how = "has ended" if code is None else f"ended with exit code {code}"
        raise errors.OperationFailed(
            f"cannot go on with instance {watch.name}: it {how}",
            details=self.client.last_output(path, self.query),
            hint=JOB_HINT if watch.condition == "running" and code == 0 else "",
            code="E_EXIT_CODE",
        )

    def _failed(self, name: str, body: Body, reason: str) -> errors.OperationFailed:
        config = cast("dict[str, str]", body.get("config") or {})
        said = self.lines.get(name, "" if self.probing else config.get(names.HEALTH_OUTPUT, ""))
        probe = (f"its probe said: {said}",) if said else ()
        return errors.OperationFailed(
            f"cannot go on with instance {name}: it {reason}",
            details=(*probe, *self.client.last_output(incus.path("instances", name), self.query)),
            code="E_UNHEALTHY",
        )


def comes_back(policy: spec.Policy, code: int | None) -> bool:
    """Whether a restart policy makes up for an end with this exit code (None: unknown). Pure."""
    return policy in ("always", "unless-stopped") or (policy == "on-failure" and code != 0)


# --- a plan's steps ---------------------------------------------------------------------------------


def await_exit(client: incus.Client, deed: kind.AwaitExit, limits: Limits) -> None:
    """Wait until a one-shot job has ended well; docker compose's rule, which bears what is started again.

    The daemon that is to start it again is looked at as long as it has not.
    """
    name = unquote(deed.path.rpartition("/")[2])
    watch = Watch(name=name, condition="completed", ends=None if deed.again else 0)
    _Waiting(client, deed.query, (watch,), _daemon(deed), limits).run()


def await_healthy(client: incus.Client, deed: kind.AwaitHealthy, limits: Limits) -> None:
    """Wait for what a service depends on; an end, or a bad verdict, is a failure at once."""
    name = unquote(deed.path.rpartition("/")[2])
    wait(client, deed.query, (Watch(name=name),), _daemon(deed), limits)


def _daemon(deed: kind.AwaitExit | kind.AwaitHealthy) -> Daemon | None:
    if not deed.state_path:
        return None
    return Daemon(
        state_path=deed.state_path, state_query=deed.state_query, patience_ms=deed.patience_ms
    )
