"""Names: what stays, what is mapped, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors, names


def test_the_first_replica_has_the_services_own_name() -> None:
    assert names.instance("web", 1) == "web"
    assert names.instance("web", 2) == "web-2"


def test_a_container_name_wins_and_is_mapped_to_a_dns_label() -> None:
    assert names.instance("web", 1, "my_front.end") == "my-front-end"


@pytest.mark.parametrize(("service", "name"), [("my_db", "my-db"), ("DB", "db"), ("0x", "s-0x")])
def test_a_service_name_becomes_a_dns_label(service: str, name: str) -> None:
    assert names.instance(service, 1) == name


@pytest.mark.parametrize("service", ["w" * 64, "_", "."])
def test_a_name_that_cannot_be_is_refused(service: str) -> None:
    with pytest.raises(errors.UsageError, match="cannot name service"):
        names.instance(service, 1)


def test_a_replica_counts_for_the_length() -> None:
    assert len(names.instance("w" * 61, 9)) == 63
    with pytest.raises(errors.UsageError, match="at most 63"):
        names.instance("w" * 61, 10)


def test_a_project_has_no_underscore_and_at_most_64_characters() -> None:
    assert names.project("my_shop") == "my-shop"
    with pytest.raises(errors.UsageError, match="at most 64"):
        names.project("s" * 65)


def test_a_bridge_that_is_too_long_is_hashed_and_stays_the_same() -> None:
    assert names.bridge("shop", "default") == "shop-default"
    long = names.bridge("a-long-stack-name", "default")
    assert len(long) == 15
    assert long == names.bridge("a-long-stack-name", "default")
    assert long != names.bridge("a-long-stack-name", "other")


@given(st.text("abcxyz019_-.", min_size=1, max_size=30), st.text("abc_-.", min_size=1, max_size=20))
def test_a_bridge_name_fits_the_kernel(stack: str, network: str) -> None:
    assert 0 < len(names.bridge(stack, network)) <= names.BRIDGE_LIMIT


def test_an_anonymous_volume_belongs_to_one_replica_and_target() -> None:
    found = {
        names.anonymous_volume("db", 1, "/data"),
        names.anonymous_volume("db", 2, "/data"),
        names.anonymous_volume("db", 1, "/other"),
    }
    assert len(found) == 3
    assert len(names.anonymous_volume("s" * 80, 1, "/data")) <= names.VOLUME_LIMIT


def test_an_address_tells_kind_and_name() -> None:
    address = names.address("instance", "web/1")
    assert (names.kind_of(address), names.name_of(address)) == ("instance", "web/1")
    assert names.name_of("image:host:5000/web:1") == "host:5000/web:1"
