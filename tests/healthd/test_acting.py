"""A claim is one daemon's; what a person or a run wants stands; what was promised is not written over."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ic import errors, names
from ic.healthd import acting, inbox, spec, watched, worker
from tests.healthd import standin

CHECK = '["CMD","x"]'


class Bench:
    """One instance that is checked, and the acts of one daemon on it."""

    def __init__(self) -> None:
        self.server = standin.Server()
        self.web = self.server.add("web", test=CHECK, restart="always")
        self.client = standin.Client(self.server, "f" * 64)
        self.said: list[str] = []
        self.void: set[str] = set()
        self.acting = acting.Acting(
            self.client,
            lambda entry, told: self.said.append(told.kind),
            me="f" * 64,
            cancel=threading.Event(),
            void=self.void,
        )
        self.entry = watched.Entry("web", spec.read("web", self.web.config))

    def do(self, act: worker.Act = "restart", **more: Any) -> worker.Acted:
        answer = self.acting.claim_and_act(self.entry, worker.Do(act=act, why="unhealthy", **more))
        assert isinstance(answer, inbox.Answer)
        assert isinstance(answer.event, worker.Acted)
        return answer.event


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_restart_is_claimed_first_under_the_beginning_of_the_daemons_name(bench: Bench) -> None:
    run = bench.web.last_used_at
    done = bench.do()
    claim = standin.claim(bench.server, "web")
    assert (done.outcome, claim.restarts, claim.run) == ("done", 1, run)
    assert claim.by == "f" * acting.NAME_KEPT
    assert bench.server.calls.index("patch") < bench.server.calls.index("restart")
    assert bench.web.config[names.HEALTH_STATUS] == "unhealthy"
    assert bench.said == ["restart"]


def test_who_comes_second_acts_not(bench: Bench) -> None:
    assert bench.do().outcome == "done"
    assert bench.do().outcome == "claimed"
    assert bench.server.calls.count("restart") == 1


def test_another_run_than_the_one_that_failed_is_left_alone(bench: Bench) -> None:
    assert bench.do(run="2020-01-01T00:00:00Z").outcome == "claimed"
    assert "restart" not in bench.server.calls


@pytest.mark.parametrize(
    ("key", "value"), [(names.WANT, "stopped"), (names.HELD, "7"), (names.HEALTH_STOPPED, "true")]
)
def test_what_a_person_or_a_run_wants_stands(bench: Bench, key: str, value: str) -> None:
    bench.web.config[key] = value
    refused = bench.do()
    assert (refused.outcome, refused.detail) == ("refused", "left alone")
    assert "patch" not in bench.server.calls


def test_a_hold_that_counts_no_more_holds_nothing_back(bench: Bench) -> None:
    bench.web.config[names.HELD] = "7"
    bench.void.add("7")
    assert bench.do().outcome == "done"


def test_what_is_stopped_or_being_restarted_is_not_claimed(bench: Bench) -> None:
    bench.web.busy = "restart"
    assert bench.do().detail == "busy"
    bench.web.busy, bench.web.status = "", "Stopped"
    assert bench.do().detail == "not running"
    assert "patch" not in bench.server.calls


def test_a_lost_swap_is_tried_again_while_the_claim_is_free(bench: Bench) -> None:
    tries: list[str] = []

    def change(call: str) -> None:
        if call == "patch" and not tries:
            tries.append(call)
            bench.web.version += 1

    bench.client.before = change
    assert bench.do().outcome == "done"
    assert bench.server.calls.count("patch") == 2


def test_a_claim_that_a_write_would_go_over_is_kept(bench: Bench) -> None:
    state = worker.State(power="running", run=bench.web.last_used_at)
    bench.web.config[names.HEALTH] = spec.claim_text(spec.Claim(restarts=1, do="restart"))
    command = worker.Write(status="healthy")
    answer = bench.acting.write(bench.entry, command, state)
    assert answer == inbox.Answer("web", worker.Wrote(done=False))
    assert standin.claim(bench.server, "web").do == "restart"
    assert bench.acting.writes == 0


def test_a_write_brings_status_line_and_claim_in_one(bench: Bench) -> None:
    state = worker.State(power="running", run=bench.web.last_used_at)
    command = worker.Write(status="healthy", line="all \x1b[1mwell")
    answer = bench.acting.write(bench.entry, command, state)
    assert isinstance(answer, inbox.Answer)
    assert isinstance(answer.event, worker.Wrote)
    assert answer.event.done
    assert bench.web.config[names.HEALTH_STATUS] == "healthy"
    assert "\x1b" not in bench.web.config[names.HEALTH_OUTPUT]
    assert bench.server.calls.count("patch") == bench.acting.writes == 1
    assert bench.entry.unexpect()  # its echo is owed


def test_a_refusal_ends_all_work_and_a_lost_server_is_a_doubt(bench: Bench) -> None:
    bench.server.up = False
    answer = bench.acting.claim_and_act(bench.entry, worker.Do(act="restart", why="unhealthy"))
    assert isinstance(answer, inbox.Answer)
    assert answer.doubt
    bench.server.up, bench.server.untrusted = True, True
    fault = bench.acting.claim_and_act(bench.entry, worker.Do(act="restart", why="unhealthy"))
    assert isinstance(fault, inbox.Fault)
    assert isinstance(fault.error, errors.Forbidden)


@pytest.mark.parametrize(
    ("act", "policy", "promise"),
    [
        ("restart", "always", "restart"),
        ("stop", "always", "stop"),
        ("kill", "always", "restart"),
        ("kill", "no", ""),
        ("kill", "", ""),
    ],
)
def test_a_successor_finishes_what_was_promised(
    bench: Bench, act: worker.Act, policy: str, promise: str
) -> None:
    bench.web.config[names.RESTART] = policy
    bench.do(act)
    assert standin.claim(bench.server, "web").do == promise
