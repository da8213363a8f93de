"""The one place that decides: desired, recorded and live in, a plan out. Pure; equal inputs, equal bytes.

The table (D desired, R recorded, L live; "marked" carries this stack's lineage):

| D R L | decision |
|---|---|
| D - - | create |
| D - L | marked: adopt, then diff; otherwise refused, never seized |
| D R - | create, cause "vanished" |
| D R L | diff of what is in D or R: in D and different: set; in R, not in D: remove; in L alone: not ours |
| - R L | delete (volumes only with the explicit flag) |
| - R - | forget |
| - - L | marked: reported, deleted only when asked; unmarked: invisible |

Power is a planned field: what has ended well and may stay so is completed, everything else that is
stopped is started, with the reason.
"""

from __future__ import annotations

import graphlib
from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.journal import fold, redact
from ic.plan import allot, changes, desired, facts
from ic.resources import image, instance, kind, network, project, volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Options = desired.Options

UP = ("Running", "Frozen")
FALLBACK_GRACE_MS = 10_000

NEW = "new"
VANISHED = "vanished: it was made by ic and is gone from the server"
CHANGED = "changed in the files"
REMOVED = "removed from the files"
DRIFT = "changed outside ic"
NEW_IMAGE = "its image changed"
NAMES = "names or addresses of its services changed"
ADOPTED = "carries this stack's mark and is not in the journal"
CUT_OFF = "its creation was cut off"
UNFILLED = "it was not filled to the end"


def plan(
    wanted: desired.Desired,
    recorded: fold.Recorded,
    observed: facts.Observed,
    options: Options,
) -> changes.Plan:
    """Every change, in a fixed order, with all its steps.

    Raises OwnershipConflict (something unmarked is in the way), PlanError (a port or an address held by an
    instance that stays), Refused (`destroy` with things left), DependencyCycle.
    """
    work = _Work(wanted, recorded, observed, options)
    if options.mode == "stop":
        work.stop()
    elif options.mode in {"down", "destroy"}:
        work.take_down()
    else:
        work.converge()
    found = changes.Plan(
        stack=wanted.stack,
        project=wanted.project,
        server=observed.facts.server,
        changes=work.ordered(),
        diagnostics=(*wanted.diagnostics, *work.warnings),
    )
    _check_order(found)
    return found


class _Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What distinguishes a live resource from the desired one."""

    fields: tuple[kind.FieldChange, ...] = ()
    set: kind.Fields = {}
    unset: tuple[kind.Path, ...] = ()  # as sent: a whole device is ("devices", NAME)
    gone: tuple[kind.Path, ...] = ()  # as recorded: every path
    causes: tuple[str, ...] = ()

    @property
    def impact(self) -> kind.Impact:
        """The strongest one."""
        impacts = {field.impact for field in self.fields}
        return (
            "replace" if "replace" in impacts else "restart" if "restart" in impacts else "in-place"
        )


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided for one instance, before its steps are laid."""

    resource: kind.Resource
    live: kind.Live | None
    action: changes.Action
    cause: str
    diff: _Diff = _Diff()
    stop: bool = False
    start: bool = False
    unfreeze: bool = False
    resolve: bool = False
    adopt: bool = False

    @property
    def makes(self) -> bool:
        """Whether the instance is created anew."""
        return self.action in {"create", "replace"}


