"""The real server: it does what the one in memory does, and leases, takeovers and folds hold on it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ic import errors, names
from ic.incus import client
from ic.journal import book, events, lease, pages
from tests.journal import holder, stage
from tests.journal import server as fakes
from tests.lab import lab as labs

pytestmark = pytest.mark.lab


class Stack:
    """A project with a journal on the real server."""

    def __init__(self, lab: labs.Lab) -> None:
        self.lab = lab
        self.socket = str(lab.socket)
        self.project = f"j{uuid.uuid4().hex[:8]}"
        self.client = holder.connect(self.socket)
        self.processes: list[subprocess.Popen[str]] = []

    def found(self) -> None:
        first = stage.step(f"project:{self.project}", "proj.create")
        config = {"user.mine": "kept \u20ac", **book.genesis(first, stage.start())}
        self.client.call("POST", "/1.0/projects", body={"name": self.project, "config": config})

    def config(self) -> dict[str, str]:
        return self.client.get(f"/1.0/projects/{self.project}")["config"]

    def read(self) -> book.Journal:
        profiles = lease.fetch(self.client, self.project, lease.SystemClock(), lease.Times())
        return book.read(self.project, self.config(), profiles)

    def start(self, mode: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.holder", self.socket, self.project, mode],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def begin(self, **options: Any) -> book.Run:
        return stage.begin(self.client, self.project, times=holder.TIMES, **options)


@pytest.fixture
def empty(lab: labs.Lab) -> Iterator[Stack]:
    made = Stack(lab)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()
    made.client.send("DELETE", f"/1.0/projects/{made.project}", {"force": "true"})
    made.client.close()


@pytest.fixture
def stack(empty: Stack) -> Stack:
    empty.found()
    return empty


def word(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """The next line of a holder that begins with a word."""
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words[0] == wanted:
            return words
    raise AssertionError(f"it never said {wanted!r}, and ended with {process.wait()}")


# --- the server in memory is like the real one ---------------------------------------------------------

BIG = "x" * 1_048_000

Script = list[tuple[str, str, dict[str, Any] | None, str]]
SCRIPT: Script = [
    ("POST", "profiles", {"name": "p1", "config": {"user.a": "1"}, "devices": {}}, ""),
    ("POST", "profiles", {"name": "p1", "config": {}, "devices": {}}, ""),
    ("POST", "profiles/p1", {"name": "p2"}, ""),
    ("POST", "profiles/p1", {"name": "p3"}, ""),
    ("GET", "profiles/p1", None, ""),
    ("PUT", "profiles/p1", {"config": {"user.a": "2"}, "description": "", "devices": {}}, ""),
    ("PATCH", "profiles/p1", {"config": {"user.a": "2"}}, ""),
    ("PATCH", "profiles/p2", {"config": {"user.b": "2"}}, ""),
    ("GET", "profiles/p2", None, ""),
    ("PATCH", "profiles/p2", {"config": {"user.b": ""}}, ""),
    ("GET", "profiles/p2", None, ""),
    (
        "PUT",
        "profiles/p2",
        {"config": {"user.c": "", "user.d": "4"}, "description": "x", "devices": {}},
        "",
    ),
    ("GET", "profiles/p2", None, ""),
    ("PUT", "profiles/p2", {"config": {"user.d": BIG}, "description": "", "devices": {}}, ""),
    ("PUT", "profiles/p2", {"config": {"user.d": BIG * 2}, "description": "", "devices": {}}, ""),
    ("GET", "profiles", None, ""),
    ("DELETE", "profiles/p1", None, ""),
    ("DELETE", "profiles/p2", None, ""),
    (
        "PUT",
        "project",
        {"config": {"user.mine": "a\nb \u20ac\t\u001b"}, "description": "d"},
        "fresh",
    ),
    ("GET", "project", None, ""),
    ("PUT", "project", {"config": {"user.mine": "late"}, "description": ""}, "stale"),
    ("PUT", "project", {"config": {"user.mine": BIG * 2}, "description": ""}, "fresh"),
    ("GET", "project", None, ""),
    ("GET", "nowhere", None, ""),
    ("POST", "elsewhere", {"name": "p1", "config": {}, "devices": {}}, ""),
]


def play(server: lease.Server, project: str) -> list[object]:
    """What a server answers to the script: kind of error, or the config that is there afterwards."""
    told: list[object] = []
    stale = ""
    for method, what, body, match in SCRIPT:
        query: dict[str, str] | None = {"project": project, "recursion": "1"}
        path = f"/1.0/{what}"
        if what == "project":
            path, query = f"/1.0/projects/{project}", None
        elif what == "nowhere":
            path, query = "/1.0/projects/nowhere-at-all", None
        elif what == "elsewhere":
            path, query = "/1.0/profiles", {"project": "nowhere-at-all"}
        etag = None
        if match == "fresh":
            stale = stale or server.send("GET", path, query).etag
            etag = server.send("GET", path, query).etag
        elif match == "stale":
            etag = stale
        if what == "project" and method == "PUT" and body is not None:
            kept = server.send("GET", path, query).metadata["config"]
            sent: dict[str, Any] | None = {**body, "config": {**kept, **body["config"]}}
        else:
            sent = body
        try:
            found = server.send(method, path, query, sent, etag=etag).metadata
        except errors.IncusError as error:
            told.append(type(error).__name__)
            continue
        if method != "GET":
            told.append("done")
        elif isinstance(found, list):
            told.append(sorted(one["name"] for one in found))
        else:
            told.append(
                {key: text for key, text in found["config"].items() if key.startswith("user.")}
            )
    return told


def test_the_server_in_memory_answers_as_the_real_one(empty: Stack) -> None:
    memory = fakes.Server()
    memory.create_project(empty.project, {"user.a": "1"})
    body = {"name": empty.project, "config": {"user.a": "1"}}
    empty.client.call("POST", "/1.0/projects", body=body)
    for expected, found, step in zip(
        play(memory, empty.project), play(empty.client, empty.project), SCRIPT, strict=True
    ):
        assert expected == found, step[:2]


# --- runs on the real server ---------------------------------------------------------------------------


def test_a_run_folds_into_what_incus_shows(stack: Stack) -> None:
    with stack.begin() as run:
        stage.did(run, *(stage.step(f"instance:w/{n}") for n in range(10)))
        assert isinstance(run.confirm_delete(), type(None))
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    assert len(stage.state_of(journal)) == 11
    assert stack.config()["user.mine"] == "kept \u20ac"
    shown = stack.lab.run(["incus", "project", "show", stack.project], check=True).stdout
    assert '"k":"inst.create","o":"instance:w/9"' in shown
    assert f"  {names.SEGMENT_PREFIX}00000001: |" in shown


def test_processes_that_race_hold_the_lease_one_after_the_other(stack: Stack) -> None:
    processes = [stack.start("once") for _ in range(6)]
    ends = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, ends
    generations = [
        int(line.split()[1]) for text in ends for line in text.splitlines() if "held" in line
    ]
    assert len(set(generations)) == 6
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    runs = [event for event in journal.events() if isinstance(event, events.Run)][1:]
    assert [run.generation for run in runs] == sorted(generations)
    closed = [event for event in journal.events() if isinstance(event, events.End)]
    assert len(closed) == 6
    acked = [int(line.split()[1]) for text in ends for line in text.splitlines() if "acked" in line]
    written = [event.n for event in journal.events() if isinstance(event, events.Intent)][1:]
    assert sorted(acked) == written


def test_first_runs_that_start_at_once_hold_the_lease_one_after_the_other(empty: Stack) -> None:
    """There is no run object yet: everybody makes it, and one may make it when it is taken already."""
    for number in range(12):
        if number:
            empty.client.send("DELETE", f"/1.0/projects/{empty.project}", {"force": "true"})
        empty.project = f"j{uuid.uuid4().hex[:8]}"
        empty.found()
        held: list[int] = []
        gate = threading.Barrier(6)

        def contend(
            project: str = empty.project, held: list[int] = held, gate: threading.Barrier = gate
        ) -> None:
            own = holder.connect(empty.socket)
            gate.wait()
            run = stage.begin(own, project, times=holder.TIMES, lock_timeout=60)
            held.append(run.generation)
            run.close("ok")
            own.close()

        threads = [threading.Thread(target=contend) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(held) == [2, 3, 4, 5, 6, 7]
        assert (empty.read().state, empty.read().problems) == ("ok", ())


def test_a_killed_holder_is_followed_at_once_and_loses_nothing(stack: Stack) -> None:
    dice = random.Random(3)
    acked: list[str] = []
    for _ in range(6):
        process = stack.start("hold")
        word(process, "acked")
        time.sleep(dice.random() * 0.2)
        process.kill()
        rest, _ = process.communicate()
        acked += [line.split()[2] for line in rest.splitlines() if line.startswith("acked")]
        before = time.monotonic()
        run = stack.begin()
        assert time.monotonic() - before <= 1.0
        known = {line.n for line in run.journal.lines}
        assert {int(stamp.split("/")[1]) for stamp in acked} <= known
        stealing = next(event for event in reversed(stack.read().events()))
        assert stealing.n == max(known)
        run.close("ok")
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    steals = [event for event in journal.events() if isinstance(event, events.Steal)]
    assert len(steals) == 6
    assert all("is gone" in steal.reason for steal in steals)


def test_a_paused_holder_is_followed_and_then_fenced(stack: Stack) -> None:
    for _ in range(3):
        process = stack.start("hold")
        word(process, "acked")
        os.kill(process.pid, signal.SIGSTOP)
        before = time.monotonic()
        run = stack.begin(lock_timeout=60)
        waited = time.monotonic() - before
        assert holder.TIMES.ttl - 0.5 <= waited <= holder.TIMES.ttl + 2
        stage.did(run, stage.step("instance:mine/1"))
        end = run.recorded.sequence
        os.kill(process.pid, signal.SIGCONT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 75
        assert "refused E_FENCED" in rest
        stage.did(run, stage.step("instance:mine/2"))
        run.close("ok")
        journal = stack.read()
        assert (journal.state, journal.problems) == ("ok", ())
        late = [
            event
            for event in journal.events()
            if isinstance(event, events.Intent) and event.n > end and "/w/" in event.address
        ]
        assert late == []


def test_a_stale_write_is_answered_404(stack: Stack) -> None:
    statuses: list[str] = []
    first = stack.begin()
    stage.intend(first, stage.step())
    second = stack.begin(force=first.generation)
    first.intend(stage.step("instance:late/1"), lambda intent: statuses.append("acknowledged"))
    assert first.lost.wait(10)
    with pytest.raises(errors.Fenced) as caught:
        first.close("ok")
    assert isinstance(caught.value.__cause__, errors.NotFound)
    assert statuses == []
    second.close("ok")
    assert "instance:late/1" not in {doubt.address for doubt in stack.read().recorded.doubts}


def test_a_foreign_writer_of_the_project_loses_none_of_our_lines(stack: Stack) -> None:
    done = threading.Event()
    wrote = 0

    def meddle() -> None:
        nonlocal wrote
        other = holder.connect(stack.socket)
        path = f"/1.0/projects/{stack.project}"
        while not done.is_set():
            body, etag = other.get_tagged(path)
            body["config"]["user.other"] = str(wrote)
            try:
                other.send(
                    "PUT", path, None, {"config": body["config"], "description": ""}, etag=etag
                )
            except errors.PreconditionFailed:
                continue
            wrote += 1
            time.sleep(0.02)
        other.close()

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        for n in range(15):
            with stack.begin() as run:
                stage.did(run, stage.step(f"instance:w/{n}"))
    finally:
        done.set()
        thread.join()
    journal = stack.read()
    assert wrote > 5
    assert (journal.state, journal.problems) == ("ok", ())
    assert len(stage.state_of(journal)) == 16


def flip(config: dict[str, str]) -> None:
    key = pages.segment_key(1)
    config[key] = config[key].replace("inst.create", "inst.creaTe", 1)


def cut(config: dict[str, str]) -> None:
    key = pages.segment_key(1)
    config[key] = config[key][:-40]


def headless(config: dict[str, str]) -> None:
    del config[names.HEAD]


def keyless(config: dict[str, str]) -> None:
    del config[names.KEY]


def lineless(config: dict[str, str]) -> None:
    for key in (pages.segment_key(1), names.HEAD, names.LINEAGE):
        del config[key]


@pytest.mark.parametrize("damage", [flip, cut, headless, keyless, lineless])
def test_the_hint_of_a_damaged_journal_works_as_it_stands(
    stack: Stack, damage: Callable[[dict[str, str]], None]
) -> None:
    with stack.begin() as run:
        stage.did(run, stage.step())
    lineage = stack.read().lineage
    config = stack.config()
    damage(config)
    path = f"/1.0/projects/{stack.project}"
    stack.client.call("PUT", path, body={"config": config, "description": ""})
    with pytest.raises(errors.JournalError) as caught:
        stack.begin()
    assert caught.value.exit_status == 4
    commands = [line.strip() for line in caught.value.hint.replace(" \\\n", " ").splitlines()[1:-1]]
    assert commands, caught.value.hint
    where = stack.lab.workdir(stack.project)
    script = "set -e\n" + "\n".join(commands)
    done = stack.lab.run(["sh", "-c", script], cwd=f"/stacks/{stack.project}")
    assert done.returncode == 0, done.stderr
    assert (where / f"{stack.project}.project.yaml").exists()
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    assert journal.lineage == lineage
    assert len(journal.key) == 32
    with stack.begin() as run:
        stage.did(run, stage.step("instance:web/2"))
    assert stack.read().state == "ok"
    assert "instance:web/2" in stage.state_of(stack.read())
    assert json.dumps(stack.config()).count("kept") == 1


def test_the_limit_of_a_request_is_known_to_the_byte(stack: Stack) -> None:
    path = f"/1.0/projects/{stack.project}"
    config = {**stack.config(), "user.huge": ""}
    room = pages.REQUEST - pages.request_size(config, "")
    config["user.huge"] = "x" * room
    assert pages.request_size(config, "") == pages.REQUEST
    stack.client.send("PUT", path, None, {"config": config, "description": ""})
    assert len(stack.config()["user.huge"]) == room
    config["user.huge"] += "x"
    with pytest.raises(errors.OperationFailed, match="too large"):
        stack.client.send("PUT", path, None, {"config": config, "description": ""})
    with pytest.raises(errors.Full):
        stack.begin()
    assert len(stack.config()["user.huge"]) == room
    del config["user.huge"]
    stack.client.send("PUT", path, None, {"config": config, "description": ""})
    with stack.begin() as run:
        stage.did(run, stage.step())
    assert stack.read().state == "ok"


def test_the_client_is_what_the_journal_asks_for(stack: Stack) -> None:
    assert isinstance(stack.client, client.Client)
    reply: lease.Reply = stack.client.send("GET", "/1.0/profiles", {"project": stack.project})
    assert abs(reply.date_ms - time.time() * 1000) < 60_000


@pytest.mark.long
def test_chaos_of_holders_loses_nothing_that_was_acknowledged(stack: Stack) -> None:
    """Eight processes for a minute; one in ten is killed, one in seven paused for longer than its lease."""
    dice = random.Random(11)
    acked: set[int] = set()
    held: list[int] = []
    killed = paused = 0
    end = time.monotonic() + 60
    live: list[tuple[subprocess.Popen[str], str]] = []
    while time.monotonic() < end or live:
        while len(live) < 8 and time.monotonic() < end:
            fate = dice.choices(["live", "kill", "pause"], [75, 10, 15])[0]
            live.append((stack.start("once"), fate))
        process, fate = live.pop(0)
        time.sleep(dice.random() * 0.3)
        if fate == "kill":
            process.kill()
            killed += 1
        elif fate == "pause" and process.poll() is None:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(holder.TIMES.ttl + 0.5)
            os.kill(process.pid, signal.SIGCONT)
            paused += 1
        said, _ = process.communicate(timeout=90)
        assert process.returncode in (0, 75, -signal.SIGKILL), said
        for line in said.splitlines():
            words = line.split()
            if words[0] == "acked":
                acked.add(int(words[1]))
            elif words[0] == "held":
                held.append(int(words[1]))
    stack.begin().close("ok")
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    assert killed > 3
    assert paused > 3
    assert len(held) == len(set(held)) > 20
    assert acked <= {line.n for line in journal.lines}
    generations = [event.generation for event in journal.events() if isinstance(event, events.Run)]
    assert generations == sorted(generations)


@pytest.mark.long
def test_a_run_rides_out_a_daemon_that_is_killed_and_started_again(stack: Stack) -> None:
    process = stack.start("patient")
    dice = random.Random(5)
    acked: list[int] = []
    for _ in range(6):
        acked.append(int(word(process, "acked")[1]))
        time.sleep(dice.random() * 0.2)
        stack.lab.kill_incusd()
        time.sleep(dice.random())
        stack.lab.start_incusd()
    acked.append(int(word(process, "acked")[1]))
    assert process.poll() is None
    process.kill()
    rest, _ = process.communicate()
    acked += [int(line.split()[1]) for line in rest.splitlines() if line.startswith("acked")]
    journal = stack.read()
    assert (journal.state, journal.problems) == ("ok", ())
    assert set(acked) <= {line.n for line in journal.lines}
    stack.begin().close("ok")
