"""Edges: what a step of one instance waits for in another one. Whole plans stand in `cases/`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ic.plan import changes, laying
from ic.resources import kind
from tests.plan import world


def steps_of(services: dict[str, Any], **top: Any) -> dict[str, kind.Step]:
    stack = world.load(json.dumps({"name": "shop", "services": services, **top}), "/srv/shop")
    plan = world.plan(stack, world.with_images(world.World(), stack), world.options())
    return {step.id: step for step in plan.steps}


def test_a_start_waits_for_the_starts_of_all_replicas_it_depends_on() -> None:
    steps = steps_of(
        {"web": {"image": "nginx:1", "depends_on": ["db"]}, "db": {"image": "busybox", "scale": 2}}
    )
    assert {"instance:db/1#start", "instance:db/2#start"} <= set(
        steps["instance:web/1#start"].needs
    )


def test_a_create_is_followed_by_its_start_and_by_no_other_create() -> None:
    steps = steps_of({"a": {"image": "busybox"}, "b": {"image": "busybox"}})
    for name in ("a", "b"):
        other = {"a": "b", "b": "a"}[name]
        needs = steps[f"instance:{name}/1#create"].needs + steps[f"instance:{name}/1#start"].needs
        assert not [need for need in needs if need.startswith(f"instance:{other}/")]


def test_an_optional_dependency_is_waited_for_and_may_fail() -> None:
    steps = steps_of(
        {
            "web": {
                "image": "nginx:1",
                "depends_on": {"db": {"condition": "service_started", "required": False}},
            },
            "db": {"image": "busybox"},
        }
    )
    start = steps["instance:web/1#start"]
    assert start.after == ("instance:db/1#start",)
    assert "instance:db/1#start" not in start.needs


def test_one_wait_serves_all_that_wait_for_a_job() -> None:
    job = {"job": {"condition": "service_completed_successfully"}}
    steps = steps_of(
        {
            "a": {"image": "busybox", "depends_on": job},
            "b": {"image": "busybox", "depends_on": job},
            "job": {"image": "busybox"},
        }
    )
    deed = steps["instance:job/1#exit"].deed
    assert isinstance(deed, kind.AwaitExit)
    assert not deed.again  # nobody starts it again
    assert not deed.state_path
    for name in ("a", "b"):
        assert "instance:job/1#exit" in steps[f"instance:{name}/1#start"].needs


def test_a_volume_of_two_instances_is_filled_once_and_both_wait_for_it() -> None:
    service = {"image": "busybox", "volumes": ["data:/data"]}
    steps = steps_of({"a": service, "b": service}, volumes={"data": {}})
    assert steps["volume:data#create"].needs == ("instance:a/1#create",)
    for name in ("a", "b"):
        assert "volume:data#create" in steps[f"instance:{name}/1#attach"].needs
        body = steps[f"instance:{name}/1#create"].deed
        assert isinstance(body, kind.Call)
        assert body.body is not None
        devices = body.body["devices"]
        assert isinstance(devices, dict)
        assert set(devices) == {"root", "eth0"}


@pytest.mark.parametrize(
    ("addresses", "ordered"),
    [
        (("instance:web/10", "instance:web/2"), ("instance:web/2", "instance:web/10")),
        (("image:b", "image:a"), ("image:a", "image:b")),
        (("image:host/x:1", "image:a/3"), ("image:a/3", "image:host/x:1")),
    ],
)
def test_addresses_are_ordered_as_people_count(
    addresses: tuple[str, ...], ordered: tuple[str, ...]
) -> None:
    assert tuple(sorted(addresses, key=laying.natural)) == ordered


def test_makers_come_before_removals_and_removals_in_the_other_direction() -> None:
    def change(address: str, action: changes.Action) -> changes.Change:
        return changes.Change(address=address, action=action, cause="x")

    given = [
        change("network:back", "delete"),
        change("instance:old/1", "delete"),
        change("instance:web/1", "create"),
        change("project:shop", "create"),
        change("image:x", "forget"),
    ]
    found = [one.address for one in sorted(given, key=laying._place)]
    assert found == ["project:shop", "instance:web/1", "instance:old/1", "network:back", "image:x"]
