"""Obligation: the daemon comes to its rights once, keeps them, loses them openly, and has no others.

Sidecars are made here by plain `incus` commands, as docs/healthd.md describes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import build_zipapp
from tests.lab import lab as labs

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DAEMON = "ic-healthd"
VOLUME = "/1.0/storage-pools/default/volumes/custom/ic-healthd"
RECIPE = "lxc.execute.cmd=\nlxc.init.cmd=python3 /ic.pyz healthd\nlxc.signal.halt=SIGTERM"


def until(found: Callable[[], Any], seconds: float = 20.0, what: str = "it") -> Any:
    """What a look brings once it brings something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.05)
    return result


class Server:
    """The lab's Incus as an administrator of trust sees it, for one project."""

    def __init__(self, lab: labs.Lab, project: str) -> None:
        self.lab = lab
        self.project = project
        self.name = f"ic-healthd {project}"

    def token(self, project: str = "") -> str:
        """A pending token, restricted to the project."""
        words = ("config", "trust", "add", self.name, "--restricted", "--quiet")
        return self.lab.run(
            ["incus", *words, "--projects", project or self.project], check=True
        ).stdout.strip()

    def pending(self) -> list[str]:
        """Pending tokens of this name."""
        groups = self.lab.api("GET", "/1.0/operations?recursion=1") or {}
        return [
            one["id"]
            for one in groups.get("running", ())
            if one["class"] == "token" and one["metadata"]["request"]["name"] == self.name
        ]

    def cancel(self) -> None:
        for one in self.pending():
            self.lab.api("DELETE", f"/1.0/operations/{one}")

    def certificates(self) -> list[dict[str, Any]]:
        listed = self.lab.api("GET", "/1.0/certificates?recursion=1")
        return [one for one in listed if one["name"] == self.name]

    def revoke(self) -> None:
        for one in self.certificates():
            self.lab.api("DELETE", f"/1.0/certificates/{one['fingerprint']}")

    def fingerprint(self) -> str:
        return self.lab.api("GET", "/1.0")["environment"]["certificate_fingerprint"]


