"""A bridge's body, and what changes it."""

from __future__ import annotations

from ic.resources import kind, network

SUBNET = network.Subnet(cidr="10.5.0.0/24", gateway="10.5.0.1")


def bridge(*, internal: bool = False) -> kind.Resource:
    return network.resource(
        key="default",
        name="shop-default",
        subnet=SUBNET,
        internal=internal,
        labels={"tier": "front", "empty": ""},
        records=(("web", "10.5.0.3"), ("my_db", "10.5.0.2"), ("web", "10.5.0.3")),
    )


def test_names_are_answered_from_the_moment_of_creation() -> None:
    step = network.create(bridge())
    assert isinstance(step.deed, kind.Call)
    assert step.deed.query == {"project": "default"}
    assert step.deed.body == {
        "name": "shop-default",
        "type": "bridge",
        "config": {
            "ipv4.address": "10.5.0.1/24",
            "ipv4.dhcp.ranges": "10.5.0.192-10.5.0.254",
            "ipv4.nat": "true",
            "ipv6.address": "none",
            "raw.dnsmasq": "host-record=my_db,my_db.incus,10.5.0.2\nhost-record=web,web.incus,10.5.0.3",
            "user.label.tier": "front",
        },
    }


def test_an_internal_network_does_not_translate_and_keeps_its_instances_together() -> None:
    fields = bridge(internal=True).fields
    assert fields["config", "ipv4.nat"] == "false"
    assert ("config", "ipv4.routing") not in fields


def test_the_smallest_subnets_have_a_dhcp_range() -> None:
    for cidr in ("10.5.0.0/30", "10.5.0.0/29", "10.5.0.0/16"):
        first, last = network.dynamic(network.Subnet(cidr=cidr, gateway="10.5.0.1"))
        assert first <= last


def test_only_a_name_needs_another_bridge() -> None:
    assert network.impact(("name",), "a", "b") == "replace"
    assert network.impact(("config", "ipv4.nat"), "true", "false") == "in-place"


def test_a_bridge_that_is_gone_is_deleted_well() -> None:
    step = network.delete("network:default", "shop-default")
    assert isinstance(step.deed, kind.Call)
    assert step.deed.settled_by == ("not found",)
    assert step.record.gone


def test_the_records_of_a_bridge_read_back_and_a_persons_lines_are_none_of_them() -> None:
    text = bridge().fields["config", "raw.dnsmasq"]
    records = (("my_db", "10.5.0.2"), ("web", "10.5.0.3"))
    assert network.records_of(text) == records
    assert network.records_of(f"address=/x/10.5.0.2\nhost-record=a,10.5.0.2\n{text}") == records
    assert network.records_of("") == ()
