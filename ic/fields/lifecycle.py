"""Life of a service: `depends_on`, `healthcheck`, `restart`, `stop_signal`, `stop_grace_period`, `profiles`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from ic import names, units
from ic.fields import forms, merging, process, schema, tree, values
from ic.fields import section as contribution

if TYPE_CHECKING:
    from ic.resources import image, kind

Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """What a service waits for in another one."""

    condition: Condition = "service_started"
    required: bool = True
    restart: bool = False


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True):
    """How to see that a service is healthy, as written; None is not written. Durations in ms."""

    test: tuple[str, ...] | None = None
    timeout: int | None = None
    interval: int | None = None
    retries: int | None = None
    start_period: int | None = None
    start_interval: int | None = None
    disable: bool = False
    extensions: dict[str, object] = {}


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """The lifecycle section. `restart` is None when absent; the grace period is in ms (None: 10 s)."""

    depends_on: dict[str, Dependency] = {}
    healthcheck: Healthcheck | None = None
    restart: str | None = None
    stop_signal: str | None = None
    stop_grace_period: int | None = None
    profiles: tuple[str, ...] = ()


# --- reading half ---------------------------------------------------------------------------------------


def _long_dependencies(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    if isinstance(node.data, list):
        return _as_dependencies(node)
    if not isinstance(node.data, dict):
        return node
    data = {
        name: forms.having(one, condition="service_started", required=True)
        for name, one in node.data.items()
    }
    if all(data[name] is one for name, one in node.data.items()):
        return node
    return tree.Node(data, node.position, node.keys, node.mark)


_STARTED: dict[str, tree.Scalar] = {"condition": "service_started", "required": True}


def _as_dependencies(node: tree.Node) -> tree.Node:
    return tree.as_mapping(node, _STARTED)


def _merged_dependencies(
    base: tree.Node, over: tree.Node, key: schema.Key, where: str, report: tree.Report
) -> tree.Node:
    first, second = _as_dependencies(base), _as_dependencies(over)
    return first if second.data is None else merging.mappings(first, second, key, where, report)


def _long_extends(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    return forms.made(node.position, service=node.data) if isinstance(node.data, str) else node


_DURATION = schema.text(fault=values.duration)
_DEPENDENCY = schema.mapping(
    {
        "restart": schema.late_flag(),
        "required": schema.Key(schema.FLAG),
        "condition": schema.word(
            "service_started", "service_healthy", "service_completed_successfully"
        ),
    },
    required=("condition",),
)
_TEST = schema.Key(schema.TEXT | schema.LIST, item=schema.text(), merge=merging.replace)
SCHEMA: dict[str, schema.Key] = {
    "depends_on": schema.Key(
        schema.MAPPING | schema.LIST,
        names=_DEPENDENCY,
        name_pattern=schema.NAME,
        extensions=False,
        item=schema.text(),
        distinct=True,
        merge=_merged_dependencies,
        long=_long_dependencies,
    ),
    "extends": schema.Key(
        schema.TEXT | schema.MAPPING,
        keys={"service": schema.text(), "file": schema.text()},
        required=("service",),
        extensions=False,
        long=_long_extends,
    ),
    "healthcheck": schema.mapping(
        {
            "disable": schema.flag(),
            "interval": _DURATION,
            "retries": schema.long_number(fault=values.negative),
            "test": _TEST,
            "timeout": _DURATION,
            "start_period": _DURATION,
            "start_interval": _DURATION,
        }
    ),
    "init": schema.flag(pending=True),
    "post_start": schema.listing(process.HOOK, pending=True),
    "pre_stop": schema.listing(process.HOOK, pending=True),
    "profiles": schema.texts(index=merging.by_name),
    "restart": schema.text(),
    "stop_grace_period": _DURATION,
    "stop_signal": schema.text(),
}

_HEALTH_DURATIONS = ("timeout", "interval", "start_period", "start_interval")
_RESTARTS = ("no", "always", "unless-stopped", "on-failure")
_RETRIES = r"on-failure:\d{1,6}"
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
_REAL_TIME = r"RT(MIN\+|MAX-)\d{1,2}"


def normalize(service: tree.Node, where: str, report: tree.Report) -> Lifecycle:
    """Read the section from a service's merged mapping."""
    return Lifecycle(
        depends_on=_dependencies(service.child("depends_on"), f"{where}.depends_on", report),
        healthcheck=_healthcheck(service.child("healthcheck"), f"{where}.healthcheck", report),
        restart=tree.text(service.child("restart"), f"{where}.restart", report) or None,
        stop_signal=tree.text(service.child("stop_signal"), f"{where}.stop_signal", report) or None,
        stop_grace_period=_duration(
            service.child("stop_grace_period"), f"{where}.stop_grace_period", report
        ),
        profiles=tree.strings(service.child("profiles"), f"{where}.profiles", report),
    )


def _dependencies(node: tree.Node | None, where: str, report: tree.Report) -> dict[str, Dependency]:
    found: dict[str, Dependency] = {}
    for name, one in tree.entries(node, where, report).items():
        label = f"{where}.{name}"
        condition = tree.text(one.child("condition"), f"{label}.condition", report)
        found[name] = Dependency(
            condition=cast("Condition", condition or "service_started"),
            required=tree.boolean(one.child("required"), f"{label}.required", report, default=True),
            restart=tree.boolean(one.child("restart"), f"{label}.restart", report),
        )
    return found


def _healthcheck(node: tree.Node | None, where: str, report: tree.Report) -> Healthcheck | None:
    if node is None or node.data is None:
        return None
    given = tree.entries(node, where, report)
    durations = {
        key: _duration(given.get(key), f"{where}.{key}", report) for key in _HEALTH_DURATIONS
    }
    retries = given.get("retries")
    return Healthcheck(
        test=_test(given.get("test"), f"{where}.test", report),
        retries=int(retries.data) if retries and isinstance(retries.data, (int, float)) else None,
        disable=tree.boolean(given.get("disable"), f"{where}.disable", report),
        extensions=tree.extensions(node),
        **durations,
    )


