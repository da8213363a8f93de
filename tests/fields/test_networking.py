"""Reading `networks`, `ports`, `expose` and `hostname`. Ports were checked against docker compose."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.fields import networking
from tests.fields import reading

Port = networking.Port


def port(
    target: int, published: str = "", protocol: str = "tcp", host_ip: str = ""
) -> dict[str, Any]:
    given = {"mode": "ingress", "target": target, "protocol": protocol}
    return given | {
        key: one for key, one in (("published", published), ("host_ip", host_ip)) if one
    }


SHORT = {
    "80": [port(80)],
    "8080:80": [port(80, "8080")],
    "127.0.0.1:8080:80": [port(80, "8080", host_ip="127.0.0.1")],
    "127.0.0.1::80": [port(80, host_ip="127.0.0.1")],
    "[::1]:8080:80/udp": [port(80, "8080", "udp", "::1")],
    "53:53/UDP": [port(53, "53", "udp")],
    "53:53/sctp": [port(53, "53", "sctp")],
    "8000-8001:80-81": [port(80, "8000"), port(81, "8001")],
    "8000-8002:80": [port(80, "8000-8002")],
    "9-11": [port(10), port(11), port(9)],
    ":80": [port(80)],
    "0:80": [port(80, "0")],
    "0080:80": [port(80, "80")],
    "80/": [port(80)],
    "80/tcp/udp": [port(80)],
}


@pytest.mark.parametrize(("text", "ports"), SHORT.items())
def test_short_ports(text: str, ports: list[dict[str, Any]]) -> None:
    assert networking.parse_ports(text) == ports


@pytest.mark.parametrize(
    "text",
    ["", "x", "80:x", "x:80", "300.0.0.1:80:80", "80:", "80:0", "65536", "82-80", "80-81:90-92",
     "8000:80-82", "80/x", "/tcp", "localhost:80:80", "::1:80:80", "-80", "80-",
     "+80", " 80", "80:80 "],
)  # fmt: skip
def test_what_is_no_short_port(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networking.parse_ports(text)


@given(st.text(alphabet="0123456789:-/[].tcpud", max_size=25))
def test_any_text_gives_ports_or_a_reason(text: str) -> None:
    try:
        ports = networking.parse_ports(text)
    except ValueError:
        return
    assert all(1 <= int(one["target"]) <= 65535 for one in ports)


def test_ports_of_all_forms_in_order() -> None:
    body = """
ports:
  - 80
  - "8080:81"
  - {target: 82, published: "9000-9002", host_ip: 127.0.0.1, protocol: udp, mode: host, name: n, app_protocol: http}
  - {target: "83", published: 8083}
"""
    assert reading.right(networking, body).ports == (
        Port(target=80),
        Port(target=81, published=8080),
        Port(target=82, published=9000, published_end=9002, host_ip="127.0.0.1", protocol="udp"),
        Port(target=83, published=8083),
    )  # fmt: skip


def test_a_port_given_twice_counts_once() -> None:
    body = "ports: ['80:80', '81:81', '80:80/tcp', '0.0.0.0:80:80', {target: 80, published: '80', mode: host}]"
    assert [one.target for one in reading.right(networking, body).ports] == [80, 81]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ports: 80", "E_TYPE 8 w.ports must be an array, not a number"),
        ("ports: [true]", "E_TYPE 9 w.ports[0] must be a mapping, a number or a string, not a boolean"),
        ("ports: [null]", "E_TYPE 9 w.ports[0] must be a mapping, a number or a string, not null"),
        ("ports: [x]", "E_VALUE 9 w.ports[0]: 'x' is an invalid port or range of ports (0 to 65535)"),
        ("ports: ['80/sctp']", "E_UNSUPPORTED 9 w.ports[0]: the protocol sctp is not supported yet"),
        ("ports: [{published: 80}]", "E_MISSING 9 w.ports[0]: the required property 'target' is missing (add target:)"),
        ("ports: [{target: 0}]", "E_VALUE 9 w.ports[0]: 0 is not a port of a service (1 to 65535)"),
        ("ports: [{target: 80, protocol: x}]", "E_UNSUPPORTED 9 w.ports[0]: the protocol x is not supported yet"),
        ("ports: [{target: 80, host_ip: ''}]", "E_VALUE 31 w.ports[0].host_ip: invalid IP address ''"),
        ("ports: [{target: 80, published: [1]}]", "E_TYPE 33 w.ports[0].published must be an integer or a string, not an array"),
        ("ports: [{target: 80, port: 1}]", "E_UNKNOWN_KEY 22 w.ports[0] has the unknown key 'port', which is not allowed"),
        ("networks: x", "E_TYPE 11 w.networks must be a mapping or an array, not a string"),
        ("networks: {a: [b]}", "E_TYPE 15 w.networks.a must be a mapping, not an array"),
        ("networks: {a: {aliases: b}}", "E_TYPE 25 w.networks.a.aliases must be an array, not a string"),
        ("expose: [1.5]", "E_VALUE 10 w.expose[0]: 1.5 must be written without a point or an exponent"),
    ],
)  # fmt: skip
def test_faults(body: str, message: str) -> None:
    assert reading.fault(networking, body) == message


def test_networks_in_both_forms_keep_their_order() -> None:
    section = reading.right(networking, "networks: [b, a]")
    assert list(section.networks) == ["b", "a"]
    section = reading.right(
        networking, "networks: {b: , a: {aliases: [x, y, x], ipv4_address: 10.0.0.5}}"
    )
    assert section.networks == {
        "b": networking.Attachment(),
        "a": networking.Attachment(aliases=("x", "y"), ipv4_address="10.0.0.5"),
    }


@pytest.mark.parametrize("body", ["", "networks: {}", "networks: []"])
def test_without_networks_a_service_is_on_default(body: str) -> None:
    assert reading.right(networking, body).networks == {"default": networking.Attachment()}


def test_exposed_ports_are_text_and_kept_once() -> None:
    assert reading.right(networking, "expose: [80, '80', 81-82, 53/udp]").expose == (
        "80",
        "81-82",
        "53/udp",
    )


@pytest.mark.parametrize(
    ("name", "is_one"), [("a.b-c_d", True), ("a b", False), ("-a", False), ("a" * 254, False)]
)
def test_host_names(*, name: str, is_one: bool) -> None:
    assert (networking.faults(networking.Networking(hostname=name)) == []) is is_one