class _Work:
    """One planning: the inputs, and what was decided so far."""

    def __init__(
        self,
        wanted: desired.Desired,
        recorded: fold.Recorded,
        observed: facts.Observed,
        options: Options,
    ) -> None:
        self.wanted = wanted
        self.recorded = recorded.resources
        self.live = observed.live
        self.facts = observed.facts
        self.options = options
        self.project = wanted.project
        self.changes: dict[str, changes.Change] = {}
        self.steps: dict[str, kind.Step] = {}  # every step by id, for edges between resources
        self.choices: dict[str, _Choice] = {}
        self.removed: dict[str, str] = {}  # instance address -> cause
        self.warnings: list[errors.Diagnostic] = []

    # --- both directions ---

    def ordered(self) -> tuple[changes.Change, ...]:
        """Makers from the project to the instances, then removals from the instances to the project."""
        return tuple(sorted(self.changes.values(), key=_place))

    def _put(
        self,
        address: str,
        action: changes.Action,
        cause: str,
        steps: Iterable[kind.Step],
        fields: tuple[kind.FieldChange, ...] = (),
    ) -> None:
        known = tuple(self.steps.setdefault(step.id, step) for step in steps)
        self.changes[address] = changes.Change(
            address=address, action=action, cause=cause, fields=fields, steps=known
        )

    def _note(self, address: str, action: changes.Action, cause: str, record: kind.Record) -> None:
        self._put(
            address,
            action,
            cause,
            (
                kind.Step(
                    id=f"{address}#{action}",
                    address=address,
                    event=f"{_EVENTS[names.kind_of(address)]}.{action}",
                    deed=kind.Note(),
                    record=record,
                ),
            ),
        )

    def _forget(self, address: str, cause: str) -> None:
        self._note(
            address,
            "forget",
            cause,
            kind.Record(name=self.recorded[address].name, gone=True),
        )

    def _warn(self, code: str, summary: str, hint: str = "") -> None:
        self.warnings.append(
            errors.Diagnostic(severity="warning", code=code, summary=summary, hint=hint)
        )

    def _addresses(self, kind_: str) -> list[str]:
        """Everything recorded or live of one kind, in order."""
        found = {*self.recorded, *self.live}
        return sorted((a for a in found if names.kind_of(a) == kind_), key=natural)

    def _grace(self, address: str) -> int:
        """The grace period of an instance that is not desired any more, from what it carries."""
        if self.options.grace_ms is not None:
            return self.options.grace_ms
        path = ("config", "boot.host_shutdown_timeout")
        live, known = self.live.get(address), self.recorded.get(address)
        for text in (
            live.fields.get(path) if live else None,
            known.fields.get(path) if known else None,
        ):
            if isinstance(text, str) and text.isdecimal():
                return int(text) * 1000
        return FALLBACK_GRACE_MS

    def _after(self, address: str) -> frozenset[str]:
        """The services that an existing instance starts after, from what it carries."""
        live, known = self.live.get(address), self.recorded.get(address)
        path = ("config", names.AFTER)
        text = (live.fields.get(path) if live else None) or (
            known.fields.get(path) if known else None
        )
        return frozenset(text.split()) if isinstance(text, str) else frozenset()

    def _remove_instances(self, causes: dict[str, str]) -> None:
        """Stop and delete live instances, dependents first; forget those that are gone already."""
        going = {address for address in causes if address in self.live}
        for address in sorted(set(causes) - going, key=natural):
            self._forget(address, "gone from the server too")
        for address in sorted(going, key=natural):
            live = self.live[address]
            dependents = sorted(
                other for other in going if service_of(address) in self._after(other)
            )
            waits = tuple(
                f"{other}#stop" if self.live[other].power in UP else f"{other}#delete"
                for other in dependents
                if other != address
            )
            steps: list[kind.Step] = []
            if live.power in UP:
                steps.append(
                    instance.stop(
                        address,
                        live.name,
                        project=self.project,
                        grace_ms=self._grace(address),
                        needs=waits,
                    )
                )
            before = tuple(step.id for step in steps) or waits
            steps.append(instance.delete(address, live.name, project=self.project, needs=before))
            self.removed[address] = causes[address]
            self._put(address, "delete", causes[address], steps)

    def _remove_network(self, address: str, cause: str) -> None:
        live = self.live.get(address)
        if live is None:
            self._forget(address, "gone from the server too")
            return
        step = network.delete(address, live.name)
        needs = self._leavers(live.name)
        self._put(address, "delete", cause, (msgspec.structs.replace(step, needs=needs),))

    def _leavers(self, bridge: str) -> tuple[str, ...]:
        """The steps by which instances leave a bridge."""
        found: list[str] = []
        for address, live in sorted(self.live.items()):
            on = any(
                path[2:] == ("network",) and value == bridge for path, value in live.fields.items()
            )
            if on and names.kind_of(address) == "instance":
                found += self._release(address)
        return tuple(found)

    def _release(self, address: str) -> list[str]:
        """The step after which an existing instance holds nothing that its new form does not hold."""
        for verb in ("delete", "update"):
            if f"{address}#{verb}" in self.steps:
                return [f"{address}#{verb}"]
        return []

    def _remove_volume(self, address: str, cause: str) -> None:
        live = self.live.get(address)
        if live is None:
            self._forget(address, "gone from the server too")
            return
        users = tuple(
            step
            for other, found in sorted(self.live.items())
            if names.kind_of(other) == "instance"
            and any(
                path[2:] == ("source",) and value == live.name
                for path, value in found.fields.items()
            )
            for step in self._release(other)
        )
        step = volume.delete(address, live.name, pool=live.pool, project=self.project)
        self._put(address, "delete", cause, (msgspec.structs.replace(step, needs=users),))

    # --- stop ---

    def stop(self) -> None:
        """What runs (of the named services) is stopped, dependents first; nothing is removed."""
        up = [
            address
            for address in self._addresses("instance")
            if address in self.live
            and self.live[address].power in UP
            and (not self.options.services or service_of(address) in self.options.services)
        ]
        for address in up:
            needs = tuple(
                f"{other}#stop"
                for other in up
                if other != address and service_of(address) in self._after(other)
            )
            step = instance.stop(
                address,
                self.live[address].name,
                project=self.project,
                grace_ms=self._grace(address),
                needs=needs,
            )
            self._put(address, "stop", "stopped by the user", (step,))

    # --- down and destroy ---

    def take_down(self) -> None:
        """Instances and networks go; volumes with the flag; the project with `destroy`."""
        mode = self.options.mode
        if mode == "destroy":
            self._check_destroy()
        self._remove_instances(dict.fromkeys(self._addresses("instance"), mode))
        for address in self._addresses("network"):
            self._remove_network(address, mode)
        if self.options.volumes:
            for address in self._addresses("volume"):
                self._remove_volume(address, f"{mode} with volumes")
        if mode == "destroy" and self.facts.project_exists:
            needs = tuple(sorted(self.steps))
            step = project.delete(self.project, needs)
            self._put(step.address, "delete", mode, (step,))

    def _check_destroy(self) -> None:
        if self.facts.project_exists and not self.facts.project_marked:
            raise errors.OwnershipConflict(
                f"cannot destroy stack {self.wanted.stack!r}: "
                f"project {self.project!r} was not made by ic",
            )
        left: list[str] = []
        if not self.options.volumes:
            left += [a for a in self._addresses("volume") if a in self.live]
        left += [
            f"{kind_} {name!r}, not made by ic"
            for kind_ in ("instance", "volume", "profile", "image")
            for name in sorted(self.facts.foreign.get(kind_, frozenset()))
        ]
        if left:
            raise errors.Refused(
                f"cannot destroy stack {self.wanted.stack!r}: something would be lost",
                details=tuple(left),
                hint="volumes of the stack go with -v; remove what ic did not make by hand",
            )

    # --- apply and up ---

    def converge(self) -> None:
        """The whole table."""
        self._check_foreign()
        self._plan_project()
        for address in sorted(self.wanted.details, key=natural):
            self.choices[address] = self._choose(address)
        self._restart_dependents()
        self._plan_networks()
        self._plan_removals()
        self._plan_images()
        self._check_claims()
        for address in sorted(self.choices, key=natural):
            self._plan_instance(self.choices[address])
        self._plan_volumes()
        self._link()
        self._take_over()
        self._remove_networks()
        self._forget_images()

    def _check_foreign(self) -> None:
        """Something unmarked stands where the stack wants to be: refused, all of it at once."""
        found: list[tuple[str, str]] = []
        if self.facts.project_exists and not self.facts.project_marked:
            found.append(
                (
                    f"project {self.project!r} exists and was not made by ic",
                    "choose another stack name with -p or name:",
                )
            )
        for address, resource in sorted(self.wanted.resources.items()):
            kind_ = names.kind_of(address)
            taken = self.facts.foreign.get(kind_, frozenset())
            live = self.live.get(address)
            if kind_ == "project" or resource.name not in taken:
                continue
            if live is None or live.name != resource.name:
                found.append(self._in_the_way(address, kind_, resource.name))
        if found:
            raise errors.OwnershipConflict(
                f"cannot plan stack {self.wanted.stack!r}: {found[0][0]}",
                details=tuple(reason for reason, _ in found[1:]),
                hint=found[0][1],
            )

    def _in_the_way(self, address: str, kind_: str, name: str) -> tuple[str, str]:
        mark = self.facts.marks.get(kind_, {}).get(name)
        if kind_ == "network":
            if mark is not None and mark.stack == self.wanted.stack:
                return (
                    f"bridge {name!r} was left by an earlier stack of this name "
                    "whose project is gone",
                    f"incus network delete {name} --project default",
                )
            owner = (
                f"belongs to stack {mark.stack!r}" if mark and mark.stack else "was not made by ic"
            )
            return (
                f"bridge {name!r} for {address} exists and {owner}",
                "give the network another name:, or make it external: true",
            )
        what = "instance" if kind_ == "instance" else "volume"
        return (
            f"{what} {name!r} for {address} exists in project {self.project!r} "
            "and was not made by ic",
            f"rename or remove that {what}; ic never takes over what it did not make",
        )

    def _plan_project(self) -> None:
        address = names.address("project", self.project)
        resource = self.wanted.resources.get(address)
        if resource is not None and not self.facts.project_exists:
            self._put(address, "create", NEW, (project.create(resource),), _given(resource))

    # --- differences ---

    def _was(self, address: str, path: kind.Path, value: str) -> bool | None:
        """Whether a value is the recorded one; None when nothing is recorded of the path."""
        known = self.recorded.get(address)
        was = known.fields.get(path) if known else None
        if was is None:
            return None
        if isinstance(was, fold.Digest):
            return redact.digest(self.options.key, value) == was.hmac
        return was == value

    def _diff(
        self,
        resource: kind.Resource,
        live: kind.Live,
        impact: Callable[[kind.Path, str | None, str | None], kind.Impact],
    ) -> _Diff:
        """In D and different from L: set. In R, not in D, still in L: remove. In L alone: left."""
        known = self.recorded.get(resource.address)
        set_ = {p: v for p, v in resource.fields.items() if live.fields.get(p) != v}
        gone = tuple(
            sorted(
                p
                for p in (known.fields if known else {})
                if p not in resource.fields and p in live.fields
            )
        )
        lost = _lost_devices(resource, gone)
        unset = tuple(
            sorted({("devices", p[1]) if p[0] == "devices" and p[1] in lost else p for p in gone})
        )
        causes: set[str] = set()
        fields: list[kind.FieldChange] = []
        for path in sorted({*set_, *gone}):
            old, new = live.fields.get(path), resource.fields.get(path)
            causes.add(self._cause(resource.address, path, old, new))
            hidden = not kind.is_public(path)
            fields.append(
                kind.FieldChange(
                    path=kind.text_of(path),
                    old=None if hidden else old,
                    new=None if hidden else new,
                    impact=impact(path, old, new),
                    redacted=hidden,
                )
            )
        if resource.name != live.name:
            causes.add(CHANGED)
            fields.insert(
                0, kind.FieldChange(path="name", old=live.name, new=resource.name, impact="replace")
            )
        return _Diff(
            fields=tuple(fields),
            set=set_,
            unset=unset,
            gone=gone,
            causes=tuple(cause for cause in _CAUSES if cause in causes),
        )

    def _cause(self, address: str, path: kind.Path, old: str | None, new: str | None) -> str:
        if new is None:
            return REMOVED
        if self._was(address, path, new):
            return DRIFT
        if path == ("config", names.IMAGE) and instance.digest_of(old) != instance.digest_of(new):
            return NEW_IMAGE
        if path == ("config", "raw.dnsmasq"):
            return NAMES
        return CHANGED

    def _record(self, resource: kind.Resource, diff: _Diff) -> kind.Record:
        """What the journal learns of an update: all that it does not have like this already."""
        return kind.Record(
            name=resource.name,
            pool=resource.pool,
            fields={
                path: value
                for path, value in sorted(resource.fields.items())
                if not self._was(resource.address, path, value)
            },
            unset=diff.gone,
        )

    # --- instances ---

    def _choose(self, address: str) -> _Choice:
        """The row of one desired instance, power included."""
        resource = self.wanted.resources[address]
        details = self.wanted.details[address]
        live = self.live.get(address)
        resolve = bool(details.resolve)
        if live is None:
            return _Choice(
                resource=resource,
                live=None,
                action="create",
                cause=VANISHED if address in self.recorded else NEW,
                start=True,
                resolve=resolve,
            )
        running = live.power in UP
        if live.half_made:
            return _Choice(
                resource=resource,
                live=live,
                action="replace",
                cause=CUT_OFF,
                stop=running,
                start=True,
                resolve=resolve,
            )
        diff = self._diff(resource, live, _instance_impact(resource, live))
        adopt = address not in self.recorded
        causes = (*((ADOPTED,) if adopt else ()), *diff.causes)
        if diff.impact == "replace":
            return _Choice(
                resource=resource,
                live=live,
                action="replace",
                cause="; ".join(causes),
                diff=diff,
                stop=running,
                start=True,
                resolve=resolve,
            )
        user = kind.text_of(("config", names.USER))
        resolve = resolve and (
            not live.ever_started or any(field.path == user for field in diff.fields)
        )
        restart = diff.impact == "restart"
        why = self._why_start(live, details)
        if restart and running:
            action: changes.Action = "restart"
        elif diff.fields:
            action = "update"
        else:
            action = "adopt" if adopt else "start"
        return _Choice(
            resource=resource,
            live=live,
            action=action,
            cause="; ".join((*causes, *((why,) if why and not (restart and running) else ()))),
            diff=diff,
            stop=restart and running,
            start=restart or bool(why),
            unfreeze=live.power == "Frozen" and not restart,
            resolve=resolve,
            adopt=adopt,
        )

    def _why_start(self, live: kind.Live, details: desired.Details) -> str:
        """Why a live instance is to be started, empty when it is not."""
        if live.power == "Running":
            return ""
        if live.power == "Frozen":
            return "frozen"
        if not live.ever_started:
            return "never started"
        if live.exit_code == 0 and details.one_shot:
            return "completed, and run again by up" if self.options.mode == "up" else ""
        if live.exit_code is not None:
            return f"exited ({live.exit_code})"
        return "in error" if live.power == "Error" else "stopped"

    def _restart_dependents(self) -> None:
        """`depends_on: restart: true`: what waits for a restarted or replaced instance restarts with it."""
        todo = True
        while todo:
            todo = False
            for address, choice in sorted(self.choices.items()):
                if (
                    choice.stop
                    or choice.makes
                    or choice.live is None
                    or choice.live.power not in UP
                ):
                    continue
                moved = [
                    names.name_of(wait.address)
                    for wait in self.wanted.details[address].waits
                    if wait.restart and self._moves(wait.address)
                ]
                if moved:
                    cause = f"{', '.join(moved)} restarts"
                    self.choices[address] = msgspec.structs.replace(
                        choice,
                        action="restart",
                        cause="; ".join(part for part in (choice.cause, cause) if part),
                        stop=True,
                        start=True,
                        unfreeze=False,
                    )
                    todo = True

    def _moves(self, address: str) -> bool:
        choice = self.choices.get(address)
        return choice is not None and (choice.stop or choice.action == "replace")

    def _plan_instance(self, choice: _Choice) -> None:
        """Lay the steps of one decision; nothing at all when it is settled."""
        address = choice.resource.address
        live = choice.live
        if choice.makes:
            steps = self._making(choice)
        elif live is not None and choice.unfreeze and choice.start:
            steps = [
                *self._updating(choice, live),
                instance.unfreeze(address, live.name, project=self.project),
            ]
        elif live is not None and (choice.diff.fields or choice.start or choice.resolve):
            steps = self._updating(choice, live)
        elif choice.adopt:
            self._note(
                address,
                "adopt",
                ADOPTED,
                kind.Record(
                    name=choice.resource.name,
                    fields=choice.resource.fields,
                    power="running" if live and live.power in UP else None,
                ),
            )
            return
        else:
            return
        fields = choice.diff.fields or (_given(choice.resource) if live is None else ())
        self._put(address, choice.action, choice.cause, steps, fields)

    def _directories(self, address: str) -> list[kind.Step]:
        return [
            kind.Step(
                id=f"{address}#mkdir-{names.short_hash(directory)}",
                address=address,
                event="",
                deed=kind.MakeDirectory(directory=directory),
            )
            for directory in self.wanted.details[address].directories
        ]

    def _unfilled(self, address: str) -> frozenset[str]:
        """The devices of volumes that a Seed step of this plan fills first."""
        return frozenset(
            use.device for use in self.wanted.details[address].uses if self._fills(use.address)
        )

    def _fills(self, address: str) -> bool:
        """Whether a volume is to be made, or made again because its filling was cut off."""
        live = self.live.get(address)
        return live is None or ("config", names.SEEDED) not in live.fields

    def _ready(self, address: str) -> tuple[str, ...]:
        """The steps of other resources that an instance must follow: image, networks, the project."""
        details = self.wanted.details[address]
        resource = self.wanted.resources[address]
        wanted = [f"{names.address('project', self.project)}#create", f"{details.image}#pull"]
        for need in resource.needs:
            if names.kind_of(need) == "network":
                wanted += [f"{need}#create", f"{need}#update"]
        return tuple(step for step in wanted if step in self.steps)

    def _making(self, choice: _Choice) -> list[kind.Step]:
        """Create, or stop, delete and create; then user, disks of filled volumes, start."""
        resource, live = choice.resource, choice.live
        address = resource.address
        made = self._directories(address)
        ready = (*self._ready(address), *(step.id for step in made))
        steps = list(made)
        if live is not None:
            if choice.stop:
                steps.append(
                    instance.stop(
                        address,
                        live.name,
                        project=self.project,
                        grace_ms=self._own_grace(resource),
                        needs=ready,
                    )
                )
                ready = (f"{address}#stop",)
            steps.append(instance.delete(address, live.name, project=self.project, needs=ready))
            ready = (f"{address}#delete",)
        without = self._unfilled(address)
        steps.append(
            instance.create(
                resource,
                project=self.project,
                source={"type": "image", "fingerprint": self._fingerprint(address)},
                without=without,
                needs=ready,
            )
        )
        last = f"{address}#create"
        if choice.resolve:
            steps.append(
                instance.resolve_user(
                    address,
                    resource.name,
                    project=self.project,
                    user=self.wanted.details[address].resolve,
                    needs=(last,),
                )
            )
            last = f"{address}#user"
        if without:
            devices = {p: v for p, v in sorted(resource.fields.items()) if p[1] in without}
            steps.append(
                instance.update(
                    address,
                    resource.name,
                    project=self.project,
                    set_=devices,
                    unset=(),
                    record=kind.Record(name=resource.name, fields=devices),
                    needs=(last, *self._fillings(address)),
                    verb="attach",
                    want="running",
                )
            )
            last = f"{address}#attach"
        steps.append(self._start(address, resource.name, (last,)))
        return steps

    def _fingerprint(self, address: str) -> object:
        """The image's fingerprint, or a reference to the pull that will bring it."""
        image_address = self.wanted.details[address].image
        if f"{image_address}#pull" in self.steps:
            return kind.Result(image_address, "fingerprint")
        return self.wanted.images[image_address].fingerprint

    def _fillings(self, address: str) -> tuple[str, ...]:
        return tuple(
            sorted(
                {
                    f"{use.address}#create"
                    for use in self.wanted.details[address].uses
                    if self._fills(use.address)
                }
            )
        )

    def _updating(self, choice: _Choice, live: kind.Live) -> list[kind.Step]:
        """One write, and what must follow it: a user, disks of filled volumes, a restart or a start.

        Device changes that need a restart are made while the instance is stopped: plugging them in live
        would fail or do nothing. So is a change of raw.lxc: the old process ends on its own stop signal.
        """
        address = choice.resource.address
        steps = self._directories(address)
        ready = (*self._ready(address), *(step.id for step in steps))
        without = self._unfilled(address)
        now = {p: v for p, v in sorted(choice.diff.set.items()) if p[1] not in without}
        later = {p: v for p, v in sorted(choice.diff.set.items()) if p[1] in without}
        cold = choice.stop and any(
            field.impact == "restart" and field.path.startswith(("devices.", "config.raw.lxc"))
            for field in choice.diff.fields
        )
        writes = self._writes(choice, live.name, now, later)
        stop = instance.stop(
            address,
            live.name,
            project=self.project,
            grace_ms=self._own_grace(choice.resource),
            needs=(),
        )
        if choice.stop:
            writes = [stop, *writes] if cold else [*writes, stop]
        for step in writes:
            chained = msgspec.structs.replace(step, needs=(*ready, *step.needs))
            steps.append(chained)
            ready = (step.id,)
        if choice.start and not choice.unfreeze:
            needs = tuple(dict.fromkeys((*ready, *self._fillings(address))))
            steps.append(self._start(address, live.name, needs))
        return steps

    def _writes(
        self, choice: _Choice, name: str, now: kind.Fields, later: kind.Fields
    ) -> list[kind.Step]:
        """The write, the user and the disks of filled volumes of a live instance, in this order."""
        address = choice.resource.address
        steps: list[kind.Step] = []
        moving = _moving_cards(choice.diff, choice.live)
        if moving:
            now |= {p: v for p, v in choice.resource.fields.items() if p[1] in moving}
            steps.append(self._detach(address, name, moving))
        unset = tuple(path for path in choice.diff.unset if path[1] not in moving)
        if now or unset or (choice.adopt and not later):
            record = self._record(choice.resource, choice.diff)
            fields = {p: v for p, v in record.fields.items() if p not in later}
            steps.append(
                instance.update(
                    address,
                    name,
                    project=self.project,
                    set_=dict(sorted(now.items())),
                    unset=unset,
                    record=msgspec.structs.replace(record, fields=fields),
                    needs=(),
                    want=choice.resource.power,
                )
            )
        if choice.resolve:
            user = self.wanted.details[address].resolve
            steps.append(
                instance.resolve_user(address, name, project=self.project, user=user, needs=())
            )
        if later:
            steps.append(
                instance.update(
                    address,
                    name,
                    project=self.project,
                    set_=later,
                    unset=(),
                    record=kind.Record(name=name, fields=later),
                    needs=self._fillings(address),
                    verb="attach",
                    want=choice.resource.power,
                )
            )
        return steps

    def _detach(self, address: str, name: str, moving: tuple[str, ...]) -> kind.Step:
        """Take cards away that get another network: the server checks new ones beside the old ones."""
        known = self.recorded.get(address)
        gone = tuple(sorted(p for p in (known.fields if known else {}) if p[1] in moving))
        return instance.update(
            address,
            name,
            project=self.project,
            set_={},
            unset=tuple(("devices", device) for device in moving),
            record=kind.Record(name=name, unset=gone),
            needs=(),
            verb="detach",
        )

    def _own_grace(self, resource: kind.Resource) -> int:
        return resource.grace_ms if self.options.grace_ms is None else self.options.grace_ms

    def _start(self, address: str, name: str, needs: tuple[str, ...]) -> kind.Step:
        """A start after the starts (or ends) of what it depends on; the edges are completed by `_link`."""
        networks = tuple(step for step in self._ready(address) if step.startswith("network:"))
        return instance.start(
            address,
            name,
            project=self.project,
            needs=tuple(dict.fromkeys((*needs, *networks))),
            after=(),
        )

    def _link(self) -> None:
        """Edges between instances: starts wait for starts, or for the end of one-shot jobs."""
        for address, change in sorted(self.changes.items()):
            start = self.steps.get(f"{address}#start")
            if start is None or names.kind_of(address) != "instance" or address in self.removed:
                continue
            needs, after = list(start.needs), list(start.after)
            added: list[kind.Step] = []
            for wait in self.wanted.details[address].waits:
                step = self._awaited(wait, added)
                if step is not None:
                    (needs if wait.required else after).append(step)
            linked = msgspec.structs.replace(
                start, needs=tuple(dict.fromkeys(needs)), after=tuple(dict.fromkeys(after))
            )
            steps = [linked if step.id == linked.id else step for step in change.steps]
            at = steps.index(linked)
            steps[at:at] = added
            self.steps[linked.id] = linked
            self.changes[address] = msgspec.structs.replace(change, steps=tuple(steps))

    def _take_over(self) -> None:
        """Edges from what lets a port or an address go to what takes it."""
        for address in sorted(self.choices):
            change = self.changes.get(address)
            released = self._claims_of_others(address) if change else ()
            if change is None or not released:
                continue
            taking = (f"{address}#create", f"{address}#update")
            steps = tuple(
                msgspec.structs.replace(step, needs=tuple(dict.fromkeys((*step.needs, *released))))
                if step.id in taking
                else step
                for step in change.steps
            )
            self.steps |= {step.id: step for step in steps}
            self.changes[address] = msgspec.structs.replace(change, steps=steps)

    def _awaited(self, wait: desired.Wait, added: list[kind.Step]) -> str | None:
        """The step that a dependency's start or end is; a wait for an end is made where it is missing."""
        start = f"{wait.address}#start"
        if wait.condition == "service_started":
            return start if start in self.steps else None
        choice = self.choices.get(wait.address)
        done = (
            choice is not None
            and start not in self.steps
            and choice.live is not None
            and choice.live.power == "Stopped"
        )
        if choice is None or done:
            return None
        step = instance.await_exit(
            wait.address,
            choice.resource.name,
            project=self.project,
            needs=(start,) if start in self.steps else (),
        )
        if step.id not in self.steps:
            self.steps[step.id] = step
            added.append(step)
        return step.id

    # --- claims: ports and addresses inside the stack ---

    def _check_claims(self) -> None:
        """A port or an address that another instance of this stack holds must be let go before."""
        problems: list[str] = []
        for address, choice in sorted(self.choices.items()):
            wanted = _claims(choice.resource.fields)
            for other, live in sorted(self.live.items()):
                if other == address or names.kind_of(other) != "instance":
                    continue
                held = [claim for claim in _claims(live.fields) if _meets(claim, wanted)]
                if not held or self._lets_go(other, held):
                    continue
                if not held[0][0].startswith("ip") and live.power not in UP:
                    continue
                problems.append(
                    f"{names.name_of(address)} wants {_claim_text(held[0])}, which "
                    f"{names.name_of(other)} has"
                )
        if problems:
            raise errors.PlanError(
                f"cannot plan stack {self.wanted.stack!r}: {problems[0]}",
                details=tuple(problems[1:]),
                hint="remove the other one (apply, or up --remove-orphans), or choose another",
            )

    def _claims_of_others(self, address: str) -> tuple[str, ...]:
        """The steps by which other instances let go what this one takes over from them."""
        wanted = _claims(self.choices[address].resource.fields)
        return tuple(
            step
            for other, live in sorted(self.live.items())
            if other != address
            and names.kind_of(other) == "instance"
            and any(_meets(claim, wanted) for claim in _claims(live.fields))
            for step in self._release(other)
        )

    def _lets_go(self, other: str, held: list[tuple[str, str, str]]) -> bool:
        if other in self.removed:
            return True
        choice = self.choices.get(other)
        if choice is None:
            return False
        keeps = _claims(choice.resource.fields)
        return not any(_meets(claim, keeps) for claim in held)

    # --- the other kinds ---

    def _plan_images(self) -> None:
        """Pull what an instance is going to be made from and the server does not have."""
        makes = {
            self.wanted.details[address].image
            for address, choice in self.choices.items()
            if choice.makes
        }
        for address, found in sorted(self.wanted.images.items()):
            known = self.recorded.get(address)
            kept = image.from_facts(known.facts) if known and known.facts else None
            same = kept is not None and kept.digest == found.digest
            there = same and found.fingerprint in self.facts.fingerprints and found.fingerprint
            if there or (same and address not in makes):
                continue
            if kept is None:
                cause = NEW
            else:
                cause = "gone from the server" if same else "the registry has a newer one"
            step = image.pull(found)
            first = f"{names.address('project', self.project)}#create"
            if first in self.steps:
                step = msgspec.structs.replace(step, needs=(first,))
            fields = (
                kind.FieldChange(
                    path="digest",
                    old=kept.digest if kept else None,
                    new=found.digest,
                    impact="in-place",
                ),
            )
            self._put(address, "update" if kept and not same else "create", cause, (step,), fields)

    def _forget_images(self) -> None:
        for address in self._addresses("image"):
            if address not in self.wanted.images and address not in self.wanted.known:
                self._forget(address, "no service uses it any more")

    def _plan_networks(self) -> None:
        first = f"{names.address('project', self.project)}#create"
        for address, resource in sorted(self.wanted.resources.items()):
            if names.kind_of(address) != "network":
                continue
            live = self.live.get(address)
            if live is None or live.name != resource.name:
                cause = VANISHED if address in self.recorded else NEW
                step = network.create(resource)
                if first in self.steps:
                    step = msgspec.structs.replace(step, needs=(first,))
                if live is None:
                    self._put(address, "create", cause, (step,), _given(resource))
                else:
                    diff = self._diff(resource, live, network.impact)
                    self._put(address, "replace", "; ".join(diff.causes), (step,), diff.fields)
                continue
            diff = self._diff(resource, live, network.impact)
            self._settle(
                resource,
                diff,
                lambda record, resource=resource, diff=diff: network.update(
                    resource.address,
                    resource.name,
                    set_=dict(sorted(diff.set.items())),
                    unset=diff.unset,
                    record=record,
                ),
            )

    def _settle(
        self,
        resource: kind.Resource,
        diff: _Diff,
        write: Callable[[kind.Record], kind.Step],
    ) -> None:
        """Adopt or update a live network or volume in place; nothing when it is settled."""
        adopt = resource.address not in self.recorded
        if diff.fields:
            cause = "; ".join((*((ADOPTED,) if adopt else ()), *diff.causes))
            step = write(self._record(resource, diff))
            self._put(resource.address, "update", cause, (step,), diff.fields)
        elif adopt:
            record = kind.Record(name=resource.name, pool=resource.pool, fields=resource.fields)
            self._note(resource.address, "adopt", ADOPTED, record)

    def _plan_volumes(self) -> None:
        for address, resource in sorted(self.wanted.resources.items()):
            if names.kind_of(address) != "volume":
                continue
            live = self.live.get(address)
            if self._fills(address):
                self._fill(resource, live)
                continue
            if live is None:
                continue
            diff = self._diff(resource, live, volume.impact)
            self._settle(
                resource,
                diff,
                lambda record, resource=resource, diff=diff: volume.update(
                    resource.address,
                    resource.name,
                    pool=resource.pool,
                    project=self.project,
                    set_=dict(sorted(diff.set.items())),
                    unset=diff.unset,
                    record=record,
                ),
            )

    def _fill(self, resource: kind.Resource, live: kind.Live | None) -> None:
        """Make a volume from the root of the first instance that mounts it."""
        users = [
            (address, use)
            for address, details in sorted(self.wanted.details.items(), key=_by_address)
            for use in details.uses
            if use.address == resource.address
        ]
        address, use = users[0]
        last = next(
            (
                f"{address}#{verb}"
                for verb in ("user", "create", "update", "stop")
                if f"{address}#{verb}" in self.steps
            ),
            None,
        )
        details = self.wanted.details[address]
        step = volume.seed(
            resource,
            project=self.project,
            instance=self.wanted.resources[address].name,
            target=use.target,
            fill=not use.nocopy,
            marker=details.image_digest,
            needs=(last,) if last else (),
        )
        if live is not None:
            cause, action = UNFILLED, "update"
        else:
            cause, action = (VANISHED if resource.address in self.recorded else NEW), "create"
        fields = _given(resource) if live is None else ()
        self._put(resource.address, action, cause, (step,), fields)

    # --- what the files do not name any more ---

    def _plan_removals(self) -> None:
        """Instances of removed services and replicas; orphans are reported, and go when asked."""
        causes: dict[str, str] = {}
        left: list[str] = []
        for address in self._addresses("instance"):
            service = service_of(address)
            if address in self.wanted.details or service in self.wanted.kept:
                continue
            scaled = service in self.wanted.services
            if address not in self.recorded:
                if self.options.remove_orphans:
                    causes[address] = "orphan: not in the journal, not in the files"
                else:
                    left.append(address)
            elif scaled or self._removes():
                causes[address] = "scaled down" if scaled else REMOVED
            elif address in self.live:
                left.append(address)
        if left:
            self._warn(
                "W_ORPHANS",
                f"left alone, not in the files: {', '.join(left)}",
                "remove them with --remove-orphans",
            )
        self._remove_instances(causes)

    def _removes(self) -> bool:
        """Whether what is absent from all files is removed by this plan."""
        if self.options.remove_orphans:
            return True
        return self.options.mode == "apply" and not self.options.services

    def _remove_networks(self) -> None:
        for address in self._addresses("network"):
            live = self.live.get(address)
            resource = self.wanted.resources.get(address)
            if resource is not None:
                if live is not None and live.name != resource.name:
                    self._drop_renamed(address, live)
            elif address in self.recorded and address not in self.wanted.known and self._removes():
                self._remove_network(address, REMOVED)
            elif address not in self.recorded and address not in self.wanted.known:
                if self.options.remove_orphans:
                    self._remove_network(address, "orphan: not in the journal, not in the files")
                else:
                    self._warn(
                        "W_ORPHANS",
                        f"left alone, not in the files: {address}",
                        "remove it with --remove-orphans",
                    )

    def _drop_renamed(self, address: str, live: kind.Live) -> None:
        """The old bridge of a network that got another name goes when its instances have left it."""
        change = self.changes[address]
        step = msgspec.structs.replace(
            network.delete(address, live.name),
            needs=(f"{address}#create", *self._leavers(live.name)),
            record=kind.Record(name=change.steps[0].record.name),
        )
        self.steps[step.id] = step
        self.changes[address] = msgspec.structs.replace(change, steps=(*change.steps, step))


