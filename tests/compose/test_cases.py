"""The project's own cases, a folder each: what docker compose 2.40.3 printed, or that it refused.

Written by hand, and recorded by `scripts/compose_cases.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import compose_cases

NAMES = compose_cases.names()


@pytest.mark.parametrize("name", NAMES)
def test_a_case_ends_as_docker_compose_ends_it(name: str, tmp_path: Path) -> None:
    one = compose_cases.case(name)
    assert one.recorded is not None
    assert one.recorded.by == compose_cases.ASKED
    ran = compose_cases.run(name, tmp_path, compose_cases.ic)
    folder = compose_cases.CASES / name
    if one.recorded.status == 0:
        expected, written = folder / "expected", folder / "written"
        assert ran.stderr == "" or "warning" in ran.stderr, ran.stderr
        assert ran.stdout == (expected.read_text() if expected.exists() else "")
        assert ran.written == (written.read_text() if written.exists() else None)
        assert ran.status == 0
    else:
        assert ran.status == one.recorded.status, ran.stdout
        assert ran.stdout == ""
        missing = [word for word in one.mentions if word not in ran.stderr]
        assert not missing, ran.stderr


def test_there_are_cases_of_every_rule_and_every_refusal_says_what_it_wants() -> None:
    assert len(NAMES) >= 300
    cases = {name: compose_cases.case(name) for name in NAMES}
    refused = {name for name, one in cases.items() if one.recorded and one.recorded.status}
    assert refused == {name for name, one in cases.items() if one.mentions}
    assert refused == {name for name in NAMES if name.startswith("refused/")}
    assert len({name.partition("/")[0] for name in NAMES}) > 60
