"""Metrics: the text, and the socket that gives it."""

import os
import re
import socket
from pathlib import Path

import pytest

from ic.healthd import manager, metrics
from ic.resources import sidecar

STATE = sidecar.State(
    state="watching", since=0, project="shop", build="b1", watched=2, misconfigured=("web: x",)
)
FIGURES = manager.Figures(
    probes={"exit": 12, "timeout": 1},
    acts={"restart": 2},
    writes=5,
    listings=1,
    late_ms=1500.0,
    late={50.0: 10, 250.0: 2, float("inf"): 1},
    states={"web": ("running", "healthy", 2), 'a"b\\c\nd': ("stopped", "", 0)},
    brown_out="",
)
LINE = re.compile(
    r'^[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})? [0-9.]+$'
)


def test_every_line_has_the_form_of_openmetrics_and_the_last_one_ends_it() -> None:
    text = metrics.render(STATE, FIGURES, cpu=1.25, memory=4096)
    lines = text.splitlines()
    assert lines[-1] == "# EOF"
    assert text.endswith("# EOF\n")
    for line in lines[:-1]:
        assert line.startswith(("# TYPE ", "# HELP ", "# UNIT ")) or LINE.match(line), line


def test_every_family_is_declared_once_before_its_samples() -> None:
    lines = metrics.render(STATE, FIGURES).splitlines()
    declared = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    known: set[str] = set()
    for line in lines:
        if line.startswith("# TYPE"):
            known.add(line.split()[2])
        elif not line.startswith("#"):
            name = re.split(r"[{ ]", line)[0]
            assert name in known or re.sub("_(total|info|bucket|count|sum)$", "", name) in known, (
                line
            )


def test_units_are_the_end_of_the_names() -> None:
    for line in metrics.render(STATE, FIGURES).splitlines():
        if line.startswith("# UNIT"):
            _, _, name, unit = line.split()
            assert name.endswith("_" + unit)


def test_what_matters_is_there() -> None:
    lines = metrics.render(STATE, FIGURES, cpu=1.25, memory=4096).splitlines()
    for line in (
        'ic_healthd_state{ic_healthd_state="watching"} 1',
        'ic_healthd_state{ic_healthd_state="untrusted"} 0',
        "ic_healthd_watched 2",
        "ic_healthd_misconfigured 1",
        'ic_healthd_probes_total{result="exit"} 12',
        'ic_healthd_acts_total{act="restart"} 2',
        'ic_healthd_probe_late_seconds_bucket{le="0.05"} 10',
        'ic_healthd_probe_late_seconds_bucket{le="0.25"} 12',
        'ic_healthd_probe_late_seconds_bucket{le="+Inf"} 13',
        "ic_healthd_probe_late_seconds_sum 1.500000",
        'ic_healthd_instance{instance="web",power="running",health="healthy"} 1',
        'ic_healthd_instance_restarts_total{instance="a\\"b\\\\c\\nd"} 0',
        "process_cpu_seconds_total 1.250000",
        "process_resident_memory_bytes 4096",
    ):
        assert line in lines


def test_without_work_there_are_no_counts() -> None:
    text = metrics.render(STATE, None)
    assert "probes" not in text
    assert text.endswith("# EOF\n")


def test_the_process_uses_something() -> None:
    cpu, memory = metrics.usage()
    assert cpu > 0
    assert memory > 1024 * 1024


def asked(path: str, request: bytes, *, shut: bool = False) -> bytes:
    """What the socket gives to a request."""
    found = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        if request:
            connection.sendall(request)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(4096):
            found += piece
    return found


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "metrics.sock")


def test_it_answers_by_http_and_plainly_again_and_again(path: str) -> None:
    Path(path).write_text("left by an earlier start")
    server = metrics.Server(path, lambda: "# EOF\n")
    server.start()
    assert os.stat(path).st_mode & 0o777 == 0o600
    for _ in range(3):
        head, _, body = asked(path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").partition(
            b"\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"openmetrics-text; version=1.0.0" in head
        assert body == b"# EOF\n"
        assert asked(path, b"", shut=True) == b"# EOF\n"
    assert asked(path, b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    server.close()


def test_who_says_nothing_holds_nobody_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PATIENCE", 0.1)
    server = metrics.Server(path, lambda: "# EOF\n")
    server.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(path)
        assert asked(path, b"GET / HTTP/1.1\r\n\r\n").endswith(b"# EOF\n")
    assert asked(path, b"x" * 5000, shut=True) == b"# EOF\n"
    server.close()
