"""One instance: docker's verdicts and restarts, and what is ours beyond them."""

from __future__ import annotations

import itertools
import json
import random
from collections import deque

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from ic.healthd import policy, spec, worker
from tests.healthd import docker

TEST = ("CMD", "true")
ASKED = spec.Spec(name="web", test=TEST)


class One:
    """An instance under a worker, with a clock that is set by hand."""

    def __init__(self, asked: spec.Spec, now: int = 1_000_000) -> None:
        self.asked = asked
        self.now = now
        self.state = worker.State()
        self.calm = True
        self.did: list[worker.Command] = []

    def give(self, event: worker.Event) -> list[worker.Command]:
        self.state, commands = worker.step(self.state, self.asked, event, self.now)
        self.did += commands
        return list(commands)

    def run_to(self, now: int) -> list[worker.Command]:
        """Tick whenever something is due, up to a time."""
        found: list[worker.Command] = []
        for _ in range(1000):
            at = worker.wake(self.state, self.asked)
            if at is None or at > now:
                break
            self.now = max(self.now, at)
            found += self.give(worker.Tick(calm=self.calm))
        else:
            raise AssertionError(f"it does not come to rest: {self.state}")
        self.now = now
        return found

    def running(self, run: str = "one", age_ms: int = 0, **more: object) -> One:
        self.give(worker.Seen(power="running", run=run, age_ms=age_ms, **more))  # pyright: ignore[reportArgumentType]
        return self

    def started(self, by: worker.By = "other") -> One:
        self.give(worker.Seen(power="stopped", run="", ever_started=False))
        self.give(worker.Started(by=by))
        return self

    def respec(self, **changes: object) -> list[worker.Command]:
        before, self.asked = self.asked, msgspec.structs.replace(self.asked, **changes)
        return self.give(worker.Respec(before=before))

    def probe(self, code: int = 0, *, took: int = 1, **more: object) -> list[worker.Command]:
        """Wait for the next probe and answer it."""
        for _ in range(100):
            if self.state.probing:
                break
            at = worker.wake(self.state, self.asked)
            assert at is not None, self.state
            self.run_to(max(at, self.now))
        else:
            raise AssertionError("no probe")
        started = self.now
        self.now += took
        event = worker.Probed(number=self.state.probing, started=started, kind="exit", code=code)
        return self.give(msgspec.structs.replace(event, **more))

    def told(self) -> list[str]:
        return [one.kind for one in self.did if isinstance(one, worker.Tell)]

    def deeds(self) -> list[str]:
        return [one.act for one in self.did if isinstance(one, worker.Do)]


# --- equal to docker ------------------------------------------------------------------------------------


def _verdicts(check: docker.Check, probes: list[docker.Probe]) -> list[docker.Verdict]:
    """What the worker makes of the same probes."""
    asked = spec.Spec(
        name="web",
        test=TEST,
        interval_ms=check.interval,
        retries=check.retries,
        start_period_ms=check.start_period,
        start_interval_ms=check.start_interval,
        on_unhealthy="none",
    )
    one = One(asked).started()
    begin = one.now
    found: list[docker.Verdict] = []
    for probe in probes:
        one.probe(0 if probe.good else 1, took=probe.took)
        started = one.now - probe.took - begin
        found.append(docker.Verdict(started, one.state.status, one.state.streak))
    return found


CHECKS = st.builds(
    docker.Check,
    interval=st.sampled_from([1, 999, 1_000, 7_000, 30_000]),
    retries=st.integers(1, 5),
    start_period=st.sampled_from([0, 1, 4_999, 10_000, 61_000]),
    start_interval=st.sampled_from([1, 900, 5_000, 20_000]),
)
PROBES = st.lists(
    st.builds(docker.Probe, good=st.booleans(), took=st.sampled_from([0, 1, 700, 6_000, 30_000])),
    min_size=1,
    max_size=25,
)


@hypothesis.settings(max_examples=300)
@hypothesis.given(CHECKS, PROBES)
def test_verdicts_are_dockers(check: docker.Check, probes: list[docker.Probe]):
    # Silence is ours alone: nothing is silent here, as every probe gives a verdict in time.
    assert _verdicts(check, probes) == docker.verdicts(check, probes)


def test_10_000_random_traces_are_dockers():
    chance = random.Random(20_261_123)
    for _ in range(10_000):
        check = docker.Check(
            interval=chance.choice((1, 1_000, 7_000, 30_000)),
            retries=chance.randint(1, 4),
            start_period=chance.choice((0, 1, 5_000, 12_345, 61_000)),
            start_interval=chance.choice((1, 900, 5_000, 20_000)),
        )
        odds = chance.random()
        probes = [
            docker.Probe(chance.random() < odds, chance.choice((0, 1, 700, 30_000)))
            for _ in range(chance.randint(1, 12))
        ]
        assert _verdicts(check, probes) == docker.verdicts(check, probes), (check, probes)


