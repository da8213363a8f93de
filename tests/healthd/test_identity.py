"""The identity on its disk and the token in its place: what is taken, what is refused, what a cut leaves."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.healthd import certificate, identity
from ic.incus import client
from ic.resources import sidecar

NOW = 1_795_000_000.0
SERVER = "ab" * 32


@pytest.fixture
def place(tmp_path: Path) -> identity.Place:
    folder = tmp_path / "identity"
    folder.mkdir(mode=0o700)
    return identity.Place(directory=str(folder), project="shop")


def token_text(**over: Any) -> bytes:
    """A token as the server's own client writes it."""
    body = {
        "client_name": "ic-healthd shop",
        "fingerprint": SERVER,
        "addresses": ["10.0.0.1:8443"],
        "secret": "5ecret" * 8,
        "expires_at": "0001-01-01T00:00:00Z",
        **over,
    }
    return base64.b64encode(json.dumps(body).encode())


# --- key and certificate ---


def test_an_identity_is_made_once_and_found_again(place: identity.Place) -> None:
    assert identity.load(place, NOW) is None
    made = identity.create(place, NOW)
    assert identity.load(place, NOW) == made
    names = sorted(os.listdir(place.directory))
    assert names == [identity.CERTIFICATE, identity.KEY]
    for name in names:
        assert os.stat(place.path(name)).st_mode & 0o777 == 0o600


def test_files_are_closed_to_others_whatever_the_umask(place: identity.Place) -> None:
    before = os.umask(0)
    try:
        identity.create(place, NOW)
        identity.pin(place, SERVER)
    finally:
        os.umask(before)
    for name in os.listdir(place.directory):
        assert os.stat(place.path(name)).st_mode & 0o777 == 0o600


class Cut(Exception):
    """The process ends here."""


CALLS = ("open", "fsync", "replace", "unlink")


@pytest.mark.parametrize("at", range(14))
def test_a_cut_at_any_call_of_the_first_start_leaves_nothing_that_stops_the_next(
    place: identity.Place, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == at:
                raise Cut
            done += 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            identity.create(place, NOW)
            identity.pin(place, SERVER)
        except Cut:
            pass
    found = identity.load(place, NOW) or identity.create(place, NOW)
    assert identity.load(place, NOW) == found
    identity.pin(place, SERVER)
    assert identity.pinned(place) == SERVER


def broken(place: identity.Place, how: str) -> None:
    """Spoil an identity in one way."""
    key, text = place.path(identity.KEY), place.path(identity.CERTIFICATE)
    if how == "open key":
        os.chmod(key, 0o644)
    elif how == "open directory":
        os.chmod(place.directory, 0o755)
    elif how == "symlink":
        os.rename(key, key + ".real")
        os.symlink(key + ".real", key)
    elif how == "directory":
        os.unlink(key)
        os.mkdir(key)
    elif how == "owner":
        os.chown(key, 1234, 1234)
    elif how == "missing":
        os.unlink(text)
    elif how == "mismatch":
        Path(key).write_text(certificate.make("other", int(NOW), os.urandom)[0])
    elif how == "no key":
        Path(key).write_text("")
    elif how == "encrypted key":
        Path(key).write_text(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"
        )
    elif how == "no certificate":
        Path(text).write_text("x")
    elif how == "expired":
        spoiled = certificate.make("old", int(NOW) - 11 * 365 * 86400, os.urandom)
        Path(key).write_text(spoiled[0])
        Path(text).write_text(spoiled[1])
    elif how == "not yet":
        spoiled = certificate.make("new", int(NOW) + 3 * 86400, os.urandom)
        Path(key).write_text(spoiled[0])
        Path(text).write_text(spoiled[1])


REMEDIES = {
    "open key": ("E_KEY_PERM", "chmod 0600 {key}"),
    "open directory": ("E_KEY_PERM", "chmod 0700 {directory}"),
    "symlink": ("E_KEY_PERM", "rm {key}"),
    "directory": ("E_KEY_PERM", "rm {key}"),
    "owner": ("E_KEY_PERM", f"chown {os.geteuid()} {{key}}"),
    "missing": ("E_KEY_PAIR", "rm -f {key} {certificate}"),
    "mismatch": ("E_KEY_PAIR", "rm -f {key} {certificate}"),
    "no key": ("E_KEY_PAIR", "rm -f {key} {certificate}"),
    "encrypted key": ("E_KEY_PAIR", "rm -f {key} {certificate}"),
    "no certificate": ("E_KEY_PAIR", "rm -f {key} {certificate}"),
    "expired": ("E_KEY_EXPIRED", "rm -f {key} {certificate}"),
    "not yet": ("E_KEY_EXPIRED", "rm -f {key} {certificate}"),
}


def written(place: identity.Place) -> dict[str, tuple[int, int, int]]:
    """Which files there are, and when each was written: reading one changes nothing of it."""
    found = ((name, os.lstat(place.path(name))) for name in os.listdir(place.directory))
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found}


