"""Live state of a whole stack, and the facts that planning needs beside it, in a constant number of calls.

In: a client, the Incus project's name, the stack (or None), what an earlier look resolved. Out: the
journal as read, and Observed. Not pure; changes nothing. Six calls for a settled stack, one more where a
health daemon watches, and none to a registry: what the journal knows is not asked again. What images the
server holds is asked (`with_images`) for a plan that pulls. How an instance ended no list of the server
tells, only its log: that is one call for each ended instance whose end decides something, a few at once.

The run object is read before the project (a line of the journal is first there, then here), and everything
else after both, so that live state is never older than the record it is compared with.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec

from ic import errors, names
from ic.engine import host
from ic.fields import lifecycle
from ic.incus import client as incus
from ic.incus import lxclog
from ic.journal import pages
from ic.plan import facts
from ic.resources import image, kind, sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ic.compose import model
    from ic.journal import fold

PullPolicy = Literal["always", "missing", "never"]
Body = dict[str, Any]
_Found = TypeVar("_Found")

_DEFAULT = "default"
_NEVER = "1970-01-01T00:00:00Z"  # last_used_at of what has never been started
OWN_PROFILES = ("ic.lock.", "ic.j.", "ic.hd.")
_RESOLVERS = 6  # registries are asked for so many images at once
_READERS = 4  # so many logs are read at once; a reader opens a connection of its own


def observe(
    client: incus.Client,
    project: str,
    stack: model.Stack | None,
    env: Mapping[str, str],
    *,
    images: Mapping[str, image.ImageFacts] | None = None,
    pull: PullPolicy | None = None,
    services: frozenset[str] | None = None,
    guard: str | None = None,
) -> tuple[pages.Journal, facts.Observed]:
    """Read everything that planning a stack needs.

    `env` is where registry credentials are looked for, `images` are facts that an earlier look resolved,
    `pull` is `--pull` and wins over a service's `pull_policy`, `services` are those whose images are looked
    up (None: all), `guard` the image of the health daemon, looked up where something is to be watched (None:
    never). Without a stack no image, no bind source and nothing external is looked at. Raises
    IncusError; TooOld when the server lacks an API extension; RegistryError when an image cannot be
    resolved. A damaged journal is no error here: see its `state`.
    """
    server = client.server()
    incus.require(server, str(client.transport.server))
    profiles = _profiles(client, project)
    config = _project(client, project)
    mine = profiles.get(project, {}) if config is not None else {}
    journal = pages.read(
        project, config or {}, {name: _strings(one.get("config")) for name, one in mine.items()}
    )
    owner = Owner(config or {}, journal.lineage)
    where = {"project": project if config is not None else _DEFAULT, "recursion": "1"}
    instances = _list(client, "/1.0/instances", {"recursion": "1", "all-projects": "true"})
    networks = _list(client, "/1.0/networks", where)
    fallback = _default_pool(profiles)
    home = sidecar.home(project) if config is not None else ""
    home = home if home in profiles else ""
    external = _external(stack.volumes) if stack is not None else set[str]()
    interest = _pools_of_interest(fallback, journal, instances, project)
    stores = _Stores(client, project, home)
    if config is not None:
        stores.read(interest)
    pools: tuple[str, ...] = ()
    if not fallback or external - {name for _, name in stores.volumes}:
        pools = _pools(client)
        stores.read({*pools} - {pool for pool, _ in stores.volumes} if config is not None else ())
    volumes = stores.volumes
    recorded = {address: one.name for address, one in journal.recorded.resources.items()}
    sorter = Sorter(owner, recorded)
    for one in instances:
        if one.get("project") == project:
            sorter.take(_instance(one))
    for bridge in _bridges(networks, journal, owner):
        sorter.take(bridge)
    for (pool, _), one in sorted(volumes.items()):
        sorter.take(_volume(one, pool))
    live = sorter.live | _ended(client, project, sorter.live, _selected(stack, services))
    lodgers = _lodgers(instances, stores.lodging, owner, home)
    sidecar_home = project if {sidecar.ADDRESS, sidecar.VOLUME_ADDRESS} & {*live} else ""
    if lodgers and not sidecar_home:
        live |= lodgers
        sidecar_home = home
    local = client.transport.server.local
    foreign = {noun: frozenset(found) for noun, found in sorter.foreign.items()}
    foreign["profile"] = frozenset(
        name for name in mine if name != _DEFAULT and not name.startswith(OWN_PROFILES)
    )
    resolve = _resolver(env, server)

    def lookup(policies: Mapping[str, PullPolicy]) -> dict[str, image.ImageFacts]:
        return _images(policies, journal, images or {}, resolve)

    found = facts.Facts(
        server=str(client.transport.server),
        version=_version(server),
        local=local,
        project_exists=config is not None,
        project_marked=config is not None and owner.owns_project(stack.name if stack else None),
        project_restrictions={
            key: value for key, value in (config or {}).items() if key.startswith("restricted")
        },
        images=_every_image(stack, lookup, services=services, pull=pull, guard=guard, live=live)
        if stack is not None
        else {},
        fingerprints=None,
        subnets=_subnets(networks, local=local),
        pools=pools or ((fallback,) if fallback else ()),
        default_pool=fallback,
        listeners=(*_proxies(instances), *(host.listeners() if local else ())),
        foreign=foreign,
        marks=sorter.marks,
        external_networks=_external_networks(stack, networks),
        external_volumes={name: pool for pool, name in sorted(volumes) if name in external},
        bind_sources=_bind_sources(stack, local=local),
        https_address=_https_address(server),
        addresses=_addresses(server),
        server_fingerprint=str(_environment(server).get("certificate_fingerprint", "")),
        sidecar_state=_sidecar_state(client, live, sidecar_home),
        sidecar_home=sidecar_home,
        home_exists=bool(home),
        home_marked=bool(home) and (bool(lodgers) or owner.owns_home(client, home)),
        may_administer=_config(server) is not None,
    )
    observed = facts.Observed(
        live=live,
        facts=found,
        project_config=config or {},
        profiles={name: _strings(one.get("config")) for name, one in mine.items()},
        doubles=tuple(sorter.doubles),
    )
    return journal, observed


def with_images(client: incus.Client, project: str, observed: facts.Observed) -> facts.Observed:
    """The same look with the images that the server holds: one call more."""
    where = project if observed.facts.project_exists else _DEFAULT
    found = msgspec.structs.replace(observed.facts, fingerprints=_fingerprints(client, where))
    return msgspec.structs.replace(observed, facts=found)


# --- whose is it ------------------------------------------------------------------------------------


class Owner:
    """Tells by stamps what belongs to this stack: its lineage, and its name where the project gives it."""

    def __init__(self, config: Mapping[str, str], lineage: str) -> None:
        self.lineage = lineage
        self.stack = config.get(names.STACK, "")

    def owns(self, stamp: kind.Stamp) -> bool:
        """Whether a stamp is this stack's. Without a journal nothing is."""
        if not self.lineage or stamp.lineage != self.lineage or not stamp.resource:
            return False
        return not self.stack or stamp.stack == self.stack

    def veiled(self, known: fold.RecordedResource) -> kind.Live:
        """A recorded network whose configuration, stamp included, the server keeps from this client.

        It does so towards a restricted certificate. What the journal says stands then: a client that may
        not read a network may not change it either.
        """
        _, _, resource = known.address.partition(":")
        return kind.Live(
            address=known.address,
            name=known.name,
            fields={},
            stamp=kind.Stamp(
                stack=self.stack, lineage=self.lineage, resource=resource, event=known.event
            ),
            veiled=True,
        )

    def owns_home(self, client: incus.Client, home: str) -> bool:
        """Whether an empty project of the health daemon's is this stack's."""
        found = _project(client, home) or {}
        return bool(self.lineage) and found.get(names.LINEAGE) == self.lineage

    def owns_project(self, stack: str | None) -> bool:
        """Whether the project is this stack's: `my_app` and `my-app` would share one."""
        return bool(self.lineage) and (stack is None or self.stack in ("", stack))


