"""Where a service keeps data: `volumes` in all their forms. Compose Specification, Services. Pure."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import names, units
from ic.fields import foreign, forms, merging, schema, tree, values
from ic.fields import section as contribution

if TYPE_CHECKING:
    from ic import errors
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


# --- reading half ---------------------------------------------------------------------------------------


def _long_volume(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    if not isinstance(node.data, str):
        return node
    try:
        return parse_mount(node.data, node.position)
    except ValueError as problem:
        if not report.lenient:
            report.error(tree.VALUE, f"{where}: {problem}", node.position)
            report.faulty.add(node.position)
    return node


def _target_of(node: tree.Node) -> str | None:
    if isinstance(node.data, str):
        try:
            node = parse_mount(node.data, node.position)
        except ValueError:
            return None  # reported where the short form becomes the long one
    target = node.child("target")
    return target.data if target is not None and isinstance(target.data, str) else None


def _grant_target(default: str) -> schema.Index:
    """What tells grants apart: the target, or the default place of the source."""

    def index(node: tree.Node) -> str | None:
        target, source = node.child("target"), node.child("source")
        if target is not None and isinstance(target.data, str):
            return target.data
        name = source.data if source is not None else node.data
        return f"{default}/{name}" if isinstance(name, str) else None

    return index


def _secret_target(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    source = node.child("source")
    name = source.data if source is not None else ""
    return forms.having(node, target=f"/run/secrets/{name}")


GRANT = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={
        "source": schema.text(),
        "target": schema.text(),
        "uid": schema.text(),
        "gid": schema.text(),
        "mode": schema.Key(schema.NUMBER | schema.TEXT, fault=values.mode),
    },
    long=forms.grant,
)
_VOLUME = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={
        "type": schema.word("bind", "volume", "tmpfs", "cluster", "npipe", "image"),
        "source": schema.text(),
        "target": schema.text(),
        "read_only": schema.flag(),
        "consistency": schema.text(),
        "bind": schema.mapping(
            {
                "propagation": schema.text(pending=True, usual=("rprivate",)),
                "create_host_path": schema.late_flag(),
                "recursive": schema.word(
                    "enabled", "disabled", "writable", "readonly", pending=True
                ),
                "selinux": schema.word("z", "Z"),
            }
        ),
        "volume": schema.mapping(
            {
                "labels": schema.pairs(merge=merging.sequences, pending=True),
                "nocopy": schema.flag(),
                "subpath": schema.text(pending=True),
            }
        ),
        "tmpfs": schema.mapping(
            {
                "size": schema.Key(schema.WHOLE | schema.TEXT, low=0, fault=values.size),
                "mode": schema.Key(
                    schema.NUMBER | schema.TEXT,
                    fault=lambda node: values.whole(node) or values.up_to(2**32 - 1)(node),
                ),
            }
        ),
        "image": schema.mapping({"subpath": schema.text()}, pending=True),
        **foreign.MOUNT,
    },
    required=("type", "target"),
    long=_long_volume,
)
SCHEMA: dict[str, schema.Key] = {
    "configs": schema.listing(GRANT, index=_grant_target(""), pending=True),
    "secrets": schema.listing(
        GRANT.but(fill=_secret_target), index=_grant_target("/run/secrets"), pending=True
    ),
    "storage_opt": schema.Key(
        schema.MAPPING,
        names=schema.Key(fault=values.option),
        extensions=False,
        loose=True,
        pending=True,
    ),
    "tmpfs": schema.Key(
        schema.TEXT | schema.LIST,
        item=schema.text(),
        distinct=True,
        merge=merging.sequences,
        index=merging.by_name,
    ),
    "volumes": schema.listing(_VOLUME, distinct=True, index=_target_of),
    "volumes_from": schema.texts(pending=True),
}

_PROPAGATIONS = frozenset({"private", "rprivate", "rshared", "rslave", "shared", "slave"})


def normalize(service: tree.Node, where: str, report: tree.Report) -> Storage:
    """Read the section from a service's long form; paths on this host are absolute already."""
    found: list[Mount] = []
    label = f"{where}.volumes"
    for index, node in enumerate(tree.items(service.child("volumes"), label, report)):
        mount = _mount(node, f"{label}[{index}]", report)
        if mount is not None:
            found.append(mount)
    tmpfs = service.child("tmpfs")
    listed = tree.items(tree.as_list(tmpfs) if tmpfs else None, f"{where}.tmpfs", report)
    for index, node in enumerate(listed):
        mount = _tmpfs_entry(node, f"{where}.tmpfs[{index}]", report)
        if mount is not None:
            found.append(mount)
    return Storage(volumes=tuple(found))


