"""The program: argv in, exit status out. Finds the command, builds its parser, runs it, maps errors.

Only the module of the wanted command is imported; `ic --version` and `ic --help` import none. Here, and in
`compose.loader`, the environment is read; here and nowhere else an IcError becomes an exit status.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

import ic
from ic import errors
from ic.cli import output, session

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

COMMANDS: dict[str, str] = {
    "plan": "show what apply would change, and why",
    "apply": "change what the compose files say, and write it down",
    "history": "show what was done to the stack, by whom and when",
    "up": "create and start the services, then follow their output",
    "down": "stop and remove instances and networks",
    "destroy": "remove the stack with its project and journal",
    "ps": "list the stack's instances",
    "config": "print the compose files as understood",
    "version": "show the versions of ic, its journal and the server",
    "unlock": "free the lease of a run that is gone",
    "healthd": "ask about the health daemon, or be it",
}

_HINT = "`ic --help` lists the commands, `ic COMMAND --help` the options of one"


class Command(Protocol):
    """What a module of `cli.commands` has."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, session: session.Session, arguments: argparse.Namespace) -> int: ...


def module(name: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"ic.cli.commands.{name}"))


# --- parsers ------------------------------------------------------------------------------------------


class _Misunderstood(Exception):
    """The command line is not what a parser takes."""


def _load_argparse() -> None:
    """argparse without looking for translations of its words, which takes as long as argparse itself."""
    if "argparse" in sys.modules or "gettext" in sys.modules:
        return
    words = types.ModuleType("gettext")
    words.__dict__["gettext"] = str
    words.__dict__["ngettext"] = _plural
    sys.modules["gettext"] = words
    try:
        importlib.import_module("argparse")
    finally:
        del sys.modules["gettext"]


def _plural(one: str, many: str, count: int) -> str:
    return one if count == 1 else many