class Sorter:
    """Sorts what is there into own (by address) and foreign (by kind, names only, with any marks).

    Of two with one address (an instance copied by hand keeps its stamp) the recorded name is the own one.
    Of two bridges both are: a run that was cut off while a network got another name leaves them.
    """

    def __init__(self, owner: Owner, recorded: Mapping[str, str]) -> None:
        self.owner = owner
        self.recorded = recorded
        self.live: dict[str, kind.Live] = {}
        self.doubles: list[kind.Live] = []
        self.foreign: dict[str, set[str]] = {"instance": set(), "network": set(), "volume": set()}
        self.marks: dict[str, dict[str, kind.Stamp]] = {}

    def take(self, one: kind.Live) -> None:
        """Put one thing where it belongs; its address begins with its kind."""
        if not self.owner.owns(one.stamp):
            self._leave(one)
            return
        other = self.live.get(one.address)
        if other is not None and self._goes_before(other, one):
            one, other = other, one
        self.live[one.address] = one
        if other is not None and names.kind_of(other.address) == "network":
            self.doubles.append(other)
        elif other is not None:
            self._leave(other)

    def _goes_before(self, one: kind.Live, other: kind.Live) -> bool:
        recorded = self.recorded.get(one.address)
        return (one.name != recorded, one.name) <= (other.name != recorded, other.name)

    def _leave(self, one: kind.Live) -> None:
        noun = names.kind_of(one.address)
        self.foreign[noun].add(one.name)
        if one.stamp.stack or one.stamp.lineage:
            self.marks.setdefault(noun, {})[one.name] = one.stamp