def _pauses(restart: spec.Policy, limit: int, runs: list[docker.Run]) -> list[int | None]:
    """What the worker makes of the same runs; a person starts what stays stopped."""
    one = One(spec.Spec(name="web", restart=restart, restart_limit=limit)).started()
    found: list[int | None] = []
    for run in runs:
        one.run_to(one.now + run.lasted)
        if run.code is None:
            one.give(worker.Ended(by="other"))
        elif [type(c) for c in one.give(worker.Ended())] == [worker.ReadCode]:
            one.give(worker.Exited(code=run.code))
        ended, before = one.now, len(one.deeds())
        at = one.state.start_at
        if at is None:
            one.run_to(one.now + 3_600_000)
            assert len(one.deeds()) == before
            found.append(None)
            one.give(worker.Started(by="other"))
            continue
        one.run_to(at)
        assert one.deeds()[before:] == ["start"]
        found.append(one.now - ended)
        one.give(worker.Started(by="me"))
        one.give(worker.Acted(act="start", outcome="done"))
    return found


POLICIES = ("always", "unless-stopped", "on-failure", "no", "")


@pytest.mark.parametrize("restart", POLICIES)
def test_2_000_random_lives_for_each_policy_are_dockers(restart: spec.Policy):
    chance = random.Random(f"lives {restart}")
    for _ in range(2_000):
        limit = chance.choice((0, 0, 1, 3)) if restart == "on-failure" else 0
        runs = [
            docker.Run(
                chance.choice((0, 5, 9_999, 10_000, 70_000)), chance.choice((0, 1, 1, 137, None))
            )
            for _ in range(chance.randint(1, 12))
        ]
        assert _pauses(restart, limit, runs) == docker.pauses(restart, limit, runs), runs


# --- the schedule ----------------------------------------------------------------------------------------


def test_probes_have_no_drift_over_a_day():
    asked = spec.Spec(name="web", test=TEST, interval_ms=30_000)
    one = One(asked).started()
    begin = one.now
    for _ in range(2_880):
        one.probe(took=0)
    assert one.now - begin == 86_400_000


def test_instances_that_ran_already_are_probed_at_different_times():
    dues = {
        One(spec.Spec(name=f"web-{number}", test=TEST)).running(age_ms=3_600_000).state.due or 0
        for number in range(100)
    }
    assert len(dues) > 95
    assert min(dues) > 1_000_000
    assert max(dues) <= 1_030_000
    spread = sorted(dues)
    assert max(b - a for a, b in itertools.pairwise(spread)) < 3_000


def test_after_a_gap_what_is_overdue_is_spread_and_streaks_are_kept():
    ones = [One(spec.Spec(name=f"web-{number}", test=TEST)).running() for number in range(50)]
    for one in ones:
        one.probe(1)
        one.now += 300_000
        one.give(worker.Gap())
    dues = sorted((one.state.due or 0) - one.now for one in ones)
    assert dues[0] >= 0
    assert dues[-1] <= 30_000
    assert len(set(dues)) > 45
    assert {(one.state.streak, one.state.status) for one in ones} == {(1, "starting")}
    for one in ones:
        assert not [c for c in one.run_to(one.now) if isinstance(c, worker.Tell)]


def test_a_probe_of_the_run_before_is_not_counted():
    one = One(spec.Spec(name="web", test=TEST, retries=1)).started()
    number = next(c.number for c in one.run_to(one.now + 30_000) if isinstance(c, worker.Probe))
    one.give(worker.Started(by="other"))
    one.give(worker.Probed(number=number, started=one.now, kind="exit", code=1))
    assert one.state.status == "starting"


# --- verdicts that are ours -------------------------------------------------------------------------------


def test_a_probe_that_could_not_be_run_is_no_verdict_and_silence_is_unknown_but_restarts_nothing():
    one = One(spec.Spec(name="web", test=TEST, interval_ms=10_000, retries=1)).started()
    one.probe(0)
    for _ in range(8):
        one.probe(kind="error")
        assert one.state.status == "healthy"
    one.probe(kind="error")
    assert one.state.status == "unknown"
    assert one.told() == ["healthy", "unknown"]
    assert one.deeds() == []
    one.probe(0)
    assert one.state.status == "healthy"


def test_a_command_that_is_not_found_is_a_failure():
    one = One(spec.Spec(name="web", test=TEST, retries=1)).started()
    one.probe(127)
    assert one.state.status == "unhealthy"


def test_frozen_stops_the_timers_and_thawing_sets_them_anew():
    one = One(ASKED).started()
    one.run_to(one.now + 2_000)
    one.give(worker.Wrote(done=True, status="starting"))
    one.give(worker.Frozen())
    assert not [c for c in one.run_to(one.now + 3_600_000) if not isinstance(c, worker.Write)]
    assert one.state.status == "starting"
    one.give(worker.Thawed())
    assert one.state.due == one.now + 30_000


def test_leaking_probes_are_named_and_stop_probing():
    one = One(ASKED).started()
    for number in range(4):
        one.probe(0, leaked=(f"sleep ({number})",))
    assert one.told().count("probe-leak") == 4
    assert not [c for c in one.run_to(one.now + 80_000) if isinstance(c, worker.Probe)]
    one.give(worker.Started(by="other"))
    one.probe(0)


# --- acting on a verdict ----------------------------------------------------------------------------------


def _unhealthy(asked: spec.Spec) -> One:
    one = One(asked).started()
    one.run_to(one.now + worker.CONFIRM_MS)
    one.give(worker.Seen(power="running", run="one"))
    for _ in range(asked.retries):
        assert one.deeds() == []
        one.probe(1)
    one.run_to(one.now)
    return one


@pytest.mark.parametrize("retries", [1, 2, 5])
def test_a_restart_is_claimed_at_exactly_the_threshold(retries: int):
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=retries))
    assert one.deeds() == ["restart"]
    assert one.told() == ["unhealthy"]


