"""`ic down`: asks nobody, needs no file, and says what it did."""

from __future__ import annotations

from tests.cli import test_documents as schemas
from tests.cli.commands import conftest
from tests.e2e import scenario


def test_everything_but_project_and_journal_goes_and_comes_back(shop: scenario.Scenario) -> None:
    assert "not negative" in shop.ic("down", "-t", "-1", code=1).err
    runs = len(shop.runs())
    document = shop.ic("-p", shop.name, "down", "-t", "1", "--json", cwd="/").json()
    schemas.Schema("ic.apply-1").check(document)
    assert {one["action"] for one in document["changes"]} == {"delete"}
    assert shop.instances() == {}
    assert shop.networks() == {}
    assert shop.exists()
    assert len(shop.runs()) == runs + 1
    again = shop.ic("down", "--json").json()
    assert again["run"] is None
    shop.apply(conftest.STACK)
    shop.ended("job")
