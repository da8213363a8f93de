"""Life of a service: `depends_on`, `restart`, `stop_signal`, `stop_grace_period`, `profiles`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from ic import names, units
from ic.fields import section as contribution
from ic.fields import tree

if TYPE_CHECKING:
    from ic.resources import kind

Condition = Literal["service_started", "service_completed_successfully"]


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """What a service waits for in another one."""

    condition: Condition = "service_started"
    required: bool = True
    restart: bool = False


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """The lifecycle section. `restart` is None when absent; the grace period is in ms (None: 10 s)."""

    depends_on: dict[str, Dependency] = {}
    restart: str | None = None
    stop_signal: str | None = None
    stop_grace_period: int | None = None
    profiles: tuple[str, ...] = ()


# --- reading half ---------------------------------------------------------------------------------------
_STARTED: dict[str, tree.Scalar] = {"condition": "service_started", "required": True}


def _as_dependencies(node: tree.Node) -> tree.Node:
    return tree.as_mapping(node, _STARTED)


KEYS: dict[str, tree.Rule | None] = {
    "depends_on": tree.Rule(_as_dependencies),
    "restart": None,
    "stop_signal": None,
    "stop_grace_period": None,
    "profiles": None,
    "extends": None,
}
BELOW: tree.Rules = {}
PENDING = frozenset({"healthcheck", "init", "post_start", "pre_stop"})

_CONDITIONS = ("service_started", "service_completed_successfully")
_RESTARTS = ("no", "always", "unless-stopped", "on-failure")
_RETRIES = re.compile(r"on-failure:\d{1,6}", re.ASCII)
_SIGNALS = frozenset(
    [
        "HUP",
        "INT",
        "QUIT",
        "ILL",
        "TRAP",
        "ABRT",
        "IOT",
        "BUS",
        "FPE",
        "KILL",
        "USR1",
        "SEGV",
        "USR2",
        "PIPE",
        "ALRM",
        "TERM",
        "STKFLT",
        "CHLD",
        "CLD",
        "CONT",
        "STOP",
        "TSTP",
        "TTIN",
        "TTOU",
        "URG",
        "XCPU",
        "XFSZ",
        "VTALRM",
        "PROF",
        "WINCH",
        "IO",
        "POLL",
        "PWR",
        "SYS",
        "UNUSED",
        "RTMIN",
        "RTMAX",
    ]
)
_REAL_TIME = re.compile(r"RT(MIN\+|MAX-)\d{1,2}", re.ASCII)


def normalize(service: tree.Node, where: str, report: tree.Report) -> Lifecycle:
    """Read the section from a service's merged mapping."""
    return Lifecycle(
        depends_on=_dependencies(service.child("depends_on"), f"{where}.depends_on", report),
        restart=tree.text(service.child("restart"), f"{where}.restart", report) or None,
        stop_signal=tree.text(service.child("stop_signal"), f"{where}.stop_signal", report) or None,
        stop_grace_period=_grace(
            service.child("stop_grace_period"), f"{where}.stop_grace_period", report
        ),
        profiles=tree.strings(service.child("profiles"), f"{where}.profiles", report),
    )


def _dependencies(node: tree.Node | None, where: str, report: tree.Report) -> dict[str, Dependency]:
    found: dict[str, Dependency] = {}
    given = _as_dependencies(node) if node is not None else None
    for name, one in tree.entries(given, where, report).items():
        label = f"{where}.{name}"
        if not isinstance(one.data, dict):
            tree.wrong_type(one, label, report, "a mapping with a condition")
            continue
        tree.check_keys(one, label, report, ("condition", "required", "restart"))
        if one.child("condition") is None:
            report.error(
                tree.VALUE,
                f"{label} has no condition",
                one.position,
                "add condition: service_started",
            )
        condition = tree.word(
            one.child("condition"), f"{label}.condition", report, _CONDITIONS, ("service_healthy",)
        )
        found[name] = Dependency(
            condition=cast("Condition", condition or "service_started"),
            required=tree.boolean(one.child("required"), f"{label}.required", report, default=True),
            restart=tree.boolean(one.child("restart"), f"{label}.restart", report),
        )
    return found


def faults(section: Lifecycle) -> list[tuple[str, str, str]]:
    """What could not run, and is no mistake of form: key, reason and hint of each."""
    found: list[tuple[str, str, str]] = []
    restart, signal = section.restart, section.stop_signal
    if restart and restart not in _RESTARTS and not _RETRIES.fullmatch(restart):
        known = ", ".join(_RESTARTS)
        reason = f"{restart!r} is none of {known} and on-failure:TIMES"
        found.append(("restart", reason, tree.nearest_hint(restart, _RESTARTS)))
    if signal and not _is_signal(signal):
        known = [f"SIG{one}" for one in sorted(_SIGNALS)]
        hint = tree.nearest_hint(signal.upper(), known)
        found.append(("stop_signal", f"{signal!r} is not a signal", hint))
    return found


def _is_signal(text: str) -> bool:
    name = text.upper().removeprefix("SIG")
    number = int(name) if name.isdecimal() and len(name) < 4 else 0
    return name in _SIGNALS or 1 <= number <= 64 or bool(_REAL_TIME.fullmatch(name))


def _grace(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
    value = tree.text(node, where, report)
    if node is None or value is None:
        return None
    try:
        return units.duration_ms(value)
    except ValueError as problem:
        report.error(tree.VALUE, f"{where}: {problem}", node.position)
        return None


# --- mapping half ---------------------------------------------------------------------------------------

DEFAULT_GRACE_MS = 10_000  # docker's


def grace_ms(section: Lifecycle) -> int:
    """How long an instance may take to end after its stop signal, in ms."""
    given = section.stop_grace_period
    return DEFAULT_GRACE_MS if given is None else given


def contribute(section: Lifecycle, ctx: contribution.Context) -> contribution.Contribution:
    """Restart policy, start at boot, stop signal and grace period, and whom the instance starts after.

    `boot.autostart` false keeps one-shot jobs and crashed services from being started by the server on its
    own; the grace period counts at a host's shutdown too, in whole seconds. A policy that is not in the file
    is not written: the health daemon tells `restart: "no"` from no word at all.
    """
    always = section.restart in {"always", "unless-stopped"}
    fields: kind.Fields = {
        ("config", "boot.autostart"): "true" if always else "false",
        ("config", "boot.host_shutdown_timeout"): str(-(-grace_ms(section) // 1000)),
    }
    if section.restart:
        fields["config", names.RESTART] = section.restart
    if section.depends_on:
        fields["config", names.AFTER] = " ".join(sorted(section.depends_on))
    signal = section.stop_signal or ctx.image.stop_signal or "SIGTERM"
    return contribution.Contribution(fields=fields, lxc=(("lxc.signal.halt", _signal(signal)),))


def _signal(text: str) -> str:
    """A signal as LXC reads it: a number, or a name that begins with SIG."""
    text = text.strip().upper()
    return text if text.isdecimal() or text.startswith("SIG") else f"SIG{text}"
