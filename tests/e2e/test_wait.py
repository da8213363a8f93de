"""`ic up --wait`: ends when all is as docker's would have it, tells a service manager, fails when one falls."""

from __future__ import annotations

import select
import socket

import pytest

from ic import units
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
    quick = {"image": "busybox", "command": ["true"]}  # over before it is looked at
    case.compose({"services": {"web": scenario.idle(), "job": quick}})
    done = case.ic("up", "--wait", code=1)
    assert "instance job: it ended with exit code 0" in done.err
    assert "service_completed_successfully" in done.err


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


READY = {"test": ["CMD", "test", "-e", "/tmp/ready"], "interval": "1s", "start_interval": "500ms"}
SLOW = [
    "sh",
    "-c",
    "sleep 3; touch /tmp/ready; trap 'exit 0' TERM; while :; do sleep 100 & wait $$!; done",
]


def began(case: scenario.Scenario, instance: str) -> float:
    """When an instance was started, in seconds since 1970."""
    ms = units.time_ms(case.started(instance))
    assert ms is not None
    return ms / 1000


@pytest.mark.parametrize("option", ["--pull=missing", "--no-healthd"])
def test_a_dependency_is_waited_for_until_it_is_healthy(
    case: scenario.Scenario, option: str
) -> None:
    db = {"image": "busybox", "command": SLOW, "healthcheck": {**READY, "retries": 20}}
    needs = {"db": {"condition": "service_healthy"}}
    case.compose({"services": {"web": scenario.idle(depends_on=needs), "db": db}})
    manager = Manager(case)
    done = case.ic("up", "--wait", option, env=manager.env)
    assert "waiting for db/1 to be healthy" in done.err
    assert "READY=1" in manager.heard()
    assert began(case, "web") - began(case, "db") > 2.9
    manager.socket.close()


def test_a_dependency_that_is_unhealthy_or_dies_is_a_failure_at_once(
    case: scenario.Scenario,
) -> None:
    bad = {"test": "echo out of order; exit 1", "interval": "500ms", "retries": 2}
    sick = scenario.idle(healthcheck={**bad, "start_interval": "500ms"})
    dead = {
        "image": "busybox",
        "command": ["sh", "-c", "sleep 4; echo cannot go on; exit 9"],
        "healthcheck": {**READY, "retries": 100},
    }
    services = {
        "sick": sick,
        "dead": dead,
        "one": scenario.idle(depends_on={"sick": {"condition": "service_healthy"}}),
        "two": scenario.idle(depends_on={"dead": {"condition": "service_healthy"}}),
        "three": scenario.idle(),
    }
    case.compose({"services": services})
    done = case.ic("up", "--wait", code=1)
    assert "instance sick: it is unhealthy" in done.err
    assert "its probe said: out of order" in done.err
    assert "instance dead: it ended with exit code 9" in done.err
    assert "cannot go on" in done.err
    states = case.states()
    assert (states["one"], states["two"], states["three"]) == ("Stopped", "Stopped", "Running")


def test_the_time_to_wait_runs_out_with_what_is_missing(case: scenario.Scenario) -> None:
    never = {"test": ["CMD", "false"], "interval": "1s", "start_period": "1h"}
    case.compose({"services": {"web": scenario.idle(healthcheck=never)}})
    manager = Manager(case)
    done = case.ic("up", "--wait", "--wait-timeout", "2", env=manager.env, code=1)
    assert "not all is well after 2 s" in done.err
    assert "web is starting" in done.err
    assert "READY=1" not in manager.heard()
    assert case.states()["web"] == "Running"
    manager.socket.close()