def _bridges(networks: Iterable[Body], journal: pages.Journal, owner: Owner) -> Iterable[kind.Live]:
    """The networks of a list; what this client may not look into is taken for what is recorded of it."""
    bridges = {
        one.name: one
        for one in journal.recorded.resources.values()
        if names.kind_of(one.address) == "network"
    }
    for one in networks:
        known = bridges.get(str(one["name"]))
        veiled = known is not None and one.get("managed") and not one.get("config")
        yield owner.veiled(known) if known is not None and veiled else _network(one)


def _lodgers(
    instances: Iterable[Body],
    volumes: Mapping[tuple[str, str], Body],
    owner: Owner,
    home: str,
) -> dict[str, kind.Live]:
    """What is this stack's in the health daemon's own project, by address."""
    found = [_instance(one) for one in instances if home and one.get("project") == home]
    found += [_volume(one, pool) for (pool, _), one in sorted(volumes.items())]
    return {one.address: one for one in found if owner.owns(one.stamp)}


# --- what the API shows, as Live ---------------------------------------------------------------------


def _stamp(config: Mapping[str, str]) -> kind.Stamp:
    return kind.Stamp(
        stack=config.get(names.STACK, ""),
        lineage=config.get(names.LINEAGE, ""),
        resource=config.get(names.RESOURCE, ""),
        event=config.get(names.EVENT, ""),
        want=config.get(names.WANT, ""),
    )


def _instance(body: Body) -> kind.Live:
    """An instance of a list with recursion 1. Half made: the mark that creation sets last is not there."""
    config = _strings(body.get("config"))
    fields: kind.Fields = {("config", key): value for key, value in config.items()}
    for device, keys in _mappings(body.get("devices")).items():
        for key, value in _strings(keys).items():
            fields["devices", device, key] = value
    used = str(body.get("last_used_at") or _NEVER)
    started = not used.startswith(("1970-", "0001-"))
    power = str(body.get("status", ""))
    stamp = _stamp(config)
    return kind.Live(
        address=names.address("instance", stamp.resource),
        name=str(body["name"]),
        fields=fields,
        stamp=stamp,
        uuid=config.get("volatile.uuid", ""),
        power=power,
        ever_started=started,
        half_made=not started and power == "Stopped" and "volatile.apply_template" not in config,
        created=str(body.get("created_at", "")),
        started=used if started else "",
        promised=_promised(config, used),
    )


