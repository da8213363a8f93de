"""Networks: names that are answered, addresses that stay, cards in the order of the file."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ic import errors
from ic.plan import changes, desired
from tests.plan import world


def built(services: dict[str, Any], here: world.World | None = None, **top: Any) -> desired.Desired:
    stack = world.load(json.dumps({"name": "shop", "services": services, **top}), "/srv/shop")
    here = world.with_images(here or world.World(), stack)
    return desired.build(stack, here.recorded, here.observed, world.options())


def answers(found: desired.Desired, network: str) -> set[str]:
    text = found.resources[f"network:{network}"].fields.get(("config", "raw.dnsmasq"), "")
    return {line.split(",")[0].removeprefix("host-record=") for line in text.split("\n")}


def test_every_name_of_a_replica_is_answered() -> None:
    found = built(
        {
            "my_db": {
                "image": "busybox",
                "container_name": "the_db",
                "networks": {"default": {"aliases": ["store", "data.base"]}},
            }
        }
    )
    assert answers(found, "default") == {"my_db", "the_db", "the-db", "store", "data.base"}


def test_a_host_name_is_answered_and_never_takes_the_name_of_a_service() -> None:
    found = built(
        {
            "web": {"image": "busybox", "hostname": "www.example"},
            "bad": {"image": "busybox", "hostname": "web"},
        }
    )
    text = found.resources["network:default"].fields["config", "raw.dnsmasq"]
    assert answers(found, "default") == {"web", "bad", "www.example"}
    assert text.count("host-record=web,") == 1


def test_a_bridge_answers_for_the_other_networks_of_those_who_ask_it() -> None:
    found = built(
        {
            "web": {"image": "busybox", "networks": ["front", "back"]},
            "db": {"image": "busybox", "networks": ["back"]},
            "lone": {"image": "busybox", "networks": ["far"]},
        },
        networks={"front": {}, "back": {}, "far": {}},
    )
    assert answers(found, "front") == {"web", "db"}
    assert answers(found, "back") == {"web", "db"}
    assert answers(found, "far") == {"lone"}


def test_the_route_comes_from_the_first_network_that_is_not_internal() -> None:
    found = built(
        {"web": {"image": "busybox", "networks": ["inner", "front"]}},
        networks={"front": {}, "inner": {"internal": True}},
    )
    fields = found.resources["instance:web/1"].fields
    assert fields["devices", "eth0", "network"] == "shop-inner"
    assert "/" in fields["devices", "eth0", "ipv4.address"]
    assert "/" not in fields["devices", "eth1", "ipv4.address"]


def test_addresses_stay_when_services_come_and_go() -> None:
    first = {"m": {"image": "busybox"}}
    stack = world.load(json.dumps({"name": "shop", "services": first}), "/srv/shop")
    here = world.with_images(world.World(), stack)
    here = world.apply(here, world.plan(stack, here, world.options()))
    before = built(first, here).resources["instance:m/1"].fields["devices", "eth0", "ipv4.address"]
    after = built({"a": {"image": "busybox"}, **first}, here)
    assert after.resources["instance:m/1"].fields["devices", "eth0", "ipv4.address"] == before
    assert after.resources["instance:a/1"].fields["devices", "eth0", "ipv4.address"] != before


def test_a_bridge_keeps_its_subnet_when_others_take_the_place_it_would_choose() -> None:
    services = {"m": {"image": "busybox"}}
    stack = world.load(json.dumps({"name": "shop", "services": services}), "/srv/shop")
    here = world.with_images(world.World(), stack)
    here = world.apply(here, world.plan(stack, here, world.options()))
    cidr = here.live["network:default"].fields["config", "ipv4.address"]
    crowded = msgspec.structs.replace(
        here.facts, subnets=((cidr, "network shop-default"), ("10.128.0.0/9", "a route"))
    )
    plan = world.plan(stack, msgspec.structs.replace(here, facts=crowded), world.options())
    assert plan.changes == (), changes.render(plan)


@pytest.mark.parametrize(
    ("top", "reason"),
    [
        ({"default": {"name": "a-name-of-17-chars"}}, "at most 15"),
        ({"default": {"name": "same"}, "other": {"name": "same"}}, "is the same bridge"),
    ],
)
def test_a_bridge_name_that_cannot_be_is_refused(top: dict[str, Any], reason: str) -> None:
    services = {"web": {"image": "busybox", "networks": list(top)}}
    with pytest.raises(errors.PlanError, match=reason):
        built(services, networks=top)


def test_a_subnet_that_is_too_small_is_said_before_the_first_call() -> None:
    with pytest.raises(errors.PlanError, match="has not enough outside its DHCP range"):
        built(
            {"web": {"image": "busybox", "scale": 9}},
            networks={"default": {"ipam": {"config": [{"subnet": "10.5.0.0/29"}]}}},
        )


def test_who_asks_an_external_name_server_is_warned() -> None:
    external = world.World().facts
    here = world.World(facts=msgspec.structs.replace(external, external_networks={"lan": {}}))
    found = built(
        {"web": {"image": "busybox", "networks": {"lan": {"aliases": ["www"]}}}},
        here,
        networks={"lan": {"external": True}},
    )
    assert [one.code for one in found.diagnostics] == ["W_NAMES"]
