"""`ic ps`: the stack's instances as they are now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ic import errors, names, units
from ic.resources import sidecar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ic.cli import documents
    from ic.cli import session as sessions
    from ic.engine import sidecar as acting
    from ic.incus import client as incus

DESCRIPTION = (
    "Lists what the stack has on the server: service, replica, state with health, image, addresses, published"
    " ports and age, and below how the health daemon is. Needs no compose file: `-p NAME`, or the directory's"
    " stack. Changes nothing."
)

Body = dict[str, Any]
DAEMON = names.name_of(sidecar.ADDRESS)
_STATES = {"Running": "running", "Frozen": "paused", "Stopped": "exited"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="only these")
    parser.add_argument("--json", action="store_true", help="print one JSON document (ic.ps/1)")


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """One call for everything that runs, one more for each that has stopped and for the daemon's state."""
    from ic.cli import documents

    name = session.stack_name()
    rows, healthd, missed = _look(session.client(), name)
    if arguments.services:
        there = {row.service for row in rows}
        rows = tuple(row for row in rows if row.service in arguments.services)
        if unknown := [one for one in arguments.services if one not in there]:
            session.out.note(f"stack {name!r} has no instance of {', '.join(unknown)}", "yellow")
    if arguments.json:
        session.out.document(documents.Ps(stack=name, instances=rows, healthd=healthd))
        return 0
    now = time.time()
    session.out.table(
        ("SERVICE", "REPLICA", "STATE", "IMAGE", "ADDRESSES", "PORTS", "AGE"),
        [
            (
                row.service,
                str(row.replica),
                state_text(row),
                row.image,
                ", ".join(row.addresses) or "-",
                ", ".join(_port_text(port) for port in row.ports) or "-",
                age(row.started if row.state == "running" else row.created, now),
            )
            for row in rows
        ],
    )
    if healthd is not None:
        session.out.text(healthd_text(healthd))
    elif missed:
        session.out.text(f"{DAEMON}: none is found, and {missed} would be watched by it")
    return 0


def state_text(row: documents.Instance) -> str:
    """`running (healthy)`, `exited (1)`, as docker shows them; and whether nobody saw it stop."""
    if row.unwatched:
        return f"{row.state} ({row.exit_code}), stopped while unwatched"
    if row.exit_code is not None:
        return f"{row.state} ({row.exit_code})"
    if row.state == "running" and row.health:
        return f"{row.state} ({row.health})"
    return row.state


def healthd_text(found: documents.Healthd) -> str:
    """The line about the health daemon."""
    text = f"ic-healthd: {found.state}"
    if found.state == "watching":
        text += f" {found.watched} instance{'' if found.watched == 1 else 's'}"
    elif found.detail:
        text += f": {found.detail}"
    if found.misconfigured:
        text += f"; misconfigured: {', '.join(found.misconfigured)}"
    return text


def instances(client: incus.Client, stack: str) -> tuple[documents.Instance, ...]:
    """Every instance with the stack's mark, by service and replica; none where there is no project."""
    return _rows(client, stack, _bodies(client, stack), watched=True, current=True)


def look(
    client: incus.Client, stack: str
) -> tuple[tuple[documents.Instance, ...], documents.Healthd | None]:
    """Every instance with the stack's mark, and how its health daemon is (None: there is none)."""
    return _look(client, stack)[:2]


def _look(
    client: incus.Client, stack: str
) -> tuple[tuple[documents.Instance, ...], documents.Healthd | None, str]:
    """The same, and whom nobody watches: `2 instances` that ask for it where there is no daemon."""
    from ic.engine import health

    bodies = _bodies(client, stack)
    asking = _asking(bodies)
    daemon = _daemon(client, stack, bodies, asking=asking)
    healthd = _healthd(client, daemon) if daemon is not None else None
    current = healthd is not None and healthd.state == "watching"
    rows = _rows(client, stack, bodies, watched=daemon is not None, current=current)
    alone = {str(one["name"]) for one in bodies if health.left_alone(one)}
    if healthd is not None and alone:
        unseen = _unseen(client, stack)
        rows = tuple(
            msgspec.structs.replace(row, unwatched=row.name in alone and address(row) in unseen)
            for row in rows
        )
    missed = asking if daemon is None else 0
    return rows, healthd, f"{missed} instance{'' if missed == 1 else 's'}" if missed else ""


