"""Stacks from text: what the tests of reading share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ic import errors
from ic.compose import document, loader
from ic.fields import tree

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping

    from ic.compose import model


def node(text: str, report: tree.Report | None = None) -> tree.Node:
    """The only document of a text."""
    (found,) = document.parse(text.encode(), "f", report or tree.Report())
    return found


def plain(text: str) -> object:
    """The only document of a text, as plain values."""
    return tree.plain(node(text))


def write(root: pathlib.Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a directory."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def load(
    root: pathlib.Path,
    text: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    texts: Mapping[str, str | bytes] | None = None,
    **options: object,
) -> model.Stack:
    """The stack of a `compose.yaml` (and other files) in a directory."""
    write(root, {**({} if text is None else {"compose.yaml": text}), **(texts or {})})
    given = {"cwd": str(root), "project_name": "shop", **options}
    return loader.load(loader.Options(**given), env or {})  # pyright: ignore[reportArgumentType]


def service(root: pathlib.Path, body: str, env: Mapping[str, str] | None = None) -> model.Service:
    """The service `web` with the given lines of YAML below `image: a`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return load(root, f"services:\n  web:\n    image: a\n{lines}", env).services["web"]


def refused(root: pathlib.Path, text: str | bytes, **more: object) -> errors.ComposeError:
    """The error that a stack is refused with."""
    with pytest.raises(errors.ComposeError) as caught:
        load(root, text, **more)  # pyright: ignore[reportArgumentType]
    return caught.value


def faults(error: errors.ComposeError) -> list[str]:
    """`CODE line:column summary` of each error."""
    return [
        f"{one.code} {one.position.line}:{one.position.column} {one.summary}"
        if one.position
        else f"{one.code} {one.summary}"
        for one in error.diagnostics
        if one.severity == "error"
    ]
