"""Properties of planning: it settles, it does not see order, and it keeps to what is ours.

The rows of the table stand in `cases/`.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ic import errors, names
from ic.plan import changes, desired, facts, planner
from ic.resources import kind
from tests.compose import stacks
from tests.plan import world

SERVICES = ("web", "db", "job", "my_cache")
NETWORKS = ("default", "front", "back")
VOLUMES = ("data", "logs")

services = st.fixed_dictionaries(
    {"image": st.sampled_from(("nginx:1", "nginx:2", "postgres:16", "busybox"))},
    optional={
        "command": st.sampled_from((["sleep", "9"], ["sh", "-c", 'echo "it\'s"\n'])),
        "environment": st.dictionaries(
            st.sampled_from(("A", "B", "PGDATA")), st.sampled_from(("", "1", "two words", "x\ny"))
        ),
        "ports": st.sampled_from((["80"], ["8000-8019:80"], ["53/udp", "53/tcp"])),
        "networks": st.lists(st.sampled_from(NETWORKS), unique=True, min_size=1),
        "volumes": st.lists(
            st.sampled_from(("data:/data", "logs:/logs:ro", "/anonymous", "./here:/here")),
            unique=True,
        ),
        "tmpfs_at": st.just("/scratch"),
        "scale": st.integers(1, 3),
        "labels": st.dictionaries(st.sampled_from(("a", "b")), st.sampled_from(("x", "y"))),
        "restart": st.sampled_from(("no", "always", "on-failure:3")),
        "user": st.sampled_from(("1000:1000", "www", "1000")),
        "stop_grace_period": st.sampled_from(("1s", "90s")),
        "hostname": st.just("here"),
    },
)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A compose document; services depend on earlier ones only."""
    chosen = draw(st.lists(st.sampled_from(SERVICES), unique=True, min_size=1))
    found: dict[str, Any] = {}
    for name in chosen:
        body: dict[str, Any] = dict(draw(services))
        if "tmpfs_at" in body:
            target = body.pop("tmpfs_at")
            body["volumes"] = [*body.get("volumes", []), {"type": "tmpfs", "target": target}]
        earlier = draw(st.lists(st.sampled_from(tuple(found)), unique=True)) if found else []
        if earlier:
            body["depends_on"] = {
                other: {
                    "condition": draw(
                        st.sampled_from(("service_started", "service_completed_successfully"))
                    ),
                    "restart": draw(st.booleans()),
                    "required": draw(st.booleans()),
                }
                for other in earlier
            }
        found[name] = body
    networks: dict[str, Any] = {
        key: {"internal": draw(st.booleans()), "labels": {"k": draw(st.sampled_from("vw"))}}
        for key in NETWORKS
    }
    if draw(st.booleans()):
        networks["default"]["name"] = draw(st.sampled_from(("one", "other")))
    return {
        "name": "shop",
        "services": found,
        "networks": networks,
        "volumes": {key: {"labels": {"k": draw(st.sampled_from("vw"))}} for key in VOLUMES},
    }


def shuffled(value: Any, draw: st.DrawFn) -> Any:
    """The same mapping with its keys in another order; lists keep theirs (it means something)."""
    if isinstance(value, dict):
        keys = draw(st.permutations(sorted(value)))
        return {key: shuffled(value[key], draw) for key in keys}
    return value


def settle(document: dict[str, Any], here: world.World) -> tuple[changes.Plan, world.World]:
    stack = world.load(json.dumps(document), "/srv/shop")
    here = world.with_images(here, stack)
    plan = world.plan(stack, here, world.options())
    after = world.apply(here, plan)
    return plan, msgspec.structs.replace(after, facts=world.forgetful(after.facts))


@settings(max_examples=30, deadline=None)
@given(st.lists(files(), min_size=1, max_size=3))
def test_planning_after_applying_is_empty_whatever_was_there_before(
    documents: list[dict[str, Any]],
) -> None:
    here = world.World()
    for document in documents:
        _, here = settle(document, here)
        again, _ = settle(document, here)
        assert again.changes == (), changes.render(again)
        world.agree(here)


