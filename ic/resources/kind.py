"""What every resource kind shares: desired and live shapes, field changes, and steps as data.

Pure: values in, values out. A resource is an address with *fields*: a mapping from a path in the Incus
body (`("config", "environment.GREETING")`, `("devices", "eth0", "ipv4.address")`) to its text. Desired,
recorded and live have the same form, so one diff serves every kind; only the impact of a path differs.

A *step* holds its own request, so the executor and the journal never switch on a kind.
"""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from ic import errors, names

Path = tuple[str, ...]
Fields = dict[Path, str]
Impact = Literal["in-place", "restart", "replace"]
Power = Literal["running", "stopped"]


def text_of(path: Path) -> str:
    """The path as people read it: `devices.eth0.ipv4.address`."""
    return ".".join(path)


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One resource as desired: the managed subset of its body, no more.

    `fields` holds what is compared and set; `create` what is given once, at creation, and never compared
    (an instance's source, a volume's initial owner). `needs` are the addresses it must follow.
    `power` is the wanted power of an instance, None for everything else.
    `name` is the Incus name, `pool` the storage pool of a volume.
    """

    address: str
    name: str
    fields: Fields
    needs: tuple[str, ...] = ()
    create: dict[str, object] = {}
    power: Power | None = None
    grace_ms: int = 10_000
    pool: str = ""
    position: errors.Position | None = None


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """The ownership marks found on a live resource; empty strings where there are none."""

    stack: str = ""
    lineage: str = ""
    resource: str = ""
    event: str = ""
    want: str = ""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """One resource as the server has it. `fields` is everything the server shows, ours or not."""

    address: str
    name: str
    fields: Fields
    stamp: Stamp
    etag: str = ""
    uuid: str = ""
    power: str = ""  # the server's status word: Running, Stopped, Frozen, Error
    ever_started: bool = False
    half_made: bool = False  # F11: creation was cut off, root half unpacked
    veiled: bool = False  # the server shows its name alone: what is recorded of it stands
    exit_code: int | None = None  # of the last run of a stopped instance, when it is known
    promised: bool = (
        False  # the health daemon has said that it starts this one again after that run
    )
    created: str = ""
    started: str = ""
    pool: str = ""


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """One field that would change. A redacted one has neither old nor new."""

    path: str
    old: str | None
    new: str | None
    impact: Impact
    redacted: bool = False


def label_fields(labels: dict[str, str]) -> Fields:
    """Labels as config. One without a value cannot be kept: an empty value unsets its key on the server."""
    return {
        ("config", f"{names.LABEL_PREFIX}{label}"): value
        for label, value in labels.items()
        if value
    }


# --- requests as data ------------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True):
    """Stands in a request body for a value that an earlier step brings (an image's fingerprint)."""

    address: str
    key: str


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """One request. Background operations are awaited. `keep` names metadata keys of the reply to remember.

    `settled_by` are pieces of error texts that mean that the effect is there already (duplicate start,
    deleting what is gone): F12.
    """

    method: Literal["POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: dict[str, str] = {}
    body: dict[str, object] | None = None
    keep: tuple[str, ...] = ()
    settled_by: tuple[str, ...] = ()


class Merge(msgspec.Struct, frozen=True, kw_only=True, tag="merge"):
    """Read, set and unset the given fields, write back with If-Match; foreign keys are preserved.

    A path of two parts, `("devices", NAME)`, in `unset` takes the whole device away.
    """

    path: str
    query: dict[str, str] = {}
    set: Fields = {}
    unset: tuple[Path, ...] = ()


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Ask an instance to end, wait the grace period (ms), then force.

    With a `signal` the main process is given it from inside: in a restricted project no key may say it.
    """

    path: str
    query: dict[str, str] = {}
    grace_ms: int = 10_000
    signal: str = ""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """Start an instance and make sure that its entrypoint could be run.

    (The server answers Success anyway.)
    """

    path: str
    query: dict[str, str] = {}


class Pull(msgspec.Struct, frozen=True, kw_only=True, tag="pull"):
    """Let the server pull an OCI image; the reply's fingerprint is remembered under the step's address.

    Credentials are not part of the plan: the executor asks its registry room for them when it sends.
    """

    reference: str  # host/repository@digest
    query: dict[str, str] = {}


class Seed(msgspec.Struct, frozen=True, kw_only=True, tag="seed"):
    """Create a volume with the owner and mode that `target` has in the image, and fill it from there.

    The image's content is read from the root of the created, not yet started instance (files API), as
    docker fills a new named or anonymous volume. `fill` is false with `nocopy`.
    """

    instance_path: str
    volume_path: str  # the volume's own URL path
    pool_path: str  # POST target
    query: dict[str, str] = {}
    body: dict[str, object] = {}
    target: str = ""
    fill: bool = True
    marker: str = ""  # the value of user.ic.seed, written last


class ResolveUser(msgspec.Struct, frozen=True, kw_only=True, tag="resolve-user"):
    """Look `USER[:GROUP]` up in the image and set oci.uid and oci.gid, and `set` with them.

    Either part may be a number, which needs no entry; without a group it is the user's own one in
    passwd, 0 for a number that passwd does not know (docker's rule).
    """

    path: str
    user: str
    query: dict[str, str] = {}
    set: Fields = {}


class AwaitExit(msgspec.Struct, frozen=True, kw_only=True, tag="await-exit"):
    """Wait until an instance has ended with status 0; anything else fails. Changes nothing.

    `again`: a health daemon is there, and bad ends that the restart policy makes up for are borne.
    `state_path` is its identity volume: when it is not `watching` for `patience_ms` while a start is waited
    for, its reason is the error.
    """

    path: str
    query: dict[str, str] = {}
    again: bool = False
    state_path: str = ""
    state_query: dict[str, str] = {}
    patience_ms: int = 30_000


class MakeDirectory(msgspec.Struct, frozen=True, kw_only=True, tag="make-directory"):
    """Make a missing bind source on this host, parents included, as docker does. Incus is not asked."""

    directory: str


class Place(msgspec.Struct, frozen=True, kw_only=True, tag="place"):
    """Put a file of this machine into an instance's root, directories first (files API, stopped or running).

    Directories are made one by one, root's, 0755; what is there already stays. The file replaces another.
    """

    path: str
    query: dict[str, str] = {}
    directories: tuple[str, ...] = ()
    file: str = ""  # in the instance
    source: str = ""  # on this machine
    mode: str = "0644"


class Enrol(msgspec.Struct, frozen=True, kw_only=True, tag="enrol"):
    """Give a started health daemon its identity: a one-time token, used within `patience_ms`.

    The token is restricted to `projects` and named `name`, as the certificate is that it brings; pending
    tokens and certificates of that name are removed before. One that is not used in time is cancelled, and
    the daemon's own reason is the error. `state_path` is the identity volume, whose state file tells.
    """

    path: str
    query: dict[str, str] = {}
    name: str
    projects: tuple[str, ...]
    state_path: str
    state_query: dict[str, str] = {}
    patience_ms: int = 30_000


class AwaitWatching(msgspec.Struct, frozen=True, kw_only=True, tag="await-watching"):
    """Wait until a started health daemon that has its identity watches. Changes nothing.

    Its end, a state that it cannot leave by itself, and `patience_ms` are failures, with its own reason.
    """

    path: str
    query: dict[str, str] = {}
    state_path: str
    state_query: dict[str, str] = {}
    patience_ms: int = 30_000


class Revoke(msgspec.Struct, frozen=True, kw_only=True, tag="revoke"):
    """Take a health daemon's rights away: certificates and pending tokens of this name and projects."""

    name: str
    projects: tuple[str, ...]


class AwaitHealthy(msgspec.Struct, frozen=True, kw_only=True, tag="await-healthy"):
    """Wait until an instance is healthy; unhealthy or ended is a failure at once. Changes nothing.

    `state_path` is the identity volume of the health daemon: when that is not `watching` after `patience_ms`,
    its reason is the error. Without one (`--no-healthd`) ic probes by itself.
    """

    path: str
    query: dict[str, str] = {}
    state_path: str = ""
    state_query: dict[str, str] = {}
    patience_ms: int = 30_000


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Nothing to send: only the journal learns something (a resource is forgotten or adopted)."""


Deed = (
    Call
    | Merge
    | Stop
    | Start
    | Pull
    | Seed
    | ResolveUser
    | AwaitExit
    | AwaitHealthy
    | AwaitWatching
    | MakeDirectory
    | Place
    | Enrol
    | Revoke
    | Note
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal learns when a step is done: it becomes part of `last applied`.

    `fields` are set, `unset` are removed from what was recorded; `gone` removes the resource; `facts` are
    public facts kept verbatim (an image's digest and config).
    """

    name: str = ""
    pool: str = ""
    fields: Fields = {}
    unset: tuple[Path, ...] = ()
    facts: dict[str, object] = {}
    power: Power | None = None
    gone: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the plan: what it needs, what it does, what the journal writes of it.

    `id` is unique in the plan (`instance:web/1#create`). `event` is the journal kind (`inst.create`); a
    step that changes nothing on the server (AwaitExit, MakeDirectory) has an empty one and is not
    journaled. `lane` names the concurrency class: create, start, stop, delete, network, volume, image,
    trust, wait. `needs` must have been done; `after` must have ended, well or not (`required: false`).
    `want` is the wanted power, stamped on the instance.
    """

    id: str
    address: str
    event: str
    deed: Deed
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    lane: str = "create"
    record: Record = Record()
    want: Power | None = None


# --- stamps ---------------------------------------------------------------------------------------------


def body_digest(step: Step) -> str:
    """12 hex digits for what a step writes: the `user.ic.d` of a resource that shows its config anyway."""
    parts = [f"{text_of(path)}={value}" for path, value in sorted(step.record.fields.items())]
    parts += [f"-{text_of(path)}" for path in step.record.unset]
    return names.short_hash("\0".join(parts), 12)


def stamped(step: Step, lineage: str, stack: str, stamp: str) -> Deed:
    """The deed with the ownership marks in whatever it creates or writes (docs/journal-format.md).

    `stamp` is `generation/number` of the step's acknowledged intent: the change and the proof of it are
    one write. A deed that writes no config (start, stop, delete, a pull) is returned as it is; a health
    daemon's certificate has the lineage in its name, and a held instance the generation that holds it.
    """
    marks = {
        names.STACK: stack,
        names.LINEAGE: lineage,
        names.RESOURCE: names.name_of(step.address),
        names.EVENT: stamp,
        names.DIGEST: body_digest(step),
    }
    if step.want is not None:
        marks[names.WANT] = step.want
    deed = step.deed
    fields: Fields = {("config", key): value for key, value in marks.items()}
    if isinstance(deed, Enrol | Revoke):
        return msgspec.structs.replace(deed, name=f"{deed.name} {lineage}")
    if isinstance(deed, Merge) and ("config", names.HELD) in deed.set:
        fields["config", names.HELD] = stamp.partition("/")[0]
    if isinstance(deed, Merge | ResolveUser):
        return msgspec.structs.replace(deed, set={**deed.set, **fields})
    if isinstance(deed, Seed) or (isinstance(deed, Call) and deed.method == "POST" and deed.body):
        body = dict(deed.body or {})
        config = body.get("config")
        known = cast("dict[str, object]", config) if isinstance(config, dict) else {}
        body["config"] = {**known, **marks}
        return msgspec.structs.replace(deed, body=body)
    return deed


# --- what may be shown and written in clear -----------------------------------------------------------

_PUBLIC_CONFIG = (
    "limits.",
    "boot.",
    "security.",
    "ipv4.",
    "ipv6.",
    "dns.",
    "bridge.",
    "size",
    "initial.",
    "features.",
    "restricted",
    "user.ic.",
    "user.restart",
    "user.healthcheck.",
    "oci.uid",
    "oci.gid",
    "oci.cwd",
    "oci.dns.",
    "raw.dnsmasq",
    "core.https_address",
)
_PRIVATE_CONFIG = ("user.healthcheck.test", "user.ic.key")


def is_public(path: Path) -> bool:
    """Whether a field's value may be shown and journaled in clear: a whitelist (docs/security.md).

    Environment, command, entrypoint, labels, raw.* and everything not named here is private: only that it
    changes is ever said, and the journal keeps a keyed digest.
    """
    if path[0] == "config":
        key = path[1]
        return key.startswith(_PUBLIC_CONFIG) and not key.startswith(_PRIVATE_CONFIG)
    return True
