"""Obligation: in strict isolation the health daemon's certificate makes nobody root on the host."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.e2e import scenario

DAEMON = scenario.DAEMON
STRICT: dict[str, Any] = {
    "x-ic": {"isolation": "strict"},
    "services": {
        "slow": {
            "image": "lab/slowstop:1",
            "restart": "always",
            "healthcheck": {"test": ["CMD", "true"], "interval": "1s"},
            "volumes": ["data:/data"],
        },
    },
    "volumes": {"data": {}},
}

ATTEMPT = """
import http.client, json, ssl, socket, sys
class Way(http.client.HTTPSConnection):
    def connect(self):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect("/dev/shm/ic-api.sock")
        self.sock = self._context.wrap_socket(raw)
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
at = "/run/secrets/ic-healthd/"
context.load_cert_chain(at + "client.pem", at + "key.pem")
way = Way("x", context=context)
way.request(sys.argv[1], sys.argv[2], sys.argv[3] or None)
print(way.getresponse().read().decode())
"""


class Intruder:
    """Who has taken over the sidecar: whatever its certificate may do."""

    def __init__(self, case: scenario.Scenario) -> None:
        self.case = case

    def ask(self, method: str, path: str, body: object = None) -> Any:
        text = json.dumps(body) if body is not None else ""
        command = ["incus", "exec", "--project", f"{self.case.name}-healthd", DAEMON, "--"]
        done = self.case.lab.run([*command, "python3", "-c", ATTEMPT, method, path, text])
        return json.loads(done.stdout)

    def create(self, config: dict[str, str], devices: dict[str, dict[str, str]]) -> str:
        """Why an instance cannot be made; what is needed besides is right."""
        slow = self.case.instance("slow")
        body = {
            "name": "evil",
            "type": "container",
            "profiles": [],
            "config": config,
            "devices": {"root": slow["devices"]["root"], **devices},
            "source": {"type": "image", "fingerprint": slow["config"]["volatile.base_image"]},
        }
        return self.ask("POST", f"/1.0/instances?project={self.case.name}", body)["error"]


def test_the_daemons_certificate_cannot_leave_its_project(case: scenario.Scenario) -> None:
    case.apply(STRICT)
    intruder = Intruder(case)
    assert "forbidden" in intruder.create({"raw.lxc": "lxc.mount.entry=/ x"}, {})
    assert "security.privileged" in intruder.create({"security.privileged": "true"}, {})
    disk = {"type": "disk", "path": "/host", "source": "/etc"}
    assert "disks not backed by a pool" in intruder.create({}, {"d": disk})
    socket = {
        "type": "proxy",
        "listen": "tcp:127.0.0.1:9",
        "connect": "unix:/var/lib/incus/unix.socket",
    }
    assert "forbidden" in intruder.create({}, {"p": socket})
    assert intruder.ask("GET", "/1.0/projects")["metadata"] == [f"/1.0/projects/{case.name}"]
    for method, path, body in (
        ("PATCH", f"/1.0/projects/{case.name}", {"config": {"restricted": "false"}}),
        ("PATCH", "/1.0", {"config": {"user.x": "y"}}),
        ("GET", f"/1.0/instances/{DAEMON}?project={case.name}-healthd", None),
    ):
        assert intruder.ask(method, path, body)["error_code"] in {403, 404}, path
    assert set(case.instances()) == {"slow"}


def test_a_service_ends_on_its_own_signal_and_the_project_beside_goes_last(
    case: scenario.Scenario,
) -> None:
    case.apply(STRICT)
    assert case.plan() == {}
    config = case.instance("slow")["config"]
    assert "raw.lxc" not in config
    changed = json.loads(json.dumps(STRICT))
    changed["services"]["slow"]["environment"] = {"A": "b"}
    case.apply(changed)
    assert case.read("slow", "/data/stopped")
    case.ic("down", "-v")
    projects = {one["name"] for one in case.lab.api("GET", "/1.0/projects?recursion=1")}
    assert f"{case.name}-healthd" not in projects


def test_the_daemons_own_restart_gives_the_signal_and_the_time_to_end(
    case: scenario.Scenario,
) -> None:
    strict = json.loads(json.dumps(STRICT))
    slow = strict["services"]["slow"]
    slow["healthcheck"]["test"] = ["CMD-SHELL", "test ! -e /data/bad"]
    slow["healthcheck"]["retries"] = 1
    slow["stop_grace_period"] = "15s"
    case.compose(strict)
    case.ic("up", "--wait")
    before = case.started("slow")
    case.run("slow", "touch", "/data/bad")
    end = time.monotonic() + 40
    while case.started("slow") == before:
        assert time.monotonic() < end, case.ic("healthd", "logs").out
        time.sleep(0.2)
    assert case.read("slow", "/data/stopped"), (
        "it was not left the four seconds that it takes to end"
    )
    case.run("slow", "rm", "/data/bad")
    log = case.ic("healthd", "logs").out
    assert "ungraceful" not in log
    assert '"event":"exit"' not in log  # its own doing is no exit


@pytest.mark.parametrize("first", ["default", "strict"])
def test_a_stack_moves_into_isolation_and_out_of_it(case: scenario.Scenario, first: str) -> None:
    default = {key: value for key, value in STRICT.items() if key != "x-ic"}
    ways = [default, STRICT] if first == "default" else [STRICT, default]
    for document in ways:
        case.apply(document)
        assert case.plan() == {}
        strict = "x-ic" in document
        assert (case.project().get("restricted") == "true") == strict
        assert (DAEMON in case.instances()) != strict
        assert ("raw.lxc" in case.instance("slow")["config"]) != strict
