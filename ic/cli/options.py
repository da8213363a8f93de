"""Options that several commands share, so that they read alike and mean the same. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ic.plan import planner


def add_lock_timeout(parser: argparse.ArgumentParser) -> None:
    """`--lock-timeout SECONDS`, of every command that takes the lease."""
    parser.add_argument(
        "--lock-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait while another ic works on the stack (default: 10; 0: not at all)",
    )


def add_healthd(parser: argparse.ArgumentParser) -> None:
    """How the health daemon is set up: of every command that plans."""
    group = parser.add_argument_group("health daemon")
    group.add_argument(
        "--no-healthd",
        action="store_true",
        help="go without the health daemon; one that is there is removed",
    )
    group.add_argument(
        "--healthd-image",
        metavar="IMAGE",
        help="what it runs in: any image with Python 3.10 or newer (default: IC_HEALTHD_IMAGE, "
        "x-ic.healthd.image, python:3-alpine)",
    )
    group.add_argument(
        "--healthd-binary",
        metavar="PATH",
        help="the ic.pyz that is put into it (default: the one that runs)",
    )
    group.add_argument(
        "--healthd-token",
        metavar="FILE",
        help="a trust token that an administrator of the server made for it; mode 0600",
    )


def with_healthd(
    options: planner.Options, arguments: argparse.Namespace, env: Mapping[str, str]
) -> planner.Options:
    """A plan's options with those of `add_healthd`.

    Raises UsageError for a file that cannot be used, and for options that contradict each other.
    """
    import msgspec

    from ic import buildinfo, errors

    if arguments.no_healthd:
        for name in ("healthd_image", "healthd_binary", "healthd_token"):
            if getattr(arguments, name) is not None:
                spelled = "--" + name.replace("_", "-")
                raise errors.UsageError(f"cannot use {spelled} together with --no-healthd")
    if arguments.healthd_token is not None:
        from ic.engine import sidecar

        sidecar.read_token(arguments.healthd_token)
    source, build = buildinfo.archive(), buildinfo.build_id()
    if arguments.healthd_binary is not None:
        source, build = arguments.healthd_binary, _digest(arguments.healthd_binary)
    return msgspec.structs.replace(
        options,
        healthd=not arguments.no_healthd,
        healthd_image=arguments.healthd_image or env.get("IC_HEALTHD_IMAGE", ""),
        healthd_source=source,
        healthd_build=build if source else "",
        healthd_token=arguments.healthd_token or "",
    )


def _digest(path: str) -> str:
    """The first 20 hex digits of a file's SHA-256. Raises UsageError when it cannot be read."""
    import hashlib

    from ic import errors

    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:20]
    except OSError as error:
        raise errors.UsageError(
            f"cannot read the health daemon's program {path}: {error.strerror}"
        ) from error
