"""What the files ask for: Stack, recorded and observed in; every resource by address out.

Pure. Here the sections' contributions are merged (two sections that write one key are refused), and every
value that the server would otherwise choose is planned: subnets, addresses, host ports, image digests,
device and instance names. Problems are collected and raised together, as one PlanError.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import errors, names
from ic.fields import image as image_section
from ic.fields import lifecycle, networking, placement, process, section, storage
from ic.plan import allot, claims, facts
from ic.resources import image, kind, network, project, volume

if TYPE_CHECKING:
    from ic.compose import model
    from ic.journal import fold

Mode = Literal["apply", "up", "stop", "down", "destroy"]
PullPolicy = Literal["always", "missing", "never"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a plan.

    `services` empty means all. `grace_ms` overrides every stop grace period (`down -t`). `key` is the
    stack's digest key, `pull` the `--pull` option.
    """

    mode: Mode = "apply"
    services: tuple[str, ...] = ()
    remove_orphans: bool = False
    volumes: bool = False
    grace_ms: int | None = None
    key: bytes = b""
    pull: PullPolicy | None = None


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance's start waits for: another instance's start, or its end."""

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
    """

    stack: str
    project: str
    resources: dict[str, kind.Resource] = {}
    details: dict[str, Details] = {}
    images: dict[str, image.ImageFacts] = {}  # by address
    services: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    diagnostics: tuple[errors.Diagnostic, ...] = ()


def nothing(stack: str) -> Desired:
    """What `down` and `destroy` want of a stack: they need no file, only its name."""
    return Desired(stack=stack, project=names.project(stack))


def build(
    stack: model.Stack, recorded: fold.Recorded, observed: facts.Observed, options: Options
) -> Desired:
    """Every selected resource with all its planned values.

    Raises PlanError with one diagnostic per problem (E_PLAN), UsageError for an unknown SERVICE.
    """
    work = _Work(stack, recorded, observed, options)
    return work.done()


_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_RESTRICTIONS: tuple[tuple[str, str, str], ...] = (
    # key of a restricted project, its default, what ic needs it for
    ("restricted.containers.lowlevel", "block", "raw.lxc (entrypoint as PID 1, stop signal)"),
    ("restricted.devices.proxy", "block", "ports"),
    ("restricted.devices.disk", "managed", "bind mounts and tmpfs"),
    ("restricted.devices.nic", "managed", "networks"),
)