@pytest.mark.parametrize("action", ["restart", "stop", "kill", "none"])
def test_the_action_is_the_asked_one(action: spec.Action):
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, on_unhealthy=action))
    assert one.deeds() == ([] if action == "none" else [action])


def _restarted(one: One, restarts: int, run: str) -> None:
    claim = spec.Claim(restarts=restarts, run=one.state.run, do="restart")
    one.give(worker.Started(by="me"))
    one.give(worker.Acted(act="restart", outcome="done", claim=claim))
    one.give(worker.Seen(power="running", run=run, claim=claim))


def test_a_restart_begins_the_verdict_anew_and_the_next_one_waits():
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, interval_ms=1_000))
    at, waits = one.now, []
    for number in range(5):
        _restarted(one, number + 1, f"run {number}")
        assert (one.state.status, one.state.streak) == ("starting", 0)
        while one.deeds()[number + 1 :] == []:
            one.run_to(worker.wake(one.state, one.asked) or one.now)
            if one.state.probing:
                one.probe(1)
        waits.append(one.now - at)
        at = one.now
        if number == 4:
            break
    assert [round(wait, -4) for wait in waits] == [10_000, 20_000, 40_000, 80_000, 300_000]
    assert one.told().count("restart-limited") == 1


def test_no_restart_is_asked_for_while_the_air_is_not_calm_and_a_success_calls_it_off():
    one = One(spec.Spec(name="web", test=TEST, retries=1)).started()
    one.calm = False
    one.probe(1)
    one.run_to(one.now + 29_000)
    assert one.deeds() == []
    assert one.state.want == "restart"
    one.probe(0)
    one.calm = True
    one.run_to(one.now + 10_000)
    assert one.deeds() == []


def test_somebody_elses_claim_calls_our_restart_off():
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, interval_ms=1_000))
    one.give(worker.Acted(act="restart", outcome="claimed"))
    for _ in range(20):
        one.probe(1)
    assert one.deeds() == ["restart"]
    one.now += worker.THEIRS_MS  # the other one died
    one.probe(1)
    one.run_to(one.now)
    assert one.deeds() == ["restart", "restart"]


def test_another_daemons_restart_is_not_a_persons():
    asked = spec.Spec(name="web", test=TEST, restart="on-failure", restart_limit=3)
    one = One(asked).running()
    one.state = msgspec.structs.replace(one.state, exits=policy.Exits(restarts=2))
    claim = spec.Claim(restarts=1, run="one", do="restart")
    one.give(worker.Seen(power="running", run="one", claim=claim))
    one.give(worker.Started(by="other"))
    assert one.state.exits.restarts == 2
    one.now += worker.THEIRS_MS
    one.give(worker.Started(by="other"))
    assert one.state.exits.restarts == 0


def _claimed(asked: spec.Spec, do: spec.Promise = "restart") -> One:
    """An instance that another daemon has claimed."""
    one = One(asked).running()
    claim = spec.Claim(restarts=1, run="one", do=do, by="another")
    one.give(worker.Seen(power="running", run="one", status="unhealthy", claim=claim))
    return one


@pytest.mark.parametrize("by", ["none", "peer"])
def test_what_another_daemon_restarts_is_started_only_when_that_one_does_not_come_to_it(
    by: worker.By,
):
    asked = msgspec.structs.replace(ASKED, restart="unless-stopped")
    one = _claimed(asked)
    one.give(worker.Ended(by=by))
    assert one.told() == []
    one.run_to(one.now + worker.THEIRS_START_MS - 1)
    assert one.deeds() == []
    one.run_to(one.now + 1)
    assert one.deeds() == ["start"]
    one = _claimed(asked)
    one.give(worker.Ended(by=by))
    one.give(worker.Started(by="peer"))
    one.run_to(one.now + 20_000)
    assert one.deeds() == []


def test_an_end_that_comes_before_its_claim_was_read_is_another_daemons_all_the_same():
    asked = msgspec.structs.replace(ASKED, restart="always")
    for do, deeds in (("restart", ["start"]), ("stop", [])):
        one = One(asked).running()
        one.give(worker.Ended())
        claim = spec.Claim(restarts=1, run="one", do=do, by="another")  # pyright: ignore[reportArgumentType]
        one.give(worker.Seen(power="stopped", run="one", claim=claim))
        one.run_to(one.now + worker.THEIRS_START_MS - 1)
        assert one.deeds() == []
        one.run_to(one.now + 1)
        assert one.deeds() == deeds


@pytest.mark.parametrize("by", ["none", "peer"])
def test_what_another_daemon_stops_for_its_health_stays_stopped(by: worker.By):
    one = _claimed(msgspec.structs.replace(ASKED, restart="always"), "stop")
    one.give(worker.Ended(by=by))
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == []
    assert one.state.stopped_by == "verdict"


def test_a_person_who_stops_what_another_daemon_restarts_is_heard():
    asked = msgspec.structs.replace(ASKED, restart="always")
    for restarted in (True, False):
        one = _claimed(asked)
        if restarted:
            one.give(worker.Started(by="peer", both=True))
        one.give(worker.Ended(by="other"))
        one.run_to(one.now + 3_600_000)
        assert one.deeds() == []
        assert one.state.stopped_by == "person"


