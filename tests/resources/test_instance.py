"""What is live, what waits for a start, what needs another instance; and the requests."""

from __future__ import annotations

import pytest

from ic import names
from ic.resources import instance, kind


@pytest.mark.parametrize(
    ("path", "impact"),
    [
        (("config", "environment.A"), "restart"),
        (("config", "oci.cwd"), "restart"),
        (("config", "raw.lxc"), "restart"),
        (("config", "security.privileged"), "restart"),
        (("config", "linux.sysctl.net.core.somaxconn"), "restart"),
        (("config", "limits.kernel.nofile"), "restart"),
        (("config", names.USER), "restart"),
        (("config", "limits.memory"), "in-place"),
        (("config", "limits.cpu"), "in-place"),
        (("config", "boot.autostart"), "in-place"),
        (("config", "user.restart"), "in-place"),
        (("config", "user.label.a"), "in-place"),
        (("devices", "root", "pool"), "replace"),
        (("name",), "replace"),
    ],
)
def test_the_impact_of_a_path(path: kind.Path, impact: str) -> None:
    assert instance.impact(path, "a", "b") == impact


def test_only_another_digest_needs_another_instance() -> None:
    path = ("config", names.IMAGE)
    assert instance.impact(path, "web:1@sha256:aa", "web:2@sha256:bb") == "replace"
    assert instance.impact(path, "web:1@sha256:aa", "mirror/web@sha256:aa") == "in-place"
    assert instance.impact(path, None, "web:1@sha256:aa") == "replace"


@pytest.mark.parametrize(
    ("body", "impact"),
    [
        ({"type": "proxy"}, "in-place"),
        ({"type": "nic"}, "restart"),
        ({"type": "disk", "source": "tmpfs:"}, "restart"),
        ({"type": "disk", "source": "data", "pool": "default"}, "restart"),
    ],
)
def test_the_impact_of_a_device(body: dict[str, str], impact: str) -> None:
    assert instance.device_impact(body) == impact


WEB = kind.Resource(
    address="instance:web/1",
    name="web",
    fields={
        ("config", "boot.autostart"): "false",
        ("devices", "root", "type"): "disk",
        ("devices", "vol-1", "type"): "disk",
    },
    power="running",
)


def test_an_instance_is_made_without_the_disks_that_are_filled_first() -> None:
    step = instance.create(
        WEB, project="shop", source={"type": "image"}, without=frozenset({"vol-1"}), needs=("x",)
    )
    assert isinstance(step.deed, kind.Call)
    assert step.deed.body == {
        "name": "web",
        "type": "container",
        "profiles": [],
        "config": {"boot.autostart": "false"},
        "devices": {"root": {"type": "disk"}},
        "source": {"type": "image"},
    }
    assert ("devices", "vol-1", "type") not in step.record.fields
    assert step.want == "running"


def test_power_is_recorded_by_starts_and_stops() -> None:
    start = instance.start("instance:web/1", "web", project="shop", needs=(), after=())
    stop = instance.stop("instance:web/1", "web", project="shop", grace_ms=7, needs=())
    assert (start.record.power, stop.record.power) == ("running", "stopped")
    assert stop.deed == kind.Stop(path="/1.0/instances/web", query={"project": "shop"}, grace_ms=7)


def test_waiting_changes_nothing_and_is_not_journaled() -> None:
    step = instance.await_exit("instance:job/1", "job", project="shop", needs=())
    assert (step.event, step.lane) == ("", "wait")


def test_a_frozen_instance_is_let_go_on() -> None:
    step = instance.unfreeze("instance:web/1", "web", project="shop")
    assert isinstance(step.deed, kind.Call)
    assert step.deed.body == {"action": "unfreeze", "timeout": 30}


def test_a_held_instance_names_the_generation_that_holds_it() -> None:
    hold = instance.hold("instance:web/1", "web", project="shop", needs=())
    deed = kind.stamped(hold, "lin", "shop", "42/7")
    assert isinstance(deed, kind.Merge)
    assert deed.set["config", names.HELD] == "42"
    assert hold.record.fields == {}
    release = instance.release("instance:web/1", "web", project="shop", needs=())
    assert isinstance(release.deed, kind.Merge)
    assert release.deed.unset == (("config", names.HELD),)


def test_the_wanted_power_is_a_write_of_its_own_where_nothing_else_is_written() -> None:
    step = instance.wanted("instance:web/1", "web", "stopped", project="shop")
    deed = kind.stamped(step, "lin", "shop", "42/7")
    assert isinstance(deed, kind.Merge)
    assert deed.set["config", names.WANT] == "stopped"


def test_another_program_replaces_and_watch_keys_change_in_place() -> None:
    assert instance.impact(("config", names.BUILD), "a", "b") == "replace"
    for key in (names.HEALTH_TEST, names.HEALTH_INTERVAL, names.RESTART, "boot.autostart"):
        assert instance.impact(("config", key), "a", "b") == "in-place"
