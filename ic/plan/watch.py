"""Who watches over a stack: whether a health daemon is needed, what its sidecar is to be, how it gets there.

Pure. The sidecar is planned as a change like any other, with the planner's own table: made, replaced, healed,
started, removed. It is no service: no file names it, services neither wait for it nor are selected with it,
but what waits for health waits for its identity. docs/healthd.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.fields import lifecycle, process, section
from ic.plan import changes, difference, laying
from ic.resources import image, instance, kind, project, sidecar, volume

if TYPE_CHECKING:
    from ic.fields import switches
    from ic.plan import desired, facts

ADDRESSES = (sidecar.ADDRESS, sidecar.VOLUME_ADDRESS)

UNNEEDED = "nothing needs it any more"
SWITCHED_OFF = "switched off"
MOVED = "it moves into a project of its own"
MOVED_BACK = "its services are restricted no more"
OTHERWISE = "it is set up otherwise now"
_CAUSES = {difference.CHANGED: OTHERWISE, difference.REMOVED: OTHERWISE}  # no file names it
SPOILT = "its identity cannot be used"
_GIVE_UP_MS = 10_000


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """The sidecar as desired. `needed` says by what, in words; `https_address` is where the server is to
    listen that listens nowhere (empty: it listens). `home` is the project that it lives in.
    """

    instance: kind.Resource
    volume: kind.Resource
    image: str  # the image's address
    found: image.ImageFacts
    needed: str
    home: str
    projects: tuple[str, ...]
    source: str = ""
    runs_itself: bool = False
    https_address: str = ""


def reason(fields: kind.Fields) -> str:
    """Why an instance needs somebody who watches it, in words; empty when it does not."""
    policy = fields.get(("config", names.RESTART), "no")
    parts = ["healthcheck"] if ("config", names.HEALTH_TEST) in fields else []
    parts += [f"restart: {policy}"] if policy != "no" else []
    return ", ".join(parts)


def needed(reasons: dict[str, str]) -> str:
    """`needed by db (healthcheck), web (restart: always)`, of services and their reasons."""
    return "needed by " + ", ".join(f"{name} ({why})" for name, why in sorted(reasons.items()))


def reference(given: switches.StackSwitches, options: desired.Options) -> str:
    """The image that the sidecar runs in: the command line's, the file's, the usual one."""
    return options.healthd_image or given.image or sidecar.IMAGE


def wanted(
    *,
    stack_project: str,
    home: str,
    found: image.ImageFacts,
    reasons: dict[str, str],
    pools: tuple[str, str],
    observed: facts.Observed,
    options: desired.Options,
) -> Sidecar:
    """The sidecar of a project as it is to be. `pools` are those of its root and of its volume, `home` is
    the project that it lives in (empty: the one that it watches).

    Without a program to put into it (a checkout) the one that is there is kept. Raises PlanError when
    there is none.
    """
    live = observed.live.get(sidecar.ADDRESS)
    build, runs_itself = options.healthd_build, options.healthd_runs_itself
    if not options.healthd_source:
        build = live.fields.get(("config", sidecar.BUILD), "") if live is not None else ""
        runs_itself = live is not None and sidecar.runs_itself(live)
    if not build:
        raise errors.PlanError(
            "cannot set up the health daemon: this ic is no single file that could be put into it",
            hint="name one with --healthd-binary ic.pyz, or go without it: --no-healthd",
        )
    address = observed.facts.https_address
    connect = sidecar.reachable(address or "")
    known = live.fields.get(("devices", "api", "connect"), "") if live is not None else ""
    known, told = known.removeprefix("tcp:"), observed.facts.addresses
    if address is None:  # out of sight: what was set up once stands
        connect = known or (told[0] if told else connect)
    elif known in told:  # set up by somebody out of whose sight it was; the server is there still
        connect = known
    root, volume_pool = pools
    resource = kind.Resource(
        address=sidecar.ADDRESS,
        name=sidecar.INSTANCE,
        fields=_fields(stack_project, found, build, runs_itself=runs_itself)
        | sidecar.devices(root=root, volume_pool=volume_pool, connect=connect),
        power="running",
        grace_ms=_GIVE_UP_MS,
    )
    return Sidecar(
        instance=resource,
        volume=sidecar.identity_volume(volume_pool),
        image=names.address("image", found.reference),
        found=found,
        needed=needed(reasons),
        home=home or stack_project,
        projects=(stack_project,),
        source=options.healthd_source,
        runs_itself=runs_itself,
        https_address=sidecar.LOOPBACK if address == "" else "",
    )


def _fields(watched: str, found: image.ImageFacts, build: str, *, runs_itself: bool) -> kind.Fields:
    """The config: one more service by the same rules, with a command and an environment of ic's own."""
    config = found.config
    ctx = section.Context(
        service=sidecar.INSTANCE,
        replica=1,
        image=config,
        image_mark=f"{found.reference}@{found.digest}",
    )
    program = process.Process(
        entrypoint=sidecar.command(config.entrypoint or config.cmd or (), runs_itself=runs_itself),
        environment={sidecar.PROJECT_VARIABLE: watched, "HOME": "/root", **sidecar.ENVIRONMENT},
        user="0:0",
        working_dir="/",
    )
    life = lifecycle.Lifecycle(
        healthcheck=lifecycle.Healthcheck(disable=True),
        stop_signal="SIGTERM",
        stop_grace_period=_GIVE_UP_MS,
    )
    fields = section.merged((process.contribute(program, ctx), lifecycle.contribute(life, ctx)))
    return fields | {
        ("config", "boot.autostart"): "true",
        ("config", "security.guestapi"): "false",  # nothing in it asks Incus's guest API
        ("config", "boot.autorestart"): "true",
        ("config", names.IMAGE): ctx.image_mark,
        ("config", names.HEALTH_DAEMON): "true",
        ("config", sidecar.BUILD): build,
    }


