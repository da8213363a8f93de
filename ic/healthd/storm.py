"""When health restarts have to wait: a server in trouble, or too many at once. Pure; the clock comes in.

In: how long calls took, how each instance's probes go, and which health restarts are under way. Out: whether
one more may begin, and the reason when none may. A server that answers late, or a third of everything
failing at one time, is not cured by restarts: then verdicts are reported only (*brown-out*), until nothing
of it was seen for two intervals. Exits are not its matter: docker's backoff is for those. Times in ms.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

SPACING_MS = 2_000  # from the start of one health restart to that of the next
SHARE = 10  # per cent of the watched instances may be in a health restart at one time
FAILING = 30  # per cent of the probed instances that begin to fail together
FEWEST = 3  # and at least so many: one of two services is a broken service, not a storm
PROBED = 5  # with fewer probed instances there is no crowd to speak of
SLOWER = 5.0  # times the usual latency
SLOW_MS = 1_000.0  # below this nothing is slow: a busy machine is no trouble
BASELINE_MOST_MS = 900.0
RECENT = 5  # latencies that are looked at
FIRST_MOST_MS = 60_000  # after connecting no health restart begins for an interval, at most this


class _Course(msgspec.Struct):
    """How the probes of one instance go: the last one, and since when they fail (None: they do not)."""

    interval: int
    at: int
    failing: int | None


class Storm:
    """What is known of the weather."""

    def __init__(self) -> None:
        self._courses: dict[str, _Course] = {}
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._baseline = 0.0
        self._connected = 0
        self._restarting: set[str] = set()
        self._last = -SPACING_MS
        self._seen = ""  # the reason of the brown-out, empty when there is none
        self._until = 0

    def connected(self, now: int) -> None:
        """The server is there (again): it starts by itself what ran before."""
        self._connected = now

    def slow(self, latency_ms: float) -> bool:
        """Whether a call that took so long took far longer than usual."""
        usual = min(self._baseline, BASELINE_MOST_MS)
        return latency_ms > max(SLOW_MS, SLOWER * usual)

    def answered(self, latency_ms: float) -> None:
        """A call was answered after so long."""
        self._latencies.append(latency_ms)
        if not self._baseline:
            self._baseline = latency_ms
        elif not self.slow(latency_ms):
            self._baseline += (latency_ms - self._baseline) / 20

    def probed(self, name: str, interval: int, now: int, *, good: bool) -> None:
        """A probe of an instance ended. One that could not be run is not good either."""
        course = self._courses.get(name)
        if course is None:
            course = self._courses[name] = _Course(interval, now, None)
        course.interval, course.at = interval, now
        if good:
            course.failing = None
        elif course.failing is None:
            course.failing = now

    def forget(self, name: str) -> None:
        """The instance is not probed any more."""
        self._courses.pop(name, None)
        self._restarting.discard(name)

    def began(self, name: str, now: int) -> None:
        """A health restart begins."""
        self._restarting.add(name)
        self._last = now

    def ended(self, name: str) -> None:
        """It is over, well or not."""
        self._restarting.discard(name)

    def brown_out(self, now: int) -> str:
        """Why nothing is restarted for its health at present; empty when there is no reason."""
        reason = self._trouble(now)
        if reason:
            self._seen = self._seen or reason
            self._until = now + 2 * self._usual_interval()
        elif now >= self._until:
            self._seen = ""
        return self._seen

    def admits(self, interval: int, watched: int, now: int) -> bool:
        """Whether one more health restart may begin now."""
        return (
            now - self._connected >= min(interval, FIRST_MOST_MS)
            and now - self._last >= SPACING_MS
            and len(self._restarting) < max(1, watched * SHARE // 100)
            and not self.brown_out(now)
        )

    def _usual_interval(self) -> int:
        intervals = [course.interval for course in self._courses.values()]
        return int(_middle(intervals)) if intervals else FIRST_MOST_MS

    def _trouble(self, now: int) -> str:
        recent = self._latencies
        if len(recent) == RECENT and self.slow(_middle(recent)):
            return "the server answers late"
        # Only what began to fail of late: what has been broken for long is a broken service.
        live = [
            course for course in self._courses.values() if now - course.at <= 3 * course.interval
        ]
        fresh = [
            course
            for course in live
            if course.failing is not None and now - course.failing <= 3 * course.interval
        ]
        crowd = len(live) >= PROBED and len(fresh) >= FEWEST
        if crowd and len(fresh) * 100 > FAILING * len(live):
            return f"{len(fresh)} of {len(live)} began to fail together"
        return ""


def _middle(values: Iterable[float]) -> float:
    """The median, of an even number the upper one; the library's would bring a megabyte into the daemon."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
