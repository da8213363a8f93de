"""Stacks for scenarios: one per test, or one per module for tests that follow each other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.e2e import scenario
from tests.lab import lab as labs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.lab)


@pytest.fixture
def case(lab: labs.Lab) -> Iterator[scenario.Scenario]:
    """A stack of this test's own."""
    made = scenario.Scenario(lab, f"e{uuid.uuid4().hex[:7]}")
    yield made
    lab.sweep(made.name)


@pytest.fixture(scope="module")
def shared(lab: labs.Lab) -> Iterator[scenario.Scenario]:
    """A stack that the tests of a module share; each brings it to where it begins."""
    made = scenario.Scenario(lab, f"m{uuid.uuid4().hex[:7]}")
    yield made
    lab.sweep(made.name)


@pytest.fixture(scope="module")
def other(lab: labs.Lab) -> Iterator[labs.Machine]:
    """Another machine that trusts the lab's Incus and reaches the lab's registry as its own mirror."""
    machine = lab.trusted_remote("other")
    relay = ("python3", "-I", "/opt/repo/tests/e2e/relay.py")
    started = [
        lab.popen([*relay, labs.ADDRESS, "5000", "127.0.0.1", "5000"]),
        machine.popen([*relay, "127.0.0.1", "5000", labs.ADDRESS, "5000"]),
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    yield machine
    for process in started:
        process.kill()
        process.communicate()
