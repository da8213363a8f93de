"""`ic config`: the compose files as understood, in one document. Asks no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions

DESCRIPTION = (
    "Prints the stack as understood: files merged, variables filled in, short forms written out."
    " Values of the environment are part of it. Asks no server and no registry."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--format", choices=("yaml", "json"), default="yaml", help="how to print it (default: yaml)"
    )
    only = parser.add_mutually_exclusive_group()
    for name, what in (
        ("services", "services"),
        ("volumes", "volumes"),
        ("networks", "networks"),
        ("images", "images"),
        ("profiles", "profiles"),
    ):
        only.add_argument(
            f"--{name}",
            dest="only",
            action="store_const",
            const=name,
            help=f"print the {what}' names only, one a line",
        )
    only.add_argument(
        "-q",
        "--quiet",
        dest="only",
        action="store_const",
        const="nothing",
        help="check the files and print nothing",
    )
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help="activate their profiles too"
    )


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Load and print."""
    from ic.compose import canonical

    stack = session.stack(tuple(arguments.services), for_running=False)
    if arguments.only == "nothing" or (session.out.quiet and arguments.only is None):
        return 0
    if arguments.only is None:
        text = canonical.to_json(stack) if arguments.format == "json" else canonical.to_yaml(stack)
        session.out.text(text)
        return 0
    document = canonical.document(stack)
    images = {service.image.image for service in stack.services.values()}
    everyone = (*stack.services.values(), *stack.inactive.values())
    found = {
        "services": sorted(stack.services),
        "volumes": sorted(cast("dict[str, object]", document.get("volumes", {}))),
        "networks": sorted(cast("dict[str, object]", document.get("networks", {}))),
        "images": sorted(image for image in images if image),
        "profiles": sorted({name for one in everyone for name in one.lifecycle.profiles}),
    }[arguments.only]
    if found:
        session.out.text("\n".join(found))
    return 0
