"""When something is started again after it ended, and how soon it may be restarted for its health. Pure.

Exits follow docker (its documentation of restart policies: 100 ms, doubled up to a minute, begun anew after a
run of ten seconds; `on-failure[:N]` counts). Health restarts, which docker does not have, wait 10 s after
the last one, doubled up to five minutes, begun anew after ten healthy minutes; five of them in ten minutes
are visible as `restart-limited`. Times in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from ic.healthd import spec

EXIT_FIRST_MS = 100
EXIT_MOST_MS = 60_000
EXIT_GOOD_MS = 10_000
HEALTH_FIRST_MS = 10_000
HEALTH_MOST_MS = 300_000
HEALTH_GOOD_MS = 600_000
LIMIT_WINDOW_MS = 600_000
LIMIT_RESTARTS = 5

Why = Literal["restart", "no-policy", "completed", "gave-up", "exit-code-unknown"]


class Exits(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of the exits since a person started the instance: the last pause, and a count.

    `restarts` counts what `on-failure:N` limits, `unknown` those of them whose exit code was not known.
    """

    delay_ms: int = 0
    restarts: int = 0
    unknown: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """After an exit: start again in `wait_ms`, or not (None), and the reason in a word."""

    exits: Exits
    wait_ms: int | None
    why: Why


def after_exit(asked: spec.Spec, exits: Exits, *, ran_ms: int, code: int | None) -> Decision:
    """What follows an exit that nobody asked for.

    `ran_ms` is how long the instance was up; `code` its exit status, None when it is not to be had (a server
    that keeps none): that counts as a failure, but then `on-failure` without a number tries only once, since
    it could go on for ever over a service that has done its work.
    """
    delay = 0 if ran_ms >= EXIT_GOOD_MS else exits.delay_ms
    delay = EXIT_FIRST_MS if delay == 0 else min(2 * delay, EXIT_MOST_MS)
    unknown = code is None
    why: Why = "no-policy"
    if asked.restart in ("always", "unless-stopped"):
        why = "restart"
    elif asked.restart == "on-failure":
        why = _on_failure(asked.restart_limit, exits, code, unknown=unknown)
    after = Exits(
        delay_ms=delay,
        restarts=exits.restarts + (why == "restart"),
        unknown=exits.unknown + (why == "restart" and unknown),
    )
    return Decision(exits=after, wait_ms=delay if why == "restart" else None, why=why)


def _on_failure(limit: int, exits: Exits, code: int | None, *, unknown: bool) -> Why:
    if code == 0:
        return "completed"
    if limit and exits.restarts >= limit:
        return "exit-code-unknown" if unknown else "gave-up"
    if unknown and not limit and exits.unknown:
        return "exit-code-unknown"
    return "restart"


class Restarts(msgspec.Struct, frozen=True, kw_only=True):
    """The health restarts of an instance: the pause to keep after the last one, and when they were."""

    delay_ms: int = 0
    times: tuple[int, ...] = ()

    @property
    def last(self) -> int | None:
        """When the last one was."""
        return self.times[-1] if self.times else None


def limited(restarts: Restarts, now: int) -> bool:
    """Whether it was restarted too often of late: it still is, but every five minutes at most."""
    recent = [at for at in restarts.times if now - at < LIMIT_WINDOW_MS]
    return len(recent) >= LIMIT_RESTARTS


def allowed_at(restarts: Restarts, now: int) -> int:
    """When the next health restart may begin."""
    if restarts.last is None:
        return now
    delay = HEALTH_MOST_MS if limited(restarts, now) else restarts.delay_ms
    return restarts.last + delay


def restarted(restarts: Restarts, now: int) -> Restarts:
    """After one more health restart."""
    delay = (
        HEALTH_FIRST_MS if restarts.delay_ms == 0 else min(2 * restarts.delay_ms, HEALTH_MOST_MS)
    )
    return Restarts(delay_ms=delay, times=(*restarts.times, now)[-LIMIT_RESTARTS:])


def settled(restarts: Restarts, healthy_since: int | None, now: int) -> Restarts:
    """The same, or none when it has been healthy for ten minutes."""
    good = healthy_since is not None and now - healthy_since >= HEALTH_GOOD_MS
    return Restarts() if good and restarts.times else restarts
