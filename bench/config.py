"""`python -m bench.config`: what reading compose files costs, each figure beside what it is measured against.

Whole processes of `ic config` under the system's Python, beside that Python alone and, where `--compose`
names the binary, beside docker compose; all of them started in turns, medians of their wall time or, with
`--cpu`, of their user and system time (for a machine that does other things too). In this process: loading
against `yaml.compose` of PyYAML without its C part, in turns as well, in CPU time. No cache of documents is
there to be warm; that of code is, after one run. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ic.compose import loader

if TYPE_CHECKING:
    from collections.abc import Callable

    from ic.compose import model

ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, str, str, bool]

_COMMON = """\
name: bench
x-common: &common
  restart: unless-stopped
  stop_grace_period: 30s
  logging:
    driver: json-file
    options:
      max-size: 10m
      max-file: "3"
x-labels: &labels
  com.example.team: ${TEAM:-team}
services:
"""
_SERVICE = """\
  app{at:04d}:
    <<: *common
    image: registry.example/${{TEAM:-team}}/app:${{TAG:-1.{at}}}
    command:
      - serve
      - --port={port}
    environment:
      SERVICE_NAME: app{at}
      LOG_LEVEL: ${{LEVEL:-info}}
      GREETING: Good morning, "app{at}"!
      DATABASE: postgres://user@app{before:04d}:5432/db{at}?sslmode=${{SSL:-disable}}
    ports:
      - "{port}:80"
      - 127.0.0.1:{admin}:9090
    volumes:
      - data{at}:/var/lib/service
      - ./conf/{at}:/etc/service:ro
    labels:
      <<: *labels
      com.example.service: app{at}
    healthcheck:
      test:
        - CMD
        - curl
        - http://localhost/{at}
      interval: 10s
      retries: 3
    networks:
      - front
      - back
"""
_DEPENDS = """\
    depends_on:
      app{before:04d}:
        condition: service_healthy
"""
_NETWORKS = """\
networks:
  front: {}
  back:
    internal: true
"""


def stack(services: int) -> str:
    """A compose file with so many services, each of 26 to 29 lines."""
    parts = [_COMMON]
    for at in range(services):
        values = {"at": at, "before": max(at - 1, 0), "port": 10000 + at, "admin": 30000 + at}
        parts.append(_SERVICE.format(**values))
        if at % 10:
            parts.append(_DEPENDS.format(**values))
    parts += [_NETWORKS, "volumes:\n", *(f"  data{at}: {{}}\n" for at in range(services))]
    return "".join(parts)


def including(files: int) -> dict[str, str]:
    """The files of a stack that includes so many others, by name; `include-N.yaml` is the first."""
    made = {
        f"part{at:04d}.yaml": _COMMON.partition("x-labels")[0].partition("\n")[2]
        + f"services:\n  part{at:04d}:\n    <<: *common\n    image: reg.example/part:{at}\n"
        + f"    environment:\n      LEVEL: ${{LEVEL:-{at}}}\n"
        for at in range(files)
    }
    listed = "".join(f"  - {name}\n" for name in made)
    main = f"name: bench\ninclude:\n{listed}services:\n  web:\n    image: web\n"
    return {f"include-{files}.yaml": main, **made}


# --- measuring ------------------------------------------------------------------------------------------


def process(argv: list[str], *, cpu: bool) -> float:
    """The milliseconds of a process: from before its start to after its end, or its own CPU time."""
    began = time.perf_counter()
    out = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
    _, status, used = os.wait4(pid, 0)
    taken = time.perf_counter() - began
    os.close(out)
    if status:
        raise SystemExit(f"{' '.join(argv)} ended with {status}")
    return (used.ru_utime + used.ru_stime if cpu else taken) * 1000


def here(work: Callable[[], object]) -> float:
    """The milliseconds of CPU time of something in this process."""
    gc.collect()
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def load(name: str) -> model.Stack:
    """A file as `ic config` loads it."""
    return loader.load(loader.Options(files=(name,), cwd=os.getcwd(), for_running=False), {})


def medians(what: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each, all of them in turns, after one of each that does not count."""
    for measure in what.values():
        measure()
    taken: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, measure in what.items():
            taken[name].append(measure())
    return {name: round(statistics.median(times), 1) for name, times in taken.items()}


