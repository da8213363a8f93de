"""Obligation: the examples do what their first lines say."""

from __future__ import annotations

import shutil
import subprocess
import time

from tests.e2e import scenario
from tests.lab import lab as labs

EXAMPLES = labs.REPO / "examples"
RUN_HERE = ("data", "jobs", "web")


def copied(case: scenario.Scenario, name: str) -> None:
    """The example in the stack's directory, under the stack's name."""
    shutil.copytree(EXAMPLES / name, case.directory, dirs_exist_ok=True)
    case.env["COMPOSE_PROJECT_NAME"] = case.name


def fetched(case: scenario.Scenario, url: str) -> str:
    return case.lab.run(["curl", "-sS", "--max-time", "8", url], check=True).stdout


def test_every_example_is_read_without_a_warning_and_run_here(case: scenario.Scenario) -> None:
    listed = subprocess.run(
        ["git", "-C", str(EXAMPLES), "ls-files", "*/compose.yaml"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = sorted(path.split("/")[0] for path in listed.stdout.split())
    assert found == ["data", "hello", "jobs", "web"]
    for name in found:
        copied(case, name)
        assert case.ic("config").err == ""


def test_hello(case: scenario.Scenario) -> None:
    """The example of the README."""
    copied(case, "hello")
    assert "\ndone: 7 created " in case.ic("apply", "-y").out
    assert case.plan() == {}
    end = time.monotonic() + 10
    while fetched(case, "http://127.0.0.1:8080/") != "<h1>Hello</h1>\n":
        assert time.monotonic() < end
        time.sleep(0.1)
    text = (case.directory / "compose.yaml").read_text()
    (case.directory / "compose.yaml").write_text(text.replace("Hello", "Good morning"))
    assert set(case.plan()) == {"instance:writer/1"}
    case.ic("apply", "-y")
    end = time.monotonic() + 10
    while fetched(case, "http://127.0.0.1:8080/") != "<h1>Good morning</h1>\n":
        assert time.monotonic() < end
        time.sleep(0.1)


def test_web(case: scenario.Scenario) -> None:
    copied(case, "web")
    case.ic("apply", "-y")
    assert case.plan() == {}
    assert set(case.states().values()) == {"Running"}
    ports = [row["ports"] for row in case.ic("ps", "--json").json()["instances"] if row["ports"]]
    assert ports
    published = next(
        d["listen"].rsplit(":", 1)[1]
        for one in case.instances().values()
        for d in one["devices"].values()
        if d["type"] == "proxy"
    )
    assert fetched(case, f"http://127.0.0.1:{published}/")


def test_jobs(case: scenario.Scenario) -> None:
    copied(case, "jobs")
    case.ic("apply", "-y")
    case.become({"migrate": "Stopped", "reader": "Running"})
    assert case.run("reader", "wc", "-l", "/state/log").split()[0] == "1"
    case.ic("apply", "-y")
    assert case.run("reader", "wc", "-l", "/state/log").split()[0] == "1"
    case.ic("up", "-d")
    end = time.monotonic() + 10
    while case.run("reader", "wc", "-l", "/state/log").split()[0] != "2":
        assert time.monotonic() < end
        time.sleep(0.1)
    case.ic("--profile", "check", "apply", "-y")
    assert case.states()["reader"] == "Running"


def test_data(case: scenario.Scenario) -> None:
    copied(case, "data")
    case.ic("apply", "-y")
    assert "Welcome to nginx" in fetched(case, "http://127.0.0.1:18088/")
    assert "note of the host" in case.run("store", "cat", "/usr/share/nginx/html/notes/readme.txt")
    assert "Welcome to nginx" in case.run("writer", "cat", "/pages/index.html")
    case.run("store", "sh", "-c", "echo mine >/usr/share/nginx/html/mine.txt")
    case.ic("down")
    assert case.states() == {}
    case.ic("apply", "-y")
    assert case.run("store", "cat", "/usr/share/nginx/html/mine.txt") == "mine\n"
    case.ic("down", "-v")
    assert case.volumes() == {}
