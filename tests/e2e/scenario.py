"""A stack as a person has it: files in a directory, `ic` run there, and Incus itself to look at.

Enters: the lab, a name. What `ic` did is looked up in Incus with plain requests of the lab's own
client, never in ic's words; only a test of those words reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
import urllib.parse
from collections.abc import Generator, Mapping
from typing import Any

from tests.crash import proxy
from tests.lab import lab as labs

IC = ("python3", "/opt/ic/ic.pyz")
DAEMON = "ic-healthd"  # the health daemon's instance and volume

# Ends at once on SIGTERM: PID 1 ignores every signal it does not handle.
IDLE = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]

# An instance that a person made, in whatever project.
GUEST: dict[str, Any] = {
    "name": "guest",
    "source": {"type": "none"},
    "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
}


@dataclasses.dataclass(frozen=True)
class Done:
    """How a run of ic ended, with everything it said."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"ic {' '.join(self.argv)} -> {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


class Scenario:
    """One stack in one lab. `place` is where ic runs: the lab itself, or another machine."""

    def __init__(self, lab: labs.Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.directory = lab.workdir(name)
        self.inside = f"/stacks/{name}"
        self.env: dict[str, str] = {}

    # --- what a person does -----------------------------------------------------------------------

    def write(self, path: str, text: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def compose(self, document: Mapping[str, Any]) -> None:
        """Write compose.yaml; JSON is YAML. The stack's name stands in the file."""
        self.write("compose.yaml", json.dumps({"name": self.name, **document}, indent=1))

    def ic(
        self,
        *argv: str,
        code: int | None = 0,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: str | None = None,
        timeout: float = 90.0,
        place: labs.Place | None = None,
    ) -> Done:
        """Run ic to its end; the exit status must be `code` (None: any)."""
        ran = (place or self.lab).run(
            [*IC, *argv],
            cwd=cwd or self.inside,
            env={**self.env, **(env or {})},
            input=stdin,
            timeout=timeout,
        )
        done = Done(argv, ran.returncode, ran.stdout, ran.stderr)
        assert code is None or done.code == code, f"expected {code}: {done}"
        assert "Traceback" not in done.err, done
        return done

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> labs.Process:
        """Start ic and go on; its pid is that of ic itself."""
        return self.lab.popen([*IC, *argv], cwd=self.inside, env={**self.env, **(env or {})})

    def apply(self, document: Mapping[str, Any] | None = None, *argv: str, code: int = 0) -> Done:
        """Write the file, when one is given, and `ic apply -y`."""
        if document is not None:
            self.compose(document)
        return self.ic("apply", "-y", *argv, code=code)

    def plan(self, *argv: str) -> dict[str, Any]:
        """The changes of `ic plan --json`, by address."""
        found = self.ic("plan", "--json", *argv).json()
        return {change["address"]: change for change in found["changes"]}

    @contextlib.contextmanager
    def watched(self, fault: proxy.Fault | None = None) -> Generator[proxy.Proxy]:
        """Within the block ic's requests pass a numbering proxy (until INCUS_SOCKET leaves `env`)."""
        with proxy.Proxy(self.directory / "p.sock", self.lab.socket, fault) as made:
            self.env["INCUS_SOCKET"] = f"{self.inside}/p.sock"
            try:
                yield made
            finally:
                self.env.pop("INCUS_SOCKET", None)

    # --- what Incus says --------------------------------------------------------------------------

    def get(self, path: str, /, **query: str) -> Any:
        """One GET within the stack's project."""
        words = urllib.parse.urlencode({"project": self.name, **query})
        return self.lab.api("GET", f"{path}?{words}")

    def send(self, method: str, path: str, body: object, /, **query: str) -> Any:
        """What a person does to Incus behind ic's back, within the stack's project."""
        words = urllib.parse.urlencode({"project": self.name, **query})
        return self.lab.api(method, f"{path}?{words}", body)

    def exists(self) -> bool:
        """Whether Incus has the stack's project."""
        return self.name in {p["name"] for p in self.lab.api("GET", "/1.0/projects?recursion=1")}

    def project(self) -> dict[str, str]:
        """The config of the stack's project."""
        return self.lab.api("GET", f"/1.0/projects/{self.name}")["config"]

    def instances(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.get("/1.0/instances", recursion="1")}

    def states(self) -> dict[str, str]:
        """Instance -> Running, Stopped."""
        return {name: one["status"] for name, one in self.instances().items()}

    def become(self, expected: Mapping[str, str]) -> None:
        """Wait until the states are these.

        What has just ended by itself is called stopped for an instant, then running for half a second.
        """
        end = time.monotonic() + 3
        while self.states() != expected:
            assert time.monotonic() < end, self.states()
            time.sleep(0.1)

    def pid(self, instance: str) -> int:
        """Process 1 of a running instance as the lab numbers it."""
        return self.get(f"/1.0/instances/{instance}/state")["pid"]

    def instance(self, name: str) -> dict[str, Any]:
        return self.get(f"/1.0/instances/{name}")

    def networks(self) -> dict[str, dict[str, Any]]:
        """The stack's bridges: they live in project default and carry the stack's stamp."""
        found = self.lab.api("GET", "/1.0/networks?recursion=1")
        own = (n for n in found if n["config"].get("user.ic.stack") == self.name)
        return {network["config"]["user.ic.res"]: network for network in own}

    def marked(self) -> dict[str, dict[str, Any]]:
        """Everything of the stack in Incus by its address, as the stamps tell it."""
        found: dict[str, dict[str, Any]] = {}
        for noun, bodies in (
            ("instance", self.instances()),
            ("network", self.networks()),
            ("volume", self.volumes()),
        ):
            for body in bodies.values():
                found[f"{noun}:{body['config'].get('user.ic.res', '?')}"] = body
        body = self.lab.api("GET", f"/1.0/projects/{self.name}")
        return {**found, f"project:{body['config'].get('user.ic.res', '?')}": body}

    def volumes(self) -> dict[str, dict[str, Any]]:
        path = "/1.0/storage-pools/default/volumes/custom"
        return {volume["name"]: volume for volume in self.get(path, recursion="1")}

    def profiles(self) -> dict[str, dict[str, Any]]:
        return {profile["name"]: profile for profile in self.get("/1.0/profiles", recursion="1")}

    def read(self, instance: str, path: str) -> str:
        """A file of an instance."""
        return self.get(f"/1.0/instances/{instance}/files", path=path)

    def read_volume(self, volume: str, path: str) -> str:
        """A file of a custom volume."""
        return self.get(f"/1.0/storage-pools/default/volumes/custom/{volume}/files", path=path)

    def run(self, instance: str, *argv: str) -> str:
        """Standard output of a command inside an instance, which must end well.

        The server records it: a client that streams it may lose the last words of a command that ends at
        once on a busy machine.
        """
        query = f"?project={self.name}"
        asked = {"command": list(argv), "record-output": True, "wait-for-websocket": False}
        path = f"/1.0/instances/{instance}/exec{query}"
        ended = self.lab.api("POST", path, asked, timeout=30)["metadata"]
        said = self.lab.api("GET", f"{ended['output']['1']}{query}")
        assert ended["return"] == 0, f"{argv} ended with {ended['return']}: {said}"
        return said

    def kill(self, instance: str) -> None:
        """Kill process 1 of a running instance and wait until Incus knows."""
        self.lab.run(["sh", "-c", f"kill -KILL {self.pid(instance)}"], check=True)
        self.ended(instance)

    def ended(self, instance: str) -> None:
        """Wait until an instance has ended by itself: stopped, and still so a second later."""
        end, since = time.monotonic() + 15, time.monotonic()
        while time.monotonic() - since < 0.9:
            if self.instance(instance)["status"] != "Stopped":
                since = time.monotonic()
            assert time.monotonic() < end, f"{instance} still runs"
            time.sleep(0.05)

    def started(self, instance: str) -> str:
        """When the instance was last started: another text, another start."""
        return self.instance(instance)["last_used_at"]

    def uuid(self, instance: str) -> str:
        """Which instance it is: another one, when it was replaced."""
        return self.instance(instance)["config"]["volatile.uuid"]

    def stop_by_hand(self, instance: str) -> None:
        body = {"action": "stop", "force": True, "timeout": 10}
        self.send("PUT", f"/1.0/instances/{instance}/state", body)

    # --- the journal, as Incus shows it -----------------------------------------------------------

    def runs(self) -> list[dict[str, Any]]:
        """The runs in history, newest first."""
        return self.ic("history", "--json").json()["runs"]


TOLD = ("user.healthcheck.status", "user.healthcheck.output", "user.ic.health")


def everything(lab: labs.Lab) -> dict[str, Any]:
    """All that ic might change on a server, to be compared before and after.

    What health daemons tell of themselves and of services is not: they go on.
    """
    lists = {
        "projects": "/1.0/projects?recursion=1",
        "instances": "/1.0/instances?recursion=1&all-projects=true",
        "networks": "/1.0/networks?recursion=1",
        "profiles": "/1.0/profiles?recursion=1&all-projects=true",
        "volumes": "/1.0/storage-pools/default/volumes/custom?recursion=1&all-projects=true",
        "images": "/1.0/images?recursion=1",
    }
    found: dict[str, Any] = {}
    for kind, path in lists.items():
        for body in lab.api("GET", path):
            # The server lists in no fixed order, and a look at an image is no change.
            entry: dict[str, Any] = {**body, "used_by": sorted(body.get("used_by") or [])}
            if kind == "images":
                entry["last_used_at"] = ""
            name = body.get("name") or body["fingerprint"]
            if kind == "profiles" and name.startswith("ic.hd."):
                continue
            if kind == "instances":
                for part in ("config", "expanded_config"):
                    entry[part] = {k: v for k, v in body[part].items() if k not in TOLD}
            found[f"{kind} {body.get('project', '')} {name}"] = entry
    return found


def idle(**more: Any) -> dict[str, Any]:
    """A service that does nothing until it is asked to end."""
    return {"image": "busybox", "command": IDLE, **more}


def addresses(changes: Mapping[str, Any]) -> dict[str, str]:
    """Address -> action."""
    return {address: change["action"] for address, change in changes.items()}


def field(change: Mapping[str, Any], path: str) -> dict[str, Any]:
    """One field of a change; it must be there."""
    found = [one for one in change["fields"] if one["path"] == path]
    assert found, f"{path} is not among {[one['path'] for one in change['fields']]}"
    return found[0]
