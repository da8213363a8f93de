"""`ic config`: the stack as understood, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ic.cli import main

COMPOSE = """\
services:
  web: {image: "nginx:${TAG:-1}", networks: [inner], volumes: ["data:/data"]}
  db: {image: postgres, profiles: [full]}
networks: {inner: {}}
volumes: {data: {}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCUS_SOCKET", "/no/such/socket")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["config", "--services"], "web\n"),
        (["--profile", "full", "config", "--services"], "db\nweb\n"),
        (["config", "--services", "db"], "db\nweb\n"),
        (["config", "--volumes"], "data\n"),
        (["config", "--networks"], "inner\n"),
        (["config", "--images"], "nginx:1\n"),
        (["config", "--profiles"], "full\n"),
        (["config", "-q"], ""),
        (["-q", "config"], ""),
    ],
)
def test_parts_are_printed_one_a_line(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 0
    assert capsys.readouterr().out == expected


def test_the_document_is_yaml_or_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "7")
    assert main.main(["config"]) == 0
    assert "image: nginx:7" in capsys.readouterr().out
    assert main.main(["config", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"]["web"]["image"] == "nginx:7"


def test_a_mistake_is_shown_with_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compose.yaml").write_text("services:\n  web:\n    imgae: x\n")
    assert main.main(["config", "-q"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "compose.yaml:3:5: error: " in shown.err
    assert "    3 |     imgae: x" in shown.err


def test_no_file_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "compose.yaml").unlink()
    assert main.main(["config"]) == 1
    assert "compose.yaml" in capsys.readouterr().err
