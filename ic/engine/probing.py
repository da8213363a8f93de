"""Runs health checks from here, for a run that waits for health where no health daemon is.

Enters: a way to run one probe, and the bodies of running instances. Leaves: the status of each, as the health
daemon would say it: the same rules (`healthd.worker`), the same probes. One thread per instance, for as
long as the `with` lasts. Nothing is written to the instances, and nothing is restarted.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ic.healthd import manager, spec, worker
from ic.incus import transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.healthd import probes

LONGEST_PAUSE = 1.0  # seconds between looks at the clock


class Probing:
    """The checks of some instances, running."""

    def __init__(
        self,
        probe: Callable[[probes.Order, threading.Event], probes.Result],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._stop = threading.Event()
        self._told: dict[str, tuple[str, str, str]] = {}  # run, status and last line of an instance
        self._news: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Probing:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the probes that run; no thread is waited for."""
        self._stop.set()

    def status(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """Status and last line of a running instance; being asked of a new run of it begins its checks."""
        name, run = str(body.get("name", "")), str(body.get("last_used_at", ""))
        with self._lock:
            known = self._told.get(name)
            if known is not None and known[0] == run:
                return known[1], known[2]
            self._told[name] = (run, "starting", "")
        asked = spec.read(name, body.get("expanded_config") or body.get("config") or {})
        threading.Thread(target=self._check, args=(asked, run), daemon=True).start()
        return "starting", ""

    def news(self) -> tuple[str, ...]:
        """The instances whose status has changed since this was last asked."""
        with self._lock:
            found, self._news = tuple(sorted(self._news)), set()
        return found

    def _check(self, asked: spec.Spec, run: str) -> None:
        """The life of one instance's checks, from the start of this run of it."""
        state, _ = worker.step(worker.State(), asked, worker.Started(), self._now())
        while self._tell(asked.name, run, state):
            due = worker.wake(state, asked)
            pause = LONGEST_PAUSE if due is None else (due - self._now()) / 1000
            if self._stop.wait(min(max(pause, 0.0), LONGEST_PAUSE)):
                return
            state, commands = worker.step(state, asked, worker.Tick(), self._now())
            for command in commands:
                if isinstance(command, worker.Probe):
                    state = self._probed(state, asked, command.number, run)

    def _probed(self, state: worker.State, asked: spec.Spec, number: int, run: str) -> worker.State:
        began = self._now()
        marker = f"{os.getpid()}-{asked.name}-{number}"
        result = self._probe(manager.order(asked, marker, run), self._stop)
        event = worker.Probed(
            number=number,
            started=began,
            kind=result.kind,
            code=result.code,
            line=_last_line(result.output),
            leaked=result.leaked,
        )
        return worker.step(state, asked, event, self._now())[0]

    def _tell(self, name: str, run: str, state: worker.State) -> bool:
        """Note how the instance is; False when another run of it has begun, or nobody asks any more."""
        line = state.lines[-1] if state.lines else ""
        told = (run, state.status, line)
        with self._lock:
            known = self._told[name]
            if known[0] != run or self._stop.is_set():
                return False
            if told[1] != known[1]:
                self._news.add(name)
            self._told[name] = told
        return True

    def _now(self) -> int:
        return round(self._clock() * 1000)


def _last_line(output: bytes) -> str:
    """The last line that a probe wrote, without control characters. Pure."""
    lines = output.decode(errors="replace").splitlines()
    return next((line for one in reversed(lines) if (line := transport.clean(one))), "")
