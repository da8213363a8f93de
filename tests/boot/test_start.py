"""The zipapp's first code: old Pythons, tags, bases, trust, and what may be imported from where."""

import json
import os
import subprocess
import sys
import threading
import types

import pytest

from ic.boot import start
from tests.boot import interpreters


def run(python: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter with nothing but the given environment."""
    return subprocess.run(
        [python, *arguments],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """What the probe printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 0), (3, 9, 25)])
def test_old_python_is_told_which_one_is_needed_in_one_line(version: tuple[int, ...]) -> None:
    line = start.too_old(version)
    assert line.startswith("ic: needs Python 3.10 or newer, this is Python ")
    assert line.count("\n") == 1
    assert line.endswith(".".join(map(str, version)) + "\n")


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 14, 1), (4, 0, 0)])
def test_new_enough_python_is_told_nothing(version: tuple[int, ...]) -> None:
    assert start.too_old(version) == ""


def test_every_old_python_at_hand_gets_one_clean_line(probe_pyz: str) -> None:
    done = {label: run(python, probe_pyz, "config") for label, python in interpreters.OLD.items()}
    assert {label: (one.returncode, one.stdout, one.stderr) for label, one in done.items()} == {
        label: (1, "", f"ic: needs Python 3.10 or newer, this is Python {label}\n")
        for label in done
    }


def test_start_is_syntax_that_python_2_7_reads() -> None:
    with open(start.__file__, encoding="utf-8") as file:
        source = file.read()
    for newer in ('f"', "f'", "-> ", " := ", "nonlocal", "async ", "match "):
        lines = [
            line
            for line in source.splitlines()
            if newer in line and not line.lstrip().startswith("#")
        ]
        assert lines == [], newer


@pytest.mark.parametrize("label", interpreters.GOOD)
def test_version_is_printed_without_a_cache_and_without_the_application(
    label: str, probe_pyz: str
) -> None:
    done = run(interpreters.GOOD[label], probe_pyz, "--version", IC_CACHE_DIR="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ic 0.1.0\n"


def test_the_interpreter_is_not_taken_apart_at_the_end(probe_pyz: str) -> None:
    done = run(sys.executable, "-v", probe_pyz, IC_CACHE_DIR="")
    assert done.returncode == 0
    assert json.loads(done.stdout)["python"]
    assert "# cleanup[" not in done.stderr
    assert "# cleanup[" in run(sys.executable, "-v", "-c", "").stderr


def test_python_ends_by_itself_where_threads_run_and_inside_of_another_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit) as caught:
        start.leave(7, "not/what/was/started.pyz")
    assert caught.value.code == 7
    monkeypatch.setattr(sys, "orig_argv", ["python3", "ic.pyz"])
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(SystemExit):
            start.leave(7, "ic.pyz")
    finally:
        end.set()
        thread.join()


def test_ctrl_c_while_ic_is_still_being_loaded_is_one_line_and_status_130(probe_pyz: str) -> None:
    done = run(sys.executable, probe_pyz, "interrupt", IC_CACHE_DIR="")
    assert (done.returncode, done.stderr) == (130, "error: cannot go on: interrupted\n")


@pytest.mark.parametrize("label", interpreters.GOOD)
def test_every_interpreter_at_hand_runs_cold_warm_and_from_memory(
    label: str, probe_pyz: str, tmp_path: object
) -> None:
    python = interpreters.GOOD[label]
    everything = ["msgspec", "yaml", "websocket", "requests", "requests_unixsocket", "certifi"]
    if label == "musl":  # built without OpenSSL
        everything = ["msgspec", "yaml", "certifi"]
    cold = told(run(python, probe_pyz, *everything, IC_CACHE_DIR=str(tmp_path)))
    warm = told(run(python, probe_pyz, *everything, IC_CACHE_DIR=str(tmp_path)))
    memory = told(run(python, probe_pyz, *everything, IC_CACHE_DIR=""))
    assert str(cold["native"]).startswith(str(tmp_path))
    assert cold["native"] == warm["native"]
    assert (cold["finder"], warm["finder"], memory["finder"]) == (
        "Finder",
        "Finder",
        "SourceFinder",
    )
    assert str(memory["native"]).startswith("/proc/self/fd/")
    for answer in (cold, warm, memory):
        files = answer["files"]
        assert isinstance(files, dict)
        assert {name: path for name, path in files.items() if not path.startswith(probe_pyz)} == {}
        assert len(str(answer["build"])) == 20
    assert len(os.listdir(str(tmp_path))) == 1


