"""`ic unlock`: frees the lease of exactly one generation, after asking, and writes that down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ic
from ic import errors, names

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions

DESCRIPTION = (
    "Takes the lease of exactly generation N from its holder and frees it. Needed only when the holder is"
    " gone in a way that ic cannot see: a dead process of this machine is noticed at once, any other"
    " holder that stands still after 30 seconds. A holder that is alive after all can write nothing more."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--gen", type=int, required=True, metavar="N", help="the generation that holds the lease"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Look who holds it, ask, take it, give it back."""
    from ic import buildinfo
    from ic.cli.commands import history
    from ic.journal import book

    name = session.stack_name()
    journal = history.read(session, name)
    held = journal.run_object
    if held is None or not held.held:
        raise errors.UsageError(f"cannot unlock stack {name!r}: nobody holds its lease")
    if held.generation != arguments.gen:
        raise errors.Locked(
            f"cannot unlock generation {arguments.gen}: generation {held.generation} holds the lease",
            hint=f"`{session.typed('history')}` shows who that is",
        )
    holder = held.holder
    who = (
        f"{holder.actor} (ic {holder.command})" if holder and holder.actor else "an unknown holder"
    )
    if not arguments.yes:
        if not session.interactive():
            raise errors.ConfirmationRequired(
                "cannot unlock: nobody can be asked", hint="`-y` does it without asking"
            )
        if not session.ask(f"Take the lease of generation {held.generation} from {who}?"):
            raise errors.ConfirmationRequired("cannot unlock: the answer was no")
    start = book.start("unlock", version=ic.__version__, build=buildinfo.build_id())
    taken = book.begin(
        session.client(),
        names.project(name),
        start,
        lock_timeout=0,
        say=session.out.note,
        force=arguments.gen,
    )
    session.out.diagnostics(taken.close("ok"))
    session.out.note(f"freed: generation {arguments.gen} of {who} cannot write any more")
    return 0