def test_nothing_is_written_over_another_daemons_promise():
    one = _claimed(msgspec.structs.replace(ASKED, on_unhealthy="none", retries=1))
    one.give(worker.Seen(power="running", run="one", status="unhealthy", claim=one.state.claim))
    one.probe(0)
    one.run_to(one.now + 5_000)
    assert [each for each in one.did if isinstance(each, worker.Write)] == []
    one.run_to(one.now + worker.THEIRS_MS)
    assert [each.status for each in one.did if isinstance(each, worker.Write)] == ["healthy"]


def test_the_end_of_the_run_before_that_is_told_late_is_not_this_ones():
    asked = msgspec.structs.replace(ASKED, restart="always")
    for by in ("me", "peer"):
        one = One(asked).running()
        one.give(worker.Started(by=by))
        one.give(worker.Seen(power="running", run="two"))
        one.now += 120
        one.give(worker.Ended())
        one.give(worker.Seen(power="running", run="two"))
        one.run_to(one.now + 20_000)
        assert one.deeds() == []
        assert one.state.power == "running"
        assert worker.ReadCode() in one.give(worker.Ended())  # the second one is


def test_an_end_taken_for_the_run_befores_is_found_by_looking():
    one = One(msgspec.structs.replace(ASKED, restart="always")).running()
    one.give(worker.Started(by="peer"))
    one.give(worker.Ended())
    for _ in range(3):
        one.run_to(one.now + worker.MISSING_MS)
        one.give(worker.Seen(power="stopped", run="two"))
    one.run_to(one.now + 100)
    assert one.deeds() == ["start"]


def test_a_server_that_restarts_in_one_owes_no_end():
    for first in ("look", "event"):
        one = One(msgspec.structs.replace(ASKED, restart="always")).running()
        if first == "look":
            one.give(worker.Seen(power="running", run="two"))
        one.give(worker.Started(by="me", both=True))
        one.now += 500
        assert worker.ReadCode() in one.give(worker.Ended())


def test_a_restart_that_is_answered_before_its_events_is_not_started_again():
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, restart="unless-stopped"))
    one.give(worker.Ended())  # it was broken off: the server tells of an exit
    one.now += 800
    claim = spec.Claim(restarts=1, run="one", do="restart")
    one.give(worker.Acted(act="restart", outcome="done", claim=claim))
    one.give(worker.Started(by="me"))
    one.run_to(one.now + 5_000)
    assert one.deeds() == ["restart"]


@pytest.mark.parametrize("restart", POLICIES)
def test_what_ends_before_it_could_be_claimed_has_exited(restart: spec.Policy):
    asked = spec.Spec(name="web", test=TEST, retries=1, restart=restart)
    one = _unhealthy(msgspec.structs.replace(asked, on_unhealthy="restart"))
    one.give(worker.Ended())
    one.give(worker.Acted(act="restart", outcome="refused", detail="not running"))
    one.give(worker.Exited(code=1))
    one.run_to(one.now + 1_000)
    again = restart in ("always", "unless-stopped", "on-failure")
    assert one.deeds() == ["restart", *["start"] * again]


def test_what_ends_while_another_daemon_claims_it_is_that_ones():
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, restart="always"))
    one.give(worker.Ended())
    one.give(worker.Acted(act="restart", outcome="claimed"))
    one.run_to(one.now + worker.THEIRS_START_MS - 200)
    assert one.deeds() == ["restart"]
    one.run_to(one.now + 1_000)
    assert one.deeds() == ["restart", "start"]


def test_a_person_who_stops_it_in_the_middle_of_a_restart_is_heard():
    one = _unhealthy(spec.Spec(name="web", test=TEST, retries=1, restart="always"))
    one.give(worker.Ended(by="other"))
    claim = spec.Claim(restarts=1, run="one", do="restart", by="me")
    one.give(worker.Acted(act="restart", outcome="refused", claim=claim))
    one.give(worker.Seen(power="stopped", run="one", claim=claim))
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == ["restart"]
    assert one.state.stopped_by == "person"


def test_what_is_stopped_for_its_health_stays_stopped():
    asked = spec.Spec(name="web", test=TEST, retries=1, on_unhealthy="stop", restart="always")
    for answer_first in (True, False):
        one = _unhealthy(asked)
        claim = spec.Claim(restarts=1, run="one", do="stop")
        events = [worker.Ended(by="me"), worker.Acted(act="stop", outcome="done", claim=claim)]
        for event in reversed(events) if answer_first else events:
            one.give(event)
        one.run_to(one.now + 3_600_000)
        assert one.deeds() == ["stop"]
        assert one.state.stopped_by == "verdict"


def test_what_is_killed_for_its_health_is_an_exit_that_its_policy_judges():
    asked = spec.Spec(name="web", test=TEST, retries=1, on_unhealthy="kill", restart="on-failure")
    one = _unhealthy(asked)
    assert worker.ReadCode() in one.give(worker.Ended(by="me"))
    one.give(worker.Acted(act="kill", outcome="done", claim=spec.Claim(restarts=1, run="one")))
    one.give(worker.Exited(code=137))
    one.run_to(one.now + 100)
    assert one.deeds() == ["kill", "start"]


# --- who stopped it: policy x way x daemon here or away ---------------------------------------------------

