"""`ic down`: stops and removes instances and networks; project, journal and volumes stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors
from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions

DESCRIPTION = (
    "Stops the stack's instances gracefully and removes them with their networks, dependents first. The"
    " project, the journal and the volumes stay; -v removes the stack's own volumes too, external ones"
    " never. Needs no compose file and does not ask."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "-v", "--volumes", action="store_true", help="remove the stack's own volumes too"
    )
    parser.add_argument(
        "-t",
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="grace period of every service, instead of its own (0: by force at once)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document (ic.apply/1)")
    shared.add_lock_timeout(parser)


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Plan the removal and carry it out."""
    from ic.cli import applying
    from ic.engine import converge
    from ic.plan import planner

    if arguments.timeout is not None and arguments.timeout < 0:
        raise errors.UsageError(
            "cannot take the stack down: -t needs a number that is not negative"
        )
    grace = None if arguments.timeout is None else round(arguments.timeout * 1000)
    options = planner.Options(mode="down", volumes=arguments.volumes, grace_ms=grace)
    asked = converge.Asked(name=session.stack_name(), stack=None, options=options, command="down")
    view = converge.look(session.client(), asked, session.env)
    manner = applying.Manner(
        verb="down", ask=False, show=False, lock_timeout=arguments.lock_timeout
    )
    done = applying.run(session, view, manner)
    applying.conclude(session, done, verb="down", next_=session.typed("up"))
    return 0
