"""The flow around a plan on the real server: founding, looking twice, plans that move, the end of a stack."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ic import errors, names
from ic.compose import loader
from ic.engine import converge, execute
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.plan import planner
from ic.resources import image, kind
from tests.lab import lab as labs

COMPOSE = """\
name: {name}
services:
  web:
    image: busybox:1
    command: sh -c 'trap "exit 0" TERM; while :; do sleep 1000 & wait $$!; done'
    environment: {{GREETING: {greeting}}}
    networks: []
"""


class Quiet:
    """A report that keeps the order in which steps ended, and may do something in between."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.before: Any = lambda step: None

    def started(self, step: kind.Step) -> None:
        self.before(step)

    def finished(self, outcome: execute.Outcome) -> None:
        self.ended.append(outcome.step.id)

    def tick(self) -> None:
        """Nothing to paint."""

    def say(self, text: str) -> None:
        """Nobody to say it to."""


class Place:
    """A stack whose image is known beforehand: the registry is reachable only inside the lab."""

    def __init__(self, lab: labs.Lab, name: str, directory: Path) -> None:
        self.lab = lab
        self.name = name
        self.directory = directory
        server = remotes.Server(name="lab", socket=str(lab.socket))
        self.client = incus.Client(transport.connect(server))
        raw = lab.run(
            [
                "skopeo",
                "inspect",
                "--raw",
                "--tls-verify=false",
                f"docker://{labs.REGISTRY}/library/busybox:1",
            ],
            check=True,
        ).stdout
        digest = f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
        found = image.ImageFacts(
            reference="busybox:1",
            resolved=f"{labs.REGISTRY}/library/busybox@{digest}",
            digest=digest,
            config=image.ImageConfig(cmd=("sh",)),
        )
        self.images = {"busybox:1": found}
        self.report = Quiet()
        self.said: list[str] = []
        self.shown: list[converge.View] = []

    def look(self, mode: Any = "apply", greeting: str = "hello", **options: Any) -> converge.View:
        (self.directory / "compose.yaml").write_text(
            COMPOSE.format(name=self.name, greeting=greeting)
        )
        stack = loader.load(loader.Options(cwd=str(self.directory)), {})
        asked = converge.Asked(
            name=self.name,
            stack=stack if mode in ("apply", "up") else None,
            options=planner.Options(mode=mode, **options),
            command=mode,
        )
        return converge.look(self.client, asked, {}, images=self.images)

    def carry_out(
        self,
        view: converge.View,
        *,
        agreed: bool = False,
        interrupts: execute.Interrupts | None = None,
        lock_timeout: float = 10.0,
    ) -> converge.Done | converge.Moved:
        terms = converge.Terms(
            report=self.report,
            interrupts=interrupts or execute.Interrupts(lambda: None),
            say=self.said.append,
            shown=self.shown.append,
            agreed=agreed,
            lock_timeout=lock_timeout,
        )
        return converge.carry_out(self.client, view, {}, terms)

    def get(self, path: str) -> Any:
        return self.client.get(path, {"project": self.name})

    def config(self) -> dict[str, str]:
        return self.client.get(f"/1.0/projects/{self.name}")["config"]

    def exists(self) -> bool:
        return any(one.endswith(f"/{self.name}") for one in self.client.get("/1.0/projects"))


@pytest.fixture
def place(lab: labs.Lab, tmp_path: Path) -> Iterator[Place]:
    made = Place(lab, f"t-conv-{os.urandom(3).hex()}", tmp_path)
    yield made
    made.client.close()
    lab.sweep(made.name)


def done(outcome: converge.Done | converge.Moved) -> converge.Done:
    assert isinstance(outcome, converge.Done), outcome
    assert outcome.result.status == "ok", outcome.result
    return outcome


def test_the_first_apply_founds_project_and_journal_and_then_there_is_nothing_to_do(
    place: Place,
) -> None:
    view = place.look()
    assert not view.idle
    assert not place.exists()  # looking writes nothing
    outcome = done(place.carry_out(view))
    assert place.report.ended[-1] == "instance:web/1#start"
    config = place.config()
    assert config[names.STACK] == place.name
    instance = place.get("/1.0/instances/web")
    assert instance["status"] == "Running"
    assert instance["config"][names.LINEAGE] == config[names.LINEAGE]
    again = place.look()
    assert again.idle
    assert again.recorded.state == "ok"
    assert outcome.run