def as_unwatched(row: documents.Instance) -> documents.Instance:
    """The same without a verdict that nobody renews: the health of what runs is `unknown`. Pure."""
    if row.state in ("exited", "created") or row.health is None:
        return row
    return msgspec.structs.replace(row, health="unknown")


def _asking(bodies: list[Body]) -> int:
    """How many instances have a healthcheck or a restart policy."""
    from ic.healthd import spec

    return sum(spec.read("", _config(one)).watched for one in bodies)


def address(row: documents.Instance) -> str:
    """The address of a replica."""
    return names.address("instance", f"{row.service}/{row.replica}")


UNSEEN = "stopped while unwatched"  # the daemon's cause


def _unseen(client: incus.Client, stack: str) -> set[str]:
    """The addresses of which the daemon told last that they had stopped while it was away."""
    from ic.journal import book, history

    project = names.project(stack)
    listed = cast("list[Body]", client.get("/1.0/profiles", {"project": project, "recursion": "1"}))
    profiles = {str(one["name"]): _config(one) for one in listed}
    found = cast("Body", client.get(f"/1.0/projects/{project}"))
    last: dict[str, history.Event] = {}
    for run in history.runs(book.read(project, _config(found), profiles)):
        for event in run.events:
            if event.time >= last.get(event.address, event).time:
                last[event.address] = event
    return {address for address, event in last.items() if event.cause == UNSEEN}


def _bodies(client: incus.Client, stack: str) -> list[Body]:
    """The instances of the stack's project as the API lists them; none where there is no project."""
    project = names.project(stack)
    query = {"project": project}
    try:
        listed = client.get("/1.0/instances", {**query, "recursion": "2"})
    except (errors.NotFound, errors.Forbidden):
        if _exists(client, project):
            raise
        return []
    return [
        one if one.get("config") else _ending(client, str(one["name"]), query)
        for one in cast("list[Body]", listed or [])
    ]


def _config(body: Body) -> dict[str, str]:
    return cast("dict[str, str]", body.get("config") or {})


def _daemon(
    client: incus.Client, stack: str, bodies: list[Body], *, asking: int
) -> acting.Found | None:
    """The stack's health daemon: in its project, or (strict isolation) in one beside it."""
    from ic.engine import sidecar as acting

    project = names.project(stack)
    for one in bodies:
        if _config(one).get(names.RESOURCE) == DAEMON:
            return acting.found(one, {"project": project})
    return acting.find(client, project) if asking else None


def _rows(
    client: incus.Client, stack: str, bodies: list[Body], *, watched: bool, current: bool
) -> tuple[documents.Instance, ...]:
    from ic.healthd import spec

    found: list[documents.Instance] = []
    for body in bodies:
        config = _config(body)
        if config.get(names.STACK) == stack and "/" in config.get(names.RESOURCE, ""):
            one = _instance(client, {"project": names.project(stack)}, body, config)
            if not current and spec.claim(config).run:
                # What the daemon said last, before it was removed or stopped, is not how it is now.
                one = as_unwatched(one) if watched else msgspec.structs.replace(one, health=None)
            found.append(one)
    return tuple(sorted(found, key=lambda one: (one.service, one.replica)))


def _healthd(client: incus.Client, found: acting.Found) -> documents.Healthd:
    """How the daemon of a sidecar is, by its own state file and by whether the sidecar runs."""
    from ic.cli import documents, output
    from ic.engine import sidecar as acting

    told = acting.read_state(client, found.volume, found.query) if found.volume else None
    runs = found.power == "Running"
    word = told.state if told else "silent"
    detail = told.detail if told else "it has said nothing"
    if not runs:
        detail = "its sidecar does not run: `ic up` starts it"
    return documents.Healthd(
        state=word if runs else "stopped",
        detail=detail,
        since=output.timestamp(told.since) if told else None,
        watched=told.watched if told else 0,
        misconfigured=told.misconfigured if told else (),
    )


