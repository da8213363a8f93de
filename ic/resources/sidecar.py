"""The health daemon's sidecar as both sides know it: names, places inside it, and the state that it tells.

Pure. The operator's side (planning, acting) makes the sidecar and reads its state; the daemon
(`ic.healthd`) finds its files here and writes its state. docs/healthd.md is this page for people. The steps
that make, fill, enrol and remove it stand here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import names
from ic.resources import instance, kind, volume

INSTANCE = "ic-healthd"
ADDRESS = names.address("instance", INSTANCE)
VOLUME = "ic-healthd"
VOLUME_ADDRESS = names.address("volume", VOLUME)
IMAGE = "docker.io/library/python:3-alpine"
"""The image when none is given: any with Python >= 3.10 will do."""

ZIPAPP = "/ic.pyz"
EXECUTABLE = "/ic-healthd"
"""A program that is no zipapp (`--healthd-binary`): it is started as it is."""
IDENTITY = "/run/secrets/ic-healthd"
"""Where the identity volume is mounted: key.pem, client.pem, server.pin, state.json; 0700."""
STATE_FILE = "/state.json"  # in the volume
LOG_FILE = "/daemon.log"  # in the volume, with LOG_BEFORE the one before it
LOG_BEFORE = ".1"
SOCKET = "/dev/shm/ic-api.sock"  # noqa: S108 - inside the sidecar, which has one user
"""The proxy device's listener: bytes to the server's HTTPS address, TLS inside."""
TOKEN_DIRECTORY = "/dev/shm/ic-token"  # noqa: S105, S108
TOKEN_FILE = "/dev/shm/ic-token/token"  # noqa: S105, S108
METRICS = "/dev/shm/ic-metrics.sock"  # noqa: S108
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""One arena for all threads of the process: with one for each the daemon is a quarter larger [measured]."""
PROJECT_VARIABLE = "IC_HEALTHD_PROJECT"
"""The environment variable that names the Incus project to watch; without it `healthd` is no daemon."""

BUILD = names.BUILD

Word = Literal[
    "starting",  # the process is up, nothing is known yet
    "waiting-for-token",  # no identity, and no token lies there
    "token-refused",  # spent, expired, lost or malformed; the identity that was made is kept
    "unreachable",  # the server does not answer
    "pin-mismatch",  # the server shows another certificate than the pinned one: no byte was sent
    "untrusted",  # the server knows the certificate no more, or refuses its project
    "bad-identity",  # key or certificate is unreadable, too open, mismatched or expired
    "watching",
    "ended",  # told to stop
]


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon says of itself: one file, rewritten when something of it changes.

    `since` in ms since 1970. `detail` is one safe line, the reason of the word. `certificate` and
    `server` are SHA-256 fingerprints (64 hex digits), `build` the digest of the running ic.pyz, `watched`
    how many instances have a healthcheck or a restart policy, `misconfigured` which of them have a key
    that cannot be read (`NAME: KEY`).
    """

    state: Word
    since: int
    detail: str = ""
    project: str = ""
    build: str = ""
    certificate: str = ""
    server: str = ""
    watched: int = 0
    misconfigured: tuple[str, ...] = ()


def home(project: str) -> str:
    """The project beside the stack's, where the sidecar of a restricted one lives."""
    name = f"{project}-healthd"
    return (
        name if len(name) <= names.PROJECT_LIMIT else f"ic-healthd-{names.short_hash(project, 12)}"
    )


def identity_name(project: str, lineage: str) -> str:
    """The name of the certificate, and of the token that brings it."""
    return f"ic-healthd {project} {lineage}".rstrip()


def trust(name: str, projects: tuple[str, ...]) -> str:
    """What an administrator types for the token that brings it."""
    return f'incus config trust add "{name}" --restricted --projects {",".join(projects)} --quiet'


def encode(state: State) -> bytes:
    """The state file's bytes."""
    return msgspec.json.encode(state) + b"\n"


