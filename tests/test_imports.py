"""Per command of the zipapp, the modules that must not be loaded: what a start costs is what it imports.

`python -X importtime` names every module that was loaded, in whichever way the process ends.
"""

import ast
import os
import subprocess

import pytest

import build_zipapp
from ic.cli import main
from tests import test_house
from tests.boot import interpreters

HEAVY = (
    "asyncio",
    "concurrent.futures",
    "dataclasses",
    "http.client",
    "importlib.metadata",
    "logging",
    "requests",
    "ssl",
    "urllib3",
    "websocket",
)

# What `config` of an ordinary file did load once and does not need: 2 to 4 ms each.
LEFT_OUT_OF_CONFIG = (
    "_hashlib",
    "_socket",
    "bz2",
    "gettext",
    "hashlib",
    "json",
    "locale",
    "lzma",
    "msgspec.inspect",
    "msgspec.json",
    "msgspec.msgpack",
    "shutil",
    "socket",
    "tempfile",
    "textwrap",
    "traceback",
    "yaml",
)
# What a command that loads the files compiles at import; others are compiled where they are needed.
MOST_PATTERNS = 24

# Command -> what it must not load besides nothing at all of HEAVY.
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "--version": (["--version"], ("argparse", "json", "msgspec", "re", "yaml", "ic.cli.main")),
    "--help": (["--help"], ("yaml",)),
    "config": (["config"], LEFT_OUT_OF_CONFIG),
    **{f"{name} --help": ([name, "--help"], ("yaml",)) for name in main.COMMANDS},
}

# What none of the commands that talk to a server may load, the one that reads compose files aside.
NEVER = ("asyncio", "concurrent.futures", "importlib.metadata", "websocket", "yaml")

COMPOSE = """\
services:
  web:
    image: nginx:alpine
    ports: ["8080:80", "127.0.0.1:8081:81"]
    environment: {GREETING: hello}
    healthcheck: {test: [CMD, "true"], interval: 10s, retries: 3}
"""


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A zipapp of this checkout, with a warm cache beside it."""
    folder = tmp_path_factory.mktemp("pyz")
    path = str(folder / "ic.pyz")
    build_zipapp.build(path, wheels_directory=os.path.join(build_zipapp.ROOT, ".cache", "wheels"))
    run("/usr/bin/python3", path, ["--help"], str(folder))
    return path


def run(python: str, pyz: str, arguments: list[str], cwd: str, status: int = 0) -> set[str]:
    """The modules that a command loads. It must end with `status`."""
    done = subprocess.run(
        # -S: the host's own start-up hooks are not ours.
        [python, "-S", "-X", "importtime", pyz, *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "IC_CACHE_DIR": os.path.dirname(pyz) + "/cache",
            "INCUS_SOCKET": "/nowhere/unix.socket",
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    rest = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == status, "\n".join(rest)
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.parametrize("label", [name for name in interpreters.GOOD if name != "musl"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_plain_command_loads_nothing_heavy(
    command: str, label: str, pyz: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "compose.yaml").write_text(COMPOSE)
    arguments, besides = COMMANDS[command]
    run(
        interpreters.GOOD[label], pyz, ["--help"], str(folder)
    )  # makes this interpreter's cache entry
    loaded = run(interpreters.GOOD[label], pyz, arguments, str(folder))
    assert sorted(loaded.intersection(HEAVY + besides)) == []


@pytest.mark.parametrize("command", ["version", "ps", "history", "down"])
def test_a_command_that_asks_a_server_loads_what_it_needs(
    command: str, pyz: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("stack"))
    arguments = [command] if command == "version" else ["-p", "web", command]
    status = 0 if command == "version" else 1  # no server answers
    loaded = run("/usr/bin/python3", pyz, arguments, folder, status)
    assert sorted(loaded.intersection(NEVER)) == []


def test_few_patterns_are_compiled_at_every_start() -> None:
    rooms = (
        "ic/compose",
        "ic/fields",
        "ic/cli/main",
        "ic/cli/output",
        "ic/cli/session",
        "ic/units",
    )
    paths = [path for path in test_house.python_files("ic") if path.startswith(rooms)]
    paths.remove("ic/compose/variables.py")  # of `config --variables` alone
    found = [
        f"{path}:{node.lineno}"
        for path in paths
        for statement in test_house.parsed(path).body
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and test_house.dotted(node.func) == "re.compile"
    ]
    assert len(found) <= MOST_PATTERNS, found
