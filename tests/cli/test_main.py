"""The command line: where options may stand, what is a usage error, and that nothing ever escapes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import ic
from ic import errors
from ic.cli import main
from scripts import generate

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], ([], "", [])),
        (["plan"], ([], "plan", [])),
        (["-f", "plan", "apply", "-y"], (["-f", "plan"], "apply", ["-y"])),
        (["-f", "-", "plan"], (["-f", "-"], "plan", [])),
        (["--file=x", "-q", "ps", "web"], (["--file=x", "-q"], "ps", ["web"])),
        (["--ansi", "never", "history", "-n", "3"], (["--ansi", "never"], "history", ["-n", "3"])),
        (["--help"], (["--help"], "", [])),
    ],
)
def test_the_command_is_found_behind_global_options(
    argv: list[str], expected: tuple[list[str], str, list[str]]
) -> None:
    assert main.split(argv) == expected


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_command_there_is_help(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 0
    shown = capsys.readouterr()
    for name in main.COMMANDS:
        assert f"\n  {name} " in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("name", main.COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}", "-h {}"])
def test_every_command_has_help(name: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(form.format(name).split()) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ic {name}")
    assert "--project-name" in shown


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ic {ic.__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["no-such-command"],
        ["plan", "--no-such-option"],
        [
            "plan",
            "--jso",
        ],  # no abbreviations: an option that comes later must not change their meaning
        ["apply", "--lock-timeout", "soon"],
        ["unlock"],
        ["unlock", "--gen", "x"],
        ["-f"],
        ["--ansi", "sometimes", "plan"],
        ["config", "--format", "xml"],
    ],
)
def test_a_usage_error_is_status_1_and_one_clear_message(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: cannot ")
    assert "hint: " in shown.err
    assert "Traceback" not in shown.err


def test_a_mistyped_command_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["aply"])
    assert "did you mean `ic apply`?" in capsys.readouterr().err


def test_global_options_may_stand_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    before = main.top_parser().parse_args(["-f", "a", "-p", "one", "--ansi", "never"])
    after = main.command_parser("plan").parse_args(["-f", "b", "-p", "two", "--profile", "x"])
    merged = main._merged(before, after)
    assert merged.files == ("a", "b")
    assert merged.project_name == "two"
    assert merged.profiles == ("x",)
    assert merged.ansi == "never"
    assert merged.progress == "auto"


def test_a_fault_of_ic_is_one_line_and_status_70(capsys: pytest.CaptureFixture[str]) -> None:
    broken: list[str] = [7]  # pyright: ignore[reportAssignmentType]
    assert main.main(broken) == 70
    shown = capsys.readouterr().err
    assert "internal error" in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 2


def test_a_fault_of_ic_is_told_in_full_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    broken: list[str] = ["--debug", 7]  # pyright: ignore[reportAssignmentType]
    assert main.main(broken) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_usage_error_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "--json", "--wrong"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert '"schema": "ic.error/1"' in shown.err


@pytest.mark.parametrize("argv", [["--help"], ["config", "--help"], ["--version"]])
def test_a_closed_stdout_is_no_reason_to_complain(argv: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ic", *argv],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""


def test_a_result_that_could_not_be_written_is_an_error() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ic", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"cannot write the result to stdout: No space left on device" in done.stderr


@pytest.mark.parametrize("number", ["INT", "TERM"])
def test_a_signal_while_reading_is_status_130(number: str) -> None:
    """Waiting for standard input is the longest that a plain command can be made to take."""
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "ic", "-f", "-", "config"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(b"services:\n")
    process.stdin.flush()
    while b"read" not in _wchan(process.pid):
        assert process.poll() is None
    process.send_signal(getattr(signal, f"SIG{number}"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err


def _wchan(pid: int) -> bytes:
    """The system call that a process is in: 0 is read on its standard input."""
    with open(f"/proc/{pid}/syscall", "rb") as file:
        return b"read" if file.read().split()[:2] == [b"0", b"0x0"] else b""


def test_manual_pages_have_the_options_of_the_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python scripts/generate.py` writes them."""
    monkeypatch.setenv("COLUMNS", "80")
    made = {**generate.pages(), **generate.schemas()}
    for path, text in made.items():
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            assert file.read() == text, f"{path} is not fresh"
    kept = {f"man/{name}" for name in os.listdir(os.path.join(ROOT, "man"))}
    kept |= {f"docs/schemas/{name}" for name in os.listdir(os.path.join(ROOT, "docs/schemas"))}
    assert kept == set(made)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_option_of_a_command_is_in_its_manual_page(name: str) -> None:
    page = generate.pages()[f"man/ic-{name}.{generate.SECTIONS.get(name, 1)}"]
    for action in main.command_parser(name)._actions:
        for spelling in action.option_strings:
            assert spelling.replace("-", "\\-") in page


def test_exit_statuses_of_errors_are_those_of_the_table() -> None:
    known = {int(status) for status, _ in generate.STATUS}
    found = {error.exit_status for error in _errors(errors.IcError)}
    assert found <= known


def _errors(error: type[errors.IcError]) -> list[type[errors.IcError]]:
    return [error, *(one for sub in error.__subclasses__() for one in _errors(sub))]


def test_standard_streams_may_be_missing() -> None:
    """As under a daemon that closed all three."""
    code = "import sys; sys.stdin = sys.stdout = sys.stderr = None; from ic.cli import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "raise SystemExit(main.main(['ps', '-p', 'x y']))"],
        cwd=ROOT,
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (1, b"")
