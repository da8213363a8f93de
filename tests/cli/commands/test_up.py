"""`ic up`: in the background and in the foreground."""

from __future__ import annotations

import signal

from tests.cli import test_documents as schemas
from tests.cli.commands import conftest
from tests.e2e import scenario


def test_in_the_background_it_returns_with_a_document(shop: scenario.Scenario) -> None:
    shop.compose(conftest.STACK)
    done = shop.ic("up", "-d", "--json", "web")
    schemas.Schema("ic.apply-1").check(done.json())
    assert done.json()["status"] == "ok"
    assert "add -d" in shop.ic("up", "--json", code=1).err


def test_in_the_foreground_it_ends_when_everything_has_ended(shop: scenario.Scenario) -> None:
    done = shop.ic("up", "job")
    assert "job | worked\n" in done.out
    assert "job exited with code 0" in done.err
    shop.ended("job")


def test_ctrl_c_stops_what_runs_and_removes_nothing(shop: scenario.Scenario) -> None:
    process = shop.start("up")
    assert process.stdout is not None
    while "job | " not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.wait() == 130, err
    assert "Traceback" not in err
    assert shop.states() == {"web": "Stopped", "job": "Stopped"}
    newest = shop.runs()[0]
    assert (newest["command"], newest["status"]) == ("stop", "ok")
    shop.apply()
    assert shop.states()["web"] == "Running"
