"""What a whole `ic config` costs with hostile files: above the limits next to nothing, below them in proportion.

Processes are measured from within: processor time, and the most memory that they ever held.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ic import errors
from tests.compose import stacks

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable

MEMORY_MIB = 64
REFUSAL_S = 0.2  # beyond what a stack of one service takes

_PROGRAM = """
import sys, time
from ic.cli import main
begun = time.process_time()
def end():
    with open("/proc/self/status") as file:
        peak = next(line for line in file if line.startswith("VmHWM")).split()[1]
    with open("cost", "w") as file:
        file.write(f"{time.process_time() - begun} {int(peak) / 1024}")
try:
    status = main.main(["config", "-q"])
finally:
    end()
sys.exit(status)
"""


def run(folder: pathlib.Path) -> tuple[int, str, float, float]:
    """Status, standard error, seconds beyond the imports and MiB of an `ic config -q` there."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "PYTHONPATH": ":".join(sys.path)},
    )
    seconds, mib = (folder / "cost").read_text().split()
    return done.returncode, done.stderr, float(seconds), float(mib)


@pytest.fixture(scope="module")
def trivial(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The seconds that one service takes."""
    folder = tmp_path_factory.mktemp("trivial")
    stacks.write(folder, {"compose.yaml": SERVICE})
    return min(run(folder)[2] for _ in range(3))


SERVICE = "services: {a: {image: i}}\n"
Files = dict[str, str]


def service(more: str) -> str:
    """One service with more keys."""
    return f"services: {{a: {{image: i, {more}}}}}\n"


def many(count: int, text: str, between: str = "") -> str:
    """A text again and again, numbered."""
    return between.join(text.replace("@", str(at)) for at in range(count))


def named(count: int, text: str) -> Files:
    """Files that the variable COMPOSE_FILE names, each with this text."""
    files = {f"f{at}.yaml": text for at in range(count)}
    return {".env": f"COMPOSE_FILE={':'.join(files)}\n", **files}


WIDE = service("labels: {" + many(20_000, "k@: v", ", ") + "}")
LONG = "services: {b: {image: i}}\nx-a: [" + "a, " * 100_000 + "a]\n"
QUOTED = "services:\n b:\n  image: i\nx-a:\n" + many(100_000, " 'k@': 'a#\"'\n")


def bomb(one: str, line: str) -> str:
    """Nine levels, each nine times what the one before it is."""
    return one + many(9, line).replace("#", "")


# What is refused, with the limit that its message names.
HOSTILE: dict[str, tuple[Callable[[], Files], str]] = {
    "a file of 50 MiB": (lambda: {"compose.yaml": SERVICE + "# x\n" * (50 * 2**18)}, "5242880 bytes"),
    "10^6 keys": (lambda: {"compose.yaml": many(400_000, "k@: v\n")}, "150000 values"),
    "quoted keys": (lambda: {"compose.yaml": many(250_000, '"k@": v\n')}, "150000 values"),
    "10^6 items on a line": (lambda: {"compose.yaml": "x: [" + "a," * 10**6 + "a]\n"}, "150000 values"),
    "quoted items": (lambda: {"compose.yaml": "x: [" + "'a', " * 600_000 + "a]\n"}, "150000 values"),
    "items line by line": (lambda: {"compose.yaml": "y: |\n  a\nx: [\n" + " a,\n" * 800_000}, "150000 values"),
    "documents": (lambda: {"compose.yaml": "---\n" * 500_000}, "150000 values"),
    "aliases": (
        lambda: {"compose.yaml": "a0: &a0 [x]\n" + "".join(
            f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 10))},
        "150000 values",
    ),
    "aliases of a long text": (
        lambda: {"compose.yaml": f"x-t: &t '{'y' * 2**20}'\nx-l: [" + "*t, " * 9999 + "1]\n" + SERVICE},
        "150000 values",
    ),
    "merges": (
        lambda: {"compose.yaml": "x-m: &m {" + many(1000, "k@: 1", ", ") + "}\n" + many(999, "x-@: {<<: *m}\n")},
        "150000 values",
    ),
    "merges of a list": (
        lambda: {"compose.yaml": "x-m: &m {" + many(1000, "k@: 1", ", ") + "}\nx: {<<: [" + "*m, " * 9999 + "*m]}\n"},
        "150000 values",
    ),
    "depth of lists": (lambda: {"compose.yaml": "x: " + "[" * 10_000}, "128 levels"),
    "depth of mappings": (lambda: {"compose.yaml": "x: " + "{a: " * 10_000}, "128 levels"),
    "depth of dashes": (lambda: {"compose.yaml": "- " * 5_000 + "x"}, "128 levels"),
    "depth of lines": (lambda: {"compose.yaml": "".join(" " * at + "a:\n" for at in range(2000))}, "128 levels"),
    "nested variables": (
        lambda: {"compose.yaml": service(f"user: '{'${A:-' * 1000}x{'}' * 1000}'")}, "64 levels",
    ),
    "braces": (lambda: {"compose.yaml": service(f"user: '{'${A:-' * 500_000}{'}' * 500_000}'")}, "10000 braces"),
    "a variable used often": (
        lambda: {"compose.yaml": service("labels: {" + many(9999, "k@: x$A", ", ") + "}"), ".env": f"A={'x' * 2**20}\n"},
        "16777216 characters",
    ),
    "variables of variables": (
        lambda: {"compose.yaml": SERVICE, ".env": f"A={'x' * 2**20}\n" + many(9999, "B@=$A\n")},
        "8388608 characters",
    ),
    "names in an env file": (
        lambda: {"compose.yaml": service("env_file: e"), "e": many(450_000, "A@=1\n")}, "200000 names",
    ),
    "env files again and again": (
        lambda: {"compose.yaml": "services: {" + many(30, "s@: {image: i, env_file: e}", ", ") + "}",
                 "e": many(20_000, "V@=x\n")},
        "200000 values",
    ),
    "long env files again and again": (
        lambda: {"compose.yaml": "services: {" + many(900, "s@: {image: i, env_file: e}", ", ") + "}",
                 "e": "#$" * 2**21},
        "16777216 characters",
    ),
    "label files again and again": (
        lambda: {"compose.yaml": "services: {" + many(30, "s@: {image: i, label_file: e}", ", ") + "}",
                 "e": many(20_000, "V@=x\n")},
        "200000 values",
    ),
    "one base extended often": (
        lambda: {"compose.yaml": "services:\n  b: {image: i, labels: {" + many(5000, "k@: v", ", ") + "}}\n"
                 + many(110, "  s@: {extends: b, labels: {x: y}}\n")},
        "200000 values",
    ),
    "ranges of ports": (
        lambda: {"compose.yaml": service("ports: [" + ", ".join(
            f"'{at}.0.0.1:1-65535:1-65535'" for at in range(1, 99)) + "]")},
        "200000 values",
    ),
    "files that include one another": (
        lambda: {"compose.yaml": "include: [f0.yaml]\n", **{
            f"f{at}.yaml": f"include: [f{at + 1}.yaml]\nservices: {{s{at}: {{image: a}}}}\n" for at in range(300)}},
        "100 levels",
    ),
    "a circle of includes": (
        lambda: {"compose.yaml": "include: [b.yaml]\n" + SERVICE, "b.yaml": "include: [compose.yaml]\n"}, "cycle",
    ),
    "long files": (lambda: named(50, LONG), "200000 values"),
    "long files of quoted texts": (lambda: named(20, QUOTED), "200000 values"),
    "long files that are included": (
        lambda: {"compose.yaml": "include:\n" + many(50, "- f@.yaml\n"), **named(50, LONG), ".env": ""},
        "200000 values",
    ),
    "a long file that is included from many places": (
        lambda: {"compose.yaml": "include:\n" + many(999, "- {path: f0.yaml, project_directory: d@}\n"),
                 **named(1, LONG), ".env": ""},
        "200000 values",
    ),
    "long files that are extended": (
        lambda: {"compose.yaml": "services:\n" + many(60, "  s@: {extends: {file: f@.yaml, service: b}}\n"),
                 **named(60, LONG), ".env": ""},
        "200000 values",
    ),
    "many files over a long one": (
        lambda: {"f.yaml": WIDE, **named(200, service("labels: {z: y}")),
                 ".env": f"COMPOSE_FILE=f.yaml:{':'.join(named(200, ''))[5:]}\n"},
        "2000000 values",
    ),
    "a line of no text": (lambda: {"compose.yaml": "a\0" * 2_000_000}, "U+0000"),
    "files of 32 MiB together": (
        lambda: {"compose.yaml": service("env_file: [" + many(9, "e@", ", ") + "]"),
                 **{f"e{at}": "# " + "x" * 4 * 2**20 for at in range(9)}},
        "33554432 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_refusal_names_the_limit_and_costs_little(
    tmp_path: pathlib.Path, trivial: float, name: str
) -> None:
    make, told = HOSTILE[name]
    stacks.write(tmp_path, make())
    seconds = 0.0
    for _ in range(5):
        status, said, seconds, mib = run(tmp_path)
        assert (status, told in said) == (1, True), said[:500]
        assert mib <= MEMORY_MIB
        if seconds - trivial <= REFUSAL_S:
            return
    raise AssertionError(f"{seconds:.2f} s, {trivial:.2f} of them at any start")


# What is taken, by its size: time and memory go up with that and no faster.
LINEAR: dict[str, Callable[[int], Files]] = {
    "services": lambda size: {"compose.yaml": "services:\n" + many(size, "  s@:\n    image: i\n    user: u\n")},
    "labels": lambda size: {"compose.yaml": service("labels: {" + many(8 * size, "k@: v$$", ", ") + "}")},
    "variables": lambda size: {"compose.yaml": service("labels: {" + many(8 * size, "k@: '${A@:-x}'", ", ") + "}")},
    "a long text": lambda size: {"compose.yaml": "x-a: |\n" + "  abc\n" * 80 * size + SERVICE},
    "dependencies": lambda size: {
        "compose.yaml": "services:\n  s0: {image: i}\n"
        + "".join(f"  s{at}: {{image: i, depends_on: [s{at - 1}]}}\n" for at in range(1, size))
    },
    "aliases": lambda size: {"compose.yaml": "x-a: &a {k: v, l: w}\nx-b:\n" + many(3 * size, "  - <<: *a\n") + SERVICE},
    "an env file": lambda size: {"compose.yaml": service("env_file: e"), "e": many(10 * size, "A@=x $B\n")},
    "a quoted text on many lines": lambda size: {
        "compose.yaml": 'x-a: "' + "a b\n  " * 20 * size + '"\n' + SERVICE
    },
    "includes beside much": lambda size: {
        "compose.yaml": "include:\n" + many(size // 20, "- f@.yaml\n") + "volumes:\n" + many(3 * size, "  v@:\n"),
        **{f"f{at}.yaml": f"volumes: {{w{at}: }}\n" for at in range(size // 20)},
    },
    "includes": lambda size: {
        "compose.yaml": "include:\n" + many(size // 8, "- f@.yaml\n"),
        **{f"f{at}.yaml": f"services: {{s{at}: {{image: i}}}}\n" for at in range(size // 8)},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_time_and_memory_are_linear(tmp_path: pathlib.Path, name: str) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    stacks.write(small, LINEAR[name](1000))
    stacks.write(large, LINEAR[name](4000))
    little, much = 0.0, 0.0
    for _ in range(3):
        costs = [run(folder) for folder in (small, large)]
        assert [status for status, *_ in costs] == [0, 0], costs[1][1][:500]
        (*_, little, low), (*_, much, high) = costs
        assert high <= 6 * low
        if much <= 6 * little:
            return
    raise AssertionError(f"{little:.2f} s, then {much:.2f} s")


def test_what_is_merely_large_is_taken(tmp_path: pathlib.Path) -> None:
    text = service(f"user: '${{A:-{'x' * 2**20}}}'")
    names = {f"UNUSED_{at}": "x" for at in range(10**5)}
    assert len(stacks.load(tmp_path, text, names).services["a"].process.user or "") == 2**20
    assert stacks.load(tmp_path, service("labels: {" + many(99_000, "k@: v", ", ") + "}"))
    assert stacks.load(tmp_path, "# " + "x" * (4 * 2**20 - 100) + "\n" + SERVICE)
    assert stacks.load(tmp_path, "x-a: " + "[" * 98 + "]" * 98 + "\n" + SERVICE)


def test_a_long_list_of_mistakes_is_told_without_a_search_for_each(tmp_path: pathlib.Path) -> None:
    text = "services:\n" + many(3000, "  service@: {image: i, depends_on: [serwice@]}\n")
    with pytest.raises(errors.ComposeError) as caught:
        stacks.load(tmp_path, text)
    told = [one for one in caught.value.diagnostics if one.severity == "error"]
    assert len(told) == 1000
    assert told[0].hint == "did you mean 'service0'?"
    assert told[-1].hint == ""


def test_mistakes_are_found_in_time_that_goes_up_with_their_number(tmp_path: pathlib.Path) -> None:
    costs: list[float] = []
    for count in (3000, 12_000):
        text = "services:\n" + many(count, "  service@:\n    extends: serwice@\n")
        begun = time.process_time()
        with pytest.raises(errors.ComposeError):
            stacks.load(tmp_path, text)
        costs.append(time.process_time() - begun)
    assert costs[1] <= 9 * costs[0]
