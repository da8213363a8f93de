"""`ic up --wait`: ends when all is as docker's would have it, tells a service manager, fails when one falls."""

from __future__ import annotations

import select
import socket

from tests.cli import test_documents as schemas
from tests.e2e import scenario

JOB = {"image": "busybox", "command": ["sh", "-c", "sleep 1; exit 0"]}


class Manager:
    """The notify socket of a service manager, in the stack's directory."""

    def __init__(self, case: scenario.Scenario) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(case.directory / "notify"))
        self.env = {"NOTIFY_SOCKET": f"{case.inside}/notify"}

    def heard(self) -> list[str]:
        """Every line that was told so far."""
        lines: list[str] = []
        while select.select([self.socket], [], [], 0.2)[0]:
            lines += self.socket.recv(4096).decode().splitlines()
        return lines


def test_a_unit_is_told_when_all_run_and_may_be_started_again(case: scenario.Scenario) -> None:
    case.compose({"services": {"web": scenario.idle(), "db": scenario.idle()}})
    manager = Manager(case)
    done = case.ic("up", "--wait", "--json", env=manager.env)
    schemas.Schema("ic.apply-1").check(done.json())
    heard = manager.heard()
    assert heard[0] == "EXTEND_TIMEOUT_USEC=30000000"
    assert f"STATUS=starting stack {case.name}" in heard
    assert heard[-2:] == ["READY=1", f"STATUS=2 instances of {case.name} up"]
    assert case.states() == {"web": "Running", "db": "Running"}
    before = case.started("web")
    case.ic("up", "--wait", env=manager.env)
    assert "READY=1" in manager.heard()
    assert case.started("web") == before
    case.ic("up", "-d", env=manager.env)
    assert manager.heard() == []
    manager.socket.close()


def test_a_job_that_somebody_waits_for_has_to_end_well(case: scenario.Scenario) -> None:
    needs = {"job": {"condition": "service_completed_successfully"}}
    case.compose({"services": {"web": scenario.idle(depends_on=needs), "job": JOB}})
    case.ic("up", "--wait")
    assert case.states() == {"web": "Running", "job": "Stopped"}


def test_a_service_that_has_ended_is_a_failure_with_its_last_words(case: scenario.Scenario) -> None:
    bad = {"image": "busybox", "command": ["sh", "-c", "sleep 1; echo no luck; exit 5"]}
    slow = {"image": "busybox", "command": ["sh", "-c", "sleep 4"]}
    needs = {"slow": {"condition": "service_completed_successfully"}}
    case.compose({"services": {"web": scenario.idle(depends_on=needs), "slow": slow, "bad": bad}})
    manager = Manager(case)
    done = case.ic("up", "--wait", env=manager.env, code=1)
    heard = manager.heard()
    assert "instance bad: it ended with exit code 5" in done.err
    assert "no luck" in done.err
    assert "READY=1" not in heard
    assert "ended with exit code 5" in heard[-1]
    assert case.states() == {"web": "Running", "slow": "Stopped", "bad": "Stopped"}
    manager.socket.close()


def test_a_time_to_wait_needs_the_waiting(case: scenario.Scenario) -> None:
    case.compose({"services": {"web": scenario.idle()}})
    assert "together with --wait" in case.ic("up", "-d", "--wait-timeout", "3", code=1).err
    assert "above 0" in case.ic("up", "--wait", "--wait-timeout", "0", code=1).err
    assert not case.exists()