def _promised(config: Mapping[str, str], run: str) -> bool:
    """Whether a health daemon has written that it starts the instance again after this very run."""
    if names.HEALTH not in config:
        return False
    from ic.healthd import spec

    claim = spec.claim(config)
    return claim.do in ("start", "restart") and claim.run == run


def _network(body: Body) -> kind.Live:
    """A network of a list. Half made: its creation ends with the request, and a client that dies ends it.

    Such a network stays `Pending` (or `Errored`) for ever: no bridge, and no instance can be created on it.
    """
    config = _strings(body.get("config"))
    stamp = _stamp(config)
    return kind.Live(
        address=names.address("network", stamp.resource),
        name=str(body["name"]),
        fields={("config", key): value for key, value in config.items()},
        stamp=stamp,
        half_made=body.get("status") in ("Pending", "Errored"),
    )


def _volume(body: Body, pool: str) -> kind.Live:
    config = _strings(body.get("config"))
    stamp = _stamp(config)
    return kind.Live(
        address=names.address("volume", stamp.resource),
        name=str(body["name"]),
        fields={("config", key): value for key, value in config.items()},
        stamp=stamp,
        uuid=config.get("volatile.uuid", ""),
        created=str(body.get("created_at", "")),
        pool=pool,
    )


def _selected(stack: model.Stack | None, services: frozenset[str] | None) -> frozenset[str]:
    """Whose power a plan decides by how it ended: the services that are looked at, and the sidecar."""
    if stack is None:
        return frozenset()
    return frozenset(stack.services if services is None else services) | {sidecar.INSTANCE}


def _ended(
    client: incus.Client, project: str, live: Mapping[str, kind.Live], deciding: frozenset[str]
) -> dict[str, kind.Live]:
    """Those that have ended with their last run's exit status, which only the log of an instance knows.

    What belongs to none of the `deciding` services is stopped, removed or left whatever its end was.
    """
    ended = [
        address
        for address, one in live.items()
        if one.power == "Stopped"
        and one.ever_started
        and names.name_of(address).partition("/")[0] in deciding
    ]

    def read(address: str) -> int | None:
        at = incus.path("instances", live[address].name)
        return lxclog.exit_code(client.log_file(at, "lxc.log", {"project": project}))

    codes, failed = _gather(ended, read, _READERS if len(ended) >= _READERS else 1)
    for address in ended:
        if address in failed:
            raise failed[address]
    return {
        address: msgspec.structs.replace(live[address], exit_code=code)
        for address, code in codes.items()
    }


# --- calls ---------------------------------------------------------------------------------------------


def _list(client: incus.Client, path: str, query: Mapping[str, str]) -> list[Body]:
    return cast("list[Body]", client.get(path, query) or [])


def _profiles(client: incus.Client, project: str) -> dict[str, dict[str, Body]]:
    """The profiles of the project, of default and of the health daemon's own project, by project and name.

    Also when there is no such project: what has no profiles is not there.
    """
    query = {
        "all-projects": "true",
        "recursion": "1",
        "filter": " or ".join(
            f"project eq {one}" for one in (project, _DEFAULT, sidecar.home(project))
        ),
    }
    found: dict[str, dict[str, Body]] = {}
    for one in _list(client, "/1.0/profiles", query):
        found.setdefault(str(one.get("project")), {})[str(one["name"])] = one
    return found


def _project(client: incus.Client, project: str) -> dict[str, str] | None:
    try:
        body = cast("Body", client.get(incus.path("projects", project)))
    except errors.NotFound:
        return None
    return _strings(body.get("config"))


def _default_pool(profiles: Mapping[str, Mapping[str, Body]]) -> str:
    """The pool of the root disk of default's default profile, empty when it has none or is not visible."""
    devices = profiles.get(_DEFAULT, {}).get(_DEFAULT, {}).get("devices")
    for device in _mappings(devices).values():
        keys = _strings(device)
        if keys.get("type") == "disk" and keys.get("path") == "/":
            return keys.get("pool", "")
    return ""


