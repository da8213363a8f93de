"""What runs in a service and as whom: `command`, `entrypoint`, `environment`, `env_file`, `user`, `working_dir`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

import msgspec


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """The process section.

    `command` and `entrypoint`: None means the image's own, an empty tuple means none. `environment` is the
    final one (env_file and the process environment applied); a None value unsets nothing and is left out.
    """

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    user: str | None = None
    working_dir: str | None = None
