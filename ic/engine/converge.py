"""The flow from files to a changed server: look, plan, take the lease, look again, execute, close.

Enters: a stack (or only its name), what is asked for, and a client. Leaves: a View (for showing, nothing
was written) or what became of carrying it out. Not pure. Nothing here decides: planning decides, executing
carries out; this is the order in which they are asked (docs/architecture.md, "Data flow").
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import msgspec

import ic
from ic import buildinfo, errors, names
from ic.compose import model
from ic.engine import deeds, execute, observe, recover
from ic.engine.tools import Tools
from ic.journal import book, fold, lease
from ic.plan import changes, desired, facts, planner, watch
from ic.resources import kind

if TYPE_CHECKING:
    from ic.incus import client as incus
    from ic.resources import image


LOOK_PATIENCE = 20.0  # seconds that looking waits for operations of a run that was cut off


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. `stack` is None for commands that need no file; `name` is always there."""

    name: str
    stack: model.Stack | None
    options: planner.Options
    command: str

    @property
    def project(self) -> str:
        """The Incus project of the stack."""
        return names.project(self.name)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look at everything, and the plan that follows from it. Nothing was written for it.

    `recorded` is the journal's last applied state with steps in doubt settled in memory by `verdicts`.
    """

    asked: Asked
    journal: book.Journal
    recorded: fold.Recorded
    verdicts: tuple[fold.Verdict, ...]
    observed: facts.Observed
    plan: changes.Plan

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do: no change, and no step of an earlier run in doubt."""
        return not self.plan.changes and not self.verdicts

    def basis(self) -> changes.Basis:
        """What the plan was made from, for saving it and for comparing with a saved one."""
        stack = self.asked.stack
        return changes.Basis(
            lineage=self.recorded.lineage,
            sequence=self.recorded.sequence,
            chain=self.recorded.chain,
            files=stack.files if stack else (),
            live=self.observed.live,
            services=self.asked.options.services,
            remove_orphans=self.asked.options.remove_orphans,
        )


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was carried out, well or not: under which run, and how every step ended.

    `run` is empty when nothing had to be written. `warnings` are those of closing the journal.
    """

    plan: changes.Plan
    run: str
    result: execute.Result
    warnings: tuple[errors.Diagnostic, ...] = ()


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Between showing the plan and taking the lease something has moved: this is what there is now."""

    view: View


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan is carried out.

    `agreed` says that another plan than the shown one may be carried out as well (`--yes`, `up`, `down`);
    `shown` is told of it. `lock_timeout` is in seconds. `say` takes a sentence for the user.
    """

    report: execute.Report
    interrupts: execute.Interrupts
    say: Callable[[str], None]
    shown: Callable[[View], None]
    agreed: bool
    lock_timeout: float = 10.0


def look(
    client: incus.Client,
    asked: Asked,
    env: Mapping[str, str],
    *,
    images: Mapping[str, image.ImageFacts] | None = None,
) -> View:
    """Read the journal and live state, settle doubts in memory, and plan.

    `images` are facts of an earlier look, not asked for again. Raises JournalError for a journal that
    cannot be trusted, and whatever reading and planning raise.
    """
    journal, observed = _observed(client, asked, env, images or {})
    if journal.state not in ("ok", "none"):
        book.require_writable(journal, observed.project_config)
    if journal.recorded.doubts and _still_going_on(client, asked.project, journal):
        journal, observed = _observed(client, asked, env, observed.facts.images)
    found = recover.verdicts(journal.recorded.doubts, observed, journal.key)
    recorded = fold.settled(journal.recorded, found)
    seen = recover.cleared(observed, found)
    return View(
        asked=asked,
        journal=journal,
        recorded=recorded,
        verdicts=found,
        observed=observed,
        plan=_planned(client, asked, recorded, seen, journal.key),
    )


def _still_going_on(client: incus.Client, project: str, journal: book.Journal) -> bool:
    """Whether the server was still at what a run left in doubt, and now has ended it (or takes too long)."""
    doubts = journal.recorded.doubts
    waited, _ = recover.await_quiet(
        client, project, doubts, patience=LOOK_PATIENCE, say=lambda _: None
    )
    return waited


def _observed(
    client: incus.Client,
    asked: Asked,
    env: Mapping[str, str],
    images: Mapping[str, image.ImageFacts],
) -> tuple[book.Journal, facts.Observed]:
    """One look; no registry is asked for the image of a service that is not selected."""
    stack = asked.stack
    chosen = desired.selection(stack, asked.options.services) if stack is not None else None
    return observe.observe(
        client,
        asked.project,
        stack,
        env,
        images=images,
        pull=asked.options.pull,
        services=chosen,
        guard=watch.reference(stack.switches, asked.options)
        if stack is not None and stack.switches.healthd and asked.options.healthd
        else None,
    )


def _planned(
    client: incus.Client,
    asked: Asked,
    recorded: fold.Recorded,
    observed: facts.Observed,
    key: bytes,
) -> changes.Plan:
    """The plan. What images the server holds matters to one that pulls: only then it is asked."""
    plan = _plan(asked, recorded, observed, key)
    if not any(isinstance(step.deed, kind.Pull) for step in plan.steps):
        return plan
    return _plan(asked, recorded, observe.with_images(client, asked.project, observed), key)


def _plan(
    asked: Asked, recorded: fold.Recorded, observed: facts.Observed, key: bytes
) -> changes.Plan:
    options = msgspec.structs.replace(asked.options, key=key)
    if asked.stack is None or options.mode in ("stop", "down", "destroy"):
        wanted = desired.nothing(asked.name)
    else:
        planner.check_project(asked.name, observed)
        wanted = desired.build(asked.stack, recorded, observed, options)
    return planner.plan(wanted, recorded, observed, options)


class _Clock(lease.SystemClock):
    """This machine's clocks; while the lease is waited for, an interruption ends the waiting."""

    def __init__(self, interrupts: execute.Interrupts) -> None:
        self.waiting: threading.Thread | None = threading.current_thread()
        self._interrupts = interrupts

    def sleep(self, seconds: float) -> None:
        """Wait; raises Interrupted on the thread that waits for the lease."""
        if threading.current_thread() is not self.waiting:
            time.sleep(seconds)
        elif self._interrupts.requested.wait(seconds):
            raise errors.Interrupted("cannot wait for the lease: interrupted")