def decode(data: bytes) -> State | None:
    """The state from the file's bytes; None when they are none (cut off, foreign, a newer format)."""
    try:
        return msgspec.json.decode(data, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


# --- what it is made of -------------------------------------------------------------------------------

HTTPS_ADDRESS = ("config", "core.https_address")
LOOPBACK = "127.0.0.1:8443"  # where a server listens that listened nowhere
_PORT = "8443"  # Incus's own, of an address without one
_EVERYWHERE = ("", "0.0.0.0", "::", "*")  # noqa: S104 - recognized, not bound


def reachable(https_address: str) -> str:
    """Where a process on the server's host reaches a server that listens at `core.https_address`.

    One that listens everywhere is reached by loopback, one that listens nowhere is yet to (LOOPBACK).
    """
    if not https_address:
        return LOOPBACK
    host, port = https_address, _PORT
    if https_address.startswith("["):
        host, _, rest = https_address[1:].partition("]")
        port = rest.removeprefix(":") or _PORT
    elif https_address.count(":") == 1:
        host, _, port = https_address.partition(":")
    if host in _EVERYWHERE:
        host = "127.0.0.1"
    return f"[{host}]:{port or _PORT}" if ":" in host else f"{host}:{port or _PORT}"


def command(words: tuple[str, ...], *, runs_itself: bool) -> tuple[str, ...]:
    """What the sidecar runs; `words` are its image's own command line."""
    program = (EXECUTABLE,) if runs_itself else (interpreter(words), ZIPAPP)
    return (*program, "healthd")


def runs_itself(live: kind.Live) -> bool:
    """Whether the program of a sidecar that is there needs no Python."""
    return live.fields.get(("config", "oci.entrypoint"), "").startswith(EXECUTABLE)


def interpreter(words: tuple[str, ...]) -> str:
    """The Python of an image whose command line begins with one, else the one in its PATH."""
    first = words[0] if words else ""
    return first if first.rpartition("/")[2].startswith("python3") else "python3"


def devices(*, root: str, volume_pool: str, connect: str) -> kind.Fields:
    """No network card: the proxy carries bytes to the server's own address, and TLS runs inside of them."""
    bodies = {
        "root": {"type": "disk", "path": "/", "pool": root},
        "api": {
            "type": "proxy",
            "bind": "instance",
            "listen": f"unix:{SOCKET}",
            "mode": "0600",
            "connect": f"tcp:{connect}",
        },
        "identity": {"type": "disk", "pool": volume_pool, "source": VOLUME, "path": IDENTITY},
    }
    return {
        ("devices", name, key): value
        for name, body in bodies.items()
        for key, value in body.items()
    }


def identity_volume(pool: str) -> kind.Resource:
    """The volume that outlives the sidecar's replacement."""
    return volume.resource(address=VOLUME_ADDRESS, name=VOLUME, pool=pool, labels={})


# --- steps ----------------------------------------------------------------------------------------------


def listen(server: str, address: str) -> kind.Step:
    """Let a server that listens nowhere listen."""
    at = names.address("server", server)
    return kind.Step(
        id=f"{at}#update",
        address=at,
        event="srv.update",
        deed=kind.Call(method="PATCH", path="/1.0", body={"config": {HTTPS_ADDRESS[1]: address}}),
        lane="trust",
        record=kind.Record(name=server, fields={HTTPS_ADDRESS: address}),
    )


def create_volume(desired: kind.Resource, *, project: str, needs: tuple[str, ...]) -> kind.Step:
    """Empty, and for root alone."""
    config = {path[1]: value for path, value in sorted(desired.fields.items())}
    return kind.Step(
        id=f"{desired.address}#create",
        address=desired.address,
        event="vol.create",
        deed=kind.Call(
            method="POST",
            path=f"/1.0/storage-pools/{desired.pool}/volumes/custom",
            query={"project": project},
            body={
                "name": desired.name,
                "type": "custom",
                "config": {**config, "initial.mode": "0700"},
            },
        ),
        needs=needs,
        lane="volume",
        record=kind.Record(name=desired.name, pool=desired.pool, fields=desired.fields),
    )


def place(*, project: str, source: str, runs_itself: bool, needs: tuple[str, ...]) -> kind.Step:
    """The program, and the directory that its volume is mounted on: not empty, `/run` stays what it is."""
    return kind.Step(
        id=f"{ADDRESS}#place",
        address=ADDRESS,
        event="inst.place",
        deed=kind.Place(
            path=instance.url(INSTANCE),
            query={"project": project},
            directories=(IDENTITY,),
            file=EXECUTABLE if runs_itself else ZIPAPP,
            source=source,
            mode="0755" if runs_itself else "0644",
        ),
        needs=needs,
        lane="create",
        record=kind.Record(name=INSTANCE),
    )


def enrol(*, home: str, projects: tuple[str, ...], pool: str, needs: tuple[str, ...]) -> kind.Step:
    """Give it its identity. `home` is the project that it lives in, `projects` those that it may work in.

    The lineage completes the name when the step is stamped.
    """
    return kind.Step(
        id=f"{ADDRESS}#enrol",
        address=ADDRESS,
        event="cert.enrol",
        deed=kind.Enrol(
            path=instance.url(INSTANCE),
            query={"project": home},
            name=identity_name(projects[0], ""),
            projects=projects,
            state_path=volume.url(pool, VOLUME),
            state_query={"project": home},
        ),
        needs=needs,
        lane="trust",
        record=kind.Record(name=INSTANCE),
    )


def await_watching(*, home: str, pool: str, needs: tuple[str, ...]) -> kind.Step:
    """Wait until a started daemon that has its identity watches; nothing is journaled."""
    return kind.Step(
        id=f"{ADDRESS}#watching",
        address=ADDRESS,
        event="",
        deed=kind.AwaitWatching(
            path=instance.url(INSTANCE),
            query={"project": home},
            state_path=volume.url(pool, VOLUME),
            state_query={"project": home},
        ),
        needs=needs,
        lane="trust",
    )


def revoke(*, projects: tuple[str, ...]) -> kind.Step:
    """Take its rights away: the first thing of its removal."""
    return kind.Step(
        id=f"{ADDRESS}#revoke",
        address=ADDRESS,
        event="cert.revoke",
        deed=kind.Revoke(name=identity_name(projects[0], ""), projects=projects),
        lane="trust",
        record=kind.Record(name=INSTANCE),
    )