# (policy, way) -> whether it runs again. `person`: with a requestor; `ic`: want=stopped; `exit 0`, `exit 1`,
# `exit ?`: by itself. Away: the daemon comes back and finds it stopped.
HERE = {
    "": set(),
    "no": set(),
    "always": {"exit 0", "exit 1", "exit ?"},
    "unless-stopped": {"exit 0", "exit 1", "exit ?"},
    "on-failure": {"exit 1", "exit ?"},
}
AWAY = {
    "": set(),
    "no": set(),
    "always": {"person", "exit 0", "exit 1", "exit ?"},
    "unless-stopped": set(),
    "on-failure": set(),
}
WAYS = ("person", "ic", "exit 0", "exit 1", "exit ?")
CODES = {"exit 0": 0, "exit 1": 1, "exit ?": None}


@pytest.mark.parametrize("restart", POLICIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("checked", [True, False])
def test_who_stopped_it_with_the_daemon_here(restart: spec.Policy, way: str, checked: bool):
    one = One(spec.Spec(name="web", restart=restart, test=TEST if checked else ())).running()
    if way == "ic":
        one.respec(want_stopped=True)
    commands = one.give(worker.Ended(by="none" if way in CODES else "other"))
    if worker.ReadCode() in commands:
        one.give(worker.Exited(code=CODES[way]))
    one.run_to(one.now + 3_600_000)
    assert bool(one.deeds()) == (way in HERE[restart])


@pytest.mark.parametrize("restart", POLICIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("again", [True, False])
def test_who_stopped_it_with_the_daemon_away(restart: spec.Policy, way: str, again: bool):
    one = One(spec.Spec(name="web", restart=restart, want_stopped=way == "ic"))
    if again:  # it had a connection before, and lost it
        one.running()
    commands = one.give(worker.Seen(power="stopped", run="one", fresh=True))
    assert (worker.ReadCode() in commands) == (restart == "on-failure" and way != "ic")
    if worker.ReadCode() in commands:
        one.give(worker.Exited(code=CODES.get(way, 143)))
    one.run_to(one.now + 3_600_000)
    assert bool(one.deeds()) == (way in AWAY[restart])
    completed = restart == "on-failure" and way == "exit 0"  # left, as if it had been seen
    if restart in ("unless-stopped", "on-failure") and way != "ic":
        assert one.told() == ([] if completed else ["stopped"])


def test_what_was_killed_while_nobody_watched_has_not_completed_whatever_its_code_says():
    one = One(spec.Spec(name="web", restart="on-failure"))
    one.give(worker.Seen(power="stopped", run="one", fresh=True))
    one.give(worker.Exited(code=0, forced=True))
    assert one.told() == ["stopped"]


def test_the_code_of_what_ended_while_nobody_watched_is_asked_for_until_it_comes_or_is_needless():
    one = One(spec.Spec(name="web", restart="on-failure"))
    one.give(worker.Seen(power="stopped", run="one", fresh=True))
    one.run_to(one.now + worker.CODE_PATIENCE_MS + 1)
    assert one.did.count(worker.ReadCode()) == 2
    one.give(worker.Ended(by="other"))  # a person's: told late
    one.run_to(one.now + 3_600_000)
    assert one.did.count(worker.ReadCode()) == 2
    one = One(spec.Spec(name="web", restart="on-failure"))
    one.give(worker.Seen(power="stopped", run="one", fresh=True))
    one.respec(want_stopped=True)
    one.give(worker.Exited(code=143))
    assert one.told() == []  # ic has taken note of it meanwhile


@pytest.mark.parametrize("restart", POLICIES)
def test_a_person_who_stops_what_has_just_started_is_remembered_when_the_connection_breaks(
    restart: spec.Policy,
):
    one = One(spec.Spec(name="web", restart=restart))
    one.running()
    one.give(worker.Started(by="other"))  # of which run it is shows the next look, that never comes
    one.give(worker.Ended(by="other"))
    one.give(worker.Seen(power="stopped", run="two", fresh=True))
    assert one.run_to(one.now + 3_600_000) == []
    assert one.told() == []


@pytest.mark.parametrize("restart", POLICIES)
def test_what_was_never_started_is_never_started(restart: spec.Policy):
    one = One(spec.Spec(name="web", restart=restart, test=TEST))
    one.give(worker.Seen(power="stopped", run="", ever_started=False, fresh=True))
    assert one.run_to(one.now + 3_600_000) == []


def test_what_was_told_of_before_is_not_told_again():
    one = One(spec.Spec(name="web", restart="unless-stopped", test=TEST))
    claim = spec.Claim(run="one")
    one.give(worker.Seen(power="stopped", run="one", status="stopped", claim=claim))
    assert one.told() == []


@pytest.mark.parametrize("do", ["restart", "start"])
@pytest.mark.parametrize("restart", POLICIES)
def test_a_successor_finishes_what_was_begun(do: str, restart: spec.Policy):
    asked = spec.Spec(name="web", restart=restart, test=TEST)
    claim = msgspec.convert({"restarts": 1, "run": "one", "do": do}, spec.Claim)
    one = One(asked)
    one.give(worker.Seen(power="stopped", run="one", claim=claim))
    one.run_to(one.now + 1_000)
    assert one.deeds() == ["start"]
    other = One(msgspec.structs.replace(asked, want_stopped=True))
    other.give(worker.Seen(power="stopped", run="one", claim=claim))
    other.run_to(other.now + 3_600_000)
    assert other.deeds() == []


def test_a_successor_does_not_restart_what_is_just_being_restarted():
    asked = spec.Spec(name="web", test=TEST, interval_ms=1_000, retries=1, grace_ms=10_000)
    claim = spec.Claim(restarts=1, run="one", do="restart")
    one = One(asked).running(status="unhealthy", claim=claim)
    begin = one.now
    while one.now < begin + 13_000:
        one.probe(1)
    assert one.deeds() == []
    while one.now < begin + 17_000 and not one.deeds():
        one.probe(1)
        one.run_to(one.now)
    assert one.deeds() == ["restart"]


def test_an_old_claim_is_void_after_the_next_start():
    one = One(spec.Spec(name="web", restart="unless-stopped"))
    claim = spec.Claim(restarts=1, run="one", do="restart")
    one.give(worker.Seen(power="stopped", run="two", claim=claim))
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == []


def test_an_exit_is_remembered_before_its_start_where_a_successor_would_not_start_it():
    one = One(spec.Spec(name="web", restart="unless-stopped")).running()
    one.give(worker.Ended())
    assert worker.Write(status="", do="start", why="exited") in one.run_to(one.now)
    other = One(spec.Spec(name="web", restart="always")).running()
    other.give(worker.Ended())
    assert other.run_to(other.now) == []


def test_a_start_that_is_seconds_away_is_promised_so_that_plans_leave_it_alone():
    one = One(spec.Spec(name="web", restart="always")).running()
    written: list[worker.Command] = []
    for _ in range(5):  # pauses of 0.1, 0.2, 0.4, 0.8 and 1.6 s
        assert written == []
        one.give(worker.Ended())
        written = [c for c in one.run_to(one.now + 50) if isinstance(c, worker.Write)]
        one.run_to(one.now + 2_000)
        one.give(worker.Acted(act="start", outcome="done"))
        one.give(worker.Started(by="me"))
    assert written == [worker.Write(status="", do="start", why="exited")]


# --- events that come late, twice or never ------------------------------------------------------------------


def test_a_stop_without_an_event_is_an_exit_after_a_second_look():
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Seen(power="stopped", run="one"))
    assert one.run_to(one.now + worker.MISSING_MS) == [worker.Look()]
    one.give(worker.Seen(power="stopped", run="one"))
    one.run_to(one.now + 100)
    assert one.deeds() == ["start"]


def test_a_persons_stop_whose_event_is_on_its_way_is_not_an_exit():
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Seen(power="stopped", run="one"))
    one.now += 700
    one.give(worker.Ended(by="other"))
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == []


