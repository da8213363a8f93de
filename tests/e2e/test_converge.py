"""Obligation: `ic apply` makes Incus what the file says, changes just what differs, and nothing else.

The tests share one stack; each begins with an apply of the same file, which costs little when the
stack is settled.
"""

from __future__ import annotations

import copy
import signal
from typing import Any

import pytest

from tests.e2e import scenario

FILE: dict[str, Any] = {
    "services": {
        "web": scenario.idle(
            environment={"GREETING": "hello"},
            labels={"tier": "front"},
            depends_on={"job": {"condition": "service_completed_successfully"}, "data": {}},
        ),
        "data": {"image": "lab/worker:1", "volumes": ["store:/srv/data"]},
        "job": {"image": "lab/exit:1", "environment": {"EXIT_CODE": "0"}, "restart": "no"},
        "tool": scenario.idle(profiles=["debug"]),
    },
    "volumes": {"store": {}},
}
FILE["services"]["web"]["depends_on"]["data"] = {"condition": "service_started"}


@pytest.fixture
def shop(shared: scenario.Scenario) -> scenario.Scenario:
    shared.apply(FILE)
    return shared


def changed(**services: dict[str, Any]) -> dict[str, Any]:
    """The file with keys of services replaced."""
    document = copy.deepcopy(FILE)
    for name, keys in services.items():
        document["services"].setdefault(name, {}).update(keys)
    return document


