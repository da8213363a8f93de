"""docs/compose-support.md is what the registry says, and the reader does what every row says."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import pytest

from ic.compose import loader
from tests.compose import samples

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


# At the top, what a sample cannot know.
GIVEN: dict[str, object] = {
    "configs": {"c": {"file": "f"}},
    "secrets": {"s": {"file": "f"}},
    "models": {"m": {"model": "x"}},
    "include": [],
    "name": "shop",
    "version": "3",
}


KNOWN = {"host_ip": "127.0.0.1", "format": "raw"}


def document(where: str, key: str) -> dict[str, Any]:
    """A stack with a value of a key at a place such as `services.S.ports[]`, and what else it needs there."""
    root: dict[str, Any] = {
        "services": {"S": {"image": "a", "networks": ["N"], "volumes": ["VOL:/v"]}}
    }
    root["services"]["always"] = {"image": "a"}
    root |= {"networks": {"N": {}}, "volumes": {"VOL": {}}}
    at: Any = root
    parts = [part.replace("V", "VOL") if part == "V" else part for part in where.split(".") if part]
    for index, part in enumerate(parts):
        name, bracket, _ = part.partition("[")
        here = PAGE.place(".".join(where.split(".")[: index + 1]))
        needed = {one: samples.value(here.keys[one]) for one in here.required}
        if part == "volumes[]":
            needed["source"] = "/s"
        if bracket:
            at[name] = [needed]
            at = at[name][0]
        elif isinstance(at.get(name), dict):
            at = at[name]
        else:
            at[name] = needed
            at = needed
    if key in KNOWN:
        at[key] = KNOWN[key]
    at.setdefault(key, GIVEN.get(key) if not where else samples.value(PAGE.place(where).keys[key]))
    return root


def said(where: str, key: str, directory: str) -> set[str]:
    """The codes of what keeps a stack with the key from running."""
    import json

    path = os.path.join(directory, "compose.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document(where, key), file)
    options = loader.Options(files=(path,), cwd=directory, for_running=False, consistency=False)
    for name in ("always", "f"):  # what a sample may name as a file
        with open(os.path.join(directory, name), "w", encoding="utf-8"):
            pass
    pending = loader.load(options, {}).pending
    return {one.code for one in pending if f".{key} " in f".{one.summary} "}


@pytest.mark.parametrize(("where", "key", "state"), [row[:3] for row in PAGE.rows()])
def test_the_reader_agrees(where: str, key: str, state: str, tmp_path: Any) -> None:
    refused = {"E_UNSUPPORTED"} if state == PAGE.REFUSED else set[str]()
    assert said(where, key, str(tmp_path)) == refused
