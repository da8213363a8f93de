"""A plan's text and saved forms: what they show, what they keep to themselves, what they notice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ic import errors
from ic.plan import changes
from ic.resources import kind
from tests.plan import world

SECRET = "hunter2-and-more"
FILE = f"""
name: shop
services:
  db:
    image: postgres:16
    environment: {{POSTGRES_PASSWORD: {SECRET}}}
    labels: {{owner: {SECRET}-label}}
    command: [postgres, -c, {SECRET}-command]
"""


def planned(text: str = FILE, here: world.World | None = None) -> changes.Plan:
    stack = world.load(text, "/srv/shop")
    return world.plan(stack, world.with_images(here or world.World(), stack), world.options())


def basis(**changed: Any) -> changes.Basis:
    known: dict[str, Any] = {
        "lineage": "11aa",
        "sequence": 7,
        "chain": "c0ffee",
        "files": (("compose.yaml", "sha"),),
        "live": {},
    }
    return changes.Basis(**{**known, **changed})


def test_the_first_line_names_stack_and_server_and_the_last_one_sums_up() -> None:
    lines = changes.render(planned()).splitlines()
    assert lines[0] == "stack shop on lab"
    assert lines[-1] == "5 changes: 5 to create"


def test_no_secret_is_in_the_text() -> None:
    assert SECRET not in changes.render(planned())
    here = world.apply(world.World(), planned())
    changed = planned(FILE.replace(SECRET, "another"), here)
    text = changes.render(changed)
    assert "config.environment.POSTGRES_PASSWORD: (changed, not shown) (restart)" in text
    assert SECRET not in text
    assert "another" not in text


def test_no_secret_and_no_request_is_in_a_saved_plan() -> None:
    for key, salt in ((world.KEY, b""), (b"", b"salt" * 8)):
        data = changes.save(planned(), basis(), key, salt)
        assert SECRET.encode() not in data
        assert b"raw.lxc" not in data
        assert world.KEY.hex().encode() not in data


def test_a_saved_plan_agrees_with_itself() -> None:
    for key, salt in ((world.KEY, b""), (b"", b"salt" * 8)):
        saved = changes.load(changes.save(planned(), basis(), key, salt))
        assert changes.moved(saved, planned(), basis(), key) == ()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sequence": 8}, "the journal has moved"),
        ({"chain": "dead"}, "the journal has moved"),
        ({"files": (("compose.yaml", "other"),)}, "the compose files are not the same"),
        (
            {"live": {"x": kind.Live(address="x", name="x", fields={}, stamp=kind.Stamp())}},
            "something on the server has changed",
        ),
    ],
)
def test_a_saved_plan_notices_what_has_moved(changed: dict[str, Any], reason: str) -> None:
    saved = changes.load(changes.save(planned(), basis(), world.KEY, b""))
    assert changes.moved(saved, planned(), basis(**changed), world.KEY) == (reason,)


def test_a_saved_plan_notices_another_value_from_the_environment() -> None:
    saved = changes.load(changes.save(planned(), basis(), world.KEY, b""))
    other = planned(FILE.replace(SECRET, "another"))
    assert changes.moved(saved, other, basis(), world.KEY) == (
        "the same files now ask for something else (their environment has changed)",
    )


def test_a_saved_plan_for_another_server_is_noticed() -> None:
    saved = changes.load(changes.save(planned(), basis(), world.KEY, b""))
    other = msgspec.structs.replace(planned(), server="elsewhere")
    assert changes.moved(saved, other, basis(), world.KEY)[0] == (
        "it was made for stack shop on lab"
    )


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b'{"schema": "ic.saved-plan/9", "stack": "s", "server": "x"}']
)
def test_what_is_no_saved_plan_is_refused(data: bytes) -> None:
    with pytest.raises(errors.UsageError, match="cannot read the saved plan"):
        changes.load(data)


def test_what_the_server_keeps_for_itself_does_not_make_a_plan_stale() -> None:
    one = kind.Live(
        address="instance:db/1",
        name="db",
        fields={("config", "volatile.eth0.host_name"): "veth1"},
        stamp=kind.Stamp(),
        power="Running",
    )
    other = msgspec.structs.replace(one, fields={("config", "volatile.eth0.host_name"): "veth2"})
    data = changes.save(planned(), basis(live={"a": one}), world.KEY, b"")
    assert changes.moved(changes.load(data), planned(), basis(live={"a": other}), world.KEY) == ()


def test_a_warning_is_shown_with_its_place() -> None:
    plan = msgspec.structs.replace(
        planned(),
        diagnostics=(
            errors.Diagnostic(
                severity="warning",
                code="W_X",
                summary="look",
                position=errors.Position("compose.yaml", 3, 5),
            ),
        ),
    )
    assert "warning: compose.yaml:3:5: look" in changes.render(plan)


def test_a_count_stands_for_each_action() -> None:
    change = changes.Change(address="image:x", action="forget", cause="gone")
    plan = changes.Plan(stack="s", project="s", server="lab", changes=(change, change))
    assert plan.summary() == {"forget": 2}
