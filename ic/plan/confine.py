"""What a restricted Incus project refuses, how ic does without it, and what such a project has to allow.

Pure. `restricted=true` takes from everybody who may work in a project what would make them root on its host:
low-level keys, host paths, devices that reach out. A stack in strict isolation is written so that it needs
none of that; what cannot be is refused here, with the reason. Sources: Incus's documentation of projects,
"Project restrictions"; measured where that is silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import names
from ic.resources import kind, project

if TYPE_CHECKING:
    from collections.abc import Iterable

NETWORKS = "restricted.networks.access"
DISKS = "restricted.devices.disk"
PATHS = "restricted.devices.disk.paths"
_RECIPE = (
    "lxc.execute.cmd",
    "lxc.init.cmd",
    "lxc.log.level",
)  # Incus's own way of starting does too
_WHY = {
    "lxc.uts.name": "hostname: is set by a low-level key",
    "lxc.environment": "an empty environment variable is set by a low-level key",
}


class Confined(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's fields without what a restricted project refuses.

    `refused` are reasons why that cannot be, `lost` what is different for it.
    """

    fields: kind.Fields
    refused: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def confined(fields: kind.Fields, rules: dict[str, str], *, strict: bool) -> Confined:
    """The same instance for a restricted project; `rules` are an administrator's, `strict` is ic's own form.

    The stop signal and the grace period move into keys of ic's own: ic gives the signal itself. What
    devices an administrator allows is that one's matter.
    """
    found = dict(fields)
    refused: list[str] = []
    lost: list[str] = []
    for line in found.pop(("config", "raw.lxc"), "").split("\n"):
        key, _, value = line.partition("=")
        if key == "lxc.signal.halt":
            found["config", names.SIGNAL] = value
        elif key and key not in _RECIPE:
            refused.append(_WHY.get(key, f"{key} is a low-level key"))
    grace = found.pop(("config", "boot.host_shutdown_timeout"), None)
    if grace is not None:
        found["config", names.GRACE] = grace
    bodies: dict[str, dict[str, str]] = {}
    for path, value in fields.items():
        if path[0] == "devices":
            bodies.setdefault(path[1], {})[path[2]] = value
    for device, body in sorted(bodies.items()):
        if strict and body.get("type") == "proxy":
            refused.append(
                f"ports: {body.get('listen', '')} needs a proxy device, and who may make those may "
                "connect one to the server's own socket"
            )
        elif strict and body.get("source", "").startswith("tmpfs:"):
            refused.append(f"tmpfs at {body.get('path', '')} is a disk without a path or a pool")
        elif body.get("shift") == "true" and (strict or rules.get(PATHS)):
            del found["devices", device, "shift"]
            lost.append(f"the owners of {body.get('source', '')} are not shifted")
    return Confined(fields=found, refused=tuple(refused), lost=tuple(lost))


def allowances(every: Iterable[kind.Resource]) -> dict[str, str]:
    """The `restricted.*` keys of a project for these resources: what they need and no more, never a proxy."""
    networks: set[str] = set()
    paths: set[str] = set()
    for resource in every:
        for path, value in resource.fields.items():
            if path[0] != "devices":
                continue
            if path[2:] == ("network",):
                networks.add(value)
            pooled = (*path[:2], "pool") in resource.fields
            if path[2:] == ("source",) and not pooled and value.startswith("/"):
                paths.add(value)
    found = {"restricted": "true", NETWORKS: ",".join(sorted(networks))}
    if paths:
        found |= {DISKS: "allow", PATHS: ",".join(sorted(paths))}
    return {key: value for key, value in found.items() if value}


class Tightening(msgspec.Struct, frozen=True, kw_only=True):
    """How a project's restrictions change around the change of its instances: wider before, narrow after."""

    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}


def tightening(now: dict[str, str], wanted: dict[str, str]) -> Tightening:
    """The writes that lead from one set of restrictions to another; None unsets a key.

    The server takes no restriction that an instance breaks, and no instance that breaks a restriction: so
    what is allowed by either is allowed in between. A project that is not restricted allows everything.
    """
    if now == wanted:
        return Tightening()
    if now.get("restricted") != "true" or wanted.get("restricted") != "true":
        writes: dict[str, str | None] = dict.fromkeys(now)
        writes |= wanted
        loosens = wanted.get("restricted") != "true"
        return Tightening(before=writes) if loosens else Tightening(after=writes)
    between = dict(wanted)
    for key in (NETWORKS, PATHS):
        both = {*now.get(key, "").split(","), *wanted.get(key, "").split(",")} - {""}
        if both:
            between[key] = ",".join(sorted(both))
    if between.get(PATHS):
        between[DISKS] = "allow"
    return Tightening(before=_writes(now, between), after=_writes(between, wanted))


def _writes(now: dict[str, str], wanted: dict[str, str]) -> dict[str, str | None]:
    keys = sorted({*now, *wanted})
    return {key: wanted.get(key) for key in keys if now.get(key) != wanted.get(key)}


def write(name: str, verb: str, writes: dict[str, str | None], needs: tuple[str, ...]) -> kind.Step:
    """One write of a project's restrictions."""
    return project.update(
        name,
        verb=verb,
        set_={("config", key): value for key, value in writes.items() if value is not None},
        unset=tuple(("config", key) for key, value in writes.items() if value is None),
        needs=needs,
    )
