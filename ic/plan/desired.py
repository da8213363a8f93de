"""What the files ask for: Stack, recorded and observed in; every resource by address out.

Pure. Here the sections' contributions are merged (two sections that write one key are refused), and every
value that the server would otherwise choose is planned: subnets, addresses, host ports, image digests,
device and instance names. Problems are collected and raised together, as one PlanError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.fields import image as image_section
from ic.fields import lifecycle, networking, placement, process, section, storage, switches
from ic.plan import confine, ground, ports, watch, wiring
from ic.plan.ground import replicas
from ic.resources import image, kind, project, sidecar, volume

if TYPE_CHECKING:
    from ic.compose import model
    from ic.journal import fold
    from ic.plan import asked, facts


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance's start waits for: another instance's start, its health, or its end."""

    address: str
    condition: lifecycle.Condition = "service_started"
    required: bool = True
    restart: bool = False


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What planning needs of one desired instance beside its fields."""

    service: str
    image: str  # the image's address
    uses: tuple[section.Use, ...] = ()
    waits: tuple[Wait, ...] = ()
    directories: tuple[str, ...] = ()
    resolve: str = ""
    one_shot: bool = False  # an end with status 0 is its completion
    image_digest: str = ""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is selected, by address.

    `kept` are services and `known` addresses that the files name but this plan does not select: neither
    changed nor removed. `services` are all services of the files, selected or not.

    `sidecar` is the health daemon's, where one is needed. Without: `sidecar_stays` leaves one that is there
    as it is (something is needed of it that this plan does not select), else it goes, and why.
    """

    stack: str
    project: str
    resources: dict[str, kind.Resource] = {}
    details: dict[str, Details] = {}
    images: dict[str, image.ImageFacts] = {}  # by address
    services: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    sidecar: watch.Sidecar | None = None
    sidecar_stays: bool = False
    sidecar_goes: str = ""
    diagnostics: tuple[errors.Diagnostic, ...] = ()


def nothing(stack: str) -> Desired:
    """What `down` and `destroy` want of a stack: they need no file, only its name."""
    return Desired(stack=stack, project=names.project(stack))


def build(
    stack: model.Stack, recorded: fold.Recorded, observed: facts.Observed, options: asked.Options
) -> Desired:
    """Every selected resource with all its planned values.

    Raises PlanError with one diagnostic per problem (E_PLAN), UsageError for an unknown SERVICE.
    """
    return _Work(stack, recorded, observed, options).done()


_RESTRICTIONS: tuple[tuple[str, str, str], ...] = (
    # key of a restricted project, its default, what ic needs it for
    ("restricted.devices.proxy", "block", "ports"),
    ("restricted.devices.disk", "managed", "bind mounts and tmpfs"),
    ("restricted.devices.nic", "managed", "networks"),
)


def _left_alone(
    stack: model.Stack, recorded: fold.Recorded, observed: facts.Observed, options: asked.Options
) -> frozenset[str]:
    """The live instances of services that no file names, where this plan does not remove them."""
    services = {*stack.services, *stack.inactive}
    return frozenset(
        address
        for address in observed.live
        if names.kind_of(address) == "instance"
        and address != sidecar.ADDRESS
        and names.name_of(address).rpartition("/")[0] not in services
        and not (options.removes if address in recorded.resources else options.remove_orphans)
    )