# --- pure pieces -------------------------------------------------------------------------------------

_CAUSES = (NEW_IMAGE, CHANGED, NAMES, REMOVED, DRIFT)
_EVENTS = {
    "project": "proj",
    "image": "img",
    "network": "net",
    "volume": "vol",
    "instance": "inst",
}
_KINDS = ("project", "image", "network", "volume", "instance")


def natural(address: str) -> tuple[str, int, str]:
    """web/2 before web/10."""
    stem, _, tail = address.rpartition("/")
    return (stem, int(tail), "") if stem and tail.isdecimal() else (address, 0, "")


def _by_address(item: tuple[str, desired.Details]) -> tuple[str, int, str]:
    return natural(item[0])


def service_of(address: str) -> str:
    """`web` of `instance:web/1`."""
    return names.name_of(address).rpartition("/")[0]


def _place(change: changes.Change) -> tuple[int, int, tuple[str, int, str]]:
    order = _KINDS.index(names.kind_of(change.address))
    if change.action in {"delete", "forget"}:
        return 1, -order, natural(change.address)
    return 0, order, natural(change.address)


def _given(resource: kind.Resource) -> tuple[kind.FieldChange, ...]:
    """The fields of something new."""
    return tuple(
        kind.FieldChange(
            path=kind.text_of(path),
            old=None,
            new=value if kind.is_public(path) else None,
            impact="in-place",
            redacted=not kind.is_public(path),
        )
        for path, value in sorted(resource.fields.items())
    )


