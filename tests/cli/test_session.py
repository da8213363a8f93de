"""What a command gets: options for the loader, the way to the server, who can be asked, what is typed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.cli import output, progress, session


def made(env: dict[str, str] | None = None, **options: Any) -> session.Session:
    out = output.Output(stdout=io.StringIO(), stderr=io.StringIO())
    return session.Session(session.Globals(**options), env or {}, out, lambda: None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("mode", "env", "terminal", "wanted"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {}, True, False),
    ],
)
def test_colours_are_asked_for_or_wanted_by_a_terminal(
    mode: str, env: dict[str, str], terminal: bool, wanted: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert session.wants_colour(mode, env, stream) is wanted


def test_a_closed_stream_is_no_terminal() -> None:
    stream = Terminal()
    stream.close()
    assert not session.wants_colour("auto", {}, io.StringIO())
    closed = io.StringIO()
    closed.close()
    assert not session.wants_colour("auto", {}, closed)


def test_what_to_type_next_has_the_same_files_name_and_remote() -> None:
    assert made().typed("ps") == "ic ps"
    one = made(files=("a file.yaml", "b.yaml"), project_name="shop", remote="far", profiles=("x",))
    assert one.typed("apply") == (
        "ic -f 'a file.yaml' -f b.yaml -p shop --profile x --remote far apply"
    )


def test_the_stack_is_loaded_with_the_global_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text(
        "version: '3'\nservices:\n  web: {image: 'x:${TAG}'}\n  extra: {image: y, profiles: [p]}\n"
    )
    one = made({"TAG": "7"}, files=("other.yaml",), project_name="shop")
    stack = one.stack()
    assert stack.name == one.stack_name() == "shop"
    assert stack.services["web"].image.image == "x:7"
    assert set(stack.services) == {"web"}
    assert set(one.stack(("extra",)).services) == {"web", "extra"}
    assert "version" in one.out.stderr.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_directory_that_is_gone_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(errors.UsageError, match="current directory"):
        made().stack()


def test_the_server_is_resolved_once_and_not_asked() -> None:
    one = made({"INCUS_SOCKET": "/no/such/socket"})
    assert one.server().socket == "/no/such/socket"
    assert one.server() is one.server()
    assert one.client() is one.client()


def test_nobody_can_be_asked_without_a_terminal() -> None:
    assert not made().interactive()


def test_progress_is_live_only_on_a_terminal_that_can_move_its_cursor() -> None:
    assert isinstance(made().progress(), progress.Plain)
    out = output.Output(stdout=io.StringIO(), stderr=Terminal())
    options = session.Globals()
    assert isinstance(
        session.Session(options, {"TERM": "xterm"}, out, lambda: None).progress(), progress.Tty
    )
    dumb = session.Session(options, {"TERM": "dumb"}, out, lambda: None)
    assert isinstance(dumb.progress(), progress.Plain)
    with pytest.raises(errors.UsageError):
        made(progress="fancy").progress()
