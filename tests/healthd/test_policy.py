"""When something is started again, and how soon it may be restarted for its health."""

from __future__ import annotations

import pytest

from ic.healthd import policy, spec


def _asked(restart: spec.Policy, limit: int = 0) -> spec.Spec:
    return spec.Spec(name="web", restart=restart, restart_limit=limit)


def _after(asked: spec.Spec, *runs: tuple[int, int | None]) -> list[tuple[int | None, str]]:
    exits, found = policy.Exits(), []
    for ran_ms, code in runs:
        decision = policy.after_exit(asked, exits, ran_ms=ran_ms, code=code)
        exits = decision.exits
        found.append((decision.wait_ms, decision.why))
    return found


@pytest.mark.parametrize("restart", ["always", "unless-stopped"])
def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds(restart: spec.Policy):
    quick = [(5, 1)] * 12
    found = _after(_asked(restart), *quick, (10_000, 0), (9_999, 0))
    assert [wait for wait, _ in found] == [
        *[100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000],
        *[100, 200],
    ]


@pytest.mark.parametrize("restart", ["", "no"])
def test_without_a_policy_an_exit_is_left_alone(restart: spec.Policy):
    assert _after(_asked(restart), (5, 1)) == [(None, "no-policy")]


def test_on_failure_starts_after_failures_alone_and_counts_them():
    assert _after(_asked("on-failure"), (5, 1), (5, 0)) == [(100, "restart"), (None, "completed")]
    assert _after(_asked("on-failure", 2), *[(5, 7)] * 3) == [
        (100, "restart"),
        (200, "restart"),
        (None, "gave-up"),
    ]
    assert len(_after(_asked("on-failure"), *[(60_000, 7)] * 50)) == 50


def test_an_exit_code_that_nobody_knows_is_tried_once_or_as_often_as_allowed():
    assert [why for _, why in _after(_asked("on-failure"), *[(5, None)] * 2)] == [
        "restart",
        "exit-code-unknown",
    ]
    assert [why for _, why in _after(_asked("on-failure", 3), *[(5, None)] * 4)] == [
        *["restart"] * 3,
        "exit-code-unknown",
    ]


def test_health_restarts_wait_longer_each_time_and_are_limited_visibly():
    restarts, now, waits = policy.Restarts(), 1_000, []
    assert policy.allowed_at(restarts, now) == now
    for _ in range(4):
        restarts = policy.restarted(restarts, now)
        waits.append(policy.allowed_at(restarts, now) - now)
        now += waits[-1]
    assert waits == [10_000, 20_000, 40_000, 80_000]
    assert not policy.limited(restarts, now)
    restarts = policy.restarted(restarts, now)
    assert policy.limited(restarts, now)
    assert policy.allowed_at(restarts, now) == now + 300_000
    assert not policy.limited(restarts, now + 600_000)


def test_ten_healthy_minutes_forgive_health_restarts():
    restarts = policy.restarted(policy.Restarts(), 0)
    assert policy.settled(restarts, 10_000, 609_999) == restarts
    assert policy.settled(restarts, 10_000, 610_000) == policy.Restarts()
    assert policy.settled(restarts, None, 999_999_999) == restarts
