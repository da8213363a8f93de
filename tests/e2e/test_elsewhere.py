"""Obligation: another machine, over HTTPS with a pinned certificate, sees and does the same."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e import scenario
from tests.lab import lab as labs

FILE: dict[str, Any] = {
    "services": {"web": scenario.idle(environment={"A": "1"}, volumes=["data:/data"])},
    "volumes": {"data": {}},
}


def there(machine: labs.Machine, case: scenario.Scenario, document: dict[str, Any]) -> str:
    """The stack's directory on the other machine."""
    made = machine.workdir(case.name)
    (made / "compose.yaml").write_text(json.dumps({"name": case.name, **document}))
    return f"/stacks/{case.name}"


def test_both_machines_work_on_one_stack(case: scenario.Scenario, other: labs.Machine) -> None:
    remote = ("--remote", "lab")
    where = there(other, case, FILE)
    case.ic(*remote, "apply", "-y", place=other, cwd=where)
    assert case.states() == {"web": "Running"}

    case.compose(FILE)
    assert case.plan() == {}
    changed = json.loads(json.dumps(FILE))
    changed["services"]["web"]["environment"]["A"] = "2"
    case.apply(changed)
    assert case.instance("web")["config"]["environment.A"] == "2"

    plan = case.ic(*remote, "plan", "--json", place=other, cwd=where).json()
    assert [change["address"] for change in plan["changes"]] == ["instance:web/1"]
    runs = case.ic(*remote, "-p", case.name, "history", "--json", place=other, cwd="/").json()[
        "runs"
    ]
    assert runs == case.runs()
    hosts = {run["actor"].split("@")[1] for run in runs}
    assert len(hosts) == 2
    rows = case.ic(*remote, "-p", case.name, "ps", "--json", place=other, cwd="/").json()
    assert [row["name"] for row in rows["instances"]] == ["web"]
    # The default remote of the incus client is the one that counts when none is named.
    other.run(["incus", "remote", "switch", "lab"], check=True)
    try:
        assert case.ic("-p", case.name, "ps", "--json", place=other, cwd="/").json() == rows
    finally:
        other.run(["incus", "remote", "switch", "local"], check=True)
    export = f"{where}/j.ndjson"
    case.ic(
        *remote, "-p", case.name, "destroy", "-y", "-v", "--export", export, place=other, cwd="/"
    )
    assert not case.exists()


def test_a_missing_bind_source_on_a_remote_is_an_error(
    case: scenario.Scenario, other: labs.Machine
) -> None:
    where = there(other, case, {"services": {"web": scenario.idle(volumes=["./here:/there"])}})
    before = scenario.everything(case.lab)
    done = case.ic("--remote", "lab", "apply", "-y", place=other, cwd=where, code=1)
    assert "here" in done.err
    assert scenario.everything(case.lab) == before


def test_a_certificate_that_is_not_pinned_or_has_changed_is_refused(
    case: scenario.Scenario, other: labs.Machine
) -> None:
    """The pin is the file the incus client keeps; without it, or with another, nothing is sent."""
    where = there(other, case, {"services": {"web": scenario.idle()}})
    config = "/root/.config/incus"
    home = f"{where}/home"
    pin = f"{home}/.config/incus/servercerts/lab.crt"
    other.run(
        ["sh", "-c", f"mkdir -p {home}/.config && cp -a {config} {home}/.config/incus"], check=True
    )
    before = scenario.everything(case.lab)
    env = {"HOME": home}
    wrong = f"cp {home}/.config/incus/client.crt {pin}"
    for spoil in (wrong, f"rm {pin}"):
        other.run(["sh", "-c", spoil], check=True)
        done = case.ic("--remote", "lab", "apply", "-y", place=other, cwd=where, env=env, code=1)
        assert "certificate" in done.err
    done = case.ic("--remote", "nowhere", "plan", place=other, cwd=where, code=1)
    assert "nowhere" in done.err
    assert scenario.everything(case.lab) == before


def test_a_restricted_project_says_what_it_forbids(case: scenario.Scenario) -> None:
    """A project of ic's that an administrator has restricted since: raw.lxc and proxies are blocked."""
    case.compose({"services": {"web": scenario.idle(ports=["18190:80"])}})
    case.apply()
    case.ic("down")
    config = {**case.project(), "restricted": "true"}
    case.lab.api("PUT", f"/1.0/projects/{case.name}", {"config": config, "description": ""})
    done = case.ic("apply", "-y", code=1)
    assert "restricted" in done.err
    assert case.instances() == {}
