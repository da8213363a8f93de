"""The build of `ic.pyz`: the same bytes everywhere, and nothing in it that is not locked."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile

import pytest

import build_zipapp
from tests.boot import interpreters

WHEELS = os.path.join(build_zipapp.ROOT, ".cache", "wheels")
LOCK = os.path.join(build_zipapp.ROOT, "zipapp.lock")
SLIM = ["cpython-311-x86_64-linux-gnu", "cpython-313-aarch64-linux-musl"]


@pytest.fixture(scope="module")
def wheels() -> list[build_zipapp.Wheel]:
    """The locked wheels, all of them fetched."""
    locked = build_zipapp.read_lock(LOCK)
    build_zipapp.fetch(locked, WHEELS, offline=False)
    return locked


@pytest.fixture(scope="module")
def full(wheels: list[build_zipapp.Wheel], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A full build of this checkout."""
    path = str(tmp_path_factory.mktemp("full") / "ic.pyz")
    build_zipapp.build(path, wheels_directory=WHEELS, offline=True)
    return path


def build_elsewhere(python: str, folder: str, **environ: str) -> str:
    """The hash of a slim build by another process, from a copy of the sources in `folder`."""
    root = os.path.join(folder, "source")
    for name in ("ic", "requirements"):
        shutil.copytree(
            os.path.join(build_zipapp.ROOT, name),
            os.path.join(root, name),
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("build_zipapp.py", "zipapp.lock", "LICENSE"):
        shutil.copy(os.path.join(build_zipapp.ROOT, name), root)
    output = os.path.join(folder, "out", "x.pyz")
    command = [python, "build_zipapp.py", "--offline", "--wheels", WHEELS, "--output", output]
    subprocess.run(
        [*command, "--only", ",".join(SLIM)],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **environ},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    return build_zipapp.file_hash(output)


def test_two_builds_in_different_places_and_moods_are_the_same_bytes(
    wheels: list[build_zipapp.Wheel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = build_elsewhere(
        sys.executable, str(tmp_path_factory.mktemp("one")), TZ="Asia/Tokyo", PYTHONHASHSEED="1"
    )
    before = os.umask(0o077)
    try:
        two = build_elsewhere(
            sys.executable,
            str(tmp_path_factory.mktemp("two")),
            TZ="America/Lima",
            PYTHONHASHSEED="2",
        )
    finally:
        os.umask(before)
    assert one == two


@pytest.mark.parametrize("label", [name for name in interpreters.GOOD if name != "musl"])
def test_every_interpreter_at_hand_builds_the_same_bytes(
    label: str, wheels: list[build_zipapp.Wheel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = str(tmp_path_factory.mktemp("here") / "x.pyz")
    build_zipapp.build(here, wheels_directory=WHEELS, tags=SLIM, offline=True)
    there = build_elsewhere(interpreters.GOOD[label], str(tmp_path_factory.mktemp("there")))
    assert there == build_zipapp.file_hash(here)


def test_source_date_epoch_is_the_time_of_every_member(
    wheels: list[build_zipapp.Wheel], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path) + "/x.pyz"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    build_zipapp.build(path, wheels_directory=WHEELS, tags=SLIM, offline=True)
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_the_file_is_small_executable_and_plain(full: str) -> None:
    found = os.stat(full)
    assert found.st_size <= 5_500_000
    assert stat.S_IMODE(found.st_mode) == 0o755
    with open(full, "rb") as file:
        assert file.readline() == b"#!/usr/bin/env python3\n"
    with zipfile.ZipFile(full) as archive:
        infos = archive.infolist()
    names = [info.filename for info in infos]
    assert names == sorted(names)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {(info.create_system, info.external_attr >> 16, info.extra) for info in infos} == {
        (3, 0o100644, b"")
    }
    strangers = [
        n for n in names if not n.endswith((".py", ".so")) and not n.startswith("LICENSES/")
    ]
    assert strangers == ["_icmembers"]


def test_every_native_member_has_the_hash_of_its_wheels_record(
    full: str, wheels: list[build_zipapp.Wheel]
) -> None:
    with zipfile.ZipFile(full) as archive:
        shipped = {
            name[len("_so/") : -len(".so")]: hashlib.sha256(archive.read(name)).digest()
            for name in archive.namelist()
            if name.startswith("_so/")
        }
    recorded: dict[str, bytes] = {}
    for wheel in wheels:
        if wheel.name != build_zipapp.NATIVE:
            continue
        with zipfile.ZipFile(os.path.join(WHEELS, wheel.file)) as archive:
            (record,) = [n for n in archive.namelist() if n.endswith("/RECORD")]
            (line,) = [x for x in archive.read(record).decode().splitlines() if ".so,sha256=" in x]
        digest = line.split(",")[1].removeprefix("sha256=") + "="
        recorded[wheel.role] = build_zipapp.base64.urlsafe_b64decode(digest)
    assert sorted(shipped) == sorted(build_zipapp.TAGS)
    assert shipped == recorded


def test_the_matrix_is_python_3_10_to_3_14_on_two_libcs_and_two_machines() -> None:
    assert len(build_zipapp.TAGS) == 20
    assert {tag.split("-")[1] for tag in build_zipapp.TAGS} == {"310", "311", "312", "313", "314"}
    assert {tag.split("-", 2)[2] for tag in build_zipapp.TAGS} == {
        "x86_64-linux-gnu",
        "x86_64-linux-musl",
        "aarch64-linux-gnu",
        "aarch64-linux-musl",
    }


def test_everything_bundled_brings_its_licence(full: str) -> None:
    with zipfile.ZipFile(full) as archive:
        licensed = {n.split("/")[1] for n in archive.namelist() if n.startswith("LICENSES/")}
    assert licensed == {"ic", *build_zipapp.TAKEN}


def test_the_build_id_is_in_the_copy_and_names_its_content(full: str, tmp_path: object) -> None:
    with zipfile.ZipFile(full) as archive:
        told = re.search(
            r'BUILD_ID = "?\'?([0-9a-f]{20})', archive.read("ic/buildinfo.py").decode()
        )
        start = archive.read("__main__.py").decode()
    assert told is not None
    assert f"BUILD = '{told.group(1)}'" in start
    other = str(tmp_path) + "/x.pyz"
    build_zipapp.build(other, wheels_directory=WHEELS, tags=SLIM, offline=True)
    with zipfile.ZipFile(other) as archive:
        assert told.group(1) not in archive.read("ic/buildinfo.py").decode()


def test_the_locked_wheels_are_those_that_development_installs() -> None:
    with open(
        os.path.join(build_zipapp.ROOT, "requirements", "runtime.txt"), encoding="utf-8"
    ) as file:
        runtime = file.read()
    pins = build_zipapp.pinned_versions()
    for wheel in build_zipapp.read_lock(LOCK):
        assert pins[wheel.name] == wheel.version
        assert f"sha256:{wheel.sha256}" in runtime, wheel.file


def changed_lock(folder: str, **change: str) -> str:
    """A copy of the lock with its first wheel changed."""
    with open(LOCK, encoding="utf-8") as file:
        document = json.load(file)
    document["wheels"][0] |= change
    path = os.path.join(folder, "changed.lock")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    return path


def test_a_lock_that_lacks_a_wheel_is_refused(tmp_path: object) -> None:
    for change in ({"name": "other"}, {"role": "cpython-310-vax"}):
        with pytest.raises(build_zipapp.BuildError, match="cannot use"):
            build_zipapp.read_lock(changed_lock(str(tmp_path), **change))


def test_a_wheel_with_another_hash_is_refused(
    wheels: list[build_zipapp.Wheel], tmp_path: object
) -> None:
    lock = build_zipapp.read_lock(changed_lock(str(tmp_path), sha256="0" * 64))
    with pytest.raises(build_zipapp.BuildError, match="sha256"):
        build_zipapp.fetch(lock, WHEELS, offline=True)


def test_a_missing_wheel_is_not_fetched_offline(tmp_path: object) -> None:
    with pytest.raises(build_zipapp.BuildError, match="offline"):
        build_zipapp.fetch(build_zipapp.read_lock(LOCK), str(tmp_path), offline=True)


def test_a_wheel_whose_member_is_not_as_its_record_says_is_refused(
    wheels: list[build_zipapp.Wheel], tmp_path: object
) -> None:
    source = os.path.join(WHEELS, wheels[0].file)
    target = os.path.join(str(tmp_path), wheels[0].file)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            extra = b"\n" if name.endswith("__init__.py") else b""
            new.writestr(name, old.read(name) + extra)
    with pytest.raises(build_zipapp.BuildError, match="RECORD"):
        build_zipapp.read_wheel(target)


def test_zlib_ng_is_refused(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_zipapp.zlib, "ZLIB_RUNTIME_VERSION", "1.3.1.zlib-ng", raising=False)
    with pytest.raises(build_zipapp.BuildError, match="zlib-ng"):
        build_zipapp.build(str(tmp_path) + "/x.pyz", wheels_directory=WHEELS)


def test_a_file_over_the_limit_is_not_written(
    wheels: list[build_zipapp.Wheel], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_zipapp, "LIMIT", 1000)
    path = str(tmp_path) + "/x.pyz"
    with pytest.raises(build_zipapp.BuildError, match="limit"):
        build_zipapp.build(path, wheels_directory=WHEELS, tags=SLIM, offline=True)
    assert not os.path.exists(path)


def test_an_unknown_tag_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_zipapp.main(["--only", "cpython-399-vax"]) == 1
    assert "cpython-314-aarch64-linux-musl" in capsys.readouterr().err


def test_sources_with_carriage_returns_are_refused(tmp_path: object) -> None:
    os.mkdir(f"{tmp_path}/ic")
    with open(f"{tmp_path}/ic/__init__.py", "wb") as file:
        file.write(b"x = 1\r\n")
    with pytest.raises(build_zipapp.BuildError, match="carriage"):
        build_zipapp.application(str(tmp_path))


def test_a_running_file_is_replaced_never_overwritten(tmp_path: object) -> None:
    path = f"{tmp_path}/ic.pyz"
    build_zipapp.replace_file(path, b"old", 0o755)
    with open(path, "rb") as running:
        build_zipapp.replace_file(path, b"new", 0o755)
        assert running.read() == b"old"
    assert os.listdir(str(tmp_path)) == ["ic.pyz"]