def _width() -> int:
    """How wide help may be, as argparse finds it out, which loads every kind of archive for that."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 0
    return (columns or 80) - 2


def _parser(prog: str, description: str, usage: str | None = None) -> argparse.ArgumentParser:
    """A parser whose errors are _Misunderstood (never an exit) and that prints nothing."""
    _load_argparse()
    import argparse

    width = _width()

    class Parser(argparse.ArgumentParser):
        """argparse without its own exits."""

        def error(self, message: str) -> NoReturn:
            raise _Misunderstood(message)

    parser = Parser(
        prog=prog,
        description=description,
        usage=usage,
        add_help=False,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=width),
    )
    parser.color = False  # pyright: ignore[reportAttributeAccessIssue]  # 3.14 paints by itself
    return parser


def add_globals(parser: argparse.ArgumentParser, *, taken: frozenset[str] = frozenset()) -> None:
    """The global options, without the spellings that a command has for itself."""
    group = parser.add_argument_group("global options")

    def add(*spellings: str, **rest: object) -> None:
        free = [one for one in spellings if one not in taken]
        if free:
            group.add_argument(*free, **rest)  # pyright: ignore[reportArgumentType]

    add(
        "-f",
        "--file",
        dest="files",
        action="append",
        metavar="FILE",
        help="compose file, `-` for standard input; may be repeated, later ones are merged over earlier",
    )
    add("-p", "--project-name", metavar="NAME", help="the stack's name")
    add(
        "--project-directory",
        metavar="DIR",
        help="directory that paths are relative to (default: that of the first compose file)",
    )
    add(
        "--env-file",
        dest="env_files",
        action="append",
        metavar="FILE",
        help="file of variables for interpolation, instead of .env; may be repeated",
    )
    add(
        "--profile",
        dest="profiles",
        action="append",
        metavar="NAME",
        help="activate a profile; may be repeated, `*` is all",
    )
    add(
        "--all-resources",
        action="store_true",
        default=None,
        help="print networks, volumes, secrets and configs that no service uses too",
    )
    add(
        "--compatibility",
        action="store_true",
        default=None,
        help="print files as docker compose's compatibility mode does, not normalised",
    )
    add(
        "--incus",
        choices=("auto", "never"),
        help="whether NAME.incus.yaml beside each compose file is merged after it (default: auto)",
    )
    add("--remote", metavar="NAME", help="remote of the incus client to work on")
    add(
        "--parallel",
        type=int,
        metavar="N",
        help="taken as docker compose takes it; ic chooses by itself how much it does at a time",
    )
    add(
        "--dry-run",
        action="store_true",
        default=None,
        help="change nothing; commands that would refuse and point to `ic plan`",
    )
    add(
        "--progress",
        choices=("auto", "tty", "plain", "json", "quiet"),
        help="how to show what goes on (default: auto)",
    )
    add(
        "--ansi",
        choices=("auto", "never", "always"),
        help="when to use colours (default: auto, which honours NO_COLOR)",
    )
    add("-q", "--quiet", action="store_true", default=None, help="print results and errors only")
    add("--debug", action="store_true", default=None, help="show requests, and details of failures")
    add("-h", "--help", action="store_true", default=None, help="show this help")


def top_parser() -> argparse.ArgumentParser:
    """The parser of everything before the command."""
    parser = _parser(
        "ic", "Runs compose files on Incus.", "ic [GLOBAL OPTION...] COMMAND [OPTION...]"
    )
    add_globals(parser)
    parser.add_argument(
        "--version", action="store_true", default=None, help="print the version of ic"
    )
    return parser


def command_parser(name: str, *, usage: bool = True) -> argparse.ArgumentParser:
    """The parser of one command: its own options, then the global ones; its usage line only if wanted."""
    command = module(name)
    parser = _parser(f"ic {name}", command.DESCRIPTION)
    command.add_arguments(parser)
    own = frozenset(spelling for action in parser._actions for spelling in action.option_strings)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    parser.usage = ""
    if usage:
        parser.usage = None
        line = " ".join(parser.format_usage().removeprefix("usage: ").split())
        parser.usage = f"{line} [GLOBAL OPTION...]".replace("%", "%%")
    add_globals(parser, taken=own)
    return parser


_WITH_VALUE = frozenset(
    [
        "-f",
        "--file",
        "-p",
        "--project-name",
        "--project-directory",
        "--env-file",
        "--profile",
        "--remote",
        "--progress",
        "--ansi",
        "--incus",
        "--parallel",
    ]
)
_CHANGING = frozenset({"apply", "up", "down", "destroy", "unlock"})
_SWITCHES = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}


def _switched(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words with `--switch=true` as `--switch`, without `--switch=false`: docker compose takes both."""
    if not any(word.startswith("-") and "=" in word for word in words):
        return list(words)
    switches = {
        spelling
        for action in parser._actions  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if action.nargs == 0
        for spelling in action.option_strings
    }
    kept: list[str] = []
    for at, word in enumerate(words):
        name, equals, given = word.partition("=")
        if word == "--":
            return [*kept, *words[at:]]
        if not equals or name not in switches:
            kept.append(word)
        elif given not in _SWITCHES:
            raise errors.UsageError(
                f"cannot understand the command line: {name} is true or false, not {given!r}",
                hint=_HINT,
            )
        elif _SWITCHES[given]:
            kept.append(name)
    return kept


def _parsed(name: str, words: Sequence[str]) -> argparse.Namespace:
    """The words behind a command, or before one (name ""). Raises UsageError with how it is written."""
    parser = command_parser(name, usage=False) if name else top_parser()
    try:
        given = _switched(parser, words)
        return parser.parse_intermixed_args(given) if name else parser.parse_args(given)
    except _Misunderstood as problem:
        parser = command_parser(name) if name else parser
        raise errors.UsageError(
            f"cannot understand the command line: {problem}",
            details=(" ".join(parser.format_usage().split()),),
            hint=_HINT,
        ) from None


def split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Global options, the command's name ("" without one), and what follows it."""
    at = 0
    while at < len(argv):
        word = argv[at]
        if not word.startswith("-") or word == "-":
            return list(argv[:at]), word, list(argv[at + 1 :])
        at += 2 if word in _WITH_VALUE else 1
    return list(argv), "", []


def help_text() -> str:
    """The text of `ic` and `ic --help`."""
    width = max(len(name) for name in COMMANDS)
    commands = "".join(f"  {name:<{width}}  {text}\n" for name, text in COMMANDS.items())
    return f"{top_parser().format_help()}\ncommands:\n{commands}\n{_HINT}\n"


