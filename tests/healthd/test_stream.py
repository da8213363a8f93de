"""The health stream: who writes it, what stands in it, and what `ic history` makes of it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from ic import errors, names
from ic.healthd import stream
from ic.journal import events, history, lease, lines, pages
from tests.journal import server as fakes
from tests.journal import stage

# A heartbeat of a second, a time to live of three.
TIMES = msgspec.structs.replace(stream.TIMES.scaled(1 / 60), poll=0.05, linger=0.05)


class Wall:
    """The clocks of this machine, with a time of day that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1_795_000_000.0

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def server() -> fakes.Server:
    made = fakes.Server()
    stage.found(made)
    return made


Make = Callable[..., stream.Writer]


@pytest.fixture
def make(server: fakes.Server) -> Iterator[Make]:
    """Writers that are ended with the test."""
    made: list[stream.Writer] = []

    def writer(run: str = "aaaa0001", *, begin: bool = True, **over: Any) -> stream.Writer:
        said: list[Any] = []
        about = stream.About(
            project=stage.PROJECT,
            run=run,
            say=lambda word, fields: said.append((word, fields)),
            place=over.pop("place", "sidecar"),
            version="1.0",
            build="b1",
            clock=Wall(),
            times=over.pop("times", TIMES),
        )
        one = stream.Writer(about)
        made.append(one)
        if begin:
            one.begin(server)
        return one

    yield writer
    for one in made:
        one.pause(5.0)


def until(found: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What a look brings once it brings something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    return result


def ring(server: fakes.Server) -> tuple[events.Health, ...]:
    """The lines of the stream as they stand on the server."""
    found = lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT), lease.HEALTH_STEM)
    return pages.unheard(found[0].config.get(names.EVENT, ""), 0) if found else ()


def told(server: fakes.Server, kind: str) -> list[events.Health]:
    return [one for one in ring(server) if one.kind == f"hd.{kind}"]


def test_a_life_begins_with_a_line_that_says_who_and_how_far_the_journal_was(
    server: fakes.Server, make: Make
) -> None:
    make()
    (line,) = until(lambda: ring(server))
    assert (line.kind, line.n, line.run, line.version, line.build) == (
        "hd.run",
        1,
        "aaaa0001",
        "1.0",
        "b1",
    )
    assert (line.generation, line.seen) == (0, 3)  # the project's own creation is three lines


def test_what_comes_together_is_written_together(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    before = len(server.calls)
    for n in range(50):
        writer.tell("unhealthy", f"instance:web/{n}", cause="3 probes failed", code=1, line="no")
    until(lambda: len(told(server, "unhealthy")) == 50)
    writes = [call for call in server.calls[before:] if call.method == "PATCH"]
    assert len(writes) <= 2
    assert [one.n for one in ring(server)] == list(range(1, 52))


def test_the_end_gives_the_lease_back_at_once(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    writer.end(5.0)
    assert [one.kind for one in ring(server)] == ["hd.run", "hd.end"]
    (top,) = lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT), lease.HEALTH_STEM)
    assert not top.held


def test_a_second_daemon_stands_by_and_takes_over_with_its_lines(
    server: fakes.Server, make: Make
) -> None:
    first = make("aaaa0001", place="a")
    until(lambda: told(server, "run"))
    second = make("bbbb0002", place="b")
    second.tell("unhealthy", "instance:web/1")
    time.sleep(4 * TIMES.poll)
    assert [one.run for one in ring(server)] == ["aaaa0001"]
    first.end(5.0)
    found = until(lambda: told(server, "unhealthy"))
    assert found[0].run == "bbbb0002"
    assert [one.n for one in ring(server)] == [1, 2, 3, 4]


