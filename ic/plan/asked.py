"""What the command line says about a plan. Pure values."""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["apply", "up", "stop", "down", "destroy"]
PullPolicy = Literal["always", "missing", "never"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a plan.

    `services` empty means all. `grace_ms` overrides every stop grace period (`down -t`). `key` is the
    stack's digest key, `pull` the `--pull` option.

    `healthd` false leaves the health daemon out and removes one that is there. `healthd_source` is the file
    that is pushed into it, `healthd_build` that file's digest, `healthd_runs_itself` whether it needs no
    Python, `healthd_image` what it runs in (empty: `x-ic`, else the usual one), `healthd_token` a file with a
    token that an administrator made.
    """

    mode: Mode = "apply"
    services: tuple[str, ...] = ()
    remove_orphans: bool = False
    volumes: bool = False
    grace_ms: int | None = None
    key: bytes = b""
    pull: PullPolicy | None = None
    healthd: bool = True
    healthd_image: str = ""
    healthd_source: str = ""
    healthd_build: str = ""
    healthd_runs_itself: bool = False
    healthd_token: str = ""

    @property
    def removes(self) -> bool:
        """Whether what is absent from all files is removed by this plan: `apply` does, `up` when asked."""
        return self.remove_orphans or (self.mode == "apply" and not self.services)
