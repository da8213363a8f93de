"""A reference: docker's rules of health checks and restart policies, written from docker's documentation.

Dockerfile reference, HEALTHCHECK; Engine API, HealthConfig; "Start containers automatically". It is meant to
be read beside them: loops over what happened, no state machine, no events, nothing of `ic.healthd`. Times in
milliseconds since the container's start.
"""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """HealthConfig, and the number of its retries."""

    interval: int = 30_000
    retries: int = 3
    start_period: int = 0
    start_interval: int = 5_000


class Probe(NamedTuple):
    """One run of the check: whether it succeeded, and how long it took."""

    good: bool
    took: int


class Verdict(NamedTuple):
    """When a probe started, and what the status was after it."""

    started: int
    status: str
    streak: int


def verdicts(check: Check, probes: list[Probe]) -> list[Verdict]:
    """The first probe is one interval after the start, each next one an interval after the last one's end.

    In the start period the start interval counts instead, until a success ends it; and failures then do not
    count. After `retries` failures in a row the container is unhealthy, one success makes it healthy.
    """
    status, streak, now = "starting", 0, 0
    found: list[Verdict] = []
    for probe in probes:
        rest = check.start_period - now
        if status == "starting" and rest > 0:
            now += min(check.start_interval, rest)
        else:
            now += check.interval
        started = now
        now += probe.took
        if probe.good:
            status, streak = "healthy", 0
        elif not (status == "starting" and started < check.start_period):
            streak += 1
            if streak >= check.retries:
                status = "unhealthy"
        found.append(Verdict(started, status, streak))
    return found


class Run(NamedTuple):
    """One run of a container: how long, how it ended (an exit code, or None: `docker stop`)."""

    lasted: int
    code: int | None


def pauses(policy: str, limit: int, runs: list[Run]) -> list[int | None]:
    """After each run, ms until docker starts it again; None when it does not (then a person does).

    The pause begins at 100 ms, doubles with each restart up to a minute, and begins anew after a run of ten
    seconds. `on-failure:N` gives up after N restarts. A container that a person stopped stays stopped; a
    person's start begins everything anew.
    """
    found: list[int | None] = []
    pause = restarts = 0
    for run in runs:
        if run.code is None:
            found.append(None)
            pause = restarts = 0
            continue
        pause = 100 if run.lasted >= 10_000 or not pause else min(2 * pause, 60_000)
        wanted = policy in ("always", "unless-stopped") or (
            policy == "on-failure" and run.code != 0 and not (limit and restarts >= limit)
        )
        if wanted:
            restarts += 1
            found.append(pause)
        else:
            found.append(None)
            pause = restarts = 0
    return found
