"""`ic apply`: what its argument means, its document, and that nothing is done twice."""

from __future__ import annotations

import pytest

from ic.cli.commands import apply
from tests.cli import test_documents as schemas
from tests.cli.commands import conftest
from tests.e2e import scenario


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("web", False), ("./web", True), ("a/b", True), ("x.icplan", True), ("icplan", False)],
)
def test_an_argument_is_a_plan_file_by_its_form(argument: str, expected: bool) -> None:
    assert apply.is_plan_file(argument) is expected


def test_a_settled_stack_needs_no_answer_and_writes_no_run(shop: scenario.Scenario) -> None:
    shop.compose(conftest.STACK)
    runs = shop.runs()
    done = shop.ic("apply", "--json", code=0)
    schemas.Schema("ic.apply-1").check(done.json())
    assert (done.json()["run"], done.json()["changes"]) == (None, [])
    assert shop.runs() == runs


def test_the_document_tells_what_was_done(shop: scenario.Scenario) -> None:
    shop.stop_by_hand("web")
    done = shop.ic("apply", "-y", "--json")
    schemas.Schema("ic.apply-1").check(done.json())
    assert done.json()["done"] == ["instance:web/1"]
    assert done.json()["run"] == shop.runs()[0]["run"]
    assert shop.states()["web"] == "Running"


def test_a_plan_file_stands_alone_and_must_be_one(shop: scenario.Scenario) -> None:
    shop.write("no.icplan", "{}")
    assert "anything else" in shop.ic("apply", "no.icplan", "web", code=1).err
    assert "no plan file" in shop.ic("apply", "no.icplan", code=1).err
    assert "nowhere.icplan" in shop.ic("apply", "nowhere.icplan", code=1).err


def test_an_unknown_service_is_named(shop: scenario.Scenario) -> None:
    assert "wbe" in shop.ic("apply", "-y", "wbe", code=1).err
