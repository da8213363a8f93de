"""Planned values: stable, free, and the same for the same inputs."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.plan import allot
from ic.resources import network


def test_a_subnet_is_the_same_for_the_same_stack_and_network() -> None:
    one, again = (allot.first_subnet("shop", "default", ()) for _ in range(2))
    assert one == again
    assert one is not None
    assert one.net.subnet_of(allot.RANGE)
    assert one != allot.first_subnet("shop", "other", ())


def test_a_subnet_is_clear_of_all_that_are_taken() -> None:
    first = allot.first_subnet("shop", "default", ())
    assert first is not None
    second = allot.first_subnet("shop", "default", ((first.cidr, "other"), ("none", "x")))
    assert second is not None
    assert not first.net.overlaps(second.net)


def test_a_full_range_gives_none() -> None:
    assert allot.first_subnet("shop", "default", (("10.128.0.0/9", "all of it"),)) is None


def test_the_default_route_is_no_subnet_in_use() -> None:
    assert allot.first_subnet("shop", "default", (("0.0.0.0/0", "a route"),)) is not None
    assert allot.overlap("10.0.0.0/24", (("0.0.0.0/0", "a route"),)) is None


@pytest.mark.parametrize(
    ("cidr", "gateway"),
    [
        ("10.0.0.0/31", None),
        ("10.0.0.1/24", None),
        ("fd00::/64", None),
        ("10.0.0.0/24", "10.1.0.1"),
    ],
)
def test_a_given_subnet_that_cannot_be_is_refused(cidr: str, gateway: str | None) -> None:
    with pytest.raises(ValueError, match=r".+"):
        allot.given(cidr, gateway)


def test_a_given_subnet_has_its_first_host_as_gateway() -> None:
    assert allot.given("10.5.0.0/24", None).gateway == "10.5.0.1"
    assert allot.given("10.5.0.0/24", "10.5.0.254").gateway == "10.5.0.254"


@given(st.integers(16, 30), st.booleans())
def test_planned_addresses_are_hosts_outside_the_dhcp_range(prefix: int, last: bool) -> None:
    net = ipaddress.IPv4Network(("10.0.0.0", prefix))
    gateway = str(net.broadcast_address - 1) if last else None
    subnet = allot.given(str(net), gateway)
    first_dynamic, last_dynamic = network.dynamic(subnet)
    assert first_dynamic <= last_dynamic
    for _, address in zip(range(50), allot.planned(subnet), strict=False):
        value = ipaddress.IPv4Address(address)
        assert value in net
        assert address != subnet.gateway
        assert not first_dynamic <= value <= last_dynamic


SUBNET = allot.given("10.5.0.0/28", None)


def test_an_instance_keeps_the_recorded_address_then_the_live_one() -> None:
    wanted = {"instance:web/1": None, "instance:web/2": None, "instance:web/3": None}
    recorded = {"instance:web/1": "10.5.0.7"}
    live = {
        "instance:web/1": "10.5.0.8",
        "instance:web/2": "10.5.0.7",
        "instance:web/3": "10.5.0.9",
    }
    found = allot.addresses(SUBNET, wanted, (recorded, live), frozenset())
    assert found == {
        "instance:web/1": "10.5.0.7",
        "instance:web/2": "10.5.0.2",
        "instance:web/3": "10.5.0.9",
    }


def test_the_files_address_goes_before_all_others() -> None:
    wanted = {"instance:a/1": None, "instance:b/1": "10.5.0.2"}
    found = allot.addresses(SUBNET, wanted, ({"instance:a/1": "10.5.0.2"},), frozenset())
    assert found == {"instance:a/1": "10.5.0.3", "instance:b/1": "10.5.0.2"}


def test_an_address_of_another_or_of_another_subnet_is_not_taken() -> None:
    wanted = {"instance:a/1": None}
    earlier = ({"instance:a/1": "10.9.0.2"},)
    assert allot.addresses(SUBNET, wanted, earlier, frozenset({"10.5.0.2"})) == {
        "instance:a/1": "10.5.0.3"
    }


def test_replicas_are_given_addresses_in_their_order() -> None:
    wanted = {f"instance:web/{n}": None for n in (10, 2, 1)}
    found = allot.addresses(SUBNET, wanted, (), frozenset())
    assert found is not None
    assert [found[f"instance:web/{n}"] for n in (1, 2, 10)] == ["10.5.0.2", "10.5.0.3", "10.5.0.4"]


def test_too_many_for_a_subnet_gives_none() -> None:
    wanted = {f"instance:web/{n}": None for n in range(1, 12)}
    assert allot.addresses(SUBNET, wanted, (), frozenset()) is None


def test_a_host_port_stays_while_it_is_free() -> None:
    among = range(8000, 8004)
    assert allot.host_port("x", among, (None, 8002), frozenset(), from_start=True) == 8002
    assert allot.host_port("x", among, (8002,), frozenset({8002}), from_start=True) == 8000
    assert allot.host_port("x", among, (9000,), frozenset({8000}), from_start=True) == 8001
    assert allot.host_port("x", among, (), frozenset(among), from_start=True) is None


def test_an_ephemeral_port_is_the_same_for_the_same_instance() -> None:
    one = allot.host_port("shop/web/1", allot.EPHEMERAL, (), frozenset(), from_start=False)
    again = allot.host_port("shop/web/1", allot.EPHEMERAL, (), frozenset(), from_start=False)
    assert one == again
    assert one in allot.EPHEMERAL


@pytest.mark.parametrize(
    ("one", "other", "clashes"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.5", False),
        ("::", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_every_address_shares_a_port_with_none(one: str, other: str, clashes: bool) -> None:
    assert allot.clash(one, other) is clashes
    assert allot.clash(other, one) is clashes