def _moving_cards(diff: _Diff, live: kind.Live | None) -> tuple[str, ...]:
    """The cards that are there and leave their network, where another one comes into a network."""
    comes = {path[1] for path in diff.set if path[0] == "devices" and path[2:] == ("network",)}
    if live is None or not comes:
        return ()
    cards = {p[1] for p in live.fields if p[0] == "devices" and p[2:] == ("network",)}
    goes = {path[1] for path in diff.unset if len(path) == 2}
    return tuple(sorted(cards & (comes | goes)))


def _lost_devices(resource: kind.Resource, gone: tuple[kind.Path, ...]) -> frozenset[str]:
    """Devices of which nothing is desired any more."""
    kept = {path[1] for path in resource.fields if path[0] == "devices"}
    return frozenset(path[1] for path in gone if path[0] == "devices" and path[1] not in kept)


def _instance_impact(
    resource: kind.Resource, live: kind.Live
) -> Callable[[kind.Path, str | None, str | None], kind.Impact]:
    """The impact of one path, with the whole device in view where there is one."""

    def impact(path: kind.Path, old: str | None, new: str | None) -> kind.Impact:
        own = instance.impact(path, old, new)
        if path[0] != "devices" or own == "replace":
            return own
        bodies = [
            {p[2]: v for p, v in fields.items() if p[:2] == path[:2]}
            for fields in (resource.fields, live.fields)
        ]
        present = [body for body in bodies if body]
        return "restart" if "restart" in map(instance.device_impact, present) else "in-place"

    return impact


