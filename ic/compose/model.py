"""Stack and Service: a name plus its sections. This list of sections is the registry of compose keys.

Pure values. Everything is normalised: long forms, absolute paths, durations in milliseconds.
"""

from __future__ import annotations

import msgspec

from ic import errors
from ic.fields import image, lifecycle, limits, networking, placement, process, storage, tree

SECTIONS = (image, process, networking, storage, lifecycle, placement, limits)
SERVICE_KEYS: frozenset[str] = frozenset(key for one in SECTIONS for key in one.KEYS)
SERVICE_PENDING: frozenset[str] = frozenset(key for one in SECTIONS for key in one.PENDING)
SERVICE_KNOWN = SERVICE_KEYS | SERVICE_PENDING

TOP_KEYS = frozenset({"version", "name", "include", "services", "networks", "volumes"})
TOP_PENDING = frozenset({"configs", "models", "secrets"})
NETWORK_KEYS = frozenset({"name", "external", "driver", "labels", "ipam", "internal"})
NETWORK_PENDING = frozenset({"attachable", "driver_opts", "enable_ipv4", "enable_ipv6"})
VOLUME_KEYS = frozenset({"name", "external", "driver", "labels"})
VOLUME_PENDING = frozenset({"driver_opts"})


def merge_rules() -> tree.Rules:
    """The merge rules of all keys by path, `*` standing for any name."""
    rules: tree.Rules = {
        ("networks", "*", "labels"): tree.PAIRS,
        ("volumes", "*", "labels"): tree.PAIRS,
    }
    for one in SECTIONS:
        for key, rule in one.KEYS.items():
            if rule is not None:
                rules["services", "*", key] = rule
        for path, rule in one.BELOW.items():
            rules[("services", "*", *path)] = rule
    for path, rule in tuple(rules.items()):
        if rule is tree.PAIRS:
            rules[(*path, "*")] = tree.REPLACE  # a later null takes the value away
    return rules


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One service: its name and its sections; each section's attributes are the compose keys."""

    name: str
    image: image.Image
    process: process.Process
    networking: networking.Networking
    storage: storage.Storage
    lifecycle: lifecycle.Lifecycle
    placement: placement.Placement
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


Where = tuple[str | int, ...]


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The compose application as understood: all that is selected, and the names of what is not.

    `services` are those of active profiles; `inactive` names services of inactive profiles (neither changed
    nor removed). `positions` maps a path in the merged document (`("services", "web", "ports", 0)`)
    to where it was written. `files` are the files read, in order, with their content's SHA-256.
    """

    name: str
    working_dir: str
    services: dict[str, Service]
    networks: dict[str, Network] = {}
    volumes: dict[str, Volume] = {}
    inactive: dict[str, Service] = {}
    files: tuple[tuple[str, str], ...] = ()
    positions: dict[Where, errors.Position] = {}
    extensions: dict[str, object] = {}
    diagnostics: tuple[errors.Diagnostic, ...] = ()

    def where(self, *path: str | int) -> errors.Position | None:
        """The position of a path, or of the nearest parent that has one."""
        for end in range(len(path), 0, -1):
            found = self.positions.get(path[:end])
            if found is not None:
                return found
        return None
