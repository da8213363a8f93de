"""A replica as an instance: what is live, what waits for a restart, what needs another instance; its steps.

Pure. Sources of the impacts: measured (Incus accepts every key on a running instance without a hint and
lets some wait for the next start), and docker's semantics where the server could do with less.
"""

from __future__ import annotations

from ic import names
from ic.resources import kind

_AT_NEXT_START = (
    "environment.",  # exec sees it at once, the main process at its next start
    "oci.",
    "raw.lxc",
    "security.privileged",
    "security.idmap.",
    "security.syscalls.",
    "linux.sysctl.",
    "limits.kernel.",
    names.USER,
)


def url(name: str) -> str:
    """An instance's path."""
    return f"/1.0/instances/{name}"


def digest_of(mark: str | None) -> str:
    """The digest of REF@DIGEST: the same content under another name is no reason to replace anything."""
    return (mark or "").rpartition("@")[2]


def impact(path: kind.Path, old: str | None, new: str | None) -> kind.Impact:
    """What setting one field means. Device rules that need the whole device are in `device_impact`."""
    if path == ("name",) or path[:2] == ("devices", "root") or path == ("config", names.BUILD):
        return "replace"
    if path == ("config", names.IMAGE):
        return "in-place" if digest_of(old) == digest_of(new) else "replace"
    if path[0] == "config" and path[1].startswith(_AT_NEXT_START):
        return "restart"
    return "in-place"


def device_impact(body: dict[str, str]) -> kind.Impact:
    """What adding, changing or removing a device means.

    A network card plugged into a running OCI container gets no address. A disk could be plugged in live,
    but a running process would go on with the files that it has open below the new mount, or in the old
    one: so mounts are changed while it is stopped, as docker does it. Proxies come and go live.
    """
    return "in-place" if body.get("type") == "proxy" else "restart"


def create(
    desired: kind.Resource,
    *,
    project: str,
    source: dict[str, object],
    without: frozenset[str],
    needs: tuple[str, ...],
) -> kind.Step:
    """Everything in one POST but the disks of volumes that are yet to be filled (`without`)."""
    config: dict[str, str] = {}
    devices: dict[str, dict[str, str]] = {}
    fields: kind.Fields = {}
    for path, value in sorted(desired.fields.items()):
        if path[0] == "config":
            config[path[1]] = value
        elif path[1] not in without:
            devices.setdefault(path[1], {})[path[2]] = value
        else:
            continue
        fields[path] = value
    return kind.Step(
        id=f"{desired.address}#create",
        address=desired.address,
        event="inst.create",
        deed=kind.Call(
            method="POST",
            path="/1.0/instances",
            query={"project": project},
            body={
                "name": desired.name,
                "type": "container",
                "profiles": [],
                "config": config,
                "devices": devices,
                "source": source,
            },
        ),
        needs=needs,
        lane="create",
        record=kind.Record(name=desired.name, fields=fields),
        want=desired.power,
    )


def update(
    address: str,
    name: str,
    *,
    project: str,
    set_: kind.Fields,
    unset: tuple[kind.Path, ...],
    record: kind.Record,
    needs: tuple[str, ...],
    verb: str = "update",
    want: kind.Power | None = None,
) -> kind.Step:
    """One compare-and-swap write; foreign keys stay."""
    return kind.Step(
        id=f"{address}#{verb}",
        address=address,
        event="inst.update",
        deed=kind.Merge(path=url(name), query={"project": project}, set=set_, unset=unset),
        needs=needs,
        lane="create",
        record=record,
        want=want,
    )


def hold(address: str, name: str, *, project: str, needs: tuple[str, ...]) -> kind.Step:
    """Hands off for the health daemon, as long as this run lasts: it names the run's generation."""
    return update(
        address,
        name,
        project=project,
        set_={("config", names.HELD): ""},
        unset=(),
        record=kind.Record(name=name),
        needs=needs,
        verb="hold",
    )


def release(address: str, name: str, *, project: str, needs: tuple[str, ...]) -> kind.Step:
    """The end of `hold`; nobody waits for it."""
    return update(
        address,
        name,
        project=project,
        set_={},
        unset=(("config", names.HELD),),
        record=kind.Record(name=name),
        needs=needs,
        verb="release",
    )


