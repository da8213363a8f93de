"""`python -m bench.healthd`: the health daemon's figures, each beside what it is measured against.

What depends on Incus runs in a lab, with the sidecar that `ic up` sets up: user and system time of the
daemon, of incusd with its reaped children and of the proxy device for the same checks; how soon a verdict or
an exit is acted upon, by the server's own times of events and operations. What needs 500 instances, or a
server that answers late, runs against the stand-in of tests/healthd/wire.py, which a test holds to the real
server: the daemon is the same process of ic.pyz, and the time between checks is taken where they arrive.
The two long troubles (late answers, lost packets) go on in a lab of their own beside all the rest.

Progress is told on standard error. The table, in Markdown, goes to standard output and, with all that was
measured, to bench/results. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import run as apply_bench
from ic import errors
from ic.healthd import identity, policy
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.resources import sidecar
from tests.healthd import wire
from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

TICKS = os.sysconf("SC_CLK_TCK")
PYZ = apply_bench.RESULTS.parent.parent / "dist" / "ic.pyz"
SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]
PREFIX = "hbench"
INSIDE = "/stacks/healthd-bench"
BEGAN = time.monotonic()
FLAT_MIB = 1.0  # what the allocator may still move
Row = tuple[str, str, str, bool]


def document(name: str, services: dict[str, dict[str, Any]]) -> str:
    """A compose file of sleepers."""
    base = {"image": "busybox", "command": SLEEPER}
    return json.dumps({"name": name, "services": {k: {**base, **v} for k, v in services.items()}})


class Failed(Exception):
    """A part could not be measured."""


MISHAPS = (
    Failed,
    errors.IcError,
    labs.LabError,
    labs.ApiError,
    subprocess.SubprocessError,
    OSError,
    ValueError,
    LookupError,
)


def check(test: str, **more: object) -> dict[str, Any]:
    """A service with a health check."""
    kind, _, command = test.partition(" ")
    words = [command] if kind == "CMD-SHELL" else command.split()
    return {"healthcheck": {"test": [kind, *words], **more}}


# --- processes -------------------------------------------------------------------------------------------


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """User and system time of a process, with that of its reaped children or without."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(word) for word in words[11 : 15 if children else 13]) / TICKS


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def below(top: int) -> Iterator[tuple[int, bytes]]:
    """The processes below one, with their command lines."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
    for pid in parents:
        at = pid
        while at in parents and at != top:
            at = parents[at]
        if at == top and pid != top:
            with contextlib.suppress(OSError):
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes()


def moment(text: str) -> float:
    """A time of the server, in seconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return dt.datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


