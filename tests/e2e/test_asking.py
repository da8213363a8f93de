"""Obligation: what the health daemon does can be asked, from the command line, the history and a socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli import test_documents as schemas
from tests.e2e import scenario
from tests.lab import lab as labs

STACK: dict[str, Any] = {
    "services": {
        "web": scenario.idle(
            restart="unless-stopped",
            healthcheck={
                "test": "test ! -e /bad || { echo nothing is well; exit 3; }",
                "interval": "1s",
                "start_interval": "1s",
                "retries": 2,
            },
        ),
        "plain": scenario.idle(),
    }
}


def until(found: Callable[[], Any], seconds: float = 30.0, what: str = "it") -> Any:
    """What a look brings once it brings something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.1)
    return result


@pytest.fixture(scope="module")
def watched(shared: scenario.Scenario) -> Iterator[scenario.Scenario]:
    """A stack with one service that is checked and one that is not, healthy."""
    shared.compose(STACK)
    shared.ic("up", "-d")
    until(lambda: healthy(shared), what="health")
    yield shared
    for _, path in shared.lab.trusted(f"ic-healthd {shared.name}"):
        shared.lab.api("DELETE", path)


def healthy(case: scenario.Scenario) -> bool:
    return case.instance("web")["config"].get("user.healthcheck.status") == "healthy"


def mended(case: scenario.Scenario) -> bool:
    """Take away what makes the check fail; not while the instance is being restarted."""
    try:
        return case.run("web", "rm", "-f", "/bad") == ""
    except (labs.ApiError, AssertionError):
        return False


def lives(case: scenario.Scenario) -> list[dict[str, Any]]:
    """The daemon's lives in the history, newest first."""
    document = case.ic("history", "--json").json()
    schemas.Schema("ic.history-1").check(document)
    return [run for run in document["runs"] if run["command"] == "healthd"]


def kinds(life: dict[str, Any]) -> list[str]:
    return [event["kind"] for event in life["events"]]


def test_status_says_how_it_is_and_what_it_watches(watched: scenario.Scenario) -> None:
    document = watched.ic("healthd", "status", "--json").json()
    schemas.Schema("ic.healthd-1").check(document)
    assert (document["healthd"]["state"], document["healthd"]["watched"]) == ("watching", 1)
    assert [(one["service"], one["health"]) for one in document["instances"]] == [
        ("web", "healthy")
    ]
    shown = watched.ic("healthd", "status").out
    assert shown.startswith("ic-healthd: watching 1 instance\n")
    assert "running (healthy)" in shown


def test_logs_are_json_and_can_be_cut(watched: scenario.Scenario) -> None:
    lines = [json.loads(line) for line in watched.ic("healthd", "logs").out.splitlines()]
    assert lines[0]["event"] == "start"
    assert {"time", "event"} <= set(lines[-1])
    assert len(watched.ic("healthd", "logs", "-n", "1").out.splitlines()) == 1


def test_check_runs_once_and_prints_what_it_gave(watched: scenario.Scenario) -> None:
    found = watched.ic("healthd", "check", "web", "--json").json()
    schemas.Schema("ic.check-1").check(found)
    assert (found["healthy"], found["exit_code"], found["address"]) == (True, 0, "instance:web/1")
    assert "healthy (exit code 0)" in watched.ic("healthd", "check", "web/1").err
    assert "no healthcheck" in watched.ic("healthd", "check", "plain", code=1).err
    assert "no such instance" in watched.ic("healthd", "check", "nobody", code=1).err


def test_an_unhealthy_service_stands_in_the_history_with_cause_and_last_line(
    watched: scenario.Scenario,
) -> None:
    until(lambda: healthy(watched))
    before = len(kinds(lives(watched)[0]))
    watched.run("web", "touch", "/bad")
    failed = watched.ic("healthd", "check", "web", "--json", code=None)
    if failed.code:  # the daemon may have restarted it already: then it runs anew
        assert failed.json()["output"] in ("nothing is well\n", "")
    until(
        lambda: {"hd.unhealthy", "hd.restart"} <= set(kinds(lives(watched)[0])[before:]),
        what="the restart",
    )
    life = lives(watched)[0]
    (event,) = [one for one in life["events"][before:] if one["kind"] == "hd.unhealthy"]
    assert event["address"] == "instance:web/1"
    assert event["output"] == "nothing is well"
    assert "3" in event["cause"]
    log = watched.ic("healthd", "logs").out
    assert '"event":"restart","address":"instance:web/1"' in log
    assert "nothing is well" not in log  # what a check writes may be private
    shown = watched.ic("history", life["run"]).out
    assert "nothing is well" in shown
    assert "hd.restart" in shown
    until(lambda: mended(watched), what="the remedy")
    until(lambda: healthy(watched), what="health again")


def test_a_run_takes_the_lines_into_the_journal_and_no_history_changes(
    watched: scenario.Scenario,
) -> None:
    before = lives(watched)
    held = json.loads(watched.project()["user.ic.head"])["hw"].get("hd", 0)
    changed = json.loads(json.dumps(STACK))
    changed["services"]["plain"]["environment"] = {"X": str(time.time())}
    watched.apply(changed)
    head = json.loads(watched.project()["user.ic.head"])
    assert head["hw"]["hd"] > held
    after = lives(watched)
    assert [event["n"] for event in after[0]["events"]][: len(before[0]["events"])] == [
        event["n"] for event in before[0]["events"]
    ]
    assert after[0]["events"][: len(before[0]["events"])] == before[0]["events"]
    assert watched.plan() == {}


def test_a_restart_is_a_run_and_the_daemon_lives_again(watched: scenario.Scenario) -> None:
    before = lives(watched)
    watched.ic("healthd", "restart")
    until(lambda: watched.ic("healthd", "status", code=None).code == 0, what="watching")
    until(lambda: len(lives(watched)) == len(before) + 1, what="another life")
    now = lives(watched)
    assert now[0]["status"] == "running"
    assert now[1]["run"] == before[0]["run"]
    assert now[1]["status"] == "ok"
    runs = watched.ic("history", "--json").json()["runs"]
    (restart,) = [run for run in runs if run["command"] == "healthd restart"][:1]
    assert restart["status"] == "ok"
    assert [event["kind"] for event in restart["events"]] == ["inst.restart"]
    assert watched.plan() == {}


def test_a_round_in_the_sidecar_tells_by_its_exit_status(watched: scenario.Scenario) -> None:
    until(lambda: healthy(watched))
    out = watched.run("ic-healthd", "python3", "/ic.pyz", "healthd", "--once")
    found = json.loads(out.splitlines()[-1])
    assert (found["event"], found["instance"], found["result"], found["code"]) == (
        "check",
        "web",
        "exit",
        0,
    )


def test_of_a_stack_without_one_nothing_can_be_asked(case: scenario.Scenario) -> None:
    case.compose({"services": {"plain": scenario.idle()}})
    case.ic("up", "-d")
    for words in (["status"], ["logs"], ["restart"]):
        assert "there is none" in case.ic("healthd", *words, code=1).err
