"""`python -m bench.healthd`: the health daemon's figures, each beside what it is measured against.

What depends on Incus runs in a lab, with the sidecar that `ic up` sets up: user and system time of the
daemon, of incusd with its reaped children and of the proxy device for the same checks; how soon a verdict or
an exit is acted upon, by the server's own times of events and operations. What needs 500 instances runs
against the stand-in of tests/healthd/wire.py, which a test holds to the real server: the daemon is the same
process of ic.pyz, and the time between checks is taken where they arrive. Exit status 1 when a target is
missed.
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
from ic.healthd import identity, policy
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.resources import sidecar
from tests.healthd import wire
from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

TICKS = os.sysconf("SC_CLK_TCK")
SLEEPER = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]
PREFIX = "hbench"
Row = tuple[str, str, str, bool]


def document(name: str, services: dict[str, dict[str, Any]]) -> str:
    """A compose file of sleepers."""
    base = {"image": "busybox", "command": SLEEPER}
    return json.dumps({"name": name, "services": {k: {**base, **v} for k, v in services.items()}})


def check(test: str, **more: object) -> dict[str, Any]:
    """A service with a health check."""
    return {"healthcheck": {"test": test.split(), **more}}


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

    def __init__(self, lab: labs.Lab, pyz: str) -> None:
        self.lab = lab
        self.pyz = ("python3", pyz)
        self.rows: list[Row] = []
        self.raw: dict[str, Any] = {}
        self.directory = lab.workdir("healthd-bench")
        self.client = incus.Client(
            transport.connect(remotes.Server(name="lab", socket=str(lab.socket)))
        )

    def row(self, what: str, have: str, against: str, *, holds: bool) -> None:
        self.rows.append((what, have, against, holds))
        print(f"{what}: {have} ({against}){'' if holds else '  MISSED'}", flush=True)

    def ic(self, *argv: str, timeout: float = 400) -> float:
        """Seconds of one whole run of ic, entering the lab not counted."""
        words = ["python3", "-I", "-c", apply_bench.WATCH, *self.pyz, *argv]
        ran = self.lab.run(words, cwd="/stacks/healthd-bench", timeout=timeout)
        if ran.returncode:
            raise SystemExit(f"ic {' '.join(argv)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
        return float(ran.stdout.splitlines()[-1])

    def write(self, name: str, services: dict[str, dict[str, Any]]) -> None:
        (self.directory / "compose.yaml").write_text(document(name, services))

    def sweep(self) -> None:
        self.lab.sweep(PREFIX)

    def processes(self) -> tuple[int, int, list[int]]:
        """The daemon in its sidecar, incusd, and the proxies."""
        found = list(below(self.lab.pid() or 0))
        daemons = [pid for pid, line in found if b"/ic.pyz\0healthd" in line]
        servers = [
            pid
            for pid, line in found
            if line.split(b"\0")[0].endswith(b"incusd") and b"--group" in line
        ]
        proxies = [pid for pid, line in found if b"forkproxy" in line]
        if len(daemons) != 1 or len(servers) != 1:
            raise SystemExit(f"not one daemon and one server: {daemons} {servers}")
        return daemons[0], servers[0], proxies

    def keys(self, project: str, key: str) -> dict[str, str]:
        listed = self.client.get("/1.0/instances", {"project": project, "recursion": "1"})
        return {one["name"]: one["config"].get(key, "") for one in listed}

    def until(self, what: str, done: Callable[[], bool], seconds: float) -> float:
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > seconds:
                raise SystemExit(f"not in {seconds:g} s: {what}")
            time.sleep(0.1)
        return time.monotonic() - began

    # --- what is measured there ---

    def cost(self, seconds: float) -> None:
        """CPU of the daemon, of the server and of the proxy for the same checks; the daemon's memory."""
        name = f"{PREFIX}30"
        count, interval = 30, 2.25
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
            "CPU of the daemon a check",
            f"{each['daemon']:.1f} ms",
            f"incusd and children {each['incusd']:.1f} ms, proxy {each['proxy']:.1f} ms,"
            f" {60 * checks / seconds:.0f} checks a minute (planned {60 * count / interval:.0f})",
            holds=True,
        )
        self.row(
            "  over that of incusd, what it does at rest taken off",
            f"{ratio:.2f}x",
            "0.25x",
            holds=ratio <= 0.25,
        )
        daemon, _, _ = self.processes()
        memory = resident_mib(daemon)
        self.row("memory at 30", f"{memory:.1f} MiB", "40 MiB", holds=memory <= 40)
        self.sweep()

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
        self.row("last failing probe to restart", text, "500 ms", holds=worst <= 0.5)
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
            "instance-shutdown to the start request, backoff apart",
            f"median {1000 * middle:.0f} ms, p99 {1000 * most:.0f} ms ({len(asked)} exits)",
            "50 ms, 200 ms",
            holds=middle <= 0.05 and most <= 0.2,
        )
        middle = statistics.median(whole)
        self.row("exit to running", f"median {middle:.2f} s", "1.5 s", holds=middle <= 1.5)
        self.sweep()

    def _kill(self, project: str, service: str) -> float:
        """Kill an instance's process; the server's time of it."""
        state = self.client.get(f"/1.0/instances/{service}/state", {"project": project})
        words = ["sh", "-c", f"date +%s.%N; kill -9 {state['pid']}"]
        return float(self.lab.run(words, check=True).stdout)

    def together(self, count: int) -> None:
        """So many services that exit at one time."""
        name = f"{PREFIX}many"
        self.write(name, {"s": {"restart": "always", "deploy": {"replicas": count}}})
        self.ic("up", "-d", timeout=900)
        query = {"project": name, "recursion": "2"}
        listed = self.client.get("/1.0/instances", query)
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
            f"{count} that exit together, all running", f"{took:.0f} s", "120 s", holds=took <= 120
        )
        self.sweep()

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
        self.row("up -d: the service runs after", text, against, holds=later <= 0.3)
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
            inside = "/stacks/healthd-bench"
            words = [*self.pyz, "healthd", "--project", server.project]
            words += ["--api", f"{inside}/api.sock", "--identity", f"{inside}/identity"]
            daemon = self.lab.popen(words, env=dict(sidecar.ENVIRONMENT))
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
            time.sleep(interval + seconds)
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
            f"lateness, {count} x {interval:g} s ({len(late)} checks)",
            f"mean {1000 * mean:.0f} ms, p99 {1000 * most:.0f} ms",
            "50 ms, 250 ms",
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
        self.row(f"memory at {count}", f"{memory:.1f} MiB", "64 MiB", holds=memory <= 64)

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
            "calls in an idle minute",
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
        with self.stood_in(server):
            time.sleep(12)
            server.delay = 5.0
            time.sleep(seconds)
            server.delay = 0.0
            time.sleep(12)
        restarts = [one for one in server.states if one[0] != "start"]
        self.row(
            f"restarts, {seconds:g} s of answers 5 s late",
            str(len(restarts)),
            "0",
            holds=not restarts,
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


PARTS = ("cost", "verdicts", "exits", "up", "rest", "lateness", "late", "together")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.healthd", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=60, help="of each measuring (default: 60)")
    parser.add_argument("--together", type=int, default=200, help="services that exit at one time")
    parser.add_argument("--pyz", default=apply_bench.IC[1], help="ic.pyz, as a path in the lab")
    options = parser.parse_args(argv)
    parts = options.only.split(",")
    given = os.environ.get("IC_LAB_NAME")
    lab = labs.Lab(given or f"bench-{os.getpid()}")
    lab.up()
    bench = Bench(lab, options.pyz)
    try:
        bench.sweep()
        steps: dict[str, Callable[[], None]] = {
            "cost": lambda: bench.cost(options.seconds),
            "verdicts": lambda: bench.verdicts(10),
            "exits": lambda: bench.exits(10, 5),
            "up": lambda: bench.first_up(3),
            "rest": lambda: bench.at_rest(options.seconds),
            "lateness": lambda: bench.lateness(500, 30, 2 * options.seconds),
            "late": lambda: bench.late_answers(options.seconds),
            "together": lambda: bench.together(options.together),
        }
        for part in parts:
            steps[part]()
    finally:
        bench.sweep()
        bench.client.close()
        if not given:
            lab.down()
    print()
    print(
        apply_bench.printed(
            [
                [what, have, against, "yes" if holds else "NO"]
                for what, have, against, holds in bench.rows
            ]
        )
    )
    apply_bench.RESULTS.mkdir(exist_ok=True)
    where = apply_bench.RESULTS / f"healthd-{time.strftime('%Y%m%d-%H%M%S')}.json"
    result = {
        "commit": commit(),
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "table": bench.rows,
        "raw": bench.raw,
    }
    where.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{where}")
    return 0 if all(row[3] for row in bench.rows) else 1


def commit() -> str:
    words = ["git", "-C", str(apply_bench.RESULTS.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
