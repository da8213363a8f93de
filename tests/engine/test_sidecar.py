"""Setting up the health daemon's sidecar on the real server, with a daemon that behaves as it is told."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.engine import deeds
from ic.engine import sidecar as acting
from ic.engine.tools import Tools
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.resources import kind, sidecar
from tests.engine import standin
from tests.lab import lab as labs

INSTANCE = "/1.0/instances/ic-healthd"
VOLUMES = "/1.0/storage-pools/default/volumes/custom"
LINEAGE = "a1b2c3d4e5f6"


def certificate(folder: Path) -> str:
    """A key and a certificate of it, in PEM."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=standin"
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    return (folder / "key").read_text() + (folder / "crt").read_text()


class Stage:
    """A project with a sidecar in it that was created and not started."""

    def __init__(self, lab: labs.Lab, name: str, folder: Path) -> None:
        self.lab = lab
        self.name = name
        self.folder = folder
        self.query = {"project": name}
        server = remotes.Server(name="lab", socket=str(lab.socket))
        self.client = incus.Client(transport.connect(server))
        self.identity = sidecar.identity_name(name, LINEAGE)

    def make(self, manner: str, command: str = "python3 /ic.pyz healthd", **enrol: Any) -> None:
        """Create it, put the stand-in into it, start it."""
        source = {
            "type": "image",
            "mode": "pull",
            "protocol": "oci",
            "server": f"https://{labs.REGISTRY}",
            "alias": "library/python:3-alpine",
        }
        pulled = self.client.call(
            "POST", "/1.0/images", {"project": "default"}, {"source": source, "auto_update": False}
        )
        volume = {
            "name": "ic-healthd",
            "type": "custom",
            "config": {"security.shifted": "true", "initial.mode": "0700"},
        }
        self.client.call("POST", VOLUMES, self.query, volume)
        recipe = f"lxc.execute.cmd=\nlxc.init.cmd={command}\nlxc.log.level=info"
        body = {
            "name": "ic-healthd",
            "type": "container",
            "profiles": [],
            "config": {"raw.lxc": recipe},
            "devices": {
                "root": {"type": "disk", "path": "/", "pool": "default"},
                "identity": {
                    "type": "disk",
                    "pool": "default",
                    "source": "ic-healthd",
                    "path": sidecar.IDENTITY,
                },
                "api": {
                    "type": "proxy",
                    "bind": "instance",
                    "listen": f"unix:{sidecar.SOCKET}",
                    "connect": "tcp:127.0.0.1:8443",
                    "mode": "0600",
                },
            },
            "source": {"type": "image", "fingerprint": pulled["fingerprint"]},
        }
        self.client.call("POST", "/1.0/instances", self.query, body)
        file = self.folder / "daemon.py"
        file.write_bytes(standin.source(manner, certificate(self.folder)))
        self.perform(
            kind.Place(
                path=INSTANCE,
                query=self.query,
                directories=(sidecar.IDENTITY,),
                file=sidecar.ZIPAPP,
                source=str(file),
            )
        )

    def start(self) -> None:
        self.perform(kind.Start(path=INSTANCE, query=self.query))

    def perform(self, deed: kind.Deed, **tools: Any) -> dict[str, str]:
        step = kind.Step(id="x#y", address=sidecar.ADDRESS, event="cert.enrol", deed=deed)
        return deeds.perform(self.tools(**tools), step, deed, "", {})

    def tools(self, **more: Any) -> Tools:
        return Tools(
            client=self.client,
            lineage=LINEAGE,
            guard=lambda: None,
            confirm_delete=lambda: None,
            env={},
            **more,
        )

    def enrol(self, patience_ms: int = 20_000, **tools: Any) -> dict[str, str]:
        deed = kind.Enrol(
            path=INSTANCE,
            query=self.query,
            name=self.identity,
            projects=(self.name,),
            state_path=f"{VOLUMES}/ic-healthd",
            state_query=self.query,
            patience_ms=patience_ms,
        )
        return self.perform(deed, **tools)

    def watching(self, patience_ms: int = 20_000, **tools: Any) -> None:
        deed = kind.AwaitWatching(
            path=INSTANCE,
            query=self.query,
            state_path=f"{VOLUMES}/ic-healthd",
            state_query=self.query,
            patience_ms=patience_ms,
        )
        self.perform(deed, **tools)

    def restart(self) -> None:
        found = acting.find(self.client, self.name)
        assert found is not None
        acting.restart(self.tools(), found)

    def say(self, word: sidecar.Word, since: int) -> None:
        """What a daemon of earlier said of itself."""
        told = sidecar.encode(sidecar.State(state=word, since=since))
        file = incus.FileStat(type="file", mode=0o600, uid=0, gid=0)
        volume = f"{VOLUMES}/ic-healthd"
        self.client.file_push(volume, sidecar.STATE_FILE, self.query, stat=file, content=told)

    def log(self, text: str) -> None:
        """What a daemon of earlier has logged."""
        file = incus.FileStat(type="file", mode=0o600, uid=0, gid=0)
        volume = f"{VOLUMES}/ic-healthd"
        self.client.file_push(
            volume, sidecar.LOG_FILE, self.query, stat=file, content=text.encode()
        )

    def revoke(self) -> None:
        self.perform(kind.Revoke(name=self.identity, projects=(self.name,)))

    def token(self, **over: Any) -> dict[str, Any]:
        """What the server gives for a token; its operation has the `id`."""
        body = {
            "name": self.identity,
            "type": "client",
            "token": True,
            "restricted": True,
            "projects": [self.name],
            **over,
        }
        return self.client.send("POST", "/1.0/certificates", None, body).metadata

    def pending(self) -> list[str]:
        """The names of pending tokens that have to do with this stage."""
        groups = self.client.get("/1.0/operations", {"recursion": "1", "project": "default"})
        return [
            one["metadata"]["request"]["name"]
            for group in groups.values()
            for one in group
            if one["class"] == "token"
            and one["status"] == "Running"
            and self.name in one["metadata"]["request"]["name"]
        ]

    def ended(self, operation: str) -> bool:
        """Whether an operation is over; the server remembers it for 5 s."""
        try:
            return self.client.get(f"/1.0/operations/{operation}")["status"] == "Cancelled"
        except errors.NotFound:
            return True

    def trusted(self) -> list[dict[str, Any]]:
        found = self.client.get("/1.0/certificates", {"recursion": "1"})
        return [one for one in found if self.name in one["name"]]

    def shm(self) -> tuple[str, ...]:
        return self.client.file_list(INSTANCE, "/dev/shm", self.query)

    def close(self) -> None:
        for name in self.pending():
            acting.cancel_tokens(self.client, name, (self.name,))
        for one in self.trusted():
            self.client.call("DELETE", f"/1.0/certificates/{one['fingerprint']}")
        self.client.close()
        self.lab.sweep(self.name)


