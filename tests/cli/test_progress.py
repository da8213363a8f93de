"""Progress: live lines that fit the window, one line per change elsewhere, JSON for programs."""

from __future__ import annotations

import io
import json
import re

import msgspec
import pytest

from ic import errors
from ic.cli import output, progress
from ic.engine import execute
from ic.plan import changes
from ic.resources import kind

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def step(address: str, verb: str, lane: str) -> kind.Step:
    return kind.Step(
        id=f"{address}#{verb}", address=address, event="x", deed=kind.Note(), lane=lane
    )


def plan_of(count: int = 2) -> changes.Plan:
    return changes.Plan(
        stack="shop",
        project="shop",
        server="local",
        changes=tuple(
            changes.Change(
                address=f"instance:s{n}/1",
                action="create",
                cause="new",
                steps=(
                    step(f"instance:s{n}/1", "create", "create"),
                    step(f"instance:s{n}/1", "start", "start"),
                ),
            )
            for n in range(count)
        ),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.2
        return self.now


def shown(mode: str, **over: bool) -> tuple[progress.Progress, io.StringIO]:
    err = io.StringIO()
    out = output.Output(stdout=io.StringIO(), stderr=err, quiet=over.get("quiet", False))
    terminal = over.get("terminal", False)
    return progress.choose(mode, out, terminal=terminal, unicode=True), err


def run(display: progress.Progress, plan: changes.Plan, *, fails: bool = False) -> None:
    display.begin(plan)
    for change in plan.changes:
        failed = False
        for one in change.steps:
            if failed:
                display.finished(execute.Outcome(step=one, status="not-started"))
                continue
            display.started(one)
            display.tick()
            failed = fails
            error = errors.OperationFailed("cannot create it: no\x1b[2J room") if fails else None
            status: execute.Status = "failed" if fails else "ok"
            display.finished(execute.Outcome(step=one, status=status, ms=7, error=error))
    display.close()


def test_elsewhere_than_on_a_terminal_there_is_a_line_per_change() -> None:
    display, err = shown("auto")
    run(display, plan_of(1))
    lines = err.getvalue().splitlines()
    assert lines[:2] == ["instance:s0/1  creating", "instance:s0/1  starting"]
    assert re.fullmatch(r"instance:s0/1  created  \d+\.\ds", lines[2])
    assert len(lines) == 3


def test_a_failure_is_told_with_its_reason_and_without_escapes() -> None:
    display, err = shown("plain")
    run(display, plan_of(1), fails=True)
    last = err.getvalue().splitlines()[-1]
    assert "failed" in last
    assert "cannot create it: no\\x1b[2J room" in last


def test_json_lines_are_objects() -> None:
    display, err = shown("json")
    run(display, plan_of(1), fails=True)
    display.say("waiting")
    found = [json.loads(line) for line in err.getvalue().splitlines()]
    assert [one.get("status") for one in found] == ["started", "failed", "not-started", None]
    assert found[0]["address"] == "instance:s0/1"
    assert found[0]["action"] == "create"
    assert found[1]["ms"] == 7
    assert found[3]["note"] == "waiting"
    assert "\x1b" not in err.getvalue()


@pytest.mark.parametrize(("mode", "quiet"), [("quiet", False), ("auto", True), ("tty", True)])
def test_quiet_tells_nothing(mode: str, quiet: bool) -> None:
    display, err = shown(mode, quiet=quiet, terminal=True)
    run(display, plan_of(1))
    display.say("x")
    assert err.getvalue() == ""


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(errors.UsageError):
        shown("fancy")


def live(size: tuple[int, int], *, unicode: bool = True) -> tuple[progress.Tty, io.StringIO]:
    err = io.StringIO()
    out = output.Output(stdout=io.StringIO(), stderr=err)
    return progress.Tty(out, clock=Clock(), size=lambda: size, unicode=unicode), err


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (12, 5), (3, 2), (1, 1)])
@pytest.mark.parametrize("fails", [False, True])
def test_live_lines_are_never_wider_nor_higher_than_the_window(
    size: tuple[int, int], fails: bool
) -> None:
    display, err = live(size)
    display.begin(plan_of(30))
    frames: list[str] = []
    for change in plan_of(30).changes:
        display.started(change.steps[0])
        error = errors.OperationFailed("cannot create it: " + "why " * 40) if fails else None
        status: execute.Status = "failed" if fails else "ok"
        outcome = execute.Outcome(step=change.steps[0], status=status, error=error)
        display.finished(outcome)
        frames = re.split(r"\x1b\[J", err.getvalue())
    for frame in frames[1:]:
        lines = ESCAPE.sub("", frame).split("\n")[:-1]
        assert len(lines) <= max(size[1], 2)
        assert all(len(line) < max(size[0], 2) for line in lines), lines


