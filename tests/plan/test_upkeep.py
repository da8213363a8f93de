"""How the sidecar gets there: who waits for it, and that every cut is finished; its rows are in cases/."""

from __future__ import annotations

import msgspec

from ic.plan import changes
from ic.resources import kind, sidecar
from tests.plan import world

WATCHED = "name: shop\nservices:\n  web: {image: 'nginx:1', restart: always}\n"


def settled() -> world.World:
    """A watched stack that was applied."""
    stack = world.load(WATCHED, "/srv/shop")
    here = world.with_images(world.World(), stack)
    return world.apply(here, world.plan(stack, here, world.options()))


def test_nothing_but_what_waits_for_health_waits_for_the_sidecar() -> None:
    text = (
        "name: shop\nservices:\n  web: {image: 'nginx:1', restart: always}\n"
        "  late: {image: 'nginx:1', depends_on: {db: {condition: service_healthy}}}\n"
        "  db: {image: 'checked:1'}\n"
    )
    stack = world.load(text, "/srv/shop")
    here = world.with_images(world.World(), stack)
    here = msgspec.structs.replace(
        here, facts=msgspec.structs.replace(here.facts, https_address="")
    )
    plan = world.plan(stack, here, world.options())
    steps = {step.id: step for step in plan.steps}

    def before(step: str) -> set[str]:
        found: set[str] = set()
        waiting = [step]
        while waiting:
            one = steps[waiting.pop()]
            fresh = {*one.needs, *one.after} - found
            found |= fresh
            waiting += fresh
        return found

    guard = {step for step in steps if sidecar.INSTANCE in step or step.startswith("server:")}
    assert not before("instance:web/1#start") & guard
    assert not before("instance:db/1#start") & guard
    later = {"image:" + sidecar.IMAGE + "#pull", sidecar.ADDRESS + "#keep"}
    assert before("instance:late/1#start") >= guard - later
    deed = steps["instance:db/1#healthy"].deed
    assert isinstance(deed, kind.AwaitHealthy)
    assert deed.state_path == "/1.0/storage-pools/default/volumes/custom/ic-healthd"
    assert deed.state_query == {"project": "shop"}


def test_a_confined_stack_waits_for_the_word_of_the_daemon_beside_it() -> None:
    text = """\
name: shop
x-ic: {isolation: strict}
services:
  db: {image: 'nginx:1', healthcheck: {test: [CMD, 'true']}}
  web: {image: 'nginx:1', depends_on: {db: {condition: service_healthy}}}
"""
    stack = world.load(text, "/srv/shop")
    plan = world.plan(stack, world.with_images(world.World(), stack), world.options())
    [deed] = [one.deed for one in plan.steps if isinstance(one.deed, kind.AwaitHealthy)]
    assert deed.query == {"project": "shop"}
    assert deed.state_query == {"project": "shop-healthd"}


def test_who_waits_for_a_job_that_is_started_again_knows_by_whom() -> None:
    text = """\
name: shop
x-ic: {isolation: strict}
services:
  job: {image: 'nginx:1', restart: on-failure}
  web: {image: 'nginx:1', depends_on: {job: {condition: service_completed_successfully}}}
"""
    stack = world.load(text, "/srv/shop")
    plan = world.plan(stack, world.with_images(world.World(), stack), world.options())
    [deed] = [one.deed for one in plan.steps if isinstance(one.deed, kind.AwaitExit)]
    assert deed.again
    assert deed.query == {"project": "shop"}
    assert deed.state_path.endswith("/custom/ic-healthd")
    assert deed.state_query == {"project": "shop-healthd"}


def test_a_started_daemon_that_has_its_identity_is_waited_for_by_nobody_else() -> None:
    here = settled()
    found = world.plan(
        world.load(WATCHED, "/srv/shop"), here, world.options(healthd_build="b2")
    ).steps
    [(awaited, deed)] = [
        (one, one.deed) for one in found if isinstance(one.deed, kind.AwaitWatching)
    ]
    assert awaited.needs == (f"{sidecar.ADDRESS}#start",)
    assert deed.state_query == deed.query == {"project": "shop"}
    waiting = [one.id for one in found if awaited.id in (*one.needs, *one.after)]
    assert waiting == [f"{sidecar.ADDRESS}#keep"]
    assert not [one for one in found if isinstance(one.deed, kind.Enrol)]


