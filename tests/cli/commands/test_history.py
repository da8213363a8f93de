"""`ic history`: runs, one run in full, from anywhere; and what a stack that is not there is told."""

from __future__ import annotations

from tests.cli import test_documents as schemas
from tests.e2e import scenario


def test_runs_are_listed_newest_first_and_one_is_shown_in_full(shop: scenario.Scenario) -> None:
    document = shop.ic("history", "--json").json()
    schemas.Schema("ic.history-1").check(document)
    assert document["stack"] == shop.name
    runs = document["runs"]
    assert [run["started"] for run in runs] == sorted((r["started"] for r in runs), reverse=True)
    first = runs[-1]
    assert (first["command"], first["status"]) == ("apply", "ok")
    shown = shop.ic("history", first["run"][:5]).out
    assert f"run        {first['run']}" in shown
    assert "inst.create" in shown
    assert "instance:web/1" in shown
    assert "hunter2" not in shown
    table = shop.ic("history").out.splitlines()
    assert table[0].split() == ["RUN", "STARTED", "COMMAND", "WHO", "STATUS", "CHANGES"]
    assert len(table) == len(runs) + 1


def test_the_newest_n_are_shown(shop: scenario.Scenario) -> None:
    shop.stop_by_hand("web")
    shop.apply()
    assert len(shop.ic("history", "--json", "-n", "1").json()["runs"]) == 1
    assert shop.ic("history", "--json", "-n", "0").json()["runs"] == []
    assert "negative" in shop.ic("history", "-n", "-1", code=1).err


def test_a_run_that_is_not_there_is_an_error(shop: scenario.Scenario) -> None:
    assert "no such run" in shop.ic("history", "zzzz", code=1).err


def test_from_anywhere_the_name_is_enough(shop: scenario.Scenario) -> None:
    found = shop.ic("-p", shop.name, "history", "--json", cwd="/").json()
    assert found["stack"] == shop.name
    missing = shop.ic("-p", "no-such-stack", "history", cwd="/", code=1)
    assert "no-such-stack" in missing.err