class _Work:
    """One building: the inputs, and what was decided so far."""

    def __init__(
        self,
        stack: model.Stack,
        recorded: fold.Recorded,
        observed: facts.Observed,
        options: asked.Options,
    ) -> None:
        self.ground = ground.Ground(
            stack,
            recorded,
            observed,
            selection(stack, options.services),
            _left_alone(stack, recorded, observed, options),
        )
        self.options = options
        self.watches = options.healthd and stack.switches.healthd
        self.strict = stack.switches.isolation == "strict"
        rules = observed.facts.project_restrictions
        known = recorded.resources.get(names.address("project", self.ground.project))
        own = known is not None and ("config", "restricted") in known.fields
        self.confined = rules.get("restricted") == "true" and not own  # by an administrator
        self.restricted = self.strict or self.confined
        self.lowlevel = not self.restricted or (
            not self.strict and rules.get("restricted.containers.lowlevel") == "allow"
        )
        self.resources: dict[str, kind.Resource] = {}
        self.details: dict[str, Details] = {}
        self.images: dict[str, image.ImageFacts] = {}
        self.instance_names: dict[str, str] = {}  # address -> Incus name, of every replica
        self.volumes: dict[str, section.Named] = {}
        self._name_instances()
        self._resolve_images()
        self.wires = wiring.Wires(self.ground, self.instance_names)
        self._name_volumes()
        self.listens = ports.give(self.ground)

    def done(self) -> Desired:
        """All stages, then one raise for all that was found."""
        self.resources |= self.wires.resources
        if not self.ground.problems:
            for name in sorted(self.ground.selected):
                service = self.ground.stack.services[name]
                labels = service.placement.labels
                self.ground.check_labels(labels, f"service {name!r}", "services", name)
                for replica in replicas(service):
                    self._build_instance(service, replica)
        founded = project.resource(self.ground.project, self._restrictions())
        self.resources[founded.address] = founded
        self._check_health()
        self._check_ends()
        self._check_restrictions()
        guard, stays = self._guard()
        self.ground.raise_all()
        every = {**self.ground.stack.services, **self.ground.stack.inactive}
        known = {names.address("network", key) for key in self.ground.stack.networks}
        known |= {names.address("volume", key) for key in self.ground.stack.volumes}
        known |= {names.address("image", one.image.image or "") for one in every.values()}
        if stays:
            known.add(
                names.address("image", watch.reference(self.ground.stack.switches, self.options))
            )
        return Desired(
            stack=self.ground.stack.name,
            project=self.ground.project,
            resources=dict(sorted(self.resources.items())),
            details=dict(sorted(self.details.items())),
            images=self.images,
            services=frozenset(every),
            kept=frozenset(every) - self.ground.selected,
            known=frozenset(known),
            sidecar=guard,
            sidecar_stays=stays,
            sidecar_goes=watch.UNNEEDED if self.watches else watch.SWITCHED_OFF,
            diagnostics=tuple(self.ground.warnings),
        )

    def _name_instances(self) -> None:
        owners: dict[str, str] = {sidecar.INSTANCE: names.address("instance", "the health daemon")}
        for service, replica, address in self.ground.members():
            given = service.placement.container_name
            where = ("services", service.name, *(("container_name",) if given else ()))
            if given and service.placement.replicas > 1:
                if replica == 1:
                    self.ground.problem(
                        f"cannot scale service {service.name!r}: container_name {given!r} "
                        "can be given to one replica only",
                        *where,
                    )
                continue
            try:
                name = names.instance(service.name, replica, given)
            except errors.UsageError as error:
                self.ground.problem(error.summary, *where, hint=error.hint)
                continue
            if name in owners:
                self.ground.problem(
                    f"cannot name {names.name_of(address)}: {names.name_of(owners[name])} "
                    f"would be the same Incus instance {name!r}",
                    *where,
                    hint="rename one of the services, or give it a container_name",
                )
                continue
            owners[name] = address
            self.instance_names[address] = name

    def _resolve_images(self) -> None:
        for name in sorted(self.ground.selected):
            if not replicas(self.ground.stack.services[name]):
                continue
            reference = self.ground.stack.services[name].image.image
            if reference is None:
                self.ground.problem(
                    f"cannot run service {name!r}: it has no image", "services", name
                )
                continue
            address = names.address("image", reference)
            found = self._image(reference)
            if found is None:
                self.ground.problem(
                    f"cannot use image {reference!r} of service {name!r}: it is not known yet",
                    "services",
                    name,
                    "image",
                    hint="pull_policy or --pull is `never`, so no registry was asked",
                )
                continue
            self.images[address] = found
            self.resources[address] = kind.Resource(
                address=address,
                name=reference,
                fields={("digest",): found.digest},
                position=self.ground.stack.where("services", name, "image"),
            )

    def _image(self, reference: str) -> image.ImageFacts | None:
        """What is known of an image: the registry's answer, else the journal's."""
        found = self.ground.facts.images.get(reference)
        known = self.ground.recorded.resources.get(names.address("image", reference))
        kept = image.from_facts(known.facts) if known is not None and known.facts else None
        if found is None:
            return kept
        if kept is not None and kept.digest == found.digest and not found.fingerprint:
            return msgspec.structs.replace(found, fingerprint=kept.fingerprint)
        return found

    def _name_volumes(self) -> None:
        owners: dict[str, str] = {sidecar.VOLUME: "the health daemon's"}
        for name in sorted(self.ground.selected):
            service = self.ground.stack.services[name]
            config = self._config_of(service)
            targets: set[str] = set()
            for index, mount in enumerate(storage.mounts(service.storage, config)):
                where = ("services", name, "volumes", index)
                target = "/" + mount.target.strip("/")
                if target in targets or target == "/":
                    self.ground.problem(
                        f"cannot mount {mount.source or 'a volume'!r} at {target!r} of service "
                        f"{name!r}: " + ("it is the root" if target == "/" else "mounted already"),
                        *where,
                    )
                targets.add(target)
                if mount.type == "bind":
                    self._check_bind(name, mount, where)
                elif mount.type == "volume" and mount.source:
                    self._name_volume(mount.source, owners)
                elif mount.type == "volume":
                    for replica in replicas(service):
                        anonymous = names.anonymous_volume(name, replica, target)
                        self._plan_volume(anonymous, anonymous, {})

    def _config_of(self, service: model.Service) -> image.ImageConfig:
        found = self.images.get(names.address("image", service.image.image or ""))
        return found.config if found else image.ImageConfig()

    def _check_bind(self, service: str, mount: storage.Mount, where: tuple[str | int, ...]) -> None:
        if self.ground.facts.bind_sources.get(mount.source) != "missing":
            return
        if not self.ground.facts.local:
            self.ground.problem(
                f"cannot bind {mount.source!r} into service {service!r}: "
                f"it does not exist on {self.ground.facts.server}",
                *where,
                hint="a bind source is a path of the server; use a named volume instead",
            )
        elif not mount.create_host_path:
            self.ground.problem(
                f"cannot bind {mount.source!r} into service {service!r}: it does not exist",
                *where,
                hint="create it, or set bind: create_host_path: true",
            )

    def _external_hint(self, name: str) -> str:
        """How to make an external volume; it belongs into the stack's project, which ic makes."""
        pool = self.ground.facts.default_pool or "POOL"
        create = f"incus storage volume create {pool} {name} --project {self.ground.project}"
        if self.ground.facts.project_exists:
            return f"create it with: {create}"
        return f"apply the services that do not use it first (ic apply SERVICE...), then: {create}"

    def _name_volume(self, key: str, owners: dict[str, str]) -> None:
        if key in self.volumes:
            return
        given = self.ground.stack.volumes[key]
        name = given.name or key
        where = ("volumes", key)
        if given.external:
            pool = self.ground.facts.external_volumes.get(name)
            if pool is None:
                self.ground.problem(
                    f"cannot use volume {name!r}: it is external and does not exist "
                    f"in project {self.ground.project!r}",
                    *where,
                    hint=self._external_hint(name),
                )
            self.volumes[key] = section.Named(name=name, pool=pool or "", external=True)
            return
        if len(name) > names.VOLUME_LIMIT or "/" in name:
            self.ground.problem(
                f"cannot name volume {key!r}: {name!r} is no name for a volume "
                f"(at most {names.VOLUME_LIMIT} characters, no slash)",
                *where,
            )
            return
        if owners.setdefault(name, key) != key:
            self.ground.problem(
                f"cannot name volume {key!r}: {owners[name]!r} is the same volume {name!r}",
                *where,
            )
            return
        self.ground.check_labels(given.labels, f"volume {key!r}", *where)
        self._plan_volume(key, name, given.labels)

    def _plan_volume(self, key: str, name: str, labels: dict[str, str]) -> None:
        address = names.address("volume", key)
        known = self.ground.recorded.resources.get(address)
        live = self.ground.observed.live.get(address)
        pool = (known.pool if known else "") or (live.pool if live else "")
        if live is not None and live.name != name:
            self.ground.problem(
                f"cannot rename volume {key!r} from {live.name!r} to {name!r}: "
                "its data would stay behind",
                "volumes",
                key,
                hint="keep the name, or copy the data into a volume under another key",
            )
        pool = pool or self._pool()
        self.volumes[key] = section.Named(name=name, pool=pool)
        resource = volume.resource(address=address, name=name, pool=pool, labels=labels)
        self.resources[address] = msgspec.structs.replace(
            resource, position=self.ground.stack.where("volumes", key)
        )

    def _pool(self) -> str:
        """The storage pool for new things; a problem when there is no single choice."""
        if self.ground.facts.default_pool:
            return self.ground.facts.default_pool
        if len(self.ground.facts.pools) == 1:
            return self.ground.facts.pools[0]
        if not any(
            problem.summary.startswith("cannot choose a storage")
            for problem in self.ground.problems
        ):
            self.ground.problem(
                "cannot choose a storage pool: "
                + (
                    f"there are {', '.join(sorted(self.ground.facts.pools))}"
                    if self.ground.facts.pools
                    else "the server has none"
                ),
                hint="give the default profile of project default a root disk",
            )
        return ""

    # --- instances ---

    def _build_instance(self, service: model.Service, replica: int) -> None:
        address = names.address("instance", f"{service.name}/{replica}")
        image_address = names.address("image", service.image.image or "")
        found = self.images[image_address]
        mark = f"{found.reference}@{found.digest}"
        root_was, root_now = self.ground.field(address, ("devices", "root", "pool"))
        pool = root_was or root_now or self._pool()
        ctx = section.Context(
            service=service.name,
            replica=replica,
            image=found.config,
            image_mark=mark,
            nics=self.wires.cards(service, address),
            listens=self.listens[address],
            volumes=self.volumes,
        )
        try:
            parts = (
                image_section.contribute(service.image, ctx),
                process.contribute(service.process, ctx),
                networking.contribute(service.networking, ctx),
                storage.contribute(service.storage, ctx),
                lifecycle.contribute(service.lifecycle, ctx),
                placement.contribute(service.placement, ctx),
                switches.contribute(service.switches, ctx),
            )
        except errors.PlanError as error:
            self.ground.problem(error.summary, "services", service.name, hint=error.hint)
            return
        fields = section.merged(parts)
        fields["devices", "root", "type"] = "disk"
        fields["devices", "root", "path"] = "/"
        fields["devices", "root", "pool"] = pool
        if not self.lowlevel:
            fields = self._confined(service.name, fields, first=replica == 1)
        uses = tuple(use for part in parts for use in part.uses)
        missing = tuple(
            path
            for part in parts
            for path in part.directories
            if self.ground.facts.bind_sources.get(path) == "missing"
        )
        self.ground.warnings += [said for part in parts for said in part.diagnostics]
        policy = service.lifecycle.restart or "no"
        waits = self._waits(service)
        needs = {image_address, *(use.address for use in uses), *(wait.address for wait in waits)}
        needs |= {
            names.address("network", key)
            for key in service.networking.networks
            if not self.ground.stack.networks[key].external
        }
        self.resources[address] = kind.Resource(
            address=address,
            name=self.instance_names[address],
            fields=fields,
            needs=tuple(sorted(needs)),
            power="running",
            grace_ms=lifecycle.grace_ms(service.lifecycle),
            position=self.ground.stack.where("services", service.name),
        )
        self.details[address] = Details(
            service=service.name,
            image=image_address,
            uses=uses,
            waits=waits,
            directories=tuple(sorted(set(missing))),
            resolve=next((part.resolve for part in parts if part.resolve), ""),
            one_shot=policy == "no" or policy.startswith("on-failure"),
            image_digest=found.digest,
        )

    def _waits(self, service: model.Service) -> tuple[Wait, ...]:
        found: list[Wait] = []
        for name, dependency in sorted(service.lifecycle.depends_on.items()):
            other = self.ground.stack.services.get(name)
            if other is None:
                continue  # an inactive one that is not required; the loader refused the others
            found += [
                Wait(
                    address=names.address("instance", f"{name}/{replica}"),
                    condition=dependency.condition,
                    required=dependency.required,
                    restart=dependency.restart,
                )
                for replica in replicas(other)
            ]
        return tuple(found)

    def _check_health(self) -> None:
        """What waits for health, or says what to do without it, needs a check to be there."""
        checked = {
            details.service
            for address, details in self.details.items()
            if ("config", names.HEALTH_TEST) in self.resources[address].fields
        }
        for name in sorted(self.ground.selected if self.details else ()):
            service = self.ground.stack.services[name]
            for other, dependency in sorted(service.lifecycle.depends_on.items()):
                if (
                    dependency.condition == "service_healthy"
                    and other in self.ground.selected
                    and replicas(self.ground.stack.services[other])
                    and other not in checked
                ):
                    self.ground.problem(
                        f"cannot start service {name!r}: it waits for {other!r} to be healthy, "
                        "which has no health check",
                        "services",
                        name,
                        "depends_on",
                        other,
                        hint=f"give {other!r} a healthcheck, or wait for service_started",
                    )
            if service.switches.on_unhealthy is not None and name not in checked:
                self.ground.warn(
                    "W_NO_HEALTHCHECK",
                    f"service {name!r}: on_unhealthy has no meaning without a health check",
                    "services",
                    name,
                    switches.KEY,
                )

    def _check_ends(self) -> None:
        """Where exit codes are not to be had (a low-level key turns on the log that has them), it is said."""
        if self.lowlevel:
            return
        for name in sorted(self.ground.selected if self.details else ()):
            service = self.ground.stack.services[name]
            for other, dependency in sorted(service.lifecycle.depends_on.items()):
                if dependency.condition == "service_completed_successfully":
                    self.ground.warn(
                        "W_CONFINED",
                        f"service {name!r}: in a restricted project nobody knows how {other!r} ends: "
                        "any end counts as success",
                        "services",
                        name,
                        "depends_on",
                        other,
                    )

    def _guard(self) -> tuple[watch.Sidecar | None, bool]:
        """The health daemon's sidecar, if it is needed; else whether one that is there stays.

        Named services need it by themselves; otherwise what this plan leaves running needs it as well.
        """
        selected = {
            details.service: watch.reason(self.resources[address].fields)
            for address, details in self.details.items()
        }
        reasons = {name: why for name, why in selected.items() if why}
        left = {
            names.name_of(address).rpartition("/")[0]: watch.reason(live.fields)
            for address, live in self.ground.observed.live.items()
            if names.kind_of(address) == "instance"
            and address != sidecar.ADDRESS
            and (
                address in self.ground.orphans
                or names.name_of(address).rpartition("/")[0] in self.ground.unselected
            )
        }
        others = {name: why for name, why in left.items() if why and name not in reasons}
        if not self.watches:
            if not self.options.healthd and (reasons or others):
                listed = watch.needed(reasons | others).removeprefix("needed by ")
                self.ground.warn("W_UNWATCHED", f"nobody watches, restarts or checks {listed}")
            return None, False
        if not reasons and (self.options.services or not others):
            return None, bool(self.options.services)
        out_of_sight = self.restricted and not self.ground.facts.may_administer
        if self.ground.problems or out_of_sight:
            return None, True
        return self._sidecar(reasons | ({} if self.options.services else others)), False

    def _sidecar(self, reasons: dict[str, str]) -> watch.Sidecar | None:
        reference = watch.reference(self.ground.stack.switches, self.options)
        found = self._image(reference)
        if found is None:
            self.ground.problem(
                f"cannot use image {reference!r} of the health daemon: it is not known yet",
                hint="--pull is `never`, so no registry was asked",
            )
            return None
        roots = self.ground.field(sidecar.ADDRESS, ("devices", "root", "pool"))
        volumes = self.ground.field(sidecar.ADDRESS, ("devices", "identity", "pool"))
        pools = [next((one for one in (*was,) if one), "") for was in (roots, volumes)]
        try:
            made = watch.wanted(
                stack_project=self.ground.project,
                home=sidecar.home(self.ground.project) if self.restricted else "",
                found=found,
                reasons=reasons,
                pools=(pools[0] or self._pool(), pools[1] or self._pool()),
                observed=self.ground.observed,
                options=self.options,
            )
        except errors.PlanError as error:
            self.ground.problem(error.summary, hint=error.hint)
            return None
        self.images[made.image] = found
        return made

    def _confined(self, service: str, fields: kind.Fields, *, first: bool) -> kind.Fields:
        """An instance's fields for a restricted project; a problem where it cannot do without."""
        found = confine.confined(fields, self.ground.facts.project_restrictions, strict=self.strict)
        if first:
            for reason in found.refused:
                self.ground.problem(
                    f"cannot run service {service!r} in a restricted project: {reason}",
                    "services",
                    service,
                    hint="leave it out, or go without isolation: strict" if self.strict else "",
                )
            for lost in found.lost:
                self.ground.warn("W_CONFINED", f"service {service!r}: {lost}", "services", service)
        return found.fields

    def _restrictions(self) -> dict[str, str] | None:
        """What a strict project is restricted to: what its instances need, those left alone included."""
        if not self.strict:
            return None
        left = [
            kind.Resource(address=address, name=live.name, fields=live.fields)
            for address, live in self.ground.observed.live.items()
            if names.kind_of(address) == "instance"
            and address not in self.resources
            and address != sidecar.ADDRESS
        ]
        return confine.allowances([*self.resources.values(), *left])

    def _check_restrictions(self) -> None:
        rules = self.ground.facts.project_restrictions
        if self.strict or not self.confined:
            return
        types = {
            (resource.fields.get((*path[:2], "type")), resource.fields.get((*path[:2], "shift")))
            for resource in self.resources.values()
            for path in resource.fields
            if path[0] == "devices"
        }
        tmpfs = any(
            value == "tmpfs:"
            for resource in self.resources.values()
            for value in resource.fields.values()
        )
        needed = {
            "restricted.devices.proxy": any(type_ == "proxy" for type_, _ in types),
            "restricted.devices.disk": tmpfs or ("disk", "true") in types,
            "restricted.devices.nic": any(type_ == "nic" for type_, _ in types),
        }
        enough = {"restricted.devices.nic": {"allow", "managed"}}
        for key, default, what in _RESTRICTIONS:
            value = rules.get(key) or default
            if needed[key] and value not in enough.get(key, {"allow"}):
                self.ground.problem(
                    f"cannot use project {self.ground.project!r}: it is restricted and {key} is "
                    f"{value!r}, which forbids {what}",
                    hint=f"allow it with: incus project set {self.ground.project} {key}=allow",
                )


def selection(stack: model.Stack, services: tuple[str, ...]) -> frozenset[str]:
    """The services of a plan: all, or those named with everything they depend on."""
    if not services:
        return frozenset(stack.services)
    found: set[str] = set()
    waiting = list(services)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in stack.services:
            if name in services:
                raise errors.UsageError(
                    f"cannot find service {name!r} in stack {stack.name!r}",
                    hint=(
                        "its profile is not active: add --profile"
                        if name in stack.inactive
                        else f"services are: {', '.join(sorted(stack.services))}"
                    ),
                )
            continue
        found.add(name)
        waiting += sorted(stack.services[name].lifecycle.depends_on)
    return frozenset(found)
