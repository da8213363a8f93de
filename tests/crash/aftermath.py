"""What must be true after a run of ic was cut off anywhere, and one more `ic apply` has run."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e import ledger, scenario
from tests.e2e.test_journal import show

DAEMON = "ic-healthd"
CHECK = "Executing command"  # what the server calls a probe that is under way


def stack_of(services: int) -> dict[str, Any]:
    """A stack with dependencies in waves, volumes filled from an image, and a network of its own.

    The image of the first service brings a HEALTHCHECK: the stack has a health daemon.
    """
    document: dict[str, Any] = {"services": {}, "volumes": {}, "networks": {"back": {}}}
    for number in range(services):
        service = scenario.idle(environment={"NUMBER": str(number)}, networks=["back"])
        if number % 3 == 0:
            service = {"image": "lab/worker:1", "networks": ["back"]}
            service["volumes"] = [f"v{number}:/srv/data"]
            document["volumes"][f"v{number}"] = {}
        elif number % 3 == 1:
            service["volumes"] = [f"v{number}:/data"]
            document["volumes"][f"v{number}"] = {}
        if number >= 2:
            service["depends_on"] = [f"s{number - 2}"]
        document["services"][f"s{number}"] = service
    return document


def heal(case: scenario.Scenario, document: dict[str, Any]) -> scenario.Done:
    """One more apply; then an empty plan, nothing twice, nothing left over, and history tells of it."""
    interrupted = case.exists()
    done = case.ic("apply", "-y", "--lock-timeout", "5")
    assert case.plan() == {}, done
    assert case.states() == expected_states(document)
    assert set(case.volumes()) == {*expected_volumes(document), DAEMON}
    assert set(case.networks()) == set(document["networks"])
    [_] = enrolled(case)
    locks = [name for name in case.profiles() if name.startswith("ic.lock.")]
    assert len(locks) == 1, locks
    # Cut off with all the work done, there is nothing to do, so nothing is written: the lease stays the dead
    # process's until somebody needs it, and the last lines stay in the run object until then.
    idle = "nothing to do" in done.out + done.err
    assert idle or case.profiles()[locks[0]]["config"]["user.ic.hold"] == "free"
    for name in document["services"]:
        assert case.instance(name)["config"].get("environment.NUMBER", name[1:]) == name[1:]
    for name in expected_volumes(document):
        if case.volumes()[name]["config"].get("initial.uid") == "1234":
            assert case.read_volume(name, "/seed.txt") == "seeded by the image\n"
    operations = case.get("/1.0/operations", recursion="1") or {}
    left = [one for one in operations.get("running", ()) if one["description"] != CHECK]
    assert left == []
    told = show(case, cut_off=idle)
    assert ledger.differences(told, case.marked()) == []
    assert told.open == {}
    numbers = [line["n"] for line in told.lines]
    assert numbers == list(range(1, len(numbers) + 1))
    runs = applied(case)
    assert runs, done
    if interrupted:
        assert {run["status"] for run in runs} <= {"ok", "interrupted"}, json.dumps(runs, indent=1)
    return done


def expected_states(document: dict[str, Any]) -> dict[str, str]:
    return dict.fromkeys((*document["services"], DAEMON), "Running")


def expected_volumes(document: dict[str, Any]) -> set[str]:
    return set(document["volumes"])


def applied(case: scenario.Scenario) -> list[dict[str, Any]]:
    """The runs of ic, without the lives of the health daemon."""
    return [run for run in case.runs() if run["command"] != "healthd"]


def enrolled(case: scenario.Scenario) -> list[str]:
    """The certificates of the stack's daemon; a token that nobody has used is a failure."""
    found = [path for _, path in case.lab.trusted(f"{DAEMON} {case.name}")]
    assert not [path for path in found if "/operations/" in path], found
    return found
