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
from ic.plan import (
    asked,
    changes,
    claims,
    confine,
    desired,
    difference,
    facts,
    laying,
    rights,
    upkeep,
    watch,
)
from ic.resources import image, instance, kind, network, project, volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from ic.journal import fold

Options = asked.Options

FALLBACK_GRACE_MS = 10_000


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
        changes=work.draft.ordered(),
        diagnostics=(*wanted.diagnostics, *work.warnings),
    )
    _check_order(found)
    return found


def check_project(stack: str, observed: facts.Observed) -> None:
    """Raise OwnershipConflict when the stack's project is somebody else's: nothing else matters then.

    Asked before the stack is built as well, so that a taken port does not hide it.
    """
    owner = _foreign_owner(observed)
    if owner:
        raise errors.OwnershipConflict(
            f"cannot plan stack {stack!r}: project {names.project(stack)!r} exists and {owner}",
            hint="choose another stack name with -p or name:",
        )


def _foreign_owner(observed: facts.Observed) -> str:
    """Whose the project is, in words, when it exists and is not this stack's; else empty."""
    if not observed.facts.project_exists or observed.facts.project_marked:
        return ""
    other = observed.project_config.get(names.STACK)
    return f"belongs to stack {other!r}" if other else "was not made by ic"


class _Work:
    """One planning: the inputs, and what was decided so far."""

    def __init__(
        self,
        wanted: desired.Desired,
        recorded: fold.Recorded,
        observed: facts.Observed,
        options: Options,
    ) -> None:
        observed = facts.prefer(
            observed, {address: one.name for address, one in wanted.resources.items()}
        )
        self.wanted = wanted
        self.observed = observed
        self.recorded = recorded.resources
        self.live = observed.live
        self.doubles = observed.doubles
        self.facts = observed.facts
        self.options = options
        self.project = wanted.project
        self.book = difference.Book(recorded.resources, options.key, recorded.lineage)
        self.guard: upkeep.Row | None = None
        self.tightening = confine.Tightening()
        self.draft = laying.Draft(wanted, self.book, observed.live, options.grace_ms)
        self.warnings: list[errors.Diagnostic] = []

    # --- both directions ---

    def _warn(self, code: str, summary: str, hint: str = "") -> None:
        self.warnings.append(
            errors.Diagnostic(severity="warning", code=code, summary=summary, hint=hint)
        )

    def _addresses(self, kind_: str) -> list[str]:
        """Everything recorded or live of one kind, in order; the health daemon's is no part of it."""
        found = {*self.recorded, *self.live} - {*watch.ADDRESSES}
        return sorted((a for a in found if names.kind_of(a) == kind_), key=laying.natural)

    def _grace(self, address: str) -> int:
        """The grace period of an instance that is not desired any more, from what it carries."""
        if self.options.grace_ms is not None:
            return self.options.grace_ms
        live, known = self.live.get(address), self.recorded.get(address)
        for text in (
            fields.get(("config", key))
            for fields in (live.fields if live else {}, known.fields if known else {})
            for key in ("boot.host_shutdown_timeout", names.GRACE)
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
        for address in sorted(set(causes) - going, key=laying.natural):
            self.draft.forget(address, "gone from the server too")
        for address in sorted(going, key=laying.natural):
            live = self.live[address]
            dependents = sorted(
                other for other in going if laying.service_of(address) in self._after(other)
            )
            waits = tuple(
                f"{other}#stop" if self.live[other].power in laying.UP else f"{other}#delete"
                for other in dependents
                if other != address
            )
            steps: list[kind.Step] = []
            if live.power in laying.UP:
                steps += self.draft.hold(live, waits)
                steps.append(
                    instance.stop(
                        address,
                        live.name,
                        project=self.project,
                        grace_ms=self._grace(address),
                        needs=(steps[-1].id,) if steps else waits,
                        signal=laying.signal_of(live),
                    )
                )
            before = (steps[-1].id,) if steps else waits
            steps.append(instance.delete(address, live.name, project=self.project, needs=before))
            self.draft.removed.add(address)
            self.draft.put(address, "delete", causes[address], steps)

    def _remove_network(self, address: str, cause: str) -> None:
        live = self.live.get(address)
        if live is None:
            self.draft.forget(address, "gone from the server too")
            return
        if live.veiled:
            self._warn(
                "W_NETWORK_KEPT",
                f"bridge {live.name!r} stays: this certificate may not change networks",
                "an administrator's `ic down` removes it, an apply goes on using it",
            )
            return
        every = (live.name, *(one.name for one in self.doubles if one.address == address))
        gone = kind.Record(name=live.name, gone=True)
        self.draft.put(address, "delete", cause, self._bridges_go(address, every, gone))

    def _bridges_go(
        self, address: str, bridges: tuple[str, ...], record: kind.Record
    ) -> list[kind.Step]:
        """The deletion of each bridge, after everything has left it."""
        made = (f"{address}#create",) if f"{address}#create" in self.draft.steps else ()
        return [
            msgspec.structs.replace(
                network.delete(address, name),
                id=f"{address}#delete" if name == bridges[0] else f"{address}#delete-{name}",
                needs=(*made, *self.draft.leavers(name)),
                record=record,
            )
            for name in bridges
        ]

    def _remove_volume(self, address: str, cause: str) -> None:
        live = self.live.get(address)
        if live is None:
            self.draft.forget(address, "gone from the server too")
            return
        users = tuple(
            step
            for other, found in sorted(self.live.items())
            if names.kind_of(other) == "instance"
            and any(
                path[2:] == ("source",) and value == live.name
                for path, value in found.fields.items()
            )
            for step in self.draft.release(other)
        )
        step = volume.delete(address, live.name, pool=live.pool, project=self.project)
        self.draft.put(address, "delete", cause, (msgspec.structs.replace(step, needs=users),))

    # --- stop ---

    def stop(self) -> None:
        """What runs (of the named services) is stopped, dependents first; nothing is removed."""
        up = [
            address
            for address in self._addresses("instance")
            if address in self.live
            and self.live[address].power in laying.UP
            and (not self.options.services or laying.service_of(address) in self.options.services)
        ]
        for address in up:
            needs = tuple(
                f"{other}#stop"
                for other in up
                if other != address and laying.service_of(address) in self._after(other)
            )
            live = self.live[address]
            steps: list[kind.Step] = []
            if self.draft.hold(live, ()):  # it is watched, and is not to be started again
                want = instance.wanted(address, live.name, "stopped", project=self.project)
                steps.append(msgspec.structs.replace(want, needs=needs))
                needs = (want.id,)
            steps.append(
                instance.stop(
                    address,
                    live.name,
                    project=self.project,
                    grace_ms=self._grace(address),
                    needs=needs,
                    signal=laying.signal_of(live),
                )
            )
            self.draft.put(address, "stop", "stopped by the user", steps)

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
        self._remove_guard(mode)
        if mode == "destroy" and self.facts.project_exists:
            needs = tuple(sorted(self.draft.steps))
            step = project.delete(self.project, needs)
            self.draft.put(step.address, "delete", mode, (step,))

    def _check_destroy(self) -> None:
        owner = _foreign_owner(self.observed)
        if owner:
            raise errors.OwnershipConflict(
                f"cannot destroy stack {self.wanted.stack!r}: project {self.project!r} {owner}"
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
        for address in sorted(self.wanted.details, key=laying.natural):
            self.draft.choices[address] = self._choose(address)
        self._restart_dependents()
        self._decide_guard()
        self._plan_networks()
        self._plan_removals()
        self._plan_images()
        self._check_claims()
        for address in sorted(self.draft.choices, key=laying.natural):
            self.draft.lay(self.draft.choices[address])
        self._plan_volumes()
        self._lay_guard()
        self._tighten()
        self.draft.link()
        self.draft.take_over()
        self._remove_networks()
        self._forget_images()
        self._forget_volumes()
        self._check_rights()

    def _check_rights(self) -> None:
        """What a restricted client may not do; a plan that pulls is made again with what the server holds."""
        steps = self.draft.steps.values()
        pulls = any(isinstance(step.deed, kind.Pull) for step in steps)
        if self.facts.may_administer or (pulls and self.facts.fingerprints is None):
            return
        rights.check(
            steps,
            self.wanted.images,
            services={details.image for details in self.wanted.details.values()},
            lineage=self.book.lineage,
            token=bool(self.options.healthd_token),
        )

    def _check_foreign(self) -> None:
        """Something unmarked stands where the stack wants to be: refused, all of it at once."""
        check_project(self.wanted.stack, self.observed)
        found: list[tuple[str, str]] = []
        guard = self.wanted.sidecar
        if (
            guard is not None
            and guard.home != self.project
            and self.facts.home_exists
            and not self.facts.home_marked
        ):
            found.append(
                (
                    f"project {guard.home!r} exists and is not that of this stack's health daemon",
                    "rename or remove that project, or choose another name for the stack",
                )
            )
        resources = dict(self.wanted.resources)
        if guard is not None:
            resources |= {one.address: one for one in (guard.instance, guard.volume)}
        for address, resource in sorted(resources.items()):
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
            self.draft.put(
                address,
                "create",
                difference.NEW,
                (project.create(resource),),
                difference.given(resource),
            )
        elif resource is not None:
            self._plan_restrictions(resource)

    def _plan_restrictions(self, resource: kind.Resource) -> None:
        """Wider before any instance changes, narrower after all have; an administrator's own stay."""
        known = self.recorded.get(resource.address)
        own = {path[1] for path in (known.fields if known else {}) if _restricts(path)}
        wanted = {path[1]: value for path, value in resource.fields.items() if _restricts(path)}
        rules = self.facts.project_restrictions
        now = {key: value for key, value in rules.items() if key in own or key in wanted}
        self.tightening = confine.tightening(now, wanted)
        fields = tuple(
            kind.FieldChange(
                path=f"config.{key}", old=now.get(key), new=wanted.get(key), impact="in-place"
            )
            for key in sorted({*now, *wanted})
            if now.get(key) != wanted.get(key)
        )
        if not fields:
            return
        first = self.tightening.before
        steps = (confine.write(resource.name, "update", first, ()),) if first else ()
        cause = difference.CHANGED if wanted else difference.REMOVED
        self.draft.put(resource.address, "update", cause, steps, fields)

    def _tighten(self) -> None:
        """The narrower restrictions, once every instance keeps them."""
        if not self.tightening.after:
            return
        address = names.address("project", self.project)
        changed = tuple(
            step.id
            for step in self.draft.steps.values()
            if step.event in {"inst.create", "inst.update", "inst.delete"}
            and step.address not in watch.ADDRESSES
        )
        change = self.draft.changes[address]
        step = confine.write(self.project, "tighten", self.tightening.after, changed)
        self.draft.put(address, change.action, change.cause, (*change.steps, step), change.fields)

    # --- instances ---

    def _choose(self, address: str) -> laying.Choice:
        """The row of one desired instance, power included."""
        resource = self.wanted.resources[address]
        details = self.wanted.details[address]
        live = self.live.get(address)
        resolve = bool(details.resolve)
        if live is None:
            return laying.Choice(
                resource=resource,
                live=None,
                action="create",
                cause=difference.VANISHED if address in self.recorded else difference.NEW,
                start=True,
                resolve=resolve,
            )
        running = live.power in laying.UP
        if live.half_made:
            return laying.Choice(
                resource=resource,
                live=live,
                action="replace",
                cause=difference.CUT_OFF,
                stop=running,
                start=True,
                resolve=resolve,
            )
        diff = self.book.compare(resource, live, difference.instance_impact(resource, live))
        adopt = address not in self.recorded
        causes = (*((difference.ADOPTED,) if adopt else ()), *diff.causes)
        if diff.impact == "replace":
            return laying.Choice(
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
        return laying.Choice(
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
        if live.power in laying.UP or not live.ever_started:
            return laying.why_start(live)
        known = self.recorded.get(live.address)
        if not live.exit_code and known is not None and known.power == "stopped":
            return "stopped by ic"  # an end that was asked for is no completion
        if watch.keeps_alive(live, self.observed):
            self._warn(
                "W_RESTARTING",
                f"{names.name_of(live.address)} exited ({live.exit_code}): "
                "the health daemon starts it again",
            )
            return ""
        if live.exit_code == 0 and details.one_shot:
            return "completed, and run again by up" if self.options.mode == "up" else ""
        return laying.why_start(live)

    def _restart_dependents(self) -> None:
        """`depends_on: restart: true`: what waits for a restarted or replaced instance restarts with it."""
        todo = True
        while todo:
            todo = False
            for address, choice in sorted(self.draft.choices.items()):
                if (
                    choice.stop
                    or choice.makes
                    or choice.live is None
                    or choice.live.power not in laying.UP
                ):
                    continue
                moved = [
                    names.name_of(wait.address)
                    for wait in self.wanted.details[address].waits
                    if wait.restart and self._moves(wait.address)
                ]
                if moved:
                    cause = f"{', '.join(moved)} restarts"
                    self.draft.choices[address] = msgspec.structs.replace(
                        choice,
                        action="restart",
                        cause="; ".join(part for part in (choice.cause, cause) if part),
                        stop=True,
                        start=True,
                        unfreeze=False,
                    )
                    todo = True

    def _moves(self, address: str) -> bool:
        choice = self.draft.choices.get(address)
        return choice is not None and (choice.stop or choice.action == "replace")

    # --- the health daemon's sidecar ---

    def _decide_guard(self) -> None:
        """Its row, before anything of it is laid: its image may be pulled with the others."""
        given = self.wanted.sidecar
        if given is None:
            return
        self.guard = upkeep.decide(given, self.observed, self.book)
        wrong = upkeep.trouble(self.observed)
        if wrong and not self.guard.makes:
            self._warn("W_HEALTHD", wrong, "`ic healthd status` has more")

    def _lay_guard(self) -> None:
        given = self.wanted.sidecar
        if given is not None and self.guard is not None:
            self.draft.guard, self.draft.guard_home = given.volume, given.home
            upkeep.lay(self.draft, given, self.guard, self.observed, self.book)
        elif not self.wanted.sidecar_stays:
            self._remove_guard(self.wanted.sidecar_goes)

    def _remove_guard(self, cause: str) -> None:
        upkeep.remove(
            self.draft,
            self.observed,
            projects=(self.project,),
            cause=cause,
            grace_ms=self.options.grace_ms,
        )
        gone = self.draft.changes.get(watch.ADDRESSES[0])
        if gone is not None and not self.facts.may_administer:
            state = self.facts.sidecar_state
            name = state.certificate[:12] if state is not None else ""
            self._warn(
                "W_CERTIFICATE_KEPT",
                "the health daemon's certificate stays trusted: this client may not revoke it",
                f"an administrator runs: incus config trust remove {name or 'FINGERPRINT'}",
            )

    # --- claims: ports and addresses inside the stack ---

    def _check_claims(self) -> None:
        """A port or an address that another instance of this stack holds must be let go before."""
        problems: list[str] = []
        for address, choice in sorted(self.draft.choices.items()):
            wanted = claims.of(choice.resource.fields)
            for other, claimed in self.draft.held.items():
                held = [claim for claim in claimed if claims.meets(claim, wanted)]
                if other == address or not held or self._lets_go(other, held):
                    continue
                if held[0][0] != "ip" and self.live[other].power not in laying.UP:
                    continue
                problems.append(
                    f"{names.name_of(address)} wants {claims.text(held[0])}, which "
                    f"{names.name_of(other)} has"
                )
        if problems:
            raise errors.PlanError(
                f"cannot plan stack {self.wanted.stack!r}: {problems[0]}",
                details=tuple(problems[1:]),
                hint="remove the other one (apply, or up --remove-orphans), or choose another",
            )

    def _lets_go(self, other: str, held: list[claims.Claim]) -> bool:
        if other in self.draft.removed:
            return True
        choice = self.draft.choices.get(other)
        if choice is None:
            return False
        keeps = claims.of(choice.resource.fields)
        return not any(claims.meets(claim, keeps) for claim in held)

    # --- the other kinds ---

    def _plan_images(self) -> None:
        """Pull what an instance is going to be made from and the server does not have."""
        makes = {
            self.wanted.details[address].image
            for address, choice in self.draft.choices.items()
            if choice.makes
        }
        guard = self.wanted.sidecar
        if guard is not None and self.guard is not None and self.guard.makes:
            makes.add(guard.image)
        for address, found in sorted(self.wanted.images.items()):
            known = self.recorded.get(address)
            kept = image.from_facts(known.facts) if known and known.facts else None
            same = kept is not None and kept.digest == found.digest
            held = self.facts.fingerprints
            has = bool(found.fingerprint) and found.fingerprint in (held or ())
            if same and (has or address not in makes):
                continue
            if has and not self.facts.may_administer:  # somebody who may has pulled it
                record = kind.Record(name=found.reference, facts=image.to_facts(found))
                self.draft.note(address, "adopt", difference.ADOPTED, record)
                continue
            if kept is None:
                cause = difference.NEW
            else:
                cause = "gone from the server" if same else "the registry has a newer one"
            step = image.pull(found)
            first = f"{names.address('project', self.project)}#create"
            if first in self.draft.steps:
                step = msgspec.structs.replace(step, needs=(first,))
            fields = (
                kind.FieldChange(
                    path="digest",
                    old=kept.digest if kept else None,
                    new=found.digest,
                    impact="in-place",
                ),
            )
            self.draft.put(
                address, "update" if kept and not same else "create", cause, (step,), fields
            )

    def _forget_images(self) -> None:
        """Once nothing runs from them: when replacing fails, an old image's config is still needed."""
        path = ("config", names.IMAGE)
        for address in self._addresses("image"):
            if address in self.wanted.images or address in self.wanted.known:
                continue
            begun = f"{names.name_of(address)}@"
            going = [
                self.draft.release(other)
                for other, found in sorted(self.live.items())
                if found.fields.get(path, "").startswith(begun)
            ]
            if all(going):  # what is left alone keeps its image
                users = tuple(step for steps in going for step in steps)
                self.draft.forget(address, "no service uses it any more", users)

    def _forget_volumes(self) -> None:
        """A volume is kept when no file names it any more; one that is gone besides is forgotten."""
        for address in self._addresses("volume"):
            named = address in self.wanted.resources or address in self.wanted.known
            if not named and address not in self.live and self.options.removes:
                self.draft.forget(address, "gone from the server too")

    def _plan_networks(self) -> None:
        first = f"{names.address('project', self.project)}#create"
        for address, resource in sorted(self.wanted.resources.items()):
            if names.kind_of(address) != "network":
                continue
            live = self.live.get(address)
            if live is None or live.name != resource.name:
                cause = difference.VANISHED if address in self.recorded else difference.NEW
                step = network.create(resource)
                if first in self.draft.steps:
                    step = msgspec.structs.replace(step, needs=(first,))
                if live is None:
                    self.draft.put(address, "create", cause, (step,), difference.given(resource))
                else:
                    diff = self.book.compare(resource, live, network.impact)
                    self.draft.put(address, "replace", "; ".join(diff.causes), (step,), diff.fields)
                continue
            if live.half_made:
                # Nothing is on it: without its bridge the server creates no instance there.
                removal = network.delete(address, live.name)
                step = msgspec.structs.replace(network.create(resource), needs=(removal.id,))
                self.draft.put(address, "replace", difference.CUT_OFF, (removal, step))
                continue
            diff = self.book.compare(resource, live, network.impact)
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
        diff: difference.Diff,
        write: Callable[[kind.Record], kind.Step],
    ) -> None:
        """Adopt or update a live network or volume in place; nothing when it is settled."""
        adopt = resource.address not in self.recorded
        if diff.fields:
            cause = "; ".join((*((difference.ADOPTED,) if adopt else ()), *diff.causes))
            step = write(self.book.record(resource, diff))
            self.draft.put(resource.address, "update", cause, (step,), diff.fields)
        elif adopt:
            record = kind.Record(name=resource.name, pool=resource.pool, fields=resource.fields)
            self.draft.note(resource.address, "adopt", difference.ADOPTED, record)

    def _plan_volumes(self) -> None:
        for address, resource in sorted(self.wanted.resources.items()):
            if names.kind_of(address) != "volume":
                continue
            live = self.live.get(address)
            if self.draft.fills(address):
                self.draft.fill(resource, live)
                continue
            if live is None:
                continue
            diff = self.book.compare(resource, live, volume.impact)
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

    # --- what the files do not name any more ---

    def _plan_removals(self) -> None:
        """Instances of removed services and replicas; orphans are reported, and go when asked."""
        causes: dict[str, str] = {}
        left: list[str] = []
        for address in self._addresses("instance"):
            service = laying.service_of(address)
            if address in self.wanted.details or service in self.wanted.kept:
                continue
            scaled = service in self.wanted.services
            if address not in self.recorded:
                if self.options.remove_orphans:
                    causes[address] = difference.ORPHAN
                else:
                    left.append(address)
            elif scaled or self.options.removes:
                causes[address] = "scaled down" if scaled else difference.REMOVED
            elif address in self.live:
                left.append(address)
        if left:
            self._warn(
                "W_ORPHANS",
                f"left alone, not in the files: {', '.join(left)}",
                "remove them with --remove-orphans",
            )
        self._remove_instances(causes)

    def _remove_networks(self) -> None:
        for address in self._addresses("network"):
            resource = self.wanted.resources.get(address)
            if resource is not None:
                old = self._old_bridges(address, resource.name)
                if old and address in self.live:
                    self._drop_renamed(address, old)
            elif address not in self.wanted.known:
                self._remove_unnamed(address)

    def _remove_unnamed(self, address: str) -> None:
        """A network that no file names: removed where that is asked for and nothing stays on it."""
        live = self.live.get(address)
        if address in self.recorded:
            wanted, cause = self.options.removes, difference.REMOVED
        else:
            wanted, cause = self.options.remove_orphans, difference.ORPHAN
        if wanted and not (live is not None and self.draft.stayers(live.name)):
            self._remove_network(address, cause)
        elif live is not None and self.options.mode == "apply" and not self.options.services:
            self._warn(
                "W_ORPHANS",
                f"left alone, not in the files: {address}",
                "remove it with --remove-orphans",
            )

    def _drop_renamed(self, address: str, old: tuple[str, ...]) -> None:
        """The old bridges of a network that got another name go when its instances have left them."""
        resource, live = self.wanted.resources[address], self.live[address]
        change = self.draft.changes.get(address)
        record = kind.Record(name=resource.name)
        if live.name == resource.name:
            diff = self.book.compare(resource, live, network.impact)
            record = self.book.record(resource, diff)
        steps = self._bridges_go(address, old, record)
        if change is None:
            self.draft.put(address, "update", difference.OLD_BRIDGE, steps)
        else:
            known = (*change.steps, *steps)
            self.draft.put(address, change.action, change.cause, known, change.fields)

    def _old_bridges(self, address: str, name: str) -> tuple[str, ...]:
        """The bridges of a network that have not the name it is to have."""
        live = self.live.get(address)
        found = {one.name for one in self.doubles if one.address == address}
        found |= {live.name} if live is not None else set()
        return tuple(sorted(found - {name}))


def _restricts(path: kind.Path) -> bool:
    return path[0] == "config" and path[1].startswith("restricted")


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
