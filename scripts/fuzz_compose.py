#!/usr/bin/env python3
"""Feeds the reader of compose files with broken ones until the time is over, guided by the lines it reaches.

    PYTHONPATH=. .venv/bin/python scripts/fuzz_compose.py --seconds 600 [--seed N] [--keep]

A text that reaches a line of ic/compose or ic/fields that none reached before is kept as a seed for others;
with `--keep` such texts become files of tests/compose/corpus, which `make test` reads again. What raises
anything but an error of ic, or takes more than five seconds, is printed, written to `--crashes DIR`, and
makes the exit status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import random
import sys
import tempfile
import time
import traceback
from typing import TYPE_CHECKING

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from tests.compose import corpus  # noqa: E402 - the path comes first

if TYPE_CHECKING:
    from types import FrameType

ROOMS = (os.path.join(ROOT, "ic", "compose"), os.path.join(ROOT, "ic", "fields"))
SLOW_S = 5.0


def _words(name: str) -> list[str]:
    with open(os.path.join(corpus.HERE, f"{name}.words"), encoding="utf-8") as file:
        return file.read().splitlines()


VALUES = _words("values")  # what is put in the place of a value
KEYS = _words("keys")  # and of a key


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description="fuzz the reader of compose files")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", action="store_true", help="write what reaches new lines to the corpus"
    )
    parser.add_argument(
        "--crashes", default="", metavar="DIR", help="where to write what breaks it"
    )
    given = parser.parse_args()
    rnd = random.Random(given.seed)  # noqa: S311 - chance, not secrets
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        return _run(given, rnd, pathlib.Path(directory))


def _run(given: argparse.Namespace, rnd: random.Random, root: pathlib.Path) -> int:
    reached: set[tuple[str, int]] = set()
    pool: list[bytes] = []
    outcomes: dict[str, int] = {}
    broken: set[str] = set()
    for _, text in corpus.seeds():
        corpus.write(text, root)
        _, lines = _traced(root)
        reached |= lines
        pool.append(text)
    kept = 0
    rounds = 0
    started = time.monotonic()
    while time.monotonic() - started < given.seconds:
        rounds += 1
        text = _mutated(rnd, pool)
        corpus.write(text, root)
        at = time.monotonic()
        outcome, lines = _traced(root)
        took = time.monotonic() - at
        if took > SLOW_S:
            outcome = f"slow: {took:.1f} s"
        if outcome.startswith(("slow", "broken")):
            if outcome not in broken:
                broken.add(outcome)
                _report(given.crashes, text, outcome)
        else:
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if not lines <= reached:
            reached |= lines
            pool.append(text)
            kept += 1
            if given.keep and len(text) < 4000:
                name = hashlib.sha256(text).hexdigest()[:12]
                with open(os.path.join(corpus.HERE, f"{name}.txt"), "wb") as file:
                    file.write(text)
    told = ", ".join(
        f"{code} {number}" for code, number in sorted(outcomes.items(), key=lambda x: -x[1])
    )
    sys.stdout.write(f"{rounds} texts in {given.seconds:g} s, seed {given.seed}: {told}\n")
    sys.stdout.write(
        f"lines reached {len(reached)}, texts that reached new ones {kept}, broken {len(broken)}\n"
    )
    return 1 if broken else 0


def _report(directory: str, text: bytes, outcome: str) -> None:
    sys.stdout.write(f"{outcome}\n{text.decode(errors='backslashreplace')}\n")
    sys.stdout.flush()
    if directory:
        os.makedirs(directory, exist_ok=True)
        name = hashlib.sha256(text).hexdigest()[:12]
        with open(os.path.join(directory, f"{name}.txt"), "wb") as file:
            file.write(text)


def _traced(root: pathlib.Path) -> tuple[str, set[tuple[str, int]]]:
    """What reading ends in, and the lines that it reaches."""
    lines: set[tuple[str, int]] = set()

    def inside(frame: FrameType, event: str, _: object) -> object:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return inside

    def entered(frame: FrameType, event: str, _: object) -> object:
        del event
        return inside if frame.f_code.co_filename.startswith(ROOMS) else None

    sys.settrace(entered)  # pyright: ignore[reportArgumentType]
    try:
        outcome = corpus.read(root)
    except Exception as problem:  # noqa: BLE001 - finding these is what this is for
        last = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{os.path.relpath(last.filename, ROOT)}:{last.lineno}"
        outcome = f"broken: {type(problem).__name__} at {where}: {problem}"[:200]
    finally:
        sys.settrace(None)
    return outcome, lines


def _mutated(rnd: random.Random, pool: list[bytes]) -> bytes:
    text = rnd.choice(pool)
    for _ in range(rnd.choice((1, 1, 2, 3, 5))):
        text = rnd.choice(_MUTATIONS)(rnd, text, pool)
    return text[:100_000]


def _lines_of(rnd: random.Random, text: bytes) -> tuple[list[bytes], int]:
    lines = text.split(b"\n")
    return lines, rnd.randrange(len(lines))


def _new_value(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    head, colon, _rest = lines[at].partition(b": ")
    value = rnd.choice(VALUES).encode()
    if colon:
        lines[at] = head + colon + value
    elif lines[at].lstrip().startswith(b"- "):
        lines[at] = lines[at][: lines[at].index(b"-")] + b"- " + value
    else:
        lines[at] += b" " + value
    return b"\n".join(lines)


def _new_key(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    indent = len(lines[at]) - len(lines[at].lstrip())
    indent = max(0, indent + rnd.choice((0, 0, 0, 2, -2)))
    form = rnd.choice(("{}: {}", "{}: {}", "{}: [{}]", "{}: {{a: {}}}", "- {}: {}", "- {}", "{}:"))
    line = form.format(rnd.choice(KEYS), rnd.choice(VALUES))
    lines.insert(at + rnd.randint(0, 1), b" " * indent + line.encode())
    return b"\n".join(lines)


def _other_key(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    head, colon, rest = lines[at].partition(b":")
    indent = len(head) - len(head.lstrip())
    lines[at] = b" " * indent + rnd.choice(KEYS).encode() + colon + rest
    return b"\n".join(lines)


def _moved(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    lines[at] = b"  " + lines[at] if rnd.random() < 0.5 else lines[at][2:]
    return b"\n".join(lines)


def _dropped(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    del lines[at : at + rnd.randint(1, 3)]
    return b"\n".join(lines)


def _doubled(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    part = lines[at : at + rnd.randint(1, 4)]
    where = rnd.randrange(len(lines))
    return b"\n".join(lines[:where] + part + lines[where:])


def _crossed(rnd: random.Random, text: bytes, pool: list[bytes]) -> bytes:
    lines, at = _lines_of(rnd, text)
    others, there = _lines_of(rnd, rnd.choice(pool))
    return b"\n".join(lines[:at] + others[there : there + rnd.randint(1, 12)] + lines[at:])


def _bytes(rnd: random.Random, text: bytes, _: list[bytes]) -> bytes:
    at = rnd.randrange(len(text) + 1)
    new = rnd.choice(
        (
            b"\0",
            b"\xff",
            b"\t",
            b"\r",
            b"\xed\xa0\x80",
            b"{",
            b"]",
            b"'",
            b'"',
            b"#",
            b"\xe2\x80\xa8",
            b"%",
        )
    )
    return text[:at] + new + text[at + rnd.randint(0, 2) :]


def _file(rnd: random.Random, text: bytes, pool: list[bytes]) -> bytes:
    name = rnd.choice(
        ("other.yaml", "compose.override.yaml", ".env", "e.env", "compose.incus.yaml")
    )
    body = rnd.choice(pool).partition(b"--- FILE ")[0]
    if name.endswith("env"):
        body = b"A=1\nB='x y'\nC=\"$A\\n\"\nexport D: ${U:-d}\nE\n"
    return text + f"\n--- FILE {name}\n".encode() + body


_MUTATIONS = (
    _new_value, _new_value, _new_value, _new_key, _new_key, _new_key, _other_key, _moved, _dropped, _doubled,
    _crossed, _crossed, _bytes, _file,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