class _Work:
    """One building: the inputs, and what was decided so far."""

    def __init__(
        self,
        stack: model.Stack,
        recorded: fold.Recorded,
        observed: facts.Observed,
        options: Options,
    ) -> None:
        self.stack = stack
        self.recorded = recorded
        self.observed = observed
        self.facts = observed.facts
        self.options = options
        self.project = names.project(stack.name)
        self.problems: list[errors.Diagnostic] = []
        self.warnings: list[errors.Diagnostic] = []
        self.selected = _selection(stack, options.services)
        self.resources: dict[str, kind.Resource] = {}
        self.details: dict[str, Details] = {}
        self.images: dict[str, image.ImageFacts] = {}
        self.instance_names: dict[str, str] = {}  # address -> Incus name, of every replica
        self.subnets: dict[str, network.Subnet] = {}  # network key -> subnet
        self.bridges: dict[str, str] = {}  # network key -> Incus name
        self.addresses: dict[str, dict[str, str]] = {}  # network key -> instance address -> IP
        self.volumes: dict[str, section.Named] = {}
        self.listens: dict[str, tuple[int, ...]] = {}
        self.foreign_listeners = _foreign_listeners(observed, self.project)

    def done(self) -> Desired:
        """All stages, then one raise for all that was found."""
        founded = project.resource(self.project)
        self.resources[founded.address] = founded
        self._name_instances()
        self._resolve_images()
        self._lay_networks()
        self._name_volumes()
        self._give_ports()
        if not self.problems:
            for name in sorted(self.selected):
                for replica in _replicas(self.stack.services[name]):
                    self._build_instance(self.stack.services[name], replica)
        self._check_restrictions()
        self._raise()
        every = {**self.stack.services, **self.stack.inactive}
        known = {names.address("network", key) for key in self.stack.networks}
        known |= {names.address("volume", key) for key in self.stack.volumes}
        known |= {names.address("image", one.image.image or "") for one in every.values()}
        return Desired(
            stack=self.stack.name,
            project=self.project,
            resources=dict(sorted(self.resources.items())),
            details=dict(sorted(self.details.items())),
            images=self.images,
            services=frozenset(every),
            kept=frozenset(every) - self.selected,
            known=frozenset(known),
            diagnostics=tuple(self.warnings),
        )

    # --- what all stages use ---

    def _problem(self, summary: str, *where: str | int, hint: str = "") -> None:
        self.problems.append(
            errors.Diagnostic(
                severity="error",
                code="E_PLAN",
                summary=summary,
                position=self.stack.where(*where) if where else None,
                hint=hint,
            )
        )

    def _warn(self, code: str, summary: str, *where: str | int) -> None:
        self.warnings.append(
            errors.Diagnostic(
                severity="warning", code=code, summary=summary, position=self.stack.where(*where)
            )
        )

    def _raise(self) -> None:
        if not self.problems:
            return
        first = self.problems[0]
        rest = len(self.problems) - 1
        raise errors.PlanError(
            first.summary
            if not rest
            else f"cannot plan stack {self.stack.name!r}: {rest + 1} problems",
            hint=first.hint if not rest else "",
            diagnostics=tuple(self.problems),
        )

    def _field(self, address: str, path: kind.Path) -> tuple[str | None, str | None]:
        """A field as recorded and as live, each None where it is not (or not readable)."""
        known = self.recorded.resources.get(address)
        was = known.fields.get(path) if known else None
        live = self.observed.live.get(address)
        return (was if isinstance(was, str) else None), (live.fields.get(path) if live else None)

    def _exists(self, address: str) -> bool:
        return address in self.recorded.resources or address in self.observed.live

    def _members(self) -> list[tuple[model.Service, int, str]]:
        """Every replica that is there or will be: active services, and what exists of inactive ones."""
        found: list[tuple[model.Service, int, str]] = []
        for name in sorted({**self.stack.inactive, **self.stack.services}):
            active = name in self.stack.services
            service = self.stack.services[name] if active else self.stack.inactive[name]
            for replica in _replicas(service):
                address = names.address("instance", f"{name}/{replica}")
                if active or self._exists(address):
                    found.append((service, replica, address))
        return found

    # --- stages ---

    def _name_instances(self) -> None:
        owners: dict[str, str] = {}
        for service, replica, address in self._members():
            given = service.placement.container_name
            where = ("services", service.name, *(("container_name",) if given else ()))
            if given and service.placement.replicas > 1:
                if replica == 1:
                    self._problem(
                        f"cannot scale service {service.name!r}: container_name {given!r} "
                        "can be given to one replica only",
                        *where,
                    )
                continue
            try:
                name = names.instance(service.name, replica, given)
            except errors.UsageError as error:
                self._problem(error.summary, *where, hint=error.hint)
                continue
            if name in owners:
                self._problem(
                    f"cannot name {names.name_of(address)}: {names.name_of(owners[name])} "
                    f"would be the same Incus instance {name!r}",
                    *where,
                    hint="rename one of the services, or give it a container_name",
                )
                continue
            owners[name] = address
            self.instance_names[address] = name

    def _resolve_images(self) -> None:
        for name in sorted(self.selected):
            reference = self.stack.services[name].image.image
            if reference is None:
                self._problem(f"cannot run service {name!r}: it has no image", "services", name)
                continue
            address = names.address("image", reference)
            found = self.facts.images.get(reference)
            known = self.recorded.resources.get(address)
            if known is not None and known.facts:
                kept = image.from_facts(known.facts)
                if found is None:
                    found = kept
                elif kept is not None and kept.digest == found.digest and not found.fingerprint:
                    found = msgspec.structs.replace(found, fingerprint=kept.fingerprint)
            if found is None:
                self._problem(
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
                position=self.stack.where("services", name, "image"),
            )

    def _lay_networks(self) -> None:
        used = {key for name in self.selected for key in self._networks_of(name)}
        members = self._members()
        present = {key for service, _, _ in members for key in service.networking.networks}
        owners: dict[str, str] = {}
        for key in sorted(present):
            given = self.stack.networks[key]
            if given.external:
                self._lay_external(key, given, check=key in used)
                continue
            name = given.name or names.bridge(self.stack.name, key)
            if len(name) > names.BRIDGE_LIMIT:
                self._problem(
                    f"cannot name network {key!r}: {name!r} has {len(name)} characters, "
                    f"at most {names.BRIDGE_LIMIT}",
                    "networks",
                    key,
                    hint="choose a shorter name:, or none",
                )
                continue
            if name in owners:
                self._problem(
                    f"cannot name network {key!r}: {owners[name]!r} is the same bridge {name!r}",
                    "networks",
                    key,
                )
                continue
            owners[name] = key
            self.bridges[key] = name
            subnet = self._subnet(key, given, name)
            if subnet is not None:
                self.subnets[key] = subnet
        for key in sorted(self.subnets):
            self._give_addresses(key, members)
        if self.problems:
            return
        records = self._records(members)
        for key in sorted(used & set(self.subnets)):
            given = self.stack.networks[key]
            resource = network.resource(
                key=key,
                name=self.bridges[key],
                subnet=self.subnets[key],
                internal=given.internal,
                labels=given.labels,
                records=records[key],
            )
            self.resources[resource.address] = msgspec.structs.replace(
                resource, position=self.stack.where("networks", key)
            )

    def _networks_of(self, service: str) -> tuple[str, ...]:
        return tuple(self.stack.services[service].networking.networks)

    def _lay_external(self, key: str, given: model.Network, *, check: bool) -> None:
        name = given.name or key
        self.bridges[key] = name
        if check and name not in self.facts.external_networks:
            self._problem(
                f"cannot use network {name!r}: it is external and does not exist",
                "networks",
                key,
                hint=f"create it with: incus network create {name}",
            )

    def _subnet(self, key: str, given: model.Network, name: str) -> network.Subnet | None:
        address = names.address("network", key)
        was, now = self._field(address, ("config", "ipv4.address"))
        known = self.recorded.resources.get(address)
        live = self.observed.live.get(address)
        if known is not None and known.name != name:
            was = None
        own = allot.from_bridge(now)
        if live is not None and live.name != name:
            now = None
        taken = [
            (cidr, owner)
            for cidr, owner in self.facts.subnets
            if not (own is not None and now is not None and _same_net(cidr, own.cidr))
        ]
        if given.subnet is not None:
            return self._given_subnet(key, given.subnet, given.gateway, taken)
        for earlier in (was, now):
            found = allot.from_bridge(earlier)
            if found is not None and (now is not None or not allot.overlap(found.cidr, taken)):
                return found
        planned = [(subnet.cidr, other) for other, subnet in self.subnets.items()]
        chosen = allot.first_subnet(self.stack.name, key, [*taken, *planned])
        if chosen is None:
            self._problem(
                f"cannot give network {key!r} a subnet: all of {allot.RANGE} is in use",
                "networks",
                key,
                hint="choose one with ipam: config: - subnet:",
            )
        return chosen

    def _given_subnet(
        self, key: str, cidr: str, gateway: str | None, taken: list[tuple[str, str]]
    ) -> network.Subnet | None:
        where = ("networks", key, "ipam")
        try:
            subnet = allot.given(cidr, gateway)
        except ValueError as error:
            self._problem(f"cannot use subnet {cidr!r} of network {key!r}: {error}", *where)
            return None
        planned = [(other.cidr, f"network {name!r}") for name, other in self.subnets.items()]
        found = allot.overlap(subnet.cidr, [*taken, *planned])
        if found is not None:
            self._problem(
                f"cannot use subnet {cidr} of network {key!r}: it overlaps {found[0]} ({found[1]})",
                *where,
            )
            return None
        return subnet

    def _give_addresses(self, key: str, members: list[tuple[model.Service, int, str]]) -> None:
        subnet = self.subnets[key]
        wanted: dict[str, str | None] = {}
        fixed: dict[str, str] = {}
        for service, replica, address in members:
            attachment = service.networking.networks.get(key)
            if attachment is None:
                continue
            wanted[address] = attachment.ipv4_address
            if attachment.ipv4_address is not None:
                self._check_fixed(key, service, replica, attachment.ipv4_address, fixed)
        recorded, live = self._earlier(self.bridges[key])
        others = {
            value
            for known in (recorded, live)
            for member, value in known.items()
            if member not in wanted
        }
        chosen = allot.addresses(subnet, wanted, (recorded, live), frozenset(others))
        if chosen is None:
            self._problem(
                f"cannot plan {len(wanted)} addresses in network {key!r}: "
                f"{subnet.cidr} has not enough outside its DHCP range",
                "networks",
                key,
                hint="give it a larger subnet",
            )
            return
        self.addresses[key] = chosen

    def _check_fixed(
        self, key: str, service: model.Service, replica: int, text: str, fixed: dict[str, str]
    ) -> None:
        where = ("services", service.name, "networks", key, "ipv4_address")
        label = f"address {text!r} of service {service.name!r}"
        subnet = self.subnets[key]
        try:
            value = ipaddress.IPv4Address(text)
        except ValueError:
            self._problem(f"cannot use {label}: not an IPv4 address", *where)
            return
        if value not in subnet.net or text == subnet.gateway:
            self._problem(
                f"cannot use {label}: not a free address of {subnet.cidr} (network {key!r})",
                *where,
            )
        elif text in fixed:
            self._problem(
                f"cannot use {label} for {service.name}/{replica}: {fixed[text]} has it", *where
            )
        fixed[text] = f"{service.name}/{replica}"

    def _earlier(self, bridge: str) -> tuple[dict[str, str], dict[str, str]]:
        """The addresses that instances have on a bridge, as recorded and as live."""
        recorded = {
            address: claims.address_on(bridge, resource.fields)
            for address, resource in self.recorded.resources.items()
        }
        live = {
            address: claims.address_on(bridge, resource.fields)
            for address, resource in self.observed.live.items()
        }
        return (
            {address: value for address, value in recorded.items() if value},
            {address: value for address, value in live.items() if value},
        )

    def _records(
        self, members: list[tuple[model.Service, int, str]]
    ) -> dict[str, tuple[tuple[str, str], ...]]:
        """The names that each bridge answers for.

        An instance asks the name server of one network alone, so that one answers for the other networks
        of its instances too, where it has no such name itself.
        """
        own: dict[str, set[tuple[str, str]]] = {key: set() for key in self.subnets}
        for service, _, address in members:
            for key, attachment in service.networking.networks.items():
                if key not in self.subnets:
                    continue
                ip = self.addresses[key][address]
                given = service.placement.container_name
                hosts = {service.name, self.instance_names[address], *attachment.aliases}
                hosts |= {given} if given else set()
                for host in sorted(hosts):
                    if not _HOST.fullmatch(host):
                        self._problem(
                            f"cannot answer for the name {host!r} of service {service.name!r}: "
                            "not a host name",
                            "services",
                            service.name,
                            "networks",
                            key,
                        )
                    own[key].add((host, ip))
        whole = {key: set(records) for key, records in own.items()}
        for service, _, _ in members:
            keys = list(service.networking.networks)
            asked = self._primary(service) or next(iter(keys), None)
            if asked not in own:
                continue
            have = {host for host, _ in own[asked]}
            for other in keys:
                whole[asked] |= {
                    (host, ip) for host, ip in own.get(other, set()) if host not in have
                }
        return {key: tuple(sorted(records)) for key, records in whole.items()}

    def _name_volumes(self) -> None:
        owners: dict[str, str] = {}
        for name in sorted(self.selected):
            service = self.stack.services[name]
            config = self._config_of(service)
            targets: set[str] = set()
            for index, mount in enumerate(storage.mounts(service.storage, config)):
                where = ("services", name, "volumes", index)
                target = "/" + mount.target.strip("/")
                if target in targets or target == "/":
                    self._problem(
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
                    for replica in _replicas(service):
                        anonymous = names.anonymous_volume(name, replica, target)
                        self._plan_volume(anonymous, anonymous, {})

    def _config_of(self, service: model.Service) -> image.ImageConfig:
        found = self.images.get(names.address("image", service.image.image or ""))
        return found.config if found else image.ImageConfig()

    def _check_bind(self, service: str, mount: storage.Mount, where: tuple[str | int, ...]) -> None:
        if self.facts.bind_sources.get(mount.source) != "missing":
            return
        if not self.facts.local:
            self._problem(
                f"cannot bind {mount.source!r} into service {service!r}: "
                f"it does not exist on {self.facts.server}",
                *where,
                hint="a bind source is a path of the server; use a named volume instead",
            )
        elif not mount.create_host_path:
            self._problem(
                f"cannot bind {mount.source!r} into service {service!r}: it does not exist",
                *where,
                hint="create it, or set bind: create_host_path: true",
            )

    def _name_volume(self, key: str, owners: dict[str, str]) -> None:
        if key in self.volumes:
            return
        given = self.stack.volumes[key]
        name = given.name or key
        where = ("volumes", key)
        if given.external:
            pool = self.facts.external_volumes.get(name)
            if pool is None:
                self._problem(
                    f"cannot use volume {name!r}: it is external and does not exist "
                    f"in project {self.project!r}",
                    *where,
                )
            self.volumes[key] = section.Named(name=name, pool=pool or "", external=True)
            return
        if len(name) > names.VOLUME_LIMIT or "/" in name:
            self._problem(
                f"cannot name volume {key!r}: {name!r} is no name for a volume "
                f"(at most {names.VOLUME_LIMIT} characters, no slash)",
                *where,
            )
            return
        if owners.setdefault(name, key) != key:
            self._problem(
                f"cannot name volume {key!r}: {owners[name]!r} is the same volume {name!r}",
                *where,
            )
            return
        self._plan_volume(key, name, given.labels)

    def _plan_volume(self, key: str, name: str, labels: dict[str, str]) -> None:
        address = names.address("volume", key)
        known = self.recorded.resources.get(address)
        live = self.observed.live.get(address)
        pool = (known.pool if known else "") or (live.pool if live else "")
        if live is not None and live.name != name:
            self._problem(
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
            resource, position=self.stack.where("volumes", key)
        )

    def _pool(self) -> str:
        """The storage pool for new things; a problem when there is no single choice."""
        if self.facts.default_pool:
            return self.facts.default_pool
        if len(self.facts.pools) == 1:
            return self.facts.pools[0]
        if not any(
            problem.summary.startswith("cannot choose a storage") for problem in self.problems
        ):
            self._problem(
                "cannot choose a storage pool: "
                + (
                    f"there are {', '.join(sorted(self.facts.pools))}"
                    if self.facts.pools
                    else "the server has none"
                ),
                hint="give the default profile of project default a root disk",
            )
        return ""

    # --- host ports ---

    def _give_ports(self) -> None:
        mine: dict[tuple[str, int], list[tuple[str, str]]] = {}
        open_ports: list[tuple[model.Service, int, str, int]] = []
        ports: dict[str, dict[int, int]] = {}
        for name in sorted(self.selected):
            service = self.stack.services[name]
            for replica in _replicas(service):
                address = names.address("instance", f"{name}/{replica}")
                ports[address] = {}
                for index, port in enumerate(service.networking.ports):
                    if port.published is not None and port.published_end is None:
                        ports[address][index] = port.published
                        self._claim(service, address, index, port.published, mine)
                    else:
                        open_ports.append((service, replica, address, index))
        for service, _, address, index in open_ports:
            port = service.networking.ports[index]
            chosen = self._open_port(address, port, mine)
            if chosen is None:
                self._problem(
                    f"cannot publish port {port.target}/{port.protocol} of "
                    f"{names.name_of(address)}: every host port of the range is taken",
                    "services",
                    service.name,
                    "ports",
                    index,
                )
                continue
            ports[address][index] = chosen
            self._claim(service, address, index, chosen, mine)
        self.listens = {
            address: tuple(found[index] for index in sorted(found))
            for address, found in ports.items()
        }

    def _open_port(
        self,
        address: str,
        port: networking.Port,
        mine: dict[tuple[str, int], list[tuple[str, str]]],
    ) -> int | None:
        host = networking.listen_address(port)
        among = allot.EPHEMERAL
        if port.published is not None and port.published_end is not None:
            among = range(port.published, port.published_end + 1)
        occupied = {
            listener.port
            for listener in self.foreign_listeners
            if listener.protocol == port.protocol and allot.clash(listener.address, host)
        }
        occupied |= {
            number
            for (protocol, number), claims in mine.items()
            if protocol == port.protocol and any(allot.clash(claim, host) for claim, _ in claims)
        }
        path = ("devices", networking.port_device(port), "listen")
        earlier = tuple(claims.port_of(text) for text in self._field(address, path))
        return allot.host_port(
            f"{self.stack.name}/{address}/{port.protocol}/{port.target}",
            among,
            earlier,
            frozenset(occupied),
            from_start=port.published is not None,
        )

    def _claim(
        self,
        service: model.Service,
        address: str,
        index: int,
        number: int,
        mine: dict[tuple[str, int], list[tuple[str, str]]],
    ) -> None:
        port = service.networking.ports[index]
        host = networking.listen_address(port)
        where = ("services", service.name, "ports", index)
        what = f"port {number}/{port.protocol} for {names.name_of(address)}"
        claims = mine.setdefault((port.protocol, number), [])
        for other_host, other in claims:
            if allot.clash(host, other_host):
                self._problem(
                    f"cannot publish {what}: {names.name_of(other)} publishes it too",
                    *where,
                    hint=(
                        "give the service a range of host ports, one for each replica"
                        if names.name_of(other).partition("/")[0] == service.name
                        else ""
                    ),
                )
                return
        claims.append((host, address))
        for listener in self.foreign_listeners:
            if (
                listener.protocol == port.protocol
                and listener.port == number
                and allot.clash(host, listener.address)
            ):
                self._problem(f"cannot publish {what}: {listener.owner} has it", *where)
                return

    # --- instances ---

    def _build_instance(self, service: model.Service, replica: int) -> None:
        address = names.address("instance", f"{service.name}/{replica}")
        image_address = names.address("image", service.image.image or "")
        found = self.images[image_address]
        mark = f"{found.reference}@{found.digest}"
        root_was, root_now = self._field(address, ("devices", "root", "pool"))
        pool = root_was or root_now or self._pool()
        ctx = section.Context(
            service=service.name,
            replica=replica,
            image=found.config,
            image_mark=mark,
            fresh=replica == 1 and mark not in self._field(address, ("config", names.IMAGE)),
            nics=self._nics(service, address),
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
            )
        except errors.PlanError as error:
            self._problem(error.summary, "services", service.name, hint=error.hint)
            return
        fields = merged(parts)
        fields["devices", "root", "type"] = "disk"
        fields["devices", "root", "path"] = "/"
        fields["devices", "root", "pool"] = pool
        uses = tuple(use for part in parts for use in part.uses)
        missing = tuple(
            path
            for part in parts
            for path in part.directories
            if self.facts.bind_sources.get(path) == "missing"
        )
        self.warnings += [said for part in parts for said in part.diagnostics]
        policy = service.lifecycle.restart or "no"
        waits = self._waits(service)
        needs = {image_address, *(use.address for use in uses), *(wait.address for wait in waits)}
        needs |= {
            names.address("network", key)
            for key in service.networking.networks
            if not self.stack.networks[key].external
        }
        self.resources[address] = kind.Resource(
            address=address,
            name=self.instance_names[address],
            fields=fields,
            needs=tuple(sorted(needs)),
            power="running",
            grace_ms=lifecycle.grace_ms(service.lifecycle),
            position=self.stack.where("services", service.name),
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

    def _primary(self, service: model.Service) -> str | None:
        """The network that gives the default route and the name server: the first that is not internal."""
        keys = service.networking.networks
        return next((key for key in keys if not self.stack.networks[key].internal), None)

    def _nics(self, service: model.Service, address: str) -> tuple[section.Nic, ...]:
        """The planned cards of one instance, in the order of the file."""
        primary = self._primary(service)
        found: list[section.Nic] = []
        for key, attachment in service.networking.networks.items():
            bridge = self.bridges[key]
            if self.stack.networks[key].external:
                own = allot.interface(self.facts.external_networks[bridge].get("ipv4.address"))
                planned, prefix, gateway = (
                    attachment.ipv4_address,
                    own.network.prefixlen if own else 24,
                    "",
                )
            else:
                subnet = self.subnets[key]
                planned, prefix, gateway = (
                    self.addresses[key][address],
                    subnet.net.prefixlen,
                    subnet.gateway,
                )
            found.append(
                section.Nic(
                    network=key,
                    bridge=bridge,
                    address=planned,
                    prefix=prefix,
                    gateway=gateway,
                    primary=key == primary,
                )
            )
        return tuple(found)

    def _waits(self, service: model.Service) -> tuple[Wait, ...]:
        found: list[Wait] = []
        for name, dependency in sorted(service.lifecycle.depends_on.items()):
            other = self.stack.services.get(name)
            if other is None:
                continue  # an inactive one that is not required; the loader refused the others
            found += [
                Wait(
                    address=names.address("instance", f"{name}/{replica}"),
                    condition=dependency.condition,
                    required=dependency.required,
                    restart=dependency.restart,
                )
                for replica in _replicas(other)
            ]
        return tuple(found)

    def _check_restrictions(self) -> None:
        rules = self.facts.project_restrictions
        if rules.get("restricted") != "true":
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
            "restricted.containers.lowlevel": bool(self.details),
            "restricted.devices.proxy": any(type_ == "proxy" for type_, _ in types),
            "restricted.devices.disk": tmpfs or ("disk", "true") in types,
            "restricted.devices.nic": any(type_ == "nic" for type_, _ in types),
        }
        enough = {"restricted.devices.nic": {"allow", "managed"}}
        for key, default, what in _RESTRICTIONS:
            value = rules.get(key) or default
            if needed[key] and value not in enough.get(key, {"allow"}):
                self._problem(
                    f"cannot use project {self.project!r}: it is restricted and {key} is "
                    f"{value!r}, which forbids {what}",
                    hint=f"allow it with: incus project set {self.project} {key}=allow",
                )


def _foreign_listeners(observed: facts.Observed, project: str) -> list[facts.Listener]:
    """Listeners that are not this stack's own proxies (which show up as processes of the host too)."""
    own = {
        (protocol, number)
        for live in observed.live.values()
        if live.power in {"Running", "Frozen"}
        for protocol, _, number in claims.proxies(live.fields)
    }
    mine = {live.name for live in observed.live.values()}
    return [
        listener
        for listener in observed.facts.listeners
        if not (listener.project == project and listener.instance in mine)
        and (listener.project or (listener.protocol, listener.port) not in own)
    ]


def _replicas(service: model.Service) -> range:
    return range(1, service.placement.replicas + 1)


def _selection(stack: model.Stack, services: tuple[str, ...]) -> frozenset[str]:
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


def merged(parts: tuple[section.Contribution, ...]) -> kind.Fields:
    """All fragments of one instance; raises PlanError when two sections write one key."""
    fields: kind.Fields = {}
    lines: list[tuple[str, str]] = []
    for part in parts:
        for path, value in part.fields.items():
            if path in fields:
                raise errors.PlanError(
                    f"cannot merge sections: two of them write {kind.text_of(path)}"
                )
            fields[path] = value
        for key, value in part.lxc:
            if key != "lxc.environment" and any(key == other for other, _ in lines):
                raise errors.PlanError(f"cannot merge sections: two of them write {key} of raw.lxc")
            lines.append((key, value))
    if lines:
        fields["config", "raw.lxc"] = "\n".join(f"{key}={value}" for key, value in sorted(lines))
    return fields


def _same_net(one: str, other: str) -> bool:
    left, right = allot.interface(one), allot.interface(other)
    return left is not None and right is not None and left.network == right.network
