"""Obligation: bad input is one clear error, the exit status of the table, and nothing has changed.

What needs no server is tested beside the readers; these need one, or the lack of one.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.crash import proxy as proxies
from tests.e2e import scenario
from tests.lab import lab as labs

ONE = {"services": {"web": scenario.idle()}}


def refused(
    case: scenario.Scenario,
    document: Any,
    *words: str,
    code: int = 1,
    env: dict[str, str] | None = None,
) -> scenario.Done:
    """Apply must end with this status and these words, and Incus must be as it was."""
    if document is not None:
        case.compose(document)
    before = scenario.everything(case.lab)
    done = case.ic("apply", "-y", code=code, env=env)
    for word in words:
        assert word in done.err, f"{word!r} is not in: {done}"
    assert scenario.everything(case.lab) == before
    assert not case.exists()
    return done


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"services": {"web": {"image": "no-such-image"}}}, ["no-such-image"]),
        ({"services": {"web": {"image": "busybox:no-such-tag"}}}, ["no-such-tag"]),
        (
            {"services": {"web": {"image": "no-such-registry.invalid/x"}}},
            ["no-such-registry.invalid"],
        ),
        (
            {
                "services": {"web": scenario.idle(networks=["out"])},
                "networks": {"out": {"external": True}},
            },
            ["out"],
        ),
        (
            {
                "services": {"web": scenario.idle(volumes=["v:/v"])},
                "volumes": {"v": {"external": True}},
            },
            ["v"],
        ),
        (
            {
                "services": {"web": scenario.idle(networks=["n"])},
                "networks": {"n": {"ipam": {"config": [{"subnet": "10.77.0.0/16"}]}}},
            },
            ["10.77.0"],
        ),
        ({"services": {"web": scenario.idle(ports=["5000:80"])}}, ["5000"]),
        ({"services": {"a" * 70: scenario.idle()}}, ["a" * 70]),
        ({"services": {"a_b": scenario.idle(), "a-b": scenario.idle()}}, ["a-b", "a_b"]),
        ({"services": {"web": scenario.idle(environment={"A": "\0"})}}, ["NUL"]),
        ({"services": {"web": scenario.idle(colour="red")}}, ["colour", "compose.yaml:"]),
        ({"services": {"web": scenario.idle(comand="x")}}, ["comand", "command"]),
        (
            {
                "services": {
                    "a": scenario.idle(depends_on=["b"]),
                    "b": scenario.idle(depends_on=["a"]),
                }
            },
            ["a", "b"],
        ),
        (
            {
                "services": {
                    "a": scenario.idle(ports=["18300:1"]),
                    "b": scenario.idle(ports=["18300:1"]),
                }
            },
            ["18300"],
        ),
        ({"services": {"web": scenario.idle(environment={"A": "${NOT_SET:?say it}"})}}, ["say it"]),
    ],
    ids=lambda value: "-".join(value)[:24] if isinstance(value, list) else "",
)
def test_one_clear_error_and_nothing_changed(
    case: scenario.Scenario, document: dict[str, Any], words: list[str]
) -> None:
    refused(case, document, *words)


def test_a_missing_file_is_an_error(case: scenario.Scenario) -> None:
    refused(case, None, "compose.yaml")


def test_wrong_credentials_are_refused_and_never_printed(case: scenario.Scenario) -> None:
    """The registry of the lab that asks for a password; the files are those podman and docker write."""
    image = f"{labs.PRIVATE_REGISTRY}/private/busybox:1"
    document = {"services": {"web": scenario.idle(image=image)}}
    # lab:wrong-password, in base64
    auth = {"auths": {labs.PRIVATE_REGISTRY: {"auth": "bGFiOndyb25nLXBhc3N3b3Jk"}}}
    case.write("home/.docker/config.json", json.dumps(auth))
    env = {"HOME": f"{case.inside}/home"}
    done = refused(case, document, labs.PRIVATE_REGISTRY, env=env)
    assert "wrong-password" not in done.out + done.err
    assert "bGFi" not in done.out + done.err
    done = refused(case, document, labs.PRIVATE_REGISTRY)

    auth["auths"][labs.PRIVATE_REGISTRY]["auth"] = "bGFiOmxhYi1wYXNzd29yZA=="
    case.write("home/.docker/config.json", json.dumps(auth))
    done = case.ic("apply", "-y", env=env)
    assert case.states() == {"web": "Running"}
    assert case.run("web", "cat", "/etc/private") == "only with a password\n"
    shown = case.ic("history", "--json").out + json.dumps(case.project()) + done.out + done.err
    assert "lab-password" not in shown


def test_an_entrypoint_that_does_not_exist_is_a_failed_step(case: scenario.Scenario) -> None:
    case.compose({"services": {"web": {"image": "busybox", "entrypoint": ["/no/such/program"]}}})
    done = case.ic("apply", "-y", code=1)
    assert "/no/such/program" in done.err or "web" in done.err
    assert case.runs()[0]["status"] == "failed"
    case.become({"web": "Stopped"})
    # The failed start is not forgotten: the next plan wants it again.
    assert "instance:web/1" in case.plan()


def test_no_server_and_a_socket_that_is_not_permitted(case: scenario.Scenario) -> None:
    case.compose(ONE)
    done = case.ic("plan", code=1, env={"INCUS_SOCKET": f"{case.inside}/nothing"})
    assert "nothing" in done.err
    version = case.ic("version", "--json", env={"INCUS_SOCKET": f"{case.inside}/nothing"})
    assert version.json()["server"] is None
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *scenario.IC, "plan"]
    ran = case.lab.run(nobody, cwd=case.inside, env={"HOME": "/nonexistent"})
    assert ran.returncode == 1, ran
    assert "may not use the socket" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_old_server_is_told_what_it_lacks(case: scenario.Scenario) -> None:
    """A server that answers, but knows few API extensions."""
    case.compose(ONE)
    case.write(
        "old.py",
        """\