def _claims(fields: kind.Fields) -> tuple[tuple[str, str, str], ...]:
    """What only one instance can have: (what, where, which) of ports and planned addresses."""
    ports = [(protocol, host, str(port)) for protocol, host, port in desired.proxies(fields)]
    addresses = [
        ("ip", fields.get((*path[:2], "network"), ""), value.partition("/")[0])
        for path, value in sorted(fields.items())
        if path[0] == "devices" and path[2:] == ("ipv4.address",) and value != "none"
    ]
    return (*ports, *addresses)


def _meets(claim: tuple[str, str, str], others: tuple[tuple[str, str, str], ...]) -> bool:
    what, where, which = claim
    return any(
        what == other
        and which == number
        and (where == place if what == "ip" else allot.clash(where, place))
        for other, place, number in others
    )


def _claim_text(claim: tuple[str, str, str]) -> str:
    what, _, which = claim
    return f"address {which}" if what == "ip" else f"port {which}/{what}"


def _check_order(found: changes.Plan) -> None:
    """Every need is a step of the plan, and no step waits for itself."""
    graph = {step.id: (*step.needs, *step.after) for step in found.steps}
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        cycle = [str(step) for step in error.args[1]]
        raise errors.DependencyCycle(
            f"cannot order the plan of stack {found.stack!r}: its steps wait for each other",
            details=(" <- ".join(cycle),),
            hint="apply the change in two steps",
        ) from error
