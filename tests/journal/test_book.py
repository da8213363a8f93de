"""A run from lease to fold: nothing acknowledged is lost, nothing foreign is touched, nobody writes late."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from ic import errors, names
from ic.journal import book, events, fold, history, lease, lines, pages
from tests.journal import server as fakes
from tests.journal import stage

PRIVATE = "correct-horse-battery"


@pytest.fixture
def server() -> fakes.Server:
    made = fakes.Server()
    stage.found(made)
    return made


def create(n: int) -> Any:
    return stage.step(
        f"instance:web/{n}",
        fields={("config", "limits.cpu"): "2", ("config", "environment.PASSWORD"): PRIVATE},
        power="running",
    )


def raw(server: fakes.Server) -> str:
    """Everything that is stored."""
    return json.dumps([server.projects, server.profiles])


def test_a_run_is_in_the_project_when_it_is_closed(server: fakes.Server) -> None:
    run = stage.begin(server)
    done = stage.did(run, create(1), create(2))
    assert [intent.stamp for intent in done] == [f"{run.generation}/{intent.n}" for intent in done]
    assert run.close("ok") == ()
    journal = stage.read(server)
    assert (journal.state, journal.problems) == ("ok", ())
    assert set(stage.state_of(journal)) == {"project:shop", "instance:web/1", "instance:web/2"}
    alone = book.read(stage.PROJECT, server.config(stage.PROJECT), {})
    assert alone.recorded.resources == journal.recorded.resources
    assert not journal.run_object.held  # pyright: ignore[reportOptionalMemberAccess]
    end = journal.events()[-1]
    assert isinstance(end, events.End)
    assert end.state == fold.fold(journal.events()).digest()


def test_private_values_are_nowhere(server: fakes.Server) -> None:
    run = stage.begin(server)
    (intent,) = stage.intend(run, create(1))
    run.outcome(
        intent.n, "err", 3, error=f"E_API invalid value {PRIVATE!r} for environment.PASSWORD"
    )
    run.close("failed")
    assert PRIVATE not in raw(server)
    outcome = [one for one in stage.read(server).events() if isinstance(one, events.Outcome)][-1]
    assert (outcome.error, outcome.text) == (
        "E_API",
        "invalid value '[...]' for environment.PASSWORD",
    )


def test_an_intent_is_on_the_server_before_it_is_acknowledged(server: fakes.Server) -> None:
    run = stage.begin(server)
    seen: list[bool] = []
    there = threading.Event()

    def acknowledged(intent: book.Intent) -> None:
        wal = server.profile_configs(stage.PROJECT)[run.journal.run_object.name][names.WAL]  # pyright: ignore[reportOptionalMemberAccess]
        seen.append(f'"n":{intent.n},' in wal)
        there.set()

    run.intend(create(1), acknowledged)
    assert there.wait(5)
    assert seen == [True]
    run.close("ok")


def test_what_gathers_while_a_write_is_under_way_goes_in_one_request(server: fakes.Server) -> None:
    run = stage.begin(server)
    writing, go_on = threading.Event(), threading.Event()

    def slow(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "PUT" and not writing.is_set():
            writing.set()
            assert go_on.wait(5)

    server.fault = slow
    acknowledged: list[int] = []
    all_there = threading.Event()

    def take(intent: book.Intent) -> None:
        acknowledged.append(intent.n)
        if len(acknowledged) == 21:
            all_there.set()

    run.intend(create(0), take)
    assert writing.wait(5)
    for n in range(1, 21):
        run.intend(create(n), take)
    go_on.set()
    assert all_there.wait(5)
    assert server.count("PUT") == 2
    assert acknowledged == sorted(acknowledged)
    run.close("ok")


def test_a_run_that_did_nothing_leaves_no_trace(server: fakes.Server) -> None:
    before = server.config(stage.PROJECT)
    with stage.begin(server):
        pass
    assert server.config(stage.PROJECT) == before
    assert not stage.read(server).run_object.held  # pyright: ignore[reportOptionalMemberAccess]


def test_calls_of_a_whole_run_are_few(server: fakes.Server) -> None:
    stage.begin(server).close("ok")
    server.calls.clear()
    run = stage.begin(server)
    assert [call.method for call in server.calls] == ["GET", "POST", "GET", "PATCH", "GET"]
    stage.did(run, *(create(n) for n in range(30)))
    server.calls.clear()
    run.close("ok")
    assert [call.method for call in server.calls] == ["PUT", "GET", "PUT", "GET", "PUT"]


def test_two_runs_with_one_start_are_one_run(server: fakes.Server) -> None:
    fresh = fakes.Server()
    start = stage.start()
    stage.found(fresh, begun=start)
    run = stage.begin(fresh, start=start)
    stage.did(run, create(1))
    run.close("ok")
    runs = [event.run for event in stage.read(fresh).events() if isinstance(event, events.Run)]
    assert runs == [start.run, start.run]


def test_who_founded_the_stack_has_an_end_when_another_did_all_the_rest() -> None:
    fresh = fakes.Server()
    founder = stage.start("up")
    stage.found(fresh, begun=founder)
    other = stage.begin(fresh, start=stage.start("up"))
    stage.did(other, create(1))
    other.close("ok")
    assert [run.status for run in history.runs(stage.read(fresh))] == ["ok", "interrupted"]
    stage.begin(fresh, start=founder).close("ok")
    told = history.runs(stage.read(fresh))
    assert [(run.run == founder.run, run.status) for run in told] == [(True, "ok"), (False, "ok")]
    assert stage.read(fresh).problems == ()


def test_foreign_keys_are_byte_equal_and_the_redo_copy_stays(server: fakes.Server) -> None:
    server.projects[stage.PROJECT]["config"]["user.odd"] = 'a\nb "c" \u20ac'
    run = stage.begin(server)
    stage.did(run, create(1))
    run.close("ok")
    assert server.config(stage.PROJECT)["user.odd"] == 'a\nb "c" \u20ac'
    assert server.config(stage.PROJECT)["user.mine"] == "kept"
    wal = stage.read(server).run_object.config[names.WAL]  # pyright: ignore[reportOptionalMemberAccess]
    assert '"k":"end"' in wal
    stage.begin(server).close("ok")
    after = stage.read(server).run_object.config  # pyright: ignore[reportOptionalMemberAccess]
    assert names.WAL not in after
    assert stage.read(server).state == "ok"


# --- interruptions ----------------------------------------------------------------------------------------


def test_a_run_that_was_cut_off_is_taken_over_with_its_lines(server: fakes.Server) -> None:
    dead = stage.begin(server)
    (doubtful, _) = stage.intend(dead, create(1), create(2))
    dead.outcome(doubtful.n + 1, "ok")
    crash(dead)
    journal = stage.read(server)
    assert [doubt.n for doubt in journal.recorded.doubts] == [doubtful.n, doubtful.n + 1]
    with stage.begin(server, force=dead.generation) as run:
        assert run.recorded.doubts == journal.recorded.doubts
        assert run.recorded.doubts[0].stamp == f"{dead.generation}/{doubtful.n}"
        run.recover(
            tuple(
                fold.Verdict(n=one.n, address=one.address, event=one.event, status="ok")
                for one in run.recorded.doubts
            )
        )
        assert run.recorded.doubts == ()
    after = stage.read(server)
    assert set(stage.state_of(after)) >= {"instance:web/1", "instance:web/2"}
    kinds = [type(event).__name__ for event in after.events()][-6:]
    assert kinds == ["Run", "Steal", "Recover", "Outcome", "Outcome", "End"]


def crash(run: book.Run) -> None:
    """As kill -9: the writing thread is gone, nothing is released."""
    run._open.stop()


def test_who_lost_the_lease_is_answered_404_and_writes_nothing_more(server: fakes.Server) -> None:
    lost = threading.Event()
    first = stage.begin(server, on_lost=lost.set)
    stage.intend(first, create(1))
    second = stage.begin(server, force=first.generation)
    acknowledged: list[book.Intent] = []
    first.intend(create(2), acknowledged.append)
    assert first.lost.wait(5)
    assert lost.is_set()
    assert acknowledged == []
    for forbidden in (
        first.guard,
        first.confirm_delete,
        lambda: first.outcome(5, "ok"),
        lambda: first.close("ok"),
    ):
        with pytest.raises((errors.Fenced, errors.JournalError)):
            forbidden()
    assert any(call.status == 404 and call.method == "PUT" for call in server.calls)
    second.close("ok")
    assert [doubt.address for doubt in stage.read(server).recorded.doubts] == ["instance:web/1"]


def test_confirm_delete_sees_a_takeover_at_once(server: fakes.Server) -> None:
    first = stage.begin(server)
    first.confirm_delete()
    second = stage.begin(server, force=first.generation)
    with pytest.raises(errors.Fenced, match="took over"):
        first.confirm_delete()
    second.close("ok")


def test_a_lease_that_is_not_renewed_stops_its_holder(server: fakes.Server) -> None:
    clock = fakes.Clock()
    run = stage.begin(server, clock=clock, times=lease.Times())
    run.guard()
    clock.now += 19
    run.guard()
    clock.now += 1
    with pytest.raises(errors.Fenced, match="not renewed for 20 s"):
        run.guard()
    crash(run)


def test_a_heartbeat_keeps_the_lease(server: fakes.Server) -> None:
    beaten = threading.Event()
    beats = iter(range(3))

    def count(moment: str, method: str, path: str) -> None:
        if moment == "after" and method == "PUT" and next(beats, None) is None:
            beaten.set()

    run = stage.begin(server, times=lease.Times(heartbeat=0.05))
    before = run._open.acknowledged
    server.fault = count
    assert beaten.wait(10)
    assert run._open.acknowledged > before
    run.guard()
    run.close("ok")


def test_writes_ride_out_a_restart_of_the_server(server: fakes.Server) -> None:
    run = stage.begin(server, times=lease.Times())
    failures = iter(range(2))

    def down(moment: str, method: str, path: str) -> None:
        if method == "PUT" and next(failures, None) is not None:
            raise errors.Unreachable("cannot reach the server: connection refused")

    server.fault = down
    stage.did(run, create(1))
    assert run.close("ok") == ()


def test_reads_ride_out_a_restart_of_the_server(server: fakes.Server) -> None:
    run = stage.begin(server, times=lease.Times())
    stage.did(run, create(1))
    failures = iter(range(2))

    def down(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "GET" and next(failures, None) is not None:
            raise errors.Unreachable("cannot reach the server: connection refused")

    server.fault = down
    run.confirm_delete()
    failures = iter(range(2))
    assert run.close("ok") == ()
    assert stage.read(server).state == "ok"


def test_a_run_under_way_is_told_from_one_that_was_cut_off(server: fakes.Server) -> None:
    run = stage.begin(server)
    stage.intend(run, create(1))
    busy = stage.read(server).busy
    assert busy is not None
    assert busy.run == run.id
    run.close("failed")
    assert stage.read(server).busy is None


def test_a_full_disk_stops_the_run_and_nothing_is_acknowledged(server: fakes.Server) -> None:
    run = stage.begin(server)

    def full(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "PUT":
            raise errors.OperationFailed("cannot change profile: disk I/O error")

    server.fault = full
    acknowledged: list[book.Intent] = []
    run.intend(create(1), acknowledged.append)
    assert run.lost.wait(10)
    assert acknowledged == []
    with pytest.raises(errors.OperationFailed, match="disk I/O error"):
        run.guard()
    with pytest.raises(errors.OperationFailed):
        run.close("failed")
    server.fault = fakes.quiet
    assert stage.read(server).state == "ok"


# --- folding ----------------------------------------------------------------------------------------------


def test_a_fold_that_was_overwritten_is_done_again(server: fakes.Server) -> None:
    run = stage.begin(server)
    stage.did(run, create(1))
    old = dict(server.projects[stage.PROJECT]["config"])
    once = iter([True])

    def overwrite(moment: str, method: str, path: str) -> None:
        if moment == "after" and method == "PUT" and "/projects/" in path and next(once, False):
            server.projects[stage.PROJECT]["config"] = {**old, "user.other": "new"}

    server.fault = overwrite
    assert run.close("ok") == ()
    assert server.config(stage.PROJECT)["user.other"] == "new"
    alone = book.read(stage.PROJECT, server.config(stage.PROJECT), {})
    assert "instance:web/1" in alone.recorded.resources


def test_a_stale_etag_is_tried_again(server: fakes.Server) -> None:
    run = stage.begin(server)
    stage.did(run, create(1))
    count = iter(range(3))

    def edit(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "PUT" and "/projects/" in path:
            number = next(count, None)
            if number is not None:
                server.projects[stage.PROJECT]["config"]["user.edit"] = str(number)

    server.fault = edit
    assert run.close("ok") == ()
    assert server.config(stage.PROJECT)["user.edit"] == "2"
    assert "instance:web/1" in stage.state_of(stage.read(server))


def test_a_project_that_was_put_back_is_healed_from_the_redo_copy(server: fakes.Server) -> None:
    run = stage.begin(server)
    old = server.config(stage.PROJECT)
    stage.did(run, create(1))
    run.close("ok")
    server.projects[stage.PROJECT]["config"] = dict(old)
    journal = stage.read(server)
    assert journal.state == "ok"
    assert "instance:web/1" in stage.state_of(journal)
    stage.begin(server).close("ok")
    alone = book.read(stage.PROJECT, server.config(stage.PROJECT), {})
    assert "instance:web/1" in alone.recorded.resources


def test_an_older_journal_than_the_redo_copy_reaches_is_a_rollback(server: fakes.Server) -> None:
    old = server.config(stage.PROJECT)
    for n in (1, 2):
        run = stage.begin(server)
        stage.did(run, create(n))
        run.close("ok")
    server.projects[stage.PROJECT]["config"] = dict(old)
    assert stage.read(server).state == "rollback"
    before = raw(server)
    with pytest.raises(errors.Rollback) as caught:
        stage.begin(server)
    assert "incus project set shop" in caught.value.hint
    assert json.loads(before)[0] == server.projects
    assert not stage.read(server).run_object.held  # pyright: ignore[reportOptionalMemberAccess]


def test_a_long_run_is_folded_while_it_goes_on(server: fakes.Server) -> None:
    run = stage.begin(server)
    text = "x" * 20_000
    for n in range(40):
        stage.did(run, stage.step(f"instance:w/{n}", facts={"note": text}))
    in_between = book.read(stage.PROJECT, server.config(stage.PROJECT), {})
    assert "instance:w/5" in in_between.recorded.resources
    run.close("ok")
    journal = stage.read(server)
    assert (journal.state, journal.problems) == ("ok", ())
    assert len([one for one in stage.state_of(journal) if one.startswith("instance:w/")]) == 40


def test_who_may_not_write_the_project_still_has_a_journal(server: fakes.Server) -> None:
    server.forbidden = {("PUT", "/1.0/projects/")}
    for n in range(6):
        run = stage.begin(server)
        facts = {"note": "y" * 30_000}
        stage.did(run, stage.step(f"instance:w/{n}", facts=facts))
        assert run.close("ok") == ()
        journal = stage.read(server)
        assert (journal.state, journal.problems) == ("ok", ())
        assert len(stage.state_of(journal)) == n + 2
    assert stage.read(server).overflow
    server.forbidden = set()
    for n in (6, 7):
        run = stage.begin(server)
        stage.did(run, create(n))
        run.close("ok")
    alone = book.read(stage.PROJECT, server.config(stage.PROJECT), {})
    assert len(alone.recorded.resources) == 9
    journal = stage.read(server)
    assert (journal.state, journal.overflow) == ("ok", ())


def test_a_long_run_of_who_may_not_write_the_project_goes_on(server: fakes.Server) -> None:
    server.forbidden = {("PUT", "/1.0/projects/")}
    run = stage.begin(server, times=lease.Times(linger=0.01, fold_every=0.01))
    for n in range(5):
        stage.did(run, create(n))
        threading.Event().wait(0.03)
    assert not run.lost.is_set()
    assert run.close("ok") == ()
    assert len(stage.state_of(stage.read(server))) == 6


def test_who_is_overtaken_while_folding_hears_that_he_was(server: fakes.Server) -> None:
    first = stage.begin(server, times=lease.Times(linger=0.01, fold_every=0.0))
    overtaken = threading.Event()

    def overtake(moment: str, method: str, path: str) -> None:
        if (
            moment == "before"
            and method == "PUT"
            and "/projects/" in path
            and not overtaken.is_set()
        ):
            overtaken.set()
            server.fault = fakes.quiet
            second = stage.begin(server, force=first.generation)
            stage.did(second, create(9))
            second.close("ok")
            raise errors.PreconditionFailed("cannot change project: it was changed meanwhile")

    server.fault = overtake
    first.intend(create(1), lambda _: None)
    assert first.lost.wait(10)
    with pytest.raises(errors.Fenced, match="took over"):
        first.guard()
    with pytest.raises(errors.Fenced):
        first.close("ok")
    assert stage.read(server).state == "ok"


def test_no_room_for_the_journal_is_said_before_anything_is_done(server: fakes.Server) -> None:
    server.projects[stage.PROJECT]["config"]["user.ic.huge"] = "z" * pages.HARD
    with pytest.raises(errors.Full):
        stage.begin(server)
    assert not stage.read(server).run_object.held  # pyright: ignore[reportOptionalMemberAccess]


# --- damage -----------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_refused_and_nothing_is_written(server: fakes.Server) -> None:
    run = stage.begin(server)
    stage.did(run, create(1))
    run.close("ok")
    config = server.projects[stage.PROJECT]["config"]
    config[pages.segment_key(1)] = config[pages.segment_key(1)].replace("limits.cpu", "limits.gpu")
    before = json.loads(raw(server))[0]
    with pytest.raises(errors.Corrupt) as caught:
        stage.begin(server)
    assert caught.value.exit_status == 4
    assert json.loads(raw(server))[0] == before


def obey(server: fakes.Server, hint: str) -> None:
    """Do what the hint's commands say, as `incus` would."""
    import re
    import shlex

    text = hint.replace(" \\\n", " ")
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("incus profile delete "):
            del server.profiles[stage.PROJECT][words.split()[3]]
        elif words.startswith("incus project set "):
            config = server.projects[stage.PROJECT]["config"]
            stored = dict(config)

            def get(found: re.Match[str], stored: dict[str, str] = stored) -> str:
                return shlex.quote(stored[found[1]])

            words = re.sub(r'"\$\(incus project get shop (\S+)\)"', get, words)
            for word in shlex.split(words)[4:]:
                key, _, value = word.partition("=")
                config[key] = value
                if not value:
                    del config[key]