def _ending(client: incus.Client, name: str, query: Mapping[str, str]) -> Body:
    """An instance by itself: while one is ending the list has its name and `Error`, and nothing else."""
    try:
        return cast("Body", client.get(f"/1.0/instances/{name}", query))
    except errors.NotFound:
        return {}


def _exists(client: incus.Client, project: str) -> bool:
    listed = cast("list[str]", client.get("/1.0/projects") or [])
    return any(one.rpartition("/")[2] == project for one in listed)


def _instance(
    client: incus.Client, query: Mapping[str, str], body: Body, config: Mapping[str, str]
) -> documents.Instance:
    from ic.cli import documents
    from ic.healthd import spec
    from ic.incus import lxclog

    name = str(body["name"])
    service, _, replica = config[names.RESOURCE].rpartition("/")
    state = _STATES.get(str(body.get("status")), str(body.get("status", "")).lower())
    started = _moment(body.get("last_used_at"))
    code: int | None = None
    if state == "exited" and started is None:
        state = "created"
    elif state == "exited":
        log = client.log_file(f"/1.0/instances/{name}", "lxc.log", query)
        code = None if lxclog.goes_on(log) else lxclog.exit_code(log)
    devices = cast("dict[str, dict[str, str]]", body.get("devices") or {})
    return documents.Instance(
        name=name,
        service=service,
        replica=int(replica) if replica.isdecimal() else 0,
        state=state,
        exit_code=code,
        health=spec.status(body) or None,
        image=config.get(names.IMAGE, "").partition("@")[0],
        addresses=_addresses(cast("Body", body.get("state") or {})),
        ports=_ports(devices),
        created=_moment(body.get("created_at")),
        started=started if state in ("running", "paused") else None,
    )


def _moment(value: object) -> str | None:
    """An RFC 3339 time of the server to the millisecond, None for "never"."""
    text = str(value or "")
    if not text or text.startswith(("0001-", "1970-")):
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    return f"{whole}.{rest[:3].ljust(3, '0')}Z"


def _addresses(state: Body) -> tuple[str, ...]:
    """The global addresses of an instance, IPv4 first, by network card."""
    found: list[tuple[str, str, str]] = []
    cards = cast("dict[str, Body]", state.get("network") or {})
    for card, body in sorted(cards.items()):
        listed = cast("list[dict[str, str]]", body.get("addresses") or [])
        found += [
            (one.get("family", ""), card, one.get("address", ""))
            for one in listed
            if card != "lo" and one.get("scope") == "global"
        ]
    return tuple(address for _, _, address in sorted(found))


def _ports(devices: Mapping[str, Mapping[str, str]]) -> tuple[documents.Port, ...]:
    """The published ports, from the proxy devices: `listen` and `connect` are PROTOCOL:HOST:PORT."""
    from ic.cli import documents

    found: list[documents.Port] = []
    for device in devices.values():
        if device.get("type") != "proxy":
            continue
        protocol, _, listen = device.get("listen", "").partition(":")
        host, _, published = listen.rpartition(":")
        target = device.get("connect", "").rpartition(":")[2]
        if published.isdecimal() and target.isdecimal():
            found.append(
                documents.Port(
                    protocol=protocol,
                    host=host.strip("[]"),
                    published=int(published),
                    target=int(target),
                )
            )
    return tuple(sorted(found, key=lambda one: (one.target, one.protocol, one.published, one.host)))


def _port_text(port: documents.Port) -> str:
    host = f"[{port.host}]" if ":" in port.host else port.host
    return f"{host}:{port.published}->{port.target}/{port.protocol}"


def age(moment: str | None, now: float) -> str:
    """`12s`, `5m`, `3h`, `4d` since a moment; `-` without one."""
    if moment is None:
        return "-"
    seconds = max(0, int(now - (units.time_ms(moment) or 0) // 1000))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
