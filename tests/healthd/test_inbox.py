"""Lanes run their jobs in order, so many at a time, and post one answer each."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from ic import errors
from ic.healthd import inbox


def test_a_lane_of_one_answers_in_order() -> None:
    posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane = inbox.Lane("one", 1, posted.put)
    for number in range(20):
        lane.put(lambda number=number: number)
    assert [posted.get(timeout=5) for _ in range(20)] == list(range(20))
    assert len(lane.threads) == 1
    lane.close()


def test_a_lane_makes_no_more_threads_than_its_size_and_none_that_is_not_needed() -> None:
    posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane = inbox.Lane("three", 3, posted.put)
    assert not lane.threads
    go = threading.Event()
    for _ in range(10):
        lane.put(lambda: go.wait(5))
    assert len(lane.threads) == 3
    go.set()
    assert [posted.get(timeout=5) for _ in range(10)] == [True] * 10
    lane.close()


def test_a_job_that_raises_is_a_fault_and_the_lane_goes_on() -> None:
    posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane = inbox.Lane("one", 1, posted.put)
    lane.put(lambda: 1 // 0)
    lane.put(lambda: "next")
    fault = posted.get(timeout=5)
    assert isinstance(fault, inbox.Fault)
    assert isinstance(fault.error, ZeroDivisionError)
    assert posted.get(timeout=5) == "next"
    lane.close()


def test_a_closed_lane_ends_what_runs_and_throws_away_what_waits() -> None:
    posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
    lane = inbox.Lane("one", 1, posted.put)
    begun, go = threading.Event(), threading.Event()

    def first() -> str:
        begun.set()
        go.wait(5)
        return "first"

    lane.put(first)
    lane.put(lambda: "never")
    assert begun.wait(5)
    lane.close()
    go.set()
    for thread in lane.threads:
        thread.join(5)
        assert not thread.is_alive()
    assert posted.get(timeout=5) == "first"
    assert posted.empty()


@pytest.mark.parametrize(
    ("error", "ends", "doubt"),
    [
        (errors.Forbidden("no"), True, False),
        (errors.Untrusted("no"), True, False),
        (errors.Forbidden("no", code="E_RESTRICTED"), False, False),
        (errors.NotFound("no"), False, False),
        (errors.Unreachable("no"), False, True),
        (errors.TimedOut("no"), False, True),
    ],
)
def test_only_a_refusal_ends_all_work(error: errors.IncusError, ends: bool, doubt: bool) -> None:
    fault = inbox.refusal(error)
    assert (fault is not None and fault.error is error) == ends
    assert inbox.doubtful(error) == doubt
