"""Which image a service runs: `image`, `pull_policy`. Compose Specification, section Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

PullPolicy = Literal["always", "missing", "never"]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The image section. `if_not_present` is read as `missing`."""

    image: str | None = None
    pull_policy: PullPolicy | None = None
