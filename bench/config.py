"""How long `ic config` takes, as a whole process, beside docker compose and bare Python.

A script of the standard library: `config.py IC.PYZ [DOCKER-COMPOSE] [ROUNDS]`. Programs start in turns and
the medians of each printed, in milliseconds, as one JSON object: 30 services, one service over bare Python,
and how 100 services grow to 1,000. No cache of documents is there to be warm; that of code is, after one run.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import startup

_COMMON = """\
name: bench
x-common: &common
  restart: unless-stopped
  logging: {driver: json-file, options: {max-size: 10m, max-file: "3"}}
  stop_grace_period: 30s
services:
"""
_SERVICE = """\
  service{at:04d}:
    <<: *common
    image: "registry.example/${{TEAM:-team}}/service{at}:${{TAG:-1.{at}}}"
    command: ["serve", "--port", "{port}", "--name=service{at}"]
    environment:
      NAME: service{at}
      LEVEL: ${{LEVEL:-info}}
      DATABASE: "postgres://user@service{before:04d}:5432/db{at}?sslmode=${{SSL:-disable}}"
    ports: ["{port}:80", "127.0.0.1:{admin}:9090"]
    volumes: ["data{at}:/var/lib/service", "./conf/{at}:/etc/service:ro"]
    labels: {{com.example.at: "{at}", com.example.team: "${{TEAM:-team}}"}}
    healthcheck: {{test: ["CMD", "curl", "-f", "http://localhost/{at}"], interval: 10s, retries: 3}}
    networks: [front, back]
"""
_DEPENDS = "    depends_on: {{service{before:04d}: {{condition: service_healthy}}}}\n"


def stack(services: int) -> str:
    """A compose file with so many services."""
    text = _COMMON
    for at in range(services):
        values = {"at": at, "before": max(at - 1, 0), "port": 10000 + at, "admin": 30000 + at}
        text += _SERVICE.format(**values)
        if at % 10:
            text += _DEPENDS.format(**values)
    volumes = "".join(f"  data{at}: {{}}\n" for at in range(services))
    return f"{text}networks: {{front: {{}}, back: {{internal: true}}}}\nvolumes:\n{volumes}"


def medians(programs: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """The median wall time of each program in milliseconds, all of them started in turns."""
    for argv in programs.values():
        startup.milliseconds(argv)
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, argv in programs.items():
            taken[name].append(startup.milliseconds(argv))
    return {name: round(statistics.median(times), 1) for name, times in taken.items()}


def main(pyz: str, other: str, rounds: int) -> None:
    """Measure and print."""
    python = sys.executable
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for services in (1, 30, 100, 1000):
            Path(f"{services}.yaml").write_text(stack(services), encoding="utf-8")
            programs = {"bare": [python, "-c", ""]}
            programs["ic"] = [python, pyz, "-f", f"{services}.yaml", "config"]
            if other:
                programs["docker compose"] = [other, "-f", f"{services}.yaml", "config"]
            found[str(services)] = medians(programs, rounds if services < 1000 else 3)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [word for word in words[1:] if word.isdigit()]
    others = [word for word in words[1:] if not word.isdigit()]
    main(os.path.abspath(words[0]), others[0] if others else "", int(numbers[0]) if numbers else 20)
