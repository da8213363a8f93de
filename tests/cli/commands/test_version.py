"""`ic version`: its own part always, the server's where one answers."""

from __future__ import annotations

import json

import pytest

import ic
from ic.cli import main
from tests.cli import test_documents as schemas
from tests.lab import lab as labs


def test_without_a_server_its_own_part_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INCUS_SOCKET", "/no/such/socket")
    assert main.main(["version", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    schemas.Schema("ic.version-1").check(document)
    assert (document["ic"], document["server"]) == (ic.__version__, None)
    assert main.main(["version"]) == 0
    assert "no such socket" in capsys.readouterr().out


def test_an_unknown_remote_leaves_its_own_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--remote", "no-such-remote", "version"]) == 0
    assert "no-such-remote" in capsys.readouterr().out


def test_a_server_is_shown_with_what_it_lacks(
    lab: labs.Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INCUS_SOCKET", str(lab.socket))
    assert main.main(["version", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    schemas.Schema("ic.version-1").check(document)
    known = lab.api("GET", "/1.0")["environment"]["server_version"]
    assert document["server"] == {"version": known, "api_extensions_missing": []}
