"""`make bench`: ic against the raw calls, in turns and in one run; a table, and JSON in bench/results/.

Everything runs in a lab. Each round measures the floor and ic with the same number of services, so that
whatever else the machine does falls on both. Wall times are of whole processes for ic and of the calls
alone for the floor. Calls are counted, and the journal's share of an apply is taken, by a proxy in one more
round that is not timed. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.crash import proxy
from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESULTS = Path(__file__).resolve().parent / "results"
IC = ("python3", "/opt/ic/ic.pyz")
WATCH = """\
import subprocess, sys, time
began = time.monotonic()
ran = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(time.monotonic() - began)
sys.stderr.write(ran.stderr)
sys.exit(ran.returncode)
"""
COMMAND = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"]


def document(name: str, count: int) -> str:
    services = {f"s{n}": {"image": "busybox", "command": COMMAND} for n in range(count)}
    return json.dumps({"name": name, "services": services})


class Bench:
    """One lab and what was measured in it."""

    def __init__(self, lab: labs.Lab) -> None:
        self.lab = lab
        self.taken: dict[str, list[float]] = {}
        self.counts: dict[str, Any] = {}
        self.directory = lab.workdir("bench")

    def timed(self, what: str, run: Callable[[], float]) -> None:
        self.taken.setdefault(what, []).append(run())

    def best(self, what: str) -> float:
        """The shortest of the rounds: whatever else the machine did can only have made it longer."""
        return min(self.taken[what])

    def ic(self, *argv: str, env: dict[str, str] | None = None) -> float:
        """Seconds of one whole run of ic, entering the lab not counted."""
        words = ["python3", "-I", "-c", WATCH, *IC, *argv]
        ran = self.lab.run(words, cwd="/stacks/bench", env=env, timeout=300)
        if ran.returncode:
            raise SystemExit(f"ic {' '.join(argv)}: {ran.returncode}\n{ran.stderr}")
        return float(ran.stdout)

    def floor(self, verb: str, count: int) -> float:
        words = ["python3", "-I", "/opt/repo/bench/floor.py", verb, f"floor{count}", str(count)]
        found = json.loads(self.lab.run(words, check=True, timeout=300).stdout)
        self.counts[f"floor {verb} {count}"] = found["calls"]
        return found["seconds"]

    def write(self, count: int) -> str:
        name = f"bench{count}"
        (self.directory / "compose.yaml").write_text(document(name, count))
        return name

    def round(self, count: int) -> None:
        """The floor and ic, once each; ic's stack is removed again."""
        self.write(count)
        self.timed(f"floor up {count}", lambda: self.floor("up", count))
        self.timed(f"floor down {count}", lambda: self.floor("down", count))
        for verb, argv in (
            ("apply", ("apply", "-y")),
            ("again", ("apply", "-y")),
            ("plan", ("plan",)),
            ("ps", ("ps",)),
            ("down", ("down",)),
        ):
            self.timed(f"ic {verb} {count}", lambda argv=argv: self.ic(*argv))
        self.ic("destroy", "-y", "--export", f"./{time.monotonic_ns()}.journal.ndjson")

    def counted(self, count: int) -> None:
        """One more round through a proxy: calls by kind, writes, and the journal's share."""
        self.write(count)
        env = {"INCUS_SOCKET": "/stacks/bench/p.sock"}
        with proxy.Proxy(self.directory / "p.sock", self.lab.socket) as between:
            for verb, argv in (
                ("apply", ("apply", "-y")),
                ("again", ("apply", "-y")),
                ("plan", ("plan",)),
                ("ps", ("ps",)),
                ("down", ("down",)),
            ):
                between.clear()
                wall = self.ic(*argv, env=env)
                passed = list(between.passed)
                self.counts[f"ic {verb} {count}"] = {
                    "calls": len(passed),
                    "writes": len([p for p in passed if p.writes]),
                    "kinds": kinds(passed),
                    "journal_share": journal_share(passed, wall),
                }
        self.ic("destroy", "-y", "--export", f"./{time.monotonic_ns()}.journal.ndjson")


def kinds(passed: Iterable[proxy.Passed]) -> dict[str, int]:
    """Calls by method and kind of object."""
    found: dict[str, int] = {}
    for one in passed:
        parts = one.path.split("?")[0].split("/")
        kind = parts[2] if len(parts) > 2 else "server"
        last = f"/{parts[-1]}" if parts[-1] in ("state", "wait", "files", "logs") else ""
        name = f"{one.method} {kind}{last}"
        found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))


