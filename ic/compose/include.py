"""`include`: other stacks' files become part of this one, each with its own directory and env file.

Pure. Reads the entries of `include`, short and long; adds what was loaded for them to the document, and
refuses what both of them say differently. Loading itself is the loader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic.compose import graft, model
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("services", "volumes", "networks", "secrets", "configs", "models")
CYCLE = "E_INCLUDE_CYCLE"
_KEYS = tuple(model.INCLUDE.keys or ())


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
    found: list[Entry] = []
    for index, item in enumerate(tree.items(node, "include", report)):
        where = f"include[{index}]"
        if isinstance(item.data, str):
            found.append(Entry(paths=(item,)))
        elif isinstance(item.data, dict):
            tree.warn_of_ignored(item, where, _KEYS, "W_INCLUDE", report)
            directory, path = item.child("project_directory"), item.child("path")
            given = None
            if directory is not None and directory.data is not None:
                given = tree.text(directory, f"{where}.project_directory", report)
            one = Entry(
                paths=_texts(path, f"{where}.path", report),
                env_files=_texts(item.child("env_file"), f"{where}.env_file", report),
                directory=directory if given else None,
            )
            if one.paths:
                found.append(one)
            elif path is None or path.data is None:
                report.warn(
                    "W_INCLUDE", f"{where} names no path, so it includes nothing", item.position
                )
        elif item.data is None:
            report.warn(
                "W_INCLUDE", f"{where} names no path, so it includes nothing", item.position
            )
        else:
            tree.wrong_type(item, where, report, "a string or a mapping")
    return found


def _texts(node: tree.Node | None, where: str, report: tree.Report) -> tuple[tree.Node, ...]:
    if node is None or node.data is None:
        return ()
    if isinstance(node.data, str):
        return (node,)
    found: list[tree.Node] = []
    for index, item in enumerate(tree.items(node, where, report)):
        if isinstance(item.data, str):
            found.append(item)
        else:
            tree.wrong_type(item, f"{where}[{index}]", report, "a string")
    return tuple(found)


def apply(
    document: tree.Node, load: Callable[[Entry], tree.Node | None], report: tree.Report
) -> tree.Node:
    """The document without `include`, and with what its entries name; `load` gives the tree of one."""
    given = document.child("include")
    if given is None or given.mark == "reset":
        return document
    made: dict[str, tree.Node] = {}  # by kind; ours alone until all is in it
    for entry in entries(document, report):
        loaded = load(entry)
        if loaded is not None:
            document = _with(document, loaded, made, report)
    return graft.without(document, "include")


def _with(
    document: tree.Node, loaded: tree.Node, made: dict[str, tree.Node], report: tree.Report
) -> tree.Node:
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
        if here is not made.get(kind):
            here = tree.Node(dict(here.data), here.position, dict(here.keys or {}), here.mark)
            made[kind] = here
            document = graft.with_child(document, kind, here)
        data, keys = here.data, here.keys
        assert isinstance(data, dict)
        assert keys is not None
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
    return document