def _test(node: tree.Node | None, where: str, report: tree.Report) -> tuple[str, ...] | None:
    """A text is for the image's shell; a list says with its first word what it is."""
    if node is None:
        return None
    if isinstance(node.data, str):
        return ("CMD-SHELL", node.data)
    if not isinstance(node.data, list):
        tree.wrong_type(node, where, report, "text or a list")
        return None
    words: list[str] = []
    for index, item in enumerate(node.data):
        if isinstance(item.data, str):
            words.append(item.data)
        else:
            tree.wrong_type(item, f"{where}[{index}]", report, "a string")
    return tuple(words)


def faults(section: Lifecycle) -> list[tuple[str, str, str]]:
    """What could not run, and is no mistake of form: key, reason and hint of each."""
    found: list[tuple[str, str, str]] = []
    restart, signal = section.restart, section.stop_signal
    if restart and restart not in _RESTARTS and not re.fullmatch(_RETRIES, restart, re.ASCII):
        known = ", ".join(_RESTARTS)
        reason = f"{restart!r} is none of {known} and on-failure:TIMES"
        found.append(("restart", reason, tree.nearest_hint(restart, _RESTARTS)))
    if signal and not _is_signal(signal):
        known = [f"SIG{one}" for one in sorted(_SIGNALS)]
        hint = tree.nearest_hint(signal.upper(), known)
        found.append(("stop_signal", f"{signal!r} is not a signal", hint))
    check = section.healthcheck
    if check is not None and not check.disable and check.test in (("CMD",), ("CMD-SHELL",)):
        found.append(("healthcheck", f"test has no command after {check.test[0]}", ""))
    return found


def _is_signal(text: str) -> bool:
    name = text.upper().removeprefix("SIG")
    number = int(name) if name.isdecimal() and len(name) < 4 else 0
    return name in _SIGNALS or 1 <= number <= 64 or bool(re.fullmatch(_REAL_TIME, name, re.ASCII))


def _duration(node: tree.Node | None, where: str, report: tree.Report) -> int | None:
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
    """Restart policy, health check, start at boot, stop signal, grace period, and whom it starts after.

    `boot.autostart` false keeps one-shot jobs and crashed services from being started by the server on its
    own; without it the server starts what ran, and leaves what was stopped before: `unless-stopped`. The
    grace period counts at a host's shutdown too, in whole seconds. A policy that is not in the file is not
    written: the health daemon tells `restart: "no"` from no word at all.
    """
    fields: kind.Fields = {
        ("config", "boot.host_shutdown_timeout"): str(-(-grace_ms(section) // 1000)),
    }
    if section.restart != "unless-stopped":
        fields["config", "boot.autostart"] = "true" if section.restart == "always" else "false"
    if section.restart:
        fields["config", names.RESTART] = section.restart
    fields |= _watched(section.healthcheck, ctx.image)
    if section.depends_on:
        fields["config", names.AFTER] = " ".join(sorted(section.depends_on))
    signal = section.stop_signal or ctx.image.stop_signal or "SIGTERM"
    return contribution.Contribution(fields=fields, lxc=(("lxc.signal.halt", _signal(signal)),))


def is_watched(section: Lifecycle, made: image.ImageConfig) -> bool:
    """Whether an instance of this service needs somebody who watches it."""
    return (section.restart or "no") != "no" or bool(_watched(section.healthcheck, made))


_NANOSECONDS = 1_000_000  # of an image's durations in a ms
_IMAGE_KEYS = {
    names.HEALTH_INTERVAL: "Interval",
    names.HEALTH_TIMEOUT: "Timeout",
    names.HEALTH_START_PERIOD: "StartPeriod",
    names.HEALTH_START_INTERVAL: "StartInterval",
}


def _watched(check: Healthcheck | None, made: image.ImageConfig) -> kind.Fields:
    """The keys of a health check: the file's over the image's, key by key, zero being none (docker's rule).

    Nothing at all when it is disabled, `NONE`, or neither has a test.
    """
    check = check or Healthcheck()
    given = made.healthcheck or {}
    test = check.test or _strings(given.get("Test"))
    if check.disable or not test or test[0] == "NONE":
        return {}
    if test[0] == "CMD-SHELL" and made.shell:
        test = ("CMD", *made.shell, *test[1:])
    durations = {
        names.HEALTH_INTERVAL: check.interval,
        names.HEALTH_TIMEOUT: check.timeout,
        names.HEALTH_START_PERIOD: check.start_period,
        names.HEALTH_START_INTERVAL: check.start_interval,
    }
    fields: kind.Fields = {("config", names.HEALTH_TEST): msgspec.json.encode(test).decode()}
    for key, own in durations.items():
        ms = own or -(-_integer(given.get(_IMAGE_KEYS[key])) // _NANOSECONDS)
        if ms > 0:
            fields["config", key] = units.duration_text(ms)
    retries = check.retries or _integer(given.get("Retries"))
    if retries > 0:
        fields["config", names.HEALTH_RETRIES] = str(retries)
    return fields


def _strings(value: object) -> tuple[str, ...]:
    """The image's test: foreign, so anything but a list of texts is none."""
    words = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(word for word in words if isinstance(word, str)) if words else ()


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


def _signal(text: str) -> str:
    """A signal as LXC reads it: a number, or a name that begins with SIG."""
    text = text.strip().upper()
    return text if text.isdecimal() or text.startswith("SIG") else f"SIG{text}"
