"""Carries out one deed of a plan against the server: one function per kind of deed.

Enters: a stamped deed and what earlier steps brought. Leaves: what this one brought, or an IcError. Not pure;
runs on pool threads and keeps no state. Directly before every request that changes something the lease's
age is checked (`guard`), before a delete the run object is read again. An answer that was lost is never
taken for a failure: live state is read, and only what has not happened is asked for again
(docs/journal-format.md).
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

from ic import errors, names, units
from ic.engine import health, sidecar
from ic.incus import client
from ic.resources import kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.engine.tools import Tools

RETRY_SECONDS = 60.0
"""How long one deed is tried again while its object is busy, or while the server does not answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
FORCE_SECONDS = 30
SETTLED_STOP = ("already stopped", "is not running", "isn't running")
SETTLED_START = ("already running",)

Body = dict[str, Any]


def perform(
    tools: Tools,
    step: kind.Step,
    deed: kind.Deed,
    stamp: str,
    results: Mapping[tuple[str, str], str],
) -> dict[str, str]:
    """Carry out one deed; what it brought by key. Raises IcError, without any private value in its text."""
    try:
        if isinstance(deed, kind.Call):
            return _call(tools, deed, stamp, results)
        carry_out = _DEEDS.get(type(deed))
        return (carry_out(tools, deed) if carry_out is not None else None) or {}
    except errors.IcError as error:
        told = masked(error, private_values(step.deed))
        raise sidecar.with_remedy(told, step.address) from error


# --- what may be said of a failure ----------------------------------------------------------------


def private_values(deed: kind.Deed) -> tuple[str, ...]:
    """Values in a deed's request that may not be shown: servers like to quote what they refuse."""
    found: list[str] = []
    if isinstance(deed, kind.Merge):
        found += [value for path, value in deed.set.items() if not kind.is_public(path)]
    elif isinstance(deed, kind.Call) and deed.body is not None:
        config = deed.body.get("config")
        if isinstance(config, dict):
            for key, value in cast("dict[str, object]", config).items():
                if isinstance(value, str) and not kind.is_public(("config", key)):
                    found.append(value)
    return tuple(sorted((value for value in found if len(value) >= 3), key=len, reverse=True))


