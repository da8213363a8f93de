"""Where a service keeps data: `volumes` in all their forms. Compose Specification, Services. Pure."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from ic import names, units
from ic.fields import section as contribution
from ic.fields import tree

if TYPE_CHECKING:
    from ic.resources import image as image_kind
    from ic.resources import kind


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount in long form.

    A `volume` with an empty source is anonymous. `size` and `mode` belong to tmpfs (bytes, permission
    bits); a tmpfs has `short` when it came from the key `tmpfs`: the entry as written. `create_host_path`
    is true for short-form binds, as docker creates a missing directory there. `detailed` tells whether the
    mapping of its type is given (the short form gives it), for `ic config`.
    """

    type: Literal["volume", "bind", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    nocopy: bool = False
    create_host_path: bool = False
    size: int | None = None
    mode: int | None = None
    selinux: str = ""
    consistency: str = ""
    detailed: bool = False
    short: str = ""


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The storage section."""

    volumes: tuple[Mount, ...] = ()


# --- reading half ---------------------------------------------------------------------------------------
KEYS: dict[str, tree.Rule | None] = {"volumes": None, "tmpfs": tree.LIST}
BELOW: tree.Rules = {}
PENDING = frozenset({"configs", "secrets", "storage_opt", "volumes_from"})

_TYPES = ("volume", "bind", "tmpfs")
_PENDING_TYPES = ("cluster", "image", "npipe")
_MOUNT_KEYS = ("type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs")
_PROPAGATIONS = frozenset({"private", "rprivate", "rshared", "rslave", "shared", "slave"})
_DRIVE = re.compile(r"(?:(?<=:)|(?<![^:]))([A-Za-z]):(?=[\\/])")


def normalize(
    service: tree.Node, where: str, report: tree.Report, *, root: str = "/", home: str = ""
) -> Storage:
    """Read the section from a service's merged mapping.

    `root` is the directory that relative sources of binds stand in, `home` what `~` means.
    """
    mounts = read_mounts(service, where, report)
    seen: dict[str, tree.Node] = {}
    for mount, node in mounts:
        first = seen.setdefault(mount.target, node)
        if first is not node:
            report.error(
                tree.CONFLICT,
                f"{where}: {mount.target} is mounted twice; first at {first.position}",
                node.position,
            )
    rooted: list[Mount] = []
    for mount, node in mounts:
        source = mount.source
        if mount.type == "bind" and source.startswith("~"):
            source = tree.at_home(source, home, node, f"{where}.volumes", report)
        rooted.append(_rooted(msgspec.structs.replace(mount, source=source), root))
    return Storage(volumes=tuple(rooted))


def _rooted(mount: Mount, root: str) -> Mount:
    if mount.type != "bind":
        return mount
    source = mount.source
    if not source.startswith("/") and not _DRIVE.match(source):
        source = posixpath.normpath(posixpath.join(root, source))
    return msgspec.structs.replace(mount, source=source)


def read_mounts(
    service: tree.Node, where: str, report: tree.Report
) -> list[tuple[Mount, tree.Node]]:
    """The mounts of a service, `volumes` before `tmpfs`, each with the node it was written in.

    A target given twice in `volumes` counts once, the later one (as when files are merged).
    """
    found: dict[str, tuple[Mount, tree.Node]] = {}
    label = f"{where}.volumes"
    for index, node in enumerate(tree.items(service.child("volumes"), label, report)):
        mount = _mount(node, f"{label}[{index}]", report)
        if mount is not None:
            found[mount.target] = (mount, node)
    mounts = list(found.values())
    tmpfs = service.child("tmpfs")
    listed = tree.items(tree.as_list(tmpfs) if tmpfs else None, f"{where}.tmpfs", report)
    given: dict[str, tuple[Mount, tree.Node]] = {}
    for index, node in enumerate(listed):
        mount = _tmpfs_entry(node, f"{where}.tmpfs[{index}]", report)
        if mount is not None:
            # docker compose tells entries apart by what stands before the first '='.
            given[mount.short.partition("=")[0]] = (mount, node)
    return mounts + list(given.values())


def _mount(node: tree.Node, where: str, report: tree.Report) -> Mount | None:
    if isinstance(node.data, dict):
        return _long_mount(node, where, report)
    spec = tree.text(node, where, report)
    if spec is None:
        return None
    try:
        return parse_mount(spec)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
    except NotImplementedError as pending:
        tree.unsupported(f"{where}: {pending}", node.position, report)
    return None


def parse_mount(spec: str) -> Mount:
    """The short form `[SOURCE:]TARGET[:OPTION,...]`; a drive letter belongs to its path.

    Raises ValueError, and NotImplementedError (with what it is) for options without a mapping yet.
    """
    parts = [part.replace("\0", ":") for part in _DRIVE.sub("\\1\0", spec).split(":")]
    if "" in parts:
        raise ValueError(f"{spec!r} has an empty part" if spec else "the volume is empty")
    if len(parts) > 3:
        raise ValueError(f"{spec!r} has too many colons")
    if len(parts) == 1:
        return Mount(type="volume", target=_target(parts[0]), detailed=len(spec) > 2)
    source, target = parts[0], _target(parts[1])
    read_only = nocopy = False
    selinux = ""
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            read_only = option == "ro"
        elif option == "nocopy":
            nocopy = True
        elif option in ("z", "Z"):
            selinux = option
        elif option in _PROPAGATIONS:
            raise NotImplementedError(f"the option {option!r}")
        # docker compose ignores any other option here, and so do files that rely on it (`cached`).
    if source[0] in "./~" or _DRIVE.match(source) or source.startswith("\\\\"):
        return Mount(
            type="bind",
            source=source,
            target=target,
            read_only=read_only,
            selinux=selinux,
            create_host_path=True,
            detailed=True,
        )
    return Mount(
        type="volume",
        detailed=True,
        source=source,
        target=target,
        read_only=read_only,
        nocopy=nocopy,
        selinux=selinux,
    )


def _target(text: str) -> str:
    path = posixpath.normpath(text)
    return "/" + path.lstrip("/") if path.startswith("/") else path


def _long_mount(node: tree.Node, where: str, report: tree.Report) -> Mount | None:
    tree.check_keys(node, where, report, _MOUNT_KEYS, ("image",))
    type_ = tree.word(node.child("type"), f"{where}.type", report, _TYPES, _PENDING_TYPES)
    if type_ is None:
        if node.child("type") is None:
            report.error(tree.VALUE, f"{where} has no type", node.position, "add type: volume")
        return None
    source = tree.text(node.child("source"), f"{where}.source", report) or ""
    given = tree.text(node.child("target"), f"{where}.target", report)
    if not given:
        report.error(tree.VALUE, f"{where} has no target", node.position)
        return None
    try:
        target = _target(given)
        if type_ == "bind" and not source:
            raise ValueError("a bind needs a source")
        if type_ == "tmpfs" and source:
            raise ValueError("a tmpfs has no source")
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None
    bind, volume, tmpfs = node.child("bind"), node.child("volume"), node.child("tmpfs")
    for name, one, known, pending in (
        ("bind", bind, ("create_host_path", "selinux"), ("propagation", "recursive")),
        ("volume", volume, ("nocopy",), ("labels", "subpath")),
        ("tmpfs", tmpfs, ("size", "mode"), ()),
    ):
        tree.entries(one, f"{where}.{name}", report)
        tree.check_keys(one, f"{where}.{name}", report, known, pending)
    own = {"bind": bind, "volume": volume, "tmpfs": tmpfs}[type_]
    none = tree.Node(None, node.position)
    bind, volume, tmpfs = bind or none, volume or none, tmpfs or none
    return Mount(
        type=cast("Literal['volume', 'bind', 'tmpfs']", type_),
        target=target,
        source=source,
        read_only=tree.boolean(node.child("read_only"), f"{where}.read_only", report),
        nocopy=tree.boolean(volume.child("nocopy"), f"{where}.volume.nocopy", report),
        create_host_path=tree.boolean(
            bind.child("create_host_path"), f"{where}.bind.create_host_path", report
        ),
        selinux=tree.word(bind.child("selinux"), f"{where}.bind.selinux", report, ("z", "Z")) or "",
        size=_size(tmpfs.child("size"), f"{where}.tmpfs.size", report),
        mode=_mode(tmpfs.child("mode"), f"{where}.tmpfs.mode", report),
        consistency=tree.text(node.child("consistency"), f"{where}.consistency", report) or "",
        detailed=own is not None,
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
    if isinstance(data, str) and _OCTAL.fullmatch(data):
        return int(data, 8)
    value = tree.integer(node, where, report)
    if value is not None and not 0 <= value <= 0o7777:
        report.error(tree.VALUE, f"{where}: {value} is not a file mode", node.position)
        return None
    return value


_OCTAL = re.compile(r"0?[0-7]{1,4}")


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
                if not _OCTAL.fullmatch(value):
                    raise ValueError(f"{value!r} is not a file mode")
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
    return Mount(type="tmpfs", target=target, read_only=read_only, size=size, mode=mode, short=spec)


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
