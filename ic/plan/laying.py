"""Lays the steps of what was decided, and the edges between them. Pure; decides nothing.

A draft is a plan under construction: changes by address, steps by id. Steps of one instance follow each
other; between resources an edge stands wherever one must be there, or gone, before the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import names
from ic.plan import changes, claims, desired, difference
from ic.resources import instance, kind, sidecar, volume

if TYPE_CHECKING:
    from collections.abc import Iterable


UP = ("Running", "Frozen")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided for an instance, a service's or the sidecar's, before its steps are laid."""

    action: changes.Action
    cause: str
    diff: difference.Diff = difference.Diff()
    stop: bool = False
    start: bool = False
    unfreeze: bool = False
    adopt: bool = False

    @property
    def makes(self) -> bool:
        """Whether the instance is created anew."""
        return self.action in {"create", "replace"}


class Choice(Decision, frozen=True, kw_only=True):
    """What is decided for one instance of a service."""

    resource: kind.Resource
    live: kind.Live | None
    resolve: bool = False


class Draft:
    """A plan under construction, with what it is made from."""

    def __init__(
        self,
        wanted: desired.Desired,
        book: difference.Book,
        live: dict[str, kind.Live],
        grace_ms: int | None,
    ) -> None:
        self.wanted = wanted
        self.book = book
        self.live = live
        self.grace_ms = grace_ms
        self.project = wanted.project
        self.changes: dict[str, changes.Change] = {}
        self.steps: dict[str, kind.Step] = {}  # every step by id, for edges between resources
        self.choices: dict[str, Choice] = {}
        self.removed: set[str] = set()  # addresses of instances that go
        self.guard: kind.Resource | None = (
            None  # the health daemon's volume, where it tells its state
        )
        self.guard_home = ""  # the project that it lives in
        self.held = {
            address: claims.of(one.fields)
            for address, one in sorted(live.items())
            if names.kind_of(address) == "instance"
        }

    def ordered(self) -> tuple[changes.Change, ...]:
        """Makers from the project to the instances, then removals from the instances to the project."""
        return tuple(sorted(self.changes.values(), key=_place))

    def put(
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

    def note(
        self,
        address: str,
        action: changes.Action,
        cause: str,
        record: kind.Record,
        needs: tuple[str, ...] = (),
    ) -> None:
        self.put(
            address,
            action,
            cause,
            (
                kind.Step(
                    id=f"{address}#{action}",
                    address=address,
                    event=f"{_EVENTS[names.kind_of(address)]}.{action}",
                    deed=kind.Note(),
                    needs=needs,
                    record=record,
                ),
            ),
        )

    def forget(self, address: str, cause: str, needs: tuple[str, ...] = ()) -> None:
        self.note(
            address,
            "forget",
            cause,
            kind.Record(name=self.book.recorded[address].name, gone=True),
            needs,
        )

    def release(self, address: str) -> list[str]:
        """The step after which an existing instance holds nothing that its new form does not hold."""
        for verb in ("delete", "update"):
            if f"{address}#{verb}" in self.steps:
                return [f"{address}#{verb}"]
        return []

    def _users(self, bridge: str) -> tuple[str, ...]:
        """The instances that have a card on a bridge."""
        return tuple(
            address
            for address in self.held
            if any(
                path[2:] == ("network",) and value == bridge
                for path, value in self.live[address].fields.items()
            )
        )

    def leavers(self, bridge: str) -> tuple[str, ...]:
        """The steps by which instances leave a bridge."""
        return tuple(step for address in self._users(bridge) for step in self.release(address))

    def stayers(self, bridge: str) -> tuple[str, ...]:
        """The instances on a bridge that this plan leaves as they are."""
        return tuple(address for address in self._users(bridge) if not self.release(address))

    def lay(self, choice: Choice) -> None:
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
            self.note(
                address,
                "adopt",
                difference.ADOPTED,
                kind.Record(
                    name=choice.resource.name,
                    fields=choice.resource.fields,
                    power="running" if live and live.power in UP else None,
                ),
            )
            return
        else:
            return
        fields = choice.diff.fields or (difference.given(choice.resource) if live is None else ())
        self.put(address, choice.action, choice.cause, steps, fields)

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
            use.device for use in self.wanted.details[address].uses if self.fills(use.address)
        )

    def fills(self, address: str) -> bool:
        """Whether a volume is to be made, or made again because its filling was cut off."""
        live = self.live.get(address)
        return live is None or ("config", names.SEEDED) not in live.fields

    def _ready(self, address: str) -> tuple[str, ...]:
        """The steps of other resources that an instance must follow: image, networks, the project."""
        details = self.wanted.details[address]
        resource = self.wanted.resources[address]
        own = names.address("project", self.project)
        wanted = [f"{own}#create", f"{own}#update", f"{details.image}#pull"]
        for need in resource.needs:
            if names.kind_of(need) == "network":
                wanted += [f"{need}#create", f"{need}#update"]
        return tuple(step for step in wanted if step in self.steps)

    def _making(self, choice: Choice) -> list[kind.Step]:
        """Create, or stop, delete and create; then user, disks of filled volumes, start."""
        resource, live = choice.resource, choice.live
        address = resource.address
        made = self._directories(address)
        ready = (*self._ready(address), *(step.id for step in made))
        steps = list(made)
        if live is not None:
            if choice.stop:
                held = self.hold(live, ready)
                ready = (held[-1].id,) if held else ready
                steps += held
                steps.append(
                    instance.stop(
                        address,
                        live.name,
                        project=self.project,
                        grace_ms=self._own_grace(resource),
                        needs=ready,
                        signal=signal_of(live),
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
                    if self.fills(use.address)
                }
            )
        )

    def _updating(self, choice: Choice, live: kind.Live) -> list[kind.Step]:
        """One write, and what must follow it: a user, disks of filled volumes, a restart or a start.

        What needs a restart is written while the instance is stopped: plugging devices in live would fail or
        do nothing, a process ends on its own stop signal and not on the next one's, and a run that is cut off
        between the two leaves an instance that is started (`_why_start`), not one that runs on unchanged.
        """
        address = choice.resource.address
        steps = self._directories(address)
        ready = (*self._ready(address), *(step.id for step in steps))
        without = self._unfilled(address)
        now = {p: v for p, v in sorted(choice.diff.set.items()) if p[1] not in without}
        later = {p: v for p, v in sorted(choice.diff.set.items()) if p[1] in without}
        writes = self._writes(choice, live.name, now, later)
        stop = instance.stop(
            address,
            live.name,
            project=self.project,
            grace_ms=self._own_grace(choice.resource),
            needs=(),
            signal=signal_of(live),
        )
        if choice.stop:
            writes = [*self.hold(live, ()), stop, *writes]
        elif (
            choice.start
            and live.stamp.want == "stopped"
            and _watched(live)
            and not any(step.want == "running" for step in writes)
        ):
            writes.append(instance.wanted(address, live.name, "running", project=self.project))
        for step in writes:
            chained = msgspec.structs.replace(step, needs=(*ready, *step.needs))
            steps.append(chained)
            ready = (step.id,)
        if choice.start and not choice.unfreeze:
            needs = tuple(dict.fromkeys((*ready, *self._fillings(address))))
            steps.append(self._start(address, live.name, needs))
        if choice.stop and _watched(live):
            start = (f"{address}#start",)
            steps.append(instance.release(address, live.name, project=self.project, needs=start))
        return steps

    def _writes(
        self, choice: Choice, name: str, now: kind.Fields, later: kind.Fields
    ) -> list[kind.Step]:
        """The write, the user and the disks of filled volumes of a live instance, in this order."""
        address = choice.resource.address
        steps: list[kind.Step] = []
        moving = difference.moving_cards(choice.diff, choice.live)
        if moving:
            now |= {p: v for p, v in choice.resource.fields.items() if p[1] in moving}
            steps.append(self._detach(address, name, moving))
        unset = tuple(path for path in choice.diff.unset if path[1] not in moving)
        if now or unset or (choice.adopt and not later):
            record = self.book.record(choice.resource, choice.diff)
            fields = {p: v for p, v in record.fields.items() if p not in later}
            # Known as stopped until it is started: a completed job that was changed is to run again.
            power = "stopped" if choice.start and not choice.unfreeze else None
            steps.append(
                instance.update(
                    address,
                    name,
                    project=self.project,
                    set_=dict(sorted(now.items())),
                    unset=unset,
                    record=msgspec.structs.replace(record, fields=fields, power=power),
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
        known = self.book.recorded.get(address)
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

    def hold(self, live: kind.Live, needs: tuple[str, ...]) -> list[kind.Step]:
        """Hands off for the health daemon, before an instance is stopped that it watches."""
        if not _watched(live):
            return []
        return [instance.hold(live.address, live.name, project=self.project, needs=needs)]

    def _own_grace(self, resource: kind.Resource) -> int:
        return resource.grace_ms if self.grace_ms is None else self.grace_ms

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

    def link(self) -> None:
        """Edges between instances: starts wait for starts, or for the end of one-shot jobs."""
        for address, change in sorted(self.changes.items()):
            start = self.steps.get(f"{address}#start")
            if start is None or address not in self.wanted.details or address in self.removed:
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

    def take_over(self) -> None:
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
        """The step that a dependency's start, health or end is; a wait is made where it is missing."""
        start = f"{wait.address}#start"
        if wait.condition == "service_started":
            return start if start in self.steps else None
        choice = self.choices.get(wait.address)
        guard = self.guard
        state_path = volume.url(guard.pool, guard.name) if guard else ""
        state_query = {"project": self.guard_home} if guard else {}
        if wait.condition == "service_healthy" and choice is not None:
            before = (start, *(f"{sidecar.ADDRESS}#{verb}" for verb in ("enrol", "start")))
            step = instance.await_healthy(
                wait.address,
                choice.resource.name,
                project=self.project,
                state_path=state_path,
                state_query=state_query,
                needs=tuple(one for one in before if one in self.steps),
            )
            return self._added(step, added)
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
            again=guard is not None,
            state_path=state_path,
            state_query=state_query,
        )
        return self._added(step, added)

    def _added(self, step: kind.Step, added: list[kind.Step]) -> str:
        if step.id not in self.steps:
            self.steps[step.id] = step
            added.append(step)
        return step.id

    def _claims_of_others(self, address: str) -> tuple[str, ...]:
        """The steps by which other instances let go what this one takes over from them."""
        wanted = claims.of(self.choices[address].resource.fields)
        return tuple(
            step
            for other, held in self.held.items()
            if other != address and any(claims.meets(claim, wanted) for claim in held)
            for step in self.release(other)
        )

    def fill(self, resource: kind.Resource, live: kind.Live | None) -> None:
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
            cause, action = difference.UNFILLED, "update"
        else:
            cause, action = (
                (difference.VANISHED if resource.address in self.book.recorded else difference.NEW),
                "create",
            )
        fields = difference.given(resource) if live is None else ()
        self.put(resource.address, action, cause, (step,), fields)


def why_start(live: kind.Live) -> str:
    """Why an instance that is to run is to be started, by its power; empty when it runs."""
    if live.power == "Running":
        return ""
    if live.power == "Frozen":
        return "frozen"
    if not live.ever_started:
        return "never started"
    if live.exit_code is not None:
        return f"exited ({live.exit_code})"
    return "in error" if live.power == "Error" else "stopped"


def signal_of(live: kind.Live) -> str:
    """The stop signal of an instance that cannot carry it in a low-level key."""
    return live.fields.get(("config", names.SIGNAL), "")


def _watched(live: kind.Live) -> bool:
    """Whether a health daemon looks after a live instance."""
    policy = live.fields.get(("config", names.RESTART), "no")
    return policy != "no" or ("config", names.HEALTH_TEST) in live.fields


_EVENTS = {
    "server": "srv",
    "project": "proj",
    "image": "img",
    "network": "net",
    "volume": "vol",
    "instance": "inst",
}
_KINDS = ("server", "project", "image", "network", "volume", "instance")


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
