"""Obligation: `apply` may be killed at any moment; one more `apply` completes it, with nothing twice."""

from __future__ import annotations

import random
import time

import pytest

from tests.crash import aftermath, proxy
from tests.e2e import scenario

SEED = 20261123


def moments(count: int) -> list[float]:
    """Random moments of a run that takes about six seconds, the same in every session."""
    chance = random.Random(SEED)
    return [round(chance.uniform(0.05, 6.0), 3) for _ in range(count)]


def killed_at(case: scenario.Scenario, seconds: float) -> None:
    document = aftermath.stack_of(6)
    case.compose(document)
    process = case.start("apply", "-y")
    time.sleep(seconds)
    process.kill()
    process.communicate(timeout=10)
    aftermath.heal(case, document)


@pytest.mark.parametrize("seconds", moments(3))
def test_killed_at_a_random_moment(case: scenario.Scenario, seconds: float) -> None:
    killed_at(case, seconds)


@pytest.mark.long
@pytest.mark.parametrize("seconds", moments(30)[3:])
def test_killed_at_many_random_moments(case: scenario.Scenario, seconds: float) -> None:
    killed_at(case, seconds)


def killed_by_proxy(
    case: scenario.Scenario, services: int, number: int, mode: proxy.Mode, *, writes: bool = False
) -> None:
    document = aftermath.stack_of(services)
    case.compose(document)
    fault = proxy.Fault(number, mode, where=lambda passed: passed.writes or not writes)
    with case.watched(fault):
        process = case.start("apply", "-y")
        fault.action = process.kill
        process.communicate(timeout=60)
        assert fault.fired.wait(5), f"there was no call {number}"
    aftermath.heal(case, document)


@pytest.mark.parametrize("number", range(1, 11))
def test_killed_directly_after_one_of_its_first_ten_calls(
    case: scenario.Scenario, number: int
) -> None:
    killed_by_proxy(case, 1, number, "after")


@pytest.mark.long
@pytest.mark.parametrize("number", range(1, 11))
def test_a_bigger_stack_killed_directly_after_one_of_its_first_ten_calls(
    case: scenario.Scenario, number: int
) -> None:
    killed_by_proxy(case, 6, number, "after")


@pytest.mark.parametrize(("number", "mode"), [(6, "executed"), (9, "executed"), (11, "before")])
def test_killed_around_a_write_that_the_server_has_or_has_not_seen(
    case: scenario.Scenario, number: int, mode: proxy.Mode
) -> None:
    killed_by_proxy(case, 2, number, mode, writes=True)


@pytest.mark.parametrize("mode", ["before", "after"])
def test_killed_with_all_the_work_done_and_the_journal_not_put_away(
    case: scenario.Scenario, mode: proxy.Mode
) -> None:
    document = aftermath.stack_of(1)
    case.compose(document)
    fault = proxy.Fault(
        1, mode, where=lambda one: one.method == "PUT" and one.path.startswith("/1.0/projects/")
    )
    with case.watched(fault):
        process = case.start("apply", "-y")
        fault.action = process.kill
        process.communicate(timeout=60)
        assert fault.fired.wait(5)
    done = aftermath.heal(case, document)
    assert "nothing to do" in done.out + done.err
    assert [run["status"] for run in aftermath.applied(case)] == ["ok"]
    # Whoever has something to do takes the lease at once and puts the journal away.
    document["services"]["s0"]["labels"] = {"more": "1"}
    case.compose(document)
    assert case.ic("apply", "-y", "--lock-timeout", "0").code == 0
    assert case.plan() == {}
    aftermath.heal(case, document)
    assert len(aftermath.applied(case)) == 2


@pytest.mark.long
@pytest.mark.parametrize("mode", ["before", "executed"])
@pytest.mark.parametrize("number", range(1, 19))
def test_killed_around_every_write(case: scenario.Scenario, number: int, mode: proxy.Mode) -> None:
    killed_by_proxy(case, 2, number, mode, writes=True)


@pytest.mark.parametrize("mode", ["drop", "error"])
def test_a_lost_reply_or_a_failing_server_ends_well_or_with_one_clear_error(
    case: scenario.Scenario, mode: proxy.Mode
) -> None:
    faulty(case, 8, mode)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["drop", "error", "cut", "reset", "twice"])
@pytest.mark.parametrize("number", [2, 4, 7, 10, 13])
def test_every_write_fails_in_every_way(
    case: scenario.Scenario, number: int, mode: proxy.Mode
) -> None:
    faulty(case, number, mode)


def faulty(case: scenario.Scenario, number: int, mode: proxy.Mode) -> None:
    document = aftermath.stack_of(2)
    case.compose(document)
    fault = proxy.Fault(number, mode, where=lambda passed: passed.writes)
    with case.watched(fault):
        done = case.ic("apply", "-y", code=None)
        assert fault.fired.is_set(), f"there was no write {number}"
    assert done.code in (0, 1, 75), done
    assert done.code == 0 or done.err.count("error:") == 1 or "cannot" in done.err, done
    done = case.ic("apply", "-y", "--lock-timeout", "5")
    assert case.plan() == {}, done
    assert case.states() == aftermath.expected_states(document)
    assert set(case.volumes()) == {"v0", "v1", aftermath.DAEMON}


def test_down_and_destroy_killed_anywhere_are_finished_by_a_second_one(
    case: scenario.Scenario,
) -> None:
    document = aftermath.stack_of(2)
    case.apply(document)
    for number in (3, 6):
        fault = proxy.Fault(number, "after", where=lambda passed: passed.writes)
        with case.watched(fault):
            process = case.start("destroy", "-y", "-v")
            fault.action = process.kill
            process.communicate(timeout=60)
            assert fault.fired.wait(5)
    assert case.exists()
    case.ic("destroy", "-y", "-v", "--export", "./last.journal.ndjson")
    assert not case.exists()
    assert case.networks() == {}
    assert aftermath.enrolled(case) == []