def carry_out(
    client: incus.Client, view: View, env: Mapping[str, str], terms: Terms
) -> Done | Moved:
    """Take the lease, settle doubts, look again, and execute: the shown plan, or (agreed) the one of now.

    A stack without a project gets it here: one POST that holds the journal's beginning as well, the only
    call without an acknowledged intent. A stack that somebody destroyed while the lease was waited for has
    moved. Raises Locked, Fenced, other JournalErrors, Interrupted, IncusError.
    """
    asked = view.asked
    start = book.start(asked.command, version=ic.__version__, build=buildinfo.build_id())
    head = ""
    founding = _founding(view.plan)
    if founding is not None:
        head = _found(client, founding, start, asked.name)
    clock = _Clock(terms.interrupts)
    try:
        run = book.begin(
            client,
            asked.project,
            start,
            lock_timeout=terms.lock_timeout,
            say=terms.say,
            clock=clock,
        )
    except errors.NotFound:  # whoever held the lease has destroyed the stack
        return Moved(view=look(client, asked, env, images=view.observed.facts.images))
    clock.waiting = None
    try:
        now = _settled(client, run, view, env, terms)
        moved = not _same(view.plan, now.plan)
        if moved and not terms.agreed:
            run.close("interrupted")
            return Moved(view=now)
        if moved:
            terms.shown(now)
        result = _executed(client, run, now, env, terms)
    except BaseException as error:
        stopped = isinstance(error, (errors.Interrupted, KeyboardInterrupt))
        with contextlib.suppress(errors.IcError):
            run.close("interrupted" if stopped else "failed")
        raise
    plan = _with_project(view.plan, now.plan) if founding is not None and head else now.plan
    if result.stopped_by is None:
        return Done(plan=plan, run=run.id, result=result, warnings=run.close(result.status))
    with contextlib.suppress(errors.IcError):
        run.close("failed")
    return Done(plan=plan, run=run.id, result=result)


def _founding(plan: changes.Plan) -> kind.Step | None:
    """The step that creates the project, if there is one."""
    own = names.address("project", plan.project)
    return next(
        (one for one in plan.steps if one.event == "proj.create" and one.address == own), None
    )