def test_each_frame_takes_the_place_of_the_one_before() -> None:
    display, err = live((80, 24))
    display.begin(plan_of(2))
    first = err.getvalue()
    assert ESCAPE.sub("", first).count("\n") == 3  # two resources and the count
    display.started(plan_of(2).changes[0].steps[0])
    assert "\x1b[3A\x1b[J" in err.getvalue()[len(first) :]


def test_what_is_said_stays_above_the_live_lines() -> None:
    display, err = live((80, 24))
    display.begin(plan_of(1))
    display.say("waiting for the lease")
    tail = err.getvalue().rpartition("waiting for the lease\n")[2]
    assert "instance:s0/1" in tail


def test_the_last_state_stays_in_full_and_the_cursor_comes_back() -> None:
    display, err = live((80, 6))
    run(display, plan_of(10))
    text = err.getvalue()
    last = ESCAPE.sub("", text.rpartition("\x1b[J")[2])
    assert last.count("created") == 10
    assert text.endswith("\x1b[?25h")
    display.close()  # once more does no harm


def test_marks_are_ascii_where_the_terminal_is() -> None:
    display, err = live((80, 24), unicode=False)
    run(display, plan_of(1))
    assert err.getvalue().isascii()


def test_the_window_is_assumed_where_there_is_none() -> None:
    assert progress._window() >= (1, 1)


def test_the_project_has_no_line_because_no_walk_makes_it() -> None:
    display, err = live((80, 24))
    plan = plan_of(1)
    address = "project:shop"
    founding = changes.Change(
        address=address, action="create", cause="new", steps=(step(address, "create", "create"),)
    )
    run_plan = changes.Plan(
        stack="shop", project="shop", server="local", changes=(founding, *plan.changes)
    )
    display.begin(run_plan)
    for one in plan.changes[0].steps:
        display.started(one)
        display.finished(execute.Outcome(step=one, status="ok"))
    display.close()
    assert "project:shop" not in err.getvalue()
    assert "1 of 1 done" in err.getvalue()


@pytest.mark.parametrize(
    ("verb", "lane", "action", "words"),
    [
        ("hold", "create", "delete", "holding back the health daemon"),
        ("release", "create", "restart", "letting the health daemon go on"),
        ("watching", "trust", "replace", "waiting until it watches"),
        ("enrol", "trust", "create", "giving it an identity"),
        ("revoke", "trust", "delete", "revoking its certificate"),
        ("place", "create", "create", "putting its program in"),
        ("exit", "wait", "create", "waiting for a/1 to end"),
        ("healthy", "wait", "create", "waiting for a/1 to be healthy"),
        ("create", "create", "create", "creating"),
        ("update", "create", "restart", "updating"),
        ("create", "volume", "create", "creating"),
        ("delete", "volume", "delete", "deleting"),
        ("stop", "stop", "replace", "stopping"),
    ],
)
def test_every_step_says_what_it_does(
    verb: str, lane: str, action: changes.Action, words: str
) -> None:
    one = step("instance:a/1", verb, lane)
    change = changes.Change(address=one.address, action=action, cause="c", steps=(one,))
    plan = changes.Plan(stack="shop", project="shop", server="local", changes=(change,))
    told, err = shown("plain")
    told.begin(plan)
    told.started(one)
    assert err.getvalue() == f"instance:a/1  {words}\n"


def test_a_volume_that_is_filled_says_so() -> None:
    deed = kind.Seed(
        instance_path="i", pool_path="p", volume_path="v", body={}, target="/data", fill=True
    )
    one = msgspec.structs.replace(step("volume:data", "create", "volume"), deed=deed)
    change = changes.Change(address=one.address, action="create", cause="c", steps=(one,))
    told, err = shown("plain")
    told.begin(changes.Plan(stack="s", project="s", server="l", changes=(change,)))
    told.started(one)
    assert err.getvalue() == "volume:data  filling\n"