def test_a_killed_daemons_lease_is_taken_by_the_next_start_at_once(
    server: fakes.Server, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = msgspec.structs.replace(TIMES, ttl=3600.0)
    gone = make("aaaa0001", times=slow)
    until(lambda: ring(server))
    gone.pause(5.0)  # killed: nothing is given back
    (top,) = lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT), lease.HEALTH_STEM)
    assert top.held
    held = msgspec.json.decode(top.config[names.HOLD], type=dict[str, Any])
    server.profiles[stage.PROJECT][top.name]["config"][names.HOLD] = msgspec.json.encode(
        {**held, "b": "another"}
    ).decode()  # every start of a container has a boot id of its own
    make("bbbb0002", times=slow)
    until(lambda: len(told(server, "run")) == 2)


def test_who_is_fenced_writes_nothing_more_and_stands_by(server: fakes.Server, make: Make) -> None:
    first = make("aaaa0001")
    until(lambda: ring(server))
    (top,) = lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT), lease.HEALTH_STEM)
    other = lease.name_for(stage.PROJECT, top.generation + 1, "deadbeef", lease.HEALTH_STEM)
    profiles = server.profiles[stage.PROJECT]
    profiles[other] = profiles.pop(top.name)
    profiles[other]["name"] = other
    config = profiles[other]["config"]
    config[names.GENERATION] = str(top.generation + 1)
    config[names.HOLD] = lease.encode_holder(
        lease.Holder(actor="0@elsewhere", machine="x", run="cccc")
    )
    first.tell("unhealthy", "instance:web/1")
    time.sleep(0.5)
    assert told(server, "unhealthy") == []
    config[names.HOLD] = lease.FREE
    until(lambda: told(server, "unhealthy"), 15)


