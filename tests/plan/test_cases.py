"""Golden cases: a folder says what was applied, what happened since and what is asked; plan.txt what follows.

| file | what it is |
|---|---|
| `compose.yaml` | what the files say now; without it the command needs no file |
| `before.yaml` | what was planned and applied before |
| `since.json` | edits of live, recorded and facts since then (see `EDITS`) |
| `options.json` | options of the plan, `profiles`, and `versions`: images whose registry has a newer one |
| `plan.txt` | the plan and its steps, or the error; made anew by `pytest --update-golden` |
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import msgspec
import pytest

from ic import errors, names
from ic.compose import model
from ic.plan import changes, facts, planner
from ic.resources import kind
from tests.plan import world

CASES = pathlib.Path(__file__).parent / "cases"


def cases() -> list[str]:
    return sorted(path.name for path in CASES.iterdir() if path.is_dir())


def test_there_are_cases_for_every_row_cause_and_impact() -> None:
    text = "".join((CASES / case / "plan.txt").read_text() for case in cases())
    assert len(cases()) >= 40
    for action in changes.SIGNS:
        assert f" {action}: " in text, action
    for impact in ("(in place)", "(restart)", "(replace)"):
        assert impact in text


@pytest.mark.parametrize("case", cases())
def test_plan_of(case: str, request: pytest.FixtureRequest) -> None:
    folder = CASES / case
    found = text_of(folder)
    golden = folder / "plan.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(found)
    assert found == golden.read_text()


@pytest.mark.parametrize("case", cases())
def test_planning_again_after_applying_is_empty(case: str) -> None:
    try:
        stack, here, given = _ask(CASES / case)
        plan = world.plan(stack, here, given)
    except errors.IcError:
        return
    after = world.apply(here, plan)
    if given.mode == "destroy":
        assert not after.facts.project_exists
        return
    after = msgspec.structs.replace(after, facts=world.forgetful(after.facts))
    again = world.plan(stack, after, given)
    assert changes.render(again).count("nothing to do"), changes.render(again)
    world.agree(after)


def text_of(folder: pathlib.Path) -> str:
    """The plan and its steps, or the error."""
    try:
        plan = world.plan(*_ask(folder))
    except errors.IcError as error:
        return _error(error)
    return changes.render(plan) + _steps(plan)


def _ask(folder: pathlib.Path) -> tuple[model.Stack | None, world.World, planner.Options]:
    now, then = folder / "compose.yaml", folder / "before.yaml"
    given: dict[str, Any] = _json(folder / "options.json")
    profiles = tuple(given.pop("profiles", ()))
    versions = given.pop("versions", {})
    given["services"] = tuple(given.get("services", ()))
    here = world.World()
    directory = "/srv/shop"
    if then.exists():
        stack = world.load(then.read_text(), directory, profiles=("*",))
        here = world.with_images(here, stack)
        here = world.apply(here, world.plan(stack, here, world.options()))
        here = msgspec.structs.replace(here, facts=world.forgetful(here.facts))
    for edit in _json(folder / "since.json", []):
        here = EDITS[edit.pop("edit")](here, **edit)
    stack = world.load(now.read_text(), directory, profiles=profiles) if now.exists() else None
    if stack is not None:
        here = world.with_images(here, stack, versions)
    return stack, here, world.options(**given)


def _json(path: pathlib.Path, otherwise: Any = None) -> Any:
    if path.exists():
        return json.loads(path.read_text())
    return {} if otherwise is None else otherwise


def _steps(plan: changes.Plan) -> str:
    lines = ["", "steps"] if plan.steps else []
    for step in plan.steps:
        needs = f" <- {' '.join(step.needs)}" if step.needs else ""
        after = f" after {' '.join(step.after)}" if step.after else ""
        lines.append(
            f"  {step.id} [{step.lane}{f' {step.event}' if step.event else ''}]{needs}{after}"
        )
    return "\n".join([*lines, ""])


def _error(error: errors.IcError) -> str:
    lines = [f"{error.code} (exit {error.exit_status})", f"cannot: {error.summary}"]
    lines += [f"  {line}" for line in error.details]
    lines += [f"  {one}" + (f" [{one.hint}]" if one.hint else "") for one in error.diagnostics]
    lines += [f"hint: {error.hint}"] if error.hint else []
    return "\n".join([*lines, ""])


# --- edits ------------------------------------------------------------------------------------------


def _path(text: str) -> kind.Path:
    return tuple(text.split("/"))


def _live(here: world.World, address: str, **changed: Any) -> world.World:
    live = {**here.live, address: msgspec.structs.replace(here.live[address], **changed)}
    return msgspec.structs.replace(here, live=live)


def _set(here: world.World, address: str, path: str, value: str) -> world.World:
    return _live(here, address, fields={**here.live[address].fields, _path(path): value})


def _unset(here: world.World, address: str, path: str) -> world.World:
    gone = _path(path)
    fields = {p: v for p, v in here.live[address].fields.items() if p[: len(gone)] != gone}
    return _live(here, address, fields=fields)


def _remove(here: world.World, address: str) -> world.World:
    live = {known: one for known, one in here.live.items() if known != address}
    return msgspec.structs.replace(here, live=live)


def _forget(here: world.World, address: str) -> world.World:
    known = {a: one for a, one in here.recorded.resources.items() if a != address}
    recorded = msgspec.structs.replace(here.recorded, resources=known)
    return msgspec.structs.replace(here, recorded=recorded)


def _power(
    here: world.World,
    address: str,
    power: str,
    exit_code: int | None = None,
    *,
    ever_started: bool = True,
    promised: bool = False,
) -> world.World:
    return _live(
        here,
        address,
        power=power,
        exit_code=exit_code,
        ever_started=ever_started,
        promised=promised,
    )


def _stopped_by_ic(here: world.World, address: str) -> world.World:
    """A run was cut off after it had stopped an instance; the process ended with 0."""
    known = msgspec.structs.replace(here.recorded.resources[address], power="stopped")
    resources = {**here.recorded.resources, address: known}
    recorded = msgspec.structs.replace(here.recorded, resources=resources)
    return _power(msgspec.structs.replace(here, recorded=recorded), address, "Stopped", 0)


def _half_made(here: world.World, address: str) -> world.World:
    return _live(here, address, half_made=True, power="Stopped", ever_started=False)


def _facts(here: world.World, **changed: Any) -> world.World:
    types = {field.name: field.type for field in msgspec.structs.fields(facts.Facts)}
    values = {name: msgspec.convert(value, types[name]) for name, value in changed.items()}
    return msgspec.structs.replace(here, facts=msgspec.structs.replace(here.facts, **values))


def _foreign(here: world.World, kind: str, name: str, stack: str = "") -> world.World:
    """Something that is not ours; with a stack it carries the marks of another lineage."""
    return _facts(
        here,
        foreign={**here.facts.foreign, kind: [*here.facts.foreign.get(kind, ()), name]},
        **({"marks": {kind: {name: {"stack": stack, "lineage": "0ther"}}}} if stack else {}),
    )


def _double(here: world.World, address: str, name: str) -> world.World:
    """A run was cut off while a network got another name: there are two bridges."""
    double = msgspec.structs.replace(here.live[address], name=name)
    return msgspec.structs.replace(here, doubles=(double,))


def _project_deleted(here: world.World) -> world.World:
    """A person deleted the project: the journal went with it, the bridges are left."""
    left = [one for one in here.live.values() if names.kind_of(one.address) == "network"]
    bare = world.World()
    for one in left:
        bare = _foreign(bare, "network", one.name, stack="shop")
    return bare


def _wanted_stopped(here: world.World, address: str) -> world.World:
    """`ic stop` has stopped a watched instance, and said so."""
    stamp = msgspec.structs.replace(here.live[address].stamp, want="stopped")
    return _live(_stopped_by_ic(here, address), address, stamp=stamp)


EDITS: dict[str, Any] = {
    "set": _set,
    "unset": _unset,
    "remove": _remove,
    "forget": _forget,
    "power": _power,
    "stopped-by-ic": _stopped_by_ic,
    "wanted-stopped": _wanted_stopped,
    "half-made": _half_made,
    "double": _double,
    "facts": _facts,
    "foreign": _foreign,
    "project-deleted": _project_deleted,
}
