"""The health daemon's sidecar as both sides know it: names, places inside it, and the state that it tells.

Pure. The operator's side (planning, acting) makes the sidecar and reads its state; the daemon
(`ic.healthd`) finds its files here and writes its state. docs/healthd.md is this page for people.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import names

INSTANCE = "ic-healthd"
ADDRESS = names.address("instance", INSTANCE)
VOLUME = "ic-healthd"
VOLUME_ADDRESS = names.address("volume", VOLUME)
IMAGE = "docker.io/library/python:3-alpine"
"""The image when none is given: any with Python >= 3.10 will do."""

ZIPAPP = "/ic.pyz"
IDENTITY = "/run/secrets/ic-healthd"
"""Where the identity volume is mounted: key.pem, client.pem, server.pin, state.json; 0700."""
STATE_FILE = "/state.json"  # in the volume
SOCKET = "/dev/shm/ic-api.sock"  # noqa: S108 - inside the sidecar, which has one user
"""The proxy device's listener: bytes to the server's HTTPS address, TLS inside."""
TOKEN_DIRECTORY = "/dev/shm/ic-token"  # noqa: S105, S108
TOKEN_FILE = "/dev/shm/ic-token/token"  # noqa: S105, S108
METRICS = "/dev/shm/ic-metrics.sock"  # noqa: S108
PROJECT_VARIABLE = "IC_HEALTHD_PROJECT"
"""The environment variable that names the Incus project to watch; without it `healthd` is no daemon."""

BUILD = "user.ic.build"  # on the sidecar: the digest of the ic.pyz that was pushed into it

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


def identity_name(project: str, lineage: str) -> str:
    """The name of the certificate, and of the token that brings it."""
    return f"ic-healthd {project} {lineage}"


def encode(state: State) -> bytes:
    """The state file's bytes."""
    return msgspec.json.encode(state) + b"\n"


def decode(data: bytes) -> State | None:
    """The state from the file's bytes; None when they are none (cut off, foreign, a newer format)."""
    try:
        return msgspec.json.decode(data, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