def _pools(client: incus.Client) -> tuple[str, ...]:
    found = cast("list[str]", client.get("/1.0/storage-pools") or [])
    return tuple(sorted(url.rpartition("/")[2] for url in found))


def _pools_of_interest(
    fallback: str, journal: pages.Journal, instances: Iterable[Body], project: str
) -> set[str]:
    """Where volumes of the stack may be: the usual pool, those recorded, those that its instances use."""
    found = {one.pool for one in journal.recorded.resources.values()} | {fallback}
    for one in instances:
        if one.get("project") == project:
            for device in _mappings(one.get("devices")).values():
                keys = _strings(device)
                if keys.get("type") == "disk" and keys.get("source"):
                    found.add(keys.get("pool", ""))
    return found - {""}


class _Stores:
    """The custom volumes of a project, and of the health daemon's own beside it, by pool and name."""

    def __init__(self, client: incus.Client, project: str, home: str) -> None:
        self.client = client
        self.project = project
        self.home = home
        self.volumes: dict[tuple[str, str], Body] = {}
        self.lodging: dict[tuple[str, str], Body] = {}

    def read(self, pools: Iterable[str]) -> None:
        """Read those of some pools."""
        for pool in sorted(pools):
            for one in _volumes(self.client, pool, self.project, self.home):
                beside = self.home and one.get("project") == self.home
                (self.lodging if beside else self.volumes)[pool, str(one["name"])] = one


def _volumes(client: incus.Client, pool: str, project: str, home: str) -> list[Body]:
    """The custom volumes of a project (and of `home`, unless empty) in a pool; none without that pool."""
    path = incus.path("storage-pools", pool, "volumes", "custom")
    both = {"all-projects": "true", "filter": f"project eq {project} or project eq {home}"}
    try:
        found = _list(client, path, {"recursion": "1", **(both if home else {"project": project})})
    except errors.NotFound:
        return []
    return [one for one in found if "/" not in str(one["name"])]


def _fingerprints(client: incus.Client, project: str) -> frozenset[str]:
    """The images that instances of the project can be made from: default's, with `features.images=false`."""
    found = cast("list[str]", client.get("/1.0/images", {"project": project}) or [])
    return frozenset(url.rpartition("/")[2] for url in found)


def _environment(server: Body) -> Body:
    return cast("Body", server.get("environment") or {})


def _version(server: Body) -> str:
    return str(_environment(server).get("server_version", ""))


def _config(server: Body) -> dict[str, str] | None:
    """The server's configuration; None for a client that may not see it, and so not change it either.

    A restricted client is shown an empty one. To anybody else that comes by TLS it shows at least where the
    server listens; who comes by the socket of the administrator sees it as it is.
    """
    found = _strings(server.get("config"))
    return found if found or server.get("auth_user_method") == "unix" else None


def _https_address(server: Body) -> str | None:
    config = _config(server)
    return None if config is None else config.get("core.https_address", "")


def _addresses(server: Body) -> tuple[str, ...]:
    return tuple(cast("list[str]", _environment(server).get("addresses") or []))


def _sidecar_state(
    client: incus.Client, live: Mapping[str, kind.Live], project: str
) -> sidecar.State | None:
    """What the health daemon says of itself, from its volume; None without one, or when it says nothing."""
    store = live.get(sidecar.VOLUME_ADDRESS)
    if store is None:
        return None
    from ic.engine import sidecar as acting

    path = incus.path("storage-pools", store.pool, "volumes", "custom", store.name)
    try:
        return acting.read_state(client, path, {"project": project})
    except errors.OperationFailed:  # a directory in its place
        return None


# --- facts -----------------------------------------------------------------------------------------------


