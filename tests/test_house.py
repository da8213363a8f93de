"""The rules of the house that no linter knows: twins, names, doors, and who may touch the world."""

import ast
import os
import re

import pytest
import tomllib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORBIDDEN_ROOMS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "shared", "lib"}

# Where the world is touched that the rest of the house is kept from (invariant 9 of docs/architecture.md).
MAY_READ_ENVIRONMENT = {"ic/cli/main.py", "ic/compose/loader.py", "ic/boot/start.py"}
MAY_EXIT = {"ic/cli/main.py", "ic/__main__.py", "ic/boot/start.py", "ic/boot/firstrun.py"}
MAY_WRITE_TO_PEOPLE = {"ic/cli/output.py", "ic/cli/progress.py", "ic/boot/start.py"}


def python_files(top: str) -> list[str]:
    """Every module under `top`, as paths from the root, sorted."""
    found: list[str] = []
    for directory, _, names in os.walk(os.path.join(ROOT, top)):
        if "__pycache__" not in directory:
            paths = [os.path.join(directory, name) for name in names if name.endswith(".py")]
            found += [os.path.relpath(path, ROOT) for path in paths]
    return sorted(found)


def parsed(path: str) -> ast.Module:
    """The syntax tree of a module."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return ast.parse(file.read())


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, else empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def users_of(names: set[str], allowed: set[str]) -> list[str]:
    """Where one of `names` is mentioned under ic/, outside of `allowed`: path:line name."""
    found: list[str] = []
    for path in python_files("ic"):
        if path in allowed:
            continue
        found += [
            f"{path}:{node.lineno} {dotted(node)}"
            for node in ast.walk(parsed(path))
            if isinstance(node, (ast.Attribute, ast.Name)) and dotted(node) in names
        ]
    return found


def test_every_module_has_its_twin() -> None:
    missing: list[str] = []
    for path in python_files("ic"):
        room, name = os.path.split(path.removeprefix("ic/"))
        if name == "__init__.py":
            continue
        twin = os.path.join("tests", room, f"test_{name}")
        if not os.path.exists(os.path.join(ROOT, twin)):
            missing.append(f"{path} -> {twin}")
    assert missing == [], "\n".join(missing)


def test_every_twin_holds_a_test() -> None:
    tests = [path for path in python_files("tests") if os.path.basename(path).startswith("test_")]
    empty = [
        path
        for path in tests
        if not any(
            isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            for node in ast.walk(parsed(path))
        )
    ]
    assert empty == []


def test_no_room_is_named_for_nothing() -> None:
    paths = python_files("ic") + python_files("tests")
    words = [(path, part.removesuffix(".py")) for path in paths for part in path.split("/")]
    assert [path for path, word in words if word.removeprefix("test_") in FORBIDDEN_ROOMS] == []


def test_package_files_hold_a_docstring_and_public_names_only() -> None:
    wrong: list[str] = []
    for path in python_files("ic"):
        if not path.endswith("/__init__.py"):
            continue
        body = parsed(path).body
        if not body or ast.get_docstring(parsed(path)) is None:
            wrong.append(f"{path}: no docstring")
        for node in body[1:]:
            names = (
                [dotted(target) for target in node.targets] if isinstance(node, ast.Assign) else []
            )
            if not isinstance(node, (ast.Import, ast.ImportFrom)) and names not in (
                ["__all__"],
                ["__version__"],
            ):
                wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_every_module_says_what_its_room_is_for() -> None:
    paths = python_files("ic") + python_files("tests") + python_files("bench") + ["build_zipapp.py"]
    assert [path for path in paths if not ast.get_docstring(parsed(path))] == []


def test_the_environment_is_read_in_two_places() -> None:
    assert users_of({"os.environ", "os.getenv", "environ"}, MAY_READ_ENVIRONMENT) == []


def test_only_main_exits() -> None:
    assert users_of({"sys.exit", "os._exit", "SystemExit"}, MAY_EXIT) == []


def test_only_output_and_progress_write_to_people() -> None:
    assert users_of({"sys.stdout", "sys.stderr", "print"}, MAY_WRITE_TO_PEOPLE | MAY_EXIT) == []


def test_no_other_program_is_run_and_no_foreign_archive_unpacked() -> None:
    """docs/security.md, "Files on this machine". One child there is: it compiles the cache of modules."""
    ways = ("fork", "forkpty", "system", "popen", "startfile", "posix_spawn", "posix_spawnp")
    ways += tuple(f"{verb}{how}" for verb in ("exec", "spawn") for how in ("l", "le", "v", "ve"))
    ways += tuple(
        f"{verb}{how}p{end}" for verb in ("exec", "spawn") for how in "lv" for end in ("", "e")
    )
    assert users_of({f"os.{way}" for way in ways}, {"ic/boot/firstrun.py"}) == []
    programs = {"subprocess", "multiprocessing", "pty", "tarfile", "shutil"}
    found: list[str] = []
    for path in python_files("ic"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                whole = getattr(node, "module", None)
                names = [whole] if whole else [one.name for one in node.names]
                found += [path for name in names if name.partition(".")[0] in programs]
    assert found == []


@pytest.mark.parametrize("word", ["pytest.skip", "skipif", "importorskip", "mock.patch", "xfail"])
def test_no_test_looks_away(word: str) -> None:
    found: list[str] = []
    for path in python_files("tests"):
        if path == "tests/test_house.py":
            continue
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            found += [f"{path}:{n}" for n, line in enumerate(file, 1) if word in line]
    assert found == []


def test_runtime_dependencies_are_these_five() -> None:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)["project"]
    names = {re.split(r"[<>=]", one)[0].lower() for one in project["dependencies"]}
    assert names == {"requests", "requests-unixsocket", "pyyaml", "msgspec", "websocket-client"}


@pytest.mark.parametrize("name", ["runtime", "build", "dev"])
def test_locks_name_no_index_and_hash_everything(name: str) -> None:
    with open(os.path.join(ROOT, "requirements", f"{name}.txt"), encoding="utf-8") as file:
        text = file.read()
    assert "://" not in text
    entries = re.split(r"\n(?=[a-z])", text)[1:]
    assert entries
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_locks_cover_what_the_project_asks_for() -> None:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        document = tomllib.load(file)
    groups = document["dependency-groups"]
    asked = {
        "runtime": document["project"]["dependencies"],
        "build": groups["build"],
        "dev": document["project"]["dependencies"] + groups["test"] + groups["lint"],
    }
    for name, wanted in asked.items():
        with open(os.path.join(ROOT, "requirements", f"{name}.txt"), encoding="utf-8") as file:
            locked = set(re.findall(r"^([a-z0-9-]+)==", file.read(), re.MULTILINE))
        missing = {re.split(r"[<>=]", one)[0].lower() for one in wanted} - locked
        assert missing == set(), name
