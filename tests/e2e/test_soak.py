"""Obligation: the daemon watches for an hour as it did in the first minute: nothing grows, nobody restarts in vain.

A stack of services that are well, that fall over, that hang, and that talk too much. Every so often the
daemon's own metrics are read. `IC_SOAK_SECONDS` says how long the long form takes (3600 without it).
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Any

import pytest

from tests.e2e import scenario

DAEMON = "ic-healthd"
MIB = 1024 * 1024
ASK = (
    "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/dev/shm/ic-metrics.sock');"
    " s.shutdown(socket.SHUT_WR); f = s.makefile('r'); print(f.read())"
)
FALLS_EVERY = 20  # seconds


def checked(test: list[str], **more: Any) -> dict[str, Any]:
    """A service with a check every five seconds."""
    check = {"test": test, "interval": "5s", "timeout": "2s", "retries": 3, "start_interval": "1s"}
    return scenario.idle(healthcheck={**check, **more})


def stack(well: int, falls_every: int) -> dict[str, Any]:
    """`well` services that are well, and four that are not, each in its own way."""
    services = {f"well{n}": checked(["CMD", "true"]) for n in range(well)}
    services["talker"] = checked(["CMD-SHELL", "dd if=/dev/zero bs=1M count=20 2>/dev/null"])
    services["shell"] = checked(["CMD-SHELL", 'test "$$(id -u)" = 0 && echo fine'])
    services["hangs"] = {
        **checked(["CMD-SHELL", "trap '' TERM; sleep 600 & sleep 600"], timeout="1s", retries=2),
        "restart": "no",
    }
    services["falls"] = {
        "image": "busybox",
        "command": ["sh", "-c", f"sleep {falls_every}; exit 3"],
        "restart": "always",
    }
    return {"services": services}


class Sample:
    """What the daemon's metrics said at a moment."""

    def __init__(self, text: str) -> None:
        self.at = time.monotonic()
        self.values = {
            name: float(value)
            for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)
        }

    def sum(self, name: str) -> float:
        """All values of a family."""
        return sum(v for key, v in self.values.items() if key.partition("{")[0] == name)

    def restarts(self, instance: str) -> float:
        """How often the daemon has restarted an instance for its health."""
        return self.values.get(f'ic_healthd_instance_restarts_total{{instance="{instance}"}}', 0.0)

    @property
    def starts(self) -> float:
        """How often the daemon has started again what had ended: `falls` is the only one that does."""
        return self.values.get('ic_healthd_acts_total{act="start"}', 0.0)

    @property
    def memory(self) -> float:
        """Resident MiB."""
        return self.sum("process_resident_memory_bytes") / MIB


def soak(
    case: scenario.Scenario, well: int, seconds: float, falls_every: int = FALLS_EVERY
) -> list[Sample]:
    """Let the stack run; samples from after the beginning to the end, about sixty of them."""
    case.compose(stack(well, falls_every))
    case.ic("up", "-d", timeout=300)
    time.sleep(8)
    before = {name: case.started(name) for name in case.instances() if name.startswith("well")}
    samples = [Sample(case.run(DAEMON, "python3", "-c", ASK))]
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, max(4.0, seconds / 60)))
        samples.append(Sample(case.run(DAEMON, "python3", "-c", ASK)))
    instances = case.instances()
    assert {name: case.started(name) for name in before} == before
    assert {instances[name]["config"].get("user.healthcheck.status") for name in before} == {
        "healthy"
    }
    assert instances["hangs"]["config"].get("user.healthcheck.status") == "unhealthy"
    assert instances["hangs"]["status"] == "Running"
    left_over = case.run("hangs", "sh", "-c", "ps | grep -c 'sleep [6]00' || true")
    assert int(left_over) <= 2, "probes that timed out have left processes behind"
    return samples


def figures(samples: list[Sample]) -> str:
    """The run in one line, for a person."""
    first, last = samples[0], samples[-1]
    seconds = last.at - first.at
    probes = last.sum("ic_healthd_probes_total") - first.sum("ic_healthd_probes_total")
    cpu = last.sum("process_cpu_seconds_total") - first.sum("process_cpu_seconds_total")
    late = last.sum("ic_healthd_probe_late_seconds_sum") / max(
        1.0, last.sum("ic_healthd_probe_late_seconds_count")
    )
    falls = last.starts - first.starts
    return (
        f"{seconds:.0f} s, {probes:.0f} probes, {cpu / max(1.0, probes) * 1000:.1f} ms of CPU each, "
        f"late by {late * 1000:.0f} ms on average, {falls:.0f} restarts of what falls; resident MiB "
        f"{first.memory:.1f} first, {max(s.memory for s in samples):.1f} most, {last.memory:.1f} last; "
        f"{last.sum('ic_healthd_listings_total') - first.sum('ic_healthd_listings_total'):.0f} listings, "
        f"{last.sum('ic_healthd_writes_total') - first.sum('ic_healthd_writes_total'):.0f} status writes"
    )


def test_a_quarter_of_a_minute_of_watching(case: scenario.Scenario) -> None:
    samples = soak(case, well=2, seconds=14, falls_every=6)
    assert max(one.memory for one in samples) <= 40, figures(samples)
    assert samples[-1].starts >= 1, figures(samples)
    assert samples[-1].restarts("well0") == 0


@pytest.mark.long
def test_an_hour_of_watching_thirty(
    case: scenario.Scenario, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = float(os.environ.get("IC_SOAK_SECONDS", "3600"))
    samples = soak(case, well=26, seconds=seconds)
    said = figures(samples)
    with capsys.disabled():
        sys.stdout.write(f"\nsoak: {said}\n")
    assert max(one.memory for one in samples) <= 40, said
    quarter = max(1, len(samples) // 4)
    early = sum(one.memory for one in samples[:quarter]) / quarter
    late = sum(one.memory for one in samples[-quarter:]) / quarter
    assert late <= early + 1.5, said
    falls = samples[-1].starts - samples[0].starts
    # Each fall: 20 s up, 0.8 s until Incus tells, 0.1 s of backoff (reset after 10 s up), 0.3 s to start.
    assert seconds / (FALLS_EVERY + 4) <= falls <= seconds / FALLS_EVERY + 1, said
