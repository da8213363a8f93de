"""`ic destroy`: `down`, then the journal into a file, then run object and project."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import ic
from ic import errors
from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions
    from ic.journal import book

DESCRIPTION = (
    "Removes the stack with everything it has: instances and networks, with -v its volumes, then the"
    " journal (exported to a file before) and the project. Refused, with nothing changed, while volumes"
    " are left and -v is not given, or anything is in the project that ic did not make. Asks."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "-v", "--volumes", action="store_true", help="remove the stack's own volumes too"
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="where the journal is written (default: ./STACK-LINEAGE.journal.ndjson); never overwritten",
    )
    shared.add_lock_timeout(parser)


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Plan, ask, take down, export, remove."""
    from ic.cli import applying
    from ic.cli.commands import history
    from ic.engine import converge
    from ic.plan import planner

    if arguments.export and os.path.lexists(arguments.export):
        raise errors.UsageError(
            f"cannot export the journal to {arguments.export}: the file exists",
            hint="give another --export FILE; nothing is overwritten",
        )
    name = session.stack_name()
    options = planner.Options(mode="destroy", volumes=arguments.volumes)
    asked = converge.Asked(name=name, stack=None, options=options, command="destroy")
    view = converge.look(session.client(), asked, session.env)
    if not view.observed.facts.project_exists and view.idle:
        session.out.note(f"nothing to do: there is no stack {name!r} on {session.server()}")
        return 0
    manner = applying.Manner(
        verb="destroy", ask=True, yes=arguments.yes, lock_timeout=arguments.lock_timeout
    )
    done = applying.run(session, view, manner)
    if done is not None and done.result.status != "ok":
        applying.conclude(session, done, verb="destroy", next_="")
    journal = history.read(session, name)
    path = arguments.export or _free_name(f"./{name}-{journal.lineage}")
    _export(path, journal, name)
    converge.remove_project(session.client(), name)
    session.out.note(f"destroyed: stack {name!r}; its journal is in {path}")
    return 0


def _free_name(stem: str) -> str:
    """The default name, with a number where an earlier try, cut off, has left that file already."""
    path = f"{stem}.journal.ndjson"
    number = 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}.{number}.journal.ndjson"
    return path


def _export(path: str, journal: book.Journal, stack: str) -> None:
    """Write the journal, safely on disk before anything of it is removed. Raises UsageError."""
    from ic.journal import export

    data = export.export(journal, stack=stack, version=ic.__version__)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise errors.UsageError(
            f"cannot export the journal to {path}: {error.strerror}",
            hint="give a file that can be written with --export FILE; the project and its journal stay",
        ) from error
