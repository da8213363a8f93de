"""Checks that are run from here: docker's rule on a probe that the test answers, and on a real instance."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from ic.engine import probing
from ic.healthd import probes

TEST = '["CMD","check"]'


def body(name: str = "db", run: str = "2026-11-23T08:00:00Z", **keys: str) -> dict[str, Any]:
    config = {f"user.healthcheck.{key}": value for key, value in keys.items()}
    return {"name": name, "last_used_at": run, "config": {"user.healthcheck.test": TEST, **config}}


class Answers:
    """A probe whose results are given one by one."""

    def __init__(self) -> None:
        self.orders: queue.Queue[probes.Order] = queue.Queue()
        self.results: queue.Queue[probes.Result] = queue.Queue()
        self.stopped = threading.Event()

    def __call__(self, order: probes.Order, stop: threading.Event) -> probes.Result:
        self.orders.put(order)
        while self.results.empty():
            if stop.wait(0.02):
                self.stopped.set()
                return probes.Result(kind="error")
        return self.results.get()


def become(checks: probing.Probing, found: dict[str, Any], status: str) -> str:
    """Wait for a status; the last line that came with it."""
    end = time.monotonic() + 5
    while (told := checks.status(found))[0] != status:
        assert time.monotonic() < end, told
        time.sleep(0.01)
    return told[1]


def test_an_instance_is_checked_by_its_own_keys_and_healthy_after_a_success() -> None:
    answers = Answers()
    found = body(start_interval="20ms", interval="20ms", timeout="7s")
    with probing.Probing(answers) as checks:
        assert checks.status(found) == ("starting", "")
        order = answers.orders.get(timeout=5)
        assert (order.instance, order.argv, order.timeout_ms) == ("db", ("check",), 7000)
        answers.results.put(probes.Result(kind="exit", output=b"one\nall \x1b[31mwell\n\n"))
        line = become(checks, found, "healthy")
        assert "well" in line
        assert "\x1b" not in line
        assert checks.news() == ("db",)
        assert checks.news() == ()


def test_it_is_unhealthy_after_as_many_failures_as_it_has_retries() -> None:
    answers = Answers()
    found = body(start_interval="10ms", interval="10ms", retries="3")
    with probing.Probing(answers) as checks:
        checks.status(found)
        for number in range(3):
            answers.orders.get(timeout=5)
            assert checks.status(found)[0] == "starting", number
            answers.results.put(probes.Result(kind="exit", code=1, output=b"no"))
        assert become(checks, found, "unhealthy") == "no"


def test_a_failing_server_is_no_verdict() -> None:
    answers = Answers()
    found = body(start_interval="10ms", interval="10ms", retries="1")
    with probing.Probing(answers) as checks:
        checks.status(found)
        for _ in range(3):
            answers.results.put(probes.Result(kind="error"))
        for _ in range(4):
            answers.orders.get(timeout=5)
        assert checks.status(found)[0] == "starting"
        answers.results.put(probes.Result(kind="exit"))
        become(checks, found, "healthy")


def test_another_run_of_an_instance_begins_anew() -> None:
    answers = Answers()
    found = body(start_interval="10ms", interval="10ms")
    with probing.Probing(answers) as checks:
        checks.status(found)
        answers.results.put(probes.Result(kind="exit"))
        become(checks, found, "healthy")
        assert checks.status({**found, "last_used_at": "2026-11-23T09:00:00Z"})[0] == "starting"


def test_leaving_ends_the_probe_that_runs() -> None:
    answers = Answers()
    with probing.Probing(answers) as checks:
        checks.status(body(start_interval="10ms", interval="10ms"))
        answers.orders.get(timeout=5)
    assert answers.stopped.wait(5)