def test_what_was_shown_is_what_is_done_or_it_is_shown_again(place: Place) -> None:
    done(place.carry_out(place.look()))
    view = place.look(greeting="changed")
    body = {"action": "stop", "force": True}
    place.client.call("PUT", "/1.0/instances/web/state", {"project": place.name}, body)
    before = place.config()
    outcome = place.carry_out(view)
    assert isinstance(outcome, converge.Moved)
    assert place.config() == before  # not even a run was written
    assert [one.action for one in outcome.view.plan.changes] != [
        one.action for one in view.plan.changes
    ]
    done(place.carry_out(outcome.view))
    config = place.get("/1.0/instances/web")["config"]
    assert config["environment.GREETING"] == "changed"


def test_who_agrees_to_any_plan_is_told_of_the_other_one_and_it_is_done(place: Place) -> None:
    done(place.carry_out(place.look()))
    view = place.look(greeting="changed")
    body = {"action": "stop", "force": True}
    place.client.call("PUT", "/1.0/instances/web/state", {"project": place.name}, body)
    done(place.carry_out(view, agreed=True))
    assert len(place.shown) == 1
    assert place.get("/1.0/instances/web")["status"] == "Running"
    assert place.look(greeting="changed").idle


def test_of_two_first_applies_one_founds_and_the_other_finds_nothing_to_do(place: Place) -> None:
    views = [place.look(), place.look()]
    outcomes: list[converge.Done | converge.Moved] = []
    threads = [
        threading.Thread(
            target=lambda view=view: outcomes.append(place.carry_out(view, agreed=True))
        )
        for view in views
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = sorted(change.address for one in outcomes for change in done(one).plan.changes)
    assert len(told) == len(set(told))  # nothing was done by both
    assert {"instance:web/1", f"project:{place.name}"} <= set(told)
    assert place.look().idle
    assert len(place.get("/1.0/instances")) == 1


def test_waiting_for_the_lease_can_be_interrupted(place: Place) -> None:
    done(place.carry_out(place.look()))
    view = place.look(greeting="changed")
    interrupts = execute.Interrupts(lambda: None)
    held = threading.Event()
    release = threading.Event()

    def hold(step: kind.Step) -> None:
        held.set()
        assert release.wait(30)

    other = Place.__new__(Place)
    other.__dict__.update(place.__dict__)
    other.report = Quiet()
    other.report.before = hold
    first = threading.Thread(target=lambda: other.carry_out(view))
    first.start()
    try:
        assert held.wait(20)
        threading.Timer(0.5, interrupts.requested.set).start()
        with pytest.raises(errors.Interrupted):
            place.carry_out(view, interrupts=interrupts)
        with pytest.raises(errors.Locked):
            place.carry_out(view, lock_timeout=0)
    finally:
        release.set()
        first.join()
    assert place.look(greeting="changed").idle


def test_an_interrupted_run_is_closed_and_goes_on_later(place: Place) -> None:
    interrupts = execute.Interrupts(lambda: None)
    place.report.before = lambda step: interrupts.requested.set()
    outcome = place.carry_out(place.look(), interrupts=interrupts)
    assert isinstance(outcome, converge.Done)
    assert outcome.result.status == "interrupted"
    view = place.look()
    assert view.verdicts == ()  # everything that was begun is known
    assert view.journal.run_object is not None
    assert not view.journal.run_object.held
    done(place.carry_out(view))
    assert place.look().idle


def test_stop_and_destroy_need_no_file(place: Place) -> None:
    done(place.carry_out(place.look()))
    done(place.carry_out(place.look("stop")))
    assert place.get("/1.0/instances/web")["status"] == "Stopped"
    view = place.look("destroy")
    assert view.plan.changes[-1].address == f"project:{place.name}"
    done(place.carry_out(view))
    assert place.exists()  # the project goes after the export, by itself
    assert place.get("/1.0/instances") == []
    converge.remove_project(place.client, place.name)
    assert not place.exists()
    converge.remove_project(place.client, place.name)  # a second time finds nothing


def test_a_project_with_something_foreign_in_it_is_not_removed(place: Place) -> None:
    done(place.carry_out(place.look("apply")))
    with pytest.raises(errors.IncusError):
        converge.remove_project(place.client, place.name)
    assert place.get("/1.0/instances/web")["status"] == "Running"