@settings(max_examples=30, deadline=None)
@given(files(), files(), st.integers(0, 40))
def test_an_apply_cut_off_anywhere_is_finished_by_the_next_one(
    then: dict[str, Any], now: dict[str, Any], steps_done: int
) -> None:
    _, here = settle(then, world.World())
    stack = world.load(json.dumps(now), "/srv/shop")
    here = world.with_images(here, stack)
    cut = world.apply(here, world.plan(stack, here, world.options()), steps_done)
    _, after = settle(now, cut)
    again, _ = settle(now, after)
    assert again.changes == (), changes.render(again)
    world.agree(after)
    assert {one.power for one in after.live.values()} <= {"", "Running"}
    assert after.doubles == ()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_order_of_keys_does_not_matter(data: st.DataObject) -> None:
    document, then = data.draw(files()), data.draw(files())
    _, here = settle(then, world.World())
    one, _ = settle(document, here)
    other, _ = settle(data.draw(st.composite(lambda draw: shuffled(document, draw))()), here)
    # The order of networks is the order of cards, and that of mappings of services means nothing.
    assert changes.render(one) == changes.render(other)
    assert [msgspec.to_builtins(step.id) for step in one.steps] == [
        msgspec.to_builtins(step.id) for step in other.steps
    ]
    assert text(one) == text(other)


def text(plan: changes.Plan) -> bytes:
    basis = changes.Basis(lineage="", sequence=0, chain="", files=(), live={})
    return changes.save(plan, basis, world.KEY, b"")


@settings(max_examples=30, deadline=None)
@given(files(), files(), st.sampled_from(("apply", "up", "down")))
def test_nothing_outside_our_stamp_is_ever_in_a_plan(
    then: dict[str, Any], now: dict[str, Any], mode: Any
) -> None:
    _, here = settle(then, world.World())
    bystanders = {"instance": "stranger", "network": "incusbr0", "volume": "theirs"}
    here = msgspec.structs.replace(
        here,
        facts=msgspec.structs.replace(
            here.facts, foreign={key: frozenset({name}) for key, name in bystanders.items()}
        ),
    )
    stack = world.load(json.dumps(now), "/srv/shop")
    here = world.with_images(here, stack)
    plan = world.plan(stack, here, world.options(mode=mode, remove_orphans=True, volumes=True))
    own = {one.name for one in here.live.values()}
    for step in plan.steps:
        if isinstance(step.deed, kind.Call | kind.Merge | kind.Stop | kind.Start):
            name = step.deed.path.removesuffix("/state").rpartition("/")[2]
            assert name not in bystanders.values()
            if not (isinstance(step.deed, kind.Call) and step.deed.method == "POST"):
                made = {s.record.name for s in plan.steps if s.event.endswith(".create")}
                assert name in own | made


@settings(max_examples=30, deadline=None)
@given(files(), st.sets(st.sampled_from(("limits.memory", "security.nesting", "user.mine"))))
def test_foreign_keys_are_no_change_and_stay(document: dict[str, Any], keys: set[str]) -> None:
    _, here = settle(document, world.World())
    added: kind.Fields = {("config", key): "theirs" for key in keys}
    live = {
        address: msgspec.structs.replace(one, fields={**one.fields, **added})
        for address, one in here.live.items()
    }
    here = msgspec.structs.replace(here, live=live)
    again, after = settle(document, here)
    assert again.changes == ()
    assert all(added.items() <= one.fields.items() for one in after.live.values())


@settings(max_examples=30, deadline=None)
@given(files(), st.booleans())
def test_down_and_destroy_leave_nothing_of_ours_but_what_they_say(
    document: dict[str, Any], volumes: bool
) -> None:
    _, here = settle(document, world.World())
    down = world.plan(None, here, world.options(mode="down", volumes=volumes))
    after = world.apply(here, down)
    left = {names.kind_of(address) for address in after.live}
    assert left <= (set() if volumes else {"volume"})
    destroy = world.plan(None, after, world.options(mode="destroy", volumes=True))
    assert world.apply(after, destroy).live == {}


def test_needs_name_steps_of_the_plan_and_none_waits_for_itself() -> None:
    step = kind.Step(id="a", address="image:x", event="", deed=kind.Note(), needs=("b",))
    other = msgspec.structs.replace(step, id="b", needs=("a",))
    change = changes.Change(address="image:x", action="create", cause="new", steps=(step, other))
    plan = changes.Plan(stack="shop", project="shop", server="lab", changes=(change,))
    with pytest.raises(errors.DependencyCycle):
        planner._check_order(plan)


def test_a_stop_takes_the_grace_period_that_the_instance_carries() -> None:
    document = {
        "name": "shop",
        "services": {"web": {"image": "nginx:1", "stop_grace_period": "7s"}},
    }
    _, here = settle(document, world.World())
    for given_ms, wanted in ((None, 7000), (500, 500)):
        plan = world.plan(None, here, world.options(mode="down", grace_ms=given_ms))
        stops = [step.deed for step in plan.steps if isinstance(step.deed, kind.Stop)]
        assert [stop.grace_ms for stop in stops] == [wanted]


