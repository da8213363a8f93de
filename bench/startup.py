"""How long `ic --version` takes over a bare Python: both started in turns, the shortest of each.

A script of the standard library, run where ic is to be measured: `startup.py IC.PYZ ROUNDS`. Prints one
JSON object with milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
import time


def milliseconds(argv: list[str]) -> float:
    """The wall time of a process from before its start to after its end."""
    began = time.perf_counter()
    out = os.open(os.devnull, os.O_WRONLY)
    redirect = [(os.POSIX_SPAWN_DUP2, out, 1)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=redirect)
    _, status = os.waitpid(pid, 0)
    taken = (time.perf_counter() - began) * 1000
    os.close(out)
    if status:
        raise SystemExit(f"{argv} ended with {status}")
    return taken


def main(pyz: str, rounds: int) -> None:
    python = sys.executable
    bare, full = [python, "-c", ""], [python, pyz, "--version"]
    for argv in (bare, full):
        milliseconds(argv)
    pairs = [(milliseconds(bare), milliseconds(full)) for _ in range(rounds)]
    fastest = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    print(json.dumps({"bare": fastest[0], "ic": fastest[1], "over": fastest[1] - fastest[0]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
