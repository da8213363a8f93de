"""docs/compose-support.md is what the registry says, and the reader does what every row says."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import pytest

from ic import errors
from ic.compose import loader

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def script() -> Any:
    """The module that writes the page; scripts/ is no package."""
    path = os.path.join(ROOT, "scripts", "compose_support.py")
    spec = importlib.util.spec_from_file_location("compose_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compose_support"] = module
    spec.loader.exec_module(module)
    return module


PAGE = script()


def test_the_page_is_fresh() -> None:
    with open(os.path.join(ROOT, PAGE.PAGE), encoding="utf-8") as file:
        assert file.read() == PAGE.page(), "run: .venv/bin/python scripts/compose_support.py"


def document(where: str, key: str) -> dict[str, Any]:
    """A stack with `key: null` at a place such as `services.S.ports[]`."""
    inner: Any = {key: None}
    for part in reversed([one for one in where.split(".") if one]):
        name, bracket, _ = part.partition("[")
        if part == "volumes[]" and "type" not in inner:
            kind = next(iter(inner)) if where.endswith(("bind", "volume", "tmpfs")) else "volume"
            inner = {
                "type": kind,
                "source": "" if kind == "tmpfs" else "/s",
                "target": "/t",
            } | inner
        inner = {name: [inner] if bracket else inner}
    return inner


def said(where: str, key: str, directory: str) -> set[str]:
    """The codes of all diagnostics about a key, mistakes of its value among them."""
    import json

    path = os.path.join(directory, "compose.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document(where, key), file)
    try:
        stack = loader.load(loader.Options(files=(path,), cwd=directory), {}, None)
    except errors.ComposeError as error:
        found = error.diagnostics
    else:
        found = stack.diagnostics
    return {
        one.code
        for one in found
        if f"{key!r}" in one.summary
        or f".{key} " in f".{one.summary} "
        or f".{key}." in f".{one.summary} "
    }


@pytest.mark.parametrize(("where", "key", "state"), [row[:3] for row in PAGE.rows()])
def test_the_reader_agrees(where: str, key: str, state: str, tmp_path: Any) -> None:
    codes = said(where, key, str(tmp_path))
    assert "E_UNKNOWN_KEY" not in codes
    assert ("E_UNSUPPORTED" in codes) == (state == PAGE.REFUSED)