def test_a_project_of_another_stack_is_named() -> None:
    known = facts.Facts(server="lab", default_pool="default", project_exists=True)
    stack = world.load("name: my-app\nservices: {web: {image: busybox}}", "/srv/shop")
    here = world.with_images(world.World(facts=known), stack)
    observed = facts.Observed(
        live={}, facts=here.facts, project_config={names.STACK: "my_app", names.LINEAGE: "0"}
    )
    wanted = desired.build(stack, here.recorded, observed, world.options())
    with pytest.raises(errors.OwnershipConflict, match="belongs to stack 'my_app'"):
        planner.plan(wanted, here.recorded, observed, world.options())


def test_an_image_is_pulled_before_the_old_instance_is_let_go() -> None:
    document: dict[str, Any] = {"name": "shop", "services": {"web": {"image": "nginx:1"}}}
    _, here = settle(document, world.World())
    document["services"]["web"]["image"] = "nginx:2"
    stack = world.load(json.dumps(document), "/srv/shop")
    plan = world.plan(stack, world.with_images(here, stack), world.options())
    steps = {step.id: step for step in plan.steps}
    assert "image:nginx:2#pull" in steps["instance:web/1#stop"].needs
    body = steps["instance:web/1#create"].deed
    assert isinstance(body, kind.Call)
    assert body.body is not None
    source = body.body["source"]
    assert source == {
        "type": "image",
        "fingerprint": kind.Result("image:nginx:2", "fingerprint"),
    }


def one_service(image: str) -> dict[str, Any]:
    return {"name": "shop", "services": {"web": {"image": image}}}


def test_an_image_is_forgotten_only_after_what_runs_from_it_was_replaced() -> None:
    """When the replacement fails, the old image's config must still be there to plan with."""
    _, here = settle(one_service("nginx:1"), world.World())
    plan, _ = settle(one_service("nginx:2"), here)
    steps = {step.id: step for step in plan.steps}
    assert steps["image:nginx:1#forget"].needs == ("instance:web/1#delete",)


def test_a_bridge_that_the_certificate_may_not_see_into_is_kept_and_said() -> None:
    _, here = settle(one_service("nginx:1"), world.World())
    veiled = msgspec.structs.replace(here.live["network:default"], veiled=True, fields={})
    here = msgspec.structs.replace(here, live={**here.live, "network:default": veiled})
    plan = world.plan(None, here, world.options(mode="down"))
    assert [change.address for change in plan.changes] == ["instance:web/1"]
    assert [one.code for one in plan.diagnostics] == ["W_NETWORK_KEPT"]


def test_whose_project_it_is_matters_before_anything_that_is_wrong_with_the_stack() -> None:
    known = facts.Facts(project_exists=True, project_marked=False)
    observed = facts.Observed(
        live={}, facts=known, project_config={names.STACK: "other-stack", names.LINEAGE: "ab"}
    )
    with pytest.raises(errors.OwnershipConflict, match="belongs to stack 'other-stack'"):
        planner.check_project("shop", observed)
    ours = msgspec.structs.replace(known, project_marked=True)
    planner.check_project("shop", msgspec.structs.replace(observed, facts=ours))


def test_what_is_included_and_extended_is_planned_like_what_stands_there(
    tmp_path: pathlib.Path,
) -> None:
    base = "image: nginx:1, hostname: front, tty: false, environment: {A: '1'}"
    db = "db: {image: busybox, volumes: ['data:/data']}"
    texts = {
        "base.yaml": f"services: {{base: {{{base}}}}}",
        "more/compose.yaml": f"services: {{{db}}}\nvolumes: {{data: }}\n",
    }
    split = (
        "include: [more/compose.yaml]\n"
        "services: {web: {extends: {file: base.yaml, service: base}, depends_on: [db]}}\n"
    )
    whole = f"services: {{web: {{{base}, depends_on: [db]}}, {db}}}\nvolumes: {{data: }}\n"
    plans: list[str] = []
    for text in (split, whole):
        stack = stacks.load(tmp_path, text, texts=texts)
        plan = world.plan(stack, world.with_images(world.World(), stack), world.options())
        plans.append(changes.render(plan))
    assert "+ instance:db/1  create: new" in plans[0]
    assert plans[0] == plans[1]
