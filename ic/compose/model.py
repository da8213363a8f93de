"""Stack and Service: a name plus its sections. This list of sections is the registry of compose keys.

Pure values. Everything is normalised: long forms, absolute paths, durations in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, units
from ic.fields import (
    foreign,
    forms,
    image,
    lifecycle,
    limits,
    merging,
    networking,
    placement,
    process,
    schema,
    storage,
    switches,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Collection

SECTIONS = (image, process, networking, storage, lifecycle, placement, limits)

# --- what a stack may hold -----------------------------------------------------------------------------

_OLD_EXTERNAL = schema.Key(
    schema.FLAG | schema.TEXT | schema.MAPPING, keys={"name": schema.text()}, cast=schema.to_boolean
)
_GRANTED_EXTERNAL = _OLD_EXTERNAL.but(loose=True)
_OPTIONS = schema.named(schema.Key(schema.TEXT | schema.NUMBER), ".+", loose=True)
_LABELS = schema.pairs(merge=merging.sequences)
_POOL = schema.mapping(
    {
        "subnet": schema.text(),
        "ip_range": schema.text(pending=True),
        "gateway": schema.text(),
        "aux_addresses": schema.named(schema.text(), ".+", pending=True),
    }
)
SERVICE = schema.mapping(
    {name: key for section in SECTIONS for name, key in section.SCHEMA.items()}
    | {switches.KEY: switches.SERVICE, **foreign.SERVICE},
    newer=("pre_start",),
)
NETWORK = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={
        "name": schema.text(),
        "driver": schema.text(),
        "driver_opts": _OPTIONS.but(pending=True),
        "ipam": schema.mapping(
            {
                "driver": schema.text(),
                "config": schema.listing(_POOL, merge=merging.subnets),
                "options": schema.named(schema.text(), ".+", pending=True),
            }
        ),
        "external": _OLD_EXTERNAL,
        "internal": schema.flag(),
        "enable_ipv4": schema.flag(pending=True, usual=(True,)),
        "enable_ipv6": schema.flag(pending=True),
        "attachable": schema.flag(pending=True),
        "labels": _LABELS.but(index=merging.by_name),
        **foreign.NETWORK,
    },
    long=forms.external,
)
VOLUME = schema.Key(
    schema.MAPPING | schema.NULL,
    keys={
        "name": schema.text(),
        "driver": schema.text(),
        "driver_opts": _OPTIONS.but(pending=True),
        "external": _OLD_EXTERNAL,
        "labels": _LABELS,
        **foreign.VOLUME,
    },
    long=forms.external,
)
SECRET = schema.mapping(
    {
        "name": schema.text(),
        "environment": schema.text(),
        "file": schema.text(),
        "external": _GRANTED_EXTERNAL,
        "labels": schema.pairs(),
        "driver": schema.text(),
        "driver_opts": _OPTIONS,
        "template_driver": schema.text(),
    },
    long=forms.external,
)
CONFIG = schema.mapping(
    {
        "name": schema.text(),
        "content": schema.text(),
        "environment": schema.text(),
        "file": schema.text(),
        "external": _GRANTED_EXTERNAL,
        "labels": schema.pairs(),
        "template_driver": schema.text(),
    },
    long=forms.external,
)
MODEL = schema.mapping(
    {
        "name": schema.text(),
        "model": schema.text(),
        "context_size": schema.Key(schema.WHOLE),
        "runtime_flags": schema.texts(distinct=False),
    },
    required=("model",),
)
INCLUDE = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={
        "path": schema.text_or_texts(),
        "env_file": schema.text_or_texts(),
        "project_directory": schema.text(),
    },
    extensions=False,
)
INCLUDES = schema.listing(INCLUDE)
STACK = schema.mapping(
    {
        "version": schema.text(),
        "name": schema.text(),
        "include": INCLUDES,
        "services": schema.named(SERVICE, schema.NAME),
        "models": schema.named(MODEL, schema.NAME, loose=True, pending=True),
        "networks": schema.named(NETWORK, schema.NAME, loose=True),
        "volumes": schema.named(VOLUME, schema.NAME),
        "secrets": schema.named(SECRET, schema.NAME, pending=True),
        "configs": schema.named(CONFIG, schema.NAME, pending=True),
        switches.KEY: switches.STACK,
        **foreign.STACK,
    }
)


# --- values --------------------------------------------------------------------------------------------


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service: its name and its sections; each section's attributes are the compose keys."""

    name: str
    image: image.Image
    process: process.Process
    networking: networking.Networking
    storage: storage.Storage
    lifecycle: lifecycle.Lifecycle
    placement: placement.Placement
    switches: switches.Switches = switches.Switches()
    extensions: dict[str, object] = {}


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A top-level network. `key` is its name in the file, `name` the given `name:` or None."""

    key: str
    name: str | None = None
    external: bool = False
    driver: str = ""
    ipam_driver: str = ""
    internal: bool = False
    subnet: str | None = None  # CIDR, IPv4
    gateway: str | None = None
    labels: dict[str, str] = {}
    extensions: dict[str, object] = {}


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A top-level volume."""

    key: str
    name: str | None = None
    external: bool = False
    driver: str = ""
    labels: dict[str, str] = {}
    extensions: dict[str, object] = {}


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The compose application as understood: all that is selected, and the names of what is not.

    `services` are those of active profiles; `inactive` names services of inactive profiles (neither changed
    nor removed). `tree` is the stack in normal form, with every key of the specification and every position;
    `environment` are the variables that were filled in. `files` are the files read, in order, with their
    content's SHA-256, which is empty where the stack was not loaded for running. `pending` says what keeps
    the stack from running: keys that have no effect on Incus yet, and what docker compose lets pass and
    Incus does not.
    """

    name: str
    working_dir: str
    services: dict[str, Service]
    networks: dict[str, Network] = {}
    volumes: dict[str, Volume] = {}
    inactive: dict[str, Service] = {}
    switches: switches.StackSwitches = switches.StackSwitches()
    files: tuple[tuple[str, str], ...] = ()
    merged: tuple[str, ...] = ()
    tree: tree.Node | None = None
    environment: dict[str, str] = {}
    extensions: dict[str, object] = {}
    diagnostics: tuple[errors.Diagnostic, ...] = ()
    pending: tuple[errors.Diagnostic, ...] = ()

    def where(self, *path: str | int) -> errors.Position | None:
        """The position of a path (`"services", "web", "ports", 0`), or of the nearest parent that has one."""
        return place(self.tree, path)


def place(root: tree.Node | None, path: tuple[str | int, ...]) -> errors.Position | None:
    """Where a path of a tree was written, or the nearest parent of it; None for what begins nowhere."""
    node, found = root, None
    for step in path:
        data = node.data if node is not None else None
        if isinstance(data, dict) and isinstance(step, str) and step in data:
            assert node is not None
            found, node = node.key_position(step), data[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            node = data[step]
            found = node.position
        else:
            break
    return found


# --- reading -------------------------------------------------------------------------------------------


def read(
    root: tree.Node, active: Collection[str], name: str, directory: str, report: tree.Report
) -> Stack:
    """The typed Stack of a tree in normal form, without mistakes; `active` are the services that take part.

    The report gets what Incus cannot carry out; what only inactive services say is not told.
    """
    services: dict[str, Service] = {}
    inactive: dict[str, Service] = {}
    for key, node in tree.entries(root.child("services"), "services", report).items():
        if key in active:
            services[key] = _service(key, node, report)
        else:
            inactive[key] = _service(key, node, tree.Report())
    networks = {key: _network(key, node, name, report) for key, node in _named(root, "networks")}
    volumes = {key: _volume(key, node, name, report) for key, node in _named(root, "volumes")}
    return Stack(
        name=name,
        working_dir=directory,
        services=services,
        inactive=inactive,
        networks=networks,
        volumes=volumes,
        switches=switches.normalize_stack(root, report),
        tree=root,
        extensions=tree.extensions(root),
    )


def _named(root: tree.Node, top: str) -> list[tuple[str, tree.Node]]:
    node = root.child(top)
    return list(node.data.items()) if node is not None and isinstance(node.data, dict) else []


def _service(name: str, node: tree.Node, report: tree.Report) -> Service:
    where = f"services.{name}"
    return Service(
        name=name,
        image=image.normalize(node, where, report),
        process=process.normalize(node, where, report),
        networking=networking.normalize(node, where, report),
        storage=storage.normalize(node, where, report),
        lifecycle=lifecycle.normalize(node, where, report),
        placement=placement.normalize(node, where, report),
        switches=switches.normalize(node, where, report),
        extensions=tree.extensions(node),
    )


def tell_pending(root: tree.Node, active: Collection[str], report: tree.Report) -> None:
    """Report every key of a tree that has no effect on Incus yet; none is dropped in silence.

    One that is written at docker's own default asks for nothing, and passes. The tree may have
    mistakes. What only inactive services say is not told.
    """
    for name, node in _named(root, "services"):
        if name in active:
            _tell_pending(node, SERVICE, f"services.{name}", report)
    for top, key in (("networks", NETWORK), ("volumes", VOLUME)):
        for name, node in _named(root, top):
            if node.child(switches.KEY) is not None:
                tree.unsupported(
                    f"{top}.{name}.{switches.KEY}", node.key_position(switches.KEY), report
                )
            _tell_pending(node, key, f"{top}.{name}", report)
    for top, key in (STACK.keys or {}).items():
        node = root.child(top)
        if key.pending and node is not None and not key.asks_nothing(node):
            tree.unsupported(top, root.key_position(top), report)


def _tell_pending(node: tree.Node, key: schema.Key, where: str, report: tree.Report) -> None:
    data = node.data
    if isinstance(data, dict):
        for name, one in data.items():
            below = key.below(name)
            if below is None or "pending" not in below.stages:
                continue
            if below.pending and below.asks_nothing(one):
                continue
            if below.pending:
                tree.unsupported(f"{where}.{name}", node.key_position(name), report)
            else:
                _tell_pending(one, below, f"{where}.{name}", report)
    elif isinstance(data, list) and key.item is not None and "pending" in key.item.stages:
        for index, one in enumerate(data):
            _tell_pending(one, key.item, f"{where}[{index}]", report)


def _network(key: str, node: tree.Node, stack: str, report: tree.Report) -> Network:
    where = f"networks.{key}"
    external = tree.boolean(node.child("external"), f"{where}.external", report)
    driver_node = node.child("driver")
    driver = tree.text(driver_node, f"{where}.driver", report) or ""
    if driver_node is not None and driver not in ("", "bridge"):
        tree.unsupported(f"{where}.driver: {driver!r}", driver_node.position, report)
    ipam_driver, subnet, gateway = _ipam(node.child("ipam"), f"{where}.ipam", report)
    if external and isinstance(node.data, dict):
        others = sorted(node.data.keys() & NETWORK_KEYS - {"external", "name"})
        if others:  # docker compose lets it pass
            report.warn(
                "W_EXTERNAL",
                f"{where} is external, so {', '.join(others)} has no effect",
                node.key_position(others[0]),
            )
    return Network(
        key=key,
        name=_given_name(node, key, stack, external=external),
        external=external,
        driver=driver,
        ipam_driver=ipam_driver,
        internal=tree.boolean(node.child("internal"), f"{where}.internal", report),
        subnet=subnet,
        gateway=gateway,
        labels=tree.labels(node.child("labels"), f"{where}.labels", report),
        extensions=tree.extensions(node),
    )


def _given_name(node: tree.Node, key: str, stack: str, *, external: bool) -> str | None:
    """The name that the file gives; None for the one that normal form implies."""
    given = node.child("name")
    name = given.data if given is not None and isinstance(given.data, str) else ""
    return None if name in ("", key if external else f"{stack}_{key}") else name


NETWORK_KEYS = frozenset(NETWORK.keys or ())


def _ipam(
    node: tree.Node | None, where: str, report: tree.Report
) -> tuple[str, str | None, str | None]:
    if node is None:
        return "", None, None
    driver_node = node.child("driver")
    driver = tree.text(driver_node, f"{where}.driver", report) or ""
    if driver_node is not None and driver not in ("", "default"):
        tree.unsupported(f"{where}.driver: {driver!r}", driver_node.position, report)
    pools = tree.items(node.child("config"), f"{where}.config", report)
    if len(pools) > 1:
        tree.unsupported(f"{where}.config: a second subnet", pools[1].position, report)
    for one in pools:
        subnet = tree.text(one.child("subnet"), f"{where}.config.subnet", report)
        gateway = tree.text(one.child("gateway"), f"{where}.config.gateway", report)
        _check_pool(subnet or "", gateway, one, where, report)
        return driver, subnet or None, gateway or None
    return driver, None, None


def _check_pool(
    subnet: str, gateway: str | None, one: tree.Node, where: str, report: tree.Report
) -> None:
    subnet_node = one.child("subnet") or one
    if not subnet:
        if gateway:
            report.error(tree.VALUE, f"{where}: a gateway needs its subnet", one.position)
        return
    if ":" in subnet:
        tree.unsupported(f"{where}: the IPv6 subnet {subnet}", subnet_node.position, report)
        return
    try:
        first, prefix = units.ipv4_network(subnet)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", subnet_node.position)
        return
    if prefix > 30:
        report.error(
            tree.VALUE, f"{where}: {subnet} has no room for a service", subnet_node.position
        )
    gateway_node = one.child("gateway")
    if not gateway or gateway_node is None:
        return
    number = units.ipv4(gateway)
    if number is None or number >> (32 - prefix) != first >> (32 - prefix):
        report.error(
            tree.VALUE,
            f"{where}: the gateway {gateway!r} is not an address of {subnet}",
            gateway_node.position,
        )


def _volume(key: str, node: tree.Node, stack: str, report: tree.Report) -> Volume:
    where = f"volumes.{key}"
    external = tree.boolean(node.child("external"), f"{where}.external", report)
    driver_node = node.child("driver")
    driver = tree.text(driver_node, f"{where}.driver", report) or ""
    if driver_node is not None and driver not in ("", "local"):
        tree.unsupported(f"{where}.driver: {driver!r}", driver_node.position, report)
    return Volume(
        key=key,
        name=_given_name(node, key, stack, external=external),
        external=external,
        driver=driver,
        labels=tree.labels(node.child("labels"), f"{where}.labels", report),
        extensions=tree.extensions(node),
    )
