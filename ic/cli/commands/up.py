"""`ic up`: makes the stack run, then follows its output until it ends or Ctrl-C stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions
    from ic.compose import model
    from ic.engine import follow

DESCRIPTION = (
    "Creates, changes and starts what the compose files say, without asking, and then shows the output of"
    " the services until all have ended. Ctrl-C stops them gracefully and removes nothing. With -d they"
    " run on in the background. Services that are gone from the files are left, with a warning."
)

LAST_WORDS_SECONDS = 2.0
_COLOURS = ("cyan", "yellow", "green", "blue", "red")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help="only these, and what they need"
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="let the services run in the background"
    )
    parser.add_argument(
        "--remove-orphans", action="store_true", help="remove services that are gone from the files"
    )
    parser.add_argument(
        "--pull",
        choices=("always", "missing", "never"),
        help="when to ask registries for an image (default: pull_policy, else missing)",
    )
    parser.add_argument(
        "--json", action="store_true", help="with -d: one JSON document (ic.apply/1)"
    )
    shared.add_lock_timeout(parser)


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Carry out the plan, then follow."""
    from ic import errors
    from ic.cli import applying
    from ic.engine import converge
    from ic.plan import planner

    if arguments.json and not arguments.detach:
        raise errors.UsageError("cannot print JSON while output is followed", hint="add -d")
    services = tuple(arguments.services)
    stack = session.stack(services)
    options = planner.Options(
        mode="up",
        services=services,
        remove_orphans=arguments.remove_orphans,
        pull=arguments.pull,
    )
    asked = converge.Asked(name=stack.name, stack=stack, options=options, command="up")
    view = converge.look(session.client(), asked, session.env)
    before = {} if arguments.detach else _remembered(session, stack.name)
    manner = applying.Manner(verb="up", ask=False, show=False, lock_timeout=arguments.lock_timeout)
    done = applying.run(session, view, manner)
    applying.conclude(session, done, verb="up", next_=session.typed("ps"))
    if arguments.detach:
        return 0
    return _follow(session, stack, services, before)


def _remembered(session: sessions.Session, name: str) -> dict[str, bytes]:
    """What stopped instances have said in earlier runs, so that it is not told again."""
    from ic import names
    from ic.cli.commands import ps
    from ic.engine import follow

    rows = ps.instances(session.client(), name)
    stopped = [row.name for row in rows if row.state == "exited"]
    return follow.remembered(session.client(), names.project(name), stopped)


def _follow(
    session: sessions.Session,
    stack: model.Stack,
    services: tuple[str, ...],
    before: dict[str, bytes],
) -> int:
    """Print what the services write until all have ended; 0. After Ctrl-C they are stopped: 130."""
    from ic import errors, names
    from ic.cli.commands import ps
    from ic.engine import follow

    rows = [
        row
        for row in ps.instances(session.client(), stack.name)
        if row.service in stack.services and (not services or row.service in services)
    ]
    width = max((len(row.name) for row in rows), default=0)
    colours = {row.name: _COLOURS[i % len(_COLOURS)] for i, row in enumerate(rows)}

    def show(said: follow.Said) -> None:
        if said.ended is not None:
            session.out.note(f"{said.instance} exited with code {said.ended}")
            return
        label = session.out.tint(f"{said.instance:<{width}} | ", colours[said.instance])
        session.out.line(label, said.text)

    following = follow.Following(
        session.client(), names.project(stack.name), [row.name for row in rows], before
    )
    try:
        following.tell(show)
    except KeyboardInterrupt:
        session.out.note("stopping; Ctrl-C again leaves at once")
        _stop(session, stack.name, services)
        following.tell(show, seconds=LAST_WORDS_SECONDS)
        session.out.note(
            f"stopped: `{session.typed('up')}` starts them again, `{session.typed('down')}` removes them"
        )
        return errors.Interrupted.exit_status
    return 0


def _stop(session: sessions.Session, name: str, services: tuple[str, ...]) -> None:
    """A run of its own that stops what runs, gracefully, and removes nothing."""
    from ic.cli import applying
    from ic.engine import converge
    from ic.plan import planner

    options = planner.Options(mode="stop", services=services)
    asked = converge.Asked(name=name, stack=None, options=options, command="stop")
    view = converge.look(session.client(), asked, session.env)
    manner = applying.Manner(verb="up", ask=False, show=False)
    done = applying.run(session, view, manner)
    applying.conclude(session, done, verb="up", next_=session.typed("up"))
