"""The daemon's calls: gracefully first, then by force; what is there already is fine; holds are read."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ic import errors, names
from ic.healthd import calls
from ic.incus import client as incus
from ic.journal import lease

RUN_OBJECT = "ic.lock.{}.00000012.abcdef01"


class Client:
    """Keeps what it is asked, and fails where it is told to."""

    def __init__(self, *failures: str) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[str, str, Any]] = []
        self.on_request: Any = None
        self.profiles: list[dict[str, Any]] = []
        self.log = b""
        self.signals: list[str] = []
        self.shell = True
        self.statuses: list[str] = []
        self.runs = ["one"]  # what looks in turn find
        self.under_way: list[dict[str, Any]] = []

    def signal_main(self, instance: str, signal: str, query: Any) -> bool:
        self.signals.append(signal)
        return self.shell

    def get_tagged(self, path: str, query: Any) -> Any:
        status = self.statuses.pop(0) if self.statuses else "Running"
        run = self.runs.pop(0) if len(self.runs) > 1 else self.runs[0]
        return {"status": status, "last_used_at": run}, '"e"'

    def operations(self, project: str) -> list[dict[str, Any]]:
        return self.under_way

    def call(
        self, method: str, path: str, query: Any, body: Any, *, guard: Any, timeout: float
    ) -> None:
        if guard is not None:
            guard()
        self.asked.append((method, path, body))
        if self.failures and (text := self.failures.pop(0)):
            raise errors.OperationFailed(f"cannot {body['action']} web: {text}")

    def send(
        self, method: str, path: str, query: Any, body: Any, *, etag: str, timeout: float
    ) -> None:
        self.asked.append((method, path, (body, etag)))

    def get(self, path: str, query: Any) -> Any:
        return self.profiles

    def log_file(self, path: str, name: str, query: Any) -> bytes:
        return self.log

    def deeds(self) -> list[tuple[str, bool]]:
        return [(body["action"], body.get("force", False)) for _, _, body in self.asked]


def _calls(client: Client) -> calls.Calls:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return calls.Calls(cast("Any", client), "shop", clock=lambda: now[0], sleep=sleep)


def test_a_restart_is_graceful_then_by_force_then_a_start():
    client = Client()
    _calls(client).restart("web", 2_500)
    assert client.asked == [
        (
            "PUT",
            "/1.0/instances/web/state",
            {"action": "restart", "timeout": 3, "force": False},
        )
    ]
    client = Client("context deadline exceeded")
    _calls(client).restart("web", 2_500)
    assert client.deeds() == [("restart", False), ("restart", True)]
    client = Client("not running", "not running")
    _calls(client).restart("web", 2_500)
    assert client.deeds() == [("restart", False), ("restart", True), ("start", False)]
    client = Client()
    _calls(client).restart("web", 0)
    assert client.deeds() == [("restart", True)]


def test_what_somebody_ended_in_the_middle_of_a_restart_is_started_when_it_has_ended_for_good():
    client = Client("already stopped", "already stopped")
    looks = ["Running", "Running"]  # before each request
    client.statuses = [*looks, "Stopped", "Running", *["Stopped"] * incus.STOPPED_LOOKS]
    _calls(client).restart("web", 2_500, run="one")
    assert client.deeds() == [("restart", False), ("restart", True), ("start", False)]
    assert client.statuses == []


def test_a_restart_is_over_when_somebody_else_has_made_one_or_it_is_not_wanted_any_more():
    client = Client("context deadline exceeded")
    client.runs = ["one", "two"]
    assert _calls(client).restart("web", 2_500, run="one")
    assert client.deeds() == [("restart", False)]
    client = Client("already stopped", "already stopped")
    wanted = iter([True, True, False])
    assert _calls(client).restart("web", 2_500, run="one", wanted=lambda: next(wanted))
    assert client.deeds() == [("restart", False), ("restart", True)]
    client = Client()
    client.runs = ["two"]
    assert _calls(client).stop("web", 2_500, run="one")
    _calls(client).start("web", wanted=lambda: False)
    assert client.asked == []


def test_a_restart_under_way_is_told_from_other_operations():
    client = Client()
    found = _calls(client)
    about = {"instances": ["/1.0/instances/web?project=shop"]}
    client.under_way = [
        {"description": "Executing command", "resources": about},
        {"description": "Restarting instance", "resources": {"instances": ["/1.0/instances/db"]}},
        {"description": "Pruning images", "resources": None},
    ]
    assert not found.moving("web")
    assert found.moving("db")
    client.under_way.append({"description": "Restarting instance", "resources": about})
    assert found.moving("web")


def test_a_stop_is_graceful_then_by_force_and_without_grace_by_force():
    client = Client("context deadline exceeded")
    _calls(client).stop("web", 1_000)
    assert client.deeds() == [("stop", False), ("stop", True)]
    client = Client()
    _calls(client).stop("web", 0)
    assert client.deeds() == [("stop", True)]
    client = Client("The instance is already stopped")
    _calls(client).stop("web", 1_000)
    assert client.deeds() == [("stop", False)]


def test_a_start_of_what_runs_is_fine_and_one_in_vain_is_an_error():
    _calls(Client("The instance is already running")).start("web")
    with pytest.raises(errors.OperationFailed):
        _calls(Client("no such file")).start("web")


def test_keys_are_written_by_compare_and_swap():
    client = Client()
    _calls(client).patch("web", {"user.x": "1"}, '"abc"')
    assert client.asked == [("PATCH", "/1.0/instances/web", ({"config": {"user.x": "1"}}, '"abc"'))]


def test_an_exit_code_is_read_off_the_log():
    client = Client()
    client.log = b"lxc web 20261123 INFO error - error.c:1 - Child <7> ended on error (37)\n"
    assert _calls(client).ending("web") == (37, False)
    client.log = b""
    assert _calls(client).ending("web") == (None, False)


def test_what_its_host_has_cut_off_did_not_end_with_0():
    client = Client()
    begun = b"lxc web 20261123 INFO utils - utils.c:1 - "
    client.log = begun + b"Executing script \"/proc/47/exe callhook '/v' 'web' start\"\n"
    client.statuses = ["Stopped", "Stopped", "Running"]
    assert _calls(client).ending("web") == (None, False)
    about = {"instances": ["/1.0/instances/web?project=shop"]}
    client.under_way = [{"description": "Starting instance", "resources": about}]
    assert _calls(client).ending("web") == (0, False)  # another run has begun: that of this was 0
    client.under_way = []
    assert _calls(client).ending("web") == (0, False)
    client.log += begun + b"Executing script \"/proc/47/exe callhook '/v' 'web' stop\"\n"
    client.statuses = ["Stopped"]
    assert _calls(client).ending("web") == (0, False)


def test_a_hold_is_the_newest_generation_and_held():
    client = Client()
    found = _calls(client)
    name = RUN_OBJECT.format(names.short_hash("shop"))
    assert lease.parse_name("shop", name) == (12, "abcdef01")
    held = {names.HOLD: "somebody", names.HEARTBEAT: "3"}
    client.profiles = [{"name": "default"}, {"name": name, "config": held}]
    first = found.heartbeat("12")
    assert first
    assert found.heartbeat("11") == ""
    held[names.HEARTBEAT] = "4"
    assert found.heartbeat("12") not in ("", first)
    held[names.HOLD] = lease.FREE
    assert found.heartbeat("12") == ""


def test_short_calls_are_heard_and_long_ones_are_not():
    client = Client()
    before: list[str] = []
    client.on_request = lambda method, target, seconds: before.append(target)
    found = _calls(client)
    heard: list[float] = []
    found.heard = heard.append
    client.on_request("GET", "/1.0/instances/web", 0.25)
    client.on_request("GET", "/1.0/operations/x/wait?timeout=30", 29.0)
    assert heard == [250.0]
    assert len(before) == 2


@pytest.mark.parametrize("deed", ["restart", "stop"])
def test_where_the_server_may_not_know_the_stop_signal_it_is_given_from_inside(deed: str):
    client = Client()
    # What ends is called stopped for an instant, then running again.
    client.statuses = ["Running", "Stopped", "Running", "Stopped", "Stopped", "Stopped"]
    found = _calls(client)
    assert getattr(found, deed)("web", 7_000, "SIGQUIT")
    assert client.signals == ["SIGQUIT"]
    assert client.deeds() == ([("start", False)] if deed == "restart" else [])


@pytest.mark.parametrize("deed", ["restart", "stop"])
def test_what_does_not_end_on_its_signal_in_time_is_ended_by_force(deed: str):
    client = Client()
    assert getattr(_calls(client), deed)("web", 2_000, "SIGTERM")
    assert client.deeds() == [(deed, True)]


@pytest.mark.parametrize("deed", ["restart", "stop"])
def test_without_a_shell_the_server_gives_what_it_gives_and_that_is_said(deed: str):
    client = Client()
    client.shell = False
    assert not getattr(_calls(client), deed)("web", 2_000, "SIGTERM")
    assert client.deeds() == [(deed, False)]


def test_a_kill_gives_no_signal_from_inside():
    client = Client()
    assert _calls(client).stop("web", 0, "SIGTERM")
    assert client.signals == []
    assert client.deeds() == [("stop", True)]
