"""docs/diagnostics.md: every code stands there, and every example shows its code."""

import glob
import os
import pathlib
import re

import pytest

from ic import errors
from tests.compose import stacks

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def page() -> str:
    with open(os.path.join(ROOT, "docs", "diagnostics.md"), encoding="utf-8") as file:
        return file.read()


def examples() -> list[tuple[str, str]]:
    """Each code that has an example, and the file of it."""
    parts = re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page(), re.MULTILINE | re.DOTALL)
    found = [(code, re.search(r"```yaml\n(.*?)```", body, re.DOTALL)) for code, body in parts]
    return [(code, example[1]) for code, example in found if example]


@pytest.mark.parametrize(("code", "text"), examples(), ids=[code for code, _ in examples()])
def test_an_example_shows_its_code_and_no_other(
    tmp_path: pathlib.Path, code: str, text: str
) -> None:
    try:
        shown = stacks.load(tmp_path, text).diagnostics
    except errors.ComposeError as error:
        shown = error.diagnostics
    assert {one.code for one in shown} == {code}
    assert all(one.position for one in shown)


def test_every_code_of_reading_and_planning_is_listed() -> None:
    used: set[str] = set()
    rooms = ("compose", "fields", "plan")
    for path in (path for room in rooms for path in glob.glob(f"{ROOT}/ic/{room}/*.py")):
        with open(path, encoding="utf-8") as file:
            used.update(re.findall(r'"([EW]_[A-Z_]+)"', file.read()))
    assert used == set(re.findall(r"^### (\w+)$", page(), re.MULTILINE))