def journal_share(passed: Iterable[proxy.Passed], wall: float) -> float:
    """The part of the wall time in which journal calls were in flight and no other call was."""
    marks: list[tuple[float, int, bool]] = []
    begun = False  # reads of the project before the lease was taken are observation
    for one in passed:
        begun = begun or (one.writes and "ic.lock." in one.path)
        journal = "ic.lock." in one.path or (begun and one.path.startswith("/1.0/projects/"))
        marks += [(one.began, 1, journal), (one.ended or one.began, -1, journal)]
    flying = {True: 0, False: 0}
    alone, last = 0.0, 0.0
    for at, change, journal in sorted(marks, key=lambda mark: (mark[0], mark[1])):
        if flying[True] and not flying[False]:
            alone += at - last
        flying[journal] += change
        last = at
    return alone / wall


def targets(bench: Bench, counts: list[int], startup: dict[str, float]) -> list[list[str]]:
    """The table: what, measured, its floor or limit, whether it holds."""
    rows: list[list[str]] = []

    def row(what: str, have: str, against: str, *, holds: bool) -> None:
        rows.append([what, have, against, "yes" if holds else "NO"])

    for count in counts:
        for verb, base in (("apply", "up"), ("down", "down")):
            have, floor = bench.best(f"ic {verb} {count}"), bench.best(f"floor {base} {count}")
            limit = floor * 1.3 + 0.4
            against = f"floor {floor:.2f} s, limit {limit:.2f} s, {have / floor:.2f}x"
            row(f"{verb} of {count}", f"{have:.2f} s", against, holds=have <= limit)
        share = bench.counts[f"ic apply {count}"]["journal_share"]
        row(f"journal's share, apply of {count}", f"{share:.1%}", "5 %", holds=share <= 0.05)
    top = max(counts)
    again = bench.counts[f"ic again {top}"]
    have = bench.best(f"ic again {top}")
    row(f"second apply of {top}", f"{have:.2f} s", "0.6 s", holds=have <= 0.6)
    row("  its calls", str(again["calls"]), "8", holds=again["calls"] <= 8)
    row("  its writes", str(again["writes"]), "0", holds=again["writes"] == 0)
    for verb in ("plan", "ps"):
        have = bench.best(f"ic {verb} {top}")
        row(f"{verb} of {top}", f"{have:.2f} s", "0.5 s", holds=have <= 0.5)
    over = startup["over"]
    text = f"{startup['ic']:.1f} - {startup['bare']:.1f} = {over:.1f} ms"
    row("ic --version over bare python", text, "15 ms", holds=over <= 15)
    return rows


def printed(rows: list[list[str]]) -> str:
    table = [["what", "measured", "against", "holds"], *rows]
    widths = [max(len(row[n]) for row in table) for n in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--counts", default="10,30", help="numbers of services (default: 10,30)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per number (default: 3)")
    parser.add_argument(
        "--starts", type=int, default=40, help="starts of ic --version (default: 40)"
    )
    options = parser.parse_args(argv)
    counts = [int(text) for text in options.counts.split(",")]
    given = os.environ.get("IC_LAB_NAME")
    lab = labs.Lab(given or f"bench-{os.getpid()}")
    lab.up()
    try:
        bench = Bench(lab)
        lab.sweep("bench")
        lab.sweep("floor")
        # The image is cached before anything is measured, and ic has filled its own cache.
        bench.floor("up", 1)
        bench.floor("down", 1)
        for _ in range(options.rounds):
            for count in counts:
                bench.round(count)
        for count in counts:
            bench.counted(count)
        words = ["python3", "/opt/repo/bench/startup.py", IC[1], str(max(20, options.starts))]
        startup = json.loads(lab.run(words, check=True, timeout=120).stdout)
    finally:
        lab.sweep("bench")
        lab.sweep("floor")
        if not given:
            lab.down()
    rows = targets(bench, counts, startup)
    print(printed(rows))
    for count in counts:
        found = bench.counts[f"ic apply {count}"]
        print(
            f"\ncalls of apply, {count} services: {found['calls']}, of them {found['writes']} writes"
        )
        print("\n".join(f"  {number:4} {kind}" for kind, number in found["kinds"].items()))
    RESULTS.mkdir(exist_ok=True)
    commit = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    where = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    result = {
        "commit": commit,
        "machine": f"{os.cpu_count()} x {platform.machine()}, Linux {platform.release()}",
        "seconds": bench.taken,
        "counts": bench.counts,
        "startup_ms": startup,
        "table": rows,
    }
    where.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{where}")
    return 0 if all(row[3] == "yes" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