def _subnets(networks: Iterable[Body], *, local: bool) -> tuple[tuple[str, str], ...]:
    """IPv4 subnets in use, with their owner: those of the server's networks, and this host's other routes."""
    found: list[tuple[str, str]] = []
    bridges: set[str] = set()
    for one in networks:
        name = str(one["name"])
        address = _strings(one.get("config")).get("ipv4.address", "")
        if "/" in address:
            bridges.add(name)
            found.append((address, f"network {name}"))
    for cidr, interface in host.routes() if local else ():
        if interface not in bridges:
            found.append((cidr, f"a route of this host through {interface}"))
    return tuple(sorted(found))


def _proxies(instances: Iterable[Body]) -> tuple[facts.Listener, ...]:
    """Host ports that proxy devices of instances have, in every project that may be read."""
    found: list[facts.Listener] = []
    for one in instances:
        name, project = str(one["name"]), str(one.get("project", _DEFAULT))
        for device in _mappings(one.get("expanded_devices") or one.get("devices")).values():
            keys = _strings(device)
            if keys.get("type") != "proxy" or keys.get("bind", "host") not in ("host", ""):
                continue
            for protocol, address, port in _listens(keys.get("listen", "")):
                found.append(
                    facts.Listener(
                        protocol=protocol,
                        address=address,
                        port=port,
                        owner=f"instance {name} in project {project}",
                        project=project,
                        instance=name,
                    )
                )
    return tuple(sorted(found, key=lambda one: (one.protocol, one.port, one.address, one.owner)))


def _listens(text: str) -> Iterable[tuple[str, str, int]]:
    """Protocol, address and each port of a proxy's `listen`: `tcp:0.0.0.0:80,8000-8010`."""
    protocol, _, rest = text.partition(":")
    address, _, ports = rest.rpartition(":")
    if protocol not in ("tcp", "udp"):
        return
    for part in ports.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            for port in range(int(first), min(int(last or first), 65535) + 1):
                yield protocol, address.strip("[]"), port


def _external(given: Mapping[str, model.Network] | Mapping[str, model.Volume]) -> set[str]:
    return {one.name or key for key, one in given.items() if one.external}


def _external_networks(
    stack: model.Stack | None, networks: Iterable[Body]
) -> dict[str, dict[str, str]]:
    wanted = _external(stack.networks) if stack is not None else set[str]()
    return {
        str(one["name"]): _strings(one.get("config"))
        for one in networks
        if one.get("managed") and one["name"] in wanted
    }


def _bind_sources(
    stack: model.Stack | None, *, local: bool
) -> dict[str, Literal["directory", "file", "missing"]]:
    """What stands at the bind sources. Of another machine nothing can be known but this: a path inside the
    directory of the compose file, which is here, is not meant to be there.
    """
    if stack is None:
        return {}
    sources = {
        mount.source
        for service in stack.services.values()
        for mount in service.storage.volumes
        if mount.type == "bind"
    }
    if local:
        return host.bind_sources(sources)
    inside = stack.working_dir.rstrip("/") + "/"
    return {source: "missing" for source in sorted(sources) if f"{source}/".startswith(inside)}


# --- images ----------------------------------------------------------------------------------------------


def _policies(
    stack: model.Stack, services: frozenset[str] | None, pull: PullPolicy | None
) -> dict[str, PullPolicy]:
    """When each reference is looked up: `--pull`, else the most eager of the services that use it."""
    eager: tuple[PullPolicy, ...] = ("never", "missing", "always")
    found: dict[str, PullPolicy] = {}
    for name, service in stack.services.items():
        reference = service.image.image
        if reference is not None and (services is None or name in services):
            policy: PullPolicy = pull or service.image.pull_policy or "missing"
            other = found.get(reference, policy)
            found[reference] = max((policy, other), key=eager.index)
    return found