@pytest.mark.parametrize("how", REMEDIES)
def test_a_bad_identity_is_refused_with_its_remedy_and_never_written_over(
    place: identity.Place, how: str
) -> None:
    identity.create(place, NOW)
    broken(place, how)
    before = written(place)
    with pytest.raises(identity.BadIdentity) as found:
        identity.load(place, NOW)
    code, remedy = REMEDIES[how]
    assert found.value.code == code
    assert found.value.hint == remedy.format(
        directory=place.directory,
        key=place.path(identity.KEY),
        certificate=place.path(identity.CERTIFICATE),
    )
    assert written(place) == before


@pytest.mark.parametrize("how", ["open key", "open directory", "owner", "missing", "expired"])
def test_the_remedy_works_when_it_is_typed(place: identity.Place, how: str) -> None:
    identity.create(place, NOW)
    broken(place, how)
    with pytest.raises(identity.BadIdentity) as found:
        identity.load(place, NOW)
    subprocess.run(found.value.hint, shell=True, check=True, timeout=30)
    assert (identity.load(place, NOW) is None) == ("rm" in found.value.hint.split())


def test_in_the_sidecar_the_remedy_goes_through_incus() -> None:
    place = identity.Place(directory=sidecar.IDENTITY, project="shop")
    assert place.anew().startswith("incus exec ic-healthd --project shop -- rm -f /run/secrets/")


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    place = identity.Place(directory=str(tmp_path / "none"))
    with pytest.raises(identity.BadIdentity, match="No such file"):
        identity.load(place, NOW)


def test_a_pin_is_read_back_and_junk_is_none(place: identity.Place) -> None:
    assert identity.pinned(place) == ""
    identity.pin(place, SERVER)
    assert identity.pinned(place) == SERVER
    identity.pin(place, "abc")
    with pytest.raises(identity.BadIdentity, match="no SHA-256"):
        identity.pinned(place)


# --- tokens ---


def test_a_token_says_which_server_and_until_when() -> None:
    token = identity.decode_token(token_text(expires_at="2026-11-23T10:00:00.123456789+01:00"))
    assert token.fingerprint == SERVER
    assert token.expires == 1795424400
    assert identity.decode_token(token_text()).expires == 0
    assert "5ecret" not in repr(token)


def test_blanks_and_newlines_around_a_token_do_not_matter() -> None:
    text = token_text()
    assert identity.decode_token(b" " + text[:40] + b"\n" + text[40:] + b"\n").text == text.decode()


BAD_TOKENS = {
    "nothing": b"",
    "no base64": b"not a token!",
    "cut": token_text()[:-7],
    "no JSON": base64.b64encode(b"secret-words"),
    "a list": base64.b64encode(b"[]"),
    "no secret": token_text(secret=""),
    "no fingerprint": token_text(fingerprint="5ecret"),
    "a number": token_text(secret=5),
    "no time": token_text(expires_at="5ecret"),
    "not ASCII": "töken".encode(),
    "deep": base64.b64encode(b"[" * 30000),
}


@pytest.mark.parametrize("which", BAD_TOKENS)
def test_a_malformed_token_is_refused_without_a_piece_of_it(which: str) -> None:
    with pytest.raises(identity.Refused) as found:
        identity.decode_token(BAD_TOKENS[which])
    assert found.value.code == "E_TOKEN_FORMAT"
    shown = f"{found.value.summary}{found.value.details}{found.value.hint}{found.value.__cause__}"
    assert "5ecret" not in shown
    assert "secret-words" not in shown


@given(data=st.binary(max_size=200))
def test_junk_is_refused_and_never_another_failure(data: bytes) -> None:
    for text in (data, base64.b64encode(data)):
        with pytest.raises(identity.Refused):
            identity.decode_token(text)


def test_an_expired_token_is_not_even_sent() -> None:
    token = identity.decode_token(token_text(expires_at="2026-11-23T10:00:00Z"))
    identity.check_expiry(token, token.expires - 1)
    with pytest.raises(identity.Refused, match="expired at 2026-11-23 10:00:00Z") as found:
        identity.check_expiry(token, token.expires)
    assert found.value.code == "E_TOKEN_EXPIRED"


# --- the place where tokens are laid down ---


def test_a_push_is_waited_for_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "token"
    inbox = identity.Inbox(str(path))
    assert inbox.look(0.0) is None
    path.touch(0o644)
    assert inbox.look(10.0) is None
    path.write_bytes(token_text()[:30])
    assert inbox.look(20.0) is None
    path.write_bytes(token_text())
    assert inbox.look(20.5) is None  # whole, but its mode is not set yet
    path.chmod(0o400)
    found = inbox.look(20.6)
    assert found is not None
    assert found.data == token_text()
    assert not found.was_open


