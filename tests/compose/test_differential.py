"""The differential table: every flag of `ic config`, and every pair of them, with the own cases.

Recorded from docker compose 2.40.3 by `scripts/compose_cases.py table`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import compose_cases


def test_the_table_has_every_flag_and_every_pair() -> None:
    stored = json.loads(compose_cases.TABLE.read_text())
    assert sorted(stored) == compose_cases.in_table()
    assert len(stored) >= 40
    for name, one in stored.items():
        every = list(compose_cases.runs(name))
        assert len(one["runs"]) == len(every) > 250
        assert one["runs"].count(-1) < len(every) / 6


@pytest.mark.parametrize("name", compose_cases.in_table())
def test_flags_do_what_they_do_in_docker_compose(name: str, tmp_path: Path) -> None:
    """Each flag alone, and of the pairs those whose turn it is with this case; the script runs all of them."""
    turn = compose_cases.in_table().index(name) % 20
    pairs = [flags for flags, _ in compose_cases.runs(name) if "+" in flags]
    wanted = {flags for at, flags in enumerate(pairs) if at % 20 == turn}
    found = compose_cases.differing(
        name, tmp_path, lambda flags: "+" not in flags or flags in wanted
    )
    assert not found
