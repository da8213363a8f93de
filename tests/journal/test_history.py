"""History: runs newest first, each with its steps, how they ended, and who found out."""

from __future__ import annotations

import msgspec
import pytest

from ic import errors, names
from ic.journal import events, fold, history, lease, lines, pages
from tests.journal import logs, stage
from tests.journal import server as fakes

T = 1_763_793_600_123


def told(log: list[events.AnyEvent], held: int = 0) -> tuple[history.HistoryRun, ...]:
    """The runs of a log, with the lease held at a generation."""
    config = logs.config_of(log)
    profiles: dict[str, dict[str, str]] = {}
    if held:
        name = lease.name_for("shop", held, "cafebabe")
        profiles[name] = {
            names.HOLD: lease.encode_holder(lease.Holder(pid=1)),
            names.GENERATION: str(held),
        }
    journal = pages.read("shop", config, profiles)
    assert journal.state == "ok"
    return history.runs(journal)


LOG: list[events.AnyEvent] = [
    events.Run(n=1, t=T, run="aaaa0001", generation=0, command="apply", actor="0@host"),
    events.Intent(n=2, t=T, kind="proj.create", address="project:shop"),
    events.Outcome(n=3, t=T, intent=2, status="ok"),
    events.Run(n=4, t=T + 5, run="aaaa0001", generation=1, command="apply", actor="0@host"),
    events.Intent(n=5, t=T + 6, kind="inst.create", address="instance:web/1"),
    events.Intent(n=6, t=T + 7, kind="inst.create", address="instance:web/2"),
    events.Outcome(n=7, t=T + 8, intent=5, status="ok", ms=812),
    events.Outcome(n=8, t=T + 9, intent=6, status="err", ms=3, error="E_API", text="no space"),
    events.End(n=9, t=T + 1000, run="aaaa0001", status="failed"),
]
CUT: list[events.AnyEvent] = [
    *LOG,
    events.Run(n=10, t=T + 2000, run="bbbb0002", generation=2, command="up", actor="7@there"),
    events.Intent(n=11, t=T + 2001, kind="inst.start", address="instance:web/1"),
]


def test_a_run_in_full() -> None:
    (run,) = told(LOG)
    assert run == history.HistoryRun(
        run="aaaa0001",
        generation=1,
        command="apply",
        actor="0@host",
        started="2025-11-22T06:40:00.123Z",
        ended="2025-11-22T06:40:01.123Z",
        status="failed",
        counts={"create": 2, "failed": 1},
        events=run.events,
    )
    assert [event.n for event in run.events] == [2, 5, 6]
    assert run.events[1] == history.Event(
        n=5,
        time="2025-11-22T06:40:00.129Z",
        kind="inst.create",
        address="instance:web/1",
        phase="done",
        status="ok",
        ms=812,
    )
    assert (run.events[2].status, run.events[2].error) == ("err", "E_API no space")


def test_a_run_without_an_end_is_running_while_its_generation_is_held() -> None:
    for held, status in ((0, "interrupted"), (2, "running"), (3, "interrupted")):
        newest, oldest = told(CUT, held)
        assert (newest.run, newest.status, newest.ended) == ("bbbb0002", status, None)
        assert (newest.counts, newest.events[0].phase) == ({"open": 1}, "intent")
        assert oldest.status == "failed"


def test_recovered_outcomes_stand_in_the_run_that_meant_them() -> None:
    log = [
        *CUT,
        events.Run(n=12, t=T + 3000, run="cccc0003", generation=3, command="apply"),
        events.Steal(
            n=13, t=T, generation=3, of=2, holder="7@there", reason="its process 9 is gone"
        ),
        events.Recover(n=14, t=T, run="cccc0003", intents=(11,)),
        events.Outcome(n=15, t=T, intent=11, status="undone", text="it does not run"),
        events.End(n=16, t=T + 3500, run="cccc0003", status="ok"),
    ]
    newest, cut, _ = told(log)
    assert cut.status == "interrupted"
    (start,) = cut.events
    assert (start.phase, start.status, start.error) == ("done", "undone", "it does not run")
    assert start.recovered_by == "cccc0003"
    (steal,) = newest.events
    assert steal.kind == "lock.steal"
    assert steal.error == "taken from 7@there (generation 2): its process 9 is gone"


