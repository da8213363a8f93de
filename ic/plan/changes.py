"""Actions, changes and the plan: a DAG of steps that is shown, saved, carried out and journaled as it is.

Pure. A *change* is everything that happens to one resource; its steps share it as their group. The plan
is complete before the first call. The text form (`render`) is what `ic plan` prints and what golden tests
compare. The saved form (`save`) says what was planned by keyed digests, and holds no value and no request.
"""

from __future__ import annotations

import re
from typing import Literal, cast

import msgspec

from ic import errors
from ic.journal import redact
from ic.resources import kind

Action = Literal[
    "create", "update", "restart", "replace", "delete", "start", "stop", "forget", "adopt"
]

SIGNS: dict[str, str] = {
    "create": "+",
    "update": "~",
    "restart": "~",
    "replace": "-/+",
    "delete": "-",
    "start": ".",
    "stop": ".",
    "forget": ".",
    "adopt": ".",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One resource that would change: what, why in words, field by field, and the steps that do it."""

    address: str
    action: Action
    cause: str
    fields: tuple[kind.FieldChange, ...] = ()
    steps: tuple[kind.Step, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that would change, in a fixed order; no changes means that nothing is to be done."""

    stack: str
    project: str
    server: str
    changes: tuple[Change, ...] = ()
    diagnostics: tuple[errors.Diagnostic, ...] = ()

    @property
    def steps(self) -> tuple[kind.Step, ...]:
        """All steps, in the order of the changes."""
        return tuple(step for change in self.changes for step in change.steps)

    def summary(self) -> dict[str, int]:
        """How many changes there are of each action, in the order of the signs table."""
        counts = dict.fromkeys(SIGNS, 0)
        for change in self.changes:
            counts[change.action] += 1
        return {action: count for action, count in counts.items() if count}


# --- text form ----------------------------------------------------------------------------------------

_DEVICE = re.compile(r"devices\.(.+?)\.((?:ipv4|ipv6|initial)\.\w+|\w+)")
"""A device's name (which may hold dots) and its key (which may too)."""

NOT_SHOWN = "(changed, not shown)"


def render(plan: Plan) -> str:
    """The plan as people read it: the server, each change with its fields, a summary. Ends with a newline."""
    lines = [f"stack {plan.stack} on {plan.server}"]
    for change in plan.changes:
        lines += [
            "",
            f"  {SIGNS[change.action]:>3} {change.address}  {change.action}: {change.cause}",
        ]
        if change.action == "create":
            lines += _made(change)
        else:
            lines += _differences(change)
    warnings = [f"warning: {diagnostic}" for diagnostic in plan.diagnostics]
    if warnings:
        lines += ["", *warnings]
    return "\n".join([*lines, "", _summary(plan), ""])


def _summary(plan: Plan) -> str:
    if not plan.changes:
        return "nothing to do: the server has what the files say"
    counts = plan.summary()
    parts = ", ".join(f"{count} to {action}" for action, count in counts.items())
    total = len(plan.changes)
    return f"{total} {'change' if total == 1 else 'changes'}: {parts}"


def _made(change: Change) -> list[str]:
    """Something new: a device is one line, and what is not shown is counted."""
    lines: list[str] = []
    devices: dict[str, list[str]] = {}
    hidden: dict[str, int] = {}
    for field in change.fields:
        device = _DEVICE.fullmatch(field.path)
        if device is not None:
            devices.setdefault(device[1], []).append(f"{device[2]}={field.new}")
        elif field.redacted:
            key = field.path.removeprefix("config.")
            group = key if key.startswith(("raw.", "oci.")) else key.partition(".")[0]
            group = "labels" if group == "user" else group
            hidden[group] = hidden.get(group, 0) + 1
        else:
            lines += _value(field.path, field.new or "")
    lines += [f"        devices.{name}: {' '.join(body)}" for name, body in devices.items()]
    if hidden:
        what = ", ".join(f"{key} ({count})" for key, count in sorted(hidden.items()))
        lines.append(f"        not shown: {what}")
    return lines


def _differences(change: Change) -> list[str]:
    """Field by field; a device that comes or goes as a whole is one line."""
    devices: dict[str, list[kind.FieldChange]] = {}
    for field in change.fields:
        device = _DEVICE.fullmatch(field.path)
        if device is not None:
            devices.setdefault(device[1], []).append(field)
    whole = {
        name: fields
        for name, fields in devices.items()
        if all(field.old is None for field in fields) or all(field.new is None for field in fields)
        if any(field.path == f"devices.{name}.type" for field in fields)
    }
    lines: list[str] = []
    said: set[str] = set()
    for field in change.fields:
        device = _DEVICE.fullmatch(field.path)
        name = device[1] if device else ""
        if name not in whole:
            lines += _changed(field)
        elif name not in said:
            said.add(name)
            lines.append(_whole_device(name, whole[name]))
    return lines


def _whole_device(name: str, fields: list[kind.FieldChange]) -> str:
    added = fields[0].old is None
    start = len(f"devices.{name}.")
    body = " ".join(f"{field.path[start:]}={field.new if added else field.old}" for field in fields)
    return f"        devices.{name}: {'added' if added else 'removed'} {body} {_impact(fields[0])}"


def _impact(field: kind.FieldChange) -> str:
    return f"({field.impact.replace('-', ' ')})"


def _value(path: str, value: str) -> list[str]:
    if "\n" not in value:
        return [f"        {path}: {value}"]
    return [f"        {path}:", *(f"          {line}" for line in value.split("\n"))]


def _changed(field: kind.FieldChange) -> list[str]:
    impact = _impact(field)
    if field.redacted:
        return [f"        {field.path}: {NOT_SHOWN} {impact}"]
    old, new = field.old, field.new
    if "\n" in f"{old}{new}":
        before, after = set((old or "").split("\n")), set((new or "").split("\n"))
        return [
            f"        {field.path}: {impact}",
            *(f"          - {line}" for line in sorted(before - after) if line),
            *(f"          + {line}" for line in sorted(after - before) if line),
        ]
    shown = [_shown(old), _shown(new)]
    return [f"        {field.path}: {shown[0]} -> {shown[1]} {impact}"]


def _shown(value: str | None) -> str:
    return "(unset)" if value is None else value or '""'


# --- saved form -----------------------------------------------------------------------------------------


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A plan in a file: what it was made from, as positions and keyed digests, and nothing else.

    `salt` is the digest key of a plan that was made before its stack has one; empty otherwise. `files`
    are keyed digests of the compose files' content, in order. `services` and the flags are the options it
    was made with.
    """

    schema: str = "ic.saved-plan/1"
    stack: str
    server: str
    lineage: str = ""
    sequence: int = 0
    chain: str = ""
    salt: str = ""
    files: tuple[tuple[str, str], ...] = ()
    live: str = ""
    plan: str = ""
    services: tuple[str, ...] = ()
    remove_orphans: bool = False


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan was made from: the journal's position, the files with their SHA-256, what was live."""

    lineage: str
    sequence: int
    chain: str
    files: tuple[tuple[str, str], ...]
    live: dict[str, kind.Live]
    services: tuple[str, ...] = ()
    remove_orphans: bool = False


def save(plan: Plan, basis: Basis, key: bytes, salt: bytes) -> bytes:
    """The file's bytes. `salt` is random, and used only where the stack has no key yet."""
    secret = key or salt
    saved = Saved(
        stack=plan.stack,
        server=plan.server,
        lineage=basis.lineage,
        sequence=basis.sequence,
        chain=basis.chain,
        salt="" if key else salt.hex(),
        files=tuple((name, redact.digest(secret, content)) for name, content in basis.files),
        live=redact.digest(secret, _live_text(basis.live)),
        plan=redact.digest(secret, _plan_text(plan)),
        services=basis.services,
        remove_orphans=basis.remove_orphans,
    )
    return msgspec.json.format(msgspec.json.encode(saved), indent=2) + b"\n"


def load(data: bytes) -> Saved:
    """A saved plan. Raises UsageError when the bytes are no such file."""
    try:
        saved = msgspec.json.decode(data, type=Saved)
    except msgspec.MsgspecError as error:
        raise errors.UsageError(
            "cannot read the saved plan: it is damaged or no plan file",
            hint="make one with: ic plan --out FILE",
        ) from error
    if saved.schema != "ic.saved-plan/1":
        raise errors.UsageError(f"cannot read the saved plan: its form is {saved.schema!r}")
    return saved


def moved(saved: Saved, plan: Plan, basis: Basis, key: bytes) -> tuple[str, ...]:
    """What has changed since a plan was saved, in words; empty when everything agrees."""
    secret = bytes.fromhex(saved.salt) if saved.salt else key
    found: list[str] = []
    if (saved.stack, saved.server) != (plan.stack, plan.server):
        found.append(f"it was made for stack {saved.stack} on {saved.server}")
    if (saved.lineage, saved.sequence, saved.chain) != (
        basis.lineage,
        basis.sequence,
        basis.chain,
    ):
        found.append("the journal has moved")
    if saved.files != tuple((name, redact.digest(secret, text)) for name, text in basis.files):
        found.append("the compose files are not the same")
    if saved.live != redact.digest(secret, _live_text(basis.live)):
        found.append("something on the server has changed")
    if not found and saved.plan != redact.digest(secret, _plan_text(plan)):
        found.append("the same files now ask for something else (their environment has changed)")
    return tuple(found)


def _plan_text(plan: Plan) -> str:
    """Every change with every step and request, in one fixed form."""
    return msgspec.json.encode(_plain(plan.changes)).decode()


def _plain(value: object) -> object:
    """A value with every mapping as a sorted list, whatever its keys are."""
    if isinstance(value, msgspec.Struct):
        parts = [[name, _plain(getattr(value, name))] for name in value.__struct_fields__]
        return [type(value).__name__, *parts]
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        return sorted([str(key), _plain(item)] for key, item in entries.items())
    if isinstance(value, tuple | list):
        return [_plain(item) for item in cast("tuple[object, ...]", value)]
    return value


def _live_text(live: dict[str, kind.Live]) -> str:
    """What is live, without what the server alone keeps."""
    lines: list[str] = []
    for address, found in sorted(live.items()):
        lines.append(f"{address} {found.name} {found.power} {found.stamp.event} {found.uuid}")
        lines += [
            f"{kind.text_of(path)}={value}"
            for path, value in sorted(found.fields.items())
            if not (path[0] == "config" and path[1].startswith("volatile."))
        ]
    return "\n".join(lines)