def _found(client: incus.Client, step: kind.Step, start: book.Start, stack: str) -> str:
    """Create the project together with its journal; the text of the journal's head.

    Of two creators one wins, and the other goes on as a contender for the lease: "exists" is no failure.
    A lost answer is settled by the look that follows.
    """
    genesis = book.genesis(step, start)
    deed = kind.stamped(step, genesis[names.LINEAGE], stack, "0/2")
    if not isinstance(deed, kind.Call) or deed.body is None:
        raise errors.PlanError("cannot create the project: the plan has no request for it")
    config = {**cast("dict[str, object]", deed.body["config"]), **genesis}
    try:
        client.call(deed.method, deed.path, deed.query, {**deed.body, "config": config})
    except (errors.Conflict, errors.TimedOut):
        return ""
    return genesis[names.HEAD]


def _settled(
    client: incus.Client, run: book.Run, view: View, env: Mapping[str, str], terms: Terms
) -> View:
    """Everything as it is under the lease: doubts settled in the journal, live state, the plan."""
    asked = view.asked
    images = view.observed.facts.images

    def observed_now() -> facts.Observed:
        return _observed(client, asked, env, images)[1]

    observed, found = recover.settle(run, client, asked.project, observed_now, say=terms.say)
    return View(
        asked=asked,
        journal=run.journal,
        recorded=run.recorded,
        verdicts=found,
        observed=observed,
        plan=_planned(client, asked, run.recorded, observed, run.key),
    )


def _same(shown: changes.Plan, now: changes.Plan) -> bool:
    """Whether what was shown is what would be done; the project's creation is done by now."""
    return _but_project(shown).changes == _but_project(now).changes


def _but_project(plan: changes.Plan) -> changes.Plan:
    """The plan without the project's own creation or deletion: neither is a step under the lease."""
    kept = tuple(one for one in plan.changes if not _founds_or_ends(plan, one))
    gone = {step.id for one in plan.changes if one not in kept for step in one.steps}

    def freed(step: kind.Step) -> kind.Step:
        return msgspec.structs.replace(
            step,
            needs=tuple(need for need in step.needs if need not in gone),
            after=tuple(need for need in step.after if need not in gone),
        )

    return msgspec.structs.replace(
        plan,
        changes=tuple(
            msgspec.structs.replace(one, steps=tuple(freed(step) for step in one.steps))
            for one in kept
        ),
    )


def _founds_or_ends(plan: changes.Plan, change: changes.Change) -> bool:
    """Whether a change makes or removes the stack's own project."""
    own = names.address("project", plan.project)
    return change.address == own and change.action in {"create", "delete"}


def _with_project(shown: changes.Plan, now: changes.Plan) -> changes.Plan:
    """What was done, the project's creation included: it was shown, and done before the lease was taken."""
    founded = tuple(one for one in shown.changes if _founds_or_ends(shown, one))
    return msgspec.structs.replace(now, changes=(*founded, *now.changes))


def _executed(
    client: incus.Client, run: book.Run, view: View, env: Mapping[str, str], terms: Terms
) -> execute.Result:
    """Walk the plan."""
    tools = Tools(
        client=client,
        lineage=run.lineage,
        guard=run.guard,
        confirm_delete=run.confirm_delete,
        env=env,
        interrupted=terms.interrupts.requested.is_set,
        token_file=view.asked.options.healthd_token,
    )

    def perform(
        step: kind.Step,
        deed: kind.Deed,
        stamp: str,
        results: Mapping[tuple[str, str], str],
    ) -> dict[str, str]:
        return deeds.perform(tools, step, deed, stamp, results)

    return execute.execute(
        _but_project(view.plan),
        run,
        perform,
        report=terms.report,
        interrupts=terms.interrupts,
    )


def remove_project(client: incus.Client, stack: str) -> None:
    """The end of `destroy`: the run object and other profiles of the journal, then the project itself.

    The only deletion without an acknowledged intent: its record would go with it. Never with force, so that
    what somebody has put there meanwhile keeps the project.
    """
    project = names.project(stack)
    query = {"project": project}
    try:
        listed = cast("list[str]", client.get("/1.0/profiles", query) or [])
    except errors.NotFound:
        return
    for name in sorted(one.partition("?")[0].rpartition("/")[2] for one in listed):
        if name.startswith(observe.OWN_PROFILES):
            with contextlib.suppress(errors.NotFound):
                client.call("DELETE", f"/1.0/profiles/{name}", query)
    with contextlib.suppress(errors.NotFound):
        client.call("DELETE", f"/1.0/projects/{project}")
