"""Whether somebody has to watch, what the sidecar is to be, and when it is left alone; the rest is in cases/."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ic import errors, names
from ic.fields import switches
from ic.plan import desired, watch
from ic.resources import kind, sidecar
from tests.plan import world

WATCHED = "name: shop\nservices:\n  web: {image: 'nginx:1', restart: always}\n"


def settled(text: str = WATCHED) -> world.World:
    """A stack that was applied."""
    stack = world.load(text, "/srv/shop")
    here = world.with_images(world.World(), stack)
    return world.apply(here, world.plan(stack, here, world.options()))


def sidecar_of(here: world.World, text: str = WATCHED, **given: Any) -> watch.Sidecar | None:
    stack = world.load(text, "/srv/shop")
    options = world.options(**given)
    return desired.build(stack, here.recorded, here.observed, options).sidecar


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, ""),
        ({names.RESTART: "no"}, ""),
        ({names.RESTART: "on-failure:3"}, "restart: on-failure:3"),
        ({names.HEALTH_TEST: "[]"}, "healthcheck"),
        ({names.HEALTH_TEST: "[]", names.RESTART: "always"}, "healthcheck, restart: always"),
        ({names.HEALTH_INTERVAL: "5s", names.HEALTH_STATUS: "healthy"}, ""),
    ],
)
def test_what_needs_a_watcher(config: dict[str, str], reason: str) -> None:
    assert watch.reason({("config", key): value for key, value in config.items()}) == reason


def test_the_command_lines_image_goes_before_the_files() -> None:
    file = switches.StackSwitches(image="file")
    assert watch.reference(file, world.options(healthd_image="line")) == "line"
    assert watch.reference(file, world.options()) == "file"
    assert watch.reference(switches.StackSwitches(), world.options()) == sidecar.IMAGE


def test_the_sidecar_has_no_card_no_port_and_runs_the_daemon_as_process_1() -> None:
    found = sidecar_of(settled())
    assert found is not None
    fields = found.instance.fields
    types = {path[1]: value for path, value in fields.items() if path[2:] == ("type",)}
    assert types == {"root": "disk", "api": "proxy", "identity": "disk"}
    assert fields["devices", "api", "listen"] == "unix:/dev/shm/ic-api.sock"
    assert fields["devices", "api", "bind"] == "instance"
    assert "lxc.init.cmd=python3 /ic.pyz healthd" in fields["config", "raw.lxc"].split("\n")
    assert fields["config", "environment.IC_HEALTHD_PROJECT"] == "shop"
    assert fields["config", "environment.MALLOC_ARENA_MAX"] == "1"
    assert ("config", names.RESTART) not in fields
    assert ("config", names.HEALTH_TEST) not in fields
    assert not any("unix.socket" in value for value in fields.values())


def test_a_program_that_runs_by_itself_needs_no_python_and_is_kept_by_a_checkout() -> None:
    own: dict[str, Any] = {"healthd_build": "b2", "healthd_runs_itself": True}
    here = settled()
    found = sidecar_of(here, **own)
    assert found is not None
    recipe = found.instance.fields["config", "raw.lxc"].split("\n")
    assert "lxc.init.cmd=/ic-healthd healthd" in recipe
    stack = world.load(WATCHED, "/srv/shop")
    options = world.options(**own)
    plan = world.plan(stack, here, options)
    [change] = [one for one in plan.changes if one.address == sidecar.ADDRESS]
    assert (change.action, change.cause) == ("replace", "an executable instead of ic.pyz")
    there = world.apply(here, plan)
    assert not world.plan(stack, there, world.options(healthd_source="", healthd_build="")).changes


def test_nothing_in_the_sidecar_asks_the_guest_api() -> None:
    found = sidecar_of(settled())
    assert found is not None
    assert found.instance.fields["config", "security.guestapi"] == "false"


def test_a_server_out_of_sight_is_reached_as_it_was_set_up() -> None:
    here = settled(WATCHED)
    hidden = msgspec.structs.replace(here.facts, https_address=None, may_administer=False)
    live = here.live[sidecar.ADDRESS]
    fields = {**live.fields, ("devices", "api", "connect"): "tcp:10.9.8.7:9443"}
    here = msgspec.structs.replace(
        here,
        facts=hidden,
        live={**here.live, sidecar.ADDRESS: msgspec.structs.replace(live, fields=fields)},
    )
    found = sidecar_of(here)
    assert found is not None
    assert found.instance.fields["devices", "api", "connect"] == "tcp:10.9.8.7:9443"
    assert found.https_address == ""


def test_how_somebody_else_has_set_it_up_stands_while_the_server_is_there() -> None:
    here = settled()
    at = ("devices", "api", "connect")
    one = here.live[sidecar.ADDRESS]
    moved = msgspec.structs.replace(one, fields={**one.fields, at: "tcp:10.0.0.5:8443"})
    here = msgspec.structs.replace(here, live={**here.live, sidecar.ADDRESS: moved})
    for told, connect in ((("10.0.0.5:8443",), "10.0.0.5:8443"), ((), "127.0.0.1:8443")):
        known = msgspec.structs.replace(here.facts, https_address="[::]:8443", addresses=told)
        found = sidecar_of(msgspec.structs.replace(here, facts=known))
        assert found is not None
        assert found.instance.fields[at] == f"tcp:{connect}"


def test_a_new_sidecar_reaches_a_server_out_of_sight_where_that_says_it_is() -> None:
    stack = world.load(WATCHED, "/srv/shop")
    here = world.with_images(world.World(), stack)
    hidden = msgspec.structs.replace(
        here.facts, https_address=None, addresses=("10.0.0.1:8443", "10.0.0.2:8443")
    )
    found = sidecar_of(msgspec.structs.replace(here, facts=hidden))
    assert found is not None
    assert found.instance.fields["devices", "api", "connect"] == "tcp:10.0.0.1:8443"


def test_a_restricted_client_uses_the_images_that_are_there_and_is_told_how_to_get_others() -> None:
    text = "name: shop\nservices:\n  web: {image: 'nginx:1'}\n"
    here = settled(text)
    stack = world.load(text.replace("nginx:1", "nginx:2"), "/srv/shop")
    there = world.with_images(here, stack)
    known = msgspec.structs.replace(
        there.facts.images["nginx:2"], fingerprint="f2", resolved="registry.example/nginx@sha256:2"
    )
    held = here.facts.fingerprints or frozenset()
    for fingerprints in (held, held | {"f2"}):
        there = msgspec.structs.replace(
            there,
            facts=msgspec.structs.replace(
                there.facts,
                images={**there.facts.images, "nginx:2": known},
                fingerprints=fingerprints,
                may_administer=False,
                https_address=None,
            ),
        )
        if "f2" in fingerprints:
            plan = world.plan(stack, there, world.options())
            [adopted] = [one for one in plan.changes if one.address == "image:nginx:2"]
            assert adopted.action == "adopt"
            assert not world.plan(stack, world.apply(there, plan), world.options()).changes
        else:
            with pytest.raises(errors.Refused, match="cannot pull image nginx:2") as caught:
                world.plan(stack, there, world.options())
            assert caught.value.exit_status == 3
            assert caught.value.details[1].startswith("  incus query --wait -X POST")


def test_an_image_that_may_not_be_asked_for_is_said() -> None:
    stack = world.load(WATCHED, "/srv/shop")
    here = world.with_images(world.World(), stack)
    images = {"nginx:1": here.facts.images["nginx:1"]}
    here = msgspec.structs.replace(here, facts=msgspec.structs.replace(here.facts, images=images))
    with pytest.raises(errors.PlanError, match="of the health daemon: it is not known yet"):
        world.plan(stack, here, world.options())


@pytest.mark.parametrize(
    ("live", "state", "left"),
    [
        ({}, "watching", True),
        ({"exit_code": 0}, "watching", True),
        ({"promised": False}, "watching", False),  # somebody stopped it, or the daemon gave it up
        ({"exit_code": None}, "watching", False),
        ({"want": "stopped"}, "watching", False),
        ({}, "untrusted", False),
        ({}, "unreachable", False),
    ],
)
def test_what_is_left_to_the_running_daemon(
    live: dict[str, Any], state: sidecar.Word, *, left: bool
) -> None:
    here = settled()
    web = here.live["instance:web/1"]
    ended = msgspec.structs.replace(
        web,
        power="Stopped",
        exit_code=live.get("exit_code", 3),
        promised=live.get("promised", True),
        stamp=kind.Stamp(want=live.get("want", "running")),
    )
    facts = msgspec.structs.replace(
        here.facts, sidecar_state=sidecar.State(state=state, since=0, certificate="ce")
    )
    observed = msgspec.structs.replace(here, facts=facts).observed
    assert watch.keeps_alive(ended, observed) == left
    guard = msgspec.structs.replace(here.live[sidecar.ADDRESS], power="Stopped")
    away = msgspec.structs.replace(observed, live={**observed.live, sidecar.ADDRESS: guard})
    assert not watch.keeps_alive(ended, away)
