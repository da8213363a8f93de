"""Life of a service: `depends_on`, `restart`, `stop_signal`, `stop_grace_period`, `profiles`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.resources import kind

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


# --- mapping half ---------------------------------------------------------------------------------------

DEFAULT_GRACE_MS = 10_000  # docker's


def grace_ms(section: Lifecycle) -> int:
    """How long an instance may take to end after its stop signal, in ms."""
    given = section.stop_grace_period
    return DEFAULT_GRACE_MS if given is None else given


def contribute(section: Lifecycle, ctx: contribution.Context) -> contribution.Contribution:
    """Restart policy, start at boot, stop signal and grace period, and whom the instance starts after.

    `boot.autostart` false keeps one-shot jobs and crashed services from being started by the server on its
    own; the grace period counts at a host's shutdown too, in whole seconds.
    """
    policy = section.restart or "no"
    always = policy in {"always", "unless-stopped"}
    fields: kind.Fields = {
        ("config", names.RESTART): policy,
        ("config", "boot.autostart"): "true" if always else "false",
        ("config", "boot.host_shutdown_timeout"): str(-(-grace_ms(section) // 1000)),
    }
    if section.depends_on:
        fields["config", names.AFTER] = " ".join(sorted(section.depends_on))
    signal = section.stop_signal or ctx.image.stop_signal or "SIGTERM"
    return contribution.Contribution(fields=fields, lxc=(("lxc.signal.halt", _signal(signal)),))


def _signal(text: str) -> str:
    """A signal as LXC reads it: a number, or a name that begins with SIG."""
    text = text.strip().upper()
    return text if text.isdecimal() or text.startswith("SIG") else f"SIG{text}"
