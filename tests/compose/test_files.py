"""Files are found as docker compose finds them, read within limits, and pipes never wait for ever."""

import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from ic import errors
from ic.compose import files
from ic.fields import tree
from tests.compose import stacks


def found(root: pathlib.Path, env: dict[str, str] | None = None, **options: object) -> files.Found:
    given = files.Options(cwd=str(root), **options)  # pyright: ignore[reportArgumentType]
    return files.find(given, env or {}, files.Disk(str(root)), tree.Report())


def names(root: pathlib.Path, **given: object) -> list[str]:
    return [os.path.relpath(path, root) for path in found(root, **given).files]  # pyright: ignore[reportArgumentType]


def touch(root: pathlib.Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_companions_follow_their_file(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "compose.yaml", "compose.override.yml", "compose.incus.yaml")
    touch(tmp_path, "compose.override.incus.yml", "other.incus.yaml", "d/x.yaml", "d/x.incus.yml")
    default = ["compose.yaml", "compose.incus.yaml", "compose.override.yml"]
    assert names(tmp_path) == [*default, "compose.override.incus.yml"]
    assert names(tmp_path, files=("d/x.yaml",)) == ["d/x.yaml", "d/x.incus.yml"]
    assert found(tmp_path).companions == (
        str(tmp_path / "compose.incus.yaml"),
        str(tmp_path / "compose.override.incus.yml"),
    )


def test_a_companion_is_never_taken_twice(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "compose.yaml", "compose.incus.yaml", "compose.incus.yml")
    assert names(tmp_path, files=("compose.incus.yaml", "compose.yaml")) == [
        "compose.incus.yaml",
        "compose.yaml",
    ]
    assert names(tmp_path) == ["compose.yaml", "compose.incus.yaml"]


@pytest.mark.parametrize(
    ("env", "option", "taken"),
    [
        ({}, None, True),
        ({}, False, False),
        ({"IC_INCUS_FILES": "never"}, None, False),
        ({"IC_INCUS_FILES": "never"}, True, True),
        ({"IC_INCUS_FILES": "auto"}, None, True),
    ],
)
def test_companions_can_be_switched_off(
    tmp_path: pathlib.Path, env: dict[str, str], option: bool | None, *, taken: bool
) -> None:
    touch(tmp_path, "compose.yaml", "compose.incus.yaml")
    assert bool(found(tmp_path, env, companions=option).companions) is taken
    with pytest.raises(errors.UsageError, match="IC_INCUS_FILES"):
        found(tmp_path, {"IC_INCUS_FILES": "sometimes"})


def test_an_env_file_that_disables_itself_keeps_its_own_settings(tmp_path: pathlib.Path) -> None:
    touch(tmp_path, "compose.yaml")
    text = "COMPOSE_DISABLE_ENV_FILE=1\nTAG=1\nCOMPOSE_PROJECT_NAME=n\n"
    (tmp_path / ".env").write_text(text)
    env = found(tmp_path).env
    assert "TAG" not in env
    assert env["COMPOSE_PROJECT_NAME"] == "n"


@pytest.mark.parametrize("value", ["", "compose.yaml:"])
def test_a_file_without_a_name_is_refused(tmp_path: pathlib.Path, value: str) -> None:
    touch(tmp_path, "compose.yaml")
    with pytest.raises(errors.UsageError, match="names a file without a name"):
        found(tmp_path, {"COMPOSE_FILE": value})


@pytest.mark.parametrize("name", ["https://example.com/x.yaml", "oci://x/y", "git@host:x.git"])
def test_files_from_elsewhere_are_refused(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        found(tmp_path, files=(name,))
    assert caught.value.code == "E_FILE_REMOTE"


def test_a_file_is_read_once_and_long_ones_are_refused_without_reading(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = files.Disk(str(tmp_path))
    path = str(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"one")
    assert disk.read(path) == b"one"
    (tmp_path / "x").write_bytes(b"two")
    assert disk.read(path) == b"one"
    with (tmp_path / "long").open("wb") as file:
        file.truncate(50 * 2**20)
    with pytest.raises(errors.UsageError, match="more than 5242880 bytes") as caught:
        disk.read(str(tmp_path / "long"))
    assert caught.value.code == "E_LIMIT"
    monkeypatch.setattr(files, "TOTAL_LIMIT", 4)
    (tmp_path / "y").write_bytes(b"more")
    with pytest.raises(errors.UsageError, match="all files of the stack together"):
        disk.read(str(tmp_path / "y"))


def test_devices_are_read_to_their_end(tmp_path: pathlib.Path) -> None:
    assert files.Disk(str(tmp_path)).read("/dev/null") == b""
    with pytest.raises(errors.UsageError, match="more than"):
        files.Disk(str(tmp_path)).read("/dev/zero")


def test_pipes_without_a_writer_share_one_wait(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIPE_WAIT_S", 0.3)
    disk = files.Disk(str(tmp_path))
    started = time.monotonic()
    for name in "abcdef":
        os.mkfifo(tmp_path / name)
        with pytest.raises(errors.UsageError, match=r"nothing was written to it for 0\.3 s"):
            disk.read(str(tmp_path / name))
    assert time.monotonic() - started < 1.5


def test_a_slow_writer_is_waited_for_and_a_silent_one_is_not_for_ever(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("w") as file:
            file.write("one")
            file.flush()
            time.sleep(0.2)
            file.write("two")

    feeder = threading.Thread(target=write)
    feeder.start()
    assert files.Disk(str(tmp_path)).read(str(pipe)) == b"onetwo"
    feeder.join()
    monkeypatch.setattr(files, "WRITER_WAIT_S", 0.1)
    held = os.open(pipe, os.O_RDWR)
    with pytest.raises(errors.UsageError, match="nothing was written"):
        files.Disk(str(tmp_path)).read(str(pipe))
    os.close(held)


PIPES: dict[str, tuple[str, dict[str, object]]] = {
    "named": ("services: {web: {image: a}}", {"files": ("pipe",)}),
    "include": ("include: [pipe]\nservices: {web: {image: a}}", {}),
    "extends": ("services: {web: {extends: {file: pipe, service: b}}}", {}),
    "env_file": ("services: {web: {image: a, env_file: pipe}}", {}),
    "label_file": ("services: {web: {image: a, label_file: pipe}}", {}),
    "--env-file": ("services: {web: {image: a}}", {"env_files": ("pipe",)}),
    "override": ("services: {web: {image: a}}", {"name": "compose.override.yaml"}),
    ".env": ("services: {web: {image: a}}", {"name": ".env"}),
    "include's .env": ("include: [d/x.yaml]", {"name": "d/.env"}),
}  # fmt: skip


@pytest.mark.parametrize("place", PIPES)
def test_a_pipe_without_a_writer_is_one_error_wherever_it_stands(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(files, "PIPE_WAIT_S", 0.1)
    text, options = PIPES[place]
    name = str(options.get("name", "pipe"))
    given = {key: value for key, value in options.items() if key != "name"}
    stacks.write(tmp_path, {"compose.yaml": text, "d/x.yaml": "services: {b: {image: b}}"})
    os.mkfifo(tmp_path / name)
    with pytest.raises(errors.IcError) as caught:
        stacks.load(tmp_path, None, **given)  # pyright: ignore[reportArgumentType]
    assert "nothing was written to it for 0.1 s" in f"{caught.value}"
    diagnostics = getattr(caught.value, "diagnostics", ())
    assert len([one for one in diagnostics if one.severity == "error"]) <= 1


UNREADABLE = {
    "compose.yaml": "",
    "compose.override.yaml": "services: {web: {image: a}}",
    ".env": "services: {web: {image: a}}",
    "e": "services: {web: {image: a, env_file: [{path: e, required: false}]}}",
    "i": "include: [i]\nservices: {web: {image: a}}",
    "x": "services: {web: {extends: {file: x, service: b}}}",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_may_not_be_read_is_one_error_that_names_it(
    tmp_path: pathlib.Path, name: str
) -> None:
    stacks.write(
        tmp_path, {"compose.yaml": UNREADABLE[name], name: UNREADABLE[name] or "services: {}"}
    )
    (tmp_path / name).chmod(0)
    # Read as somebody who owns nothing: to root no file is closed.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    code = (
        "import os, sys\n"
        "from ic import errors\n"
        "from ic.compose import loader\n"
        "os.setegid(65534) or os.seteuid(65534) if os.geteuid() == 0 else None\n"
        "try:\n    loader.load(loader.Options(cwd=sys.argv[1], project_name='s'), {})\n"
        "except errors.IcError as problem:\n    print(problem.code, problem.summary)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("E_FILE ")
    assert f"{name}: Permission denied" in done.stdout
    assert done.stdout.count("Permission denied") == 1


LOOPS = {
    "include": "include: [loop]\nservices: {web: {image: a}}",
    "extends": "services: {web: {extends: {file: loop, service: b}}}",
    "env_file": "services: {web: {image: a, env_file: loop}}",
}


@pytest.mark.parametrize("place", LOOPS)
@pytest.mark.parametrize("kind", ["loop", "directory", "dangling"])
def test_what_is_no_file_is_one_error_with_its_place(
    tmp_path: pathlib.Path, place: str, kind: str
) -> None:
    if kind == "directory":
        (tmp_path / "loop").mkdir()
    else:
        os.symlink("loop" if kind == "loop" else "nowhere", tmp_path / "loop")
    error = stacks.refused(tmp_path, LOOPS[place])
    (one,) = error.diagnostics
    assert one.code == "E_FILE"
    assert one.position is not None
    assert "cannot read loop: " in one.summary