def test_a_start_is_looked_at_once_because_an_early_end_may_not_be_told_of():
    one = One(spec.Spec(name="web", restart="always")).started()
    assert one.run_to(one.now + worker.CONFIRM_MS) == [worker.Look()]
    one.give(worker.Seen(power="running", run="one"))
    assert worker.wake(one.state, one.asked) is None


def test_a_probe_that_finds_nothing_running_looks():
    one = One(ASKED).running()
    one.probe(kind="gone")
    assert worker.Look() in one.run_to(one.now)
    assert one.state.status == "starting"


def test_events_told_twice_count_once():
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Ended())
    once = one.state
    one.give(worker.Ended())
    assert one.state == once


def test_a_start_that_nobody_told_of_is_found():
    one = One(spec.Spec(name="web", restart="always", test=TEST, retries=5)).running()
    one.probe(1)
    one.give(worker.Seen(power="running", run="two"))
    assert (one.state.run, one.state.streak, one.state.status) == ("two", 0, "starting")


def test_running_for_a_moment_after_its_death_is_not_a_start():
    one = One(spec.Spec(name="web", restart="no", test=TEST)).running()
    one.give(worker.Ended())
    one.now += 300
    one.give(worker.Seen(power="running", run="one"))
    assert one.state.power == "stopped"
    one.run_to(one.now + worker.MISSING_MS)
    one.give(worker.Seen(power="stopped", run="one"))
    assert one.state.power == "stopped"


# --- starts that fail, holds, and persons --------------------------------------------------------------------


def test_a_start_in_vain_is_an_exit_like_any_other():
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Ended())
    waits: list[int] = []
    for _ in range(4):
        before = one.now
        while not one.deeds()[len(waits) :]:
            one.run_to(one.now + 10)
        waits.append(one.now - before)
        one.give(worker.Acted(act="start", outcome="failed", detail="no such file"))
    assert waits == [100, 200, 400, 800]
    assert one.told().count("start-failed") == 4


def test_nothing_is_done_to_what_an_apply_holds():
    asked = spec.Spec(name="web", test=TEST, retries=1, restart="always")
    one = One(asked).started()
    one.respec(held="12")
    one.probe(1)
    one.run_to(one.now + 20_000)
    assert not [c for c in one.did if isinstance(c, worker.Do | worker.Write)]
    one.give(worker.Ended())  # a stop by a signal has no requestor
    one.respec(held="")
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == []


def test_a_person_who_stops_what_waits_for_its_start_is_heard():
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Ended())
    one.respec(want_stopped=True)
    one.run_to(one.now + 3_600_000)
    assert one.deeds() == []


@pytest.mark.parametrize(
    "changes", [{"paused": True}, {"daemon": True}, {"test": (), "restart": ""}]
)
def test_what_is_not_watched_is_left_alone(changes: dict[str, object]):
    one = One(spec.Spec(name="web", test=TEST, retries=1, restart="always")).running()
    one.respec(**changes)
    one.give(worker.Ended())
    found = one.run_to(one.now + 3_600_000)
    assert not [c for c in found if isinstance(c, worker.Do | worker.Probe)]