def test_a_lost_head_alone_loses_nothing(server: fakes.Server) -> None:
    for n in range(9):
        run = stage.begin(server)
        stage.did(run, create(n))
        run.close("ok")
    before = stage.read(server).recorded.resources
    server.projects[stage.PROJECT]["config"][names.HEAD] = "{}"
    with pytest.raises(errors.JournalError) as caught:
        stage.begin(server)
    obey(server, caught.value.hint)
    journal = stage.read(server)
    assert (journal.state, journal.problems) == ("ok", ())
    assert journal.recorded.resources == before


@pytest.mark.parametrize("how", ["flip", "lose", "cut", "old"])
def test_the_hint_of_a_damaged_journal_makes_the_next_run_work(
    server: fakes.Server, how: str
) -> None:
    old = server.config(stage.PROJECT)
    for n in range(90):
        run = stage.begin(server)
        stage.did(run, *(create(10 * n + i) for i in range(2)))
        run.close("ok")
    config = server.projects[stage.PROJECT]["config"]
    segments = sorted(name for name in config if name.startswith(names.SEGMENT_PREFIX))
    assert len(segments) > 2
    if how == "flip":
        config[segments[1]] = config[segments[1]].replace("create", "creaTe", 1)
    elif how == "lose":
        del config[segments[0]]
    elif how == "cut":
        config[segments[-1]] = config[segments[-1]][:-30]
    else:
        server.projects[stage.PROJECT]["config"] = dict(old)
    last = stage.read(server).lines[-1].last
    with pytest.raises(errors.JournalError) as caught:
        stage.begin(server)
    held = stage.read(server).recorded.generation
    obey(server, caught.value.hint)
    journal = stage.read(server)
    assert (journal.state, journal.problems) == ("ok", ())
    assert journal.recorded.resources == {}
    assert journal.recorded.sequence >= last
    if how != "old":
        aside = [text for name, text in server.config(stage.PROJECT).items() if ".bad." in name]
        assert aside or how == "lose"
    run = stage.begin(server)
    assert run.generation > held
    stage.did(run, create(1))
    run.close("ok")
    after = stage.read(server)
    assert (after.state, set(stage.state_of(after))) == ("ok", {"instance:web/1"})


def test_a_newer_journal_is_not_written(server: fakes.Server) -> None:
    config = server.projects[stage.PROJECT]["config"]
    config[names.HEAD] = config[names.HEAD].replace('"min":1', '"min":2')
    with pytest.raises(errors.NewerVersion):
        stage.begin(server)


def test_unknown_kinds_and_fields_survive_folding_byte_by_byte(server: fakes.Server) -> None:
    odd = b'{"n":4,"t":9,"k":"acl.create","o":"acl:x","strange":{"b":1,"a":[ ]}}'
    config = server.projects[stage.PROJECT]["config"]
    head = events.decode_head(config[names.HEAD])
    config[pages.segment_key(1)] += lines.joined([odd])
    chain = lines.after(head.chain, odd)
    config[names.HEAD] = events.encode_head(
        events.Head(lineage=head.lineage, generation=0, sequence=4, chain=chain)
    )
    for n in range(130):
        run = stage.begin(server)
        stage.did(run, create(n))
        run.close("ok")
    journal = stage.read(server)
    assert any(name.startswith(names.SNAPSHOT_PREFIX) for name in server.config(stage.PROJECT))
    assert journal.lines[3].raw == odd