class Sidecar:
    """A sidecar made by hand."""

    def __init__(self, lab: labs.Lab, project: str, pyz: str) -> None:
        self.lab = lab
        self.project = project
        self.server = Server(lab, project)
        self.incus("project", "create", project, project="")
        self.incus("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
        self.incus(
            *("storage", "volume", "create", "default", DAEMON),
            *("security.shifted=true", "initial.mode=0700"),
        )
        self.make(pyz)

    def make(self, pyz: str) -> None:
        body = {
            "name": DAEMON,
            "source": {
                "type": "image",
                "protocol": "oci",
                "server": "https://127.0.0.1:5000",
                "alias": "library/python:3-alpine",
            },
            "config": {
                "user.healthcheck.daemon": "true",
                "environment.IC_HEALTHD_PROJECT": self.project,
                "raw.lxc": RECIPE,
            },
            "devices": {
                "api": {
                    "type": "proxy",
                    "bind": "instance",
                    "listen": "unix:/dev/shm/ic-api.sock",
                    "mode": "0600",
                    "connect": "tcp:127.0.0.1:8443",
                },
                "identity": {
                    "type": "disk",
                    "pool": "default",
                    "source": DAEMON,
                    "path": "/run/secrets/ic-healthd",
                },
            },
        }
        self.lab.api("POST", f"/1.0/instances?project={self.project}", body)
        for directory in ("/run/secrets", "/run/secrets/ic-healthd"):
            self.file("create", "--type", "directory", f"{DAEMON}{directory}")
        self.file("push", pyz, f"{DAEMON}/ic.pyz", "--mode", "0644")
        self.power("start")

    def incus(self, *words: str, project: str | None = None) -> str:
        where = self.project if project is None else project
        more = ("--project", where) if where else ()
        return self.lab.run(["incus", *more, *words], check=True).stdout

    def file(self, *words: str) -> None:
        self.incus("file", *words, "--uid", "0", "--gid", "0")

    def power(self, action: str, **more: Any) -> None:
        path = f"/1.0/instances/{DAEMON}/state?project={self.project}"
        self.lab.api("PUT", path, {"action": action, "timeout": 10, **more})

    def run(self, *argv: str) -> str:
        return self.incus("exec", DAEMON, "--", *argv)

    def give(self, text: str) -> None:
        """Lay a token down as ic does: a directory that only root opens, then the file in it."""
        path = f"/stacks/{self.project}/token"
        outside = self.lab.workdir(self.project) / "token"
        outside.write_text(text + "\n")
        self.run("mkdir", "-p", "-m", "0700", "/dev/shm/ic-token")
        self.file("push", path, f"{DAEMON}/dev/shm/ic-token/token", "--mode", "0400")
        outside.unlink()

    def state(self) -> dict[str, Any]:
        try:
            text = self.lab.api("GET", f"{VOLUME}/files?project={self.project}&path=/state.json")
        except labs.ApiError:
            return {"state": "none"}
        return json.loads(text) if isinstance(text, str) else text

    def becomes(self, word: str, seconds: float = 20.0) -> dict[str, Any]:
        return until(
            lambda: found if (found := self.state())["state"] == word else None, seconds, word
        )

    def enrolled(self) -> dict[str, Any]:
        """Bring it to where it watches, whatever came before."""
        settled = ("watching", "waiting-for-token", "untrusted", "token-refused", "pin-mismatch")
        until(lambda: self.state()["state"] in settled, 30, "a state")
        if self.state()["state"] != "watching":
            self.server.cancel()
            self.give(self.server.token())
        return self.becomes("watching")

    def connections(self) -> int:
        """Open connections of the daemon to the server, by way of the proxy device."""
        rows = [line.split() for line in self.run("cat", "/proc/net/unix").splitlines()]
        return sum(row[5] == "03" for row in rows if row[-1] == "/dev/shm/ic-api.sock")


@pytest.fixture(scope="module")
def pyz(lab: labs.Lab) -> str:
    """A zipapp of this checkout, where the lab sees it."""
    folder = lab.workdir("identity-pyz")
    build_zipapp.build(
        str(folder / "ic.pyz"), wheels_directory=os.path.join(ROOT, ".cache", "wheels")
    )
    return "/stacks/identity-pyz/ic.pyz"


@pytest.fixture(scope="module")
def sidecar(lab: labs.Lab, pyz: str) -> Iterator[Sidecar]:
    """One sidecar for all tests; each brings it to where it begins."""
    made = Sidecar(lab, f"i{secrets.token_hex(3)}", pyz)
    yield made
    made.server.cancel()
    made.server.revoke()
    lab.sweep(made.project)


def test_the_first_start_finds_its_volume_and_waits(sidecar: Sidecar) -> None:
    found = sidecar.becomes("waiting-for-token", 30)
    assert len(found["certificate"]) == 64
    assert sidecar.server.certificates() == []
    sidecar.give(sidecar.server.token())
    watching = sidecar.becomes("watching")
    assert watching["certificate"] == found["certificate"]
    assert watching["server"] == sidecar.server.fingerprint()
    (one,) = sidecar.server.certificates()
    assert (one["fingerprint"], one["restricted"], one["projects"]) == (
        watching["certificate"],
        True,
        [sidecar.project],
    )
    assert sidecar.server.pending() == []


def test_the_key_is_closed_to_others_and_the_token_is_gone(sidecar: Sidecar) -> None:
    sidecar.enrolled()
    listed = sidecar.run("stat", "-c", "%a %u %F %n", *_inside("/run/secrets/ic-healthd"))
    assert listed.splitlines() == [
        "700 0 directory /run/secrets/ic-healthd",
        "600 0 regular file /run/secrets/ic-healthd/client.pem",
        "600 0 regular file /run/secrets/ic-healthd/key.pem",
        "600 0 regular file /run/secrets/ic-healthd/server.pin",
        "600 0 regular file /run/secrets/ic-healthd/state.json",
    ]
    assert sidecar.run("ls", "/dev/shm/ic-token") == ""
    assert "PRIVATE KEY" not in sidecar.incus("console", DAEMON, "--show-log")


def _inside(directory: str) -> tuple[str, ...]:
    names = ("client.pem", "key.pem", "server.pin", "state.json")
    return (directory, *(f"{directory}/{name}" for name in names))


def test_it_has_no_network_and_no_socket_of_incus(sidecar: Sidecar) -> None:
    sidecar.enrolled()
    assert sidecar.run("ls", "/sys/class/net").split() == ["lo"]
    assert sidecar.run("sh", "-c", "ls /var/lib/incus /run/incus 2>/dev/null; true") == ""
    assert sidecar.run("stat", "-c", "%a", "/dev/shm/ic-api.sock").strip() == "600"


def test_a_restart_and_a_sidecar_made_anew_need_no_token(sidecar: Sidecar, pyz: str) -> None:
    before = sidecar.enrolled()["certificate"]
    sidecar.power("restart")
    assert sidecar.becomes("watching")["certificate"] == before
    sidecar.power("stop", force=True)
    sidecar.lab.api("DELETE", f"/1.0/instances/{DAEMON}?project={sidecar.project}")
    assert sidecar.state()["state"] == "watching"  # what a killed one said last
    since = sidecar.state()["since"]
    sidecar.make(pyz)
    until(lambda: sidecar.state()["since"] != since, what="another life")
    assert sidecar.becomes("watching")["certificate"] == before
    assert len(sidecar.server.certificates()) == 1


def test_a_stop_ends_it_in_order_within_three_seconds(sidecar: Sidecar) -> None:
    sidecar.enrolled()
    began = time.monotonic()
    sidecar.power("stop")
    took = time.monotonic() - began
    assert sidecar.state()["state"] == "ended"
    assert took < 4.0  # of which the server itself takes 0.7
    profiles = sidecar.lab.api("GET", f"/1.0/profiles?project={sidecar.project}&recursion=1")
    (stream,) = [one for one in profiles if one["name"].startswith("ic.hd.")]
    assert stream["config"]["user.ic.hold"] == "free"
    assert '"k":"hd.end"' in stream["config"]["user.ic.ev"].splitlines()[-1]
    sidecar.power("start")
    sidecar.becomes("watching")


def test_a_revoked_certificate_stops_all_work_and_closes_every_connection(sidecar: Sidecar) -> None:
    sidecar.enrolled()
    until(sidecar.connections, what="a connection")
    sidecar.server.revoke()
    # The work notices at its next call: a change of an instance's keys is one.
    path = f"/1.0/instances/{DAEMON}?project={sidecar.project}"
    sidecar.lab.api("PATCH", path, {"config": {"user.mark": secrets.token_hex(4)}})
    profile = f"/1.0/profiles/default?project={sidecar.project}"
    sidecar.lab.api("PATCH", profile, {"config": {"user.mark": secrets.token_hex(4)}})
    sidecar.becomes("untrusted", 75)
    until(lambda: sidecar.connections() == 0, 5.0, "the end of all connections")
    sidecar.give(sidecar.server.token())
    sidecar.becomes("watching")


def test_a_spent_a_cancelled_and_an_expired_token_are_each_refused_with_their_reason(
    sidecar: Sidecar,
) -> None:
    sidecar.enrolled()
    sidecar.server.revoke()
    sidecar.power("restart")
    sidecar.becomes("untrusted")
    text = sidecar.server.token()
    sidecar.server.cancel()
    sidecar.give(text)
    assert "used, expired, cancelled, or lost" in sidecar.becomes("token-refused")["detail"]
    sidecar.lab.api("PATCH", "/1.0", {"config": {"core.remote_token_expiry": "1S"}})
    try:
        text = sidecar.server.token()
    finally:
        sidecar.lab.api("PATCH", "/1.0", {"config": {"core.remote_token_expiry": ""}})
    time.sleep(1.5)
    sidecar.give(text)
    until(lambda: "expired at" in sidecar.state().get("detail", ""), what="the reason")
    sidecar.give("!" * 40)
    until(lambda: "not the base64" in sidecar.state().get("detail", ""), what="the reason")
    sidecar.server.cancel()
    sidecar.give(sidecar.server.token())
    sidecar.becomes("watching")
    assert sidecar.server.pending() == []


def test_a_token_that_the_server_lost_in_a_restart_is_followed_by_the_next(
    sidecar: Sidecar,
) -> None:
    sidecar.enrolled()
    sidecar.server.revoke()
    sidecar.power("restart")
    sidecar.becomes("untrusted")
    text = sidecar.server.token()
    sidecar.lab.restart_incusd()
    sidecar.give(text)
    sidecar.becomes("token-refused", 40)
    sidecar.give(sidecar.server.token())
    sidecar.becomes("watching")


@pytest.mark.parametrize("then", ["at once", "after a restart"])
def test_a_wiped_volume_begins_anew_with_another_key(sidecar: Sidecar, then: str) -> None:
    before = sidecar.enrolled()["certificate"]
    sidecar.run("sh", "-c", "rm /run/secrets/ic-healthd/*")
    if then == "after a restart":
        sidecar.power("restart")
    seconds = 5 if then == "at once" else 20
    assert sidecar.becomes("waiting-for-token", seconds)["certificate"] != before
    sidecar.server.revoke()
    sidecar.give(sidecar.server.token())
    sidecar.becomes("watching")


def test_a_bad_identity_is_mended_by_the_command_that_it_names(sidecar: Sidecar) -> None:
    before = sidecar.enrolled()["certificate"]
    sidecar.run("chmod", "0644", "/run/secrets/ic-healthd/key.pem")
    sidecar.power("restart")
    detail = sidecar.becomes("bad-identity")["detail"]
    command = detail.rpartition("; ")[2]
    assert command.startswith(f"incus exec ic-healthd --project {sidecar.project} -- chmod 0600 ")
    sidecar.lab.run(["sh", "-c", command], check=True)
    assert sidecar.becomes("watching")["certificate"] == before


def test_a_replaced_server_certificate_is_met_with_silence_until_a_token_names_it(
    sidecar: Sidecar,
) -> None:
    before = sidecar.enrolled()
    with another_certificate(sidecar.lab):
        detail = sidecar.becomes("pin-mismatch", 40)["detail"]
        assert before["server"] in detail or sidecar.server.fingerprint() in detail
        sidecar.give(sidecar.server.token())
        after = sidecar.becomes("watching")
        assert after["server"] == sidecar.server.fingerprint() != before["server"]
        assert after["certificate"] == before["certificate"]
        sidecar.server.cancel()  # it was not needed: the certificate was known
    sidecar.becomes("pin-mismatch", 40)
    sidecar.give(sidecar.server.token())
    assert sidecar.becomes("watching")["server"] == before["server"]
    sidecar.server.cancel()


@contextlib.contextmanager
def another_certificate(lab: labs.Lab) -> Generator[None]:
    """Within the block the lab's server shows a certificate that it has just made."""
    files = [lab.path(f"/var/lib/incus/{name}") for name in ("server.crt", "server.key")]
    kept = [file.read_bytes() for file in files]
    lab.stop_incusd()
    try:
        for file in files:
            file.unlink()
        lab.start_incusd()
        yield
    finally:
        lab.stop_incusd()
        for file, content in zip(files, kept, strict=True):
            file.write_bytes(content)
        lab.start_incusd()


FORBIDDEN = """
import json, sys
from ic import errors
from ic.incus import client, remotes, transport
certificate, key, pin, project, me = sys.argv[1:]
way = remotes.Server(
    name="incus", host="127.0.0.1", fingerprint=pin, certificate=certificate, key=key
)
api = client.Client(transport.connect(way))
other = {"project": "default"}
widened = {"name": "x", "type": "client", "restricted": False, "projects": []}
tried = {
    "list another project": lambda: api.get("/1.0/instances", other),
    "read another project": lambda: api.get("/1.0/projects/default"),
    "write another project": lambda: api.send("POST", "/1.0/profiles", other, {"name": "x"}),
    "hear another project": lambda: api.events(other).__enter__(),
    "change the server": lambda: api.send("PATCH", "/1.0", None, {"config": {"user.x": "y"}}),
    "make a project": lambda: api.send("POST", "/1.0/projects", None, {"name": "p-x"}),
    "change its project": lambda: api.send(
        "PATCH", f"/1.0/projects/{project}", None, {"config": {"restricted": "false"}}
    ),
    "delete its project": lambda: api.send("DELETE", f"/1.0/projects/{project}"),
    "widen itself": lambda: api.send("PUT", f"/1.0/certificates/{me}", None, widened),
    "make a token": lambda: api.send(
        "POST", "/1.0/certificates", None, {"name": "x", "type": "client", "token": True}
    ),
    "change a network": lambda: api.send(
        "PATCH", "/1.0/networks/incusbr0", other, {"config": {"user.x": "y"}}
    ),
    "make a network": lambda: api.send(
        "POST", "/1.0/networks", {"project": project}, {"name": "x", "type": "bridge"}
    ),
    "make a pool": lambda: api.send(
        "POST", "/1.0/storage-pools", None, {"name": "x", "driver": "dir"}
    ),
    "pull an image": lambda: api.send(
        "POST", "/1.0/images", other, {"source": {"type": "image", "alias": "x"}}
    ),
}
found = {}
for what, call in tried.items():
    try:
        result = call()
        found[what] = "nothing" if what.startswith("list ") and result == [] else "allowed"
    except errors.IncusError as error:
        found[what] = error.code
found["its own project"] = type(api.get("/1.0/instances", {"project": project})).__name__
found["settings seen"] = api.get("/1.0")["config"]
print(json.dumps(found))
"""


def test_its_certificate_may_do_nothing_beyond_its_project(
    sidecar: Sidecar, tmp_path: Path
) -> None:
    state = sidecar.enrolled()
    for name in ("client.pem", "key.pem"):
        text = sidecar.run("cat", f"/run/secrets/ic-healthd/{name}")
        (tmp_path / name).write_text(text)
    found = json.loads(
        python(
            sidecar.lab,
            "-c",
            FORBIDDEN,
            str(tmp_path / "client.pem"),
            str(tmp_path / "key.pem"),
            state["server"],
            sidecar.project,
            state["certificate"],
        ).stdout
    )
    assert found.pop("its own project") == "list"
    assert found.pop("settings seen") == {}
    allowed = {what: code for what, code in found.items() if code not in _NO}
    assert allowed == {}
    assert sidecar.lab.api("GET", "/1.0")["config"].get("user.x") is None
    assert "user.x" not in sidecar.lab.api("GET", "/1.0/networks/incusbr0")["config"]
    assert {"x", "p-x"}.isdisjoint(
        one.rpartition("/")[2]
        for kind in ("projects", "networks", "storage-pools", "profiles")
        for one in sidecar.lab.api("GET", f"/1.0/{kind}")
    )
    (still,) = sidecar.server.certificates()
    assert (still["restricted"], still["projects"]) == (True, [sidecar.project])


_NO = ("E_FORBIDDEN", "E_RESTRICTED", "E_NOT_FOUND", "nothing")


def python(lab: labs.Lab, *argv: str) -> subprocess.CompletedProcess[str]:
    """A program of this checkout's Python in the lab's network."""
    return subprocess.run(
        ["nsenter", "-t", str(lab.living()), "-n", sys.executable, *argv],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
def test_a_kill_at_any_call_of_the_exchange_costs_neither_the_token_nor_the_next_start(
    lab: labs.Lab, tmp_path: Path, step: int
) -> None:
    project = f"i{secrets.token_hex(3)}"
    lab.api("POST", "/1.0/projects", {"name": project, "config": {}})
    server = Server(lab, project)
    program = os.path.join(ROOT, "tests", "e2e", "exchange.py")
    cut, points = 0, 0
    while True:
        folder = tmp_path / str(cut)
        (folder / "volume").mkdir(parents=True, mode=0o700)
        token = folder / "token"
        token.write_text(server.token())
        token.chmod(0o400)
        first = python(lab, program, str(folder), project, str(cut))
        if first.returncode == 0:
            break
        assert first.returncode == 9, (cut, first.stdout, first.stderr)
        points += 1
        second = python(lab, program, str(folder), project, "-1")
        assert second.returncode == 0, (cut, first.stdout, second.stdout, second.stderr)
        assert not token.exists(), cut
        (one,) = server.certificates()
        assert (one["restricted"], one["projects"]) == (True, [project])
        assert server.pending() == [], cut
        server.revoke()
        cut += step
    server.revoke()
    lab.api("DELETE", f"/1.0/projects/{project}")
    assert points >= 20 // step
