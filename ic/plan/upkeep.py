"""How a stack's sidecar becomes what it is to be: made, replaced, healed, started, removed.

Pure. It is planned as a change like any other, with a table of its own that follows the planner's. What waits
for health waits for its identity; nothing else waits for it. docs/healthd.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import names
from ic.plan import changes, difference, laying, watch
from ic.resources import instance, kind, project, sidecar, volume

if TYPE_CHECKING:
    from ic.plan import facts

MOVED = "it moves into a project of its own"
MOVED_BACK = "its services are restricted no more"
OTHERWISE = "it is set up otherwise now"
_CAUSES = {difference.CHANGED: OTHERWISE, difference.REMOVED: OTHERWISE}  # no file names it
SPOILT = "its identity cannot be used"
UNFINISHED = "its set-up was not finished"
KEPT: kind.Path = ("config", "boot.autorestart")
"""Given last, to a daemon that watches. What Incus starts again by itself it starts again after a failed
start too, seconds later, and then whatever has its name by then [measured: a new sidecar was killed]."""
_PROGRAMS = {
    (False, False): difference.NEW_BUILD,
    (False, True): "an executable instead of ic.pyz",
    (True, False): "ic.pyz instead of an executable",
    (True, True): "another executable",
}
"""Why another program is put into it, by whether the old one and the new one are started as they are."""


class Row(laying.Decision, frozen=True, kw_only=True):
    """What is decided for the sidecar: `enrol` that it gets an identity, `new_volume` a place for it too."""

    enrol: bool = False
    new_volume: bool = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.makes or self.diff.fields or self.start or self.enrol or self.adopt)


def decide(given: watch.Sidecar, observed: facts.Observed, book: difference.Book) -> Row:
    """The row of a wanted sidecar."""
    live = observed.live.get(sidecar.ADDRESS)
    state = observed.facts.sidecar_state
    spoilt = state is not None and state.state == "bad-identity"
    lived = observed.facts.sidecar_home
    moves = bool(lived) and lived != given.home
    new_volume = spoilt or moves or sidecar.VOLUME_ADDRESS not in observed.live
    if live is None:
        gone = sidecar.ADDRESS in book.recorded
        cause = difference.VANISHED if gone else given.needed
        return Row(action="create", cause=cause, start=True, enrol=True, new_volume=new_volume)
    running = live.power in laying.UP
    why = _why_enrol(observed, book)
    if live.half_made or new_volume:
        cause = why if spoilt else "its identity is gone"
        if live.half_made:
            cause = difference.CUT_OFF
        elif moves:
            cause = MOVED if given.home not in given.projects else MOVED_BACK
        return Row(
            action="replace",
            cause=cause,
            stop=running,
            start=True,
            enrol=True,
            new_volume=new_volume,
        )
    diff = book.compare(given.instance, live, difference.instance_impact(given.instance, live))
    adopt = sidecar.ADDRESS not in book.recorded
    program = _PROGRAMS[sidecar.runs_itself(live), given.runs_itself]
    words = _CAUSES | {difference.NEW_BUILD: program}
    known = book.recorded.get(sidecar.ADDRESS)
    if known is not None and KEPT not in known.fields and {*diff.set} == {KEPT} and not diff.unset:
        words |= {difference.CHANGED: UNFINISHED}
    said = dict.fromkeys(words.get(cause, cause) for cause in diff.causes)
    if program in said:
        said.pop(OTHERWISE, None)
    causes = (*((difference.ADOPTED,) if adopt else ()), *said, *((why,) if why else ()))
    if diff.impact == "replace":
        return Row(
            action="replace",
            cause="; ".join(causes),
            diff=diff,
            stop=running,
            start=True,
            enrol=bool(why),
        )
    restart = diff.impact == "restart" and running
    power = "" if restart else laying.why_start(live)
    action: changes.Action = "adopt"
    if restart:
        action = "restart"
    elif diff.fields or why:
        action = "update"
    elif power:
        action = "start"
    return Row(
        action=action,
        cause="; ".join((*causes, *((power,) if power else ()))),
        diff=diff,
        stop=restart,
        start=restart or bool(power),
        unfreeze=live.power == "Frozen" and not restart,
        enrol=bool(why),
        adopt=adopt,
    )


def _why_enrol(observed: facts.Observed, book: difference.Book) -> str:
    """Why an existing sidecar is to get an identity, by what it says of itself; empty when it has one."""
    state = observed.facts.sidecar_state
    known = book.recorded.get(sidecar.ADDRESS)
    had = known is not None and "certificate" in known.facts
    if state is None:
        return "its identity was lost" if had else "it has no identity yet"
    if state.state == "starting" and not had:
        # Its first start, by a run that was cut off before it made a token: it is about to say so itself.
        return "it has no identity yet"
    detail = f": {state.detail}" if state.detail else ""
    pinned = state.server == observed.facts.server_fingerprint
    return {
        "waiting-for-token": "it has no identity yet",
        "token-refused": f"its token was refused{detail}",
        "untrusted": "its certificate was revoked",
        "pin-mismatch": "something else answers where it reaches the server"
        if pinned
        else "the server has another certificate",
        "bad-identity": f"{SPOILT}{detail}",
    }.get(state.state, "")


def trouble(observed: facts.Observed) -> str:
    """What is wrong with a running sidecar that no change of this plan mends; empty when nothing is."""
    live, state = observed.live.get(sidecar.ADDRESS), observed.facts.sidecar_state
    if live is None or state is None or live.power != "Running":
        return ""
    if state.state == "unreachable":
        return f"the health daemon does not reach the server: {state.detail or 'no answer'}"
    if state.misconfigured:
        return f"the health daemon cannot read {', '.join(state.misconfigured)}"
    return ""


def lay(
    draft: laying.Draft,
    given: watch.Sidecar,
    row: Row,
    observed: facts.Observed,
    book: difference.Book,
) -> None:
    """Lay the steps of what was decided, and of what the sidecar stands on."""
    if given.https_address:
        _let_listen(draft, given, observed)
    if given.home not in given.projects and not observed.facts.home_exists:
        made = project.create(project.resource(given.home))
        draft.put(made.address, "create", "the health daemon lives there", (made,))
    _lay_volume(draft, given, row, observed, book)
    if row.idle:
        return
    live = observed.live.get(sidecar.ADDRESS)
    if row.makes:
        steps = _making(draft, given, row, live, observed.facts.sidecar_home)
        fields = row.diff.fields or (difference.given(given.instance) if live is None else ())
    elif live is not None and not (row.diff.fields or row.start or row.enrol):
        record = kind.Record(
            name=live.name,
            fields=given.instance.fields,
            power="running" if live.power in laying.UP else None,
        )
        draft.note(sidecar.ADDRESS, "adopt", row.cause, record)
        return
    else:
        steps = _updating(given, row, live, book)
        fields = row.diff.fields
    if row.enrol:
        last = steps[-1].id if steps else ""
        listens = [step for step in draft.steps if step.startswith("server:")]
        steps.append(
            sidecar.enrol(
                home=given.home,
                projects=given.projects,
                pool=given.volume.pool,
                needs=(*((last,) if last else ()), *listens),
            )
        )
    elif row.start:
        steps.append(
            sidecar.await_watching(home=given.home, pool=given.volume.pool, needs=(steps[-1].id,))
        )
    if row.makes or KEPT in row.diff.set:
        steps.append(_keep(given, tuple(step.id for step in steps[-1:])))
    draft.put(sidecar.ADDRESS, row.action, row.cause, steps, fields)
    if row.makes and given.home in given.projects and observed.facts.home_marked:
        _leave_home(draft, sidecar.home(given.projects[0]), row.cause)


def _leave_home(draft: laying.Draft, home: str, cause: str) -> None:
    """The project of its own goes when the sidecar and its volume are out of it."""
    leaving = [f"{address}#delete" for address in watch.ADDRESSES]
    step = project.delete(home, tuple(one for one in leaving if one in draft.steps))
    draft.put(step.address, "delete", cause, (step,))


def _let_listen(draft: laying.Draft, given: watch.Sidecar, observed: facts.Observed) -> None:
    server = observed.facts.server.partition(" ")[0]
    step = sidecar.listen(server, given.https_address)
    change = kind.FieldChange(
        path=sidecar.HTTPS_ADDRESS[1], old=None, new=given.https_address, impact="in-place"
    )
    cause = "the health daemon reaches the server there, and nobody beyond this host does"
    draft.put(step.address, "update", cause, (step,), (change,))


def _founded(draft: laying.Draft, home: str) -> tuple[str, ...]:
    first = f"{names.address('project', home)}#create"
    return (first,) if first in draft.steps else ()


def _lay_volume(
    draft: laying.Draft,
    given: watch.Sidecar,
    row: Row,
    observed: facts.Observed,
    book: difference.Book,
) -> None:
    live = observed.live.get(sidecar.VOLUME_ADDRESS)
    address, resource = sidecar.VOLUME_ADDRESS, given.volume
    if row.new_volume:
        steps: list[kind.Step] = []
        needs = _founded(draft, given.home)
        if live is not None:
            lived = observed.facts.sidecar_home
            gone = volume.delete(address, live.name, pool=live.pool, project=lived)
            leaves = sidecar.ADDRESS in observed.live
            users = (f"{sidecar.ADDRESS}#delete",) if leaves else ()
            steps.append(msgspec.structs.replace(gone, needs=users))
            needs = (*needs, gone.id)
        steps.append(sidecar.create_volume(resource, project=given.home, needs=needs))
        cause = difference.VANISHED if address in book.recorded else difference.NEW
        draft.put(
            address,
            "create" if live is None else "replace",
            cause if live is None else row.cause.partition(":")[0],
            steps,
            difference.given(resource) if live is None else (),
        )
        return
    if live is None:
        return
    diff = book.compare(resource, live, volume.impact)
    adopt = address not in book.recorded
    if diff.fields:
        step = volume.update(
            address,
            live.name,
            pool=live.pool,
            project=given.home,
            set_=dict(sorted(diff.set.items())),
            unset=diff.unset,
            record=book.record(resource, diff),
        )
        draft.put(address, "update", "; ".join(diff.causes), (step,), diff.fields)
    elif adopt:
        record = kind.Record(name=resource.name, pool=resource.pool, fields=resource.fields)
        draft.note(address, "adopt", difference.ADOPTED, record)


def _making(
    draft: laying.Draft, given: watch.Sidecar, row: Row, live: kind.Live | None, lived: str
) -> list[kind.Step]:
    """Create, or stop, delete and create; then the program and the start."""
    address, home = sidecar.ADDRESS, given.home
    pull = f"{given.image}#pull"
    ready = (*_founded(draft, home), *((pull,) if pull in draft.steps else ()))
    steps: list[kind.Step] = []
    if live is not None and row.stop:
        steps.append(_stop(given, ready, lived))
        ready = (steps[-1].id,)
    if live is not None:
        steps.append(instance.delete(address, live.name, project=lived, needs=ready))
        ready = (steps[-1].id,)
    filled = f"{sidecar.VOLUME_ADDRESS}#create"
    fingerprint: object = given.found.fingerprint
    if pull in draft.steps:
        fingerprint = kind.Result(given.image, "fingerprint")
    fields = {path: value for path, value in given.instance.fields.items() if path != KEPT}
    steps.append(
        instance.create(
            msgspec.structs.replace(given.instance, fields=fields),
            project=home,
            source={"type": "image", "fingerprint": fingerprint},
            without=frozenset(),
            needs=(*ready, *((filled,) if filled in draft.steps else ())),
        )
    )
    return [*steps, *_starting(given, (steps[-1].id,), filled=False)]


def _starting(given: watch.Sidecar, needs: tuple[str, ...], *, filled: bool) -> list[kind.Step]:
    """The start; of one that never was started, with its program before it."""
    steps: list[kind.Step] = []
    if not filled:
        steps.append(
            sidecar.place(
                project=given.home,
                source=given.source,
                runs_itself=given.runs_itself,
                needs=needs,
            )
        )
        needs = (steps[-1].id,)
    start = instance.start(
        sidecar.ADDRESS, sidecar.INSTANCE, project=given.home, needs=needs, after=()
    )
    return [*steps, start]


def _keep(given: watch.Sidecar, needs: tuple[str, ...]) -> kind.Step:
    """From now on Incus starts it again when it ends by itself."""
    kept = {KEPT: given.instance.fields[KEPT]}
    return instance.update(
        sidecar.ADDRESS,
        sidecar.INSTANCE,
        project=given.home,
        set_=kept,
        unset=(),
        record=kind.Record(name=sidecar.INSTANCE, fields=kept),
        needs=needs,
        verb="keep",
        want="running",
    )


def _stop(given: watch.Sidecar, needs: tuple[str, ...], lived: str) -> kind.Step:
    return instance.stop(
        sidecar.ADDRESS,
        sidecar.INSTANCE,
        project=lived,
        grace_ms=given.instance.grace_ms,
        needs=needs,
    )


def _updating(
    given: watch.Sidecar, row: Row, live: kind.Live | None, book: difference.Book
) -> list[kind.Step]:
    """One write, with the sidecar stopped around it where that is needed; or only a start."""
    steps: list[kind.Step] = []
    if live is None:
        return steps

    def needs() -> tuple[str, ...]:
        return (steps[-1].id,) if steps else ()

    if row.stop:
        steps.append(_stop(given, (), given.home))
    set_ = {path: value for path, value in sorted(row.diff.set.items()) if path != KEPT}
    if set_ or row.diff.unset:
        record = book.record(given.instance, row.diff)
        fields = {path: value for path, value in record.fields.items() if path != KEPT}
        steps.append(
            instance.update(
                sidecar.ADDRESS,
                live.name,
                project=given.home,
                set_=set_,
                unset=row.diff.unset,
                record=msgspec.structs.replace(record, fields=fields),
                needs=needs(),
                want="running",
            )
        )
    if row.unfreeze:
        step = instance.unfreeze(sidecar.ADDRESS, live.name, project=given.home)
        steps.append(msgspec.structs.replace(step, needs=needs()))
    elif row.start:
        steps += _starting(given, needs(), filled=live.ever_started)
    return steps


def remove(
    draft: laying.Draft,
    observed: facts.Observed,
    *,
    projects: tuple[str, ...],
    cause: str,
    grace_ms: int | None = None,
) -> None:
    """Rights first, then the sidecar, then its identity; what is gone from the server too is forgotten.

    A client that may not edit the server's trust leaves the certificate: its key goes with the volume.
    """
    live, store = (observed.live.get(address) for address in watch.ADDRESSES)
    home = observed.facts.sidecar_home or projects[0]
    known = [address for address in watch.ADDRESSES if address in draft.book.recorded]
    if live is None and store is None and not known and not observed.facts.home_marked:
        return
    steps: list[kind.Step] = []
    if observed.facts.may_administer:
        steps.append(sidecar.revoke(projects=projects))
    before = tuple(step.id for step in steps)
    if live is not None and live.power in laying.UP:
        grace = watch.GIVE_UP_MS if grace_ms is None else grace_ms
        steps.append(
            instance.stop(sidecar.ADDRESS, live.name, project=home, grace_ms=grace, needs=before)
        )
        before = (steps[-1].id,)
    if live is not None:
        steps.append(instance.delete(sidecar.ADDRESS, live.name, project=home, needs=before))
        draft.put(sidecar.ADDRESS, "delete", cause, steps)
    elif sidecar.ADDRESS in known:
        draft.forget(sidecar.ADDRESS, "gone from the server too", before)
        said = draft.changes[sidecar.ADDRESS]
        draft.put(sidecar.ADDRESS, said.action, said.cause, (*steps, *said.steps))
    elif steps:  # a removal was cut off: nothing is to be remembered of this step
        record = kind.Record(name=sidecar.INSTANCE, gone=True)
        steps = [msgspec.structs.replace(step, record=record) for step in steps]
        draft.put(sidecar.ADDRESS, "delete", cause, steps)
    if store is not None:
        gone = volume.delete(sidecar.VOLUME_ADDRESS, store.name, pool=store.pool, project=home)
        last = (f"{sidecar.ADDRESS}#delete",) if live is not None else before
        step = msgspec.structs.replace(gone, needs=last)
        draft.put(sidecar.VOLUME_ADDRESS, "delete", cause, (step,))
    elif sidecar.VOLUME_ADDRESS in known:
        draft.forget(sidecar.VOLUME_ADDRESS, "gone from the server too")
    if observed.facts.home_marked:
        _leave_home(draft, sidecar.home(projects[0]), cause)