def masked(error: errors.IcError, values: tuple[str, ...]) -> errors.IcError:
    """The same error with every one of these values replaced by `***`."""

    def mask(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        return text

    return type(error)(
        mask(error.summary),
        details=tuple(mask(line) for line in error.details),
        hint=mask(error.hint),
        diagnostics=error.diagnostics,
        code=error.code,
    )


# --- asking until it is known ---------------------------------------------------------------------


def _insist(
    tools: Tools,
    send: Callable[[], dict[str, str]],
    landed: Callable[[], dict[str, str] | None],
) -> dict[str, str]:
    """Send until the server has taken it, or refuses.

    While the object is busy, or nothing could be sent, it is sent again. After an answer that was lost
    `landed` reads live state first: what it finds is the answer, None means that nothing has happened.
    """
    end = tools.clock() + RETRY_SECONDS
    pause = FIRST_PAUSE
    doubt: errors.IcError | None = None
    while True:
        try:
            if doubt is not None:
                found = landed()
                if found is not None:
                    return found
                doubt = None
            return send()
        except errors.TimedOut as error:
            doubt = doubt or error
            failure: errors.IcError = doubt
        except errors.Unreachable as error:
            failure = doubt or error
        except errors.PreconditionFailed as error:
            failure = error
        except errors.Conflict as error:
            if error.code != "E_BUSY":
                raise
            failure = doubt or error
        if tools.clock() + pause > end:
            raise failure
        tools.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _await_quiet(tools: Tools, path: str, query: Mapping[str, str]) -> None:
    """Raise TimedOut while the server still works on the object: what it is doing may yet take effect."""
    if any(path in client.touched(one) for one in _under_way(tools, query)):
        raise errors.TimedOut(f"cannot say how {unquote(path)} stands: still being changed")


def _under_way(tools: Tools, query: Mapping[str, str]) -> list[Body]:
    """What the server is at in the object's project."""
    return tools.client.operations(query.get("project", "default"))


# --- one function per deed ------------------------------------------------------------------------


def resolved(body: object, results: Mapping[tuple[str, str], str]) -> Any:
    """A request body with every `kind.Result` replaced by what the earlier step brought.

    Raises PlanError when that step brought nothing of the kind.
    """
    if isinstance(body, kind.Result):
        value = results.get((body.address, body.key))
        if value is None:
            raise errors.PlanError(f"cannot use {body.key} of {body.address}: no step brought it")
        return value
    if isinstance(body, dict):
        fields = cast("dict[str, object]", body)
        return {key: resolved(value, results) for key, value in fields.items()}
    if isinstance(body, (list, tuple)):
        return [resolved(value, results) for value in cast("list[object]", body)]
    return body


def _call(
    tools: Tools, deed: kind.Call, stamp: str, results: Mapping[tuple[str, str], str]
) -> dict[str, str]:
    """One request. A POST or DELETE in doubt is decided by what is there."""
    body: Body | None = None if deed.body is None else resolved(deed.body, results)

    def send() -> dict[str, str]:
        if deed.method == "DELETE":
            _confirm_ours(tools, deed)
            tools.confirm_delete()
        reply = tools.client.call(deed.method, deed.path, deed.query, body, guard=tools.guard)
        return _kept(reply, deed.keep)

    def landed() -> dict[str, str] | None:
        if deed.method == "POST":
            return _created(tools, deed, body, stamp)
        if deed.method == "DELETE":
            return _deleted(tools, deed)
        return None

    try:
        return _insist(tools, send, landed)
    except errors.NotFound:
        if deed.method == "DELETE":
            return {}
        raise
    except errors.IncusError as error:
        if any(piece in error.summary for piece in deed.settled_by):
            return {}
        if deed.method == "POST" and isinstance(error, errors.Conflict):
            found = _created(tools, deed, body, stamp)
            if found is not None:
                return found
        raise


def _kept(reply: object, keep: tuple[str, ...]) -> dict[str, str]:
    values = cast("dict[str, object]", reply) if isinstance(reply, dict) else {}
    return {key: str(values[key]) for key in keep if key in values}


def _created(tools: Tools, deed: kind.Call, body: Body | None, stamp: str) -> dict[str, str] | None:
    """What the POST made, if it is there and carries this very intent's stamp.

    An instance whose creation was cut off (our stamp, never started, `volatile.apply_template` not yet
    written) is removed: it holds no data. Raises OwnershipConflict for somebody else's.
    """
    name = str((body or {}).get("name", ""))
    path = f"{deed.path}/{quote(name, safe='')}"
    _await_quiet(tools, path, deed.query)
    try:
        found = cast("Body", tools.client.get(path, deed.query))
    except errors.NotFound:
        return None
    config = cast("dict[str, str]", found.get("config") or {})
    if not stamp or config.get(names.EVENT) != stamp:
        raise errors.OwnershipConflict(
            f"cannot create {unquote(path.removeprefix('/1.0/'))}: something of this name is there already",
            hint="`ic plan` shows what is in the way",
        )
    if deed.path == "/1.0/instances" and _half_made(found):
        tools.client.call("DELETE", path, deed.query, guard=tools.guard)
        return None
    return _kept(found, deed.keep)


def _half_made(instance: Body) -> bool:
    config = cast("dict[str, str]", instance.get("config") or {})
    return _never_started(instance) and "volatile.apply_template" not in config


def _never_started(instance: Body) -> bool:
    return str(instance.get("last_used_at", "")).startswith(("0001", "1970"))


def _deleted(tools: Tools, deed: kind.Call) -> dict[str, str] | None:
    _await_quiet(tools, deed.path, deed.query)
    try:
        tools.client.get(deed.path, deed.query)
    except errors.NotFound:
        return {}
    return None


def _confirm_ours(tools: Tools, deed: kind.Call) -> None:
    """Deletes cannot be fenced by the server: directly before one, its object must still carry our mark.

    Raises OwnershipConflict when it does not, NotFound when it is gone.
    """
    found = cast("Body", tools.client.get(deed.path, deed.query))
    if "config" not in found:
        return  # images: content, known by its digest
    config = cast("dict[str, str]", found["config"] or {})
    if config.get(names.LINEAGE) != tools.lineage:
        raise errors.OwnershipConflict(
            f"cannot delete {unquote(deed.path.removeprefix('/1.0/'))}: "
            "it does not carry this stack's mark any more",
            hint="run `ic plan` again",
        )


_WRITABLE = ("architecture", "config", "devices", "ephemeral", "profiles", "description")


def merged(body: Body, set_: kind.Fields, unset: tuple[kind.Path, ...]) -> Body:
    """The writable part of a body with fields set and unset; all else as it was found. Pure."""
    new: Body = {key: body[key] for key in _WRITABLE if key in body}
    new["config"] = dict(new.get("config") or {})
    if "devices" in new:
        devices = cast("dict[str, Body]", new["devices"] or {})
        new["devices"] = {name: dict(device) for name, device in devices.items()}
    for path in unset:
        inner = new.get(path[0])
        if len(path) == 3 and isinstance(inner, dict):
            inner = cast("Body", inner).get(path[1])
        if isinstance(inner, dict):
            cast("Body", inner).pop(path[-1], None)
    for path, value in set_.items():
        if len(path) == 1:
            new[path[0]] = value
        elif len(path) == 2:
            new.setdefault(path[0], {})[path[1]] = value
        else:
            new.setdefault(path[0], {}).setdefault(path[1], {})[path[2]] = value
    return new


def _merge_deed(tools: Tools, deed: kind.Merge) -> None:
    _merge(tools, deed.path, deed.query, deed.set, deed.unset)


def _merge(
    tools: Tools,
    path: str,
    query: Mapping[str, str],
    set_: kind.Fields,
    unset: tuple[kind.Path, ...] = (),
) -> None:
    """Read, change, write back with If-Match; done again when somebody else was faster.

    What somebody is restarting is waited for, as the server waits for a start or a stop.
    """

    def send() -> dict[str, str]:
        found, etag = tools.client.get_tagged(path, query)
        before = merged(cast("Body", found), {}, ())
        after = merged(cast("Body", found), set_, unset)
        if after != before:
            _not_restarting(tools, path, query, found)
            method, body = _smallest_write(path, before, after)
            tools.client.call(method, path, query, body, etag=etag, guard=tools.guard)
        return {}

    _insist(tools, send, lambda: None)


def _not_restarting(tools: Tools, path: str, query: Mapping[str, str], found: Body) -> None:
    """Raise Conflict while an instance is being restarted: the write would leave it stopped."""
    if not path.startswith("/1.0/instances/") or _never_started(found):
        return
    if client.restarting(_under_way(tools, query), path):
        name = unquote(path.rpartition("/")[2])
        raise errors.Conflict(
            f"cannot change instance {name}: somebody is restarting it",
            hint="run it again when that has ended",
            code="E_BUSY",
        )


def _smallest_write(path: str, before: Body, after: Body) -> tuple[str, Body]:
    """PATCH for an instance (synchronous), unless a device goes; PUT for everything else."""
    gone = set(cast("Body", before.get("devices") or {})) - set(
        cast("Body", after.get("devices") or {})
    )
    if not path.startswith("/1.0/instances/") or gone:
        return "PUT", after
    body: Body = {}
    for part in ("config", "devices"):
        old = cast("Body", before.get(part) or {})
        new = cast("Body", after.get(part) or {})
        body[part] = {key: value for key, value in new.items() if old.get(key) != value}
        if part == "config":
            body[part].update({key: "" for key in old if key not in new})
    if before.get("description") != after.get("description"):
        body["description"] = after.get("description")
    return "PATCH", body


# --- power ----------------------------------------------------------------------------------------


def _is_stopped(instance: Body) -> bool:
    return instance.get("status") == "Stopped"


def _change_state(
    tools: Tools,
    path: str,
    query: Mapping[str, str],
    body: Body,
    *,
    reached: Callable[[Body], bool],
    settled: tuple[str, ...],
    timeout: float,
) -> None:
    """Ask for another power state; done when the server says so or it is there already."""

    def send() -> dict[str, str]:
        tools.client.call("PUT", f"{path}/state", query, body, guard=tools.guard, timeout=timeout)
        return {}

    def landed() -> dict[str, str] | None:
        _await_quiet(tools, path, query)
        return {} if reached(cast("Body", tools.client.get(path, query))) else None

    try:
        _insist(tools, send, landed)
    except errors.IncusError as error:
        if not any(piece in error.summary.lower() for piece in settled):
            raise


def _stop(tools: Tools, deed: kind.Stop) -> None:
    """The stop signal and the grace period; what has not ended by then is ended by force.

    One that is gone, or stopped already, is done.
    """
    seconds = math.ceil(deed.grace_ms / 1000)
    try:
        if seconds > 0 and deed.signal and _ended_on_signal(tools, deed):
            return
        if seconds > 0 and _stopped_gracefully(tools, deed, seconds):
            return
        _change_state(
            tools,
            deed.path,
            deed.query,
            {"action": "stop", "timeout": FORCE_SECONDS, "force": True},
            reached=_is_stopped,
            settled=SETTLED_STOP,
            timeout=2 * FORCE_SECONDS,
        )
    except errors.NotFound:
        return


SIGNAL_SECONDS = 10.0


def _ended_on_signal(tools: Tools, deed: kind.Stop) -> bool:
    """Whether it ended on its stop signal, given from inside, within the grace period.

    An image without a shell cannot be given one: it gets what the server gives it (SIGTERM, a second).
    """
    tools.guard()
    given = tools.client.signal_main(deed.path, deed.signal, deed.query, timeout=SIGNAL_SECONDS)
    if not given:
        return False
    return client.stays_stopped(
        lambda: _is_stopped(cast("Body", tools.client.get(deed.path, deed.query))),
        deed.grace_ms / 1000,
        clock=tools.clock,
        sleep=tools.sleep,
    )


def _stopped_gracefully(tools: Tools, deed: kind.Stop, seconds: int) -> bool:
    """Whether it ended by itself within the grace period."""
    try:
        _change_state(
            tools,
            deed.path,
            deed.query,
            {"action": "stop", "timeout": seconds, "force": False},
            reached=_is_stopped,
            settled=SETTLED_STOP,
            timeout=seconds + FORCE_SECONDS,
        )
    except errors.OperationFailed:
        return _is_stopped(cast("Body", tools.client.get(deed.path, deed.query)))
    return True


_NO_MOUNTPOINT = "Failed to open target mountpoint"
_HAS_RUN = ' - Started "'  # liblxc's own word that the entrypoint was executed
_FAILED_EXEC = re.compile(r"([^-\n]+) - Failed to exec \"(.*)\"")
_LXC_ERROR = re.compile(r"ERROR +\S+ - \S+:\d+ - (.*)")
START_TRIES = 3
SETTLING_SECONDS, SETTLING_PAUSE = 10.0, 0.4
"""How long, and how often, a start is asked for that meets the end of the run before."""


def _start(tools: Tools, deed: kind.Start) -> None:
    """Start; an entrypoint that cannot be run is told with the reason and the last lines of output.

    The entrypoint is PID 1 itself, so that the server's answer depends on whether it could be run. What
    ended by itself a moment ago is called running for half a second more, and a start may meet the end of
    the clearing up [measured]: it is asked for again. So is one that fails, unless it has run: a job that
    ends before the server has done its part of the start is called a failure too [measured].
    """
    began = tools.clock()
    before = _read(tools, deed).get("last_used_at")
    refused: list[errors.OperationFailed] = []
    while not _started(tools, deed, began, before, refused):
        if len(refused) == START_TRIES:
            raise refused[-1]
        if tools.clock() - began > SETTLING_SECONDS:
            raise errors.OperationFailed(
                f"cannot start {_instance_name(deed.path)}: the server calls it running, without a process",
                hint="see `incus info --show-log`, and try again",
            )
        tools.sleep(SETTLING_PAUSE)


def _started(
    tools: Tools,
    deed: kind.Start,
    began: float,
    before: object,
    refused: list[errors.OperationFailed],
) -> bool:
    """Ask once; False when it is to be asked again, with the refusal noted. Raises for a bad entrypoint."""
    try:
        _ask_to_start(tools, deed, began)
    except errors.OperationFailed as error:
        if any(piece in error.summary.lower() for piece in SETTLED_START):
            return _has_process(tools, deed)
        log = tools.client.log_file(deed.path, "lxc.log", deed.query).decode(errors="replace")
        _raise_entrypoint(tools, deed, log, error)
        if _HAS_RUN in log and _read(tools, deed).get("last_used_at") != before:
            return True
        if _NO_MOUNTPOINT in log:
            _make_mountpoints(tools, deed)
        why = tuple(_LXC_ERROR.findall(log)[:3])
        refused.append(errors.OperationFailed(error.summary, details=why, hint=error.hint))
        return False
    return True


def _read(tools: Tools, deed: kind.Start) -> Body:
    return cast("Body", tools.client.get(deed.path, deed.query))


def _make_mountpoints(tools: Tools, deed: kind.Start) -> None:
    """Make the places of mounts that lie within other mounts, as docker does; the server makes none there.

    Within a volume they are made by the files API, within a bind on this host.
    """
    devices = cast("dict[str, dict[str, str]]", _read(tools, deed).get("devices") or {})
    mounts = [one for one in devices.values() if one.get("type") == "disk" and one.get("source")]
    for inner in mounts:
        above = [one for one in mounts if inner["path"].startswith(f"{one['path'].rstrip('/')}/")]
        if not above:
            continue
        outer = max(above, key=lambda one: len(one["path"]))
        place = os.path.relpath(inner["path"], outer["path"])
        is_file = not inner.get("pool") and os.path.isfile(inner["source"])
        tools.guard()
        if outer.get("pool"):
            _make_place(tools, deed, outer, place, is_file=is_file)
        elif tools.client.transport.server.local and os.path.isdir(outer["source"]):
            target = os.path.join(outer["source"], place)
            os.makedirs(os.path.dirname(target) if is_file else target, exist_ok=True)
            if is_file and not os.path.lexists(target):
                with open(target, "xb"):
                    pass


def _make_place(
    tools: Tools, deed: kind.Start, volume: Mapping[str, str], place: str, *, is_file: bool
) -> None:
    """Make a directory, or an empty file, in a volume, with the directories above it."""
    path = client.path("storage-pools", volume["pool"], "volumes", "custom", volume["source"])
    parts = place.split("/")
    for end in range(1, len(parts) + 1):
        kind_ = "file" if is_file and end == len(parts) else "directory"
        file = "/" + "/".join(parts[:end])
        if tools.client.file_stat(path, file, deed.query) is None:
            stat = client.FileStat(type=kind_, mode=0o755, uid=0, gid=0)
            tools.client.file_push(path, file, deed.query, stat=stat)


def _ask_to_start(tools: Tools, deed: kind.Start, began: float) -> None:
    def reached(instance: Body) -> bool:
        return instance.get("status") == "Running" or _started_since(tools, instance, began)

    _change_state(
        tools,
        deed.path,
        deed.query,
        {"action": "start", "timeout": FORCE_SECONDS, "force": False},
        reached=reached,
        settled=(),
        timeout=2 * FORCE_SECONDS,
    )


def _has_process(tools: Tools, deed: kind.Start) -> bool:
    """Whether an instance that is called running has a process 1; asking may fail while it ends."""
    try:
        state = cast("Body", tools.client.get(f"{deed.path}/state", deed.query))
    except errors.NotFound:
        raise
    except errors.IncusError:
        return False
    return int(state.get("pid") or 0) > 0


def _raise_entrypoint(
    tools: Tools, deed: kind.Start, log: str, error: errors.OperationFailed
) -> None:
    """Raise what is wrong with the entrypoint, if the log of the start tells that it was that."""
    found = _FAILED_EXEC.search(log)
    if found is None:
        return
    reason, program = found.group(1).strip(), found.group(2)
    code = 127 if "No such file" in reason else 126
    raise errors.OperationFailed(
        f"cannot start {_instance_name(deed.path)}: its entrypoint {program} cannot be run: {reason}",
        details=(f"exit code {code}", *tools.client.last_output(deed.path, deed.query)),
        hint="see `entrypoint` and `command` of the service, and what the image holds",
        code="E_ENTRYPOINT",
    ) from error


def _started_since(tools: Tools, instance: Body, began: float) -> bool:
    """Whether an instance was started after `began`, by the server's own clock (whole seconds)."""
    used = units.time_ms(str(instance.get("last_used_at", "")))
    if used is None:
        return False
    elapsed = tools.clock() - began
    return used // 1000 >= tools.client.date_ms() / 1000 - elapsed - 1.0


def _instance_name(path: str) -> str:
    return f"instance {unquote(path.rpartition('/')[2])}"


# --- images ---------------------------------------------------------------------------------------


def _pull(tools: Tools, deed: kind.Pull) -> dict[str, str]:
    """Let the server fetch an image by digest; its fingerprint, also when it has it already."""
    from ic.incus import oci

    source = oci.pull_source(deed.reference, tools.env)
    body: Body = {"source": source, "auto_update": False}

    def send() -> dict[str, str]:
        reply = tools.client.call("POST", "/1.0/images", deed.query, body, guard=tools.guard)
        return {"fingerprint": str(cast("Body", reply)["fingerprint"])}

    try:
        return _insist(tools, send, lambda: None)
    except errors.IncusError as error:
        server = str(source["server"]).partition("://")[2]
        login = server.rpartition("@")[0]
        secret = login.partition(":")[2]
        raise masked(
            error, tuple(one for one in (login, secret, unquote(secret)) if one)
        ) from error


# --- volumes --------------------------------------------------------------------------------------

COPIES_IN_FLIGHT = 4


def _seed(tools: Tools, deed: kind.Seed) -> None:
    """Make a volume with the owner and mode of its target in the image, fill it, then mark it as filled."""
    stat = tools.client.file_stat(deed.instance_path, deed.target, deed.query)
    exists = stat is not None and stat.type == "directory"
    if stat is not None and exists:
        owner = {"uid": str(stat.uid), "gid": str(stat.gid), "mode": f"{stat.mode:04o}"}
    else:
        instance = cast("Body", tools.client.get(deed.instance_path, deed.query))
        config = cast("dict[str, str]", instance.get("config") or {})
        owner = {
            "uid": config.get("oci.uid", "0"),
            "gid": config.get("oci.gid", "0"),
            "mode": "0755",
        }
    _make_volume(tools, deed, {f"initial.{key}": value for key, value in owner.items()})
    if exists and deed.fill:
        _fill(tools, deed)
    marker = {("config", names.SEEDED): deed.marker or "1"}
    _merge(tools, deed.volume_path, deed.query, marker)


def _make_volume(tools: Tools, deed: kind.Seed, initial: Mapping[str, str]) -> None:
    """Create the volume; one that this stack has made before is filled again. Raises OwnershipConflict."""
    config = {**cast("dict[str, str]", deed.body.get("config") or {}), **initial}
    body: Body = {**deed.body, "config": config}

    def send() -> dict[str, str]:
        tools.client.call("POST", deed.pool_path, deed.query, body, guard=tools.guard)
        return {}

    def landed() -> dict[str, str] | None:
        try:
            found = cast("Body", tools.client.get(deed.volume_path, deed.query))
        except errors.NotFound:
            return None
        if cast("dict[str, str]", found.get("config") or {}).get(names.LINEAGE) != tools.lineage:
            raise errors.OwnershipConflict(
                f"cannot create volume {body['name']}: one of this name is there and is not this stack's",
                hint="rename it, or give the stack's volume another `name:`, or declare it `external: true`",
            )
        return {}

    try:
        _insist(tools, send, landed)
    except errors.Conflict:
        if landed() is None:
            raise


def _fill(tools: Tools, deed: kind.Seed) -> None:
    """Copy what is below the target into the volume, level by level, several files at once."""
    from concurrent import futures

    root = deed.target.rstrip("/")

    def copy(below: str) -> list[str]:
        """Copy one entry; the entries in it when it is a directory."""
        tools.guard()
        source = f"{root}/{below}"
        stat = tools.client.file_copy(
            deed.instance_path,
            source,
            deed.volume_path,
            f"/{below}",
            deed.query,
            relink=lambda to: relative(to, root, source),
        )
        if stat.type != "directory":
            return []
        return [
            f"{below}/{name}"
            for name in tools.client.file_list(deed.instance_path, source, deed.query)
        ]

    level = list(tools.client.file_list(deed.instance_path, deed.target, deed.query))
    with futures.ThreadPoolExecutor(COPIES_IN_FLIGHT) as pool:
        while level:
            level = [name for found in pool.map(copy, level) for name in found]


def relative(target: str, root: str, link: str) -> str:
    """A link's target within `root` as seen from the link, any other one as it is. Pure.

    The server makes targets that begin with `..` absolute; within a volume they must not depend on where it
    is mounted.
    """
    if not target.startswith(f"{root}/"):
        return target
    return os.path.relpath(target, os.path.dirname(link))


# --- users ----------------------------------------------------------------------------------------


def _resolve_user(tools: Tools, deed: kind.ResolveUser) -> None:
    """Look the user up in the image's own files, and set the numbers."""
    uid, gid = find_user(
        deed.user,
        _text_file(tools, deed, "/etc/passwd"),
        _text_file(tools, deed, "/etc/group"),
    )
    fields = {("config", "oci.uid"): str(uid), ("config", "oci.gid"): str(gid), **deed.set}
    _merge(tools, deed.path, deed.query, fields)


def _text_file(tools: Tools, deed: kind.ResolveUser, file: str) -> str:
    try:
        return tools.client.file_get(deed.path, file, deed.query)[1].decode(errors="replace")
    except errors.NotFound:
        return ""


def find_user(user: str, passwd: str, group: str) -> tuple[int, int]:
    """uid and gid of `USER[:GROUP]` by docker's rule, from the texts of passwd and group. Pure.

    Either part may be a number, which needs no entry; without a group it is the user's own one, 0 for a
    number that passwd does not know. Raises PlanError for a name that is not there.
    """
    name, _, wanted = user.partition(":")
    known = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 3]
    entry = next((one for one in known if name in (one[0], one[2])), None)
    if entry is None and not name.isdecimal():
        raise errors.PlanError(
            f"cannot use user {name!r}: the image's /etc/passwd does not know it",
            hint="give a number, or a user that the image has",
        )
    uid = int(entry[2]) if entry and entry[2].isdecimal() else int(name)
    if not wanted:
        return uid, int(entry[3]) if entry and entry[3].isdecimal() else 0
    if wanted.isdecimal():
        return uid, int(wanted)
    groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 2]
    found = next((one[2] for one in groups if one[0] == wanted), "")
    if not found.isdecimal():
        raise errors.PlanError(
            f"cannot use group {wanted!r}: the image's /etc/group does not know it",
            hint="give a number, or a group that the image has",
        )
    return uid, int(found)


