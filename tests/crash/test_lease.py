"""Obligation: of two runs at once one works; who lost the lease writes nothing more."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from typing import Any

import pytest

from ic.resources import sidecar
from tests.crash import aftermath, proxy
from tests.e2e import ledger, scenario
from tests.e2e.test_journal import show
from tests.lab import lab as labs


def until(what: Any, seconds: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def both(case: scenario.Scenario, *argv: str) -> list[tuple[int, str]]:
    """Two applies from two processes at once: status and what each said."""
    processes = [case.start("apply", "-y", *argv) for _ in range(2)]
    said = [process.communicate(timeout=90) for process in processes]
    return [(p.wait(), out + err) for p, (out, err) in zip(processes, said, strict=True)]


@pytest.mark.parametrize("argv", [(), ("--lock-timeout", "0")])
def test_two_first_applies_at_once_make_one_stack(
    case: scenario.Scenario, argv: tuple[str, ...]
) -> None:
    document = aftermath.stack_of(3)
    case.compose(document)
    for _ in range(2):
        ends = both(case, *argv)
        codes = sorted(code for code, _ in ends)
        assert codes in ([0, 0], [0, 75]), ends
        for code, said in ends:
            if code == 75:
                assert "0@" in said, said
            assert "Traceback" not in said
        aftermath.heal(case, document)
        generations = [line.get("g", 0) for line in show(case).runs]
        assert generations == sorted(generations)
        document["services"]["s1"]["environment"]["MORE"] = "1"
        case.compose(document)


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(
    case: scenario.Scenario,
) -> None:
    document = aftermath.stack_of(2)
    case.compose(document)
    process = case.start("apply", "-y")
    until(case.exists)
    until(case.instances)
    process.kill()
    process.communicate()
    began = time.monotonic()
    aftermath.heal(case, document)
    assert time.monotonic() - began < 15
    told = show(case)
    assert [line for line in told.lines if line.get("k") == "lock.steal"]


def test_a_held_lease_names_its_holder_and_unlock_frees_it(case: scenario.Scenario) -> None:
    """A stopped process holds the lease: it is alive, so nobody takes it before it is silent for long."""
    first = scenario.idle(environment={"BY": "first"})
    case.apply({"services": {"web": scenario.idle()}})
    case.compose({"services": {"web": first}})
    fault = proxy.Fault(3, "after", where=lambda passed: passed.writes)
    with case.watched(fault):
        process = case.start("apply", "-y")
        fault.action = lambda: process.send_signal(signal.SIGSTOP)
        assert fault.fired.wait(20)
        del case.env["INCUS_SOCKET"]
        try:
            done = case.ic("apply", "-y", "--lock-timeout", "0", code=75)
            assert "0@" in done.err
            locks = [name for name in case.profiles() if name.startswith("ic.lock")]
            generation = max(int(name.split(".")[3]) for name in locks)
            assert case.ic("unlock", "--gen", str(generation - 1), "-y", code=None).code != 0
            case.ic("unlock", "--gen", str(generation), "-y")
            second = {"services": {"web": scenario.idle(environment={"BY": "second"})}}
            case.apply(second)
        finally:
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate(timeout=60)
    assert process.wait() == 75, out + err
    # Unlocked by a person within the lease, it may have sent one more call before it knew; the journal has
    # not taken a word of it, so that the next apply sees a drift and sets it back.
    told = [line for line in show(case).lines if line.get("k") == "run"]
    assert told[-1]["g"] > generation
    case.apply()
    assert case.instance("web")["config"]["environment.BY"] == "second"
    assert case.plan() == {}
    assert ledger.differences(show(case), case.marked()) == []


@pytest.mark.long
def test_a_holder_killed_on_another_machine_is_waited_out(
    case: scenario.Scenario, other: labs.Machine
) -> None:
    document = aftermath.stack_of(6)
    case.compose(document)
    where = other.workdir(case.name)
    (where / "compose.yaml").write_text(json.dumps({"name": case.name, **document}))
    words = [*scenario.IC, "--remote", "lab", "apply", "-y"]
    process = other.popen(words, cwd=f"/stacks/{case.name}")
    until(case.exists)
    until(case.instances)
    process.kill()
    process.communicate()
    began = time.time()
    case.ic("apply", "-y")
    [steal] = [line for line in show(case).lines if line.get("k") == "lock.steal"]
    assert 29 <= steal["t"] / 1000 - began <= 33  # the lease's 30 s, and ic's own start
    aftermath.heal(case, document)


def paused(lab: labs.Lab, name: str, number: int, results: list[str]) -> None:
    """One stack: stop the first run after its write `number`, let another take over, let the first go on."""
    case = scenario.Scenario(lab, name)
    document = aftermath.stack_of(2)
    for service in document["services"].values():
        service.setdefault("labels", {})["by"] = "none"
    case.apply(document)

    def by(who: str) -> None:
        for service in document["services"].values():
            service["labels"]["by"] = who
            service["environment"] = {"BY": who}
        case.compose(document)

    by("first")
    fault = proxy.Fault(number, "after", where=lambda passed: passed.writes)
    with case.watched(fault) as passed:
        process = case.start("apply", "-y")
        fault.action = lambda: process.send_signal(signal.SIGSTOP)
        if not fault.fired.wait(60):
            results.append(f"{name}: there was no write {number}")
            process.kill()
            process.communicate()
            return
        del case.env["INCUS_SOCKET"]
        by("second")
        case.apply()
        seen = len(passed.passed)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
    said = f"{name}, stopped after write {number}: {process.wait()} {out}{err}"
    late = [p for p in passed.passed[seen:] if p.writes]
    journal = [p for p in late if p.path.startswith("/1.0/profiles/ic.lock")]
    if process.wait() != 75:
        results.append(f"exit status is not 75: {said}")
    if any(p.status != 404 for p in journal):
        results.append(f"a journal write was taken: {[(p.path, p.status) for p in journal]} {said}")
    wrong = ledger.differences(show(case), case.marked())
    labels = {
        one["config"].get("user.label.by")
        for name, one in case.instances().items()
        if name != sidecar.INSTANCE
    }
    if wrong or labels != {"second"} or case.plan():
        results.append(f"{wrong} {labels} {case.plan()} {said}")


@pytest.mark.long
@pytest.mark.parametrize("batch", range(5))
def test_a_paused_holder_is_fenced_at_any_moment(lab: labs.Lab, batch: int) -> None:
    """Ten stacks side by side: each waits half a minute for a lease to grow silent."""
    chance = random.Random(batch)
    results: list[str] = []
    prefix = f"p{batch}{chance.randrange(16**5):05x}"
    threads = [
        threading.Thread(
            target=paused, args=(lab, f"{prefix}-{n}", chance.randint(3, 8), results), daemon=True
        )
        for n in range(10)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [], "\n".join(results)
    finally:
        lab.sweep(prefix)
