"""How many of a service and how they are marked: `scale`, `deploy.replicas`, `container_name`, `labels`. Pure."""

from __future__ import annotations

import msgspec


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The placement section. `replicas` is `deploy.replicas` or `scale`, 1 without either."""

    replicas: int = 1
    container_name: str | None = None
    labels: dict[str, str] = {}
