"""Events and their ends: on a real server, and on one that refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from ic import errors
from ic.incus import client, remotes, transport
from tests.incus import fake
from tests.lab import lab as labs


def test_a_refused_websocket_says_why(tmp_path: Path) -> None:
    with fake.client_of(str(tmp_path / "s"), lambda _: fake.failed(403, "not for you")) as (one, _):
        with pytest.raises(
            errors.Forbidden, match="cannot follow the server's events: not for you"
        ):
            with one.events():
                pass


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
def test_a_server_that_speaks_no_websocket_is_unreachable_for_it(
    tmp_path: Path, raw: bytes
) -> None:
    with fake.client_of(str(tmp_path / "s"), lambda _: fake.Reply(raw=raw)) as (one, _):
        with pytest.raises(errors.Unreachable, match="websocket"), one.events():
            pass


def test_a_redirect_of_a_websocket_is_not_followed(tmp_path: Path) -> None:
    moved = fake.Reply(b"", 302, {"Location": "ws://127.0.0.1:9/"})
    with fake.client_of(str(tmp_path / "s"), lambda _: moved) as (one, server):
        with pytest.raises(errors.IncusError), one.events():
            pass
    assert len(server.requests) == 1


def test_without_a_server_events_are_unreachable(tmp_path: Path) -> None:
    one = client.Client(transport.connect(remotes.Server(name="x", socket=str(tmp_path / "none"))))
    with pytest.raises(errors.Unreachable, match="no such socket"), one.events():
        pass


def test_events_come_as_they_happen_and_only_those_of_the_project(
    lab: labs.Lab, stack: object
) -> None:
    name = getattr(stack, "name", "")
    server = remotes.Server(name="lab", socket=str(lab.socket))
    with client.Client(transport.connect(server)) as one:
        one.call("POST", "/1.0/projects", None, {"name": name, "config": {}})
        with one.events({"project": name}) as events:
            assert events.next(0.05) is None
            one.call("POST", "/1.0/profiles", None, {"name": name})
            one.call("POST", "/1.0/profiles", {"project": name}, {"name": "mine"})
            one.call("DELETE", "/1.0/profiles/mine", {"project": name})
            actions: list[tuple[str, str]] = []
            for event in events:
                actions.append((event["project"], event["metadata"]["action"]))
                if len(actions) == 2:
                    break
        one.call("DELETE", f"/1.0/profiles/{name}")
    assert actions == [(name, "profile-created"), (name, "profile-deleted")]
