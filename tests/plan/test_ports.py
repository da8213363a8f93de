"""Host ports: kept, chosen, refused. More stand in `cases/`."""

from __future__ import annotations

from typing import Any

import pytest

from ic.plan import facts, ground, ports
from ic.resources import kind
from tests.plan import world


def give(
    text: str, listeners: tuple[facts.Listener, ...] = (), live: dict[str, kind.Live] | None = None
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    stack = world.load("name: shop\nservices:\n" + text, "/srv/shop")
    here = facts.Observed(live=live or {}, facts=facts.Facts(listeners=listeners))
    base = ground.Ground(stack, world.World().recorded, here, frozenset(stack.services))
    return ports.give(base), [problem.summary for problem in base.problems]


def listener(port: int, **changed: Any) -> facts.Listener:
    known: dict[str, Any] = {"protocol": "tcp", "address": "0.0.0.0", "owner": "a process"}
    return facts.Listener(port=port, **{**known, **changed})


def web(listen: str, power: str = "Running", name: str = "web") -> dict[str, kind.Live]:
    one = kind.Live(
        address=f"instance:{name}/1",
        name=name,
        fields={("devices", "p", "listen"): listen},
        stamp=kind.Stamp(),
        power=power,
    )
    return {one.address: one}


def test_replicas_take_one_each_of_a_range() -> None:
    found, problems = give('  web: {image: x, scale: 2, ports: ["8000-8009:80"]}')
    assert found == {"instance:web/1": (8000,), "instance:web/2": (8001,)}
    assert problems == []


def test_a_fixed_port_goes_before_a_chosen_one() -> None:
    found, _ = give('  a: {image: x, ports: ["8000-8001:80"]}\n  b: {image: x, ports: ["8000:80"]}')
    assert found == {"instance:a/1": (8001,), "instance:b/1": (8000,)}


def test_a_chosen_port_avoids_processes_and_other_instances() -> None:
    found, _ = give(
        '  a: {image: x, ports: ["8000-8003:80"]}', (listener(8000),), web("tcp:0.0.0.0:8001")
    )
    assert found == {"instance:a/1": (8002,)}


def test_a_full_range_is_a_problem() -> None:
    _, problems = give('  a: {image: x, ports: ["8000-8001:80"]}', (listener(8000), listener(8001)))
    assert problems == ["cannot publish port 80/tcp of a/1: every host port of the range is taken"]


@pytest.mark.parametrize(
    ("taken", "clash"),
    [
        (listener(8080), True),
        (listener(8080, address="127.0.0.1"), True),
        (listener(8080, protocol="udp"), False),
        (listener(8081), False),
        (listener(8080, project="other", instance="web", owner="instance web"), True),
        (listener(8080, project="shop", instance="stranger", owner="instance stranger"), True),
    ],
)
def test_a_port_that_another_has_is_a_problem(taken: facts.Listener, clash: bool) -> None:
    _, problems = give('  web: {image: x, ports: ["8080:80"]}', (taken,))
    assert bool(problems) is clash


def test_our_own_running_proxy_is_no_conflict_and_a_stopped_ones_port_is() -> None:
    taken = (listener(8080), listener(8080, project="shop", instance="web"))
    text = '  web: {image: x, ports: ["8080:80"]}'
    assert give(text, taken, web("tcp:0.0.0.0:8080"))[1] == []
    assert give(text, taken, web("tcp:0.0.0.0:8080", "Stopped"))[1] == [
        "cannot publish port 8080/tcp for web/1: a process has it"
    ]
