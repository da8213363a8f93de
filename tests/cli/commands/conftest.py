"""One stack on the lab that the tests of all commands share; each leaves it as it found it: applied."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import scenario
from tests.lab import lab as labs

STACK: dict[str, Any] = {
    "services": {
        "web": scenario.idle(ports=["127.0.0.1:18471:80"], environment={"PASSWORD": "hunter2"}),
        "job": {"image": "busybox", "command": ["sh", "-c", "echo worked; exit 0"]},
    }
}


@pytest.fixture(scope="package")
def shop(lab: labs.Lab) -> Iterator[scenario.Scenario]:
    """A stack that is applied."""
    made = scenario.Scenario(lab, f"c{uuid.uuid4().hex[:7]}")
    made.apply(STACK)
    made.ended("job")
    yield made
    lab.sweep(made.name)