def wanted(address: str, name: str, want: kind.Power, *, project: str) -> kind.Step:
    """Write down which power is wanted, where nothing else is written: the health daemon heeds it."""
    return update(
        address,
        name,
        project=project,
        set_={},
        unset=(),
        record=kind.Record(name=name),
        needs=(),
        verb="want",
        want=want,
    )


def resolve_user(
    address: str, name: str, *, project: str, user: str, needs: tuple[str, ...]
) -> kind.Step:
    """Set oci.uid and oci.gid from the image's passwd and group."""
    return kind.Step(
        id=f"{address}#user",
        address=address,
        event="inst.update",
        deed=kind.ResolveUser(path=url(name), user=user, query={"project": project}),
        needs=needs,
        lane="create",
        record=kind.Record(name=name),
    )


def start(
    address: str, name: str, *, project: str, needs: tuple[str, ...], after: tuple[str, ...]
) -> kind.Step:
    """Start, and see that the entrypoint could be run."""
    return kind.Step(
        id=f"{address}#start",
        address=address,
        event="inst.start",
        deed=kind.Start(path=url(name), query={"project": project}),
        needs=needs,
        after=after,
        lane="start",
        record=kind.Record(name=name, power="running"),
        want="running",
    )


def unfreeze(address: str, name: str, *, project: str) -> kind.Step:
    """Let a frozen instance go on."""
    return kind.Step(
        id=f"{address}#start",
        address=address,
        event="inst.start",
        deed=kind.Call(
            method="PUT",
            path=f"{url(name)}/state",
            query={"project": project},
            body={"action": "unfreeze", "timeout": 30},
        ),
        lane="start",
        record=kind.Record(name=name, power="running"),
        want="running",
    )


def stop(
    address: str,
    name: str,
    *,
    project: str,
    grace_ms: int,
    needs: tuple[str, ...],
    signal: str = "",
) -> kind.Step:
    """Stop with the grace period, then by force."""
    return kind.Step(
        id=f"{address}#stop",
        address=address,
        event="inst.stop",
        deed=kind.Stop(
            path=url(name), query={"project": project}, grace_ms=grace_ms, signal=signal
        ),
        needs=needs,
        lane="stop",
        record=kind.Record(name=name, power="stopped"),
        want="stopped",
    )


def delete(address: str, name: str, *, project: str, needs: tuple[str, ...]) -> kind.Step:
    """Only ever a stopped one."""
    return kind.Step(
        id=f"{address}#delete",
        address=address,
        event="inst.delete",
        deed=kind.Call(
            method="DELETE", path=url(name), query={"project": project}, settled_by=("not found",)
        ),
        needs=needs,
        lane="delete",
        record=kind.Record(name=name, gone=True),
    )


def await_exit(
    address: str,
    name: str,
    *,
    project: str,
    needs: tuple[str, ...],
    again: bool = False,
    state_path: str = "",
    state_query: dict[str, str] | None = None,
) -> kind.Step:
    """Wait until a one-shot job has ended well; nothing is changed and nothing journaled.

    `again` and the state's place: of the health daemon that starts it again when it ends badly.
    """
    return kind.Step(
        id=f"{address}#exit",
        address=address,
        event="",
        deed=kind.AwaitExit(
            path=url(name),
            query={"project": project},
            again=again,
            state_path=state_path,
            state_query=state_query or {},
        ),
        needs=needs,
        lane="wait",
    )


def await_healthy(
    address: str,
    name: str,
    *,
    project: str,
    state_path: str,
    state_query: dict[str, str],
    needs: tuple[str, ...],
) -> kind.Step:
    """Wait until an instance is healthy; nothing is changed and nothing journaled."""
    return kind.Step(
        id=f"{address}#healthy",
        address=address,
        event="",
        deed=kind.AwaitHealthy(
            path=url(name),
            query={"project": project},
            state_path=state_path,
            state_query=state_query,
        ),
        needs=needs,
        lane="wait",
    )
