"""`ic unlock`: exactly the given generation of exactly a held lease, asked for and written down."""

from __future__ import annotations

from ic import names
from ic.journal import lease
from tests.e2e import scenario


def run_object(shop: scenario.Scenario) -> tuple[str, int]:
    """Name and generation of the stack's run object."""
    found = [(name, lease.parse_name(shop.name, name)) for name in shop.profiles()]
    return next((name, parsed[0]) for name, parsed in found if parsed is not None)


def hold(shop: scenario.Scenario) -> int:
    """A holder of another machine, as after its power was cut; the generation."""
    name, generation = run_object(shop)
    holder = '{"a":"7@elsewhere","m":"00000000","b":"00000000","p":1,"c":"apply"}'
    body = shop.profiles()[name]
    config = {**body["config"], names.HOLD: holder}
    shop.send("PUT", f"/1.0/profiles/{name}", {"config": config, "description": "", "devices": {}})
    return generation


def test_nothing_is_freed_that_nobody_holds(shop: scenario.Scenario) -> None:
    _, generation = run_object(shop)
    assert "nobody holds" in shop.ic("unlock", "--gen", str(generation), "-y", code=1).err


def test_a_dead_holders_lease_is_freed_and_that_is_in_the_journal(shop: scenario.Scenario) -> None:
    generation = hold(shop)
    other = shop.ic("unlock", "--gen", str(generation + 1), "-y", code=75)
    assert str(generation) in other.err
    refused = shop.ic("unlock", "--gen", str(generation), code=3)
    assert "-y" in refused.err
    assert run_object(shop)[1] == generation
    locked = shop.ic("history", "--json").json()["runs"][0]
    shop.ic("unlock", "--gen", str(generation), "-y")
    name, now = run_object(shop)
    assert now > generation
    assert shop.profiles()[name]["config"][names.HOLD] == lease.FREE
    newest = shop.runs()[0]
    assert (newest["command"], newest["status"]) == ("unlock", "ok")
    assert newest["run"] != locked["run"]
    assert any("7@elsewhere" in (event["error"] or "") for event in newest["events"])
    shop.apply()