class Bench:
    """What is measured with, and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.python: str = options.python
        self.pyz: str = str(Path(options.pyz).resolve())
        self.other: str = options.compose
        self.rounds: int = options.rounds
        self.cpu: bool = options.cpu
        self.found: dict[str, dict[str, float]] = {}
        self.rows: list[Row] = []

    def processes(self, name: str, *, rounds: int | None = None) -> dict[str, float]:
        """Bare Python, ic and docker compose on a file of the current directory."""
        programs = {"bare": [self.python, "-c", ""]}
        programs["ic"] = [self.python, self.pyz, "-f", name, "config"]
        if self.other:
            programs["docker compose"] = [self.other, "-f", name, "config"]
        self.found[name] = medians(
            {one: lambda argv=argv: process(argv, cpu=self.cpu) for one, argv in programs.items()},
            rounds or self.rounds,
        )
        return self.found[name]

    def row(self, what: str, measured: str, limit: str, *, holds: bool) -> None:
        self.rows.append((what, measured, limit, holds))

    def growth(self, what: str, few: dict[str, float], many: dict[str, float]) -> None:
        """How `ic` grows from one file to one of ten times as much, and what docker compose does there."""
        ratio = many["ic"] / few["ic"]
        measured = f"{few['ic']:.0f} to {many['ic']:.0f} ms, {ratio:.1f}x"
        if "docker compose" in few:
            measured += f" (docker compose {many['docker compose'] / few['docker compose']:.1f}x)"
        self.row(what, measured, "12x", holds=ratio <= 12)

    def run(self) -> None:
        """Every figure, with files made in the current directory."""
        for services in (1, 30, 100, 1000):
            Path(f"{services}.yaml").write_text(stack(services), encoding="utf-8")
        for count in (10, 100):
            for name, text in including(count).items():
                Path(name).write_text(text, encoding="utf-8")
        one = self.processes("1.yaml")
        over = one["ic"] - one["bare"]
        self.row(
            "one service, over bare python",
            f"{one['ic']} - {one['bare']} = {over:.1f} ms",
            "60 ms",
            holds=over <= 60,
        )
        self.thirty()
        hundred = self.processes("100.yaml", rounds=max(self.rounds // 2, 3))
        thousand = self.processes("1000.yaml", rounds=max(self.rounds // 4, 3))
        self.growth("100 to 1,000 services", hundred, thousand)
        few = self.processes("include-10.yaml")
        many = self.processes("include-100.yaml", rounds=max(self.rounds // 2, 3))
        self.growth("10 to 100 included files", few, many)
        self.inside()

    def thirty(self) -> None:
        text = stack(30)
        thirty = self.processes("30.yaml")
        size = f"30 services ({text.count(chr(10))} lines, {len(text) / 1000:.0f} KB)"
        if not self.other:
            self.row(size, f"{thirty['ic']} ms", "no docker compose to compare with", holds=True)
            return
        ratio = thirty["ic"] / thirty["docker compose"]
        self.row(
            size,
            f"{thirty['ic']} ms, docker compose {thirty['docker compose']} ms, {ratio:.2f}x",
            "1.2x",
            holds=ratio <= 1.2,
        )

    def inside(self) -> None:
        """Loading in this process, against PyYAML's composer."""
        text = stack(30)
        found = self.found["in process"] = medians(
            {
                "load": lambda: here(lambda: load("30.yaml")),
                "yaml.compose": lambda: here(lambda: yaml.compose(text, Loader=yaml.SafeLoader)),
                "load 100": lambda: here(lambda: load("100.yaml")),
                "load 1000": lambda: here(lambda: load("1000.yaml")),
            },
            max(self.rounds // 2, 3),
        )
        limit = found["yaml.compose"] * 1.3 + 30
        self.row(
            "loading 30 services in process",
            f"{found['load']} ms, yaml.compose {found['yaml.compose']} ms",
            f"1.3x + 30 ms = {limit:.0f} ms",
            holds=found["load"] <= limit,
        )
        few, many = {"ic": found["load 100"]}, {"ic": found["load 1000"]}
        self.growth("100 to 1,000 services in process", few, many)


def main() -> int:
    """Measure, print a table, keep the figures in bench/results/; the exit status."""
    parser = argparse.ArgumentParser(description="What reading compose files costs.")
    parser.add_argument("--pyz", default=str(ROOT / "dist" / "ic.pyz"))
    parser.add_argument("--python", default="/usr/bin/python3", help="what runs ic.pyz")
    parser.add_argument("--compose", default="", metavar="BINARY", help="docker compose 2.40.3")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="CPU time of processes, not wall time")
    options = parser.parse_args()
    bench = Bench(options)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            bench.run()
        finally:
            os.chdir(before)
    print("| what | measured | limit | holds |\n|---|---|---|---|")
    for what, measured, limit, holds in bench.rows:
        print(f"| {what} | {measured} | {limit} | {'yes' if holds else 'NO'} |")
    stamp = dt.datetime.now(dt.timezone.utc).strftime("%Y%m%d-%H%M%S")
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    document = {"clock": "cpu" if options.cpu else "wall", "ms": bench.found, "rows": bench.rows}
    (results / f"config-{stamp}.json").write_text(
        json.dumps(document, indent=1) + "\n", encoding="utf-8"
    )
    return 0 if all(holds for *_, holds in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