def environment(shop: scenario.Scenario, instance: str) -> str:
    """The environment of process 1, a variable a line; a process between two programs has none."""
    for _ in range(20):
        found = shop.run(instance, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ")
        if found:
            return found
    return ""


def test_create_makes_what_the_file_says_and_marks_it(shop: scenario.Scenario) -> None:
    watched = {scenario.DAEMON: "Running"}
    shop.become({"web": "Running", "data": "Running", "job": "Stopped", **watched})
    config = shop.instance("web")["config"]
    assert config["environment.GREETING"] == "hello"
    assert config["user.label.tier"] == "front"
    assert config["user.ic.stack"] == shop.name
    assert config["user.ic.res"] == "web/1"
    lineage = config["user.ic.lin"]
    assert set(shop.volumes()) == {"store", scenario.DAEMON}
    assert shop.volumes()["store"]["config"]["security.shifted"] == "true"
    assert set(shop.networks()) == {"default"}
    stamped = [
        shop.volumes()["store"],
        shop.networks()["default"],
        *shop.instances().values(),
    ]
    assert {one["config"]["user.ic.lin"] for one in stamped} == {lineage}
    assert f'"lin":"{lineage}"' in shop.project()["user.ic.head"]
    assert "GREETING=hello" in environment(shop, "web").splitlines()


def test_a_second_apply_and_a_plan_write_nothing(shop: scenario.Scenario) -> None:
    before, runs = scenario.everything(shop.lab), len(shop.runs())
    with shop.watched() as proxy:
        done = shop.ic("apply", "-y")
        applied, reads = list(proxy.writes), len(proxy.passed)
        proxy.clear()
        assert shop.ic("plan", "--detailed-exitcode", "--json").json()["changes"] == []
        shop.ic("ps")
        shop.ic("history")
        looked = list(proxy.writes)
    assert applied == [], done
    assert looked == []
    assert reads <= 9  # one is the log of the job that has ended, one the health daemon's state
    assert scenario.everything(shop.lab) == before
    assert len(shop.runs()) == runs


def test_equal_inputs_give_equal_bytes(shop: scenario.Scenario) -> None:
    shop.compose(changed(web={"environment": {"GREETING": "new", "B": "2"}}, fresh=scenario.idle()))
    first, second = shop.ic("plan"), shop.ic("plan")
    assert first.out == second.out
    assert "fresh" in first.out
    assert shop.ic("plan", "--detailed-exitcode", code=2).out == first.out


def test_a_label_changes_in_place(shop: scenario.Scenario) -> None:
    before = shop.uuid("web"), shop.started("web")
    shop.compose(changed(web={"labels": {"tier": "back"}}))
    plan = shop.plan()
    assert scenario.addresses(plan) == {"instance:web/1": "update"}
    change = scenario.field(plan["instance:web/1"], "config.user.label.tier")
    assert change["impact"] == "in-place"
    assert change["redacted"]
    shop.apply()
    assert shop.instance("web")["config"]["user.label.tier"] == "back"
    assert (shop.uuid("web"), shop.started("web")) == before


def test_an_environment_value_changes_by_restart(shop: scenario.Scenario) -> None:
    uuid, started, other = shop.uuid("web"), shop.started("web"), shop.started("data")
    shop.compose(changed(web={"environment": {"GREETING": "good day"}}))
    plan = shop.plan()
    assert scenario.addresses(plan) == {"instance:web/1": "restart"}
    change = scenario.field(plan["instance:web/1"], "config.environment.GREETING")
    assert (change["impact"], change["old"], change["new"]) == ("restart", None, None)
    shop.apply()
    assert "GREETING=good day" in environment(shop, "web")
    assert shop.uuid("web") == uuid
    assert shop.started("web") != started
    assert shop.started("data") == other


def test_another_image_replaces_the_instance_and_keeps_its_volume(shop: scenario.Scenario) -> None:
    uuid, volume = shop.uuid("data"), shop.volumes()["store"]["created_at"]
    shop.run("data", "sh", "-c", "echo kept >/srv/data/mine")
    shop.compose(changed(data={"image": "lab/worker:2"}))
    change = shop.plan()["instance:data/1"]
    assert change["action"] == "replace"
    assert scenario.field(change, "config.user.ic.image")["impact"] == "replace"
    shop.apply()
    assert shop.uuid("data") != uuid
    assert shop.states()["data"] == "Running"
    assert shop.volumes()["store"]["created_at"] == volume
    assert shop.run("data", "cat", "/srv/data/mine") == "kept\n"
    # Both images have the same layers, so the same fingerprint: the second one's config counts.
    assert "WORKER_MODE=mode-2" in environment(shop, "data")
    assert "--serve\n2\n" in shop.run("data", "sh", "-c", "tr '\\0' '\\n' </proc/1/cmdline")


def test_a_removed_key_is_unset_and_a_foreign_key_stays(shop: scenario.Scenario) -> None:
    mine = {"config": {"user.mine": "1", "environment.MINE": "2", "user.label.mine": "3"}}
    shop.send("PATCH", "/1.0/instances/web", mine)
    assert shop.plan() == {}
    shop.apply(changed(web={"labels": {}, "environment": {"OTHER": "x"}}))
    config = shop.instance("web")["config"]
    assert "user.label.tier" not in config
    assert "environment.GREETING" not in config
    assert config["environment.OTHER"] == "x"
    assert {key: config.get(key) for key in mine["config"]} == mine["config"]
    shop.send("PATCH", "/1.0/instances/web", {"config": dict.fromkeys(mine["config"], "")})


def test_drift_in_a_key_that_ic_set_is_shown_and_set_back(shop: scenario.Scenario) -> None:
    drift = {"config": {"user.label.tier": "by hand"}}
    shop.send("PATCH", "/1.0/instances/web", drift)
    change = shop.plan()["instance:web/1"]
    assert "outside" in change["cause"]
    assert scenario.field(change, "config.user.label.tier")["impact"] == "in-place"
    shop.apply()
    assert shop.instance("web")["config"]["user.label.tier"] == "front"


def test_a_vanished_instance_is_made_again(shop: scenario.Scenario) -> None:
    shop.stop_by_hand("web")
    shop.send("DELETE", "/1.0/instances/web", None)
    plan = shop.plan()
    assert scenario.addresses(plan) == {"instance:web/1": "create"}
    assert "vanished" in plan["instance:web/1"]["cause"]
    shop.apply()
    assert shop.states()["web"] == "Running"
    assert shop.plan() == {}


def test_a_foreign_instance_is_refused_and_not_touched(shop: scenario.Scenario) -> None:
    body = {**scenario.GUEST, "config": {"user.note": "mine"}}
    shop.send("POST", "/1.0/instances", body)
    shop.compose(changed(guest=scenario.idle()))
    before = scenario.everything(shop.lab)
    for command in (("plan",), ("apply", "-y"), ("up", "-d")):
        done = shop.ic(*command, code=3)
        assert "guest" in done.err
    assert scenario.everything(shop.lab) == before
    shop.send("DELETE", "/1.0/instances/guest", None)


def test_an_unmarked_project_of_the_same_name_is_refused(case: scenario.Scenario) -> None:
    case.lab.api("POST", "/1.0/projects", {"name": case.name, "config": {}})
    case.compose({"services": {"web": scenario.idle()}})
    before = scenario.everything(case.lab)
    assert case.name in case.ic("apply", "-y", code=3).err
    assert scenario.everything(case.lab) == before


def test_an_unmarked_bridge_of_the_same_name_is_refused(case: scenario.Scenario) -> None:
    case.compose({"services": {"web": scenario.idle()}})
    case.apply()
    bridge = case.networks()["default"]["name"]
    case.ic("down")
    case.lab.api("POST", "/1.0/networks", {"name": bridge, "config": {"ipv6.address": "none"}})
    before = scenario.everything(case.lab)
    assert bridge in case.ic("apply", "-y", code=3).err
    assert scenario.everything(case.lab) == before
    case.lab.api("DELETE", f"/1.0/networks/{bridge}")


def test_a_bridge_left_by_a_deleted_project_is_refused_with_the_command_that_helps(
    case: scenario.Scenario,
) -> None:
    case.compose({"services": {"web": scenario.idle()}})
    case.apply()
    case.stop_by_hand("web")
    case.lab.api("DELETE", f"/1.0/projects/{case.name}?force=true")
    before = scenario.everything(case.lab)
    done = case.ic("apply", "-y", code=3)
    assert scenario.everything(case.lab) == before
    command = done.err[done.err.index("incus network delete") :].splitlines()[0]
    case.lab.run(["sh", "-ec", command], check=True)
    case.apply()
    assert case.states() == {"web": "Running"}


def test_a_crashed_service_is_started_again(shop: scenario.Scenario) -> None:
    uuid = shop.uuid("web")
    shop.kill("web")
    plan = shop.plan()
    assert scenario.addresses(plan) == {"instance:web/1": "start"}
    assert "exited (137)" in plan["instance:web/1"]["cause"]
    rows = {row["name"]: row for row in shop.ic("ps", "--json").json()["instances"]}
    assert (rows["web"]["exit_code"], rows["job"]["exit_code"]) == (137, 0)
    shop.apply()
    assert shop.states()["web"] == "Running"
    assert shop.uuid("web") == uuid


def test_an_instance_stopped_by_hand_is_started_again(shop: scenario.Scenario) -> None:
    shop.stop_by_hand("web")
    assert scenario.addresses(shop.plan()) == {"instance:web/1": "start"}
    shop.apply()
    assert shop.states()["web"] == "Running"


def test_a_finished_job_is_left_alone_by_apply_and_run_again_by_up(shop: scenario.Scenario) -> None:
    started = shop.started("job")
    assert shop.plan() == {}
    shop.apply()
    assert shop.started("job") == started
    shop.ic("up", "-d")
    shop.ended("job")
    again = shop.started("job")
    assert again != started
    shop.apply(changed(job={"environment": {"EXIT_CODE": "0", "NEW": "1"}}))
    assert shop.started("job") != again


def test_scaling_adds_and_removes_the_highest_numbers(shop: scenario.Scenario) -> None:
    uuid = shop.uuid("web")
    address = shop.instance("web")["devices"]["eth0"]["ipv4.address"]
    shop.apply(changed(web={"scale": 3}))
    assert {name for name in shop.states() if name.startswith("web")} == {"web", "web-2", "web-3"}
    assert shop.instance("web-3")["config"]["user.ic.res"] == "web/3"
    cards = [one["devices"].get("eth0") for one in shop.instances().values()]
    found = {card["ipv4.address"] for card in cards if card}
    assert len(found) == 5
    names = shop.run("data", "nslookup", "web")
    assert all(
        shop.instance(f"web{n}")["devices"]["eth0"]["ipv4.address"] in names
        for n in ("", "-2", "-3")
    )
    shop.apply(changed(web={"deploy": {"replicas": 2}}))
    assert {name for name in shop.states() if name.startswith("web")} == {"web", "web-2"}
    shop.apply(FILE)
    assert {name for name in shop.states() if name.startswith("web")} == {"web"}
    assert shop.uuid("web") == uuid
    assert shop.instance("web")["devices"]["eth0"]["ipv4.address"] == address


def test_a_removed_service_goes_with_apply_and_stays_with_up(shop: scenario.Scenario) -> None:
    document = copy.deepcopy(FILE)
    document["services"]["extra"] = scenario.idle(volumes=["spare:/spare"])
    document["volumes"]["spare"] = {}
    shop.apply(document)
    shop.compose(FILE)
    done = shop.ic("up", "-d")
    assert "left alone" in done.out + done.err
    assert "extra" in done.out + done.err
    assert shop.states()["extra"] == "Running"
    assert shop.plan()["instance:extra/1"]["action"] == "delete"
    shop.apply()
    assert "extra" not in shop.states()
    assert "spare" in shop.volumes()
    shop.apply(document)
    shop.compose(FILE)
    shop.ic("up", "-d", "--remove-orphans")
    assert "extra" not in shop.states()


def test_a_service_of_an_inactive_profile_is_left_alone(shop: scenario.Scenario) -> None:
    assert "tool" not in shop.states()
    shop.ic("--profile", "debug", "apply", "-y")
    assert shop.states()["tool"] == "Running"
    uuid = shop.uuid("tool")
    assert shop.plan() == {}
    shop.apply(changed(web={"labels": {"tier": "again"}}))
    assert shop.states()["tool"] == "Running"
    assert shop.uuid("tool") == uuid


def test_only_named_services_and_what_they_need_are_changed(shop: scenario.Scenario) -> None:
    shop.compose(
        changed(web={"labels": {"tier": "x"}}, data={"labels": {"d": "x"}}, lone=scenario.idle())
    )
    assert set(shop.plan("lone")) >= {"instance:lone/1"}
    assert "instance:web/1" not in shop.plan("lone")
    instances = {address for address in shop.plan("web") if address.startswith("instance:")}
    assert instances == {"instance:web/1", "instance:data/1"}


def test_a_failed_service_stops_what_needs_it_and_the_rest_goes_on(case: scenario.Scenario) -> None:
    case.compose(
        {
            "services": {
                "bad": {"image": "lab/exit:1", "environment": {"EXIT_CODE": "3"}},
                "after": scenario.idle(
                    depends_on={"bad": {"condition": "service_completed_successfully"}}
                ),
                "alone": scenario.idle(),
                "missing": {"image": "busybox", "entrypoint": ["/no/such/program"]},
            }
        }
    )
    done = case.ic("apply", "-y", "--json", code=1)
    stopped = dict.fromkeys(("bad", "after", "missing"), "Stopped")
    case.become({"alone": "Running", **stopped})
    result = done.json()
    assert result["status"] == "failed"
    assert "instance:missing/1" in str(result["failed"])
    assert "instance:after/1" in str(result["not_started"])
    assert "instance:bad/1" in str(result["failed"]) + str(result["not_started"])
    assert case.runs()[0]["status"] == "failed"


def test_foreground_up_follows_the_output_and_ctrl_c_stops_without_deleting(
    case: scenario.Scenario,
) -> None:
    say = "trap 'exit 0' TERM; echo here-i-am; while :; do sleep 1000 & wait $$!; done"
    case.compose({"services": {"web": scenario.idle(command=["sh", "-c", say])}})
    process = case.start("up")
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if "here-i-am" in line:
            break
    assert "here-i-am" in seen
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.wait() in (0, 130), seen + out + err
    case.become({"web": "Stopped"})
    assert case.networks()
