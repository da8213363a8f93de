"""The conversation around carrying out a plan: show it, ask, follow it, say what was done and what is next.

Enters: a session and what is asked for. Leaves: an exit status, or an IcError. `apply`, `up`, `down` and
`destroy` share it. The lease is never held while a person is asked.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from ic import errors
from ic.cli import documents, output, progress
from ic.engine import converge, execute
from ic.journal import lease
from ic.plan import changes

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ic.cli import session


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a command converses.

    `verb` is what is typed to go on, `ask` whether a person is asked, `exact` that a saved plan and no other
    is to be carried out, `show` whether the plan is printed first (its warnings always are).
    """

    verb: str
    ask: bool
    yes: bool = False
    exact: bool = False
    show: bool = True
    lock_timeout: float = 10.0


def warn_of_doubts(session: session.Session, view: converge.View) -> None:
    """Say that an earlier run was cut off (or that one may be at work now), and what is assumed of it."""
    if view.verdicts:
        count = len(view.verdicts)
        steps = f"{count} step{'s' if count > 1 else ''}"
        holder = view.journal.busy
        me = lease.identity(command="", run="")
        if holder is not None and not lease.dead(holder, me, lease.tick_of):
            session.out.note(
                f"{holder.actor or 'somebody'} holds the stack's lease: {steps} under way or in doubt, "
                "taken as the server shows them"
            )
        else:
            session.out.note(
                f"an earlier run was interrupted: {steps} in doubt settled from what the server shows"
            )
    for verdict in view.verdicts:
        session.out.note(f"  {verdict.address}  {verdict.event}: {verdict.reason}", "dim")


def show(session: session.Session, view: converge.View, *, text: bool = True) -> None:
    """The plan on stdout, unless a JSON document will stand there; its warnings on stderr."""
    warn_of_doubts(session, view)
    if text and not session.out.json and not session.out.quiet:
        if view.asked.stack is None and not view.plan.changes:
            session.out.text(f"nothing to do: nothing of stack {view.asked.name} is left to remove")
        else:
            session.out.plan(changes.render(msgspec.structs.replace(view.plan, diagnostics=())))
    session.out.diagnostics(view.plan.diagnostics)


def run(session: session.Session, view: converge.View, manner: Manner) -> converge.Done | None:
    """Show, ask, carry out; None when nothing was to be done. The outcome is for `conclude`.

    Raises ConfirmationRequired (nobody can be asked, or the answer was no), and what carrying out raises.
    """
    show(session, view, text=manner.show or view.idle)
    while not view.idle:
        if view.plan.changes and manner.ask and not manner.yes:
            _confirm(session, view, manner)
        done = _carried_out(session, view, manner)
        if isinstance(done, converge.Done):
            return done
        view = done.view
        if manner.exact:
            raise errors.StalePlan(
                "cannot apply the saved plan: something has moved while the lease was taken",
                hint="make it again with `ic plan --out FILE`",
            )
        session.out.note("meanwhile something has changed; this is the plan now:", "yellow")
        show(session, view, text=manner.show or view.idle)
    return None


def _confirm(session: session.Session, view: converge.View, manner: Manner) -> None:
    counted = output.summary(view.plan)
    if not session.interactive():
        raise errors.ConfirmationRequired(
            f"cannot {manner.verb}: there are changes ({counted}), and nobody can be asked",
            hint=f"`{session.typed(manner.verb)} -y` does it without asking",
        )
    if not session.ask(f"{manner.verb}: {counted}. Go on?"):
        raise errors.ConfirmationRequired(
            f"cannot {manner.verb}: the answer was no", details=("nothing was changed",)
        )


@contextlib.contextmanager
def _followed(
    session: session.Session, plan: changes.Plan
) -> Generator[tuple[progress.Progress, execute.Interrupts]]:
    """The progress display, put away whatever happens; and the signals' way to the walk."""
    shown = session.progress()

    def leave() -> None:
        shown.close()
        session.leave()

    try:
        with execute.Interrupts(leave) as interrupts:
            shown.begin(plan)
            yield shown, interrupts
    finally:
        shown.close()


def _carried_out(
    session: session.Session, view: converge.View, manner: Manner
) -> converge.Done | converge.Moved:
    with _followed(session, view.plan) as (shown, interrupts):

        def moved(now: converge.View) -> None:
            shown.say("meanwhile something has changed; what is done now is:")
            for change in now.plan.changes:
                shown.say(f"  {change.address}  {change.action}: {change.cause}")
            shown.begin(now.plan)

        terms = converge.Terms(
            report=shown,
            interrupts=interrupts,
            say=shown.say,
            shown=moved,
            agreed=not manner.exact and (manner.yes or not manner.ask),
            lock_timeout=manner.lock_timeout,
        )
        return converge.carry_out(session.client(), view, session.env, terms)