def test_only_one_that_watches_is_started_again_by_the_server() -> None:
    """A start that has failed would be made again, whatever had its name by then."""
    stack = world.load(WATCHED, "/srv/shop")
    start = world.with_images(world.World(), stack)
    plan = world.plan(stack, start, world.options())
    steps = {step.id: step for step in plan.steps if step.address == sidecar.ADDRESS}
    for step in steps.values():
        deed = step.deed
        body = deed.body if isinstance(deed, kind.Call) else None
        assert "autorestart" not in str(body)
    keep = steps[f"{sidecar.ADDRESS}#keep"]
    assert keep.needs == (f"{sidecar.ADDRESS}#enrol",)
    assert isinstance(keep.deed, kind.Merge)
    assert keep.deed.set == {("config", "boot.autorestart"): "true"}
    said: set[str] = set()
    for cut in range(len(plan.steps)):
        rest = world.plan(stack, world.apply(start, plan, cut), world.options())
        said |= {one.cause for one in rest.changes if one.address == sidecar.ADDRESS}
    assert "its set-up was not finished" in said


def test_the_cause_says_what_kind_of_program_comes_instead_of_which() -> None:
    stack = world.load(WATCHED, "/srv/shop")
    here = settled()
    said: list[str] = []
    for build, runs_itself in (("b2", True), ("b3", True), ("b4", False), ("b5", False)):
        options = world.options(healthd_build=build, healthd_runs_itself=runs_itself)
        plan = world.plan(stack, here, options)
        [change] = plan.changes
        assert (change.address, change.action) == (sidecar.ADDRESS, "replace")
        said.append(change.cause)
        here = world.apply(here, plan)
        assert not world.plan(stack, here, options).changes
    assert said == [
        "an executable instead of ic.pyz",
        "another executable",
        "ic.pyz instead of an executable",
        "another ic.pyz",
    ]


def test_every_cut_of_the_set_up_is_finished_by_the_next_plan() -> None:
    stack = world.load(WATCHED, "/srv/shop")
    start = world.with_images(world.World(), stack)
    start = msgspec.structs.replace(
        start, facts=msgspec.structs.replace(start.facts, https_address="")
    )
    plan = world.plan(stack, start, world.options())
    for done in range(1, len(plan.steps) + 1):
        here = world.apply(start, plan, done)
        again = world.plan(stack, here, world.options())
        here = world.apply(here, again)
        state = here.facts.sidecar_state
        assert state is not None
        assert state.state == "watching"
        assert here.live[sidecar.ADDRESS].power == "Running"
        rest = world.plan(stack, here, world.options())
        assert not rest.changes, changes.render(rest)


def test_a_first_start_that_a_cut_left_is_enrolled_before_its_daemon_says_anything() -> None:
    stack = world.load(WATCHED, "/srv/shop")
    start = world.with_images(world.World(), stack)
    steps = world.plan(stack, start, world.options()).steps
    [enrol] = [at for at, one in enumerate(steps) if isinstance(one.deed, kind.Enrol)]

    def after(done: int) -> changes.Plan:
        here = world.apply(start, world.plan(stack, start, world.options()), done)
        young = sidecar.State(state="starting", since=0)
        here = msgspec.structs.replace(
            here, facts=msgspec.structs.replace(here.facts, sidecar_state=young)
        )
        return world.plan(stack, here, world.options())

    cut = after(enrol)
    assert [one for one in cut.steps if isinstance(one.deed, kind.Enrol)]
    assert "it has no identity yet" in changes.render(cut)
    assert not after(len(steps)).changes


def test_every_cut_of_its_removal_leaves_nothing_behind_in_the_end() -> None:
    here = settled()
    plan = world.plan(None, here, world.options(mode="down"))
    for done in range(len(plan.steps)):
        rest = world.apply(here, plan, done)
        rest = world.apply(rest, world.plan(None, rest, world.options(mode="down")))
        again = world.plan(None, rest, world.options(mode="down"))
        assert not again.changes, changes.render(again)
        assert not {sidecar.ADDRESS, sidecar.VOLUME_ADDRESS} & {*rest.live}
        assert rest.facts.sidecar_state is None
