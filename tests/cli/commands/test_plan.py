"""`ic plan`: shows, saves, and tells programs by its exit status; writes nothing to the server."""

from __future__ import annotations

import os
import stat

from tests.cli import test_documents as schemas
from tests.cli.commands import conftest
from tests.e2e import scenario


def changed(shop: scenario.Scenario) -> None:
    shop.compose(
        {"services": {**conftest.STACK["services"], "web": scenario.idle(labels={"a": "b"})}}
    )


def test_a_settled_stack_has_an_empty_document_and_status_0(shop: scenario.Scenario) -> None:
    shop.compose(conftest.STACK)
    done = shop.ic("plan", "--json", "--detailed-exitcode", code=0)
    schemas.Schema("ic.plan-1").check(done.json())
    assert (done.json()["changes"], done.json()["summary"]) == ([], {})
    assert "nothing to do" in shop.ic("plan").out


def test_changes_are_shown_and_status_2_is_only_for_who_asks(shop: scenario.Scenario) -> None:
    changed(shop)
    before = scenario.everything(shop.lab)
    assert "instance:web/1" in shop.ic("plan", code=0).out
    done = shop.ic("plan", "--json", "--detailed-exitcode", code=2)
    schemas.Schema("ic.plan-1").check(done.json())
    assert "hunter2" not in done.out
    assert shop.ic("plan", "job", "--detailed-exitcode").out.rstrip().endswith("say")
    assert scenario.everything(shop.lab) == before
    shop.compose(conftest.STACK)


def test_equal_inputs_give_equal_bytes(shop: scenario.Scenario) -> None:
    changed(shop)
    assert shop.ic("plan").out == shop.ic("plan").out
    assert shop.ic("plan", "--json").out == shop.ic("plan", "--json").out
    shop.compose(conftest.STACK)


def test_a_saved_plan_is_whole_private_and_replaces_an_older_one(shop: scenario.Scenario) -> None:
    changed(shop)
    file = shop.directory / "saved.icplan"
    file.write_text("older")
    file.chmod(0o644)
    shop.ic("plan", "--out", "saved.icplan")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert b"hunter2" not in file.read_bytes()
    assert [one.name for one in shop.directory.iterdir() if ".new" in one.name] == []
    shop.ic("plan", "--out", "no/such/directory/x.icplan", code=1)
    shop.compose(conftest.STACK)
