"""Files are found as docker compose finds them, read within limits, and pipes never wait for ever."""

import os
import pathlib
import threading
import time

import pytest

from ic import errors
from ic.compose import files
from ic.fields import tree


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