# --- this host ------------------------------------------------------------------------------------


def _make_directory(_: Tools, deed: kind.MakeDirectory) -> None:
    """Make a missing bind source, as docker does."""
    try:
        os.makedirs(deed.directory, mode=0o755, exist_ok=True)
    except OSError as error:
        raise errors.PlanError(
            f"cannot make directory {deed.directory}: {error.strerror}",
            hint="make it yourself, or correct the bind mount's source",
        ) from error


# --- the health daemon ------------------------------------------------------------------------------


def _place(tools: Tools, deed: kind.Place) -> None:
    """Put a file into an instance; asked again while the instance is busy or the server away."""

    def send() -> dict[str, str]:
        sidecar.place(tools, deed)
        return {}

    _insist(tools, send, lambda: None)


def _revoke(tools: Tools, deed: kind.Revoke) -> None:
    sidecar.revoke(tools.client, deed, tools.guard)


def _await_exit(tools: Tools, deed: kind.AwaitExit) -> None:
    health.await_exit(tools.client, deed, _limits(tools))


def _await_healthy(tools: Tools, deed: kind.AwaitHealthy) -> None:
    health.await_healthy(tools.client, deed, _limits(tools))


def _limits(tools: Tools) -> health.Limits:
    return health.Limits(interrupted=tools.interrupted, clock=tools.clock, sleep=tools.sleep)


_DEEDS: dict[type[kind.Deed], Callable[[Tools, Any], dict[str, str] | None]] = {
    kind.Merge: _merge_deed,
    kind.Stop: _stop,
    kind.Start: _start,
    kind.Pull: _pull,
    kind.Seed: _seed,
    kind.ResolveUser: _resolve_user,
    kind.AwaitExit: _await_exit,
    kind.AwaitHealthy: _await_healthy,
    kind.MakeDirectory: _make_directory,
    kind.Place: _place,
    kind.Enrol: sidecar.enrol,
    kind.AwaitWatching: sidecar.await_watching,
    kind.Revoke: _revoke,
}
"""How a deed is carried out; `Call` needs what earlier steps brought besides, a `Note` sends nothing."""