def test_changed_keys_take_effect_at_once():
    one = One(spec.Spec(name="web", test=TEST, interval_ms=3_600_000)).running()
    one.respec(interval_ms=1_000)
    assert one.state.due == one.now + 1_000
    one.probe(1)
    one.respec(test=("CMD", "false"))
    assert one.state.streak == 0
    one.respec(test=())
    assert one.state.status == ""
    one.respec(test=TEST)
    assert one.state.status == "starting"


# --- writing -------------------------------------------------------------------------------------------------


def test_the_status_is_written_on_change_only():
    one = One(ASKED).started()
    writes: list[worker.Write] = []
    for code in (0, 0, 0, 1, 1, 0):
        one.did.clear()
        one.probe(code)
        one.run_to(one.now + 5_000)
        for command in tuple(one.did):
            if isinstance(command, worker.Write):
                writes.append(command)
                claim = spec.Claim(run=one.state.run)
                one.give(worker.Wrote(done=True, status=command.status, claim=claim))
            elif isinstance(command, worker.Look):
                one.give(worker.Seen(power="running", run="one"))
    assert [write.status for write in writes] == ["starting", "healthy"]


def test_nothing_is_written_while_a_person_starts_and_stops():
    one = One(ASKED).running()
    for _ in range(200):
        one.give(worker.Ended(by="other"))
        one.run_to(one.now + 700)
        one.give(worker.Started(by="other"))
        one.run_to(one.now + 900)
    assert not [c for c in one.did if isinstance(c, worker.Write)]


def test_a_write_that_was_refused_is_tried_later_and_later():
    one = One(ASKED).started()
    one.give(worker.Wrote(done=True, status="starting"))
    one.probe(0)
    waits: deque[int] = deque()
    for _ in range(7):
        before = one.now
        while not [c for c in one.run_to(one.now + 1) if isinstance(c, worker.Write)]:
            one.now += 99
        waits.append(one.now - before)
        one.give(worker.Wrote(done=False))
    assert list(waits)[1:] == sorted(list(waits)[1:])
    assert max(waits) <= worker.RETRY_MOST_MS + 100


def test_the_same_word_about_another_run_is_written_again():
    one = One(ASKED).running(status="healthy", claim=spec.Claim(run="one"))
    assert one.state.status == "healthy"
    one.give(worker.Started(by="other"))
    one.run_to(one.now + worker.CONFIRM_MS)
    one.give(worker.Seen(power="running", run="two"))
    assert [c.status for c in one.run_to(one.now + 5_000) if isinstance(c, worker.Write)] == [
        "starting"
    ]


def test_a_status_of_the_run_before_is_not_kept():
    one = One(ASKED).running("two", status="healthy", claim=spec.Claim(run="one"))
    assert one.state.status == "starting"


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.lists(st.integers(0, 11), max_size=40), st.sampled_from(POLICIES))
def test_whatever_happens_in_whatever_order_it_comes_to_rest(
    happenings: list[int], restart: spec.Policy
):
    one = One(spec.Spec(name="web", test=TEST, restart=restart, retries=2))
    runs = iter(range(10_000))
    for happening in happenings:
        events: list[worker.Event] = [
            worker.Seen(power="running", run=str(next(runs) // 3)),
            worker.Seen(power="stopped", run=str(next(runs) // 3), fresh=True),
            worker.Seen(power="frozen", run="x"),
            worker.Started(by="other"),
            worker.Ended(),
            worker.Ended(by="somebody"),
            worker.Exited(code=1),
            worker.Frozen(),
            worker.Thawed(),
            worker.Probed(number=one.state.probing, started=one.now, kind="exit", code=1),
            worker.Acted(act="restart", outcome="failed"),
            worker.Gap(),
        ]
        one.give(events[happening])
        one.run_to(one.now + 5_000)
        if one.state.power == "stopped":
            assert one.state.probing == 0
        assert json.dumps(msgspec.to_builtins(one.state))


# --- what ended before its first watch --------------------------------------------------------------------

EVER = {
    # policy, exit code, forced -> what follows
    ("always", 3, False): "start",
    ("always", 0, False): "start",
    ("always", 137, True): "left",
    ("always", 143, False): "left",
    ("always", None, False): "start",
    ("unless-stopped", 3, False): "start",
    ("unless-stopped", 0, False): "start",
    ("unless-stopped", 137, False): "start",
    ("unless-stopped", 137, True): "left",
    ("unless-stopped", 143, False): "left",
    ("unless-stopped", None, False): "left",
    ("on-failure", 3, False): "start",
    ("on-failure", 0, False): "left",
    ("on-failure", 137, True): "left",
    ("on-failure", 143, False): "left",
    ("on-failure", None, False): "left",
    ("no", 3, False): "left",
}


def first_ever(policy_word: spec.Policy, **changes: object) -> One:
    """ic started it five seconds ago, it has ended, and no daemon was there before."""
    asked = spec.Spec(name="web", restart=policy_word, want_running=True)
    one = One(msgspec.structs.replace(asked, **changes))
    one.give(worker.Seen(power="stopped", run="one", age_ms=5_000, fresh=True))
    return one


@pytest.mark.parametrize(("row", "expected"), EVER.items())
def test_what_ended_before_its_first_watch_is_an_exit_unless_somebody_stopped_it(
    row: tuple[spec.Policy, int | None, bool], expected: str
) -> None:
    word, code, forced = row
    one = first_ever(word)
    assert any(isinstance(c, worker.ReadCode) for c in one.did) == (word != "no")
    one.give(worker.Exited(code=code, forced=forced))
    one.run_to(one.now + 60_000)
    assert one.deeds() == (["start"] if expected == "start" else [])
    if word != "no" and expected == "left":
        assert one.told() == (["exit"] if code == 0 else ["stopped"])


def test_it_counts_as_an_exit_for_on_failure() -> None:
    one = first_ever("on-failure", restart_limit=1)
    one.give(worker.Exited(code=3))
    one.run_to(one.now + 200)
    one.give(worker.Acted(act="start", outcome="done"))
    one.give(worker.Started(by="me"))
    one.now += 1_000
    one.give(worker.Ended())
    one.give(worker.Exited(code=3))
    one.run_to(one.now + 60_000)
    assert one.deeds() == ["start"]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"want_running": False}, {}),  # made by hand: nobody says that it should run
        ({"want_running": False, "want_stopped": True}, {}),
        ({}, {"age_ms": worker.YOUNG_MS + 1}),
        ({}, {"claim": spec.Claim(run="zero")}),  # a daemon was there before
    ],
)
def test_what_may_have_been_watched_or_is_not_ics_is_left_as_before(
    changes: dict[str, object], seen: dict[str, object]
) -> None:
    asked = spec.Spec(name="web", restart="unless-stopped", want_running=True)
    one = One(msgspec.structs.replace(asked, **changes))
    event = worker.Seen(power="stopped", run="one", age_ms=5_000, fresh=True)
    one.give(msgspec.structs.replace(event, **seen))
    assert not any(isinstance(c, worker.ReadCode) for c in one.did)
    one.run_to(one.now + 60_000)
    assert one.deeds() == []


