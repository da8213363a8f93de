"""Relative paths of a stack become absolute: where a path stands decides, the directory given is the root.

Pure, but for links in what `develop.watch` names, which docker compose follows. Reads the long forms. The
directory may itself be relative: what an included or extended file says is first rooted at that file's
directory, and once more at the stack's when that is read.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING

from ic.compose import graft
from ic.fields import schema, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ELSEWHERE = ("https://", "http://", "git://", "ssh://", "github.com/", "git@")
_DRIVE = r"[^/\\]:[/\\]|[/\\]{2}[^/\\]+[/\\][^/\\]+"


class _Table:
    """What to do below a place of the tree: a change to the value here, or tables of its keys."""

    __slots__ = ("below", "change", "each")

    def __init__(self) -> None:
        self.below: dict[str, _Table] = {}
        self.each: _Table | None = None
        self.change: Callable[[_Places, tree.Node], tree.Node] | None = None

    def step(self, name: str) -> _Table:
        """The table below a name, made where there is none."""
        if name != "*":
            return self.below.setdefault(name, _Table())
        self.each = self.each or _Table()
        return self.each


def _table(changes: Mapping[str, Callable[[_Places, tree.Node], tree.Node]]) -> _Table:
    root = _Table()
    for path, change in changes.items():
        at = root
        for name in path.split("."):
            at = at.step(name)
        at.change = change
    return root


def resolve(root: tree.Node, directory: str, home: str, report: tree.Report) -> tree.Node:
    """The tree with its paths below `directory`, and `~` below `home`. What is no path is left as it is."""
    return _Places(root, directory, home, report).visit(root, _EVERYWHERE)


class _Places:
    """One tree whose paths are being resolved."""

    def __init__(self, root: tree.Node, directory: str, home: str, report: tree.Report) -> None:
        self.root = root
        self.directory = directory
        self.home = home
        self.report = report

    def visit(self, node: tree.Node, table: _Table) -> tree.Node:
        """The node with everything resolved that the table names, and shared where that is nothing."""
        if table.change is not None:
            return table.change(self, node)
        data = node.data
        each = table.each
        if isinstance(data, dict):
            new: dict[str, tree.Node] = {}
            for key in data if each else table.below.keys() & data.keys():
                value = self.visit(data[key], each or table.below[key])
                if value is not data[key]:
                    new[key] = value
            return tree.Node({**data, **new}, node.position, node.keys, node.mark) if new else node
        if isinstance(data, list) and each:
            items = [self.visit(item, each) for item in data]
            if any(one is not old for one, old in zip(items, data, strict=True)):
                return tree.Node(items, node.position, None, node.mark)
        return node

    def _joined(self, text: str) -> str:
        return _clean(posixpath.join(self.directory, text))

    def _with_home(self, text: str, node: tree.Node) -> str:
        if not text.startswith("~"):
            return text
        if not self.home:
            self.report.error(tree.VALUE, "'~' has no meaning: HOME is not set", node.position)
            self.report.faulty.add(node.position)
            return text
        return _clean(f"{self.home}/{text[1:]}")

    def plain(self, node: tree.Node) -> tree.Node:
        """A path, or a list of paths; an empty one stays empty."""
        if isinstance(node.data, list):
            return tree.Node([self.plain(item) for item in node.data], node.position)
        if not isinstance(node.data, str) or not node.data:
            return node
        text = self._with_home(node.data, node)
        return _with(node, text if text.startswith("/") else self._joined(text))

    def host(self, node: tree.Node) -> tree.Node:
        """A path on the host; one of Windows is absolute too. An empty one is the directory itself."""
        if not isinstance(node.data, str):
            return node
        text = self._with_home(node.data, node)
        if text.startswith("/") or _is_windows_path(text):
            return _with(node, text)
        return _with(node, self._joined(text))

    def context(self, node: tree.Node) -> tree.Node:
        """A build context: a path, or something elsewhere, or another service."""
        text = node.data
        if not isinstance(text, str) or "://" in text or text.startswith(("service:", *_ELSEWHERE)):
            return node
        return self.plain(node)

    def watched(self, node: tree.Node) -> tree.Node:
        """A path whose links are followed."""
        found = self.plain(node)
        if not isinstance(found.data, str):
            return found
        at = ""
        for part in found.data.split("/"):
            at = posixpath.join(at or ("/" if found.data.startswith("/") else ""), part)
            if part and os.path.islink(at):
                real = os.path.realpath(at)
                return _with(found, found.data.replace(at, real, 1))
        return found

    def mount(self, node: tree.Node) -> tree.Node:
        """A mount in its long form: only the source of a bind mount is a path."""
        kind = node.child("type")
        if kind is None or kind.data != "bind":
            return node
        if node.child("source") is None:
            self.report.error(
                schema.MISSING,
                f"{self._where(node)}: a mount of the type 'bind' requires a source, which is missing",
                node.position,
                "add source:",
            )
        return graft.changed(node, "source", self.host)

    def _where(self, mount: tree.Node) -> str:
        services = self.root.child("services")
        for name, service in (
            services.data.items() if services and isinstance(services.data, dict) else ()
        ):
            listed = service.child("volumes")
            items = listed.data if listed is not None else None
            for index, one in enumerate(items if isinstance(items, list) else ()):
                if one is mount:
                    return f"services.{name}.volumes[{index}]"
        return "volumes"

    def volume(self, node: tree.Node) -> tree.Node:
        """A volume of the local driver that is a bind mount in disguise has a path for a device."""
        driver, options = node.child("driver"), node.child("driver_opts")
        if driver is None or driver.data != "local" or options is None:
            return node
        kind = options.child("o")
        if kind is None or kind.data != "bind":
            return node
        return graft.changed(
            node, "driver_opts", lambda given: graft.changed(given, "device", self.host)
        )


_EVERYWHERE = _table(
    {
        "services.*.build.context": _Places.context,
        "services.*.build.additional_contexts.*": _Places.context,
        "services.*.build.ssh.*": _Places.host,
        "services.*.env_file.*.path": _Places.plain,
        "services.*.label_file.*": _Places.plain,
        "services.*.extends.file": _Places.plain,
        "services.*.develop.watch.*.path": _Places.watched,
        "services.*.volumes.*": _Places.mount,
        "configs.*.file": _Places.host,
        "secrets.*.file": _Places.host,
        "volumes.*": _Places.volume,
    }
)


def _clean(path: str) -> str:
    clean = posixpath.normpath(path)
    return clean[1:] if clean.startswith("//") else clean


def _is_windows_path(text: str) -> bool:
    return re.match(_DRIVE, text) is not None


def _with(node: tree.Node, text: str) -> tree.Node:
    if text == node.data:
        return node
    return tree.Node(text, node.position, mark=node.mark)
