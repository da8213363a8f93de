"""The project's own compose cases: how one is laid out and run, and the record of what docker compose prints.

A case is a folder `tests/compose/cases/RULE/NAME`: compose files and whatever they need, and `case.json`:

    args       the command line, `config` when left out
    env        variables of the environment besides PATH and HOME; cwd: below the folder; stdin: a file of it
    mentions   words that the message of a refusal names
    table      whether the differential table has the case too (`digests`: also the flags that ask registries;
               all its images have digests, so none is asked)
    recorded   by this script: the program asked, its status, and for a refusal what it said

Beside it `expected`, the standard output, and `written` where a file was asked for; both with `{TOP}` for the
folder that the copy of the case stood in.

    python -m scripts.compose_cases record BINARY [REGEX]   ask docker compose 2.40.3 about the cases, write
    python -m scripts.compose_cases table BINARY            ask it for every flag and every pair of flags
    python -m scripts.compose_cases check [REGEX]           the same of ic, compared with the table
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests/compose/cases"
TABLE = ROOT / "tests/compose/cases/table.json"
ASKED = "docker compose 2.40.3"
TOP = "{TOP}"
WRITTEN = "out.yaml"
_KEPT = ("case.json", "expected", "written")

# docker compose prints these in the order of Go's maps, another one each time.
_UNORDERED = frozenset(
    ("--services", "--volumes", "--networks", "--models", "--images", "--variables")
)


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What docker compose did."""

    by: str
    status: int
    said: str = ""


class Case(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One case as `case.json` has it."""

    args: tuple[str, ...] = ("config",)
    env: dict[str, str] = {}
    cwd: str = "."
    stdin: str = ""
    mentions: tuple[str, ...] = ()
    table: bool | str = False
    recorded: Recorded | None = None


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a program did with a case."""

    status: int
    stdout: str
    stderr: str
    written: str | None


def names(pattern: str = "") -> list[str]:
    """The cases, RULE/NAME, sorted."""
    found = (str(one.parent.relative_to(CASES)) for one in CASES.rglob("case.json"))
    return sorted(name for name in found if re.search(pattern, name))


def case(name: str) -> Case:
    """One case. Raises msgspec.ValidationError for a file that is none."""
    return msgspec.json.decode((CASES / name / "case.json").read_bytes(), type=Case)


def _ordered(args: tuple[str, ...], text: str) -> str:
    unordered = _UNORDERED.intersection(word.partition("=")[0] for word in args)
    return "".join(sorted(text.splitlines(keepends=True))) if unordered else text


def run(name: str, top: Path, program: Any, args: tuple[str, ...] | None = None) -> Ran:
    """Run a program on a fresh copy of a case below `top`; `args` instead of its own."""
    one = case(name)
    used = one.args if args is None else args
    root = top / "at" / name.rpartition("/")[2]
    if root.parent.exists():
        shutil.rmtree(root.parent)
    shutil.copytree(CASES / name, root, ignore=shutil.ignore_patterns(*_KEPT))
    cwd = root / one.cwd
    env = {"PATH": "/usr/bin:/bin", "HOME": str(top / "home"), "PWD": str(cwd), **one.env}
    stdin = (root / one.stdin).read_bytes() if one.stdin else b""
    status, stdout, stderr = program(list(used), cwd, env, stdin)
    written = cwd / WRITTEN
    place = str(top)
    return Ran(
        status=status,
        stdout=_ordered(used, stdout.replace(place, TOP)),
        stderr=stderr.replace(place, TOP),
        written=written.read_text().replace(place, TOP) if written.exists() else None,
    )


def binary(path: str) -> Any:
    """docker compose as a program for `run`."""

    def program(
        args: list[str], cwd: Path, env: dict[str, str], stdin: bytes
    ) -> tuple[int, str, str]:
        ran = subprocess.run(
            [path, *args], cwd=cwd, env=env, input=stdin, capture_output=True, timeout=60, check=False
        )  # fmt: skip
        return ran.returncode, ran.stdout.decode(), ran.stderr.decode(errors="replace")

    return program


@contextlib.contextmanager
def _place(cwd: Path, env: dict[str, str]) -> Generator[None]:
    before, variables = Path.cwd(), dict(os.environ)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(before)


def ic(args: list[str], cwd: Path, env: dict[str, str], stdin: bytes) -> tuple[int, str, str]:
    """ic in this process, as a program for `run`."""
    from ic.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    with _place(cwd, env), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        try:
            status = main.main(args)
        finally:
            sys.stdin = before
    return status, out.getvalue(), err.getvalue()


# --- recording ------------------------------------------------------------------------------------------


def _said(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line and "level=warning" not in line]
    return "; ".join(lines)[:400]


def record(path: str, pattern: str) -> int:
    """Ask docker compose about each case and write what it did; the number of cases."""
    found = names(pattern)
    for name in found:
        with tempfile.TemporaryDirectory() as top:
            ran = run(name, Path(top), binary(path))
        folder = CASES / name
        for kept, text in (("expected", ran.stdout), ("written", ran.written)):
            if text and ran.status == 0:
                (folder / kept).write_text(text)
            else:
                (folder / kept).unlink(missing_ok=True)
        said = _said(ran.stderr) if ran.status else ""
        made = msgspec.structs.replace(
            case(name), recorded=Recorded(by=ASKED, status=ran.status, said=said)
        )
        text = json.dumps(msgspec.to_builtins(made), indent=1, ensure_ascii=False)
        (folder / "case.json").write_text(f"{text}\n")
        if (ran.status != 0) != bool(made.mentions):
            print(f"{name}: status {ran.status}: {said}")
    return len(found)


# --- the differential table -----------------------------------------------------------------------------

FLAGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: words before `config`, words behind it
    "format-json": ((), ("--format", "json")),
    "services": ((), ("--services",)),
    "volumes": ((), ("--volumes",)),
    "networks": ((), ("--networks",)),
    "models": ((), ("--models",)),
    "images": ((), ("--images",)),
    "profiles": ((), ("--profiles",)),
    "environment": ((), ("--environment",)),
    "variables": ((), ("--variables",)),
    "hash": ((), ("--hash", "*")),
    "quiet": ((), ("-q",)),
    "no-interpolate": ((), ("--no-interpolate",)),
    "no-normalize": ((), ("--no-normalize",)),
    "no-path-resolution": ((), ("--no-path-resolution",)),
    "no-consistency": ((), ("--no-consistency",)),
    "no-env-resolution": ((), ("--no-env-resolution",)),
    "output": ((), ("-o", WRITTEN)),
    "dry-run": ((), ("--dry-run",)),
    "service": ((), ("web",)),
    "all-resources": (("--all-resources",), ()),
    "compatibility": (("--compatibility",), ()),
    "parallel": (("--parallel", "2"), ()),
    "all-profiles": (("--profile", "*"), ()),
}
DIGESTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "resolve-image-digests": ((), ("--resolve-image-digests",)),
    "lock-image-digests": ((), ("--lock-image-digests",)),
}


