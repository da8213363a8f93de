"""Finds and reads what a stack is made of: compose files, their companions, env files; nothing else.

An edge: it touches the file system, read-only. Options and environment in; names, directory, variables and
bytes out. Reading is bounded: in bytes for a file and for all of them, in seconds for a pipe that nobody
writes to. Raises UsageError where something named cannot be read.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import msgspec

from ic import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.fields import tree

DEFAULT_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
COMPANION_SUFFIXES = (".incus.yaml", ".incus.yml")
STDIN = "-"

PIPE_WAIT_S = 10.0  # how long pipes may stay without a writer, all of them together
WRITER_WAIT_S = 60.0  # how long a pipe may stay silent while somebody holds its other end
FILE_LIMIT = 5 * 2**20
TOTAL_LIMIT = 32 * 2**20
_REMOTE = ("https://", "http://", "git://", "ssh://", "oci://", "oci:", "git@", "github.com/")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of the stack; everything may be left out.

    `services` are those named as arguments: their profiles become active. `for_running` also makes the checks
    that matter only when the stack is to run (host ports published twice); `ic config` leaves them out.
    `companions` takes NAME.incus.yaml beside each file; None leaves it to IC_INCUS_FILES. The last six are
    what `ic config` can leave out; without `interpolate` only the tree of the stack is made, or with `whole`
    all that can be made of it.
    """

    files: tuple[str, ...] = ()
    project_name: str | None = None
    project_directory: str | None = None
    env_files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    cwd: str = "."
    for_running: bool = True
    companions: bool | None = None
    interpolate: bool = True
    whole: bool = False
    normalize: bool = True
    resolve_paths: bool = True
    consistency: bool = True
    resolve_env: bool = True
    resolve_named_env: bool = True


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found before any compose file is parsed. Paths are absolute, or `-`."""

    files: tuple[str, ...]
    companions: tuple[str, ...]  # those of `files` that were not named
    directory: str
    env: dict[str, str]
    cwd: str


# --- finding ------------------------------------------------------------------------------------------


def find(options: Options, env: Mapping[str, str], disk: Disk, report: tree.Report) -> Found:
    """Files, directory and variables, in docker compose's order.

    `.env` is looked for in the project directory (or the first file's, or here), and once more beside the
    files found by upward search; what is set already stays. `.env` may itself set COMPOSE_FILE.
    """
    cwd = disk.cwd
    directory = os.path.join(cwd, options.project_directory) if options.project_directory else ""
    directory = os.path.normpath(directory) if directory else ""
    if directory and os.path.exists(directory) and not os.path.isdir(directory):
        raise errors.UsageError(
            f"cannot use --project-directory {options.project_directory}: it is no directory",
            code="E_FILE",
        )
    files = tuple(_absolute(path, cwd) for path in options.files)
    variables = dict(env)
    reader = _EnvReader(variables, disk, report)
    given = options.env_files
    if not given and env.get("COMPOSE_ENV_FILES"):
        given = tuple(path for path in env["COMPOSE_ENV_FILES"].split(",") if path)
    if given:
        reader.named(given)
    else:
        reader.default(directory or _home_of(files, cwd), env)
    if not files and "COMPOSE_FILE" in variables:
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        named = variables["COMPOSE_FILE"].split(separator)
        if "" in named:
            raise errors.UsageError(
                f"cannot read COMPOSE_FILE: {variables['COMPOSE_FILE']!r} names a file without a name",
                hint="unset it to have the files found",
                code="E_FILE",
            )
        files = tuple(_absolute(path, cwd) for path in named)
    if not files:
        files = _search(directory or cwd, report)
    if not given:
        reader.default(directory or _home_of(files, cwd), variables)
    with_companions = files
    if _wants_companions(options.companions, variables):
        with_companions = _with_companions(files, report)
    return Found(
        files=with_companions,
        companions=tuple(path for path in with_companions if path not in files),
        directory=directory or _home_of(files, cwd),
        env=variables,
        cwd=cwd,
    )


def _absolute(path: str, cwd: str) -> str:
    if path == STDIN:
        return path
    if is_remote(path):
        raise errors.UsageError(
            f"cannot read {path}: compose files are read from this machine alone",
            hint="fetch it first and name the copy",
            code="E_FILE_REMOTE",
        )
    return os.path.normpath(os.path.join(cwd, path))


def is_remote(path: str) -> bool:
    """Whether docker compose would fetch a file of this name from elsewhere."""
    return path.startswith(_REMOTE) or path.partition("#")[0].endswith(".git")


def _home_of(files: tuple[str, ...], cwd: str) -> str:
    return next((os.path.dirname(path) for path in files if path != STDIN), cwd)


def _search(start: str, report: tree.Report) -> tuple[str, ...]:
    at = start
    while True:
        here = [path for name in DEFAULT_NAMES if os.path.exists(path := os.path.join(at, name))]
        if here:
            over = [
                path for name in OVERRIDE_NAMES if os.path.exists(path := os.path.join(at, name))
            ]
            _warn_of_several(here, report)
            _warn_of_several(over, report)
            return (here[0], *over[:1])
        parent = os.path.dirname(at)
        if parent == at:
            return ()
        at = parent


def _warn_of_several(paths: list[str], report: tree.Report) -> None:
    if len(paths) > 1:
        names = ", ".join(os.path.basename(path) for path in paths)
        report.warn(
            "W_FILES",
            f"several compose files in {os.path.dirname(paths[0])}: {names}; "
            f"{os.path.basename(paths[0])} is used",
            None,
        )


def _wants_companions(given: bool | None, variables: Mapping[str, str]) -> bool:  # noqa: FBT001 - three states
    if given is not None:
        return given
    word = variables.get("IC_INCUS_FILES") or "auto"
    if word not in ("auto", "never"):
        raise errors.UsageError(
            f"cannot read IC_INCUS_FILES: {word!r} is neither auto nor never",
            hint="leave it out, or set it to never",
        )
    return word == "auto"


def _with_companions(files: tuple[str, ...], report: tree.Report) -> tuple[str, ...]:
    """The files, each followed by the NAME.incus.yaml beside it; one that is named itself is not added."""
    taken = set(files)
    found: list[str] = []
    for path in files:
        found.append(path)
        if path == STDIN or path.endswith(COMPANION_SUFFIXES):
            continue
        stem = os.path.splitext(path)[0]
        beside = [one for end in COMPANION_SUFFIXES if os.path.exists(one := stem + end)]
        if not taken.isdisjoint(beside):
            continue
        _warn_of_several(beside, report)
        found += beside[:1]
        taken.update(beside)
    return tuple(found)


class _EnvReader:
    """Reads env files into the variables; a variable that is set already keeps its value."""

    def __init__(self, variables: dict[str, str], disk: Disk, report: tree.Report) -> None:
        self.variables = variables
        self.process = dict(variables)
        self.disk = disk
        self.report = report
        self.seen: set[str] = set()

    def named(self, paths: tuple[str, ...]) -> None:
        """Files of `--env-file`: they must exist, and later ones win."""
        absolute = [os.path.normpath(os.path.join(self.disk.cwd, path)) for path in paths]
        for name, value in env_files(absolute, self.process, self.disk, self.report).items():
            self.variables.setdefault(name, value)

    def default(self, directory: str, env: Mapping[str, str]) -> None:
        """The `.env` of a directory, where there is one and it is not switched off."""
        path = os.path.join(directory, ".env")
        if _is_true(env.get("COMPOSE_DISABLE_ENV_FILE")) or path in self.seen:
            return
        if _may_be_read(path):
            self.seen.add(path)
            found = env_files([path], self.process, self.disk, self.report)
            if _is_true(found.get("COMPOSE_DISABLE_ENV_FILE")):
                # Read it was, to know this: its settings of docker compose itself hold, nothing else does.
                found = {name: one for name, one in found.items() if name.startswith("COMPOSE_")}
            for name, value in found.items():
                self.variables.setdefault(name, value)


def _may_be_read(path: str) -> bool:
    """Whether there is something of this name that is no directory."""
    return os.path.exists(path) and not os.path.isdir(path)


def default_env_file(directory: str) -> str | None:
    """The `.env` of a directory, when there is one."""
    path = os.path.join(directory, ".env")
    return path if _may_be_read(path) else None


def env_files(
    paths: list[str], outer: Mapping[str, str], disk: Disk, report: tree.Report
) -> dict[str, str]:
    """Names and values of several env files: later ones win, and know those above. Raises UsageError.

    A fault in one goes into the report with its line.
    """
    from ic.compose import envfile, environment

    found: dict[str, str] = {}
    for path in paths:
        content = disk.read(path)
        shown = disk.shown(path)
        try:
            found |= envfile.parse(content, outer, found, environment.unset_in(shown, report))
        except envfile.Fault as fault:
            report.error(fault.code, fault.reason, errors.Position(shown, fault.line, 1))
    return found


def _is_true(text: str | None) -> bool:
    """A switch of the environment. Raises UsageError for a word that is neither yes nor no."""
    if text is None or text in ("0", "f", "F", "false", "False", "FALSE"):
        return False
    if text in ("1", "t", "T", "true", "True", "TRUE"):
        return True
    raise errors.UsageError(
        f"cannot read COMPOSE_DISABLE_ENV_FILE: {text!r} is neither true nor false"
    )


# --- reading ------------------------------------------------------------------------------------------


class Disk:
    """Reads files for one stack, remembers what was read, and keeps within the limits."""

    def __init__(self, cwd: str, stdin: Callable[[], bytes] | None = None) -> None:
        self.cwd = os.path.abspath(cwd)
        self.stdin = stdin
        self.contents: dict[str, bytes] = {}
        self.total = 0
        self.patience = PIPE_WAIT_S

    def shown(self, path: str) -> str:
        """A file's name as the user knows it: relative where that is no longer than absolute."""
        if path == STDIN:
            return "<stdin>"
        near = os.path.relpath(path, self.cwd)
        return near if len(near) <= len(path) else path

    def read(self, path: str) -> bytes:
        """A file's, a pipe's or (`-`) standard input's content; each is read once. Raises UsageError."""
        content = self.contents.get(path)
        if content is None:
            content = self._stdin() if path == STDIN else self._read(path)
            self.total += len(content)
            if self.total > TOTAL_LIMIT:
                raise errors.UsageError(
                    f"cannot read {self.shown(path)}: all files of the stack together "
                    f"have more than {TOTAL_LIMIT} bytes",
                    code="E_LIMIT",
                )
            self.contents[path] = content
        return content

    def _stdin(self) -> bytes:
        if self.stdin is None:
            raise errors.UsageError("cannot read the stack from standard input here")
        return self.stdin()

    def _read(self, path: str) -> bytes:
        shown = self.shown(path)
        try:
            # Not blocking, so that a pipe without a writer is an error and not a wait without end.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb", buffering=0) as file:
                status = os.fstat(handle)
                if stat.S_ISDIR(status.st_mode):
                    raise errors.UsageError(
                        f"cannot read {shown}: it is a directory", code="E_FILE"
                    )
                if stat.S_ISREG(status.st_mode):
                    return _read_regular(file.fileno(), status.st_size, shown)
                return self._read_pipe(handle, shown, is_pipe=stat.S_ISFIFO(status.st_mode))
        except (OSError, ValueError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            if isinstance(problem, FileNotFoundError):
                reason = "not found (no such file or directory)"
            raise errors.UsageError(f"cannot read {shown}: {reason}", code="E_FILE") from problem

    def _read_pipe(self, handle: int, shown: str, *, is_pipe: bool) -> bytes:
        import select
        import time

        pieces: list[bytes] = []
        size = 0
        started = time.monotonic()
        while size <= FILE_LIMIT:
            try:
                piece = os.read(handle, 2**16)
            except BlockingIOError:  # somebody holds the other end and has not written yet
                if not select.select([handle], [], [], WRITER_WAIT_S)[0]:
                    raise _silent(shown, WRITER_WAIT_S) from None
                continue
            if piece:
                pieces.append(piece)
                size += len(piece)
            elif pieces or not is_pipe:
                return b"".join(pieces)
            elif time.monotonic() - started >= self.patience:
                self.patience = 0.0
                raise _silent(shown, PIPE_WAIT_S)
            else:
                time.sleep(0.01)  # no writer yet: at its end
        raise _too_long(shown)


def _read_regular(handle: int, size: int, shown: str) -> bytes:
    if size > FILE_LIMIT:
        raise _too_long(shown)
    pieces: list[bytes] = []
    left = FILE_LIMIT + 1
    while left > 0 and (piece := os.read(handle, min(left, max(size, 2**16) + 1))):
        pieces.append(piece)
        left -= len(piece)
    if left <= 0:
        raise _too_long(shown)
    return b"".join(pieces)


def _silent(shown: str, seconds: float) -> errors.UsageError:
    return errors.UsageError(
        f"cannot read {shown}: nothing was written to it for {seconds:g} s", code="E_FILE"
    )


def _too_long(shown: str) -> errors.UsageError:
    return errors.UsageError(
        f"cannot read {shown}: it has more than {FILE_LIMIT} bytes, the most that is read of a file",
        code="E_LIMIT",
    )