# --- the sidecar's rows of the planner's table ---------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided for the sidecar, before its steps are laid. `enrol` is why it gets an identity."""

    action: changes.Action
    cause: str
    diff: difference.Diff = difference.Diff()
    stop: bool = False
    start: bool = False
    unfreeze: bool = False
    enrol: bool = False
    new_volume: bool = False
    adopt: bool = False

    @property
    def makes(self) -> bool:
        """Whether the instance is created anew."""
        return self.action in {"create", "replace"}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.makes or self.diff.fields or self.start or self.enrol or self.adopt)


def decide(given: Sidecar, observed: facts.Observed, book: difference.Book, *, token: bool) -> Row:
    """The row of a wanted sidecar. `token` is whether an administrator's one is at hand.

    Raises Refused when something is to be done that this client may not do.
    """
    row = _decided(given, observed, book)
    _check_rights(given, row, observed, book, token=token)
    return row


def _decided(given: Sidecar, observed: facts.Observed, book: difference.Book) -> Row:
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
    said = dict.fromkeys(_CAUSES.get(cause, cause) for cause in diff.causes)
    if difference.NEW_BUILD in said:
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
    power = "" if restart else _why_start(live)
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


def _why_start(live: kind.Live) -> str:
    """It is always to run; boot.autorestart makes up for its own ends."""
    if live.power == "Running":
        return ""
    if live.power == "Frozen":
        return "frozen"
    if not live.ever_started:
        return "never started"
    return f"exited ({live.exit_code})" if live.exit_code else "stopped"


def _why_enrol(observed: facts.Observed, book: difference.Book) -> str:
    """Why an existing sidecar is to get an identity, by what it says of itself; empty when it has one."""
    state = observed.facts.sidecar_state
    if state is None:
        known = book.recorded.get(sidecar.ADDRESS)
        had = known is not None and "certificate" in known.facts
        return "its identity was lost" if had else "it has no identity yet"
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


