"""`ic healthd`: when it is the daemon and when a question; how the daemon begins, speaks and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.cli import main, output
from ic.cli.commands import healthd
from ic.healthd import identity, manager, probes
from ic.incus import remotes
from ic.resources import sidecar

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit status and messages of a command line."""
    status = main.main(["healthd", *argv])
    return status, capsys.readouterr().err


def test_without_a_project_it_is_no_daemon_and_names_the_question(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(sidecar.PROJECT_VARIABLE, raising=False)
    status, err = told(capsys)
    assert status == 1
    assert "neither IC_HEALTHD_PROJECT nor --project" in err
    assert "ic healthd status" in err


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["sing"], "there are status, logs, restart, check"),
        (["check"], "which service?"),
        (["status", "web"], "status takes no service"),
        (["logs", "-n", "-1"], "-n takes a number from 0"),
        (["status", "-n", "1"], "only logs has lines"),
        (["restart", "--json"], "has no result to print"),
        (["--project", "p", "--api", "http://x"], "neither https://HOST:PORT nor a socket"),
        (["--project", "p", "--api", "https://x:99999"], "is not a port"),
    ],
)
def test_what_is_typed_wrong_is_said(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = told(capsys, *argv)
    assert status == 1
    assert reason in err


def test_a_line_of_the_log_that_is_cut_off_is_its_text() -> None:
    assert healthd._entry('{"event":"watching","code":1}') == {"event": "watching", "code": 1}
    for line in ('{"event":"wat', "[1]", ""):
        assert healthd._entry(line) == {"text": line}


def test_a_round_needs_an_identity(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    status, err = told(capsys, "--project", "p", "--once", "--identity", str(tmp_path))
    assert status == 1
    assert "holds no identity yet" in err
    assert os.listdir(tmp_path) == []


def test_the_way_to_the_server_is_a_socket_or_an_address() -> None:
    way = remotes.Server(name="incus", socket="/dev/shm/x", tls=True)
    for text in ("/dev/shm/x", "unix:/dev/shm/x", "unix:///dev/shm/x"):
        assert healthd._server(text) == way
    assert healthd._server("https://[::1]:8443").host == "::1"
    with pytest.raises(errors.UsageError):
        healthd._server("10.0.0.1:8443")


@pytest.mark.parametrize(
    ("one", "well", "shown"),
    [
        (
            manager.Round(
                name="web", result=probes.Result(kind="exit", output=b"a\n\x1b[31mok\n\n")
            ),
            True,
            {"instance": "web", "result": "exit", "code": 0, "output": "\x1b[31mok"},
        ),
        (
            manager.Round(name="web", result=probes.Result(kind="exit", code=1)),
            False,
            {"instance": "web", "result": "exit", "code": 1},
        ),
        (
            manager.Round(name="web", result=probes.Result(kind="timeout")),
            False,
            {"instance": "web", "result": "timeout", "code": 0},
        ),
        (
            manager.Round(name="web", problems=(("user.healthcheck.test", "no JSON"),)),
            False,
            {"instance": "web", "misconfigured": ["user.healthcheck.test"]},
        ),
    ],
)
def test_a_round_says_what_each_check_gave(
    one: manager.Round, well: bool, shown: dict[str, Any]
) -> None:
    assert healthd._is_well(one) is well
    assert healthd._round(one) == shown


# --- as a process ---


class Process:
    """A daemon of this checkout, and what it has written."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder = folder
        self.volume = folder / "volume"
        self.volume.mkdir(mode=0o700, exist_ok=True)
        self.log = folder / "log"
        with open(self.log, "a") as log:
            self.popen = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ic",
                    "healthd",
                    "--api",
                    str(folder / "api.sock"),
                    "--identity",
                    str(self.volume),
                    "--token-file",
                    str(folder / "token"),
                    *(more or ("--metrics", "")),
                ],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], sidecar.PROJECT_VARIABLE: "shop"},
                stdout=log,
                stderr=log,
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def state(self) -> sidecar.State | None:
        try:
            return sidecar.decode((self.volume / "state.json").read_bytes())
        except FileNotFoundError:
            return None


Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Process] = []

    def begin(*more: str) -> Process:
        made.append(Process(tmp_path, *more))
        return made[-1]

    yield begin
    for one in made:
        if one.popen.poll() is None:
            one.popen.kill()
        one.popen.wait(10)


def until(found: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What a look brings once it brings something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
    return result


def waits(one: Process) -> bool:
    found = one.state()
    return found is not None and found.state == "waiting-for-token"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_waits_for_a_token_and_ends_at_a_signal(start: Start, number: signal.Signals) -> None:
    one = start()
    until(lambda: waits(one))
    began = time.monotonic()
    one.popen.send_signal(number)
    assert one.popen.wait(5) == 0
    assert time.monotonic() - began < 3.0
    assert [line["event"] for line in one.lines()] == [
        "start",
        "state",
        "identity",
        "state",
        "state",
        "end",
    ]
    assert all(line["time"].endswith("Z") for line in one.lines())
    found = one.state()
    assert found is not None
    assert found.state == "ended"


def test_a_kill_at_any_moment_of_the_first_start_leaves_one_identity_or_none(start: Start) -> None:
    seen: set[str] = set()
    for after in (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        one = start()
        until(lambda one=one: one.log.read_text())
        time.sleep(after)
        one.popen.kill()
        one.popen.wait(10)
        one.log.write_text("")
    last = start()
    until(lambda: waits(last))
    place = identity.Place(directory=str(last.volume), project="shop")
    found = identity.load(place, time.time())
    assert found is not None
    seen.add(found.fingerprint)
    assert sorted(name for name in os.listdir(last.volume) if not name.startswith(".")) == [
        identity.CERTIFICATE,
        "daemon.log",
        identity.KEY,
        "state.json",
    ]


def test_it_answers_with_metrics_where_it_was_asked_to(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.sock")
    one = start("--metrics", path)
    until(lambda: waits(one))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        connection.settimeout(5)
        text = b""
        while piece := connection.recv(4096):
            text += piece
    assert b'ic_healthd_state{ic_healthd_state="waiting-for-token"} 1\n' in text
    assert text.endswith(b"# EOF\n")


def test_without_a_place_for_metrics_it_lives_on(start: Start, tmp_path: Path) -> None:
    one = start("--metrics", str(tmp_path / "none" / "metrics.sock"))
    until(lambda: waits(one))
    assert [line for line in one.lines() if line["event"] == "metrics"]


def test_a_closed_log_does_not_end_it(start: Start) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    folder = start().folder
    one = subprocess.Popen(
        [sys.executable, "-m", "ic", "healthd", "--project", "p", "--identity", str(folder / "v"),
         "--token-file", str(folder / "none"), "--api", "/nowhere"],
        cwd=ROOT, stdout=writer, stderr=writer,
    )  # fmt: skip
    os.close(writer)
    time.sleep(1.5)
    assert one.poll() is None
    one.terminate()
    assert one.wait(5) == 0


def test_the_log_beside_the_state_is_closed_to_others_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthd, "LOG_LIMIT", 1000)
    path = str(tmp_path / "daemon.log")
    for n in range(100):
        healthd._append(path, b"%080d\n" % n)
    assert sorted(os.listdir(tmp_path)) == ["daemon.log", "daemon.log.1"]
    kept = b"".join(Path(name).read_bytes() for name in (path + ".1", path)).split()
    assert kept == [b"%080d" % n for n in range(100 - len(kept), 100)]
    assert len(kept) > 10
    assert all(os.stat(name).st_mode & 0o777 == 0o600 for name in (path, path + ".1"))


def test_the_logs_are_safe_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    class Session:
        out = output.Output()

    healthd._Log(Session()).say("check", {"output": "\x1b]0;owned\x07"})  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert json.loads(shown)["output"] == "\x1b]0;owned\x07"