def _every_image(
    stack: model.Stack,
    lookup: Callable[[Mapping[str, PullPolicy]], dict[str, image.ImageFacts]],
    *,
    services: frozenset[str] | None,
    pull: PullPolicy | None,
    guard: str | None,
    live: Mapping[str, kind.Live],
) -> dict[str, image.ImageFacts]:
    """The images of the services, and the health daemon's where one of them is to be watched.

    Whether that is so may be known by an image's own HEALTHCHECK alone: then it is asked for last.
    """
    policies = _policies(stack, services, pull)
    watched = any(
        one.fields.get(("config", names.RESTART), "no") != "no"
        or ("config", names.HEALTH_TEST) in one.fields
        for one in live.values()
    )
    lives = [one for name, one in stack.services.items() if services is None or name in services]
    watched = watched or any(
        lifecycle.is_watched(one.lifecycle, image.ImageConfig()) for one in lives
    )
    if guard is not None and watched:
        policies.setdefault(guard, pull or "missing")
    found = lookup(policies)
    if guard is None or guard in policies:
        return found
    for one in lives:
        known = found.get(one.image.image or "")
        if known is not None and lifecycle.is_watched(one.lifecycle, known.config):
            return found | lookup({guard: pull or "missing"})
    return found


def _images(
    policies: Mapping[str, PullPolicy],
    journal: pages.Journal,
    earlier: Mapping[str, image.ImageFacts],
    resolve: Callable[[str], image.ImageFacts],
) -> dict[str, image.ImageFacts]:
    """The facts of every image, by its reference: of an earlier look, else recorded, else the registry's.

    An image that may not be asked for and is not recorded is left out; planning says so.
    """
    found: dict[str, image.ImageFacts] = {}
    unknown: list[str] = []
    for reference, policy in sorted(policies.items()):
        recorded = journal.recorded.resources.get(names.address("image", reference))
        kept = image.from_facts(recorded.facts) if recorded is not None and recorded.facts else None
        if reference in earlier:
            found[reference] = earlier[reference]
        elif kept is not None and policy != "always":
            found[reference] = kept
        elif policy != "never":
            unknown.append(reference)
    return found | _ask(unknown, resolve)


def _ask(
    references: list[str], resolve: Callable[[str], image.ImageFacts]
) -> dict[str, image.ImageFacts]:
    """Resolve several references at once, on a few threads. Raises the first error, naming the others."""
    found, failed = _gather(references, resolve, _RESOLVERS)
    if failed:
        first, *others = (failed[reference] for reference in references if reference in failed)
        first.details = (*first.details, *(error.summary for error in others))
        raise first
    return {reference: found[reference] for reference in references}


def _resolver(env: Mapping[str, str], server: Body) -> Callable[[str], image.ImageFacts]:
    """Asks the registry of a reference, for the architecture of a server."""
    from ic.incus import oci

    machine = str(_environment(server).get("kernel_architecture", ""))

    def resolve(reference: str) -> image.ImageFacts:
        found = oci.resolve(reference, env, machine=machine)
        return image.ImageFacts(
            reference=reference,
            resolved=found.resolved,
            digest=found.digest,
            config=image.parse_config(found.config),
            fingerprint=found.fingerprint,
        )

    return resolve


# --- several at once ---------------------------------------------------------------------------------------


def _gather(
    wanted: Iterable[str], get: Callable[[str], _Found], threads: int
) -> tuple[dict[str, _Found], dict[str, errors.IcError]]:
    """What was got, and what could not be, by what was wanted; on this thread alone when one is enough."""
    found: dict[str, _Found] = {}
    failed: dict[str, errors.IcError] = {}
    left = [*wanted]
    threads = min(threads, len(left))
    left.reverse()

    def work() -> None:
        while True:
            try:
                one = left.pop()
            except IndexError:
                return
            try:
                found[one] = get(one)
            except errors.IcError as error:
                failed[one] = error

    if threads < 2:
        work()
        return found, failed
    working = [
        threading.Thread(target=work, name=f"gather-{number}", daemon=True)
        for number in range(threads)
    ]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    return found, failed


# --- bodies of the API as mappings of text ---------------------------------------------------------------


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {str(key): str(text) for key, text in cast("dict[object, object]", value).items()}


def _mappings(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        return {}
    return {str(key): inner for key, inner in cast("dict[object, object]", value).items()}