def _check_rights(
    given: Sidecar, row: Row, observed: facts.Observed, book: difference.Book, *, token: bool
) -> None:
    """A restricted client may pull no image, make no token and let no server listen.

    Said before the first change, with all that somebody who may has to do.
    """
    asks = row.enrol and not token
    held = observed.facts.fingerprints
    if row.makes and held is None:
        return  # such a plan pulls; it is made again with what the server holds
    pulls = row.makes and given.found.fingerprint not in (held or ())
    if observed.facts.may_administer or not (asks or pulls or given.https_address):
        return
    commands = [image.command(given.found)] if pulls else []
    if given.https_address:
        commands.append(f"incus config set core.https_address={given.https_address}")
    if asks:
        name = sidecar.identity_name(given.projects[0], book.lineage)
        projects = ",".join(given.projects)
        commands.append(
            f'incus config trust add "{name}" --restricted --projects {projects} --quiet > token'
        )
    raise errors.Refused(
        "cannot set up the health daemon: this client's certificate is restricted",
        details=("an administrator of the server runs:", *(f"  {one}" for one in commands)),
        hint=(
            "then give the token's file (mode 0600) with --healthd-token FILE"
            if asks
            else "then run this again"
        )
        + "; or go without the daemon: --no-healthd",
    )


def lay(
    draft: laying.Draft, given: Sidecar, row: Row, observed: facts.Observed, book: difference.Book
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
    draft.put(sidecar.ADDRESS, row.action, row.cause, steps, fields)
    if row.makes and given.home in given.projects and observed.facts.home_marked:
        _leave_home(draft, sidecar.home(given.projects[0]), row.cause)


def _leave_home(draft: laying.Draft, home: str, cause: str) -> None:
    """The project of its own goes when the sidecar and its volume are out of it."""
    leaving = [f"{address}#delete" for address in ADDRESSES]
    step = project.delete(home, tuple(one for one in leaving if one in draft.steps))
    draft.put(step.address, "delete", cause, (step,))


def _let_listen(draft: laying.Draft, given: Sidecar, observed: facts.Observed) -> None:
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
    given: Sidecar,
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
    draft: laying.Draft, given: Sidecar, row: Row, live: kind.Live | None, lived: str
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
    steps.append(
        instance.create(
            given.instance,
            project=home,
            source={"type": "image", "fingerprint": fingerprint},
            without=frozenset(),
            needs=(*ready, *((filled,) if filled in draft.steps else ())),
        )
    )
    return [*steps, *_starting(given, (steps[-1].id,), filled=False)]


def _starting(given: Sidecar, needs: tuple[str, ...], *, filled: bool) -> list[kind.Step]:
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


def _stop(given: Sidecar, needs: tuple[str, ...], lived: str) -> kind.Step:
    return instance.stop(
        sidecar.ADDRESS,
        sidecar.INSTANCE,
        project=lived,
        grace_ms=given.instance.grace_ms,
        needs=needs,
    )


def _updating(
    given: Sidecar, row: Row, live: kind.Live | None, book: difference.Book
) -> list[kind.Step]:
    """One write, with the sidecar stopped around it where that is needed; or only a start."""
    steps: list[kind.Step] = []
    if live is None:
        return steps

    def needs() -> tuple[str, ...]:
        return (steps[-1].id,) if steps else ()

    if row.stop:
        steps.append(_stop(given, (), given.home))
    if row.diff.fields:
        steps.append(
            instance.update(
                sidecar.ADDRESS,
                live.name,
                project=given.home,
                set_=dict(sorted(row.diff.set.items())),
                unset=row.diff.unset,
                record=book.record(given.instance, row.diff),
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
    live, store = (observed.live.get(address) for address in ADDRESSES)
    home = observed.facts.sidecar_home or projects[0]
    known = [address for address in ADDRESSES if address in draft.book.recorded]
    if live is None and store is None and not known and not observed.facts.home_marked:
        return
    steps: list[kind.Step] = []
    if observed.facts.may_administer:
        steps.append(sidecar.revoke(projects=projects))
    before = tuple(step.id for step in steps)
    if live is not None and live.power in laying.UP:
        grace = _GIVE_UP_MS if grace_ms is None else grace_ms
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


def keeps_alive(live: kind.Live, observed: facts.Observed) -> bool:
    """Whether an ended instance is the running daemon's to start again: planning leaves it alone.

    Only where the daemon has said so. What somebody has stopped, what it has given up and what ended while it
    was away is started by `apply` and `up`; so is what it starts within a second, whoever comes first.
    """
    state, guard = observed.facts.sidecar_state, observed.live.get(sidecar.ADDRESS)
    return (
        guard is not None
        and guard.power == "Running"
        and state is not None
        and state.state == "watching"
        and live.promised
        and live.exit_code is not None
        and live.stamp.want != "stopped"
    )
