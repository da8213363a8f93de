"""Durations, sizes, ports and numbers: what docker compose reads and prints, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import units


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0), ("0s", 0), ("10s", 10_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500),
        ("2d", 172_800_000), ("1w2d3h4m5s6ms", 788_645_006), (".5s", 500), ("1us", 1), ("2000us", 2),
    ],
)  # fmt: skip
def test_durations_are_read_as_docker_compose_reads_them(text: str, ms: int) -> None:
    assert units.duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "10", "10 s x", " 1s", "1s\n", "-1s", "1 m", "s", "1s1", "1y", "9" * 200 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is an invalid duration|longer than"):
        units.duration_ms(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_durations_round_trip(ms: int) -> None:
    assert units.duration_ms(units.duration_text(ms)) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (500, "500ms"), (1500, "1.5s"), (60_000, "1m0s"), (90_000_000, "25h0m0s")],
)
def test_durations_are_printed_as_docker_compose_prints_them(ms: int, text: str) -> None:
    assert units.duration_text(ms) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("64m", 2**26),
        ("1.5gb", 3 * 2**29),
        ("512 KiB", 2**19),
        ("1T", 2**40),
        ("1e3", 1000),
        (".5k", 512),
        ("1.", 1),
        ("1 ", 1),
        ("1_024b", 1024),
        ("-0", 0),
        ("1e-3kib", 1),
    ],
)
def test_sizes_are_multiples_of_1024(text: str, size: int) -> None:
    assert units.size_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1x", "1..5m", " 1", "1k ", "1ki", "1ib", "1__0", "1e", "inf", "٣m"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is an invalid size"):
        units.size_bytes(text)


@pytest.mark.parametrize("text", ["8192p", "9223372036854775807", "1e400"])
def test_a_size_beyond_64_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than there is room for"):
        units.size_bytes(text)


@pytest.mark.parametrize(
    ("text", "ports"), [("80", (80, 80)), ("8000-8010", (8000, 8010)), ("0", (0, 0))]
)
def test_ports_and_ranges(text: str, ports: tuple[int, int]) -> None:
    assert units.port_range(text) == ports


@pytest.mark.parametrize("text", ["", "x", "80-", "-80", "82-80", "65536", "+80", "80 ", "٨٠"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is an invalid port|ends before"):
        units.port_range(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (3, "3"), (-3, "-3"), (1e3, "1000"), (1e6, "1e+06"),
        (123456789.5, "1.234567895e+08"), (1e21, "1e+21"), (0.0001, "0.0001"), (0.00001, "1e-05"),
        (0.5, "0.5"), (-0.0, "-0"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"),
        (float("nan"), "NaN"), (12345678901234567890123.0, "1.2345678901234568e+22"),
    ],
)  # fmt: skip
def test_numbers_become_the_text_that_docker_compose_makes_of_them(value: float, text: str) -> None:
    assert units.number_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_reads_back(value: float) -> None:
    assert float(units.number_text(value)) == value


@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_ipv4_addresses_round_trip(number: int) -> None:
    assert units.ipv4(units.ipv4_text(number)) == number


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "a.b.c.d", "::1"]
)
def test_what_is_no_ipv4_address(text: str) -> None:
    assert units.ipv4(text) is None


def test_a_subnet_is_its_first_address_and_its_prefix() -> None:
    assert units.ipv4_network("10.1.0.0/16") == (units.ipv4("10.1.0.0"), 16)


@pytest.mark.parametrize("text", ["10.1.0.0", "10.1.0.0/33", "10.1.0.0/x", "x/8"])
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 subnet"):
        units.ipv4_network(text)


def test_an_address_inside_of_a_subnet_is_told_where_the_subnet_begins() -> None:
    with pytest.raises(ValueError, match="it begins at 10.1.2.0/24"):
        units.ipv4_network("10.1.2.3/24")


@pytest.mark.parametrize(
    ("text", "is_one"), [("127.0.0.1", True), ("::1", True), ("[::1]", False), ("localhost", False)]
)
def test_addresses_of_both_families(*, text: str, is_one: bool) -> None:
    assert units.is_address(text) is is_one


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2025-11-22T06:40:00Z", 1_763_793_600_000),
        ("2025-11-22T06:40:00.123456789Z", 1_763_793_600_123),
        ("2025-11-22T06:40:00.5Z", 1_763_793_600_500),
        ("1970-01-01T00:00:00Z", 0),
        ("", None),
        ("soon", None),
    ],
)
def test_times_of_the_server(text: str, ms: int | None) -> None:
    assert units.time_ms(text) == ms