def runs(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the table asks of a case: a name and a command line for each flag and each pair."""
    one = case(name)
    flags = FLAGS | DIGESTS if one.table == "digests" else FLAGS
    at = one.args.index("config")
    before, behind = one.args[:at], one.args[at + 1 :]
    for size in (1, 2):
        for chosen in itertools.combinations(flags, size):
            first = tuple(word for flag in chosen for word in flags[flag][0])
            then = tuple(word for flag in chosen for word in flags[flag][1])
            yield "+".join(chosen), (*first, *before, "config", *then, *behind)


def outcome(ran: Ran) -> str:
    """A run in short: its status, and a digest of what it printed and wrote."""
    digest = hashlib.sha256(f"{ran.stdout}\0{ran.written}".encode()).hexdigest()[:16]
    return f"{ran.status} {digest}"


def in_table() -> list[str]:
    """The cases of the table."""
    return [name for name in names() if case(name).table]


def table(path: str) -> dict[str, dict[str, Any]]:
    """Ask docker compose for the table, twice, in two places; what differs then is not recorded.

    A digest of absolute paths is the most common such run.
    """

    def asked(name: str) -> tuple[str, dict[str, str]]:
        found: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            for flags, args in runs(name):
                both = {outcome(run(name, Path(top), binary(path), args)) for top in (one, other)}
                if len(both) == 1:
                    found[flags] = both.pop()
        return name, found

    made: dict[str, dict[str, Any]] = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, found in pool.map(asked, in_table()):
            outcomes = sorted(set(found.values()))
            numbers = {one: number for number, one in enumerate(outcomes)}
            order = [found.get(flags) for flags, _ in runs(name)]
            made[name] = {
                "outcomes": outcomes,
                "runs": [-1 if one is None else numbers[one] for one in order],
            }
    return made


def expected(name: str) -> dict[str, str]:
    """What the table has of a case: the outcome of each run that docker compose does the same each time."""
    stored = json.loads(TABLE.read_text())[name]
    return {
        flags: stored["outcomes"][number]
        for (flags, _), number in zip(runs(name), stored["runs"], strict=True)
        if number >= 0
    }


def differing(name: str, top: Path, wanted: Callable[[str], bool]) -> list[str]:
    """The runs of a case, of those wanted, in which ic does something else than docker compose did."""
    stored = expected(name)
    return [
        " ".join(args)
        for flags, args in runs(name)
        if flags in stored and wanted(flags) and outcome(run(name, top, ic, args)) != stored[flags]
    ]


def check(pattern: str) -> int:
    """Compare all of the table with ic; the number of differences."""
    wrong = 0
    for name in in_table():
        if re.search(pattern, name):
            with tempfile.TemporaryDirectory() as top:
                found = differing(name, Path(top), lambda _: True)
            wrong += len(found)
            for one in found:
                print(f"{name}: {one}")
    print(f"{wrong} differences")
    return wrong


def main(argv: list[str]) -> int:
    """The script; the exit status."""
    match argv:
        case ["record", path, *rest]:
            print(f"{record(path, rest[0] if rest else '')} cases recorded")
            return 0
        case ["table", path]:
            text = json.dumps(table(path), separators=(",", ":"))
            TABLE.write_text(text.replace('},"', '},\n"') + "\n")
            return 0
        case ["check", *rest]:
            return 1 if check(rest[0] if rest else "") else 0
        case _:
            print(__doc__)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
