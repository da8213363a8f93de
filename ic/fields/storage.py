"""Where a service keeps data: `volumes` in all their forms. Compose Specification, Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One mount in long form.

    A `volume` with an empty source is anonymous. `size` and `mode` belong to tmpfs (bytes, permission
    bits). `create_host_path` is true for short-form binds, as docker creates a missing directory there.
    """

    type: Literal["volume", "bind", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    nocopy: bool = False
    create_host_path: bool = False
    size: int | None = None
    mode: int | None = None


class Storage(msgspec.Struct, frozen=True, kw_only=True):
    """The storage section."""

    volumes: tuple[Mount, ...] = ()
