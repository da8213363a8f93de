"""Where a service keeps data: `volumes` in all their forms. Compose Specification, Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.resources import image as image_kind
from ic.resources import kind


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount in long form.

    A `volume` with an empty source is anonymous. `size` and `mode` belong to tmpfs (bytes, permission
    bits). `create_host_path` is true for short-form binds, as docker creates a missing directory there.
    """

    type: Literal["volume", "bind", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    nocopy: bool = False
    create_host_path: bool = False
    size: int | None = None
    mode: int | None = None


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The storage section."""

    volumes: tuple[Mount, ...] = ()


# --- mapping half ---------------------------------------------------------------------------------------


def mounts(section: Storage, image: image_kind.ImageConfig) -> tuple[Mount, ...]:
    """All mounts of a service: those of the file, then the image's VOLUMEs that none of them covers."""
    covered = {_plain(mount.target) for mount in section.volumes}
    implied = sorted({_plain(path) for path in image.volumes} - covered)
    return (*section.volumes, *(Mount(type="volume", target=target) for target in implied))


def _plain(target: str) -> str:
    return "/" + target.strip("/")


def contribute(section: Storage, ctx: contribution.Context) -> contribution.Contribution:
    """A disk device per mount, named after its target, so that two mounts of one volume both work.

    Volumes are shifted on the volume itself; binds are shifted here, or the files would belong to nobody.
    """
    fields: kind.Fields = {}
    uses: list[contribution.Use] = []
    directories: list[str] = []
    for mount in mounts(section, ctx.image):
        target = _plain(mount.target)
        device = names.device("vol" if mount.type == "volume" else mount.type, target)
        body = {"type": "disk", "path": target}
        if mount.type == "volume":
            named = _volume(mount.source, target, ctx)
            body |= {"pool": named.pool, "source": named.name}
            if not named.external:
                uses.append(
                    contribution.Use(
                        address=names.address("volume", mount.source or named.name),
                        device=device,
                        target=target,
                        nocopy=mount.nocopy,
                    )
                )
        elif mount.type == "bind":
            body |= {"source": mount.source, "shift": "true"}
            if mount.create_host_path:
                directories.append(mount.source)
        else:
            body |= {"source": "tmpfs:", "initial.mode": f"{mount.mode or TMPFS_MODE:o}"}
            if mount.size:
                body["size"] = str(mount.size)
        if mount.read_only:
            body["readonly"] = "true"
        for key, value in body.items():
            fields["devices", device, key] = value
    return contribution.Contribution(
        fields=fields, uses=tuple(uses), directories=tuple(directories)
    )


TMPFS_MODE = 0o1777  # docker's


def _volume(source: str, target: str, ctx: contribution.Context) -> contribution.Named:
    if source:
        return ctx.volumes[source]
    name = names.anonymous_volume(ctx.service, ctx.replica, target)
    return contribution.Named(
        name=name, pool=ctx.volumes[name].pool if name in ctx.volumes else ctx.pool
    )
