"""`extends`: a service takes over what another one says, of the same file or of another, in chains.

Pure: a document and ways to get another file's services and to lay one service on another in; the document
with every `extends` carried out, out. A chain is followed to its end before anything is merged, so neither
its length nor a cycle costs more than its links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic.compose import graft
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable

CYCLE = "E_EXTENDS_CYCLE"
CHAIN_LIMIT = 1_000
_KEYS = ("service", "file")


class Source(msgspec.Struct, frozen=True):
    """A file that is extended from: its name (to tell files apart), the name to show, its services.

    `drops` are the paths below its services that carry `!reset` or `!override`, where the nodes themselves
    do not say so any more.
    """

    file: str
    shown: str
    services: tree.Node | None
    drops: tuple[tuple[str, ...], ...] = ()


class Link(msgspec.Struct, frozen=True):
    """One service of a chain and what its `extends` names."""

    name: str
    service: tree.Node
    source: Source
    extends: tree.Node


def apply(
    document: tree.Node,
    source: Source,
    fetch: Callable[[tree.Node], Source | None],
    join: Callable[[tree.Node, tree.Node, str], tree.Node],
    report: tree.Report,
) -> tree.Node:
    """The document with its services' `extends` carried out.

    `source` is the document itself. `fetch` gives the file that a node names, or None after having reported
    why not; `join` lays a service on its base.
    """
    chains = _Chains(fetch, join, report)

    services = source.services
    if services is None:
        return document
    if services.data is None and services.mark != "reset":
        tree.wrong_type(services, "services", report, "a mapping")
        return graft.without(document, "services")

    chains.foresee(services)

    def one(name: str, node: tree.Node) -> tree.Node:
        if node.mark == "reset" or _extends_of(node) is None:
            return node
        made = chains.resolved(name, node, source)
        if made is None:
            # What the service lacks now is not to be told as well.
            report.faulty.update((node.position, services.key_position(name)))
            return graft.without(node, "extends")
        if made.mark == node.mark:
            return made
        return tree.Node(made.data, made.position, made.keys, node.mark)

    return graft.changed(document, "services", lambda node: graft.mapped(node, one))


def _extends_of(service: tree.Node) -> tree.Node | None:
    """What a service extends; one that says `!reset` there extends nothing."""
    found = service.child("extends")
    return None if found is None or found.mark == "reset" else found


class _Chains:
    """The chains of one document."""

    def __init__(
        self,
        fetch: Callable[[tree.Node], Source | None],
        join: Callable[[tree.Node, tree.Node, str], tree.Node],
        report: tree.Report,
    ) -> None:
        self.fetch = fetch
        self.join = join
        self.report = report
        self.done: dict[tuple[str, str], tree.Node] = {}
        self.failed: set[tuple[str, str]] = set()  # what is wrong with these was told
        self.sizes: dict[int, int] = {}
        self.kept: list[tree.Node] = []  # so that an id stays that of one node

    def foresee(self, services: tree.Node) -> None:
        """Refuse what will be too much before any of it is made: bases of this file that extend nothing."""
        count = 0
        for name, service in services.data.items() if isinstance(services.data, dict) else ():
            named = service.child("extends")
            if named is not None and named.child("file") is None:
                named = named.child("service") or named
            base = services.child(named.data) if named and isinstance(named.data, str) else None
            if base is not None and named is not None and base.child("extends") is None:
                count += graft.size(base, self.sizes)
                self.report.has_room(count, f"services.{name}", named.position)

    def resolved(self, name: str, service: tree.Node, source: Source) -> tree.Node | None:
        """A service with what it extends; None after a fault was reported."""
        links: list[Link] = []
        base: tree.Node | None = None
        seen: set[tuple[str, str]] = set()
        at, here, node = name, source, service
        while True:
            if (here.file, at) in self.done:
                base = self.done[here.file, at]
                break
            if (here.file, at) in self.failed:
                return self._fail(links)
            extends = _extends_of(node)
            if extends is None:
                base = graft.without(node, "extends")
                break
            link = Link(at, node, here, extends)
            links.append(link)
            if (here.file, at) in seen or len(links) > CHAIN_LIMIT:
                self._cycle(links)
                return self._fail(links)
            seen.add((here.file, at))
            following = self._target(link)
            if following is None:
                return self._fail(links)
            at, here, node = following
        for link in reversed(links):
            base = self._joined(base, link)
            self.done[link.source.file, link.name] = base
            self.kept.append(base)
        return base

    def _fail(self, links: list[Link]) -> None:
        """Keep what led to a fault, so that it is told once and not for everyone who meets it."""
        self.failed.update((link.source.file, link.name) for link in links)

    def _joined(self, base: tree.Node, link: Link) -> tree.Node:
        if base.data is None:
            return link.service
        where = f"services.{link.name}"
        own = graft.without(link.service, "extends")
        self.report.make(graft.size(base, self.sizes), where, link.extends.position)
        base = graft.without_marks(base)
        for name, *path in link.source.drops:
            if name == link.name and path:
                base = graft.without_path(base, path)
        return self.join(base, own, where)

    def _target(self, link: Link) -> tuple[str, Source, tree.Node] | None:
        where = f"services.{link.name}.extends"
        named: tree.Node | None = link.extends
        source = link.source
        if isinstance(named.data, dict):
            tree.warn_of_ignored(named, where, _KEYS, "W_EXTENDS", self.report)
            file = named.child("file")
            named = named.child("service")
            if file is not None and file.data is not None:
                fetched = self.fetch(file)
                if fetched is None:
                    return None
                source = fetched
        if named is None or not isinstance(named.data, str):
            at = named or link.extends
            self.report.error(tree.TYPE, f"{where} must name a service", at.position)
            return None
        services = source.services
        found = services.child(named.data) if services is not None else None
        if found is not None and found.mark == "reset":
            found = None
        if found is not None and (isinstance(found.data, dict) or found.data is None):
            return named.data, source, found
        if found is not None:
            tree.wrong_type(found, f"services.{named.data}", self.report, "a mapping")
            return None
        asked = named.data
        there = services.data if services is not None and isinstance(services.data, dict) else {}
        self.report.error(
            tree.REFERENCE,
            f"{where}: service {named.data!r} not found in {source.shown}",
            named.position,
            lambda: tree.nearest_hint(
                asked, [name for name, one in there.items() if one.mark != "reset"]
            ),
        )
        return None

    def _cycle(self, links: list[Link]) -> None:
        last = links[-1]
        if len(links) > CHAIN_LIMIT:
            self.report.error(
                "E_LIMIT",
                f"services.{links[0].name}.extends: a chain of more than {CHAIN_LIMIT} services",
                links[0].extends.position,
            )
            return
        first = next(
            index
            for index, link in enumerate(links)
            if (link.source.file, link.name) == (last.source.file, last.name)
        )
        files = {link.source.file for link in links[first:]}
        ring = [
            link.name if len(files) == 1 else f"{link.name} ({link.source.shown})"
            for link in links[first:]
        ]
        if len(ring) > 8:
            ring = [*ring[:4], "...", *ring[-3:]]
        at = links[first].extends
        self.report.error(
            CYCLE,
            f"services extend each other in a cycle (circular reference): {' -> '.join(ring)}",
            at.position,
        )
