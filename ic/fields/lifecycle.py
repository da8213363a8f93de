"""Life of a service: `depends_on`, `restart`, `stop_signal`, `stop_grace_period`, `profiles`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Condition = Literal["service_started", "service_completed_successfully"]


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """What a service waits for in another one."""

    condition: Condition = "service_started"
    required: bool = True
    restart: bool = False


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """The lifecycle section. `restart` is None when the key is absent; the grace period is in ms (None: 10 s)."""

    depends_on: dict[str, Dependency] = {}
    restart: str | None = None
    stop_signal: str | None = None
    stop_grace_period: int | None = None
    profiles: tuple[str, ...] = ()
