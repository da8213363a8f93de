"""The health daemon's sidecar as a run sets it up: a file put into it, an identity given, rights taken away.

Enters: the deeds `Place`, `Enrol` and `Revoke`, and the tools of a run. Leaves: what they brought, or an
IcError whose reason is the daemon's own. Not pure; runs on pool threads and keeps no state.

A token is a secret for as long as it is not used: it goes from the server's answer into a file of the
sidecar's memory, and nowhere else. Whatever ends the waiting for its use cancels it (docs/healthd.md).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat as modes
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote

import msgspec

from ic import errors, units
from ic.incus import client as incus
from ic.resources import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.engine.tools import Tools
    from ic.resources import kind

Body = dict[str, Any]

FIRST_LOOK, LONGEST_LOOK = 0.05, 0.4  # seconds between looks at the state file
TOKEN_LIMIT = 64 * 1024  # bytes of a token's file
LAST_WORDS_SECONDS = 2.0
LOG_LINES = 10  # of a daemon's log, in an error
RESTART_SECONDS = 10  # for a process that is told to end; then it is ended by force
_UNMENDED = ("waiting-for-token", "token-refused", "untrusted", "pin-mismatch", "bad-identity")
NEVER_EXPIRES = "0001-01-01T00:00:00Z"
REMEDY = (
    "the sidecar's image needs Python 3.10 or newer: `--healthd-image python:3-alpine`, "
    "or `x-ic: {healthd: {image: ...}}` in the compose file; `--no-healthd` goes without it"
)


OWN_REMEDY = (
    "the program of `--healthd-binary` is started as it is: it has to be one for the server's machine, "
    "and what it stands on (libraries, the interpreter after `#!`) has to be in the sidecar's image"
)


class Server(Protocol):
    """The part of `ic.incus.client.Client` that taking rights away uses."""

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The metadata of a GET."""
        ...

    def call(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        """One request that changes something."""
        ...


# --- a file ---------------------------------------------------------------------------------------


def place(tools: Tools, deed: kind.Place) -> None:
    """Put a file of this machine into an instance, the directories to it first. Done twice, it is the same.

    Raises PlanError when the file cannot be read.
    """
    try:
        with open(deed.source, "rb") as file:
            content = file.read()
    except OSError as error:
        raise errors.PlanError(
            f"cannot put {deed.source} into {_noun(deed.path)}: {error.strerror}",
            hint="`--healthd-binary PATH` names another program",
        ) from error
    wanted = [*deed.directories, os.path.dirname(deed.file)]
    for directory in dict.fromkeys(above for one in wanted for above in _chain(one)):
        tools.guard()
        if tools.client.file_stat(deed.path, directory, deed.query) is None:
            root = incus.FileStat(type="directory", mode=0o755, uid=0, gid=0)
            tools.client.file_push(deed.path, directory, deed.query, stat=root)
    tools.guard()
    owner = incus.FileStat(type="file", mode=int(deed.mode, 8), uid=0, gid=0)
    tools.client.file_push(deed.path, deed.file, deed.query, stat=owner, content=content)


def _chain(directory: str) -> list[str]:
    """A directory and all above it, the root aside, the highest first."""
    parts = [part for part in directory.split("/") if part]
    return ["/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _noun(path: str) -> str:
    return f"instance {unquote(path.rpartition('/')[2])}"


# --- rights ---------------------------------------------------------------------------------------


def revoke(client: Server, deed: kind.Revoke, guard: Callable[[], None]) -> None:
    """Take rights away: no certificate and no pending token of this name and these projects is left.

    Raises Forbidden, naming what an administrator has to do, for who may not edit the server's trust.
    """
    cancel_tokens(client, deed.name, deed.projects, guard)
    for fingerprint in certificates(client, deed.name, deed.projects):
        guard()
        try:
            client.call("DELETE", incus.path("certificates", fingerprint))
        except errors.NotFound:
            continue
        except errors.Forbidden as error:
            raise errors.Forbidden(
                f"cannot revoke the health daemon's certificate {fingerprint[:12]}: "
                "only an administrator of the server may",
                hint=f"ask one to run `incus config trust remove {fingerprint[:12]}`",
            ) from error


def certificates(client: Server, name: str, projects: tuple[str, ...]) -> tuple[str, ...]:
    """The fingerprints of trusted certificates of this name that are restricted to exactly these projects.

    One whose projects are all gone is no use to anybody, and is counted as well.
    """
    listed = cast("list[Body]", client.get("/1.0/certificates", {"recursion": "1"}) or [])
    return tuple(
        str(one["fingerprint"])
        for one in listed
        if one.get("name") == name
        and one.get("restricted")
        and tuple(sorted(one.get("projects") or ())) in (tuple(sorted(projects)), ())
    )


def cancel_tokens(
    client: Server,
    name: str,
    projects: tuple[str, ...],
    guard: Callable[[], None] = lambda: None,
) -> int:
    """Cancel the pending tokens of this name that are restricted to exactly these projects; how many."""
    groups = cast(
        "dict[str, list[Body]]",
        client.get("/1.0/operations", {"recursion": "1", "project": "default"}) or {},
    )
    found = 0
    for operation in [one for group in groups.values() for one in group]:
        asked = _asked(operation)
        if (
            operation.get("class") == "token"
            and operation.get("status_code") in (None, 103, 105, 108)
            and asked.get("name") == name
            and asked.get("restricted")
            and sorted(asked.get("projects") or ()) == sorted(projects)
        ):
            guard()
            _cancel(client, str(operation["id"]))
            found += 1
    return found


def _asked(operation: Body) -> Body:
    """The request that a token's operation was made by."""
    metadata = cast("Body", operation.get("metadata") or {})
    return cast("Body", metadata.get("request") or {})


def _cancel(client: Server, operation: str) -> None:
    try:
        client.call("DELETE", incus.path("operations", operation))
    except errors.NotFound:
        return  # used, or lost with the daemon that had it


# --- identity -------------------------------------------------------------------------------------


class _Token(msgspec.Struct, frozen=True):
    """A token's text, and the operation that is cancelled to take it back (empty: not ours to cancel)."""

    text: bytes
    operation: str = ""


def enrol(tools: Tools, deed: kind.Enrol) -> dict[str, str]:
    """Give the started daemon its identity and wait until it watches; the certificate's fingerprint.

    Raises OperationFailed (E_HEALTHD) with the daemon's own reason when it does not get there in time, when
    its process ends, or when what a given token brought is not restricted to these projects; Forbidden for
    who may make no token; Interrupted. In every case nothing of the token is left.
    """
    enrolment = _Enrolment(tools, deed)
    if tools.token_file:
        return enrolment.run(lambda: _Token(read_token(tools.token_file)))
    revoke(tools.client, _as_revoke(deed), tools.guard)
    try:
        return enrolment.run(lambda: _made(tools, deed))
    except _Refused:  # a token is lost with the daemon that made it: one more
        return enrolment.run(lambda: _made(tools, deed))


def _as_revoke(deed: kind.Enrol) -> kind.Revoke:
    from ic.resources import kind

    return kind.Revoke(name=deed.name, projects=deed.projects)


def _made(tools: Tools, deed: kind.Enrol) -> _Token:
    """A new token of the server, restricted to the projects. Raises Forbidden with what is to be done."""
    body: Body = {
        "name": deed.name,
        "type": "client",
        "token": True,
        "restricted": True,
        "projects": list(deed.projects),
    }
    tools.guard()
    try:
        reply = tools.client.send("POST", "/1.0/certificates", None, body)
    except errors.TimedOut:
        # The answer is lost, and with it the secret: what was made is taken back, and made again.
        cancel_tokens(tools.client, deed.name, deed.projects, tools.guard)
        reply = tools.client.send("POST", "/1.0/certificates", None, body)
    except errors.Forbidden as error:
        raise errors.Forbidden(
            "cannot give the health daemon an identity: only an administrator of the server may",
            details=(f"an administrator runs: {sidecar.trust(deed.name, deed.projects)}",),
            hint="write the token that it prints into a file of mode 0600 and give it with "
            "`--healthd-token FILE`; or go without the daemon: `--no-healthd`",
        ) from error
    operation = cast("Body", reply.metadata or {})
    brought = cast("Body", operation.get("metadata") or {})
    text = encoded(
        {
            "client_name": deed.name,
            "fingerprint": brought.get("fingerprint", ""),
            "addresses": brought.get("addresses") or [],
            "secret": brought.get("secret", ""),
            "expires_at": brought.get("expiresAt") or NEVER_EXPIRES,
        }
    )
    return _Token(text, str(operation.get("id") or reply.operation.rpartition("/")[2]))


def encoded(fields: Mapping[str, object]) -> bytes:
    """A token as a client takes it: base64 of JSON. Pure."""
    return base64.b64encode(msgspec.json.encode(fields)) + b"\n"


def read_token(path: str) -> bytes:
    """The token in a file that an administrator's was written to. Its value is never part of an error.

    Raises UsageError for a file that others may read, that cannot be read, or that holds no token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise errors.UsageError(f"cannot read token file {path}: {error.strerror}") from error
    try:
        _check_token_file(path, os.fstat(descriptor))
        text = os.read(descriptor, TOKEN_LIMIT)
    finally:
        os.close(descriptor)
    if not _is_token(text):
        raise errors.UsageError(
            f"cannot use token file {path}: what it holds is no token of Incus",
            hint="it holds the one line that `incus config trust add ... --quiet` prints",
            code="E_TOKEN_FORMAT",
        )
    return text.strip() + b"\n"


def _check_token_file(path: str, found: os.stat_result) -> None:
    if not modes.S_ISREG(found.st_mode):
        raise errors.UsageError(f"cannot read token file {path}: it is no regular file")
    if found.st_mode & 0o077:
        raise errors.UsageError(
            f"cannot use token file {path}: others may read it (mode {found.st_mode & 0o777:04o})",
            hint=f"chmod 600 {path}",
            code="E_TOKEN_MODE",
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise errors.UsageError(
            f"cannot use token file {path}: it belongs to somebody else", code="E_TOKEN_MODE"
        )


def _is_token(text: bytes) -> bool:
    try:
        fields: object = msgspec.json.decode(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    known = cast("dict[str, object]", fields)
    return all(isinstance(known.get(key), str) and known[key] for key in ("secret", "fingerprint"))


class _Refused(errors.OperationFailed):
    """The daemon could not use the token that it was given; another one may do."""

    code = "E_HEALTHD"


class _Setup:
    """A started sidecar that is to come to work: whether it lives, and what it says.

    `doing` says in an error what could not be done: "set up", "start".
    """

    def __init__(
        self, tools: Tools, deed: kind.Enrol | kind.AwaitWatching, doing: str = "set up"
    ) -> None:
        self.tools = tools
        self.doing = doing
        self.client = tools.client
        self.path, self.query = deed.path, deed.query
        self.volume, self.volume_query = deed.state_path, deed.state_query
        self.end = tools.clock() + deed.patience_ms / 1000
        self.since = 0  # when this life of it began, in ms since 1970
        self.started = self.alive()

    def alive(self) -> str:
        """When the sidecar was started. Raises OperationFailed when it is not running any more."""
        found = cast("Body", self.client.get(self.path, self.query))
        self.since = self.since or units.time_ms(str(found.get("last_used_at", ""))) or 0
        if found.get("status") != "Running":
            raise self.ended()
        return str(found.get("last_used_at", ""))

    def ended(self) -> errors.OperationFailed:
        """The error for a process that has ended, with its last words."""
        found = cast("Body", self.client.get(self.path, self.query))
        entrypoint = str(cast("Body", found.get("config") or {}).get("oci.entrypoint", ""))
        return errors.OperationFailed(
            f"cannot {self.doing} the health daemon: "
            f"its process {_end(self.client, self.path, self.query)}",
            details=self._last_words(),
            hint=OWN_REMEDY if entrypoint.startswith(sidecar.EXECUTABLE) else REMEDY,
            code="E_HEALTHD",
        )

    def _last_words(self) -> tuple[str, ...]:
        """What the ended process wrote. While the server puts an instance away it has no console to show.

        A console's bytes go to its first reader, so what it has logged is told from its own file as well.
        """
        until = self.tools.clock() + LAST_WORDS_SECONDS
        while True:
            said = self.client.last_output(self.path, self.query)
            if said or self.tools.clock() > until:
                logged = logged_since(self.client, self.volume, self.volume_query, self.since)
                return (*(one for one in logged if one not in said), *said)
            self.tools.sleep(0.1)

    def state(self) -> sidecar.State | None:
        """What it says of itself."""
        return read_state(self.client, self.volume, self.volume_query)

    def turn(self, pause: float, state: sidecar.State | None) -> float:
        """Between two looks: raise when the waiting is over, else sleep; the next pause."""
        if self.tools.interrupted():
            raise errors.Interrupted(f"cannot {self.doing} the health daemon: interrupted")
        if self.alive() != self.started:
            raise self.ended()
        if self.tools.clock() + pause > self.end:
            raise self.failure(state)
        self.tools.sleep(pause)
        return min(pause * 1.5, LONGEST_LOOK)

    def failure(
        self,
        state: sidecar.State | None,
        of: type[errors.OperationFailed] = errors.OperationFailed,
        *done: str,
    ) -> errors.OperationFailed:
        """The error for a daemon that lives and does not watch."""
        return of(
            f"cannot {self.doing} the health daemon: {trouble(state)}",
            details=(
                *done,
                *logged_since(self.client, self.volume, self.volume_query, self.since),
            ),
            hint="`ic healthd logs` shows what it says; the next `up` or `apply` tries again",
            code="E_HEALTHD",
        )


def await_watching(tools: Tools, deed: kind.AwaitWatching) -> None:
    """Wait until a started daemon that has its identity watches.

    Raises OperationFailed (E_HEALTHD) with its own reason when its process ends, when it comes to a state
    that only another run mends, or when it does not get there in time; Interrupted.
    """
    setup = _Setup(tools, deed, "start")
    pause = FIRST_LOOK
    while True:
        state = read_state(tools.client, deed.state_path, deed.state_query, setup.since)
        if state is not None and state.state == "watching":
            return
        if state is not None and state.state in _UNMENDED:
            raise setup.failure(state)
        pause = setup.turn(pause, state)


def restart(tools: Tools, found: Found) -> None:
    """Start a sidecar that was found anew, whatever it does now; a process that does not end is ended.

    Done when the server has started it, which is before it watches (`await_watching`).
    """
    path = incus.path("instances", sidecar.INSTANCE)

    def power() -> str:
        return str(cast("Body", tools.client.get(path, found.query)).get("status", ""))

    def change(action: str, *, force: bool = False) -> None:
        body: Body = {"action": action, "timeout": RESTART_SECONDS, "force": force}
        tools.client.call("PUT", f"{path}/state", found.query, body, guard=tools.guard)

    now = power()
    if now == "Stopped":
        change("start")
        return
    if now == "Frozen":
        change("unfreeze")
    try:
        change("restart")
    except errors.OperationFailed:
        if power() != "Running":
            raise
        change("restart", force=True)


class _Enrolment(_Setup):
    """One sidecar that is being given an identity."""

    def __init__(self, tools: Tools, deed: kind.Enrol) -> None:
        super().__init__(tools, deed)
        self.deed = deed

    def run(self, token: Callable[[], _Token]) -> dict[str, str]:
        """Hand one token over and wait for its use. Raises _Refused when another one may help."""
        before = self.state()
        self.end = self.tools.clock() + self.deed.patience_ms / 1000
        given = token()
        try:
            self._hand_over(given.text)
            return self._watching(before)
        except BaseException:
            self._take_back(given)
            raise

    # --- the token's way ---

    def _hand_over(self, token: bytes) -> None:
        """A directory that only root opens, then the file in it: a push shows an empty 0644 file first."""
        path, query = self.deed.path, self.deed.query
        directory = incus.FileStat(type="directory", mode=0o700, uid=0, gid=0)
        file = incus.FileStat(type="file", mode=0o400, uid=0, gid=0)
        try:
            self._remove(sidecar.TOKEN_FILE)
            self.tools.guard()
            self.client.file_push(path, sidecar.TOKEN_DIRECTORY, query, stat=directory)
            self.client.file_push(path, sidecar.TOKEN_FILE, query, stat=file, content=token)
        except errors.NotFound as error:
            self.alive()  # its memory is gone with its process
            raise errors.OperationFailed(
                f"cannot hand the health daemon its token: no {sidecar.TOKEN_DIRECTORY} in its image",
                hint=REMEDY,
                code="E_HEALTHD",
            ) from error

    def _take_back(self, token: _Token) -> None:
        """Nobody shall use it any more. What cannot be reached now is cancelled by the next run."""

        with contextlib.suppress(errors.IcError):
            if token.operation:
                _cancel(self.client, token.operation)
        with contextlib.suppress(errors.IcError):
            self._remove(sidecar.TOKEN_FILE)

    def _remove(self, file: str) -> None:
        query = {**self.deed.query, "path": file}
        try:
            self.client.call("DELETE", f"{self.deed.path}/files", query)
        except errors.NotFound:
            return

    # --- waiting ---

    def _watching(self, before: sidecar.State | None) -> dict[str, str]:
        """Wait until the daemon watches with a certificate that the server knows as the token's."""
        pause = FIRST_LOOK
        while True:
            state = self.state()
            if state is not None and state.state == "watching" and self._is_trusted(state):
                return {"certificate": state.certificate}
            if state is not None and state != before and state.state == "token-refused":
                raise self.failure(state, _Refused)
            pause = self.turn(pause, state)

    def failure(
        self,
        state: sidecar.State | None,
        of: type[errors.OperationFailed] = errors.OperationFailed,
        *done: str,
    ) -> errors.OperationFailed:
        """The same; whatever becomes of it, nobody can use the token any more."""
        return super().failure(state, of, "the token was cancelled", *done)

    def _is_trusted(self, state: sidecar.State) -> bool:
        """Whether the server knows the daemon's certificate, restricted as it has to be.

        Raises OperationFailed for one with more rights: it is revoked, where that is allowed.
        """
        at = incus.path("certificates", state.certificate)
        try:
            found = cast("Body", self.client.get(at))
        except errors.NotFound:
            return False
        projects = sorted(cast("list[str]", found.get("projects") or []))
        if found.get("restricted") and projects == sorted(self.deed.projects):
            return True

        with contextlib.suppress(errors.IncusError):
            self.client.call("DELETE", at)
        raise errors.OperationFailed(
            "cannot set up the health daemon: the token that was given brings more rights, or others, "
            f"than those in project {', '.join(self.deed.projects)}",
            hint=f"an administrator runs: {sidecar.trust(self.deed.name, self.deed.projects)}",
            code="E_TOKEN_RIGHTS",
        )


def with_remedy(error: errors.IcError, address: str) -> errors.IcError:
    """An entrypoint that cannot be run: of the sidecar it is the interpreter that is missing. Pure."""
    if address != sidecar.ADDRESS or error.code != "E_ENTRYPOINT":
        return error
    hint = OWN_REMEDY if f" {sidecar.EXECUTABLE} " in error.summary else REMEDY
    return type(error)(error.summary, details=error.details, hint=hint, code=error.code)


# --- where it is ----------------------------------------------------------------------------------


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A sidecar on the server: its power, and the volume with its state (empty: it has none)."""

    power: str
    query: dict[str, str]
    volume: str = ""
    build: str = ""


def find(client: incus.Client, project: str) -> Found | None:
    """The sidecar that watches over a project; None when there is none."""
    for lived in (project, sidecar.home(project)):
        query = {"project": lived}
        try:
            body = cast("Body", client.get(incus.path("instances", sidecar.INSTANCE), query))
        except (errors.NotFound, errors.Forbidden):
            continue
        return found(body, query)
    return None


def found(body: Mapping[str, Any], query: Mapping[str, str]) -> Found:
    """The sidecar of an instance's body. Pure."""
    devices = cast("dict[str, dict[str, str]]", body.get("devices") or {})
    config = cast("dict[str, str]", body.get("config") or {})
    volume = next(
        (
            incus.path("storage-pools", one["pool"], "volumes", "custom", one["source"])
            for one in devices.values()
            if one.get("path") == sidecar.IDENTITY and one.get("pool") and one.get("source")
        ),
        "",
    )
    return Found(
        power=str(body.get("status", "")),
        query=dict(query),
        volume=volume,
        build=config.get(sidecar.BUILD, ""),
    )


# --- its state ------------------------------------------------------------------------------------


def read_state(
    client: incus.Client, volume: str, query: Mapping[str, str], since: int = 0
) -> sidecar.State | None:
    """What the daemon says of itself, read from its volume; None when it has said nothing (readable).

    What it said before `since` (ms since 1970, its last start) is of an earlier life, and says nothing.
    """
    try:
        state = sidecar.decode(client.file_get(volume, sidecar.STATE_FILE, query)[1])
    except errors.NotFound:
        return None
    return state if state is not None and state.since >= since else None


def why_not(client: incus.Client, volume: str, query: Mapping[str, str]) -> str:
    """Why the daemon of a volume does not watch now, in its own words; empty when it does."""
    path = incus.path("instances", sidecar.INSTANCE)
    try:
        body = cast("Body", client.get(path, query))
    except errors.NotFound:
        return "its sidecar is gone"
    if body.get("status") != "Running":
        return f"its process {_end(client, path, query)}"
    since = units.time_ms(str(body.get("last_used_at", ""))) or 0
    state = read_state(client, volume, query, since)
    return "" if state is not None and state.state == "watching" else trouble(state)


def _end(client: incus.Client, path: str, query: Mapping[str, str]) -> str:
    """`ended with exit code 3`, of an instance that does not run."""
    from ic.incus import lxclog

    code = lxclog.exit_code(client.log_file(path, "lxc.log", query))
    return "ended" if code is None else f"ended with exit code {code}"


def logged_since(
    client: incus.Client, volume: str, query: Mapping[str, str], since: int
) -> tuple[str, ...]:
    """The last lines of the daemon's log that were written since a time (ms since 1970); none without one."""
    try:
        raw = client.file_get(volume, sidecar.LOG_FILE, query)[1]
    except errors.IncusError:
        return ()
    lines = raw.decode(errors="replace").splitlines()
    return tuple(line for line in lines[-LOG_LINES:] if _written(line) >= since)


def _written(line: str) -> int:
    """When a line of the log was written, in ms since 1970; 0 for what is none. Pure."""
    try:
        found: object = msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return 0
    text = cast("dict[str, object]", found).get("time") if isinstance(found, dict) else None
    return units.time_ms(str(text)) or 0


def trouble(state: sidecar.State | None) -> str:
    """Why a daemon does not watch, in its own words. Pure."""
    if state is None:
        return "it has said nothing"
    return f"{state.state}: {state.detail}" if state.detail else f"it is {state.state}"