import http.server, json, socketserver, sys
class Old(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = {"type": "sync", "status": "Success", "status_code": 200, "metadata": {
            "api_extensions": ["storage"], "api_version": "1.0", "auth": "trusted", "config": {},
            "environment": {"server_version": "0.1", "server_clustered": False, "server_name": "old"}}}
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def address_string(self): return "unix"
    def log_message(self, *args): pass
with socketserver.UnixStreamServer(sys.argv[1], Old) as server:
    print("up", flush=True)
    server.serve_forever()
""",
    )
    server = case.lab.popen(["python3", "old.py", "old.sock"], cwd=case.inside)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        done = case.ic("plan", code=1, env={"INCUS_SOCKET": f"{case.inside}/old.sock"})
    finally:
        server.kill()
        server.communicate()
    assert "extension" in done.err
    assert "oci" in done.err


def test_a_closed_stdout_does_not_stop_an_apply(case: scenario.Scenario) -> None:
    case.compose(ONE)
    reader, writer = os.pipe()
    os.close(reader)
    process = case.lab.popen([*scenario.IC, "apply", "-y"], cwd=case.inside, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert case.states() == {"web": "Running"}
    assert case.runs()[0]["status"] == "ok"


def test_home_may_be_missing_or_read_only(case: scenario.Scenario) -> None:
    case.compose(ONE)
    words = ["env", "-u", "HOME", *scenario.IC, "apply", "-y"]
    ran = case.lab.run(words, cwd=case.inside, timeout=60)
    assert ran.returncode == 0, ran
    assert "Traceback" not in ran.stderr
    assert case.states() == {"web": "Running"}
    assert case.ic("plan", "--detailed-exitcode", env={"HOME": "/proc"}).code == 0


def test_terminal_escapes_are_not_passed_on(case: scenario.Scenario) -> None:
    """A name from the server and a value of the file, each with a sequence that would clear a screen."""
    evil = "\x1b[2J\x1b]0;x\x07"
    case.compose({"services": {"web": scenario.idle(image=f"busybox:{evil}")}})
    done = case.ic("plan", code=1)
    assert "\x1b" not in done.out + done.err
    case.compose({"services": {"web": scenario.idle()}, f"unknown{evil}": 1})
    done = case.ic("plan", code=1)
    assert "\x1b" not in done.out + done.err
    case.compose(ONE)
    case.apply()
    case.send("PATCH", "/1.0/instances/web", {"config": {"user.ic.image": f"x{evil}"}})
    for command in ("plan", "ps", "history"):
        done = case.ic(command, code=None)
        assert "\x1b" not in done.out + done.err


def test_without_a_terminal_and_yes_changes_are_refused(case: scenario.Scenario) -> None:
    case.compose(ONE)
    before = scenario.everything(case.lab)
    done = case.ic("apply", code=3)
    assert "-y" in done.err
    assert scenario.everything(case.lab) == before
    case.apply()
    case.ic("apply", code=0)


@pytest.mark.parametrize("number", [1, 9, 18, 26])
def test_an_interrupt_at_any_call_leaves_a_stack_that_one_apply_completes(
    case: scenario.Scenario, number: int
) -> None:
    services = {f"s{n}": scenario.idle(volumes=[f"v{n}:/v"]) for n in range(2)}
    case.compose({"services": services, "volumes": {f"v{n}": {} for n in range(2)}})
    fault = proxies.Fault(number, "after")
    with case.watched(fault):
        process = case.start("apply", "-y")
        fault.action = lambda: process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert fault.fired.is_set()
    assert process.wait() == 130, err
    assert "Traceback" not in err
    if case.exists() and (runs := case.runs()):
        assert runs[0]["status"] == "interrupted"
    case.ic("apply", "-y", "--lock-timeout", "0")
    assert set(case.states().values()) == {"Running"}
    assert case.plan() == {}


def test_a_saved_plan_is_refused_when_anything_has_moved(case: scenario.Scenario) -> None:
    case.compose(ONE)
    case.apply()
    changed = {"services": {"web": scenario.idle(labels={"a": "1"})}}
    case.compose(changed)
    case.ic("plan", "--out", "./p.icplan")
    assert (case.directory / "p.icplan").stat().st_mode & 0o777 == 0o600

    # live state moved
    case.send("PATCH", "/1.0/instances/web", {"config": {"user.foreign": "1"}})
    before = scenario.everything(case.lab)
    case.ic("apply", "-y", "./p.icplan", code=3)
    assert scenario.everything(case.lab) == before

    # files moved
    case.ic("plan", "--out", "./p.icplan")
    case.compose({"services": {"web": scenario.idle(labels={"a": "2"})}})
    case.ic("apply", "-y", "./p.icplan", code=3)
    assert scenario.everything(case.lab) == before

    # journal moved
    case.ic("plan", "--out", "./p.icplan")
    case.apply()
    after = scenario.everything(case.lab)
    case.ic("apply", "-y", "./p.icplan", code=3)
    assert scenario.everything(case.lab) == after

    # nothing moved: just that is done, and nobody is asked
    case.compose(changed)
    case.ic("plan", "--out", "./p.icplan")
    case.ic("apply", "./p.icplan")
    assert case.instance("web")["config"]["user.label.a"] == "1"


def test_unlock_frees_exactly_that_generation(case: scenario.Scenario) -> None:
    case.compose(ONE)
    case.apply()
    before = scenario.everything(case.lab)
    assert case.ic("unlock", "--gen", "999", "-y", code=None).code != 0
    assert scenario.everything(case.lab) == before


def test_stdin_can_be_the_compose_file(case: scenario.Scenario) -> None:
    text = json.dumps({"name": case.name, **ONE})
    case.ic("-f", "-", "apply", "-y", stdin=text)
    assert case.states() == {"web": "Running"}
