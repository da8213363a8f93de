"""Names: stack, service and replica to Incus names, addresses, and every `user.*` key that ic owns.

Pure. An *address* is the logical name of one resource, the same in plan, history and stamps:
`project:NAME`, `image:REF`, `network:NAME`, `volume:NAME`, `instance:SERVICE/N`, `server:NAME`.
"""

from __future__ import annotations

import re

from ic import errors

# --- keys in the Incus project's config (docs/journal-format.md) ---
HEAD = "user.ic.head"
KEY = "user.ic.key"
SEGMENT_PREFIX = "user.ic.j."
SNAPSHOT_PREFIX = "user.ic.s."
BAD_PREFIX = "user.ic.bad."
# --- keys in the run object, a profile ---
HOLD = "user.ic.hold"
HEARTBEAT = "user.ic.hb"
WAL = "user.ic.wal"
GENERATION = "user.ic.gen"  # the generation that wrote the holder
TIP = "user.ic.tip"  # where the lines of the run object end: number and chain
# --- stamps on every managed resource ---
STACK = "user.ic.stack"
LINEAGE = "user.ic.lin"
RESOURCE = "user.ic.res"
EVENT = "user.ic.ev"  # in the health stream, a profile: its newest lines
DIGEST = "user.ic.d"
WANT = "user.ic.want"
# --- what planning needs to find again on an instance or a volume ---
IMAGE = "user.ic.image"  # "REF@DIGEST" of the image the instance was made from
USER = "user.ic.user"  # the user as text, when it is a name that only the image's passwd knows
SEEDED = "user.ic.seed"  # on a volume: filled from the image, and from which one
SERVICE = "user.ic.service"
AFTER = "user.ic.after"  # the services it starts after: the order of stopping without a file
HELD = (
    "user.ic.held"  # the generation that stops and starts this instance: hands off for ic-healthd
)
SIGNAL = "user.ic.signal"  # in a restricted project: the stop signal, which ic gives itself
GRACE = "user.ic.grace"  # there too: seconds that an instance has to end in
BUILD = "user.ic.build"  # on the sidecar: the digest of the ic.pyz that was put into it
HEALTH = "user.ic.health"  # ic-healthd's claims on this instance: written by compare-and-swap
# --- shared with other tools ---
RESTART = "user.restart"
HEALTH_PREFIX = "user.healthcheck."
HEALTH_TEST = "user.healthcheck.test"
HEALTH_INTERVAL = "user.healthcheck.interval"
HEALTH_TIMEOUT = "user.healthcheck.timeout"
HEALTH_RETRIES = "user.healthcheck.retries"
HEALTH_START_PERIOD = "user.healthcheck.start_period"
HEALTH_START_INTERVAL = "user.healthcheck.start_interval"
HEALTH_ON_UNHEALTHY = "user.healthcheck.on_unhealthy"
HEALTH_STOPPED = "user.healthcheck.stopped"  # "true" pauses watching
HEALTH_STATUS = "user.healthcheck.status"  # written by ic-healthd alone
HEALTH_OUTPUT = "user.healthcheck.output"  # the last line of the probe that changed the status
HEALTH_DAEMON = "user.healthcheck.daemon"  # "true" on the sidecar itself
LABEL_PREFIX = "user.label."

INSTANCE_LIMIT = 63
PROJECT_LIMIT = 64
VOLUME_LIMIT = 64
BRIDGE_LIMIT = 15

_NOT_DNS = re.compile(r"[^a-z0-9-]+")


def address(kind: str, name: str) -> str:
    """The address of a resource: `kind:name`."""
    return f"{kind}:{name}"


def kind_of(address: str) -> str:
    """`instance` of `instance:web/1`."""
    return address.partition(":")[0]


def name_of(address: str) -> str:
    """`web/1` of `instance:web/1`."""
    return address.partition(":")[2]


def short_hash(text: str, length: int = 8) -> str:
    """The first hex digits of a text's SHA-256: stable names, not secrecy."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _dns_label(text: str, what: str, limit: int) -> str:
    name = _NOT_DNS.sub("-", text.lower()).strip("-")
    if not name or name[0].isdigit():
        name = f"s-{name}" if name else ""
    if not name:
        raise errors.UsageError(f"cannot name {what} {text!r} in Incus: no usable character in it")
    if len(name) > limit:
        raise errors.UsageError(
            f"cannot name {what} {text!r} in Incus: {len(name)} characters, at most {limit}",
            hint="choose a shorter name",
        )
    return name


def project(stack: str) -> str:
    """The Incus project of a stack: its name, `_` becoming `-` (Incus refuses underscores)."""
    name = stack.replace("_", "-").strip("-")
    if len(name) > PROJECT_LIMIT:
        raise errors.UsageError(
            f"cannot name stack {stack!r} in Incus: {len(name)} characters, at most {PROJECT_LIMIT}",
            hint="choose a shorter name with -p or name:",
        )
    return name


def instance(service: str, replica: int, container_name: str | None = None) -> str:
    """The instance of a replica: SERVICE for the first, SERVICE-n for the others.

    `container_name` is honoured where it stands (with `_` and `.` mapped: an instance name is a DNS label).
    Raises UsageError when nothing usable is left or it is longer than 63 characters.
    """
    if container_name is not None:
        return _dns_label(container_name, "container", INSTANCE_LIMIT)
    text = service if replica == 1 else f"{service}-{replica}"
    return _dns_label(text, "service", INSTANCE_LIMIT)


def bridge(stack: str, network: str) -> str:
    """The bridge of a compose network: STACK-NETWORK, hashed when over 15 characters (a kernel limit)."""
    text = f"{stack}-{network}".replace("_", "-").replace(".", "-")
    if len(text) <= BRIDGE_LIMIT:
        return text
    return f"ic-{short_hash(f'{stack}/{network}', 12)}"


def anonymous_volume(service: str, replica: int, target: str) -> str:
    """The anonymous volume of one replica at one target, as docker has one per container."""
    stem = _NOT_DNS.sub("-", service.lower()).strip("-")[:40]
    return f"anon-{stem}-{replica}-{short_hash(target, 8)}"


def device(prefix: str, text: str) -> str:
    """A device name that stays the same for the same text: `vol-1a2b3c4d`."""
    return f"{prefix}-{short_hash(text, 8)}"
