"""`ic destroy`: refuses, asks, exports, removes; and can be told where the journal goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ic.cli.commands import destroy
from tests.e2e import scenario
from tests.lab import lab as labs


@pytest.fixture
def case(lab: labs.Lab, request: pytest.FixtureRequest) -> Iterator[scenario.Scenario]:
    """A stack of the test's own."""
    made = scenario.Scenario(lab, f"d{abs(hash(request.node.name)) % 0xFFFFFF:06x}")
    yield made
    lab.sweep(made.name)


def test_an_interrupted_destroy_is_finished_by_the_next_one(case: scenario.Scenario) -> None:
    """Killed after the export: its file is there, and the next one writes another beside it."""
    case.apply({"services": {"web": scenario.idle()}})
    case.ic("down")
    lineage = case.project()["user.ic.lin"]
    first = case.directory / f"{case.name}-{lineage}.journal.ndjson"
    first.write_text("of the try that was cut off")
    done = case.ic("destroy", "-y")
    assert not case.exists()
    assert first.read_text() == "of the try that was cut off"
    second = case.directory / f"{case.name}-{lineage}.2.journal.ndjson"
    assert second.name in done.err
    lines = [json.loads(line) for line in second.read_text().splitlines()]
    assert (lines[0]["schema"], lines[0]["lineage"]) == ("ic.journal-export/1", lineage)
    assert [line["n"] for line in lines[1:-1]] == list(range(1, lines[0]["last"] + 1))
    assert lines[-1]["lines"] == len(lines) - 2


def test_the_export_must_be_writable_and_the_project_stays_until_it_is(
    case: scenario.Scenario,
) -> None:
    case.apply({"services": {"web": scenario.idle()}})
    done = case.ic("destroy", "-y", "--export", "no/such/directory/x", code=1)
    assert "no/such/directory/x" in done.err
    assert case.exists()
    case.ic("destroy", "-y")
    assert not case.exists()


def test_a_stack_that_is_not_there_is_nothing_to_do(case: scenario.Scenario) -> None:
    case.compose({"services": {"web": scenario.idle()}})
    assert "nothing to do" in case.ic("destroy", "-y").err


def test_the_default_name_never_hits_a_file_that_exists(tmp_path: Path) -> None:
    stem = str(tmp_path / "shop-abc")
    assert destroy._free_name(stem) == f"{stem}.journal.ndjson"
    (tmp_path / "shop-abc.journal.ndjson").symlink_to("nowhere")
    assert destroy._free_name(stem) == f"{stem}.2.journal.ndjson"
