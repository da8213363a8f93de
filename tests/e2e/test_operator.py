"""Obligation: an operator whose certificate is restricted to one project keeps a health daemon, and gets one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import scenario
from tests.e2e.test_sidecar import DAEMON, Watched, checked
from tests.lab import lab as labs

SERVICES: dict[str, Any] = {"web": checked(), "db": scenario.idle(restart="always")}


class Operator:
    """A person on another machine who may work in the stack's project, and nowhere else."""

    def __init__(self, case: scenario.Scenario, machine: labs.Machine) -> None:
        self.case = case
        self.machine = machine
        self.directory = machine.workdir(case.name)
        self.name = f"operator-{secrets.token_hex(3)}"
        self.env = {"HOME": f"{case.inside}/home"}
        (self.directory / "home").mkdir()
        words = ("config", "trust", "add", self.name, "--restricted", "--quiet")
        token = case.lab.run(["incus", *words, "--projects", case.name], check=True).stdout.strip()
        self.run("incus", "remote", "add", "lab", token, "--accept-certificate")

    def run(self, *argv: str) -> str:
        return self.machine.run(list(argv), env=self.env, check=True).stdout

    def ic(self, *argv: str, code: int = 0) -> scenario.Done:
        """The same file, by way of the operator's own remote."""
        file = (self.case.directory / "compose.yaml").read_text()
        (self.directory / "compose.yaml").write_text(file)
        return self.case.ic("--remote", "lab", *argv, code=code, env=self.env, place=self.machine)

    def leave(self) -> None:
        for one in self.case.lab.api("GET", "/1.0/certificates?recursion=1"):
            if one["name"] == self.name:
                self.case.lab.api("DELETE", f"/1.0/certificates/{one['fingerprint']}")


@pytest.fixture
def watched(case: scenario.Scenario) -> Iterator[Watched]:
    yield Watched(case)
    for _, path in case.lab.trusted(f"{DAEMON} {case.name}"):
        case.lab.api("DELETE", path)


def set_up(watched: Watched, *options: str) -> None:
    """What an administrator does first: the project, its network, its images."""
    watched.case.compose({"services": SERVICES})
    watched.case.ic("up", "-d", *options)


@pytest.fixture
def operator(watched: Watched, other: labs.Machine) -> Iterator[Operator]:
    """After `set_up`: only what exists can be named by a certificate."""
    set_up(watched, "--no-healthd")
    made = Operator(watched.case, other)
    yield made
    made.leave()


def test_what_an_administrator_has_set_up_is_used_and_kept(
    watched: Watched, operator: Operator
) -> None:
    case = watched.case
    case.ic("up", "-d")
    watched.sound()
    before, sidecar = watched.certificates(), case.uuid(DAEMON)
    assert operator.ic("plan", "--json").json()["changes"] == []

    services = json.loads(json.dumps(SERVICES))
    services["web"]["environment"] = {"A": "1"}
    case.compose({"services": services})
    operator.ic("up", "--wait")
    assert case.instance("web")["config"]["environment.A"] == "1"
    assert (watched.certificates(), case.uuid(DAEMON)) == (before, sidecar)
    shown = operator.ic("ps").out
    assert "running (healthy)" in shown
    assert "ic-healthd: watching 2 instances" in shown
    assert operator.ic("healthd", "check", "web").code == 0

    case.stop_by_hand("db")
    operator.ic("up", "-d", "db")
    assert case.states()["db"] == "Running"
    started = case.started(DAEMON)
    operator.ic("healthd", "restart")
    assert case.started(DAEMON) != started
    watched.become("watching")
    case.stop_by_hand(DAEMON)
    operator.ic("up", "-d")
    watched.sound()
    assert operator.ic("history").out.count("up") > 1


