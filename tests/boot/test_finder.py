"""The finder over a bundle, looked at from inside a process that has one."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from ic.boot import finder

ASK = """
import importlib.util, json, linecache, os, shutil, sys, traceback
from ic.cli import main
told = {"missing": importlib.util.find_spec("yaml.nothing") is None}
shutil.rmtree(os.environ["IC_CACHE_DIR"])
import yaml, msgspec
told["after removal"] = [yaml.__file__, sys.meta_path[0].native[:14]]
told["source"] = sys.meta_path[0].get_source("ic.cli.main")[:3]
told["package"] = [sys.meta_path[0].is_package("yaml"), sys.meta_path[0].is_package("yaml.nodes")]
print(json.dumps(told))
"""


def ask(pyz: str, script: str, cache: str) -> dict[str, object]:
    """What a script prints that goes on in a process which the zipapp at `pyz` was started in."""
    runner = (
        "import runpy, sys\n"
        f"sys.argv = [{pyz!r}, 'json']\n"
        f"sys.path.insert(0, {pyz!r})\n"
        "try:\n"
        f"    runpy.run_path({pyz!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", runner + script],
        env={"PATH": "/usr/bin:/bin", "IC_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def asked(probe_pyz: str, tmp_path: object) -> dict[str, object]:
    """What a process says whose cache was removed after its start."""
    return ask(probe_pyz, ASK, f"{tmp_path}/cache") | {"pyz": probe_pyz}


def test_a_process_without_an_entry_survives_a_newer_file_of_the_same_name(
    probe_pyz: str, tmp_path: object
) -> None:
    pyz = f"{tmp_path}/ic.pyz"
    shutil.copy(probe_pyz, pyz)
    script = """
import json, os
with open("PYZ.new", "wb") as file:
    file.write(b"something else")
os.replace("PYZ.new", "PYZ")
import yaml, msgspec
print(json.dumps({"finder": type(yaml.__loader__).__name__}))
"""
    assert ask(pyz, script.replace("PYZ", pyz), "") == {"finder": "SourceFinder"}


def test_a_running_process_survives_the_removal_of_its_entry(asked: dict[str, object]) -> None:
    assert asked["after removal"] == [f"{asked['pyz']}/yaml/__init__.py", "/proc/self/fd/"]


def test_sources_and_packages_are_known(asked: dict[str, object]) -> None:
    assert asked["source"] == '"""'
    assert asked["package"] == [True, False]
    assert asked["missing"] is True


def test_names_that_are_not_ours_are_left_to_python() -> None:
    one = finder.Finder("/x.pyz", "tag", {"ic": (0, 0, True, "ic/__init__.py")}, -1, 0, "")
    assert one.find_spec("json") is None
    spec = one.find_spec("ic")
    assert spec is not None
    assert (spec.origin, spec.submodule_search_locations) == ("/x.pyz/ic/__init__.py", [])


def test_the_native_part_comes_from_the_entry_when_it_is_there(tmp_path: object) -> None:
    native = str(tmp_path) + "/_core.so"
    with open(native, "w", encoding="ascii"):
        pass
    one = finder.Finder("/x.pyz", "tag", {}, -1, 0, native)
    assert one.native_path() == native
    spec = one.find_spec("msgspec._core")
    assert spec is not None
    assert spec.origin == native


def test_no_way_to_load_the_native_part_is_an_import_error(
    tmp_path: object,
) -> None:
    one = finder.Finder(os.path.join(str(tmp_path), "none.pyz"), "tag", {}, -1, 0, "")
    with pytest.raises(ImportError):
        one.native_path()
