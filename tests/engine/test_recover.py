"""Recovery: one verdict for each step in doubt, from what is live; written once, and then nothing is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors, names
from ic.engine import recover
from ic.journal import fold, redact
from ic.plan import facts
from ic.resources import kind, sidecar
from tests.journal import server as fakes
from tests.journal import stage

KEY = b"k" * 32
T = 1_763_793_600_500  # 2025-11-22T06:40:00.5Z
WEB = "instance:web/1"


def doubt(event: str, address: str = WEB, **fields: Any) -> fold.Doubt:
    """A step in doubt with number 20, of generation 4."""
    return fold.Doubt(
        n=20, event=event, address=address, name="web", stamp="4/20", time=T, **fields
    )


def there(address: str = WEB, event: str = "4/20", **fields: Any) -> kind.Live:
    """A live resource with our stamp."""
    fields.setdefault("fields", {})
    return kind.Live(address=address, name="web", stamp=kind.Stamp(event=event), **fields)


def observed(*live: kind.Live, **given: Any) -> facts.Observed:
    """What is live."""
    return facts.Observed(live={one.address: one for one in live}, facts=facts.Facts(**given))


LIMIT = ("config", "limits.cpu")
SECRET = ("config", "environment.A")
VOLUME = "volume:data"

LISTENS = ("config", "core.https_address")
WATCHING = sidecar.State(state="watching", since=1)

CASES: list[tuple[str, fold.Doubt, facts.Observed, str, bool]] = [
    ("place", doubt("inst.place"), observed(there(event="4/19")), "undone", False),
    ("place, gone", doubt("inst.place"), observed(), "undone", False),
    ("enrol, watching", doubt("cert.enrol"), observed(sidecar_state=WATCHING), "ok", False),
    ("enrol, silent", doubt("cert.enrol"), observed(there()), "undone", False),
    (
        "enrol, waiting",
        doubt("cert.enrol"),
        observed(sidecar_state=sidecar.State(state="waiting-for-token", since=1)),
        "undone",
        False,
    ),
    ("revoke", doubt("cert.revoke"), observed(there()), "undone", False),
    (
        "server set",
        doubt("srv.update", "server:local", fields={LISTENS: "127.0.0.1:8443"}),
        observed(https_address="127.0.0.1:8443"),
        "ok",
        False,
    ),
    (
        "server not set",
        doubt("srv.update", "server:local", fields={LISTENS: "127.0.0.1:8443"}),
        observed(https_address=""),
        "undone",
        False,
    ),
    ("create, nothing there", doubt("inst.create"), observed(), "undone", False),
    ("create, there", doubt("inst.create"), observed(there(power="Stopped")), "ok", False),
    ("create, touched since", doubt("inst.create"), observed(there(event="4/22")), "ok", False),
    ("create, an older one", doubt("inst.create"), observed(there(event="3/9")), "undone", False),
    ("create, half made", doubt("inst.create"), observed(there(half_made=True)), "undone", True),
    (
        "create, somebody else's",
        doubt("inst.create"),
        observed(foreign={"instance": frozenset({"web"})}),
        "undone",
        False,
    ),
    ("create network", doubt("net.create", "network:a"), observed(there("network:a")), "ok", False),
    (
        "create network, half made",
        doubt("net.create", "network:a"),
        observed(there("network:a", half_made=True)),
        "undone",
        False,
    ),
    ("create image", doubt("img.create", "image:nginx"), observed(), "undone", False),
    (
        "volume filled",
        doubt("vol.create", VOLUME),
        observed(there(VOLUME, fields={("config", names.SEEDED): "x"})),
        "ok",
        False,
    ),
    ("volume not filled", doubt("vol.create", VOLUME), observed(there(VOLUME)), "undone", False),
    ("seed not done", doubt("vol.seed", VOLUME), observed(there(VOLUME)), "undone", False),
    (
        "seed done",
        doubt("vol.seed", VOLUME),
        observed(there(VOLUME, fields={("config", names.SEEDED): "x"})),
        "ok",
        False,
    ),
    ("update by stamp", doubt("inst.update", fields={LIMIT: "2"}), observed(there()), "ok", False),
    (
        "update by fields",
        doubt(
            "inst.update",
            fields={LIMIT: "2", SECRET: fold.Digest(redact.digest(KEY, "s"))},
            unset=(("config", "gone"),),
        ),
        observed(there(event="1/1", fields={LIMIT: "2", SECRET: "s", ("config", "mine"): "x"})),
        "ok",
        False,
    ),
    (
        "update, private value differs",
        doubt("inst.update", fields={SECRET: fold.Digest(redact.digest(KEY, "s"))}),
        observed(there(event="1/1", fields={SECRET: "t"})),
        "undone",
        False,
    ),
    (
        "update, key still there",
        doubt("inst.update", unset=(LIMIT,)),
        observed(there(event="1/1", fields={LIMIT: "2"})),
        "undone",
        False,
    ),
    ("update without a trace", doubt("inst.update"), observed(there(event="1/1")), "undone", False),
    (
        "update, nothing there",
        doubt("inst.update", fields={LIMIT: "2"}),
        observed(),
        "undone",
        False,
    ),
    ("delete, gone", doubt("inst.delete", gone=True), observed(), "ok", False),
    (
        "delete, still there",
        doubt("inst.delete", gone=True),
        observed(there(event="3/9")),
        "undone",
        False,
    ),
    (
        "delete, a newer one",
        doubt("inst.delete", gone=True),
        observed(there(event="5/31")),
        "superseded",
        False,
    ),
    ("forget", doubt("inst.forget", gone=True), observed(), "ok", False),
    ("start, runs", doubt("inst.start"), observed(there(power="Running")), "ok", False),
    ("start, does not run", doubt("inst.start"), observed(there(power="Stopped")), "undone", False),
    (
        "start, ran and ended",
        doubt("inst.start"),
        observed(there(power="Stopped", ever_started=True, started="2025-11-22T06:40:01.25Z")),
        "ok",
        False,
    ),
    (
        "start, ran only before",
        doubt("inst.start"),
        observed(there(power="Stopped", ever_started=True, started="2025-11-22T06:39:59Z")),
        "undone",
        False,
    ),
    ("start, nothing there", doubt("inst.start"), observed(), "undone", False),
    ("stop, stopped", doubt("inst.stop"), observed(there(power="Stopped")), "ok", False),
    ("stop, runs", doubt("inst.stop"), observed(there(power="Running")), "undone", False),
    ("stop, nothing there", doubt("inst.stop"), observed(), "undone", False),
    (
        "restart, started since",
        doubt("inst.restart"),
        observed(there(power="Running", ever_started=True, started="2025-11-22T06:40:02Z")),
        "ok",
        False,
    ),
    (
        "restart, runs since before",
        doubt("inst.restart"),
        observed(there(power="Running", ever_started=True, started="2025-11-22T06:00:00Z")),
        "undone",
        False,
    ),
    ("restart, nothing there", doubt("inst.restart"), observed(), "undone", False),
    ("exec", doubt("inst.exec"), observed(there()), "unknown", False),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_table(case: tuple[str, fold.Doubt, facts.Observed, str, bool]) -> None:
    _, one, seen, status, half_made = case
    (verdict,) = recover.verdicts((one,), seen, KEY)
    assert (verdict.n, verdict.address, verdict.event) == (20, one.address, one.event)
    assert (verdict.status, verdict.half_made) == (status, half_made)
    assert verdict.reason


def test_a_project_is_looked_at_by_its_config() -> None:
    one = doubt("proj.update", "project:shop", fields={("config", "limits.cpu"): "2"})
    seen = facts.Observed(live={}, facts=facts.Facts(), project_config={"limits.cpu": "2"})
    assert recover.verdicts((one,), seen, KEY)[0].status == "ok"


def test_what_is_half_made_is_not_there_for_planning() -> None:
    seen = observed(there(half_made=True), there("network:a"))
    found = recover.verdicts((doubt("inst.create"),), seen, KEY)
    assert set(recover.cleared(seen, found).live) == {"network:a"}
    assert recover.cleared(seen, ()) is seen


# --- writing it down ---------------------------------------------------------------------------------


class Incus:
    """As much of a server as settling touches: operations to wait for, instances to delete."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.busy: list[list[dict[str, Any]]] = []
        self.failure: errors.IncusError | None = None
        self.tokens: list[dict[str, Any]] = []

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Only pending tokens are read."""
        assert (path, query) == ("/1.0/operations", {"recursion": "1", "project": "default"})
        return {"running": self.tokens}

    def call(self, method: str, path: str, query: Mapping[str, str] | None = None) -> None:
        """Only deletions come here."""
        assert method == "DELETE"
        if self.failure is not None:
            raise self.failure
        self.deleted.append(path)

    def operations(self, project: str) -> list[dict[str, Any]]:
        """What still runs; one look shorter each time."""
        return self.busy.pop(0) if self.busy else []


@pytest.fixture
def server() -> fakes.Server:
    made = fakes.Server()
    stage.found(made)
    return made


def cut_off(server: fakes.Server, *steps: kind.Step) -> int:
    """A run that wrote these intents and was killed; its generation."""
    run = stage.begin(server)
    stage.intend(run, *steps)
    run._open.stop()
    return run.generation


def settle(server: fakes.Server, incus: Incus, *live: kind.Live, force: int) -> Any:
    run = stage.begin(server, force=force)
    slept: list[float] = []
    with run:
        result = recover.settle(
            run,
            incus,
            stage.PROJECT,
            lambda: observed(*live),
            say=lambda _: None,
            sleep=slept.append,
            clock=lambda: sum(slept),
        )
        assert run.recorded.doubts == ()
    return result


def test_settling_writes_every_outcome_and_leaves_no_doubt(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step(), stage.step("network:a", "net.create"))
    numbers = [doubt.n for doubt in stage.read(server).recorded.doubts]
    _, found = settle(server, Incus(), there(event=f"{generation}/{numbers[0]}"), force=generation)
    assert [verdict.status for verdict in found] == ["ok", "undone"]
    journal = stage.read(server)
    assert journal.recorded.doubts == ()
    assert set(stage.state_of(journal)) == {"project:shop", WEB}


def test_a_half_made_instance_is_deleted_under_an_intent_of_its_own(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step())
    (one,) = stage.read(server).recorded.doubts
    incus = Incus()
    live = there(event=one.stamp, half_made=True)
    after, _ = settle(server, incus, live, force=generation)
    assert incus.deleted == ["/1.0/instances/web"]
    assert after.live == {}
    lines = [line.raw.decode() for line in stage.read(server).lines]
    deleting = next(i for i, line in enumerate(lines) if '"inst.delete"' in line)
    undone = next(i for i, line in enumerate(lines) if '"undone"' in line)
    assert deleting < undone


def test_a_deletion_that_fails_leaves_the_creation_in_doubt(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step())
    (one,) = stage.read(server).recorded.doubts
    incus = Incus()
    incus.failure = errors.OperationFailed("cannot delete instance web: busy")
    with pytest.raises(errors.OperationFailed):
        settle(server, incus, there(event=one.stamp, half_made=True), force=generation)
    assert [doubt.n for doubt in stage.read(server).recorded.doubts] == [one.n]
    incus.failure = errors.NotFound("cannot delete instance web: not found")
    again = stage.begin(server)
    with again:
        recover.settle(
            again,
            incus,
            stage.PROJECT,
            lambda: observed(there(event=one.stamp, half_made=True)),
            say=lambda _: None,
        )
    assert stage.read(server).recorded.doubts == ()


def token(name: str, *projects: str, restricted: bool = True) -> dict[str, Any]:
    request = {"name": name, "restricted": restricted, "projects": list(projects)}
    metadata = {"request": request, "secret": "s"}
    return {"id": "-".join(projects), "class": "token", "status_code": 103, "metadata": metadata}


def test_a_token_that_a_killed_run_left_is_cancelled(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step(sidecar.ADDRESS, "cert.enrol"))
    incus = Incus()
    name = sidecar.identity_name(stage.PROJECT, stage.read(server).recorded.lineage)
    incus.tokens = [
        token(name, stage.PROJECT),
        token(name, stage.PROJECT, "other"),
        token("a person's", stage.PROJECT),
    ]
    _, found = settle(server, incus, force=generation)
    assert [verdict.status for verdict in found] == ["undone"]
    assert incus.deleted == [f"/1.0/operations/{stage.PROJECT}"]


def test_settling_twice_writes_once(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step())
    settle(server, Incus(), force=generation)
    before = server.config(stage.PROJECT)
    with stage.begin(server) as run:
        assert recover.settle(run, Incus(), stage.PROJECT, observed, say=lambda _: None)[1] == ()
    assert server.config(stage.PROJECT) == before


def operation(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "class": "task",
        "status": "Running",
        "description": "Creating instance",
        "resources": {"instances": [f"/1.0/instances/{name}?project=shop"]},
        **changes,
    }


def test_running_operations_are_waited_for(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step())
    name = stage.read(server).recorded.doubts[0].name
    incus = Incus()
    incus.busy = [
        [operation(name)],
        [operation(name)],
        [operation("other"), operation(name, status="Success")],
    ]
    settle(server, incus, force=generation)
    assert incus.busy == []


def test_an_operation_that_does_not_end_is_an_error(server: fakes.Server) -> None:
    generation = cut_off(server, stage.step())
    name = stage.read(server).recorded.doubts[0].name
    incus = Incus()
    incus.busy = [[operation(name)]] * 10_000
    with pytest.raises(errors.TimedOut, match="Creating instance"):
        settle(server, incus, force=generation)
    assert stage.read(server).recorded.doubts


@given(st.lists(st.sampled_from(CASES), max_size=6))
def test_verdicts_are_independent_of_each_other(cases: list[Any]) -> None:
    for _, one, seen, status, _ in cases:
        both = recover.verdicts((one, one), seen, KEY)
        assert [verdict.status for verdict in both] == [status, status]
