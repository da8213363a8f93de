"""What a stack does without in a restricted project, and what such a project has to allow."""

from __future__ import annotations

from typing import Any

import pytest

from ic import names
from ic.plan import confine
from ic.resources import kind

FIELDS: kind.Fields = {
    (
        "config",
        "raw.lxc",
    ): "lxc.execute.cmd=\nlxc.init.cmd=a\nlxc.log.level=info\nlxc.signal.halt=SIGQUIT",
    ("config", "boot.host_shutdown_timeout"): "30",
    ("config", "user.restart"): "always",
}


def device(name: str, **keys: str) -> kind.Fields:
    return {("devices", name, key): value for key, value in keys.items()}


def test_signal_and_grace_period_move_into_keys_of_its_own() -> None:
    found = confine.confined(FIELDS, {}, strict=True)
    assert (found.refused, found.lost) == ((), ())
    assert found.fields == {
        ("config", names.SIGNAL): "SIGQUIT",
        ("config", names.GRACE): "30",
        ("config", "user.restart"): "always",
    }


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        (device("p", type="proxy", listen="tcp:0.0.0.0:80"), "proxy device"),
        (device("t", type="disk", source="tmpfs:", path="/t"), "tmpfs at /t"),
    ],
)
def test_devices_are_refused_by_ic_or_left_to_the_administrator(
    extra: kind.Fields, word: str
) -> None:
    (reason,) = confine.confined(FIELDS | extra, {}, strict=True).refused
    assert word in reason
    assert confine.confined(FIELDS | extra, {}, strict=False).refused == ()


@pytest.mark.parametrize("line", ["lxc.uts.name=h", "lxc.environment=A=", "lxc.mount.entry=/ x"])
def test_a_low_level_key_that_means_something_is_refused(line: str) -> None:
    given = {("config", "raw.lxc"): f"lxc.init.cmd=a\n{line}"}
    for strict in (True, False):
        assert len(confine.confined(given, {}, strict=strict).refused) == 1


def test_host_paths_are_mounted_without_shifting_and_that_is_said() -> None:
    bind = device("b", type="disk", source="/srv", path="/w", shift="true")
    for rules, strict in (({}, True), ({"restricted.devices.disk.paths": "/srv"}, False)):
        found = confine.confined(bind, rules, strict=strict)
        assert ("devices", "b", "shift") not in found.fields
        assert found.lost == ("the owners of /srv are not shifted",)
    assert confine.confined(bind, {}, strict=False).fields == bind


def test_a_project_allows_what_its_instances_need_and_never_a_proxy() -> None:
    one = kind.Resource(
        address="instance:web/1",
        name="web",
        fields={
            **device("eth0", type="nic", network="shop-b"),
            **device("eth1", type="nic", network="shop-a"),
            **device("v", type="disk", source="data", pool="default", path="/d"),
            **device("b", type="disk", source="/srv/b", path="/b"),
            **device("c", type="disk", source="/srv/a", path="/c"),
        },
    )
    assert confine.allowances([one]) == {
        "restricted": "true",
        "restricted.networks.access": "shop-a,shop-b",
        "restricted.devices.disk": "allow",
        "restricted.devices.disk.paths": "/srv/a,/srv/b",
    }
    assert confine.allowances([]) == {"restricted": "true"}


def rules(**more: str) -> dict[str, str]:
    return {"restricted": "true", **{key.replace("_", "."): value for key, value in more.items()}}


ACCESS = "restricted_networks_access"
DISK, PATHS = "restricted_devices_disk", "restricted_devices_disk_paths"


@pytest.mark.parametrize(
    ("now", "wanted", "before", "after"),
    [
        ({}, {}, {}, {}),
        (rules(), rules(), {}, {}),
        ({}, rules(), {}, {"restricted": "true"}),
        (rules(), {}, {"restricted": None}, {}),
        (
            rules(**{ACCESS: "a,b"}),
            rules(**{ACCESS: "b,c"}),
            {"restricted.networks.access": "a,b,c"},
            {"restricted.networks.access": "b,c"},
        ),
        (
            rules(**{DISK: "allow", PATHS: "/a"}),
            rules(),
            {},
            {"restricted.devices.disk": None, "restricted.devices.disk.paths": None},
        ),
        (
            rules(),
            rules(**{DISK: "allow", PATHS: "/a"}),
            {"restricted.devices.disk": "allow", "restricted.devices.disk.paths": "/a"},
            {},
        ),
    ],
)
def test_it_is_wider_before_and_narrower_after(
    now: dict[str, str], wanted: dict[str, str], before: dict[str, Any], after: dict[str, Any]
) -> None:
    found = confine.tightening(now, wanted)
    assert (found.before, found.after) == (before, after)
