"""Ports and addresses, read from an instance's fields."""

from __future__ import annotations

import pytest

from ic.plan import claims

FIELDS = {
    ("devices", "eth0", "network"): "shop-default",
    ("devices", "eth0", "ipv4.address"): "10.5.0.2",
    ("devices", "eth1", "network"): "shop-back",
    ("devices", "eth1", "ipv4.address"): "10.6.0.2/24",
    ("devices", "eth2", "network"): "shop-none",
    ("devices", "eth2", "ipv4.address"): "none",
    ("devices", "tcp", "listen"): "tcp:0.0.0.0:80",
    ("devices", "udp", "listen"): "udp:[::1]:53",
    ("devices", "unix", "listen"): "unix:/run/x",
    ("config", "listen"): "tcp:0.0.0.0:81",
}


def test_ports_and_planned_addresses_are_claimed() -> None:
    assert claims.of(FIELDS) == (
        ("tcp", "0.0.0.0", "80"),
        ("udp", "::1", "53"),
        ("ip", "shop-default", "10.5.0.2"),
        ("ip", "shop-back", "10.6.0.2"),
    )


def test_proxies_are_read_with_their_brackets_off() -> None:
    assert claims.proxies(FIELDS) == [("tcp", "0.0.0.0", 80), ("udp", "::1", 53)]


def test_the_address_on_a_bridge_is_found_without_its_prefix() -> None:
    assert claims.address_on("shop-back", FIELDS) == "10.6.0.2"
    assert claims.address_on("shop-none", FIELDS) == ""
    assert claims.address_on("other", FIELDS) == ""


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (("tcp", "0.0.0.0", "80"), ("tcp", "127.0.0.1", "80"), True),
        (("tcp", "10.0.0.1", "80"), ("tcp", "127.0.0.1", "80"), False),
        (("tcp", "0.0.0.0", "80"), ("udp", "0.0.0.0", "80"), False),
        (("ip", "a", "10.0.0.1"), ("ip", "a", "10.0.0.1"), True),
        (("ip", "a", "10.0.0.1"), ("ip", "b", "10.0.0.1"), False),
    ],
)
def test_claims_meet_where_both_cannot_be(
    one: claims.Claim, other: claims.Claim, meet: bool
) -> None:
    assert claims.meets(one, (other,)) is meet


def test_a_claim_reads_as_people_say_it() -> None:
    assert claims.text(("tcp", "0.0.0.0", "80")) == "port 80/tcp"
    assert claims.text(("ip", "a", "10.0.0.1")) == "address 10.0.0.1"


@pytest.mark.parametrize(
    ("text", "port"), [("tcp:0.0.0.0:80", 80), ("unix:/x", None), (None, None)]
)
def test_the_port_of_a_listen_text(text: str | None, port: int | None) -> None:
    assert claims.port_of(text) == port
