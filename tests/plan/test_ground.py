"""What stages share: who is a member, what a field was, and problems told together."""

from __future__ import annotations

import msgspec
import pytest

from ic import errors
from ic.journal import fold
from ic.plan import ground
from ic.resources import kind
from tests.plan import world

FILE = """
name: shop
services:
  web: {image: nginx, scale: 2}
  debug: {image: busybox, profiles: [debug]}
"""


def base(here: world.World | None = None) -> ground.Ground:
    here = here or world.World()
    stack = world.load(FILE, "/srv/shop")
    return ground.Ground(stack, here.recorded, here.observed, frozenset({"web"}))


def test_an_inactive_service_is_a_member_only_while_it_exists() -> None:
    assert [address for _, _, address in base().members()] == ["instance:web/1", "instance:web/2"]
    live = kind.Live(address="instance:debug/1", name="debug", fields={}, stamp=kind.Stamp())
    here = msgspec.structs.replace(world.World(), live={live.address: live})
    assert "instance:debug/1" in {address for _, _, address in base(here).members()}


def test_a_field_is_told_as_recorded_and_as_live() -> None:
    path = ("config", "a")
    known = fold.RecordedResource(address="x", fields={path: "recorded"})
    hidden = fold.RecordedResource(address="y", fields={path: fold.Digest("00")})
    live = kind.Live(address="x", name="x", fields={path: "live"}, stamp=kind.Stamp())
    here = msgspec.structs.replace(
        world.World(), recorded=fold.Recorded(resources={"x": known, "y": hidden}), live={"x": live}
    )
    assert base(here).field("x", path) == ("recorded", "live")
    assert base(here).field("y", path) == (None, None)
    assert base(here).field("z", path) == (None, None)


def test_one_problem_is_its_own_summary_and_several_are_counted() -> None:
    here = base()
    here.raise_all()
    here.problem("cannot do this: no", "services", "web", hint="do that")
    with pytest.raises(errors.PlanError, match="cannot do this: no") as caught:
        here.raise_all()
    assert caught.value.hint == "do that"
    assert str(caught.value.diagnostics[0].position) == "<stdin>:4:3"
    here.problem("cannot do that: no")
    with pytest.raises(errors.PlanError, match="2 problems") as caught:
        here.raise_all()
    assert [one.summary for one in caught.value.diagnostics] == [
        "cannot do this: no",
        "cannot do that: no",
    ]