def test_an_empty_file_is_never_a_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    inbox = identity.Inbox(str(path))
    assert [inbox.look(at) for at in (0.0, 5.0, 500.0)] == [None, None, None]


def test_what_does_not_become_a_token_is_handed_on_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"junk")
    path.chmod(0o600)
    inbox = identity.Inbox(str(path), settle=1.0)
    assert inbox.look(0.0) is None
    found = inbox.look(1.1)
    assert found is not None
    assert found.data == b"junk"


def test_a_token_that_others_could_read_is_closed_and_said(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(token_text())
    path.chmod(0o644)
    inbox = identity.Inbox(str(path), settle=1.0)
    assert inbox.look(0.0) is None
    found = inbox.look(1.1)
    assert found is not None
    assert found.was_open
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_symlink_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(token_text())
    (tmp_path / "token").symlink_to(tmp_path / "real")
    with pytest.raises(identity.Refused):
        identity.Inbox(str(tmp_path / "token")).look(0.0)


def test_a_fifo_is_no_token_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token", 0o600)
    with pytest.raises(identity.Refused):
        identity.Inbox(str(tmp_path / "token")).look(0.0)


def test_what_is_no_token_is_said_once_and_a_token_in_its_place_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.mkdir()
    inbox = identity.Inbox(str(path))
    with pytest.raises(identity.Refused):
        inbox.look(0.0)
    assert inbox.look(1.0) is None
    path.rmdir()
    path.write_bytes(token_text())
    path.chmod(0o600)
    found = inbox.look(2.0)
    assert found is not None
    assert found.data == token_text()


def test_a_token_that_cannot_be_removed_is_not_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_bytes(token_text())
    path.chmod(0o600)
    inbox = identity.Inbox(str(path))
    found = inbox.look(0.0)
    assert found is not None

    def refused(_: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        inbox.clear(found)
    assert path.exists()
    assert inbox.look(5.0) is None


def test_only_the_file_that_was_taken_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(token_text())
    path.chmod(0o600)
    inbox = identity.Inbox(str(path))
    found = inbox.look(0.0)
    assert found is not None
    newer = tmp_path / "newer"
    newer.write_bytes(token_text())
    newer.rename(path)
    inbox.clear(found)
    assert path.exists()
    again = inbox.look(2.0) or inbox.look(4.0)
    assert again is not None
    inbox.clear(again)
    inbox.clear(again)
    assert not path.exists()


# --- the exchange ---


class Server:
    """A server's side of the exchange: what it answers to a token, and whom it trusts."""

    def __init__(self, answer: errors.IncusError | None = None, *, knows: bool = False) -> None:
        self.answer = answer
        self.knows = knows
        self.sent: list[tuple[str, str, object]] = []

    def get(self, path: str, query: object = None) -> dict[str, str]:
        assert path == "/1.0"
        return {"auth": "trusted" if self.knows else "untrusted"}

    def send(self, method: str, path: str, query: object = None, body: object = None) -> None:
        self.sent.append((method, path, body))
        if self.answer is not None:
            raise self.answer
        self.knows = True


def hand_in(server: Server) -> bool:
    return identity.register(cast(client.Client, server), identity.decode_token(token_text()))


def test_a_token_is_handed_in_once_with_nothing_else() -> None:
    server = Server()
    assert hand_in(server) is True
    body = {"type": "client", "trust_token": token_text().decode()}
    assert server.sent == [("POST", "/1.0/certificates", body)]


@pytest.mark.parametrize(
    "answer",
    [
        errors.OperationFailed("cannot create certificate: Client is already trusted"),
        errors.Conflict("cannot create certificate: Certificate already in trust store"),
        errors.Forbidden("cannot create certificate: No matching certificate add operation found"),
    ],
)
def test_a_server_that_knows_the_certificate_already_is_success(answer: errors.IncusError) -> None:
    assert hand_in(Server(answer, knows=True)) is False


def test_a_spent_token_says_what_may_have_become_of_it() -> None:
    answer = errors.Forbidden("cannot create certificate: No matching certificate add operation")
    with pytest.raises(identity.Refused, match="used, expired, cancelled, or lost") as found:
        hand_in(Server(answer))
    assert found.value.code == "E_TOKEN_SPENT"


def test_another_failure_is_told_in_the_servers_words() -> None:
    with pytest.raises(identity.Refused, match="bad wind"):
        hand_in(Server(errors.OperationFailed("cannot create certificate: bad wind")))


@pytest.mark.parametrize("kind", [errors.Unreachable, errors.TimedOut, errors.Untrusted])
def test_a_lost_answer_is_no_refusal(kind: type[errors.IncusError]) -> None:
    with pytest.raises(kind):
        hand_in(Server(kind("cannot create certificate: gone")))
