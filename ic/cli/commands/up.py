"""`ic up`: makes the stack run, then follows its output until it ends or Ctrl-C stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ic.cli import notify
    from ic.cli import session as sessions
    from ic.compose import model
    from ic.engine import converge, follow

DESCRIPTION = (
    "Creates, changes and starts what the compose files say, without asking, and then shows the output of"
    " the services until all have ended. Ctrl-C stops them gracefully and removes nothing. With -d they"
    " run on in the background; with --wait the command ends when all are healthy (or have run for half a"
    " second, where they have no healthcheck), and fails when one ends or is unhealthy. Started by systemd as"
    " Type=notify it says when that is. Services that are gone from the files are left, with a warning."
)

LAST_WORDS_SECONDS = 2.0
BORNE_ENDS = 2  # of a service whose restart policy makes up for them, while --wait waits
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
        "--wait",
        action="store_true",
        help="wait until the services run and are healthy; implies -d",
    )
    parser.add_argument(
        "--wait-timeout",
        type=float,
        metavar="SECONDS",
        help="with --wait: give up after so long, counted from when all is started, as docker compose"
        " counts; what services wait for before they start is not in it (default: never)",
    )
    parser.add_argument(
        "--remove-orphans", action="store_true", help="remove services that are gone from the files"
    )
    parser.add_argument(
        "--pull",
        choices=("always", "missing", "never"),
        help="when to ask registries for an image (default: pull_policy, else missing)",
    )
    shared.add_healthd(parser)
    parser.add_argument(
        "--json", action="store_true", help="with -d or --wait: one JSON document (ic.apply/1)"
    )
    shared.add_lock_timeout(parser)


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Carry out the plan, then wait, or follow."""
    from ic import errors
    from ic.cli import notify

    background = arguments.detach or arguments.wait
    if arguments.json and not background:
        raise errors.UsageError("cannot print JSON while output is followed", hint="add -d")
    if arguments.wait_timeout is not None and not (arguments.wait and arguments.wait_timeout > 0):
        raise errors.UsageError(
            "cannot use --wait-timeout: it takes a number of seconds above 0, together with --wait"
        )
    with notify.telling(session.env, wanted=arguments.wait) as manager:
        try:
            return _run(session, arguments, manager)
        except errors.IcError as error:
            manager.status(error.summary)
            raise


def _run(session: sessions.Session, arguments: argparse.Namespace, manager: notify.Notifier) -> int:
    from ic.cli import applying
    from ic.engine import converge
    from ic.plan import planner

    services = tuple(arguments.services)
    stack = session.stack(services)
    options = planner.Options(
        mode="up",
        services=services,
        remove_orphans=arguments.remove_orphans,
        pull=arguments.pull,
    )
    options = shared.with_healthd(options, arguments, session.env)
    asked = converge.Asked(name=stack.name, stack=stack, options=options, command="up")
    manager.status(f"starting stack {stack.name}")
    view = converge.look(session.client(), asked, session.env)
    in_front = not (arguments.detach or arguments.wait)
    before = _remembered(session, stack.name) if in_front else {}
    manner = applying.Manner(verb="up", ask=False, show=False, lock_timeout=arguments.lock_timeout)
    done = applying.run(session, view, manner)
    if arguments.wait and (done is None or done.result.status == "ok"):
        _wait(session, asked, done, arguments.wait_timeout or 0.0, manager)
    applying.conclude(session, done, verb="up", next_=session.typed("ps"))
    if not in_front:
        return 0
    return _follow(session, stack, services, before)


def _wait(
    session: sessions.Session,
    asked: converge.Asked,
    done: converge.Done | None,
    timeout: float,
    manager: notify.Notifier,
) -> None:
    """Wait until every service that was asked for is as docker's `--wait` wants it, then say so.

    Raises what `health.wait` raises.
    """
    from ic import names
    from ic.cli.commands import ps
    from ic.engine import health, sidecar
    from ic.resources import kind

    client = session.client()
    conditions = health.conditions(asked.stack, asked.options.services) if asked.stack else {}
    outcomes = done.result.outcomes if done else ()
    checked = {
        one.step.address
        for one in outcomes
        if isinstance(one.step.deed, kind.AwaitHealthy) and one.error is None
    }
    started = {one.step.address for one in outcomes if isinstance(one.step.deed, kind.Start)}
    watches = tuple(
        health.Watch(
            name=row.name,
            condition=conditions[row.service],
            ends=BORNE_ENDS,
            checked=address in checked,
            started=address in started,
        )
        for row in ps.instances(client, asked.name)
        if row.service in conditions
        for address in (names.address("instance", f"{row.service}/{row.replica}"),)
    )
    told = ""

    def tell(reasons: Mapping[str, str]) -> None:
        nonlocal told
        text = ", ".join(f"{name} ({reason})" for name, reason in sorted(reasons.items()))
        if text and text != told:
            told = text
            session.out.note(f"waiting for {text}")
            manager.status(f"waiting for {text}")

    limits = health.Limits(timeout=timeout, told=tell)
    daemon = health.daemon_of(sidecar.find(client, asked.project))
    health.wait(client, {"project": asked.project}, watches, daemon, limits)
    manager.ready(f"{len(watches)} instance{'s' if len(watches) != 1 else ''} of {asked.name} up")


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