@pytest.fixture
def stage(lab: labs.Lab, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(lab, f"t-side-{os.urandom(3).hex()}", tmp_path)
    lab.api("POST", "/1.0/projects", {"name": made.name, "config": {"features.images": "false"}})
    yield made
    made.close()


# --- the whole way --------------------------------------------------------------------------------


def test_the_daemon_gets_an_identity_restricted_to_its_project(stage: Stage) -> None:
    stage.make("good")
    assert stage.client.file_get(INSTANCE, sidecar.ZIPAPP, stage.query)[1].startswith(
        b'"""A health'
    )
    stage.start()
    brought = stage.enrol()
    [one] = stage.trusted()
    assert brought == {"certificate": one["fingerprint"]}
    assert (one["restricted"], one["projects"], one["type"]) == (True, [stage.name], "client")
    assert stage.pending() == []
    directory = stage.client.file_stat(INSTANCE, sidecar.TOKEN_DIRECTORY, stage.query)
    assert directory is not None
    assert (directory.mode, directory.uid) == (0o700, 0)
    stage.revoke()
    assert stage.trusted() == []
    stage.revoke()  # twice is the same


def test_what_a_killed_run_left_is_cancelled_first(stage: Stage) -> None:
    stage.make("good")
    stage.start()
    left = stage.token()
    others = stage.token(projects=[stage.name, "default"])
    stage.enrol()
    assert stage.pending() == [stage.identity]  # with other projects: not ours to take
    assert stage.ended(left["id"])
    stage.client.call("DELETE", f"/1.0/operations/{others['id']}")


def test_a_token_that_nobody_uses_is_cancelled_with_the_daemons_own_reason(stage: Stage) -> None:
    stage.make("deaf")
    stage.start()
    with pytest.raises(errors.OperationFailed) as caught:
        stage.enrol(patience_ms=1500)
    assert caught.value.code == "E_HEALTHD"
    assert "waiting-for-token: no token lies there" in caught.value.summary
    assert stage.pending() == []
    assert stage.client.file_list(INSTANCE, sidecar.TOKEN_DIRECTORY, stage.query) == ()


def test_a_refused_token_is_replaced_once_and_then_told(stage: Stage) -> None:
    stage.make("refused")
    stage.start()
    began = time.monotonic()
    with pytest.raises(errors.OperationFailed, match="token-refused: the server answered 403"):
        stage.enrol(patience_ms=2000)
    assert time.monotonic() - began < 6
    assert stage.pending() == []


@pytest.mark.parametrize(("manner", "code"), [("ended", 3), ("late", 4)])
def test_a_daemon_that_ends_is_told_with_its_output_and_the_remedy(
    stage: Stage, manner: str, code: int
) -> None:
    stage.make(manner)
    stage.start()
    with pytest.raises(errors.OperationFailed) as caught:
        stage.enrol()
    assert f"its process ended with exit code {code}" in caught.value.summary
    assert f"stand-in: {manner}" in caught.value.details
    logged = [one for one in caught.value.details if '"event": "begun-late"' in one]
    assert len(logged) == (manner == "late")
    assert "--healthd-image python:3-alpine" in caught.value.hint
    assert stage.pending() == []


def test_what_another_reader_took_from_the_console_is_told_from_the_log(stage: Stage) -> None:
    stage.make("late")
    stage.log('{"time": "2020-01-01T00:00:00.000Z", "event": "long-ago"}\nno JSON\n[]\n')
    stage.start()
    end = time.monotonic() + 10
    while not stage.client.last_output(INSTANCE, stage.query):
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(errors.OperationFailed) as caught:
        stage.enrol()
    assert sum('"event": "begun-late"' in one for one in caught.value.details) == 1
    assert not [one for one in caught.value.details if "long-ago" in one or "no JSON" in one]


# --- one that has its identity --------------------------------------------------------------------


def test_a_daemon_with_an_identity_is_waited_for_until_it_watches(stage: Stage) -> None:
    stage.make("watching")
    stage.say("watching", 1)  # of an earlier life: says nothing of this one
    began = time.time()
    stage.start()
    stage.watching()
    volume = f"{VOLUMES}/ic-healthd"
    state = acting.read_state(stage.client, volume, stage.query)
    assert state is not None
    assert state.since >= began * 1000
    assert acting.why_not(stage.client, volume, stage.query) == ""
    stage.say("watching", 1)
    assert acting.why_not(stage.client, volume, stage.query) == "it has said nothing"


def test_it_is_started_anew_whatever_its_process_does(stage: Stage, monkeypatch: Any) -> None:
    monkeypatch.setattr(acting, "RESTART_SECONDS", 1)
    stage.make("watching")
    stage.start()

    def state(action: str, **more: Any) -> None:
        stage.client.call("PUT", f"{INSTANCE}/state", stage.query, {"action": action, **more})

    def anew() -> tuple[str, str]:
        stage.restart()
        now = stage.client.get(INSTANCE, stage.query)
        return now["status"], now["last_used_at"]

    runs = [stage.client.get(INSTANCE, stage.query)["last_used_at"]]
    for spoil in (
        lambda: state("stop", force=True),
        lambda: state("freeze"),  # and, thawed, it does not heed SIGTERM
    ):
        spoil()
        status, run = anew()
        assert (status, run not in runs) == ("Running", True)
        runs.append(run)
    stage.watching()


@pytest.mark.parametrize(
    ("manner", "seconds", "reason"),
    [
        ("dies", 8, "its process ended with exit code 5"),
        ("deaf", 8, "waiting-for-token: no token lies there"),
        ("untrusted", 8, "untrusted: so it is"),
        ("unreachable", 12, "unreachable: so it is"),
    ],
)
def test_one_that_does_not_come_to_watch_is_told_with_its_reason_and_its_log(
    stage: Stage, manner: str, seconds: float, reason: str
) -> None:
    stage.make(manner)
    stage.start()
    began = time.monotonic()
    with pytest.raises(errors.OperationFailed) as caught:
        stage.watching(patience_ms=3000)
    assert time.monotonic() - began < seconds
    assert caught.value.code == "E_HEALTHD"
    assert reason in caught.value.summary
    assert any(f"begun-{manner}" in one for one in caught.value.details)
    volume = f"{VOLUMES}/ic-healthd"
    assert reason in acting.why_not(stage.client, volume, stage.query)


def test_the_waiting_for_it_ends_when_a_person_wants_that(stage: Stage) -> None:
    stage.make("unreachable")
    stage.start()
    with pytest.raises(errors.Interrupted):
        stage.watching(interrupted=lambda: True)


def test_an_image_without_an_interpreter_is_told_with_the_remedy(stage: Stage) -> None:
    stage.make("good", command="python9 /ic.pyz healthd")
    with pytest.raises(errors.OperationFailed) as caught:
        stage.start()
    assert caught.value.code == "E_ENTRYPOINT"
    assert "--healthd-image python:3-alpine" in caught.value.hint


def test_an_interruption_takes_the_token_back(stage: Stage) -> None:
    stage.make("deaf")
    stage.start()
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(errors.Interrupted):
        stage.enrol(interrupted=stop.is_set)
    assert stage.pending() == []


# --- a token that an administrator made -------------------------------------------------------------


def given(stage: Stage, operation: dict[str, Any], mode: int = 0o600) -> str:
    file = stage.folder / "token"
    file.write_bytes(
        acting.encoded(
            {
                "client_name": stage.identity,
                "fingerprint": operation["metadata"]["fingerprint"],
                "addresses": operation["metadata"]["addresses"],
                "secret": operation["metadata"]["secret"],
                "expires_at": acting.NEVER_EXPIRES,
            }
        )
    )
    file.chmod(mode)
    return str(file)


def test_a_given_token_is_used(stage: Stage) -> None:
    stage.make("good")
    stage.start()
    stage.enrol(token_file=given(stage, stage.token()))
    [one] = stage.trusted()
    assert (one["restricted"], one["projects"]) == (True, [stage.name])


def test_a_given_token_that_brings_more_rights_is_refused_and_its_certificate_revoked(
    stage: Stage,
) -> None:
    stage.make("good")
    stage.start()
    with pytest.raises(errors.OperationFailed) as caught:
        stage.enrol(token_file=given(stage, stage.token(restricted=False, projects=[])))
    assert caught.value.code == "E_TOKEN_RIGHTS"
    assert f"--restricted --projects {stage.name}" in caught.value.hint
    assert stage.trusted() == []


TOKEN = base64.b64encode(json.dumps({"secret": "s", "fingerprint": "f"}).encode())


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (TOKEN, 0o600, ""),
        (TOKEN + b"\n", 0o400, ""),
        (TOKEN, 0o640, "E_TOKEN_MODE"),
        (TOKEN, 0o604, "E_TOKEN_MODE"),
        (TOKEN[:-9], 0o600, "E_TOKEN_FORMAT"),
        (b"", 0o600, "E_TOKEN_FORMAT"),
        (b"\x00\xff", 0o600, "E_TOKEN_FORMAT"),
        (base64.b64encode(b"[]"), 0o600, "E_TOKEN_FORMAT"),
        (base64.b64encode(b'{"secret": 1, "fingerprint": "f"}'), 0o600, "E_TOKEN_FORMAT"),
        (base64.b64encode(b"[" * 9000), 0o600, "E_TOKEN_FORMAT"),
    ],
)
def test_a_token_file_is_checked_and_never_quoted(
    tmp_path: Path, content: bytes, mode: int, code: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    if not code:
        assert acting.read_token(str(file)) == TOKEN + b"\n"
        return
    with pytest.raises(errors.UsageError) as caught:
        acting.read_token(str(file))
    assert caught.value.code == code
    shown = " ".join((caught.value.summary, *caught.value.details, caught.value.hint))
    assert not content or content.decode(errors="replace") not in shown


def test_a_token_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(errors.UsageError, match="cannot read token file"):
            acting.read_token(str(path))


# --- small things ---------------------------------------------------------------------------------


def test_trouble_is_the_daemons_own_words() -> None:
    assert acting.trouble(None) == "it has said nothing"
    state = sidecar.State(state="untrusted", since=1)
    assert acting.trouble(state) == "it is untrusted"
    state = sidecar.State(state="unreachable", since=1, detail="connection refused")
    assert acting.trouble(state) == "unreachable: connection refused"


def test_a_file_that_cannot_be_read_is_named(stage: Stage) -> None:
    deed = kind.Place(path=INSTANCE, query=stage.query, file="/ic.pyz", source="/nowhere/ic.pyz")
    with pytest.raises(errors.PlanError, match=r"cannot put /nowhere/ic\.pyz into instance"):
        stage.perform(deed)