def test_down_takes_what_the_operator_may_and_says_what_stays(
    watched: Watched, operator: Operator
) -> None:
    case = watched.case
    case.ic("up", "-d")
    done = operator.ic("down")
    assert "the health daemon's certificate stays trusted" in done.err
    assert "stays: this certificate may not change networks" in done.err
    assert case.instances() == {}
    assert DAEMON not in case.volumes()
    [command] = [one for one in done.err.split(": ") if one.startswith("incus config trust remove")]
    case.lab.run(["sh", "-c", command.partition("\n")[0]], check=True)
    case.ic("down")
    assert (watched.certificates(), case.networks()) == ([], {})


def without_image(lab: labs.Lab, repository: str) -> None:
    """The server has no image of this repository."""
    for one in lab.api("GET", "/1.0/images?recursion=1"):
        if one["properties"].get("id", "").startswith((f"{repository}:", f"{repository}@")):
            lab.api("DELETE", f"/1.0/images/{one['fingerprint']}")


def test_where_none_is_set_up_an_administrators_commands_and_their_token_do(
    watched: Watched, operator: Operator
) -> None:
    case = watched.case
    case.compose({"services": {**SERVICES, "db": {"image": "lab/slowstop:1", "restart": "always"}}})
    for image in ("library/python", "lab/slowstop"):
        without_image(case.lab, image)
    before = scenario.everything(case.lab)
    done = operator.ic("up", "-d", code=3)
    assert (
        "cannot pull image lab/slowstop:1 and set up the health daemon: this client's" in done.err
    )
    assert scenario.everything(case.lab) == before
    commands = [line.strip() for line in done.err.splitlines() if line.startswith("    incus ")]
    kinds = [" ".join(one.split()[1:3]) for one in commands]
    assert kinds == ["query --wait", "query --wait", "config trust"]
    for command in commands:
        case.lab.run(["sh", "-c", command], cwd=case.inside, check=True)

    token = operator.directory / "token"
    token.write_bytes((case.directory / "token").read_bytes())
    token.chmod(0o644)
    given = ("--healthd-token", "token")
    before = scenario.everything(case.lab)
    done = operator.ic("up", "-d", *given, code=1)
    assert "others may read it (mode 0644)" in done.err
    assert "chmod 600 token" in done.err
    assert token.read_text().strip() not in done.err
    assert scenario.everything(case.lab) == before
    token.chmod(0o600)
    assert operator.ic("plan", "--json", *given).json()["changes"] != []
    operator.ic("up", "--wait", *given)
    watched.sound()
    watched.healthy()
    assert operator.ic("plan", "--json").json()["changes"] == []


def test_a_bridge_is_an_administrators_and_is_asked_for_before_the_first_change(
    watched: Watched, operator: Operator
) -> None:
    case = watched.case
    services = {**SERVICES, "more": scenario.idle(networks=["default", "back"])}
    case.compose({"services": services, "networks": {"back": {}}})
    before = scenario.everything(case.lab)
    done = operator.ic("up", "-d", "--no-healthd", code=3)
    assert "cannot make network back and change network default: this client's" in done.err
    assert "  ic apply" in done.err
    assert scenario.everything(case.lab) == before
    case.ic("apply", "-y", "--no-healthd")
    operator.ic("up", "-d", "--no-healthd")
    assert case.states()["more"] == "Running"
    assert operator.ic("plan", "--json", "--no-healthd").json()["changes"] == []


def test_a_new_image_is_an_administrators_to_bring(watched: Watched, operator: Operator) -> None:
    case = watched.case
    case.compose({"services": {**SERVICES, "db": {"image": "lab/slowstop:1"}}})
    without_image(case.lab, "lab/slowstop")
    before = scenario.everything(case.lab)
    done = operator.ic("up", "-d", "--no-healthd", code=3)
    assert "cannot pull image lab/slowstop:1: this client's certificate is restricted" in done.err
    assert scenario.everything(case.lab) == before
    [command] = [line.strip() for line in done.err.splitlines() if line.startswith("    incus ")]
    case.lab.run(["sh", "-c", command], check=True)
    operator.ic("up", "-d", "--no-healthd")
    assert case.states()["db"] == "Running"
    assert operator.ic("plan", "--json", "--no-healthd").json()["changes"] == []
