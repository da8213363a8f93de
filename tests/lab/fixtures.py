"""The lab for tests: a pytest plugin, named in the root conftest.py.

`lab` is one real Incus server for the whole test process: its own, taken down at the end, or the
one that IC_LAB_NAME names, which is left up (of processes side by side, each adds its own number). A lab that does not come up fails the tests that need
it, with its reason. `stack` is a directory, a name nobody else uses, and the promise that whatever
Incus holds under that name is gone after the test.
"""

from __future__ import annotations

import os
import secrets
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def lab() -> Iterator[labs.Lab]:
    name = os.environ.get("IC_LAB_NAME")
    if name and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        name = f"{name}-{worker}"
    found = labs.Lab(name or f"test-{secrets.token_hex(3)}")
    try:
        found.up()
    except labs.LabError as error:
        pytest.fail(f"the lab does not come up: {error}", pytrace=False)
    yield found
    if not name:
        found.down()


class Stack:
    """A place for one stack in a lab: its compose file's directory, and a name of its own."""

    def __init__(self, lab: labs.Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.directory = lab.workdir(name)
        self.inside = f"/stacks/{name}"

    def write(self, path: str, text: str) -> Path:
        """Write a file of the stack's directory; answers its path on this machine."""
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def stack(lab: labs.Lab) -> Iterator[Stack]:
    made = Stack(lab, f"t-{uuid.uuid4().hex[:8]}")
    yield made
    lab.sweep(made.name)