def test_whoever_stops_it_while_its_code_is_read_is_heard() -> None:
    one = first_ever("always")
    one.give(worker.Ended(by="other"))  # subscribed first, listed then: the event was under way
    one.give(worker.Exited(code=3))
    one.run_to(one.now + 60_000)
    assert one.deeds() == []
    one = first_ever("always")
    one.respec(want_running=False, want_stopped=True)
    one.give(worker.Exited(code=3))
    one.run_to(one.now + 60_000)
    assert one.deeds() == []


def test_a_code_that_does_not_come_is_asked_for_again() -> None:
    one = first_ever("on-failure")
    one.run_to(one.now + worker.CODE_PATIENCE_MS + 1)
    assert sum(isinstance(c, worker.ReadCode) for c in one.did) == 2


def test_that_it_was_watched_is_written_once_also_without_a_check() -> None:
    one = One(spec.Spec(name="web", restart="always", want_running=True)).running(age_ms=500)
    one.run_to(one.now + 1_400)
    assert one.did == []
    one.run_to(one.now + 200)
    assert one.did == [worker.Write(status="")]
    one.give(worker.Wrote(done=True, claim=spec.Claim(run="one")))
    one.run_to(one.now + 60_000)
    one.give(worker.Ended())
    one.run_to(one.now + 200)
    one.give(worker.Started(by="me"))
    one.give(worker.Seen(power="running", run="two"))
    one.run_to(one.now + 60_000)
    assert sum(isinstance(c, worker.Write) for c in one.did) == 1


# --- what is not to be told, and signals from inside ---------------------------------------------------------


def test_a_look_in_vain_is_repeated_later_and_later_and_the_next_begins_anew() -> None:
    one = One(spec.Spec(name="web", restart="always")).running()
    one.give(worker.Unread())
    looks: list[int] = []
    for _ in range(8):
        at = worker.wake(one.state, one.asked)
        assert at is not None
        looks.append(at - one.now)
        assert one.run_to(at) == [worker.Look()]
        one.give(worker.Unread())
    assert looks == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    one.give(worker.Seen(power="running", run="one"))
    one.give(worker.Unread())
    assert worker.wake(one.state, one.asked) == one.now + 1_000


def test_what_ends_on_a_signal_from_inside_is_our_doing_and_no_exit() -> None:
    asked = msgspec.structs.replace(
        ASKED, retries=1, signal="SIGTERM", restart="on-failure", interval_ms=1_000
    )
    one = One(asked).running()
    one.probe(1)
    one.run_to(one.now + 20_000)
    assert one.deeds() == ["restart"]
    one.did.clear()
    one.give(worker.Ended())  # the server sees an exit
    assert one.did == []
    one.give(worker.Started(by="me"))
    one.give(worker.Acted(act="restart", outcome="done", claim=spec.Claim(restarts=1)))
    assert one.state.exits == policy.Exits()
    assert one.told() == []
    one.run_to(one.now + 500)
    assert one.deeds() == []


def test_an_exit_soon_after_such_a_restart_is_an_exit() -> None:
    asked = msgspec.structs.replace(ASKED, retries=1, signal="SIGTERM", restart="always")
    one = One(asked).running()
    one.probe(1)
    one.run_to(one.now + 40_000)
    one.give(worker.Ended())
    one.give(worker.Started(by="me"))
    one.give(worker.Acted(act="restart", outcome="done", claim=spec.Claim(restarts=1)))
    one.now += 1_000
    assert worker.ReadCode() in one.give(worker.Ended())