# --- the end -----------------------------------------------------------------------------------------


def document(done: converge.Done | None, next_: str) -> documents.Apply:
    """The `ic.apply/1` document of what was done."""
    if done is None:
        return documents.Apply(
            run=None, status="ok", changes=(), done=(), failed=(), not_started=(), next=next_
        )
    states = _states(done)
    return documents.Apply(
        run=done.run,
        status=done.result.status,
        changes=tuple(documents.change(one) for one in done.plan.changes),
        done=tuple(address for address, state in states.items() if state == "done"),
        failed=tuple(_failure(one) for one in _failures(done)),
        not_started=tuple(address for address, state in states.items() if state == "left"),
        next=next_,
    )


def _states(done: converge.Done) -> dict[str, str]:
    """Every change's address: `done`, `failed` or `left` (some step of it was not started)."""
    states: dict[str, str] = {one.address: "done" for one in done.plan.changes}
    # A step may be about another resource than the change it belongs to: waiting for a job's end. When that
    # fails, who waited was not begun.
    owners = {step.id: one.address for one in done.plan.changes for step in one.steps}
    for outcome in done.result.outcomes:
        address = owners[outcome.step.id]
        failed = outcome.status in ("failed", "unknown")
        if failed and address == outcome.step.address:
            states[address] = "failed"
        elif (failed or outcome.status == "not-started") and states[address] == "done":
            states[address] = "left"
    return states


def _failures(done: converge.Done) -> tuple[execute.Outcome, ...]:
    return tuple(one for one in done.result.outcomes if one.status in ("failed", "unknown"))


def _failure(outcome: execute.Outcome) -> documents.Failure:
    error = outcome.error
    return documents.Failure(
        address=outcome.step.address,
        step=outcome.step.id,
        code=error.code if error else "E_UNKNOWN",
        summary=error.summary if error else "how this ended is not known",
        details=error.details if error else (),
        hint=error.hint if error else "",
    )


def conclude(
    session: session.Session,
    done: converge.Done | None,
    *,
    verb: str,
    next_: str,
) -> None:
    """Say what was done, what was not, and what to type next.

    Raises ApplyError when steps failed, Interrupted after a signal, and what stopped the walk.
    """
    out = session.out
    again = session.typed(verb)
    ok = done is None or done.result.status == "ok"
    if out.json:
        out.document(document(done, next_ if ok else again))
    if done is None:
        return
    out.diagnostics(done.warnings)
    for one in done.result.outcomes:
        if one.status == "ok" and one.error is not None:
            out.note(f"warning: {one.error.summary}", "yellow")
    states = _states(done)
    if ok:
        if not out.json and not out.quiet:
            out.text(f"done: {_counted(done.plan, states, 'done')}  (run {done.run})")
            out.text(f"next: {next_}")
        return
    details = tuple(_told(done, states))
    if done.result.stopped_by is not None:
        stopped = done.result.stopped_by
        raise type(stopped)(
            stopped.summary,
            details=(*stopped.details, *details),
            hint=stopped.hint or f"`{again}` goes on from what is done",
            code=stopped.code,
        )
    if done.result.interrupted:
        raise errors.Interrupted(
            f"cannot finish {verb}: interrupted",
            details=details,
            hint=f"`{again}` goes on from what is done",
        )
    failed = len({one.step.address for one in _failures(done)})
    raise errors.ApplyError(
        f"cannot carry everything out: {failed} of {len(states)} changes failed",
        details=details,
        hint=f"when the cause is gone, `{again}` goes on from what is done",
    )


def _counted(plan: changes.Plan, states: Mapping[str, str], state: str) -> str:
    counts: dict[str, int] = {}
    for change in plan.changes:
        if states.get(change.address) == state:
            counts[change.action] = counts.get(change.action, 0) + 1
    return ", ".join(f"{n} {progress.DONE[action]}" for action, n in counts.items()) or "nothing"


def _told(done: converge.Done, states: Mapping[str, str]) -> list[str]:
    """Lines about a run that did not come to its end: failures in full, then what was done and what not."""
    lines: list[str] = []
    for outcome in _failures(done):
        failure = _failure(outcome)
        lines.append(f"{failure.address}: {failure.summary}")
        lines += [f"  {line}" for line in failure.details]
        if failure.hint:
            lines.append(f"  hint: {failure.hint}")
    for state, words in (("done", "done"), ("left", "not started")):
        found = [address for address, one in states.items() if one == state]
        if found:
            lines.append(f"{words}: {', '.join(found)}")
    return lines
