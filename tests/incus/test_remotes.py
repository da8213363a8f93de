"""Which server is chosen: the order, the incus client's own file, and remotes that cannot run anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ic import errors
from ic.incus import remotes

CONFIG = """\
default-remote: {default}
remotes:
  prod:
    addr: https://incus.example:8444
    auth_type: tls
    protocol: incus
    public: false
  six:
    addr: https://[2001:db8::1]:8443
    protocol: incus
  plain:
    addr: https://incus.example
  here:
    addr: unix:///run/there.socket
  images:
    addr: https://images.example
    protocol: simplestreams
    public: true
  open:
    addr: https://open.example:8443
    protocol: incus
    public: true
  single:
    addr: https://sso.example:8443
    auth_type: oidc
    protocol: incus
  odd:
    addr: ftp://x
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yml").write_text(CONFIG.format(default="prod"))
    return tmp_path


def env(folder: Path, **more: str) -> dict[str, str]:
    return {"INCUS_CONF": str(folder), "INCUS_GLOBAL_CONF": "/nonexistent", **more}


def test_the_named_remote_wins_over_everything(folder: Path) -> None:
    found = remotes.resolve("six", env(folder, INCUS_SOCKET="/a", INCUS_DIR="/b"))
    assert (found.host, found.port, found.url) == (
        "2001:db8::1",
        8443,
        "https://[2001:db8::1]:8443",
    )


def test_a_remote_that_was_added_by_a_token_has_several_addresses(folder: Path) -> None:
    (folder / "config.yml").write_text(
        "remotes:\n  many:\n    addr: https://10.0.0.1:8443,https://[2001:db8::1]:8444,https://x\n"
    )
    found = remotes.resolve("many", env(folder))
    assert (found.host, found.port) == ("10.0.0.1", 8443)
    assert found.others == (("2001:db8::1", 8444), ("x", 8443))
    assert found.url == "https://10.0.0.1:8443"


def test_a_socket_from_the_environment_wins_over_a_directory(folder: Path) -> None:
    assert remotes.resolve(None, env(folder, INCUS_SOCKET="/a", INCUS_DIR="/b")).socket == "/a"
    assert remotes.resolve(None, env(folder, INCUS_DIR="/b")).socket == "/b/unix.socket"


def test_the_default_remote_comes_with_its_three_files(folder: Path) -> None:
    found = remotes.resolve(None, env(folder))
    assert found == remotes.Server(
        name="prod",
        host="incus.example",
        port=8444,
        pinned=str(folder / "servercerts/prod.crt"),
        certificate=str(folder / "client.crt"),
        key=str(folder / "client.key"),
    )
    assert str(found) == "prod (https://incus.example:8444)"
    assert not found.local


def test_a_port_may_be_left_out(folder: Path) -> None:
    assert remotes.resolve("plain", env(folder)).port == 8443


def test_a_remote_may_be_a_socket_and_its_name_may_end_with_a_colon(folder: Path) -> None:
    found = remotes.resolve("here:", env(folder))
    assert (found.name, found.socket, found.local) == ("here", "/run/there.socket", True)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("images", "image server"),
        ("open", "image server"),
        ("single", "oidc"),
        ("odd", "neither https"),
        ("nobody", "no remote of that name"),
    ],
)
def test_a_remote_that_cannot_run_anything_is_refused(folder: Path, name: str, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why):
        remotes.resolve(name, env(folder))


def test_without_a_file_the_local_socket_is_taken(tmp_path: Path) -> None:
    found = remotes.resolve(None, env(tmp_path))
    assert found.name == "local"
    assert found.socket in remotes.LOCAL_SOCKETS


def test_local_is_known_without_being_in_the_file(folder: Path) -> None:
    assert remotes.resolve("local", env(folder)).socket in remotes.LOCAL_SOCKETS


def test_a_machine_wide_remote_is_found_below_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "config.yml").write_text(CONFIG.format(default="local"))
    found = remotes.resolve(
        "prod", {"INCUS_CONF": str(tmp_path / "own"), "INCUS_GLOBAL_CONF": str(shared)}
    )
    assert found.pinned == str(shared / "servercerts/prod.crt")
    assert found.certificate == str(tmp_path / "own/client.crt")


@pytest.mark.parametrize(
    ("text", "why"),
    [("a: [", "not valid YAML"), ("- 1", "not a mapping"), ("default-remote: [1]", "not a name")],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(errors.UsageError, match=why):
        remotes.resolve(None, env(tmp_path))


def test_no_home_at_all_is_no_error() -> None:
    assert remotes.resolve(
        None, {"INCUS_GLOBAL_CONF": "/nonexistent", "INCUS_CONF": "/nonexistent"}
    )
    assert remotes.home({"HOME": "/h"}) == "/h"
    assert os.path.isabs(remotes.home({}))