def test_an_interpreter_without_a_native_part_is_named_with_those_on_board(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "SIZES", {"cpython-399-vax-linux-gnu": 1})
    monkeypatch.setattr(sys, "argv", ["ic.pyz", "config"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    loader = types.SimpleNamespace(archive="ic.pyz")
    assert start.main(loader) == 1  # pyright: ignore[reportArgumentType] - all it looks at
    words = capsys.readouterr().err
    assert "no native part for this Python (cpython-3" in words
    assert "  cpython-399-vax-linux-gnu\n" in words


@pytest.mark.parametrize(
    ("glibc", "version", "tag"),
    [
        ("glibc 2.36", (3, 10), "cpython-310-x86_64-linux-gnu"),
        ("", (3, 10), "cpython-310-x86_64-linux-musl"),
        ("", (3, 11), "cpython-310-x86_64-linux-gnu"),
    ],
)
def test_python_3_10_on_musl_calls_itself_gnu_and_is_seen_through(
    glibc: str, version: tuple[int, int], tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confstr(name: str) -> str:
        if not glibc:
            raise ValueError(name)
        return glibc

    monkeypatch.setattr(os, "confstr", confstr)
    assert start.native_tag(".cpython-310-x86_64-linux-gnu.so", version) == tag


def test_root_never_looks_at_home() -> None:
    environ = {"HOME": "/home/u", "XDG_CACHE_HOME": "/home/u/c", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert start.bases(0, environ) == ["/var/cache/ic", "/tmp/ic-cache-0"]


def test_a_user_has_the_shared_cache_then_their_own_places() -> None:
    assert start.bases(7, {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}) == [
        "/var/cache/ic",
        "/home/u/.cache/ic",
        "/run/user/7/ic",
        "/tmp/ic-cache-7",
    ]
    assert start.bases(7, {"HOME": "/", "XDG_CACHE_HOME": "rel"})[1] == "/.cache/ic"
    assert start.bases(7, {"HOME": "/home/u", "XDG_CACHE_HOME": "/c"})[1] == "/c/ic"


def test_a_user_without_home_and_without_passwd_entry_has_no_home_place() -> None:
    assert start.bases(3_999_999_999, {}) == [
        "/var/cache/ic",
        "/.cache/ic",
        "/tmp/ic-cache-3999999999",
    ]


@pytest.mark.parametrize(("value", "places"), [("", []), ("/x", ["/x"]), ("rel", [])])
def test_ic_cache_dir_replaces_all_places(value: str, places: list[str]) -> None:
    assert start.bases(7, {"HOME": "/home/u", "IC_CACHE_DIR": value}) == places


def test_only_directories_that_others_cannot_write_are_trusted(tmp_path: object) -> None:
    home = str(tmp_path)
    good = home + "/good"
    os.mkdir(good, 0o755)
    assert start.trusted(good, os.geteuid())
    os.symlink(good, home + "/link")
    with open(home + "/file", "w", encoding="ascii"):
        pass
    for path in (home + "/link", home + "/file", home + "/missing"):
        assert not start.trusted(path, os.geteuid()), path
    for mode in (0o775, 0o757, 0o1777):
        os.chmod(good, mode)
        assert not start.trusted(good, os.geteuid()), oct(mode)
    os.chmod(good, 0o755)
    os.chmod(home, 0o777)
    assert not start.trusted(good, os.geteuid())
    os.chmod(home, 0o1777)
    assert start.trusted(good, os.geteuid())
    os.chown(good, 1234, 1234)
    assert not start.trusted(good, 4321)


def test_the_path_keeps_only_what_belongs_to_python_itself() -> None:
    library = os.path.dirname(os.__file__)
    path = [
        "",
        ".",
        "/evil",
        library,
        library + "/lib-dynload",
        library + "/site-packages",
        "/x/lib-dynload",
    ]
    assert start.standard_path(path) == [library, library + "/lib-dynload"]


@pytest.mark.parametrize("label", interpreters.GOOD)
@pytest.mark.parametrize("cache", ["warm", ""])
def test_nothing_is_imported_from_the_current_directory_pythonpath_or_site(
    label: str, cache: str, probe_pyz: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hostile = tmp_path_factory.mktemp("hostile")
    # Harmless inside: a hook of the host may import one before anything of ours runs.
    for name in (
        "yaml",
        "msgspec",
        "requests",
        "certifi",
        "ic",
        "simplejson",
        "chardet",
        "argparse",
        "json",
    ):
        (hostile / f"{name}.py").write_text("")
    # A start-up hook that runs before anything of ours, and leaves a module of our name behind.
    (hostile / "sitecustomize.py").write_text(
        "import sys, types\nsys.modules['yaml'] = sys.modules['ic'] = types.ModuleType('yaml')\n"
    )
    base = str(tmp_path_factory.mktemp("cache")) if cache else ""
    names = ["yaml", "msgspec", "argparse", "json"] + (["requests"] if label != "musl" else [])
    done = subprocess.run(
        [interpreters.GOOD[label], probe_pyz, *names],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{hostile}:.", "IC_CACHE_DIR": base},
        cwd=hostile,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answer = told(done)
    assert str(hostile) not in str(answer["files"])
    assert [p for p in answer["path"] if "site-packages" in p or "dist-packages" in p] == []  # type: ignore[attr-defined]
    assert str(hostile) not in str(answer["path"])
    assert {"simplejson", "chardet"}.isdisjoint(answer["loaded"])  # type: ignore[arg-type]


def test_a_relative_path_to_the_zipapp_works_from_where_it_lies(
    probe_pyz: str, tmp_path: object
) -> None:
    done = subprocess.run(
        [sys.executable, os.path.basename(probe_pyz), "yaml"],
        env={"PATH": "/usr/bin:/bin", "IC_CACHE_DIR": str(tmp_path)},
        cwd=os.path.dirname(probe_pyz),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told(done)["files"] == {"yaml": probe_pyz + "/yaml/__init__.py"}