def progress(text: str) -> None:
    """A line for who waits."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --- the lab ---------------------------------------------------------------------------------------------


class Watching:
    """The server's events of a project, gathered on a thread of their own."""

    def __init__(self, client: incus.Client, project: str) -> None:
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(client, project), daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _follow(self, client: incus.Client, project: str) -> None:
        with client.events({"project": project}, ("lifecycle", "operation")) as events:
            self._ready.set()
            while not self._stop.is_set():
                event = events.next(0.2)
                if event is not None:
                    with self.lock:
                        self.seen.append(event)

    def all(self, kind: str) -> list[dict[str, Any]]:
        with self.lock:
            return [one for one in self.seen if one["type"] == kind]

    def lifecycle(self, action: str, name: str) -> list[float]:
        """The times of an action of one instance."""
        return [
            moment(one["timestamp"])
            for one in self.all("lifecycle")
            if one["metadata"]["action"] == action and one["metadata"].get("name") == name
        ]

    def operations(self, what: str, name: str) -> list[dict[str, Any]]:
        """The last word on each operation of one instance whose description begins so."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.all("operation"):
            body = one["metadata"]
            about = (body.get("resources") or {}).get("instances") or [""]
            if body["description"].startswith(what) and f"/{name}?" in about[0] + "?":
                found[body["id"]] = body
        return list(found.values())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)


class Bench:
    """A lab, and the table so far."""

    def __init__(self, lab: labs.Lab, pyz: Path) -> None:
        self.lab = lab
        self.rows: list[Row] = []
        self.raw: dict[str, Any] = {}
        self.directory = lab.workdir("healthd-bench")
        shutil.copy(pyz, self.directory / "ic.pyz")
        self.pyz = ("python3", f"{INSIDE}/ic.pyz")
        self.client = incus.Client(
            transport.connect(remotes.Server(name="lab", socket=str(lab.socket)))
        )

    def row(self, what: str, have: str, against: str, *, holds: bool) -> None:
        self.rows.append((what, have, against, holds))
        progress(f"{what.strip()}: {have} (limit {against}){'' if holds else '  MISSED'}")

    def attempt(self, part: str, step: Callable[[], None]) -> None:
        """Measure one part; one that fails is a row of the table, and the others go on."""
        progress(part)
        try:
            step()
        except MISHAPS as error:
            self.row(part, f"not measured: {error}", "", holds=False)
            with contextlib.suppress(*MISHAPS):
                self.sweep()

    def ic(self, *argv: str, timeout: float = 400) -> float:
        """Seconds of one whole run of ic, entering the lab not counted."""
        words = ["python3", "-I", "-c", apply_bench.WATCH, *self.pyz, *argv]
        ran = self.lab.run(words, cwd=INSIDE, timeout=timeout)
        if ran.returncode:
            raise Failed(f"ic {' '.join(argv)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return float(ran.stdout.splitlines()[-1])

    def write(self, name: str, services: dict[str, dict[str, Any]]) -> None:
        (self.directory / "compose.yaml").write_text(document(name, services))

    def sweep(self) -> None:
        self.lab.sweep(PREFIX)

    def processes(self) -> tuple[int, int, list[int]]:
        """The daemon in its sidecar, incusd, and the proxies."""
        found = list(below(self.lab.pid() or 0))
        daemons = [pid for pid, line in found if line.split(b"\0")[1:3] == [b"/ic.pyz", b"healthd"]]
        servers = [
            pid
            for pid, line in found
            if line.split(b"\0")[0].endswith(b"incusd") and b"--group" in line
        ]
        proxies = [pid for pid, line in found if b"forkproxy" in line]
        if len(daemons) != 1 or len(servers) != 1:
            raise Failed(f"not one daemon and one server: {daemons} {servers}")
        return daemons[0], servers[0], proxies

    def keys(self, project: str, key: str) -> dict[str, str]:
        listed = self.client.get("/1.0/instances", {"project": project, "recursion": "1"})
        return {one["name"]: one["config"].get(key, "") for one in listed}

    def until(self, what: str, done: Callable[[], bool], seconds: float) -> float:
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > seconds:
                raise Failed(f"not in {seconds:g} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    # --- what is measured there ---

    def cost(self, seconds: float) -> None:
        """CPU of the daemon, of the server and of the proxy for the same checks; the daemon's memory."""
        name = f"{PREFIX}30"
        count = 30
        idle = {f"s{n}": {"restart": "always"} for n in range(count)}
        self.write(name, idle)
        self.ic("up", "-d")
        time.sleep(5)
        resting = self._spent(seconds / 2)
        self.write(name, {key: check("CMD true", interval="2250ms") for key in idle})
        self.ic("up", "-d")

        def healthy() -> bool:
            found = self.keys(name, "user.healthcheck.status")
            return sum(1 for value in found.values() if value == "healthy") == count

        self.until("30 healthy services", healthy, 60)
        watch = Watching(self.client, name)
        time.sleep(1)
        memory = resident_mib(self.processes()[0])
        spent = self._spent(seconds)
        watch.stop()
        execs = [
            one for one in watch.all("lifecycle") if one["metadata"]["action"] == "instance-exec"
        ]
        checks = len(execs) * seconds / (seconds + 1)
        each = {who: 1000 * value / checks for who, value in spent.items()}
        self.raw["cpu"] = {"idle": resting, "checking": spent, "checks": checks, "ms": each}
        ratio = spent["daemon"] / (spent["incusd"] - resting["incusd"] * 2)
        self.row(
            f"CPU of the daemon over that of incusd, {60 * checks / seconds:.0f} checks a minute",
            f"{each['daemon']:.1f} / {each['incusd']:.1f} ms = {ratio:.2f}x"
            f" (proxy beside it: {each['proxy']:.1f} ms)",
            "0.25x",
            holds=ratio <= 0.25,
        )
        daemon, _, _ = self.processes()
        after = resident_mib(daemon)
        self.row(
            f"memory at {count} instances, {seconds:g} s later",
            f"{memory:.1f}, {after:.1f} MiB",
            "40 MiB, flat",
            holds=after <= 40 and after - memory <= FLAT_MIB,
        )
        self.loud(name, idle)
        self.sweep()

    def loud(self, name: str, others: dict[str, Any]) -> None:
        """One more service, whose probe prints 1 GiB."""
        before = resident_mib(self.processes()[0])
        quiet = {key: check("CMD true", interval="2250ms") for key in others}
        test = "CMD-SHELL dd if=/dev/zero bs=1M count=1024 2>/dev/null"
        self.write(name, {**quiet, "loud": check(test, interval="5s", timeout="120s")})
        self.ic("up", "-d")
        most = before

        def printed() -> bool:
            nonlocal most
            most = max(most, resident_mib(self.processes()[0]))
            return self.keys(name, "user.healthcheck.status").get("loud") == "healthy"

        self.until("a probe that prints 1 GiB", printed, 150)
        after = resident_mib(self.processes()[0])
        self.raw["loud_mib"] = {"before": before, "most": most, "after": after}
        self.row(
            "  a probe that prints 1 GiB: before, most, after",
            f"{before:.1f}, {most:.1f}, {after:.1f} MiB",
            "40 MiB, no change",
            holds=most <= 40 and after - before <= FLAT_MIB,
        )

    def _spent(self, seconds: float) -> dict[str, float]:
        daemon, server, proxies = self.processes()

        def now() -> dict[str, float]:
            return {
                "daemon": cpu_seconds(daemon),
                "incusd": cpu_seconds(server, children=True),
                "proxy": sum(cpu_seconds(pid) for pid in proxies),
            }

        before = now()
        time.sleep(seconds)
        return {who: value - before[who] for who, value in now().items()}

    def verdicts(self, count: int) -> None:
        """From the end of the probe that decides to the begin of the restart."""
        name = f"{PREFIX}v"
        services = {
            f"s{n}": check("CMD test ! -e /dev/shm/bad", interval="1s", retries=2)
            for n in range(count)
        }
        self.write(name, services)
        self.ic("up", "-d", "--wait")
        time.sleep(2)
        watch = Watching(self.client, name)
        found: list[float] = []
        for service in services:
            words = ["touch", "/dev/shm/bad"]
            self.client.exec_output(f"/1.0/instances/{service}", words, {"project": name})

            def restarted(service: str = service) -> bool:
                return bool(watch.lifecycle("instance-restarted", service))

            self.until(f"restart of {service}", restarted, 60)
            begun = moment(watch.operations("Restarting", service)[0]["created_at"])
            ends = [
                moment(one["updated_at"])
                for one in watch.operations("Executing", service)
                if one["metadata"].get("return") == 1 and moment(one["updated_at"]) <= begun
            ]
            found.append(begun - max(ends))
            time.sleep(3)
        watch.stop()
        self.raw["verdict_s"] = found
        worst = max(found)
        text = f"median {1000 * statistics.median(found):.0f} ms, worst {1000 * worst:.0f} ms"
        self.row(
            f"last failing probe to the restart's beginning ({count} services)",
            text,
            "500 ms",
            holds=worst <= 0.5,
        )
        self.sweep()

    def exits(self, count: int, rounds: int) -> None:
        """From the event of an exit to the start request, and from the exit itself to running again."""
        name = f"{PREFIX}x"
        services = {f"s{n}": {"restart": "always"} for n in range(count)}
        self.write(name, services)
        self.ic("up", "-d")
        asked: list[float] = []
        whole: list[float] = []
        for _ in range(rounds):
            time.sleep(policy.EXIT_GOOD_MS / 1000 + 1.5)  # so that docker's backoff begins anew
            watch = Watching(self.client, name)
            killed: dict[str, float] = {}
            for service in services:  # one after the other: together is another figure
                killed[service] = self._kill(name, service)
                time.sleep(2.5)

            def back(watch: Watching = watch) -> bool:
                return all(watch.lifecycle("instance-started", one) for one in services)

            self.until("all running again", back, 60)
            watch.stop()
            for service in services:
                started = min(watch.lifecycle("instance-started", service))
                whole.append(started - killed[service])
                told = watch.lifecycle("instance-shutdown", service)
                if told:
                    request = moment(watch.operations("Starting", service)[0]["created_at"])
                    asked.append(request - min(told) - policy.EXIT_FIRST_MS / 1000)
        self.raw["exit_to_request_s"], self.raw["exit_to_running_s"] = asked, whole
        middle, most = statistics.median(asked), percentile(asked, 0.99)
        self.row(
            f"event of an exit to the start request, backoff apart ({len(asked)} exits)",
            f"median {1000 * middle:.0f} ms, p99 {1000 * most:.0f} ms",
            "median 50 ms, p99 200 ms",
            holds=middle <= 0.05 and most <= 0.2,
        )
        middle = statistics.median(whole)
        self.row(
            f"exit of a process to running ({len(whole)} exits)",
            f"median {middle:.2f} s",
            "median 1.5 s",
            holds=middle <= 1.5,
        )
        self.sweep()

    def _kill(self, project: str, service: str) -> float:
        """Kill an instance's process; the server's time of it."""
        state = self.client.get(f"/1.0/instances/{service}/state", {"project": project})
        words = ["sh", "-c", f"date +%s.%N; kill -9 {state['pid']}"]
        return float(self.lab.run(words, check=True).stdout)

    def many(self, count: int, seconds: float) -> None:
        """So many services: the server is restarted under them, and then they exit at one time."""
        name = f"{PREFIX}many"
        service = {**check("CMD true", interval="30s"), "restart": "always"}
        self.write(name, {"s": {**service, "deploy": {"replicas": count}}})
        self.ic("up", "-d", timeout=900)

        def healthy() -> bool:
            found = self.keys(name, "user.healthcheck.status")
            return sum(1 for value in found.values() if value == "healthy") == count

        self.until(f"{count} healthy services", healthy, 120)
        before = self._uses(name)
        self.lab.restart_incusd()
        progress("incusd is back")
        time.sleep(seconds)
        changed = self._changed(name, before)
        memory = resident_mib(self.processes()[0])
        self.row(
            f"{count} instances and incusd restarted: restarts in {seconds:g} s",
            str(len(changed)),
            "0",
            holds=not changed,
        )
        self.raw["many"] = {"after_restart": changed, "memory": memory}
        listed = self.client.get("/1.0/instances", {"project": name, "recursion": "2"})
        pids = [str(one["state"]["pid"]) for one in listed if one["name"] != sidecar.INSTANCE]
        before = self._uses(name)
        began = time.monotonic()
        self.lab.run(["sh", "-c", "kill -9 " + " ".join(pids)], check=True)

        def back() -> bool:
            time.sleep(1)
            now = self._uses(name)
            return all(
                now.get(one, ("", ""))[0] == "Running" and now[one][1] != was
                for one, (_, was) in before.items()
            )

        self.until(f"{count} running again", back, 300)
        took = time.monotonic() - began
        self.raw["together_s"] = took
        self.row(
            f"{count} services that exit together, all run again",
            f"{took:.0f} s",
            "120 s",
            holds=took <= 120,
        )
        self.sweep()

    def lost_packets(self, seconds: float) -> None:
        """Every other packet between the sidecar's proxy and the server is thrown away, both ways."""
        name = f"{PREFIX}l"
        service = {**check("CMD true", interval="10s", timeout="5s"), "restart": "always"}
        self.write(name, {"s": {**service, "deploy": {"replicas": 20}}})
        self.ic("up", "-d", "--wait")
        before = self._uses(name)
        rules = "".join(
            f"  tcp {end} 8443 numgen random mod 2 0 drop\n" for end in ("dport", "sport")
        )
        hook = "type filter hook input priority 0;"
        table = f"table inet {PREFIX} {{\n chain in {{\n  {hook}\n{rules} }}\n}}\n"
        watch = Watching(self.client, name)
        self.lab.run(["nft", "-f", "-"], input=table, check=True)
        try:
            time.sleep(seconds)
        finally:
            self.lab.run(["nft", "delete", "table", "inet", PREFIX], check=True)
        time.sleep(30)
        changed = self._changed(name, before)
        watch.stop()
        begun = [
            one for one in watch.all("lifecycle") if one["metadata"]["action"] == "instance-exec"
        ]
        self.raw["lost_packets"] = {"changed": changed, "probes": len(begun)}
        self.row(
            f"restarts, half of all packets lost for {seconds:g} s ({len(begun)} probes began)",
            str(len(changed)),
            "0",
            holds=not changed,
        )

    def _changed(self, project: str, before: dict[str, tuple[str, str]]) -> list[str]:
        """Who was started anew since, or does not run."""
        now = self._uses(project)
        return [one for one, was in before.items() if now.get(one) != was or was[0] != "Running"]

    def _uses(self, project: str) -> dict[str, tuple[str, str]]:
        listed = self.client.get("/1.0/instances", {"project": project, "recursion": "1"})
        return {
            one["name"]: (one["status"], one["last_used_at"])
            for one in listed
            if one["name"] != sidecar.INSTANCE
        }

    def first_up(self, rounds: int) -> None:
        """`up -d` of one service, with the daemon and without: the command, and when the service runs."""
        commands: dict[str, list[float]] = {"with": [], "without": []}
        running: dict[str, list[float]] = {"with": [], "without": []}
        services = {"web": check("CMD true", interval="30s")}
        for turn in range(rounds):
            for kind, more in (("without", ["--no-healthd"]), ("with", [])):
                name = f"{PREFIX}u{turn}{kind}"
                self.write(name, services)
                began = time.time()
                commands[kind].append(self.ic("up", "-d", *more))
                body = self.client.get("/1.0/instances/web", {"project": name})
                running[kind].append(moment(body["last_used_at"]) - began)
                self.sweep()
        self.raw["up_s"], self.raw["up_running_s"] = commands, running
        later = min(running["with"]) - min(running["without"])
        text = f"{min(running['with']):.2f} s, {later:+.2f} s"
        against = f"without {min(running['without']):.2f} s, +-0.3 s"
        self.row("`up -d` of one service: it runs after", text, against, holds=later <= 0.3)
        longer = min(commands["with"]) - min(commands["without"])
        text = f"{min(commands['with']):.2f} s, {longer:+.2f} s"
        against = f"without {min(commands['without']):.2f} s, +4 s"
        self.row("  the command", text, against, holds=longer <= 4)

    # --- against the stand-in ---

    @contextlib.contextmanager
    def stood_in(self, server: wire.Server) -> Generator[int]:
        """The daemon, watching the stand-in; its pid."""
        place = self.directory / "identity"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        own = identity.create(identity.Place(directory=str(place)), time.time())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own.certificate, own.key)
        identity.pin(identity.Place(directory=str(place)), own.fingerprint)
        path = self.directory / "api.sock"
        path.unlink(missing_ok=True)
        with wire.serving(str(path), server, context):
            words = [*self.pyz, "healthd", "--project", server.project]
            words += ["--api", f"{INSIDE}/api.sock", "--identity", f"{INSIDE}/identity"]
            daemon = self.lab.popen(
                words,
                env=dict(sidecar.ENVIRONMENT),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                self.until("watching", lambda: '"watching"' in state_text(place), 30)
                yield daemon.pid
            finally:
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(10)

    def lateness(self, count: int, interval: float, seconds: float) -> None:
        """Checks of many instances: the time from the end of one to the begin of the next."""
        server = wire.Server(f"{PREFIX}p")
        keys = {
            "user.healthcheck.test": '["CMD","true"]',
            "user.healthcheck.interval": f"{interval:g}s",
        }
        for n in range(count):
            # Started long ago: who started within one millisecond is also checked within one.
            server.add(f"s{n}", keys).last_used_at = "2026-01-01T00:00:00Z"
        with self.stood_in(server) as pid:
            time.sleep(interval + seconds / 2)
            before = resident_mib(pid)
            time.sleep(seconds / 2)
            memory = resident_mib(pid)
            spent = cpu_seconds(pid)
        late = lateness_of(server, interval)
        self.raw["late_s"] = {
            "mean": statistics.mean(late),
            "p99": percentile(late, 0.99),
            "checks": len(late),
            "cpu": spent,
        }
        mean, most = statistics.mean(late), percentile(late, 0.99)
        self.row(
            f"lateness of probes, {count} x {interval:g} s ({len(late)} checks, stand-in server)",
            f"mean {1000 * mean:.0f} ms, p99 {1000 * most:.0f} ms",
            "mean 50 ms, p99 250 ms",
            holds=mean <= 0.05 and most <= 0.25,
        )
        half = len(late) // 2
        drift = statistics.mean(late[half:]) - statistics.mean(late[:half])
        self.row(
            "  drift, second half over the first",
            f"{1000 * drift:+.1f} ms",
            "none",
            holds=abs(drift) < 0.02,
        )
        self.row(
            f"memory at {count} instances, {seconds / 2:g} s later",
            f"{before:.1f}, {memory:.1f} MiB",
            "64 MiB, flat",
            holds=memory <= 64 and memory - before <= FLAT_MIB,
        )

    def at_rest(self, seconds: float) -> None:
        """Calls in an idle minute: no checks, only policies to wait for."""
        server = wire.Server(f"{PREFIX}p")
        for n in range(30):
            server.add(f"s{n}", {"user.restart": "always"})
        with self.stood_in(server):
            time.sleep(3)
            before = dict(server.requests)
            time.sleep(seconds)
            after = dict(server.requests)
        calls = {kind: number - before.get(kind, 0) for kind, number in after.items()}
        calls = {kind: number for kind, number in calls.items() if number}
        lease = sum(number for kind, number in calls.items() if "profiles" in kind)
        rest = (sum(calls.values()) - lease) * 60 / seconds
        self.raw["idle_calls"] = calls
        self.row(
            "calls in an idle minute, 30 instances (stand-in server)",
            f"{rest:.1f}, beside {lease * 60 / seconds:.1f} of the lease",
            "2",
            holds=rest <= 2,
        )

    def late_answers(self, seconds: float) -> None:
        """A server that answers five seconds late: nobody is restarted for it."""
        server = wire.Server(f"{PREFIX}p")
        keys = {
            "user.healthcheck.test": '["CMD","true"]',
            "user.healthcheck.interval": "5s",
            "user.healthcheck.timeout": "3s",
            "user.healthcheck.retries": "1",
        }
        for n in range(30):
            server.add(f"s{n}", keys)
        with self.stood_in(server) as pid:
            time.sleep(12)
            server.delay = 5.0
            time.sleep(seconds / 4)
            before = resident_mib(pid)
            time.sleep(seconds * 3 / 4)
            server.delay = 0.0
            time.sleep(12)
            after = resident_mib(pid)
        restarts = [one for one in server.states if one[0] != "start"]
        self.raw["late_answers"] = {"states": server.states, "memory": [before, after]}
        self.row(
            f"restarts, answers 5 s late for {seconds:g} s (stand-in server)",
            str(len(restarts)),
            "0",
            holds=not restarts,
        )
        self.row(
            f"  memory at 30 instances meanwhile, {seconds * 3 / 4:g} s later",
            f"{before:.1f}, {after:.1f} MiB",
            "40 MiB, flat",
            holds=after <= 40 and after - before <= FLAT_MIB,
        )


def state_text(place: Path) -> str:
    with contextlib.suppress(OSError):
        return (place / "state.json").read_text()
    return ""


def lateness_of(server: wire.Server, interval: float) -> list[float]:
    """By the times of the begins: how much more than the interval lies between an end and the next begin."""
    ends: dict[str, float] = {}
    late: list[tuple[float, float]] = []
    for one in server.begun:
        if one.instance in ends:
            late.append((one.at, one.at - ends[one.instance] - interval))
        ends[one.instance] = one.ended
    return [value for _, value in sorted(late)]


PARTS = ("cost", "verdicts", "exits", "up", "rest", "lateness", "many")
TROUBLES = ("late", "lost")
EPILOG = (
    "With the defaults it takes 14 minutes on two idle cores: the parts 14, the troubles beside them 11."
    " --trouble 60 --only late,lost takes two. Each part that cannot be measured is a row that is missed."
)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.healthd",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    every = ",".join((*PARTS, *TROUBLES))
    parser.add_argument("--only", default=every, help=f"of {every}")
    parser.add_argument("--seconds", type=float, default=60, help="of each window (default: 60)")
    parser.add_argument(
        "--trouble", type=float, default=600, help="seconds of each trouble (default: 600)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of ten exits (default: 5)")
    parser.add_argument(
        "--together", type=int, default=200, help="services that exit at one time (default: 200)"
    )
    parser.add_argument("--pyz", type=Path, default=PYZ, help="ic.pyz (default: dist/ic.pyz)")
    options = parser.parse_args(argv)
    parts = options.only.split(",")
    if unknown := set(parts) - {*PARTS, *TROUBLES}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    given = os.environ.get("IC_LAB_NAME")
    name = given or f"bench-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(laid(name, options.pyz, keep=bool(given)))
        steps: dict[str, Callable[[], None]] = {
            "cost": lambda: bench.cost(options.seconds),
            "verdicts": lambda: bench.verdicts(10),
            "exits": lambda: bench.exits(10, options.rounds),
            "up": lambda: bench.first_up(3),
            "rest": lambda: bench.at_rest(options.seconds),
            "lateness": lambda: bench.lateness(500, 30, 2 * options.seconds),
            "many": lambda: bench.many(options.together, options.seconds),
        }
        benches = [bench]
        threads: list[threading.Thread] = []
        if troubles := [part for part in TROUBLES if part in parts]:
            beside = stack.enter_context(laid(f"{name}-b", options.pyz, keep=False))
            benches.append(beside)
            long: dict[str, Callable[[], None]] = {
                "late": lambda: beside.late_answers(options.trouble),
                "lost": lambda: beside.lost_packets(options.trouble),
            }
            threads = [
                threading.Thread(target=beside.attempt, args=(part, long[part]), daemon=True)
                for part in troubles
            ]
            for thread in threads:
                thread.start()
        for part in (part for part in PARTS if part in parts):
            bench.attempt(part, steps[part])
        for thread in threads:
            thread.join()
    rows = [row for one in benches for row in one.rows]
    return told(rows, {key: value for one in benches for key, value in one.raw.items()}, argv)


@contextlib.contextmanager
def laid(name: str, pyz: Path, *, keep: bool) -> Generator[Bench]:
    """A lab to measure in; it is taken down at the end, or swept."""
    lab = labs.Lab(name)
    lab.up()
    try:
        bench = Bench(lab, pyz)
        try:
            bench.sweep()
            yield bench
        finally:
            bench.sweep()
            bench.client.close()
    finally:
        if not keep:
            lab.down()


def told(rows: list[Row], raw: dict[str, Any], argv: list[str]) -> int:
    """Write and print what was measured; the exit status."""
    lines = ["| what | measured | limit | holds |", "|---|---|---|---|"]
    lines += [
        f"| {what.replace('|', ' ')} | {have} | {limit} | {'yes' if holds else '**no**'} |"
        for what, have, limit, holds in rows
    ]
    machine = f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}"
    took = time.monotonic() - BEGAN
    about = f"ic at {commit()}, {machine}, `{' '.join(['bench.healthd', *argv])}`, {took:.0f} s"
    table = "\n".join([about, "", *lines, ""])
    print(table)
    apply_bench.RESULTS.mkdir(exist_ok=True)
    where = apply_bench.RESULTS / f"healthd-{time.strftime('%Y%m%d-%H%M%S')}"
    where.with_suffix(".md").write_text(table)
    result = {"commit": commit(), "machine": machine, "argv": argv, "seconds": took}
    where.with_suffix(".json").write_text(
        json.dumps({**result, "table": rows, "raw": raw}, indent=1) + "\n"
    )
    progress(f"{where}.md, .json")
    return 0 if all(row[3] for row in rows) else 1


def commit() -> str:
    words = ["git", "-C", str(apply_bench.RESULTS.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
