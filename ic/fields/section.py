"""What every section's mapping half takes and gives: a context of planned values, and a contribution.

Pure. A section maps its keys to fragments of one instance; `plan.desired` merges the fragments of all
sections and refuses two sections that write one key. What several sections must agree on (addresses,
host ports, volume names, the image's config) is planned before and stands in the context.
"""

from __future__ import annotations

import msgspec

from ic import errors
from ic.resources import image, kind


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """One planned network card. `network` is the compose key, `bridge` the Incus name.

    Without an address (an external bridge, where ic plans none) the bridge's DHCP gives one. The primary
    card brings the default route and the name server; on an internal network no card is that.
    """

    network: str
    bridge: str
    address: str | None = None
    prefix: int = 24
    gateway: str = ""
    primary: bool = False


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One volume mounted by one instance: the volume's address, the device and the target."""

    address: str
    device: str
    target: str
    nocopy: bool = False


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that a mount names: its Incus name and pool."""

    name: str
    pool: str
    external: bool = False


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a section may know beside its own keys.

    `listens` are the planned host ports, one per entry of `ports`. `volumes` maps the key of a top-level
    volume, or the name of an anonymous one, to its Incus name and pool.
    """

    service: str
    replica: int
    image: image.ImageConfig
    image_mark: str  # REF@DIGEST
    nics: tuple[Nic, ...] = ()
    listens: tuple[int, ...] = ()
    volumes: dict[str, Named] = {}


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """Fragments of one instance.

    `lxc` are lines of raw.lxc (several sections share that one Incus key, none an LXC key).
    `uses` are the managed volumes mounted, `directories` bind sources to make on this host first,
    `resolve` a user that only the image's passwd knows.
    """

    fields: kind.Fields = {}
    lxc: tuple[tuple[str, str], ...] = ()
    uses: tuple[Use, ...] = ()
    directories: tuple[str, ...] = ()
    resolve: str = ""
    diagnostics: tuple[errors.Diagnostic, ...] = ()


def merged(parts: tuple[Contribution, ...]) -> kind.Fields:
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
