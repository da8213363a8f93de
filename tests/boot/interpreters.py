"""The CPythons at hand: those on PATH, and the versions behind a version manager's shims on PATH.

A musl interpreter made by `scripts/musl-python.sh` is one of them once it has been made. As a program: prints
the others' paths, for `scripts/each-python.sh`.
"""

import glob
import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MUSL = os.path.join(ROOT, ".cache", "musl-python", "bin", "python3")
ASK = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.executable)"


def candidates() -> list[str]:
    """Paths that may be interpreters, in a fixed order."""
    found: list[str] = []
    for directory in os.environ.get("PATH", "").split(":"):
        places = [directory]
        if os.path.basename(directory) == "shims":
            versions = os.path.join(os.path.dirname(directory), "versions")
            places = sorted(glob.glob(os.path.join(versions, "*", "bin")))
        for place in places:
            found += sorted(glob.glob(os.path.join(place, "python3.[0-9]*")))
            found += glob.glob(os.path.join(place, "python2.7"))
    return [path for path in found if os.path.basename(path)[6:].replace(".", "").isdigit()]


def version(path: str) -> tuple[int, ...] | None:
    """The version of an interpreter; None when it does not run."""
    done = subprocess.run(
        [path, "-c", ASK], capture_output=True, text=True, timeout=30, check=False
    )
    lines = done.stdout.split()
    return tuple(int(n) for n in lines[0].split(".")) if done.returncode == 0 and lines else None


def at_hand() -> dict[str, str]:
    """Label -> path of one interpreter for each version found, oldest first."""
    found: dict[tuple[int, ...], str] = {}
    for path in candidates():
        number = version(path)
        if number is not None:
            found.setdefault(number, path)
    named = {".".join(map(str, number)): found[number] for number in sorted(found)}
    if os.path.exists(MUSL):
        named["musl"] = MUSL
    return named


ALL = at_hand()
GOOD = {label: path for label, path in ALL.items() if label == "musl" or version(path) >= (3, 10)}  # type: ignore[operator]
OLD = {label: path for label, path in ALL.items() if label not in GOOD}

if __name__ == "__main__":
    print("\n".join(path for label, path in GOOD.items() if label != "musl"))
