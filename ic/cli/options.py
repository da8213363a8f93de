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
        help="the program that is put into it: another ic.pyz, or an executable, which is started as"
        " `PATH healthd` (default: the ic.pyz that runs)",
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
    source, build, runs_itself = buildinfo.archive(), buildinfo.build_id(), False
    if arguments.healthd_binary is not None:
        source = arguments.healthd_binary
        build, runs_itself = _program(source)
    return msgspec.structs.replace(
        options,
        healthd=not arguments.no_healthd,
        healthd_image=arguments.healthd_image or env.get("IC_HEALTHD_IMAGE", ""),
        healthd_source=source,
        healthd_build=build if source else "",
        healthd_runs_itself=runs_itself,
        healthd_token=arguments.healthd_token or "",
    )


def _program(path: str) -> tuple[str, bool]:
    """A program's build, the first 20 hex digits of its SHA-256; and whether it runs without an interpreter.

    By its content: a Python zipapp is Python's, ELF and any other `#!` run by themselves. Raises UsageError
    for what is neither.
    """
    import hashlib
    import os

    from ic import errors

    about = f"the health daemon's program {path}"
    try:
        if not os.path.isfile(path) and os.path.exists(path):  # a pipe would never end
            raise errors.UsageError(f"cannot use {about}: it is no regular file")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise errors.UsageError(f"cannot read {about}: {error.strerror}") from error
    found = _runs_itself(content)
    if found is None:
        raise errors.UsageError(
            f"cannot use {about}: it is {'no program' if content else 'empty'}",
            hint="an ic.pyz, or an executable: ELF, or a script that begins with `#!`",
        )
    return hashlib.sha256(content).hexdigest()[:20], found


def _runs_itself(content: bytes) -> bool | None:
    """Whether a program runs by itself (True) or by Python, as a zipapp does; None when it is no program."""
    first = content.partition(b"\n")[0]
    script = first.startswith(b"#!") and bool(first[2:].strip())
    if content.startswith(b"\x7fELF") or (script and b"python" not in first):
        return True
    if _is_zipapp(content):
        return False
    return True if script else None


def _is_zipapp(content: bytes) -> bool:
    """Whether Python can run it: a zip file with a `__main__.py` in it."""
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return "__main__.py" in archive.namelist()
    except zipfile.BadZipFile:
        return False
