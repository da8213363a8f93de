"""`include`: other stacks' files become part of this one, each with its own directory and env file.

Pure. Reads the entries of `include`, short and long; adds what was loaded for them to the document, and
refuses what both of them say differently. Loading itself is the loader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic.compose import graft, model
from ic.fields import schema, tree

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("services", "volumes", "networks", "secrets", "configs", "models")
CYCLE = "E_INCLUDE_CYCLE"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry: the first path is the file, the others are laid on it. Texts as they were written."""

    paths: tuple[tree.Node, ...]
    env_files: tuple[tree.Node, ...] = ()
    directory: tree.Node | None = None


def entries(document: tree.Node, report: tree.Report) -> list[Entry]:
    """The entries of a document's `include`."""
    node = document.child("include")
    if node is None or node.data is None:
        return []
    schema.validate(node, model.INCLUDES, report, "include")
    found: list[Entry] = []
    for index, item in enumerate(node.data if isinstance(node.data, list) else []):
        if isinstance(item.data, str):
            found.append(Entry(paths=(item,)))
        elif isinstance(item.data, dict):
            directory = item.child("project_directory")
            given = directory is not None and isinstance(directory.data, str) and directory.data
            one = Entry(
                paths=_texts(item.child("path")),
                env_files=_texts(item.child("env_file")),
                directory=directory if given else None,
            )
            if one.paths:
                found.append(one)
            elif item.child("path") is None:
                report.error(schema.MISSING, f"include[{index}] has no path", item.position)
    return found


def _warn_of_others(item: tree.Node, where: str, report: tree.Report) -> None:
    """Keys that docker compose takes here and does nothing with."""
    for key in item.data if isinstance(item.data, dict) else ():
        if key not in _KEYS:
            near = tree.nearest_hint(key, _KEYS)
            report.warn(
                "W_INCLUDE",
                f"{where} has the unknown key {key!r}, which is ignored{': ' if near else ''}{near}",
                item.key_position(key),
            )


def _texts(node: tree.Node | None) -> tuple[tree.Node, ...]:
    if node is None:
        return ()
    items = node.data if isinstance(node.data, list) else [node]
    return tuple(item for item in items if isinstance(item.data, str))


def apply(
    document: tree.Node, load: Callable[[Entry], tree.Node | None], report: tree.Report
) -> tree.Node:
    """The document without `include`, and with what its entries name; `load` gives the tree of one."""
    if document.child("include") is None:
        return document
    for entry in entries(document, report):
        loaded = load(entry)
        if loaded is not None:
            document = _with(document, loaded, report)
    return graft.without(document, "include")


def _with(document: tree.Node, loaded: tree.Node, report: tree.Report) -> tree.Node:
    for kind in KINDS:
        given = loaded.child(kind)
        if given is None or not isinstance(given.data, dict):
            continue
        here = document.child(kind)
        if here is None or here.data is None or here.mark == "reset":
            document = graft.with_child(document, kind, given, loaded.key_position(kind))
            continue
        if not isinstance(here.data, dict):
            continue  # told when the document is checked
        data, keys = dict(here.data), dict(here.keys or {})
        for name, value in given.data.items():
            if name not in data or data[name].mark == "reset":
                mark = "override" if name in data else value.mark
                data[name] = tree.Node(value.data, value.position, value.keys, mark)
                keys[name] = given.key_position(name)
            elif not graft.same(data[name], value):
                report.error(
                    tree.CONFLICT,
                    f"{kind}.{name} conflicts with the included one at {given.key_position(name)}",
                    here.key_position(name),
                    "change an included resource in an override file beside it: path: [FILE, OVERRIDE]",
                )
        document = graft.with_child(document, kind, tree.Node(data, here.position, keys, here.mark))
    return document
