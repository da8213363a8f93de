"""Obligation: what ends, ends gracefully; what a person made stays until it is told to go."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e import scenario


def test_a_service_gets_its_grace_period_and_no_more(case: scenario.Scenario) -> None:
    """Stop signals reach the main process itself; one that ignores them is ended by force."""
    deaf = "trap '' TERM; while :; do sleep 1000 & wait $$!; done"
    usr = "trap 'echo got-usr1 >/data/usr1; exit 0' USR1; while :; do sleep 1000 & wait $$!; done"
    case.compose(
        {
            "services": {
                "slow": {
                    "image": "lab/slowstop:1",
                    "volumes": ["slow:/data"],
                    "stop_grace_period": "20s",
                },
                "deaf": scenario.idle(command=["sh", "-c", deaf], stop_grace_period="1s"),
                "usr": scenario.idle(
                    command=["sh", "-c", usr], stop_signal="SIGUSR1", volumes=["usr:/data"]
                ),
            },
            "volumes": {"slow": {}, "usr": {}},
        }
    )
    case.apply()
    began = time.monotonic()
    case.ic("down")
    took = time.monotonic() - began
    assert case.instances() == {}
    assert case.read_volume("slow", "/stopped").strip().isdigit()
    assert case.read_volume("usr", "/usr1") == "got-usr1\n"
    assert 4.0 <= took < 12.0


def test_down_keeps_project_journal_and_volumes_and_a_later_apply_finds_them(
    case: scenario.Scenario,
) -> None:
    case.lab.api("POST", "/1.0/networks", {"name": "ext0", "config": {"ipv6.address": "none"}})
    document = {
        "services": {
            "db": scenario.idle(
                volumes=["data:/data", "/anon", "outer:/outer"], networks=["default", "outer"]
            )
        },
        "volumes": {"data": {}, "outer": {"external": True, "name": "outer"}},
        "networks": {"default": {}, "outer": {"external": True, "name": "ext0"}},
    }
    try:
        # The external volume must be in the stack's project, which the first apply makes.
        case.compose({"services": {"db": scenario.idle()}})
        case.apply()
        body = {"name": "outer", "type": "custom", "config": {}}
        case.send("POST", "/1.0/storage-pools/default/volumes/custom", body)
        case.apply(document)
        lineage = case.project()["user.ic.head"].split('"lin":"')[1][:12]
        case.run("db", "sh", "-c", "echo kept >/data/file")
        case.ic("down")
        assert case.instances() == {}
        assert case.networks() == {}
        assert {"data", "outer"} < set(case.volumes())
        assert f'"lin":"{lineage}"' in case.project()["user.ic.head"]
        assert case.runs()[0]["command"].split()[0] == "down"
        assert case.ic("down").code == 0
        case.apply()
        assert case.run("db", "cat", "/data/file") == "kept\n"

        case.ic("down", "-v")
        assert set(case.volumes()) == {"outer"}
        assert "ext0" in {n["name"] for n in case.lab.api("GET", "/1.0/networks?recursion=1")}
        # What no file of ic made is in the way of destroy, and named.
        done = case.ic("destroy", "-y", "-v", code=3)
        assert "outer" in done.err
        assert case.exists()
    finally:
        case.lab.sweep(case.name)
        case.lab.api("DELETE", "/1.0/networks/ext0")


def test_down_ends_the_services_in_the_reverse_order_of_their_dependencies(
    case: scenario.Scenario,
) -> None:
    mark = "trap 'date +%s%N >>/order/$$0; sleep 0.3; exit 0' TERM; while :; do sleep 1000 & wait $$!; done"

    def service(name: str, *needs: str) -> dict[str, object]:
        return {
            "image": "busybox",
            "command": ["sh", "-c", mark, name],
            "volumes": ["./order:/order"],
            "depends_on": list(needs),
        }

    (case.directory / "order").mkdir()
    (case.directory / "order").chmod(0o777)
    case.compose({"services": {"a": service("a"), "b": service("b", "a"), "c": service("c", "b")}})
    case.apply()
    started = [case.instance(name)["last_used_at"] for name in "abc"]
    assert started == sorted(started)
    case.ic("down")
    # busybox date has no nanoseconds; the order of the files' times is what counts.
    times = [(case.directory / "order" / name).stat().st_mtime_ns for name in "cba"]
    assert times == sorted(times)


def test_destroy_refuses_while_volumes_are_left_and_takes_them_when_told(
    case: scenario.Scenario,
) -> None:
    case.compose(
        {"services": {"db": scenario.idle(volumes=["data:/data"])}, "volumes": {"data": {}}}
    )
    case.apply()
    before = scenario.everything(case.lab)
    done = case.ic("destroy", "-y", code=3)
    assert "data" in done.err
    assert scenario.everything(case.lab) == before
    assert case.ic("destroy", "-v", code=3).code == 3  # nobody to ask
    assert scenario.everything(case.lab) == before

    lines = len(case.runs())
    case.ic("destroy", "-y", "-v")
    assert not case.exists()
    assert case.networks() == {}
    exports = list(case.directory.glob(f"{case.name}-*.journal.ndjson"))
    assert len(exports) == 1
    assert exports[0].stat().st_mode & 0o777 == 0o600
    events = [json.loads(line) for line in exports[0].read_text().splitlines()]
    assert len(events) > lines
    assert "user.ic.key" not in exports[0].read_text()
    # Nothing is left over, so the second destroy finds nothing to do or says so.
    again = case.ic("destroy", "-y", "-v", code=None)
    assert again.code in (0, 1)


def slow_stack() -> dict[str, object]:
    slow = "trap 'sleep 3; exit 0' TERM; while :; do sleep 1000 & wait $$!; done"
    command = ["sh", "-c", slow]
    return {"services": {"slow": scenario.idle(command=command, stop_grace_period="20s")}}


def destroying(case: scenario.Scenario) -> scenario.labs.Process:
    """`ic destroy` at work: it holds the lease, and the service takes its time."""
    ending = case.start("destroy", "-y")
    listed = ["incus", "operation", "list", "--project", case.name, "-f", "csv"]
    while "Stopping" not in case.lab.run(listed).stdout:
        assert ending.poll() is None
        time.sleep(0.05)
    return ending


def test_up_that_waited_for_a_destroy_makes_the_stack_anew(case: scenario.Scenario) -> None:
    case.compose(slow_stack())
    case.ic("up", "-d")
    ending = destroying(case)
    done = case.ic("up", "-d")
    ending.communicate()
    assert ending.poll() == 0
    assert "meanwhile something has changed" in done.err
    assert case.states() == {"slow": "Running"}
    assert case.plan() == {}


def test_down_that_waited_for_a_destroy_has_nothing_to_do(case: scenario.Scenario) -> None:
    case.compose(slow_stack())
    case.ic("up", "-d")
    ending = destroying(case)
    done = case.ic("down")
    ending.communicate()
    assert ending.poll() == 0
    assert f"nothing of stack {case.name} is left to remove" in done.out
    assert not case.exists()


def test_destroy_never_takes_what_is_not_marked(case: scenario.Scenario) -> None:
    case.compose({"services": {"db": scenario.idle()}})
    case.apply()
    case.send("POST", "/1.0/instances", scenario.GUEST)
    before = scenario.everything(case.lab)
    assert "guest" in case.ic("destroy", "-y", "-v", code=3).err
    assert scenario.everything(case.lab) == before
    case.send("DELETE", "/1.0/instances/guest", None)
    export = f"{case.inside}/out.ndjson"
    case.write("out.ndjson", "precious")
    case.ic("destroy", "-y", "--export", export, code=1)
    assert (case.directory / "out.ndjson").read_text() == "precious"
    assert case.exists()
    (case.directory / "out.ndjson").unlink()
    case.ic("destroy", "-y", "--export", export)
    assert not case.exists()
    assert (case.directory / "out.ndjson").stat().st_size > 0


@pytest.mark.parametrize("where", ["/", "/tmp"])
def test_another_directory_needs_the_name_alone(case: scenario.Scenario, where: str) -> None:
    case.compose({"services": {"web": scenario.idle()}})
    case.apply()
    rows = case.ic("-p", case.name, "ps", "--json", cwd=where).json()["instances"]
    assert [row["name"] for row in rows] == ["web"]
    runs = case.ic("-p", case.name, "history", "--json", cwd=where).json()["runs"]
    assert [run["command"].split()[0] for run in runs] == ["apply"]
    case.ic("-p", case.name, "down", cwd=where)
    assert case.instances() == {}
    case.ic("-p", case.name, "destroy", "-y", "--export", f"{case.inside}/j.ndjson", cwd=where)
    assert not case.exists()
