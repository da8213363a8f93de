"""What a restricted client is refused, in one go; whole plans of such clients are in cases/restricted-client-*."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ic import errors
from ic.plan import rights
from ic.resources import image, kind, network, sidecar
from tests.plan import world

BOTH = "name: shop\nservices:\n  web: {image: 'nginx:1', restart: always}\n"
APP, GUARD = world.image_facts("nginx:1"), world.image_facts(sidecar.IMAGE)
IMAGES = {f"image:{one.reference}": one for one in (APP, GUARD)}
ENROL = sidecar.enrol(home="shop", projects=("shop",), pool="default", needs=())


def refused(*steps: kind.Step, token: bool = False) -> errors.Refused | None:
    try:
        rights.check(steps, IMAGES, services={"image:nginx:1"}, lineage=world.LINEAGE, token=token)
    except errors.Refused as error:
        return error
    return None


def test_all_that_an_administrator_has_to_do_is_said_at_once() -> None:
    found = refused(
        image.pull(APP), image.pull(GUARD), sidecar.listen("lab", "127.0.0.1:8443"), ENROL
    )
    assert found is not None
    assert found.summary.startswith("cannot pull image nginx:1 and set up the health daemon: ")
    assert [line.split("'")[0].strip() for line in found.details] == [
        "an administrator of the server runs:",
        "incus query --wait -X POST -d",
        "incus query --wait -X POST -d",
        "incus config set core.https_address=127.0.0.1:8443",
        f'incus config trust add "ic-healthd shop {world.LINEAGE}" --restricted --projects shop --quiet > token',
    ]
    assert "--healthd-token FILE" in found.hint
    assert found.exit_status == 3


@pytest.mark.parametrize(
    ("steps", "token", "summary", "hint"),
    [
        ((image.pull(APP),), False, "pull image nginx:1", "then run this again"),
        (
            (image.pull(GUARD),),
            False,
            "set up the health daemon",
            "then run this again; or go without the daemon: --no-healthd",
        ),
        ((image.pull(APP), ENROL), True, "pull image nginx:1", "then run this again"),
    ],
)
def test_only_what_is_missing_is_asked_for(
    steps: tuple[kind.Step, ...], token: bool, summary: str, hint: str
) -> None:
    found = refused(*steps, token=token)
    assert found is not None
    assert found.summary == f"cannot {summary}: this client's certificate is restricted"
    assert (len(found.details), found.hint) == (2, hint)


def test_what_no_single_command_stands_for_is_an_administrators_run() -> None:
    back = network.delete("network:back", "shop-back")
    found = refused(back, image.pull(APP), ENROL)
    assert found is not None
    assert "pull image nginx:1, remove network back and set up the health daemon" in found.summary
    assert "  ic apply" in found.details
    assert not [line for line in found.details if "incus " in line]


def test_what_it_may_do_is_not_refused() -> None:
    stack = world.load(BOTH, "/srv/shop")
    here = world.with_images(world.World(), stack)
    plan = world.plan(stack, here, world.options())
    outside = ("img.", "net.", "proj.", "cert.")
    own = [step for step in plan.steps if not step.event.startswith(outside)]
    assert len(own) > 5
    assert refused(*own) is None
    assert refused(ENROL, token=True) is None


def restricted(here: world.World, **more: Any) -> world.World:
    facts = msgspec.structs.replace(here.facts, may_administer=False, https_address=None, **more)
    return msgspec.structs.replace(here, facts=facts)


def test_a_plan_that_pulls_is_refused_once_it_is_known_what_the_server_holds() -> None:
    plain = world.load("name: shop\nservices:\n  web: {image: 'busybox:1'}\n", "/srv/shop")
    here = world.with_images(world.World(), plain)
    here = world.apply(here, world.plan(plain, here, world.options()))
    stack = world.load(BOTH, "/srv/shop")
    here = world.with_images(here, stack)
    known = {
        **here.facts.images,
        "nginx:1": msgspec.structs.replace(APP, fingerprint="f1"),
        sidecar.IMAGE: msgspec.structs.replace(GUARD, fingerprint="f2"),
    }
    unknown = restricted(here, images=known, fingerprints=None)
    assert world.plan(stack, unknown, world.options()).changes  # it is made again
    for held, pulls in ((set[str](), 2), ({"f1"}, 1), ({"f1", "f2"}, 0)):
        there = restricted(here, images=known, fingerprints=frozenset(held))
        with pytest.raises(errors.Refused) as caught:
            world.plan(stack, there, world.options())
        said = caught.value.details[1:]
        assert [line.split()[1] for line in said] == ["query"] * pulls + ["config"]