def test_without_trust_it_waits_and_nothing_told_is_lost(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    writer.pause(5.0)
    writer.tell("state", cause="untrusted")
    before = len(server.calls)
    time.sleep(0.3)
    assert len(server.calls) == before
    writer.begin(server)
    assert until(lambda: told(server, "state"))[0].cause == "untrusted"
    assert len(told(server, "run")) == 1  # it is the same life


def test_a_server_that_restarts_costs_no_line(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    failing = 3

    def fault(moment: str, method: str, path: str) -> None:
        nonlocal failing
        if moment == "after" and method == "PATCH" and failing:
            failing -= 1
            raise errors.TimedOut("cannot change profile: gone")

    server.fault = fault
    writer.tell("restart", "instance:web/1")
    until(lambda: failing == 0)
    until(lambda: told(server, "restart"))
    writer.tell("healthy", "instance:web/1")
    until(lambda: told(server, "healthy"))
    assert [one.n for one in ring(server)] == [1, 2, 3]


def test_a_refusal_is_said_and_ends_the_writing(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    assert not writer.refused

    def fault(moment: str, method: str, path: str) -> None:
        raise errors.Forbidden("cannot change profile: not authorized")

    server.fault = fault
    until(lambda: writer.refused)
    server.fault = fakes.quiet
    before = len(server.calls)
    time.sleep(0.2)
    assert len(server.calls) == before


def test_what_finds_no_room_is_counted(server: fakes.Server, make: Make) -> None:
    writer = make(begin=False)
    for _ in range(stream.WAITING + 9):
        writer.tell("unhealthy", "instance:web/1")
    writer.begin(server)
    until(
        lambda: [one.cause for one in told(server, "gap")][1:] == ["10 lines could not be written"]
    )


def test_the_ring_keeps_the_newest_lines_within_its_size(server: fakes.Server, make: Make) -> None:
    writer = make()
    for n in range(700):
        writer.tell("unhealthy", "instance:web/1", line="x" * 200, code=n)
    until(lambda: [one for one in ring(server) if one.code == 699])
    (top,) = lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT), lease.HEALTH_STEM)
    value = top.config[names.EVENT]
    assert stream.RING - 1000 < len(value) <= stream.RING
    kept = [one.n for one in pages.unheard(value, 10**6)] or [
        events.number_of(raw) for raw in lines.split(value)
    ]
    assert kept == list(range(kept[0], 702))


def test_numbers_go_on_after_what_the_journal_has(server: fakes.Server, make: Make) -> None:
    writer = make("aaaa0001")
    until(lambda: ring(server))
    writer.tell("unhealthy", "instance:web/1")
    until(lambda: told(server, "unhealthy"))
    writer.end(5.0)
    with stage.begin(server) as run:
        stage.intend(run, stage.step())
    for name in [n for n in server.profiles[stage.PROJECT] if n.startswith("ic.hd.")]:
        del server.profiles[stage.PROJECT][name]
    make("bbbb0002")
    assert until(lambda: told(server, "run"))[0].n == 4


# --- into the journal, and out of it ---


def hd_head(server: fakes.Server) -> int:
    head = pages.head_of(server.config(stage.PROJECT))
    assert head is not None
    return head.streams.get("hd", 0)


def test_a_run_copies_what_is_new_once_and_says_how_far(server: fakes.Server, make: Make) -> None:
    writer = make()
    until(lambda: ring(server))
    with stage.begin(server) as run:
        stage.intend(run, stage.step())
    assert hd_head(server) == 1
    writer.tell("unhealthy", "instance:web/1", line="no", code=1)
    until(lambda: told(server, "unhealthy"))
    with stage.begin(server) as run:
        stage.intend(run, stage.step("instance:web/2"))
    assert hd_head(server) == 2
    copied = [one for one in stage.read(server).events() if isinstance(one, events.Health)]
    assert [(one.stream, one.kind) for one in copied] == [(1, "hd.run"), (2, "hd.unhealthy")]
    journal = stage.read(server)
    assert journal.state == "ok"
    assert journal.telling() == ()
    assert not any(one.unknown for one in journal.recorded.resources.values())


def test_a_run_that_changes_nothing_copies_nothing(server: fakes.Server, make: Make) -> None:
    make()
    until(lambda: ring(server))
    with stage.begin(server):
        pass
    assert hd_head(server) == 0


def test_lines_that_were_written_over_become_a_gap(server: fakes.Server, make: Make) -> None:
    writer = make()
    for n in range(900):
        writer.tell("unhealthy", "instance:web/1", line="x" * 200, code=n)
    until(lambda: [one for one in ring(server) if one.code == 899])
    with stage.begin(server) as run:
        stage.intend(run, stage.step())
    copied = [one for one in stage.read(server).events() if isinstance(one, events.Health)]
    first = copied[0]
    assert first.kind == "hd.gap"
    assert first.cause.startswith("lines 1 to ")
    assert copied[1].stream == first.stream + 1
    assert hd_head(server) == 901


def test_history_shows_a_life_before_and_after_it_was_copied(
    server: fakes.Server, make: Make
) -> None:
    writer = make()
    writer.tell("unhealthy", "instance:web/1", cause="3 probes failed", code=1, line="no route")
    until(lambda: told(server, "unhealthy"))
    before = history.runs(stage.read(server))
    assert [(one.run, one.command, one.status) for one in before if one.command == "healthd"] == [
        ("aaaa0001", "healthd", "running")
    ]
    with stage.begin(server) as run:
        stage.intend(run, stage.step())
    after = history.runs(stage.read(server))
    (life,) = [one for one in after if one.command == "healthd"]
    assert life in before
    assert life.counts == {"unhealthy": 1}
    event = life.events[-1]
    assert (event.n, event.kind, event.address, event.cause, event.output) == (
        2,
        "hd.unhealthy",
        "instance:web/1",
        "3 probes failed (exit code 1)",
        "no route",
    )
    writer.end(5.0)
    (life,) = [one for one in history.runs(stage.read(server)) if one.command == "healthd"]
    assert (life.status, len(life.events)) == ("ok", 3)


def test_a_killed_life_is_interrupted_once_another_has_begun(
    server: fakes.Server, make: Make
) -> None:
    first = make("aaaa0001")
    until(lambda: ring(server))
    first.pause(5.0)
    make("bbbb0002")
    until(lambda: len(told(server, "run")) == 2, 15)
    lives = [one for one in history.runs(stage.read(server)) if one.command == "healthd"]
    assert [(one.run, one.status) for one in lives] == [
        ("bbbb0002", "running"),
        ("aaaa0001", "interrupted"),
    ]
