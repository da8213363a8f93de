"""What a service manager hears: real sockets, a path and an abstract name."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ic.cli import notify


class Manager:
    """A socket as systemd gives one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(2)

    def heard(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"ic-notify-{os.getpid()}-{time.monotonic_ns()}"
    made = Manager(str(tmp_path / "n") if request.param == "path" else f"@{name}")
    yield made
    made.socket.close()


def test_status_and_readiness_reach_the_manager(manager: Manager) -> None:
    notifier = notify.Notifier(manager.address)
    notifier.status("waiting for\n db  (is starting)")
    assert manager.heard() == "STATUS=waiting for db (is starting)"
    notifier.status("waiting for db (is starting)")  # told once
    notifier.ready("2 instances of shop up")
    assert manager.heard() == "READY=1\nSTATUS=2 instances of shop up"


def test_its_patience_is_asked_for_at_once_and_while_it_lasts(manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.address}
    with notify.telling(env, wanted=True, beat_seconds=0.1):
        assert [manager.heard() for _ in range(3)] == ["EXTEND_TIMEOUT_USEC=30000000"] * 3
    time.sleep(0.2)
    manager.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        for _ in range(3):
            manager.heard()


def test_nobody_is_told_who_did_not_ask(manager: Manager) -> None:
    manager.socket.settimeout(0.2)
    for env, wanted in (({}, True), ({"NOTIFY_SOCKET": manager.address}, False)):
        with notify.telling(env, wanted=wanted) as notifier:
            notifier.ready("up")
    with pytest.raises(TimeoutError):
        manager.heard()


def test_a_manager_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    notify.Notifier(str(tmp_path / "nowhere")).ready("up")
