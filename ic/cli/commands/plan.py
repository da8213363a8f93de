"""`ic plan`: every change with its cause, field by field; nothing is written to the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors
from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions
    from ic.engine import converge

DESCRIPTION = (
    "Shows what apply would change, and why: every resource with a sign, its cause, and per field the old"
    " and the new value and whether it is changed in place, by a restart or by replacing the instance."
    " Values of environment variables and the like are never shown. Changes nothing."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help="only these, and what they need"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document (ic.plan/1)")
    parser.add_argument(
        "--out", metavar="FILE", help="save the plan for `ic apply FILE` (mode 0600)"
    )
    parser.add_argument(
        "--detailed-exitcode", action="store_true", help="exit with 2 when there are changes"
    )
    parser.add_argument(
        "--pull",
        choices=("always", "missing", "never"),
        help="when to ask registries for an image (default: pull_policy, else missing)",
    )
    shared.add_healthd(parser)


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Look, plan, show."""
    from ic.cli import applying, documents
    from ic.engine import converge
    from ic.plan import planner

    stack = session.stack(tuple(arguments.services))
    services = tuple(arguments.services)
    options = planner.Options(mode="apply", services=services, pull=arguments.pull)
    options = shared.with_healthd(options, arguments, session.env)
    asked = converge.Asked(name=stack.name, stack=stack, options=options, command="plan")
    view = converge.look(session.client(), asked, session.env)
    if arguments.out:
        _save(arguments.out, view)
    if arguments.json:
        session.out.document(documents.plan(view.plan, stack.diagnostics))
    else:
        applying.show(session, view)
    return 2 if arguments.detailed_exitcode and view.plan.changes else 0


def _save(path: str, view: converge.View) -> None:
    """Write the saved form beside its place and move it there: a plan file is whole or not there.

    Raises UsageError when it cannot be written.
    """
    import os

    from ic.plan import changes

    data = changes.save(view.plan, view.basis(), view.journal.key, os.urandom(32))
    beside = f"{path}.{os.getpid()}.new"
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(beside, path)
    except OSError as error:
        raise errors.UsageError(f"cannot write the plan to {path}: {error.strerror}") from error
