"""Obligation: what the health daemon does can be asked, from the command line, the history and a socket."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli import test_documents as schemas
from tests.e2e import scenario, test_soak
from tests.lab import lab as labs

PORT = 18391
STACK: dict[str, Any] = {
    "services": {
        "web": scenario.idle(
            command=["sh", "-c", f"echo here >/tmp/page; httpd -p 80 -h /tmp; {scenario.IDLE[2]}"],
            ports=[f"{PORT}:80"],
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


def reached(case: scenario.Scenario) -> str:
    """The service's address as its neighbour finds it by name, after both ways to it have worked."""
    assert case.run("plain", "wget", "-qO-", "-T", "5", "http://web/page") == "here\n"
    url = f"http://127.0.0.1:{PORT}/page"
    assert case.lab.run(["curl", "-sS", "--max-time", "5", url], check=True).stdout == "here\n"
    return case.run("plain", "sh", "-c", "nslookup web | tail -n 2")


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
    told = watched.ic("healthd", "logs", "--json").json()
    assert (told["schema"], told["lines"][: len(lines)]) == ("ic.log/1", lines)


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
    where = reached(watched)
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
    assert reached(watched) == where


def by_hand(case: scenario.Scenario, name: str, keys: dict[str, str]) -> None:
    """An instance that a person makes in the stack's project, with keys and without `ic`; started."""
    like = case.instance("plain")
    body = {
        "name": name,
        "type": "container",
        "profiles": [],
        "config": {"oci.entrypoint": "/bin/sleep 900", "boot.host_shutdown_timeout": "1", **keys},
        "devices": {"root": like["devices"]["root"]},
        "source": {"type": "image", "fingerprint": like["config"]["volatile.base_image"]},
    }
    case.send("POST", "/1.0/instances", body)
    case.send("PUT", f"/1.0/instances/{name}/state", {"action": "start", "timeout": 20})


def remove(case: scenario.Scenario, *instances: str) -> None:
    """Take instances away that the daemon may be writing on: then a stop is refused."""

    def stopped(name: str) -> bool:
        with contextlib.suppress(labs.ApiError):
            case.stop_by_hand(name)
        return case.instance(name)["status"] == "Stopped"

    for name in instances:
        until(lambda name=name: stopped(name), what="the end")
        case.send("DELETE", f"/1.0/instances/{name}", None)


def test_what_a_person_makes_with_such_keys_is_watched_and_keys_that_cannot_be_read_are_named(
    watched: scenario.Scenario,
) -> None:
    check, restart = "user.healthcheck.", "user.restart"
    good = {f"{check}test": '["CMD","true"]', f"{check}interval": "500ms", restart: "always"}
    by_hand(watched, "own", good)
    odd = {f"{check}test": "7", f"{check}interval": "-5s", restart: "sometimes"}
    by_hand(watched, "odd", odd)

    def status(name: str) -> str:
        return watched.instance(name)["config"].get(f"{check}status", "")

    def keys(name: str, changes: dict[str, str]) -> None:
        watched.send("PATCH", f"/1.0/instances/{name}", {"config": changes})

    def misconfigured() -> set[tuple[str, str]]:
        told = [one for one in lives(watched)[0]["events"] if one["kind"] == "hd.misconfigured"]
        return {(one["address"], one["cause"].partition(":")[0]) for one in told}

    until(lambda: status("own") == "healthy", what="health")
    named = "; misconfigured: odd: user.healthcheck.interval, odd: user.healthcheck.test, odd: user.restart"
    until(lambda: named in watched.ic("ps").out, what="what is wrong")
    until(lambda: misconfigured() == {("instance:odd", key) for key in odd}, what="its history")
    with pytest.raises(AssertionError, match=r'ended with 1: .*"odd","misconfigured"'):
        watched.run("ic-healthd", "python3", "/ic.pyz", "healthd", "--once")
    assert healthy(watched)
    daemon, before = watched.started("ic-healthd"), watched.started("own")
    keys("odd", good)
    watched.lab.run(["sh", "-c", f"kill -KILL {watched.pid('own')}"], check=True)
    until(lambda: status("odd") == "healthy", what="health of what was mended")
    until(lambda: "misconfigured" not in watched.ic("ps").out, what="that all can be read")
    until(lambda: watched.started("own") != before, what="a start")
    failing = {f"{check}test": '["CMD","false"]', f"{check}retries": "1"}
    keys("odd", {**failing, f"{check}on_unhealthy": "none"})
    until(lambda: status("odd") == "unhealthy", what="the new check's verdict")
    assert watched.started("ic-healthd") == daemon
    assert watched.plan() == {}
    remove(watched, "own", "odd")


def test_what_is_stopped_or_killed_for_its_health_stays_so_whatever_its_policy(
    watched: scenario.Scenario,
) -> None:
    check = "user.healthcheck."
    bad = {f"{check}test": '["CMD","false"]', f"{check}interval": "300ms", f"{check}retries": "2"}
    by_hand(watched, "ill", {**bad, f"{check}on_unhealthy": "stop", "user.restart": "always"})
    by_hand(watched, "worse", {**bad, f"{check}on_unhealthy": "kill"})
    before = {name: watched.started(name) for name in ("ill", "worse")}
    stopped = {"ill": "Stopped", "worse": "Stopped"}
    until(lambda: stopped.items() <= watched.states().items(), what="the end of both")
    until(lambda: {"hd.stop", "hd.kill"} <= set(kinds(lives(watched)[0])), what="their history")
    time.sleep(1.5)  # longer than docker's pause
    assert stopped.items() <= watched.states().items()
    assert {name: watched.started(name) for name in before} == before
    remove(watched, *before)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.long)])
def test_who_stops_and_starts_what_is_checked_is_never_refused(
    watched: scenario.Scenario, rounds: int
) -> None:
    flapping = '["CMD-SHELL","test -e /t && { rm /t; exit 1; }; touch /t"]'
    check = "user.healthcheck."
    keys = {f"{check}test": flapping, f"{check}interval": "250ms", f"{check}retries": "1"}
    names = ["flaps", "flaps-too"]
    for name in names:
        by_hand(watched, name, {**keys, "user.restart": "no"})

    def writes() -> float:
        return test_soak.Sample(watched.run("ic-healthd", "python3", "-c", test_soak.ASK)).sum(
            "ic_healthd_writes_total"
        )

    def go(name: str) -> None:
        for _ in range(rounds):
            watched.stop_by_hand(name)
            body = {"action": "start", "timeout": 20}
            watched.send("PUT", f"/1.0/instances/{name}/state", body)

    before = writes()
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(go, names))  # a start or stop that is refused is an ApiError
    until(lambda: writes() >= before + len(names), what="the end of the quiet")
    assert set(watched.states().values()) == {"Running"}
    remove(watched, *names)


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
