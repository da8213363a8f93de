"""What distinguishes a live resource from the desired one, why, and what the journal learns of it. Pure.

The rule for one field (docs/architecture.md): desired and different is set; recorded and no longer desired is
removed; live alone is not ours and left; live that differs from both recorded and desired is drift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import names
from ic.journal import fold, redact
from ic.resources import instance, kind, sidecar

if TYPE_CHECKING:
    from collections.abc import Callable

NEW = "new"
VANISHED = "vanished: it was made by ic and is gone from the server"
ADOPTED = "carries this stack's mark and is not in the journal"
CUT_OFF = "its creation was cut off"
ORPHAN = "orphan: not in the journal, not in the files"
OLD_BRIDGE = "its old bridge was left when it got another name"
UNFILLED = "it was not filled to the end"
CHANGED = "changed in the files"
REMOVED = "removed from the files"
DRIFT = "changed outside ic"
NEW_IMAGE = "its image changed"
NEW_BUILD = "another ic.pyz"
NAMES = "names or addresses of its services changed"
CAUSES = (NEW_BUILD, NEW_IMAGE, CHANGED, NAMES, REMOVED, DRIFT)
"""Those of single fields, in the order in which they are said."""


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What distinguishes a live resource from the desired one."""

    fields: tuple[kind.FieldChange, ...] = ()
    set: kind.Fields = {}
    unset: tuple[kind.Path, ...] = ()  # as sent: a whole device is ("devices", NAME)
    gone: tuple[kind.Path, ...] = ()  # as recorded: every path
    causes: tuple[str, ...] = ()

    @property
    def impact(self) -> kind.Impact:
        """The strongest one."""
        impacts = {field.impact for field in self.fields}
        return (
            "replace" if "replace" in impacts else "restart" if "restart" in impacts else "in-place"
        )


class Book:
    """What is recorded in a lineage, and the key that its digests were made with."""

    def __init__(
        self, recorded: dict[str, fold.RecordedResource], key: bytes, lineage: str = ""
    ) -> None:
        self.recorded = recorded
        self.key = key
        self.lineage = lineage

    def was(self, address: str, path: kind.Path, value: str) -> bool | None:
        """Whether a value is the recorded one; None when nothing is recorded of the path."""
        known = self.recorded.get(address)
        was = known.fields.get(path) if known else None
        if was is None:
            return None
        if isinstance(was, fold.Digest):
            return redact.digest(self.key, value) == was.hmac
        return was == value

    def compare(
        self,
        resource: kind.Resource,
        live: kind.Live,
        impact: Callable[[kind.Path, str | None, str | None], kind.Impact],
    ) -> Diff:
        """In D and different from L: set. In R, not in D, still in L: remove. In L alone: left."""
        known = self.recorded.get(resource.address)
        if live.veiled and known:
            live = msgspec.structs.replace(live, fields=self._as_recorded(resource, known))
        set_ = {p: v for p, v in resource.fields.items() if live.fields.get(p) != v}
        gone = tuple(
            sorted(
                p
                for p in (known.fields if known else {})
                if p not in resource.fields and p in live.fields
            )
        )
        lost = _lost_devices(resource, gone)
        unset = tuple(
            sorted({("devices", p[1]) if p[0] == "devices" and p[1] in lost else p for p in gone})
        )
        causes: set[str] = set()
        fields: list[kind.FieldChange] = []
        for path in sorted({*set_, *gone}):
            old, new = live.fields.get(path), resource.fields.get(path)
            causes.add(self._cause(resource.address, path, old, new))
            hidden = not kind.is_public(path)
            fields.append(
                kind.FieldChange(
                    path=kind.text_of(path),
                    old=None if hidden else old,
                    new=None if hidden else new,
                    impact=impact(path, old, new),
                    redacted=hidden,
                )
            )
        if resource.name != live.name:
            causes.add(CHANGED)
            fields.insert(
                0, kind.FieldChange(path="name", old=live.name, new=resource.name, impact="replace")
            )
        return Diff(
            fields=tuple(fields),
            set=set_,
            unset=unset,
            gone=gone,
            causes=tuple(cause for cause in CAUSES if cause in causes),
        )

    def _as_recorded(self, resource: kind.Resource, known: fold.RecordedResource) -> kind.Fields:
        """The recorded fields; of a digest the desired value where it is that one's, else nothing."""
        return {
            path: was
            if isinstance(was, str)
            else resource.fields[path]
            if path in resource.fields and self.was(resource.address, path, resource.fields[path])
            else ""
            for path, was in known.fields.items()
        }

    def _cause(self, address: str, path: kind.Path, old: str | None, new: str | None) -> str:
        if new is None:
            return REMOVED
        if self.was(address, path, new):
            return DRIFT
        if path == ("config", names.IMAGE) and instance.digest_of(old) != instance.digest_of(new):
            return NEW_IMAGE
        if path == ("config", sidecar.BUILD):
            return NEW_BUILD
        if path == ("config", "raw.dnsmasq"):
            return NAMES
        return CHANGED

    def record(self, resource: kind.Resource, diff: Diff) -> kind.Record:
        """What the journal learns of an update: all that it does not have like this already."""
        return kind.Record(
            name=resource.name,
            pool=resource.pool,
            fields={
                path: value
                for path, value in sorted(resource.fields.items())
                if not self.was(resource.address, path, value)
            },
            unset=diff.gone,
        )


def given(resource: kind.Resource) -> tuple[kind.FieldChange, ...]:
    """The fields of something new."""
    return tuple(
        kind.FieldChange(
            path=kind.text_of(path),
            old=None,
            new=value if kind.is_public(path) else None,
            impact="in-place",
            redacted=not kind.is_public(path),
        )
        for path, value in sorted(resource.fields.items())
    )


def moving_cards(diff: Diff, live: kind.Live | None) -> tuple[str, ...]:
    """The cards that are there and leave their network, where another one comes into a network."""
    comes = {path[1] for path in diff.set if path[0] == "devices" and path[2:] == ("network",)}
    if live is None or not comes:
        return ()
    cards = {p[1] for p in live.fields if p[0] == "devices" and p[2:] == ("network",)}
    goes = {path[1] for path in diff.unset if len(path) == 2}
    return tuple(sorted(cards & (comes | goes)))


def _lost_devices(resource: kind.Resource, gone: tuple[kind.Path, ...]) -> frozenset[str]:
    """Devices of which nothing is desired any more."""
    kept = {path[1] for path in resource.fields if path[0] == "devices"}
    return frozenset(path[1] for path in gone if path[0] == "devices" and path[1] not in kept)


def instance_impact(
    resource: kind.Resource, live: kind.Live
) -> Callable[[kind.Path, str | None, str | None], kind.Impact]:
    """The impact of one path, with the whole device in view where there is one."""

    def impact(path: kind.Path, old: str | None, new: str | None) -> kind.Impact:
        own = instance.impact(path, old, new)
        if path[0] != "devices" or own == "replace":
            return own
        bodies = [
            {p[2]: v for p, v in fields.items() if p[:2] == path[:2]}
            for fields in (resource.fields, live.fields)
        ]
        present = [body for body in bodies if body]
        return "restart" if "restart" in map(instance.device_impact, present) else "in-place"

    return impact
