"""What the journal's tests share: a project founded by `genesis`, steps, and a run that waits for its acks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ic.journal import book, fold, lease, pages
from ic.resources import kind
from tests.journal import server as fakes

PROJECT = "shop"
SCALE = 1 / 15  # of the lease's times: a TTL of two seconds
TIMES = lease.Times().scaled(SCALE)


def step(
    address: str = "instance:web/1",
    event: str = "inst.create",
    *,
    fields: kind.Fields | None = None,
    unset: tuple[kind.Path, ...] = (),
    gone: bool = False,
    power: Any = None,
    facts: Mapping[str, object] | None = None,
) -> kind.Step:
    """A step as planning makes them."""
    return kind.Step(
        id=f"{address}#{event}",
        address=address,
        event=event,
        deed=kind.Call(method="POST", path="/1.0/instances"),
        record=kind.Record(
            name=address.rpartition(":")[2].replace("/", "-"),
            fields=fields or {},
            unset=unset,
            gone=gone,
            power=power,
            facts=dict(facts or {}),
        ),
    )


def start(command: str = "apply", run: str = "") -> pages.Start:
    """How a run begins."""
    begun = book.start(command, version="0")
    return begun if not run else pages.Start(run=run, command=command, actor="0@test", version="0")


def found(server: fakes.Server, project: str = PROJECT, begun: pages.Start | None = None) -> None:
    """Create a project with a journal in it."""
    first = step(f"project:{project}", "proj.create")
    server.create_project(project, {"user.mine": "kept", **book.genesis(first, begun or start())})


def read(server: fakes.Server, project: str = PROJECT) -> book.Journal:
    """The journal as a reader sees it: profiles first."""
    profiles = server.profile_configs(project)
    return book.read(project, server.config(project), profiles)


def begin(server: Any, project: str = PROJECT, **options: Any) -> book.Run:
    """A run with scaled times."""
    options.setdefault("times", TIMES)
    begun = options.pop("start", None) or start()
    return book.begin(server, project, begun, **options)


def intend(run: book.Run, *steps: kind.Step) -> list[book.Intent]:
    """Write intents and wait until the server has them."""
    acknowledged: list[book.Intent] = []
    all_there = threading.Event()

    def take(intent: book.Intent) -> None:
        acknowledged.append(intent)
        if len(acknowledged) == len(steps):
            all_there.set()

    for one in steps:
        run.intend(one, take)
    assert all_there.wait(10), f"only {acknowledged} of {len(steps)} intents were acknowledged"
    return sorted(acknowledged, key=lambda intent: intent.n)


def did(run: book.Run, *steps: kind.Step) -> list[book.Intent]:
    """Intents, and outcomes that say that all went well."""
    done = intend(run, *steps)
    for intent in done:
        run.outcome(intent.n, "ok", 5)
    return done


def state_of(journal: book.Journal) -> dict[str, fold.RecordedResource]:
    """The folded resources."""
    return journal.recorded.resources