def parse_mount(spec: str, position: errors.Position) -> tree.Node:
    """The short form `[SOURCE:]TARGET[:OPTION,...]` as the long one; a drive letter belongs to its path.

    Raises ValueError. Options that docker compose does not know it ignores, and so do files that rely on it
    (`cached`).
    """
    if not spec:
        raise ValueError("the volume is empty")
    if len(spec) < 3:
        return forms.made(position, type="volume", target=_target(spec))
    parts = [part.replace("\0", ":") for part in _split(spec)]
    if "" in parts:
        raise ValueError(f"{spec!r} has an empty section between colons")
    if len(parts) > 3:
        raise ValueError(f"{spec!r} has too many colons")
    source = parts[0] if len(parts) > 1 else ""
    on_host = bool(source) and (
        source[0] in "./~" or source.startswith("\\\\") or bool(re.match(_DRIVE_PATH, source))
    )
    options = parts[2].split(",") if len(parts) == 3 else []
    access = [one for one in options if one in ("ro", "rw")]
    data = {
        "type": forms.scalar("bind" if on_host else "volume", position),
        "target": forms.scalar(_target(parts[1] if source else parts[0]), position),
    }
    if source:
        data["source"] = forms.scalar(source, position)
    if access and access[-1] == "ro":
        yes: tree.Scalar = True
        data["read_only"] = forms.scalar(yes, position)
    bind = _bind_options(options) | ({"create_host_path": True} if on_host else {})
    if bind:
        data["bind"] = forms.made(position, **bind)
    if "nocopy" in options:
        data["volume"] = forms.made(position, nocopy=True)
    elif not on_host:
        data["volume"] = forms.made(position)
    return tree.Node(data, position)


def _bind_options(options: list[str]) -> dict[str, tree.Scalar]:
    found: dict[str, tree.Scalar] = {}
    for one in options:
        if one in ("z", "Z"):
            found["selinux"] = one
        elif one in _PROPAGATIONS:
            found["propagation"] = one
    return found


def _split(spec: str) -> list[str]:
    """The parts between colons, those of drive letters and of variables kept as NUL."""
    parts: list[str] = []
    part = ""
    depth = 0
    for index, character in enumerate(spec):
        if character == "$" and spec[index + 1 : index + 2] == "{":
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif character == ":" and len(part) == 1 and part.isalpha():
            part += "\0"
            continue
        elif character == ":" and not depth:
            parts.append(part)
            part = ""
            continue
        part += character
    return [*parts, part]


_DRIVE_PATH = r"[^\W\d_]:"


def _target(text: str) -> str:
    path = posixpath.normpath(text)
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _mount(node: tree.Node, where: str, report: tree.Report) -> Mount | None:
    type_ = tree.text(node.child("type"), f"{where}.type", report)
    target = tree.text(node.child("target"), f"{where}.target", report)
    if type_ not in ("volume", "bind", "tmpfs"):
        tree.unsupported(f"{where}.type: {type_!r}", node.position, report)
        return None
    if not target:
        report.error(tree.VALUE, f"{where} has no target", node.position)
        return None
    none = tree.Node(None, node.position)
    bind, volume, tmpfs = (node.child(name) or none for name in ("bind", "volume", "tmpfs"))
    return Mount(
        type=type_,
        target=target,
        source=tree.text(node.child("source"), f"{where}.source", report) or "",
        read_only=tree.boolean(node.child("read_only"), f"{where}.read_only", report),
        nocopy=tree.boolean(volume.child("nocopy"), f"{where}.volume.nocopy", report),
        create_host_path=tree.boolean(
            bind.child("create_host_path"), f"{where}.bind.create_host_path", report
        ),
        size=_size(tmpfs.child("size"), f"{where}.tmpfs.size", report),
        mode=_mode(tmpfs.child("mode"), f"{where}.tmpfs.mode", report),
    )


def _size(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
    if node is None:
        return None
    if not isinstance(node.data, (int, str)) or isinstance(node.data, bool):
        tree.wrong_type(node, where, report, "a size like 64m")
        return None
    value = str(node.data)
    try:
        return units.size_bytes(value)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None


def _mode(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
    if node is None:
        return None
    data = node.data
    if isinstance(data, str) and re.fullmatch(_OCTAL, data):
        return int(data, 8)
    value = tree.integer(node, where, report)
    if value is not None and not 0 <= value <= 0o7777:
        report.error(tree.VALUE, f"{where}: invalid file mode {value}", node.position)
        return None
    return value


_OCTAL = r"0?[0-7]{1,4}"


def _tmpfs_entry(node: tree.Node, where: str, report: tree.Report) -> Mount | None:
    spec = tree.text(node, where, report)
    if not spec:
        if spec is not None:
            report.error(tree.VALUE, f"{where} is empty; it must be a path", node.position)
        return None
    path, _, options = spec.partition(":")
    size: int | None = None
    mode: int | None = None
    read_only = False
    try:
        target = _target(path)
        for option in filter(None, options.split(",")):
            name, _, value = option.partition("=")
            if name == "size":
                size = None if value == "0" else units.size_bytes(value)
            elif name == "mode":
                if not re.fullmatch(_OCTAL, value):
                    raise ValueError(f"invalid file mode {value!r}")
                mode = int(value, 8)
            elif name in ("ro", "rw"):
                read_only = name == "ro"
            elif option in _TMPFS_DEFAULTS:
                continue
            else:
                raise NotImplementedError(f"the option {option!r}")
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None
    except NotImplementedError as pending:
        tree.unsupported(f"{where}: {pending}", node.position, report)
        return None
    return Mount(type="tmpfs", target=target, read_only=read_only, size=size, mode=mode)


_TMPFS_DEFAULTS = frozenset({"noexec", "nosuid", "nodev", "exec", "suid", "dev"})


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
    return ctx.volumes[source or names.anonymous_volume(ctx.service, ctx.replica, target)]
