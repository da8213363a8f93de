"""Small stacks of files in one text each, and what reading one may end in: what the fuzz and its corpus share.

A text holds files, each after a line `--- FILE NAME`; what stands before the first is `compose.yaml`.
"""

from __future__ import annotations

import glob
import os
import pathlib
import re

from ic import errors
from ic.compose import canonical, loader

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
ENV = {"HOME": "/home/me", "A": "a", "EMPTY": "", "PORT": "80", "FLAG": "true"}
_FILE = re.compile(r"^--- FILE ([a-z.]+)\n", re.MULTILINE)


def seeds() -> list[tuple[str, bytes]]:
    """The names and texts of the corpus."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(glob.glob(f"{HERE}/*.txt")):
        with open(path, "rb") as file:
            found.append((os.path.basename(path), file.read()))
    return found


def write(text: bytes, root: pathlib.Path) -> None:
    """The files of a text, in a directory; files that are there already are removed."""
    for old in root.iterdir():
        old.unlink()
    pieces = _FILE.split(text.decode("utf-8", "surrogateescape"))
    for name, content in [
        ("compose.yaml", pieces[0]),
        *zip(pieces[1::2], pieces[2::2], strict=True),
    ]:
        (root / name).write_bytes(content.encode("utf-8", "surrogateescape"))


def read(root: pathlib.Path) -> str:
    """Read the stack in a directory and print it: `fine`, or the code of the error it is refused with.

    Anything but an error of ic comes through.
    """
    options = loader.Options(cwd=str(root), project_name="fuzz", profiles=("*",))
    try:
        stack = loader.load(options, ENV)
        canonical.to_yaml(stack)
        canonical.to_json(stack)
    except errors.IcError as error:
        for one in error.diagnostics:
            str(one)
        return error.code
    return "fine"
