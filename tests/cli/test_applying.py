"""The conversation around a plan: who is asked, and what is said at the end. Runs are made up here."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest

from ic import errors
from ic.cli import applying, output, session
from ic.engine import converge, execute
from ic.journal import book, fold, lease
from ic.plan import changes, facts, planner
from ic.resources import kind


def step(address: str, verb: str = "create") -> kind.Step:
    return kind.Step(id=f"{address}#{verb}", address=address, event="x", deed=kind.Note())


def plan_of(*addresses: str) -> changes.Plan:
    return changes.Plan(
        stack="shop",
        project="shop",
        server="local",
        changes=tuple(
            changes.Change(address=one, action="create", cause="new", steps=(step(one),))
            for one in addresses
        ),
    )


def view_of(*addresses: str, verdicts: tuple[fold.Verdict, ...] = ()) -> converge.View:
    return converge.View(
        asked=converge.Asked(name="shop", stack=None, options=planner.Options(), command="apply"),
        journal=book.Journal(project="shop"),
        recorded=fold.Recorded(),
        verdicts=verdicts,
        observed=facts.Observed(live={}, facts=facts.Facts()),
        plan=plan_of(*addresses),
    )


def done_of(**statuses: Any) -> converge.Done:
    """A run over three instances: name=status, or name=error."""
    plan = plan_of(*(f"instance:{name}/1" for name in statuses))
    outcomes: list[execute.Outcome] = []
    for one, status in zip(plan.steps, statuses.values(), strict=True):
        error = status if isinstance(status, errors.IcError) else None
        word: Any = "failed" if error else status
        outcomes.append(execute.Outcome(step=one, status=word, ms=5, error=error))
    return converge.Done(plan=plan, run="a1b2c3d4", result=execute.Result(outcomes=tuple(outcomes)))


class Bench:
    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        out = output.Output(stdout=self.stdout, stderr=self.stderr, json=json, quiet=quiet)
        options = session.Globals(files=("x.yaml",))
        self.session = session.Session(options, {}, out, lambda: None)

    def conclude(self, done: converge.Done | None) -> None:
        applying.conclude(self.session, done, verb="apply", next_="ic -f x.yaml ps")


def test_without_a_terminal_changes_are_refused_and_nothing_is_sent() -> None:
    bench = Bench()
    manner = applying.Manner(verb="apply", ask=True)
    with pytest.raises(errors.ConfirmationRequired) as caught:
        applying.run(bench.session, view_of("instance:web/1"), manner)
    assert caught.value.exit_status == 3
    assert caught.value.hint.startswith("`ic -f x.yaml apply -y`")
    assert "instance:web/1" in bench.stdout.getvalue()


def test_nothing_to_do_asks_nobody_and_opens_no_run() -> None:
    bench = Bench()
    assert applying.run(bench.session, view_of(), applying.Manner(verb="apply", ask=True)) is None
    bench.conclude(None)
    assert bench.stdout.getvalue() == "nothing to do: nothing of stack shop is left to remove\n"


def test_an_interrupted_journal_is_told_of() -> None:
    verdict = fold.Verdict(
        n=7, address="instance:web/1", event="inst.create", status="ok", reason="it is there"
    )
    bench = Bench()
    applying.show(bench.session, view_of(verdicts=(verdict,)))
    assert "an earlier run was interrupted: 1 step in doubt" in bench.stderr.getvalue()
    assert "instance:web/1  inst.create: it is there" in bench.stderr.getvalue()


def test_a_run_that_may_be_at_work_is_not_called_interrupted() -> None:
    verdict = fold.Verdict(
        n=7, address="instance:web/1", event="inst.create", status="ok", reason="it is there"
    )
    held = {"user.ic.hold": '{"a":"0@there","m":"other"}', "user.ic.gen": "3"}
    top = lease.RunObject(name="ic.lock.x", generation=3, nonce="cafebabe", config=held)
    seen = view_of(verdicts=(verdict,))
    seen = msgspec.structs.replace(
        seen, journal=msgspec.structs.replace(seen.journal, run_object=top)
    )
    bench = Bench()
    applying.show(bench.session, seen)
    assert "0@there holds the stack's lease: 1 step under way" in bench.stderr.getvalue()
    assert "interrupted" not in bench.stderr.getvalue()


def test_with_json_the_plan_is_not_printed_beside_the_document() -> None:
    bench = Bench(json=True)
    applying.show(bench.session, view_of("instance:web/1"))
    assert bench.stdout.getvalue() == ""
    bench.conclude(done_of(web="ok"))
    found = json.loads(bench.stdout.getvalue())
    assert (found["schema"], found["run"], found["status"]) == ("ic.apply/1", "a1b2c3d4", "ok")
    assert found["done"] == ["instance:web/1"]
    assert found["next"] == "ic -f x.yaml ps"


def test_what_was_done_is_counted_and_the_next_command_named() -> None:
    bench = Bench()
    bench.conclude(done_of(web="ok", db="ok"))
    assert bench.stdout.getvalue() == ("done: 2 created  (run a1b2c3d4)\nnext: ic -f x.yaml ps\n")


def test_quiet_says_nothing_when_all_is_well() -> None:
    bench = Bench(quiet=True)
    bench.conclude(done_of(web="ok"))
    assert bench.stdout.getvalue() + bench.stderr.getvalue() == ""


def test_a_failure_is_told_with_its_cause_and_what_was_not_begun() -> None:
    error = errors.OperationFailed("cannot start db: no", details=("line",), hint="look")
    bench = Bench()
    with pytest.raises(errors.ApplyError) as caught:
        bench.conclude(done_of(net="ok", db=error, web="not-started"))
    assert caught.value.summary == "cannot carry everything out: 1 of 3 changes failed"
    assert caught.value.details == (
        "instance:db/1: cannot start db: no",
        "  line",
        "  hint: look",
        "done: instance:net/1",
        "not started: instance:web/1",
    )
    assert "`ic -f x.yaml apply` goes on" in caught.value.hint


def test_a_failure_with_json_is_in_the_document_too() -> None:
    bench = Bench(json=True)
    with pytest.raises(errors.ApplyError):
        bench.conclude(done_of(db=errors.OperationFailed("no"), web="not-started", net="unknown"))
    found = json.loads(bench.stdout.getvalue())
    assert found["status"] == "failed"
    assert [one["address"] for one in found["failed"]] == ["instance:db/1", "instance:net/1"]
    assert found["not_started"] == ["instance:web/1"]
    assert found["next"] == "ic -f x.yaml apply"


def test_an_interruption_is_status_130_and_says_how_to_go_on() -> None:
    done = done_of(db="ok", web="not-started")
    result = execute.Result(outcomes=done.result.outcomes, interrupted=True)
    bench = Bench()
    with pytest.raises(errors.Interrupted) as caught:
        bench.conclude(converge.Done(plan=done.plan, run=done.run, result=result))
    assert caught.value.exit_status == 130
    assert "done: instance:db/1" in caught.value.details


def test_a_lost_lease_is_told_as_what_it_is() -> None:
    done = done_of(db="unknown", web="not-started")
    lost = errors.Fenced("cannot go on: taken over", hint="see history")
    result = execute.Result(outcomes=done.result.outcomes, stopped_by=lost)
    bench = Bench()
    with pytest.raises(errors.Fenced) as caught:
        bench.conclude(converge.Done(plan=done.plan, run=done.run, result=result))
    assert caught.value.exit_status == 75
    assert caught.value.hint == "see history"
    assert "instance:db/1: how this ended is not known" in caught.value.details


def test_a_wait_that_nobody_needed_is_a_warning() -> None:
    done = done_of(job="ok")
    told = execute.Outcome(
        step=done.plan.steps[0], status="ok", error=errors.OperationFailed("it ended with 3")
    )
    bench = Bench()
    bench.conclude(
        converge.Done(plan=done.plan, run=done.run, result=execute.Result(outcomes=(told,)))
    )
    assert "warning: it ended with 3" in bench.stderr.getvalue()


def test_who_waited_for_a_job_that_failed_was_not_started() -> None:
    """The step is about the job, the change is that of the service that waits for it."""
    wait = kind.Step(
        id="instance:job/1#exit", address="instance:job/1", event="", deed=kind.Note(), lane="wait"
    )
    start = step("instance:web/1", "start")
    plan = changes.Plan(
        stack="shop",
        project="shop",
        server="local",
        changes=(
            changes.Change(
                address="instance:web/1", action="create", cause="new", steps=(wait, start)
            ),
        ),
    )
    ended = errors.OperationFailed("cannot go on after instance job: it ended with exit code 3")
    result = execute.Result(
        outcomes=(
            execute.Outcome(step=wait, status="failed", error=ended),
            execute.Outcome(step=start, status="not-started"),
        )
    )
    bench = Bench()
    with pytest.raises(errors.ApplyError) as caught:
        bench.conclude(converge.Done(plan=plan, run="a1b2c3d4", result=result))
    assert caught.value.summary == "cannot carry everything out: 1 of 1 changes failed"
    assert caught.value.details == (
        f"instance:job/1: {ended.summary}",
        "not started: instance:web/1",
    )
