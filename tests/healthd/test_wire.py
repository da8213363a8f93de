"""The stand-in server and the real one give the daemon's own calls the same answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ic import errors
from ic.healthd import probes
from ic.incus import client, remotes, transport
from tests.healthd import wire
from tests.lab import lab as labs

PROJECT = "t-wire"
OF = {"project": PROJECT}
BOX = "/1.0/instances/box"


def named(call: Callable[[], Any]) -> Any:
    """What a call gives, or the name and code of its error."""
    try:
        return call()
    except errors.IncusError as error:
        return type(error).__name__, error.code


def shape(value: Any, keys: tuple[str, ...]) -> dict[str, str]:
    """The types of some keys of a body."""
    return {key: type(value[key]).__name__ for key in keys}


def transcript(one: client.Client) -> list[Any]:
    """What the daemon's calls give on a server whose project has one running instance, `box`."""
    said: list[Any] = [one.get("/1.0")["auth"], one.get(f"/1.0/projects/{PROJECT}")["name"]]
    said.append(named(lambda: one.get("/1.0/projects/other", {"project": "other"})) is not None)
    keys = ("name", "status", "last_used_at", "config", "expanded_config", "project", "profiles")
    listed = one.get("/1.0/instances", {**OF, "recursion": "1"})
    said += [len(listed), shape(listed[0], keys), listed[0]["status"]]
    said.append(named(lambda: one.get("/1.0/instances/none", OF)))
    said += conditional(one)
    said += probed(one)
    said += powered(one)
    said += profiled(one)
    said.append(
        one.transport.request("GET", "/1.0/operations/none/wait", query={"timeout": "0"}).status
    )
    return said


def conditional(one: client.Client) -> list[Any]:
    """Writes under an ETag."""
    said: list[Any] = []
    _, first = one.get_tagged(BOX, OF)
    said.append(one.get_tagged(BOX, OF)[1] == first)
    with one.events(OF) as events:
        one.send("PATCH", BOX, OF, {"config": {"user.a": "1", "user.b": "2"}}, etag=first)
        event = events.next(5)
        assert event is not None
        metadata = event["metadata"]
        said.append((event["type"], metadata["action"], metadata["name"], "requestor" in metadata))
        said.append(metadata["source"])
    body, second = one.get_tagged(BOX, OF)
    said += [second != first, body["config"]["user.a"]]
    said.append(named(lambda: one.send("PATCH", BOX, OF, {"config": {"user.a": "3"}}, etag=first)))
    one.send("PATCH", BOX, OF, {"config": {"user.a": ""}}, etag=second)
    config = one.get(BOX, OF)["config"]
    said.append(("user.a" in config, config.get("user.b")))
    return said


def probed(one: client.Client) -> list[Any]:
    """Probes that pass, fail, cannot be run, and take too long."""
    said: list[Any] = []
    prober = probes.Prober(one, PROJECT)
    with one.events(OF) as events:
        for argv in (("true",), ("false",), ("/none",), ("sleep", "30")):
            order = probes.Order(instance="box", argv=argv, timeout_ms=700, marker=argv[0])
            found = prober(order, threading.Event())
            said.append((found.kind, found.code, found.leaked, found.error))
        actions: list[tuple[str, bool]] = []
        while (event := events.next(0.3)) is not None:
            metadata = event["metadata"]
            if metadata["action"] == "instance-exec" and "kill" not in str(metadata["context"]):
                actions.append((metadata["action"], "requestor" in metadata))
        said.append(actions)
    with one.exec(BOX, ["sleep", "30"], OF) as running:
        said.append(one.exec_status(running, 0))
    said.append(one.exec_status(running, 5))
    return said


def powered(one: client.Client) -> list[Any]:
    """Stops and starts, and what is told of them."""
    said: list[Any] = []
    with one.events(OF) as events:
        state = BOX + "/state"
        one.call("PUT", state, OF, {"action": "restart", "force": True, "timeout": 20})
        one.call("PUT", state, OF, {"action": "stop", "force": True, "timeout": 20})
        said.append(one.get(BOX, OF)["status"])
        said.append(named(lambda: one.call("PUT", state, OF, {"action": "stop"})))
        order = probes.Order(instance="box", argv=("true",), timeout_ms=700, marker="m")
        said.append(probes.Prober(one, PROJECT)(order, threading.Event()).kind)
        one.call("PUT", state, OF, {"action": "start", "timeout": 20})
        said.append(one.get(BOX, OF)["status"])
        told: list[tuple[str, bool]] = []
        while (event := events.next(0.5)) is not None:
            metadata = event["metadata"]
            if metadata["action"] != "instance-paused":  # a forced stop freezes first
                told.append((metadata["action"], "requestor" in metadata))
        said.append([one for one in told if "file" not in one[0]])
    return said


def profiled(one: client.Client) -> list[Any]:
    """The stream's own object."""
    made: dict[str, object] = {"name": "x1", "description": "", "config": {"user.a": "1"}}
    return [
        named(lambda: one.send("POST", "/1.0/profiles", OF, made).metadata),
        named(lambda: one.send("POST", "/1.0/profiles", OF, made).metadata),
        named(lambda: one.send("POST", "/1.0/profiles/x1", OF, {"name": "x2"}).metadata),
        named(lambda: one.send("POST", "/1.0/profiles/x1", OF, {"name": "x2"}).metadata)[0],
        named(
            lambda: one.send("PATCH", "/1.0/profiles/x2", OF, {"config": {"user.b": "2"}}).metadata
        ),
        named(lambda: one.send("PATCH", "/1.0/profiles/x1", OF, {"config": {}}).metadata),
        [
            (found["name"], found["config"])
            for found in one.get("/1.0/profiles", {**OF, "recursion": "1"})
            if found["name"] != "default"
        ],
        named(lambda: one.send("DELETE", "/1.0/profiles/x2", OF).metadata),
        named(lambda: one.send("DELETE", "/1.0/profiles/x2", OF).metadata),
    ]


def test_the_stand_in_answers_as_the_real_server_does(lab: labs.Lab, tmp_path: Path) -> None:
    lab.sweep(PROJECT)
    with client.Client(
        transport.connect(remotes.Server(name="lab", socket=str(lab.socket)))
    ) as one:
        config = {"features.images": "false", "features.profiles": "true"}
        one.call("POST", "/1.0/projects", None, {"name": PROJECT, "config": config})
        body = {
            "name": "box",
            "type": "container",
            "profiles": [],
            "config": {"oci.entrypoint": "/bin/sleep 600"},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
            "source": {
                "type": "image",
                "protocol": "oci",
                "server": "https://docker.io",
                "alias": "library/busybox",
            },
        }
        one.call("POST", "/1.0/instances", OF, body)
        one.call("PUT", BOX + "/state", OF, {"action": "start"})
        real = transcript(one)
    lab.sweep(PROJECT)
    path = str(tmp_path / "s")
    server = wire.Server(PROJECT)
    server.add("box")
    with wire.serving(path, server):
        with client.Client(transport.connect(remotes.Server(name="x", socket=path))) as one:
            assert transcript(one) == real
