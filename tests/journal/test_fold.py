"""Fold: what was applied, from events alone; deterministic, total, and the same from any snapshot."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.journal import events, fold, redact
from ic.resources import kind
from tests.journal import logs

KEY = b"k" * 32
WEB = "instance:web/1"


def intent(n: int, event: str, record: kind.Record, address: str = WEB) -> events.Intent:
    """An intent with a record."""
    return events.Intent(n=n, kind=event, address=address, effect=redact.effect(record, KEY))


def ok(n: int, of: int, status: str = "ok", **result: object) -> events.Outcome:
    """An outcome."""
    return events.Outcome(n=n, intent=of, status=status, result=dict(result))


RUN = events.Run(n=1, run="aa", generation=7)
CREATE = intent(
    2,
    "inst.create",
    kind.Record(
        name="web",
        pool="default",
        fields={("config", "limits.cpu"): "1", ("config", "environment.A"): "x"},
        facts={"digest": "sha256:1"},
        power="running",
    ),
)


def test_an_intent_alone_changes_nothing_and_is_in_doubt() -> None:
    state = fold.fold([RUN, CREATE])
    assert state.resources == {}
    (doubt,) = state.doubts()
    assert (doubt.n, doubt.stamp, doubt.event, doubt.name) == (2, "7/2", "inst.create", "web")
    assert doubt.fields[("config", "environment.A")] == fold.Digest(redact.digest(KEY, "x"))


def test_an_outcome_applies_everything_that_the_intent_said() -> None:
    state = fold.fold([RUN, CREATE, ok(3, 2, fingerprint="f1")])
    assert state.resources == {
        WEB: fold.RecordedResource(
            address=WEB,
            name="web",
            pool="default",
            fields={
                ("config", "limits.cpu"): "1",
                ("config", "environment.A"): fold.Digest(redact.digest(KEY, "x")),
            },
            facts={"digest": "sha256:1", "fingerprint": "f1"},
            power="running",
            event="7/2",
        )
    }
    assert state.doubts() == ()


def test_updates_accumulate_and_unset_removes() -> None:
    update = intent(
        4,
        "inst.update",
        kind.Record(fields={("config", "limits.memory"): "9"}, unset=(("config", "limits.cpu"),)),
    )
    state = fold.fold([RUN, CREATE, ok(3, 2), update, ok(5, 4)])
    web = state.resources[WEB]
    assert set(web.fields) == {("config", "environment.A"), ("config", "limits.memory")}
    assert (web.name, web.power, web.event) == ("web", "running", "7/4")


def test_creating_again_starts_anew() -> None:
    again = intent(4, "inst.create", kind.Record(name="web", fields={("config", "a"): "b"}))
    state = fold.fold([RUN, CREATE, ok(3, 2), again, ok(5, 4)])
    assert set(state.resources[WEB].fields) == {("config", "a")}


def test_gone_removes() -> None:
    gone = intent(4, "inst.delete", kind.Record(gone=True))
    assert fold.fold([RUN, CREATE, ok(3, 2), gone, ok(5, 4)]).resources == {}
    assert fold.fold([RUN, CREATE, ok(3, 2), gone, ok(5, 4, "superseded")]).resources == {}


@pytest.mark.parametrize("status", ["err", "skip", "undone", "superseded"])
def test_what_was_not_done_is_not_recorded(status: str) -> None:
    state = fold.fold([RUN, CREATE, ok(3, 2, status)])
    assert state.resources == {}
    assert state.doubts() == ()


def test_unknown_results_and_kinds_mark_what_they_touched() -> None:
    update = intent(4, "inst.exec", kind.Record())
    assert fold.fold([RUN, CREATE, ok(3, 2), update, ok(5, 4, "unknown")]).resources[WEB].unknown
    other = events.Other(n=4, kind="acl.attach", address=WEB)
    assert fold.fold([RUN, CREATE, ok(3, 2), other]).resources[WEB].unknown


def test_an_effect_of_a_later_form_marks_its_address() -> None:
    odd = events.Intent(n=4, kind="inst.update", address=WEB, effect={"set": [1, 2]})
    assert fold.fold([RUN, CREATE, ok(3, 2), odd, ok(5, 4)]).resources[WEB].unknown


def test_a_gap_empties_the_state() -> None:
    gap = events.Gap(n=4, last=20, chain="c")
    state = fold.fold([RUN, CREATE, ok(3, 2), gap])
    assert (state.resources, state.open, state.sequence) == ({}, {}, 20)


def test_only_the_first_outcome_counts() -> None:
    state = fold.fold([RUN, CREATE, ok(3, 2, "undone"), ok(4, 2, "ok")])
    assert state.resources == {}


@given(st.lists(logs.TEXT, min_size=1, max_size=4).map(tuple))
def test_paths_come_back_from_their_text(path: kind.Path) -> None:
    assert fold.path_of(fold.path_text(path)) == path


@given(logs.logs())
def test_fold_is_the_same_from_a_snapshot_at_any_position(log: list[events.AnyEvent]) -> None:
    whole = fold.fold(log)
    for position in range(1, len(log) + 1):
        taken = fold.snapshot(fold.fold(log[:position]), lineage="l", chain="c")
        text = fold.encode_snapshot(taken)
        assert text.isascii()
        resumed = fold.fold(log[position:], fold.restore(fold.decode_snapshot(text)))
        assert resumed.resources == whole.resources
        assert resumed.doubts() == whole.doubts()
        assert resumed.digest() == whole.digest()
        assert (resumed.sequence, resumed.generation) == (whole.sequence, whole.generation)


@given(logs.logs())
def test_settling_in_memory_is_what_writing_it_would_do(log: list[events.AnyEvent]) -> None:
    state = fold.fold(log)
    statuses: list[events.Status] = ["ok", "undone", "superseded", "unknown"]
    verdicts = tuple(
        fold.Verdict(n=doubt.n, address=doubt.address, event=doubt.event, status=statuses[i % 4])
        for i, doubt in enumerate(state.doubts())
    )
    recorded = fold.Recorded(resources=dict(state.resources), doubts=state.doubts())
    settled = fold.settled(recorded, verdicts)
    written = fold.fold(
        [
            events.Outcome(n=len(log) + 1 + i, intent=verdict.n, status=verdict.status)
            for i, verdict in enumerate(verdicts)
        ],
        state,
    )
    assert settled.resources == written.resources
    assert settled.doubts == ()


@given(logs.logs(), st.data())
def test_a_snapshot_that_was_changed_is_refused(
    log: list[events.AnyEvent], data: st.DataObject
) -> None:
    taken = fold.snapshot(fold.fold(log), lineage="l", chain="c")
    if not taken.resources:
        return
    other = msgspec.structs.replace(taken, resources=taken.resources[1:])
    with pytest.raises(ValueError, match="digest"):
        fold.restore(other)


def test_a_snapshot_of_another_fold_version_is_not_used() -> None:
    taken = fold.snapshot(fold.State(), lineage="l", chain="c")
    text = fold.encode_snapshot(msgspec.structs.replace(taken, version=fold.VERSION + 1))
    with pytest.raises(ValueError, match="another fold version"):
        fold.decode_snapshot(text)