def _merged(before: argparse.Namespace, after: argparse.Namespace | None) -> session.Globals:
    """Global options from before and behind the command: lists add up, the later single value wins."""

    def both(name: str) -> tuple[str, ...]:
        parts: list[list[str]] = [getattr(one, name, None) or [] for one in (before, after)]
        return (*parts[0], *parts[1])

    def last(name: str) -> str | None:
        later = getattr(after, name, None)
        return later if later is not None else getattr(before, name, None)

    return session.Globals(
        files=both("files"),
        project_name=last("project_name"),
        project_directory=last("project_directory"),
        env_files=both("env_files"),
        profiles=both("profiles"),
        all_resources=bool(last("all_resources")),
        compatibility=bool(last("compatibility")),
        incus=last("incus"),
        remote=last("remote"),
        progress=last("progress") or "auto",
        ansi=last("ansi") or "auto",
        quiet=bool(last("quiet")),
        debug=bool(last("debug")),
    )


# --- running --------------------------------------------------------------------------------------------


def _interrupt_on_sigterm() -> None:
    """SIGTERM is SIGINT (the signal's own number is not told apart: both mean "stop in order")."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():

        def interrupted(*_: object) -> NoReturn:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, interrupted)


def _guess_json(argv: Sequence[str]) -> bool:
    """Whether errors are wanted as JSON, before (or although not) the command line is understood."""
    return "--json" in argv


def _leave(status: int = errors.Interrupted.exit_status) -> NoReturn:
    """Out at once, for a second Ctrl-C: what was begun stands in the journal."""
    os._exit(status)


def _run(argv: Sequence[str], env: Mapping[str, str], out: output.Output) -> int:
    first, name, rest = split(argv)
    before = _parsed("", first)
    if before.version:
        out.text(f"ic {ic.__version__}")
        return 0
    if name == "help" and rest[:1] and rest[0] in COMMANDS:
        name, rest = rest[0], ["--help"]
    if not name or name == "help":
        out.text(help_text())
        return 0
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise errors.UsageError(
            f"cannot run {name!r}: no such command",
            hint=f"did you mean `ic {near[0]}`?" if near else _HINT,
        )
    if before.help or "-h" in rest or "--help" in rest:
        out.text(command_parser(name).format_help())
        return 0
    arguments = _parsed(name, rest)
    if name in _CHANGING and (before.dry_run or arguments.dry_run):
        raise errors.UsageError(
            f"cannot {name} with --dry-run: ic shows beforehand what it would do",
            hint="`ic plan` shows it, and changes nothing",
        )
    options = _merged(before, arguments)
    out.json = bool(getattr(arguments, "json", False))
    out.quiet = options.quiet
    out.colour = session.wants_colour(options.ansi, env, out.stdout)
    out.error_colour = session.wants_colour(options.ansi, env, out.stderr)
    return module(name).run(session.Session(options, env, out, _leave), arguments)


def _ignore_interrupts() -> None:
    """We are leaving already: another Ctrl-C must not meet the interpreter while it cleans up."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Internal(errors.IcError):
    """A fault of ic itself."""

    exit_status = 70


def _internal(error: BaseException, argv: Sequence[str]) -> errors.IcError:
    """A failure of ic itself: one line, and what to send; the whole story only with --debug."""
    details: tuple[str, ...] = ()
    if "--debug" in argv:
        import traceback

        details = tuple("".join(traceback.format_exception(error)).splitlines())
    return _Internal(
        f"cannot go on: internal error ({type(error).__name__})",
        details=details,
        hint="this is a fault of ic; run the same command with --debug and report what it prints,"
        f" with `ic version` ({ic.__version__})",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ic; the exit status. Never raises, never shows a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    out = output.Output(json=_guess_json(arguments))
    try:
        _interrupt_on_sigterm()
        status = _run(arguments, os.environ, out)
    except errors.IcError as error:
        out.error(error)
        status = error.exit_status
    except KeyboardInterrupt:
        _ignore_interrupts()
        out.error(errors.Interrupted("cannot go on: interrupted"))
        status = errors.Interrupted.exit_status
    except Exception as error:  # noqa: BLE001 - the last boundary: a user never sees a traceback
        failure = _internal(error, arguments)
        out.error(failure)
        status = failure.exit_status
    out.close()
    if out.lost is not None and status == 0:
        # Whoever wrote the result into a file must not take half of it for all.
        failure = errors.IcError(
            f"cannot write the result to stdout: {out.lost.strerror or out.lost}",
            details=("what the command does was done",),
        )
        out.error(failure)
        status = failure.exit_status
    return status
