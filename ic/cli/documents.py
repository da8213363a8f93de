"""The versioned JSON documents of `--json`, as values. Pure.

Within a version fields are only ever added. `docs/schemas/` holds the JSON schema of each, made from these
types by `scripts/generate.py`. Times are RFC 3339 in UTC, durations milliseconds, sizes bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from ic import errors
    from ic.plan import changes

Action = Literal[
    "create", "update", "restart", "replace", "delete", "start", "stop", "forget", "adopt"
]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field that would change; a redacted one shows neither value."""

    path: str
    old: str | None
    new: str | None
    impact: Literal["in-place", "restart", "replace"]
    redacted: bool


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that would change."""

    address: str
    action: Action
    cause: str
    fields: tuple[Field, ...]


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell about the input."""

    severity: Literal["error", "warning"]
    code: str
    summary: str
    file: str | None
    line: int | None
    column: int | None
    hint: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`ic plan --json`."""

    schema: Literal["ic.plan/1"] = "ic.plan/1"
    stack: str
    server: str
    changes: tuple[Change, ...]
    summary: dict[str, int]
    diagnostics: tuple[Diagnostic, ...]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A change that could not be carried out."""

    address: str
    step: str
    code: str
    summary: str
    details: tuple[str, ...]
    hint: str


class Apply(msgspec.Struct, frozen=True, kw_only=True):
    """`ic apply --json`, and `up -d`, `down` and `destroy` with it.

    `run` is null when nothing was to be done. `done` and `not_started` are addresses, `next` what to type.
    """

    schema: Literal["ic.apply/1"] = "ic.apply/1"
    run: str | None
    status: Literal["ok", "failed", "interrupted"]
    changes: tuple[Change, ...]
    done: tuple[str, ...]
    failed: tuple[Failure, ...]
    not_started: tuple[str, ...]
    next: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One step as the journal has it, under its intent's number.

    `recovered_by` is the later run that found out how it had ended. Of the health daemon's runs: `cause` in
    words, and `output`, the last line that the probe wrote.
    """

    n: int
    time: str
    kind: str
    address: str
    phase: Literal["intent", "done"]
    status: str | None
    ms: int | None
    error: str | None
    recovered_by: str | None = None
    cause: str | None = None
    output: str | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of ic on the stack."""

    run: str
    generation: int
    command: str
    actor: str
    started: str
    ended: str | None
    status: Literal["ok", "failed", "interrupted", "running"]
    counts: dict[str, int]
    events: tuple[Event, ...]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """`ic history --json`, newest run first."""

    schema: Literal["ic.history/1"] = "ic.history/1"
    stack: str
    lineage: str
    runs: tuple[Run, ...]


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One published port."""

    protocol: str
    host: str
    published: int
    target: int


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as it is now."""

    name: str
    service: str
    replica: int
    state: str
    exit_code: int | None
    health: str | None
    image: str
    addresses: tuple[str, ...]
    ports: tuple[Port, ...]
    created: str | None
    started: str | None
    unwatched: bool = False


class Healthd(msgspec.Struct, frozen=True, kw_only=True):
    """The health daemon: its state in a word (`stopped` when its sidecar does not run), and its reason."""

    state: str
    detail: str
    since: str | None
    watched: int
    misconfigured: tuple[str, ...]


class Ps(msgspec.Struct, frozen=True, kw_only=True):
    """`ic ps --json`."""

    schema: Literal["ic.ps/1"] = "ic.ps/1"
    stack: str
    instances: tuple[Instance, ...]
    healthd: Healthd | None = None


class HealthdStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`ic healthd status --json`: the daemon, and the instances that have a health."""

    schema: Literal["ic.healthd/1"] = "ic.healthd/1"
    stack: str
    healthd: Healthd | None
    instances: tuple[Instance, ...]


class HealthdCheck(msgspec.Struct, frozen=True, kw_only=True):
    """`ic healthd check --json`: what one probe gave. `leaked` names processes of it that are left."""

    schema: Literal["ic.check/1"] = "ic.check/1"
    stack: str
    address: str
    healthy: bool
    result: Literal["exit", "timeout", "error", "gone"]
    exit_code: int | None
    output: str
    leaked: tuple[str, ...]


class HealthdLog(msgspec.Struct, frozen=True, kw_only=True):
    """`ic healthd logs --json`: what the daemon wrote, oldest first: `time`, `event` and its fields."""

    schema: Literal["ic.log/1"] = "ic.log/1"
    stack: str
    lines: tuple[dict[str, Any], ...]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The server's part of `ic version`."""

    version: str
    api_extensions_missing: tuple[str, ...]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`ic version --json`; `server` is null when none answers."""

    schema: Literal["ic.version/1"] = "ic.version/1"
    ic: str
    python: str
    journal: int
    server: Server | None


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """What goes to stderr when a command with `--json` fails."""

    schema: Literal["ic.error/1"] = "ic.error/1"
    code: str
    summary: str
    details: tuple[str, ...]
    hint: str
    exit: int
    diagnostics: tuple[Diagnostic, ...]


Document = Plan | Apply | History | Ps | HealthdStatus | HealthdCheck | HealthdLog | Version | Error
DOCUMENTS: dict[str, type[msgspec.Struct]] = {
    "ic.plan-1": Plan,
    "ic.apply-1": Apply,
    "ic.history-1": History,
    "ic.ps-1": Ps,
    "ic.healthd-1": HealthdStatus,
    "ic.check-1": HealthdCheck,
    "ic.log-1": HealthdLog,
    "ic.version-1": Version,
    "ic.error-1": Error,
}


def diagnostic(one: errors.Diagnostic) -> Diagnostic:
    """A diagnostic as it is written out."""
    where = one.position
    return Diagnostic(
        severity=one.severity,
        code=one.code,
        summary=one.summary,
        file=where.file if where else None,
        line=where.line if where else None,
        column=where.column if where else None,
        hint=one.hint,
    )


def change(one: changes.Change) -> Change:
    """A change as it is written out: no step, no request."""
    return Change(
        address=one.address,
        action=one.action,
        cause=one.cause,
        fields=tuple(
            Field(
                path=field.path,
                old=None if field.redacted else field.old,
                new=None if field.redacted else field.new,
                impact=field.impact,
                redacted=field.redacted,
            )
            for field in one.fields
        ),
    )


def plan(value: changes.Plan, warnings: tuple[errors.Diagnostic, ...] = ()) -> Plan:
    """The document of a plan; `warnings` are those of the files, before the plan's own."""
    return Plan(
        stack=value.stack,
        server=value.server,
        changes=tuple(change(one) for one in value.changes),
        summary=value.summary(),
        diagnostics=tuple(diagnostic(one) for one in (*warnings, *value.diagnostics)),
    )


def error(value: errors.IcError) -> Error:
    """The document of an error."""
    return Error(
        code=value.code,
        summary=value.summary,
        details=value.details,
        hint=value.hint,
        exit=value.exit_status,
        diagnostics=tuple(diagnostic(one) for one in value.diagnostics),
    )