def test_lost_lines_and_unknown_kinds_are_told() -> None:
    log: list[events.AnyEvent] = [
        events.Gap(n=1, t=T, last=40, chain="00", reason="damaged"),
    ]
    config = {
        **logs.config_of(LOG),
        pages.segment_key(1): events.encode(log[0]).decode(),
        names.HEAD: events.encode_head(
            events.Head(lineage="0a0b0c0d0e0f", sequence=40, chain="00")
        ),
    }
    (lost,) = history.runs(pages.read("shop", config, {}))
    assert (lost.command, lost.status) == ("gap", "interrupted")
    assert lost.events[0].error == "lines 1 to 40 are lost: damaged"
    (odd, _) = told([*CUT, events.Other(n=12, t=T, kind="acl.create", address="acl:x")])
    assert (odd.events[-1].kind, odd.events[-1].address) == ("acl.create", "acl:x")


def test_a_damaged_journal_still_tells_what_can_be_read() -> None:
    config = logs.config_of(CUT)
    key = pages.segment_key(1)
    config[key] = config[key].replace('"n":10,', '"n":10')
    journal = pages.read("shop", config, {})
    assert journal.state == "damaged"
    assert [run.run for run in history.runs(journal)] == ["aaaa0001"]


def test_a_run_of_the_real_writer_reads_back() -> None:
    server = fakes.Server()
    stage.found(server)
    run = stage.begin(server)
    assert history.runs(stage.read(server))[0].status == "interrupted"
    stage.did(run, stage.step())
    (newest, _) = history.runs(stage.read(server))
    assert (newest.run, newest.status) == (run.id, "running")
    run.recover((fold.Verdict(n=99, address="", event="", status="ok"),))
    run.close("ok")
    assert history.runs(stage.read(server))[0].status == "ok"


def test_a_run_is_found_by_id_beginning_or_generation() -> None:
    found = told(CUT)
    assert history.find(found, "aaaa0001").run == "aaaa0001"
    assert history.find(found, "bb").run == "bbbb0002"
    assert history.find(found, "2").run == "bbbb0002"
    for text in ("", "cc", "99"):
        with pytest.raises(errors.UsageError, match="no such run"):
            history.find(found, text)
    twins = (found[0], found[0])
    with pytest.raises(errors.UsageError, match="2 runs"):
        history.find(twins, "bbb")


def test_any_number_is_a_moment() -> None:
    assert history.moment(0) == "1970-01-01T00:00:00.000Z"
    assert history.moment(10**30) == "1970-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("kinds", "action"),
    [
        (("inst.create", "inst.update", "inst.start"), "create"),
        (("inst.stop", "inst.delete", "inst.create", "inst.start"), "replace"),
        (("inst.stop", "inst.update", "inst.start"), "restart"),
        (("inst.stop", "inst.delete"), "delete"),
        (("net.update",), "update"),
        (("inst.start",), "start"),
        (("inst.stop",), "stop"),
    ],
)
def test_steps_of_one_address_are_one_change(kinds: tuple[str, ...], action: str) -> None:
    steps = [
        history.Event(n=n, time="", kind=kind, address="instance:web/1", phase="done", status="ok")
        for n, kind in enumerate(kinds)
    ]
    assert history.action(steps) == action
    failed = msgspec.structs.replace(steps[-1], status="err", error="E_API")
    assert history.action([*steps[:-1], failed]) == "failed"
    asked = msgspec.structs.replace(steps[-1], phase="intent", status=None)
    assert history.action([*steps[:-1], asked]) == "open"


