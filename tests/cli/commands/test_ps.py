"""`ic ps`: what runs, with its exit code, address and ports, in one call and one per ended instance."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ic.cli import documents
from ic.cli.commands import ps
from tests.cli import test_documents as schemas
from tests.e2e import scenario


def test_what_runs_and_what_has_ended_are_listed(shop: scenario.Scenario) -> None:
    document = shop.ic("ps", "--json").json()
    schemas.Schema("ic.ps-1").check(document)
    job, web = document["instances"]
    assert (job["service"], job["state"], job["exit_code"]) == ("job", "exited", 0)
    assert (web["service"], web["replica"], web["state"]) == ("web", 1, "running")
    assert web["exit_code"] is None
    assert web["image"] == "busybox"
    assert web["ports"] == [
        {"protocol": "tcp", "host": "127.0.0.1", "published": 18471, "target": 80}
    ]
    address = shop.instance("web")["devices"]["eth0"]["ipv4.address"]
    assert web["addresses"] == [address]
    table = shop.ic("ps").out
    assert "exited (0)" in table
    assert "127.0.0.1:18471->80/tcp" in table
    assert "job" not in shop.ic("ps", "web").out
    assert "has no instance of wbe" in shop.ic("ps", "web", "wbe").err


def test_it_costs_one_call_and_one_for_each_that_has_ended(shop: scenario.Scenario) -> None:
    with shop.watched() as seen:
        shop.ic("ps")
    assert len(seen.passed) == 2
    assert {one.method for one in seen.passed} == {"GET"}


def test_a_stack_that_is_not_there_has_no_instances(shop: scenario.Scenario) -> None:
    assert shop.ic("-p", "no-such-stack", "ps", "--json").json()["instances"] == []


def test_what_is_not_marked_is_not_listed(shop: scenario.Scenario) -> None:
    guest = {
        "name": "guest",
        "source": {"type": "none"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
    }
    shop.send("POST", "/1.0/instances", guest)
    try:
        names = [one["name"] for one in shop.ic("ps", "--json").json()["instances"]]
        assert names == ["job", "web"]
    finally:
        shop.send("DELETE", "/1.0/instances/guest", None)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (None, "-"),
        ("2026-11-23T05:59:48.000Z", "12s"),
        ("2026-11-23T05:55:00.000Z", "5m"),
        ("2026-11-23T03:00:00.000Z", "3h"),
        ("2026-11-19T06:00:00.000Z", "4d"),
        ("2026-11-23T06:00:05.000Z", "0s"),  # a server whose clock is ahead
    ],
)
def test_an_age_has_one_unit(moment: str | None, expected: str) -> None:
    assert ps.age(moment, 1795413600.0) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T06:06:10.86778541Z", "2026-11-23T06:06:10.867Z"),
        ("2026-11-23T06:06:10Z", "2026-11-23T06:06:10.000Z"),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00Z", None),
        (None, None),
    ],
)
def test_times_of_the_server_are_milliseconds_or_never(
    text: str | None, expected: str | None
) -> None:
    assert ps._moment(text) == expected


def test_ports_are_read_from_proxies_of_every_kind() -> None:
    devices = {
        "a": {"type": "proxy", "listen": "tcp:[::1]:80", "connect": "tcp:10.0.0.2:8080"},
        "b": {"type": "proxy", "listen": "udp:0.0.0.0:53", "connect": "udp:10.0.0.2:53"},
        "c": {"type": "proxy", "listen": "unix:/x", "connect": "tcp:10.0.0.2:1"},
        "d": {"type": "disk", "path": "/"},
    }
    found = ps._ports(devices)
    assert [ps._port_text(one) for one in found] == ["0.0.0.0:53->53/udp", "[::1]:80->8080/tcp"]


ROW = documents.Instance(
    name="web",
    service="web",
    replica=1,
    state="running",
    exit_code=None,
    health=None,
    image="a",
    addresses=(),
    ports=(),
    created=None,
    started=None,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "running"),
        ({"health": "starting"}, "running (starting)"),
        ({"health": "healthy"}, "running (healthy)"),
        ({"state": "paused", "health": "healthy"}, "paused"),
        ({"state": "exited", "exit_code": 137, "health": "stopped"}, "exited (137)"),
        ({"state": "exited"}, "exited"),
        (
            {"state": "exited", "exit_code": 0, "unwatched": True},
            "exited (0), stopped while unwatched",
        ),
    ],
)
def test_the_state_has_health_and_exit_code_as_docker_shows_them(
    given: dict[str, Any], expected: str
) -> None:
    assert ps.state_text(msgspec.structs.replace(ROW, **given)) == expected


@pytest.mark.parametrize(
    ("given", "health"),
    [
        ({"health": "healthy"}, "unknown"),
        ({"health": "unhealthy"}, "unknown"),
        ({"health": "starting"}, "unknown"),
        ({"state": "paused", "health": "healthy"}, "unknown"),
        ({}, None),
        ({"state": "exited", "exit_code": 1, "health": "stopped"}, "stopped"),
    ],
)
def test_without_a_daemon_that_watches_no_verdict_is_shown_as_if_it_were_current(
    given: dict[str, Any], health: str | None
) -> None:
    shown = ps.as_unwatched(msgspec.structs.replace(ROW, **given))
    assert shown == msgspec.structs.replace(ROW, **{**given, "health": health})


@pytest.mark.parametrize(
    ("state", "detail", "watched", "misconfigured", "expected"),
    [
        ("watching", "", 1, (), "ic-healthd: watching 1 instance"),
        ("watching", "", 3, (), "ic-healthd: watching 3 instances"),
        ("untrusted", "403", 3, (), "ic-healthd: untrusted: 403"),
        ("starting", "", 0, (), "ic-healthd: starting"),
        (
            "watching",
            "",
            2,
            ("db: user.healthcheck.test",),
            "ic-healthd: watching 2 instances; misconfigured: db: user.healthcheck.test",
        ),
    ],
)
def test_the_health_daemon_has_a_line_of_its_own(
    state: str, detail: str, watched: int, misconfigured: tuple[str, ...], expected: str
) -> None:
    found = documents.Healthd(
        state=state, detail=detail, since=None, watched=watched, misconfigured=misconfigured
    )
    assert ps.healthd_text(found) == expected
