"""What every command gets: the global options, the environment, where to print, and the way to the stack.

Enters: parsed global options and the process environment. Leaves, when asked for: the loaded Stack, its
name, a connected client. Nothing is imported or opened before it is asked for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import msgspec

from ic import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.cli import output, progress
    from ic.compose import loader, model
    from ic.incus import client, remotes

Ansi = Literal["auto", "never", "always"]


class Globals(msgspec.Struct, frozen=True, kw_only=True):
    """The global options, as typed."""

    files: tuple[str, ...] = ()
    project_name: str | None = None
    project_directory: str | None = None
    env_files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    all_resources: bool = False
    compatibility: bool = False
    incus: str | None = None  # None: as IC_INCUS_FILES says
    remote: str | None = None
    progress: str = "auto"
    ansi: str = "auto"
    quiet: bool = False
    debug: bool = False


class Session:
    """One invocation of ic. `out` is the only thing that a command may print with.

    `leave` ends the process at once: for the second Ctrl-C, when the journal is left to tell the rest. It
    takes another exit status.
    """

    def __init__(
        self,
        options: Globals,
        env: Mapping[str, str],
        out: output.Output,
        leave: Callable[..., None],
    ) -> None:
        self.options = options
        self.leave = leave
        self.env = env
        self.out = out
        self._client: client.Client | None = None
        self._server: remotes.Server | None = None

    # --- the files ---

    def loader_options(
        self, services: tuple[str, ...] = (), *, for_running: bool = True, **left_out: bool
    ) -> loader.Options:
        """The global options as the loader wants them; `left_out` are its switches that `ic config` turns."""
        import os

        from ic.compose import loader

        try:
            cwd = os.getcwd()
        except OSError as error:
            raise errors.UsageError(
                f"cannot read the current directory: {error.strerror}",
                hint="cd somewhere that exists",
            ) from error
        return loader.Options(
            files=self.options.files,
            project_name=self.options.project_name,
            project_directory=self.options.project_directory,
            env_files=self.options.env_files,
            profiles=self.options.profiles,
            services=services,
            cwd=cwd,
            for_running=for_running,
            companions={"auto": True, "never": False}.get(self.options.incus or ""),
            **left_out,
        )

    def stack(
        self, services: tuple[str, ...] = (), *, for_running: bool = True, **left_out: bool
    ) -> model.Stack:
        """The stack of the compose files; its warnings are printed. Raises ComposeError, UsageError.

        `services` are those named on the command line: their profiles become active.
        """
        from ic.compose import loader

        options = self.loader_options(services, for_running=for_running, **left_out)
        stack = loader.load(options, self.env, _stdin_bytes)
        self.out.diagnostics(stack.diagnostics)
        return stack

    def stack_name(self) -> str:
        """The stack's name; needs no file where `-p` is given."""
        from ic.compose import loader

        return loader.stack_name(self.loader_options(), self.env)

    # --- the server ---

    def server(self) -> remotes.Server:
        """The server to talk to. Raises UsageError for an unknown remote."""
        if self._server is None:
            from ic.incus import remotes

            self._server = remotes.resolve(self.options.remote, self.env)
        return self._server

    def client(self) -> client.Client:
        """The way to the server; nothing is sent yet."""
        if self._client is None:
            from ic.incus import client, transport

            self._client = client.Client(transport.connect(self.server()))
            if self.options.debug:
                self._client.on_request = self._trace
        return self._client

    def _trace(self, method: str, path: str, seconds: float) -> None:
        self.out.note(f"{method} {path} {seconds * 1000:.1f} ms", "dim")

    # --- people ---

    def interactive(self) -> bool:
        """Whether somebody can be asked: input and messages are a terminal."""
        return _is_terminal(sys.stdin) and _is_terminal(self.out.stderr)

    def ask(self, question: str) -> bool:
        """Ask on the terminal; the default is no."""
        return sys.stdin is not None and self.out.ask(question, sys.stdin)  # pyright: ignore[reportUnnecessaryComparison]

    def progress(self) -> progress.Progress:
        """How to show what goes on, by `--progress` and what stderr is."""
        from ic.cli import progress

        encoding = (getattr(self.out.stderr, "encoding", None) or "").lower()
        return progress.choose(
            self.options.progress,
            self.out,
            terminal=_is_terminal(self.out.stderr) and self.env.get("TERM") != "dumb",
            unicode=encoding.replace("-", "") == "utf8",
        )

    def typed(self, command: str) -> str:
        """A command as the user would type it here: with the same files, name and remote."""
        import shlex

        words = ["ic"]
        for option, values in (
            ("-f", self.options.files),
            ("-p", (self.options.project_name,)),
            ("--project-directory", (self.options.project_directory,)),
            ("--env-file", self.options.env_files),
            ("--profile", self.options.profiles),
            ("--remote", (self.options.remote,)),
        ):
            for value in values:
                if value is not None:
                    words += [option, value]
        return f"{shlex.join(words)} {command}"


def _is_terminal(stream: object) -> bool:
    """Whether a stream is an open terminal (a closed or missing one is not)."""
    isatty = getattr(stream, "isatty", None)
    try:
        return bool(isatty and isatty())
    except ValueError:
        return False


def _stdin_bytes() -> bytes:
    """All of standard input, for `-f -`. Raises UsageError when it is closed."""
    try:
        return sys.stdin.buffer.read()
    except (AttributeError, OSError, ValueError) as error:
        raise errors.UsageError(
            "cannot read the compose file from standard input: it is closed"
        ) from error


def wants_colour(mode: str, env: Mapping[str, str], stream: object) -> bool:
    """Whether a stream gets colours: `--ansi`, then NO_COLOR (any text), then whether it is a terminal."""
    if mode != "auto":
        return mode == "always"
    return not env.get("NO_COLOR") and env.get("TERM") != "dumb" and _is_terminal(stream)
