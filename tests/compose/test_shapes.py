"""Which keys are printed, in which order and as what; recorded from docker compose 2.40.3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import model, shapes


def printed(key: str, value: object, *, json: bool = False) -> Any:
    made = shapes.printed({key: value}, shapes.SERVICE, json=json)
    return made.get(key, "left out")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("stop_grace_period", "90s", "1m30s"),
        ("stop_grace_period", "1.5h", "1h30m0s"),
        ("stop_grace_period", "0", "0s"),
        ("stop_grace_period", "1500us", "1.5ms"),
        ("stop_grace_period", "1d", "24h0m0s"),
        ("stop_grace_period", "-90s", "-1m30s"),
        ("mem_limit", "1.5g", "1610612736"),
        ("mem_limit", 1024, "1024"),
        ("mem_limit", 0, "left out"),
        ("memswap_limit", -1, "-1"),
        ("mem_swappiness", 10, "10"),
        ("cpus", "0.10", 0.1),
        ("cpus", 2, 2),
        ("cpus", 0.333333333, 0.33333334),
        ("cpu_shares", "73", 73),
        ("privileged", False, "left out"),
        ("init", False, False),
        ("attach", None, "left out"),
        ("tty", "yes", True),
        ("command", "a 'b c'", ["a", "b c"]),
        ("command", [], []),
        ("entrypoint", None, "left out"),
        ("scale", 0, 0),
        ("labels", {"b": None, "a": 1e6, "c": True}, {"a": "1e+06", "b": "", "c": "true"}),
        ("labels", ["b=1", "a"], {"a": "", "b": "1"}),
        ("labels", {}, "left out"),
        ("environment", {"b": None, "a": 1}, {"a": "1", "b": None}),
        ("environment", ["b", "a=1=2"], {"a": "1=2", "b": None}),
        ("extra_hosts", {"b": ["2", "[::1]"], "a": "1"}, ["a=1", "b=2", "b=::1"]),
        ("extra_hosts", ["b:2", "a=1,3"], ["a=1", "a=3", "b=2"]),
        ("expose", [80, "90-91"], ["80", "90-91"]),
        ("dns", "1.1.1.1", ["1.1.1.1"]),
        ("healthcheck", {"test": "true"}, {"test": ["CMD-SHELL", "true"]}),
        ("healthcheck", {}, {}),
        ("ulimits", {"a": 1, "b": {"hard": 3}}, {"a": 1, "b": {"soft": 0, "hard": 3}}),
        ("gpus", [{"count": "all"}], [{"count": -1}]),
        ("env_file", [{"path": "a", "required": True}], ["a"]),
        ("env_file", [{"path": "a", "required": False}], [{"path": "a", "required": False}]),
        ("secrets", [{"source": "a", "mode": 0o440}], [{"source": "a", "mode": "0440"}]),
        ("secrets", [{"source": "a", "mode": "0440"}], [{"source": "a", "mode": "0440"}]),
        ("networks", {"a": None, "b": {}}, {"a": None, "b": {}}),
        ("depends_on", {"a": {}}, {"a": {"required": False}}),
        ("ports", [{"published": 80, "target": "80"}], [{"target": 80, "published": "80"}]),
        ("build", {"ssh": {"b": "/k", "a": None}}, {"ssh": ["a", "b: /k"]}),
        ("deploy", {"resources": {}}, {}),
        ("deploy", {"resources": {"limits": {}}}, {"resources": {"limits": {}}}),
        ("provider", {"type": "x", "options": {"a": 1}}, {"type": "x", "options": {"a": ["1"]}}),
        ("volumes", [{"type": "tmpfs", "tmpfs": {"size": "1k", "mode": 8}}],
         [{"type": "tmpfs", "tmpfs": {"size": "1024", "mode": 8}}]),
        ("blkio_config", {"weight_device": [{"path": "/d"}]},
         {"weight_device": [{"path": "/d", "weight": 0}]}),
        ("blkio_config", {"device_read_bps": [{"path": "/d", "rate": 1.5}]},
         {"device_read_bps": [{"path": "/d", "rate": "0"}]}),
        ("no_such_key", 1, "left out"),
        ("x-a", {"b": [], "a": 1}, {"a": 1, "b": []}),
    ],
)  # fmt: skip
def test_values_are_printed_as_docker_compose_does(
    key: str, value: object, expected: object
) -> None:
    found = printed(key, value)
    assert found == expected
    assert not isinstance(found, dict) or list(found) == list(expected)  # pyright: ignore[reportUnknownArgumentType, reportArgumentType]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("deploy", {}, {"resources": {}, "placement": {}}),
        ("ulimits", {"b": {"hard": 3}}, {"b": {"hard": 3}}),
        ("x-a", 1, "left out"),
        ("blkio_config", {"device_read_bps": [{"path": "/d", "rate": "1k"}]},
         {"device_read_bps": [{"Path": "/d", "Rate": "1024"}]}),
        ("develop", {"watch": [{"path": "a", "action": "sync"}]},
         {"watch": [{"path": "a", "action": "sync", "exec": {"command": None}}]}),
        ("env_file", [{"path": "a", "required": False, "format": "raw"}],
         [{"path": "a", "required": False, "format": "raw"}]),
    ],
)  # fmt: skip
def test_json_is_printed_otherwise(key: str, value: object, expected: object) -> None:
    assert printed(key, value, json=True) == expected


def test_a_command_stands_in_json_even_when_there_is_none() -> None:
    made = shapes.printed({"image": "x"}, shapes.SERVICE, json=True)
    assert made == {"command": None, "entrypoint": None, "image": "x"}
    assert list(made) == ["command", "entrypoint", "image"]


def test_names_are_in_the_order_of_go_yaml() -> None:
    names = ["a10", "a9", "a", "A", "a_b", "ab", "a-b", "a1b", "a01", "_x", "1", "b"]
    assert shapes.ordered(names, json=True) == sorted(names)
    assert shapes.ordered(names, json=False) == [
        "_x", "1", "A", "a", "a-b", "a_b", "a1b", "a01", "a9", "a10", "ab", "b",
    ]  # fmt: skip


@given(st.lists(st.text("ab01_-.", max_size=5), unique=True))
def test_the_order_is_one_whichever_way_it_comes(names: list[str]) -> None:
    first = shapes.ordered(names, json=False)
    assert shapes.ordered(reversed(names), json=False) == first
    assert shapes.ordered(first, json=False) == first


def test_every_key_of_a_service_has_its_row_but_one_that_docker_compose_never_prints() -> None:
    assert {
        key for key in model.SERVICE.keys or () if not key.startswith("x-")
    } - shapes.SERVICE.rows.keys() == {"pull_refresh_after"}
