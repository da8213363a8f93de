"""What people and programs get to see: cleaned text, tables, documents, errors, a closed stream."""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import termios
from pathlib import Path

import pytest

from ic import errors
from ic.cli import documents, output
from ic.plan import changes
from ic.resources import kind


def made(**over: bool) -> tuple[output.Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return output.Output(stdout=out, stderr=err, **over), out, err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("bell\x07 and \x9b1m", "bell\\x07 and \\x9b1m"),
        ("turned \u202egro.live", "turned \\u202egro.live"),
        ("kept\ttab\nand newline", "kept\ttab\nand newline"),
        ("umlaut ä, ✔", "umlaut ä, ✔"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert output.clean(text) == shown


def test_every_way_to_print_foreign_text_cleans_it() -> None:
    out, stdout, stderr = made(colour=False)
    evil = "\x1b]0;x\x07"
    out.text(evil)
    out.note(evil)
    out.line("label | ", evil)
    out.table(("A",), [(evil,)])
    out.plan(f"  + {evil}\n")
    out.error(errors.IcError(evil, details=(evil,), hint=evil))
    where = errors.Position(evil, 1, 1)
    out.diagnostics(
        [errors.Diagnostic(severity="error", code="E", summary=evil, position=where, hint=evil)]
    )
    assert "\x1b" not in stdout.getvalue() + stderr.getvalue()
    assert "\x07" not in stdout.getvalue() + stderr.getvalue()


def test_json_has_no_byte_that_a_terminal_acts_on() -> None:
    out, stdout, _ = made(json=True)
    out.document(documents.Ps(stack="\x1b[2J\x9b ä 😀", instances=()))
    text = stdout.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["stack"] == "\x1b[2J\x9b ä 😀"


def test_a_table_is_aligned_and_one_row_is_one_line() -> None:
    out, stdout, _ = made()
    out.table(("NAME", "N"), [("web", "1"), ("a longer\nname", "22")])
    assert stdout.getvalue().splitlines() == [
        "NAME           N",
        "web            1",
        "a longer name  22",
    ]


def test_an_error_is_summary_details_and_hint() -> None:
    out, stdout, stderr = made()
    out.error(errors.UsageError("cannot do it: no", details=("because\nso",), hint="try `ic`"))
    assert stdout.getvalue() == ""
    assert stderr.getvalue().splitlines() == [
        "error: cannot do it: no",
        "  because",
        "  so",
        "  hint: try `ic`",
    ]


def test_a_single_mistake_is_told_once() -> None:
    out, _, stderr = made()
    one = errors.Diagnostic(severity="error", code="E", summary="web has no image", hint="add one")
    two = errors.Diagnostic(severity="error", code="E", summary="db has no image")
    out.error(errors.ComposeError("cannot read the stack: web has no image", diagnostics=(one,)))
    assert stderr.getvalue().splitlines() == ["error: web has no image", "  hint: add one"]
    out.error(errors.ComposeError("cannot read the stack: 2 mistakes", diagnostics=(one, two)))
    assert stderr.getvalue().splitlines()[-1] == "error: cannot read the stack: 2 mistakes"


def test_warnings_are_told_beside_the_mistakes() -> None:
    one = errors.Diagnostic(severity="error", code="E", summary="the file is empty")
    other = errors.Diagnostic(severity="warning", code="W", summary="'pth' is ignored")
    error = errors.ComposeError("cannot read: the file is empty", diagnostics=(one, other))
    out, _, stderr = made()
    out.error(error)
    assert stderr.getvalue() == "error: the file is empty\nwarning: 'pth' is ignored\n"
    out, _, stderr = made(quiet=True)
    out.error(error)
    assert stderr.getvalue() == "error: the file is empty\n"


def test_an_error_with_json_is_one_document_on_stderr() -> None:
    out, stdout, stderr = made(json=True)
    out.error(errors.Locked("cannot take the lease: held"))
    assert stdout.getvalue() == ""
    found = json.loads(stderr.getvalue())
    assert (found["schema"], found["code"], found["exit"]) == ("ic.error/1", "E_LOCKED", 75)


def test_of_a_long_line_only_what_surrounds_the_mistake_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("x" * 5000 + "HERE" + "y" * 5000)
    out, _, stderr = made()
    where = errors.Position(str(file), 1, 5001)
    out.diagnostics([errors.Diagnostic(severity="error", code="E", summary="no", position=where)])
    shown = stderr.getvalue().splitlines()
    line = next(n for n, text in enumerate(shown) if "HERE" in text)
    assert len(shown[line]) < 250
    assert shown[line].index("HERE") == shown[line + 1].index("^")


def test_a_diagnostic_shows_the_line_and_a_caret(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n  web:\n    prots: [80]\n")
    out, _, stderr = made()
    where = errors.Position(str(file), 3, 5)
    one = errors.Diagnostic(
        severity="error", code="E_KEY", summary="unknown key", position=where, hint="`ports`?"
    )
    out.diagnostics([one])
    assert stderr.getvalue().splitlines() == [
        f"{file}:3:5: error: unknown key",
        "    3 |     prots: [80]",
        "      |     ^",
        "  hint: `ports`?",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "      DB_PASSWORD: hunter2",
        '      - "API_KEY=hunter2"',
        "      - PLAIN=hunter2",
        "      token: hunter2",
        "DB PASSWORD=hunter2",  # of an env file, and told because of its name
        "export NOT A NAME=hunter2",
    ],
)
def test_the_line_of_a_diagnostic_keeps_secrets(tmp_path: Path, line: str) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(f"{line}\n")
    out, _, stderr = made()
    where = errors.Position(str(file), 1, 7)
    out.diagnostics([errors.Diagnostic(severity="error", code="E", summary="x", position=where)])
    assert "hunter2" not in stderr.getvalue()
    assert "..." in stderr.getvalue()


def test_warnings_and_notes_are_silent_when_asked_and_errors_never() -> None:
    out, _, stderr = made(quiet=True)
    out.note("remark")
    out.diagnostics([errors.Diagnostic(severity="warning", code="W", summary="careful")])
    assert stderr.getvalue() == ""
    out.diagnostics([errors.Diagnostic(severity="error", code="E", summary="wrong")])
    assert "wrong" in stderr.getvalue()


def test_a_stream_that_nobody_reads_is_given_up_and_never_raises() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        out = output.Output(stdout=stream, stderr=io.StringIO())
        out.text("one")
        out.text("two")
        out.close()
        assert out.closed


def test_a_closed_file_is_given_up() -> None:
    stream = io.StringIO()
    stream.close()
    out = output.Output(stdout=stream, stderr=stream)
    out.text("one")
    out.error(errors.IcError("x"))


def test_what_a_stream_cannot_spell_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    output.Output(stdout=stream, stderr=stream).text("✔ done")
    stream.flush()
    assert raw.getvalue() == b"\\u2714 done\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("y\n", True), ("YES\n", True), ("\n", False), ("no\n", False), ("", False), ("yep\n", False)],
)
def test_only_yes_is_yes(answer: str, expected: bool) -> None:
    out, _, stderr = made()
    assert out.ask("Go on?", io.StringIO(answer)) is expected
    assert stderr.getvalue().startswith("Go on? [y/N] ")


def test_the_plan_is_painted_by_its_signs_and_only_where_colours_are_shown() -> None:
    rendered = "stack shop on local\n\n    + instance:web/1  create: new\n  -/+ instance:db/1  replace: x\n"
    out, stdout, _ = made(colour=True)
    out.plan(rendered)
    lines = stdout.getvalue().splitlines()
    assert lines[2] == output.paint("    + instance:web/1  create: new", "green")
    assert lines[3] == output.paint("  -/+ instance:db/1  replace: x", "yellow")
    plain, stdout, _ = made()
    plain.plan(rendered)
    assert stdout.getvalue() == rendered


def test_times_are_rfc_3339_in_utc() -> None:
    assert output.timestamp(1_763_793_600_123) == "2025-11-22T06:40:00.123Z"


def test_a_summary_counts_actions() -> None:
    def change(address: str, action: changes.Action) -> changes.Change:
        step = kind.Step(id=address, address=address, event="", deed=kind.Note())
        return changes.Change(address=address, action=action, cause="x", steps=(step,))

    plan = changes.Plan(
        stack="shop",
        project="shop",
        server="local",
        changes=(change("a", "update"), change("b", "create"), change("c", "create")),
    )
    assert output.summary(plan) == "2 to create, 1 to update"


@pytest.mark.parametrize(
    ("line", "column", "shown", "caret"),
    [
        ('a: "日本", b: c', 10, 'a: "日本", b: c', 11),
        ("a: e\u0301, b: c", 8, "a: e\u0301, b: c", 6),
        ("x" * 60 + "!" + "y" * 60, 61, "x" * 15 + "!" + "y" * 14, 15),
        ("x" * 60 + "!", 61, "x" * 29 + "!", 29),
    ],
)
def test_the_caret_stands_below_the_mistake_on_a_narrow_terminal(
    tmp_path: Path, line: str, column: int, shown: str, caret: int
) -> None:
    file = tmp_path / "c"
    file.write_text(f"{line}\n")
    where = errors.Position(str(file), 1, column)
    terminal, other = os.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 38, 0, 0))
    with open(terminal, "rb", buffering=0) as screen, open(other, "w", encoding="utf-8") as stderr:
        out = output.Output(stdout=io.StringIO(), stderr=stderr)
        one = errors.Diagnostic(severity="error", code="E", summary="x", position=where)
        out.diagnostics([one])
        lines = screen.read(4096).decode().splitlines()
    assert lines[1:3] == [f"    1 | {shown}", "      | " + " " * caret + "^"]
