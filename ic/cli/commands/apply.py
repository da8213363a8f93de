"""`ic apply`: shows the plan, asks, then does just that, and writes every step down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors
from ic.cli import options as shared

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions
    from ic.plan import changes

DESCRIPTION = (
    "Shows what would change and asks, then changes just that: every step is in the journal before it is"
    " made. A step that fails stops what needs it; the rest goes on. With a PLANFILE (an argument with a"
    " slash in it, or ending in .icplan) exactly the saved plan is carried out, without asking, and refused"
    " when the journal, the files or the server have moved since."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="PLANFILE|SERVICE",
        help="a saved plan, or only these services and what they need",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print one JSON document (ic.apply/1)")
    shared.add_lock_timeout(parser)
    parser.add_argument(
        "--pull",
        choices=("always", "missing", "never"),
        help="when to ask registries for an image (default: pull_policy, else missing)",
    )
    shared.add_healthd(parser)


def is_plan_file(text: str) -> bool:
    """Whether an argument is a saved plan: it contains a slash or ends in `.icplan`."""
    return "/" in text or text.endswith(".icplan")


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Look, show, ask, carry out, conclude."""
    from ic.cli import applying
    from ic.engine import converge
    from ic.plan import changes, planner

    files = [one for one in arguments.targets if is_plan_file(one)]
    if files and len(arguments.targets) > 1:
        raise errors.UsageError(
            "cannot apply a saved plan together with anything else",
            hint="give one plan file, or services",
        )
    saved = _read(files[0]) if files else None
    services = saved.services if saved else tuple(arguments.targets)
    stack = session.stack(services)
    options = planner.Options(mode="apply", services=services, pull=arguments.pull)
    options = shared.with_healthd(options, arguments, session.env)
    asked = converge.Asked(name=stack.name, stack=stack, options=options, command="apply")
    view = converge.look(session.client(), asked, session.env)
    if saved is not None:
        moved = changes.moved(saved, view.plan, view.basis(), view.journal.key)
        if moved:
            raise errors.StalePlan(
                f"cannot apply {files[0]}: {moved[0]}",
                details=moved[1:],
                hint=f"make it again: `ic plan --out {files[0]}`",
            )
    manner = applying.Manner(
        verb="apply",
        ask=saved is None,
        yes=arguments.yes,
        exact=saved is not None,
        lock_timeout=arguments.lock_timeout,
    )
    done = applying.run(session, view, manner)
    applying.conclude(session, done, verb="apply", next_=session.typed("ps"))
    return 0


def _read(path: str) -> changes.Saved:
    """A saved plan. Raises UsageError when it cannot be read or is none."""
    from ic.plan import changes

    try:
        with open(path, "rb") as file:
            data = file.read(1024 * 1024)
    except OSError as error:
        raise errors.UsageError(f"cannot read the plan {path}: {error.strerror}") from error
    return changes.load(data)