def lived(run: str, seen: int, t: int, *kinds: str) -> list[events.Health]:
    """Lines of one life of the health daemon, all that was seen of the journal being line `seen`."""
    return [
        events.Health(n=0, t=t + at, kind=f"hd.{kind}", run=run, seen=seen)
        for at, kind in enumerate(("run", *kinds))
    ]


def with_lives(
    log: list[events.AnyEvent], *lives: list[events.Health], holder: str = ""
) -> list[history.HistoryRun]:
    """The runs in the order in which they were, the daemon's lines still in its own stream."""
    told = [line for life in lives for line in life]
    numbered = [msgspec.structs.replace(line, n=n) for n, line in enumerate(told, 1)]
    name = lease.name_for("shop", 1, "cafebabe", lease.HEALTH_STEM)
    ring = lines.joined(events.encode(line) for line in numbered)
    held = lease.encode_holder(lease.Holder(run=holder)) if holder else lease.FREE
    profiles = {name: {names.EVENT: ring, names.HOLD: held, names.GENERATION: "1"}}
    found = history.runs(pages.read("shop", logs.config_of(log), profiles))
    return list(reversed(found))


def merged(log: list[events.AnyEvent], *lives: list[events.Health]) -> list[str]:
    """Their ids."""
    return [run.run for run in with_lives(log, *lives)]


def test_a_life_whose_rights_were_taken_away_is_over_though_it_could_not_say_so() -> None:
    life = lived("dddd0004", 9, T + 1500, "healthy")
    (before,) = [run for run in with_lives(CUT, life, holder="dddd0004") if run.run == "dddd0004"]
    assert before.status == "running"
    log: list[events.AnyEvent] = [
        *CUT,
        events.Intent(n=12, t=T + 3000, kind="cert.revoke", address="instance:ic-healthd"),
        events.Outcome(n=13, t=T + 3001, intent=12, status="ok"),
    ]
    (after,) = [run for run in with_lives(log, life, holder="dddd0004") if run.run == "dddd0004"]
    assert after.status == "interrupted"
    newer = lived("eeee0005", 13, T + 4000)
    (new,) = [
        run for run in with_lives(log, life, newer, holder="eeee0005") if run.run == "eeee0005"
    ]
    assert new.status == "running"


def test_a_life_of_the_health_daemon_stands_after_what_it_has_seen_whatever_its_clock_says() -> (
    None
):
    assert merged(CUT, lived("dddd0004", 9, T - 10**6)) == ["aaaa0001", "dddd0004", "bbbb0002"]
    assert merged(CUT, lived("dddd0004", 11, T - 10**6)) == ["aaaa0001", "bbbb0002", "dddd0004"]


def test_where_it_has_not_seen_the_newest_run_the_clock_decides() -> None:
    assert merged(CUT, lived("dddd0004", 3, T + 1500)) == ["aaaa0001", "dddd0004", "bbbb0002"]
    assert merged(CUT, lived("dddd0004", 3, T + 9000)) == ["aaaa0001", "bbbb0002", "dddd0004"]


def test_lives_keep_the_order_of_their_stream() -> None:
    first, second = lived("dddd0004", 9, T + 9000), lived("eeee0005", 3, T - 10**6)
    assert merged(CUT, first, second) == ["aaaa0001", "bbbb0002", "dddd0004", "eeee0005"]


def test_a_damaged_line_of_the_stream_costs_no_other() -> None:
    name = lease.name_for("shop", 1, "cafebabe", lease.HEALTH_STEM)
    good = events.encode(events.Health(n=1, t=T, kind="hd.run", run="dddd0004"))
    ring = f'nonsense\n{good.decode()}\n[]\n{{"n":"x"}}\n'
    profiles = {name: {names.EVENT: ring}}
    journal = pages.read("shop", logs.config_of(LOG), profiles)
    assert journal.state == "ok"
    assert [run.run for run in history.runs(journal)] == ["dddd0004", "aaaa0001"]
