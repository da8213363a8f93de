"""The daemon's life, step by step, with a stand-in for the server and for the work."""

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from ic import errors
from ic.healthd import daemon, identity
from ic.incus import client, remotes
from ic.resources import sidecar

SERVER = "ab" * 32
OTHER = "cd" * 32


class Api:
    """A server: the certificate it shows, whom it trusts, its pending tokens, and whether it is up."""

    def __init__(self) -> None:
        self.shown = SERVER
        self.trusts: set[str] = set()
        self.tokens: set[str] = set()
        self.up = True
        self.projects = {"shop"}
        self.sent: list[str] = []
        self.lose_answers = 0

    def token(self, secret: str = "one", fingerprint: str = SERVER, **over: str) -> bytes:
        """A token that is pending from now on."""
        body = {"client_name": "x", "fingerprint": fingerprint, "addresses": [], "secret": secret}
        text = base64.b64encode(json.dumps({**body, **over}).encode())
        self.tokens.add(text.decode())
        return text

    def shake_hands(self, server: remotes.Server) -> None:
        """TLS up to the comparison of the certificate."""
        if not self.up:
            raise errors.Unreachable("cannot reach Incus: nothing listens there")
        if server.fingerprint != self.shown:
            raise errors.Untrusted("cannot trust it: another certificate", details=(self.shown,))


class Connection:
    """One daemon's client."""

    def __init__(self, api: Api, server: remotes.Server) -> None:
        self.api = api
        self.server = server
        self.me = Path(server.certificate).read_text()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def get(self, path: str, query: object = None) -> Any:
        self.api.shake_hands(self.server)
        if path == "/1.0":
            return {"auth": "trusted" if self.me in self.api.trusts else "untrusted"}
        if self.me not in self.api.trusts:
            raise errors.Forbidden("cannot read: not authorized")
        if path.rpartition("/")[2] not in self.api.projects:
            raise errors.NotFound("cannot read project: not found")
        return {}

    def send(self, method: str, path: str, query: object = None, body: Any = None) -> None:
        self.api.shake_hands(self.server)
        self.api.sent.append(path)
        if self.me in self.api.trusts:
            raise errors.OperationFailed("cannot create certificate: Client is already trusted")
        if body["trust_token"] not in self.api.tokens:
            raise errors.Forbidden(
                "cannot create certificate: No matching certificate add operation"
            )
        self.api.tokens.discard(body["trust_token"])
        self.api.trusts.add(self.me)
        if self.api.lose_answers:
            self.api.lose_answers -= 1
            raise errors.TimedOut("cannot create certificate: the connection broke")


class Work:
    """Work that goes on until it is told to stop, or told by the test how to end."""

    first = daemon.View(connected=True, watched=3)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.beat = 1
        self.seen = self.first
        self.failure: BaseException | None = None
        self.stands_still = False
        self.takes = 0.0
        self.ended = threading.Event()

    def view(self) -> daemon.View:
        return self.seen

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.01) and self.failure is None:
            if not self.stands_still:
                self.beat += 1
        time.sleep(self.takes)
        self.ended.set()
        if self.failure is not None:
            raise self.failure


class Teller:
    """What would have gone into the journal."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.calls: list[str] = []
        self.refused = False

    def tell(self, kind: str, address: str = "", *, cause: str = "") -> None:
        self.told.append((kind, cause))

    def begin(self, client: object) -> None:
        self.calls.append("begin")
        self.refused = False

    def pause(self, seconds: float) -> None:
        self.calls.append("pause")

    def end(self, seconds: float) -> None:
        self.calls.append("end")


class House:
    """One identity volume, one place for tokens, and the daemons that live there one after another."""

    def __init__(self, folder: Path) -> None:
        self.api = Api()
        self.directory = folder / "identity"
        self.directory.mkdir(mode=0o700)
        (folder / "token").mkdir(mode=0o700)
        self.token_file = folder / "token" / "token"
        self.works: list[Work] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.left: list[int] = []
        self.teller = Teller()
        self.daemon: daemon.Daemon | None = None
        self.thread: threading.Thread | None = None
        self.status: list[int] = []

    def ways(self) -> daemon.Ways:
        def work(connection: Any) -> Work:
            self.works.append(Work(connection))
            return self.works[-1]

        return daemon.Ways(
            connect=lambda server: cast(client.Client, Connection(self.api, server)),
            shake_hands=self.api.shake_hands,
            work=work,
            teller=self.teller,
            say=lambda word, fields: self.said.append((word, fields)),
            leave=self.left.append,
        )

    def start(self) -> None:
        settings = daemon.Settings(
            project="shop",
            server=remotes.Server(name="incus", socket="/nowhere", tls=True),
            directory=str(self.directory),
            token_file=str(self.token_file),
        )
        living = self.daemon = daemon.Daemon(settings, self.ways())
        self.thread = threading.Thread(target=lambda: self.status.append(living.run()))
        self.thread.start()

    def end(self, seconds: float = 4.0) -> None:
        if self.daemon is not None and self.thread is not None:
            self.daemon.end()
            self.thread.join(seconds)
            assert not self.thread.is_alive()

    def lay_down(self, text: bytes, mode: int = 0o400) -> None:
        fresh = self.token_file.with_suffix(".new")
        fresh.write_bytes(text)
        fresh.chmod(mode)
        fresh.rename(self.token_file)

    def state(self) -> sidecar.State:
        try:
            found = sidecar.decode((self.directory / "state.json").read_bytes())
        except FileNotFoundError:
            return sidecar.State(state="starting", since=0)
        assert found is not None  # never cut off
        return found

    def becomes(self, word: str, seconds: float = 6.0) -> sidecar.State:
        return until(lambda: self.state() if self.state().state == word else None, seconds)


def until(found: Callable[[], Any], seconds: float = 6.0) -> Any:
    """What a look brings once it brings something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)
    return result


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house whose daemons look more often and wait less than in life."""
    for name, seconds in (("TICK", 0.02), ("UNREACHED", 0.2), ("MENDING", 0.2)):
        monkeypatch.setattr(daemon, name, seconds)
    made = House(tmp_path)
    yield made
    made.end()


def test_the_first_start_waits_for_a_token_and_then_watches(house: House) -> None:
    house.start()
    waiting = house.becomes("waiting-for-token")
    assert waiting.project == "shop"
    assert len(waiting.certificate) == 64
    house.lay_down(house.api.token())
    watching = house.becomes("watching")
    assert (watching.certificate, watching.server) == (waiting.certificate, SERVER)
    assert until(lambda: house.state().watched) == 3
    assert not house.token_file.exists()
    assert house.api.tokens == set()


def test_a_restart_needs_no_token(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.end()
    assert house.state().state == "ended"
    assert house.status == [0]
    house.start()
    house.becomes("watching")
    assert house.api.sent == ["/1.0/certificates"]


def test_a_lost_answer_is_followed_by_the_same_token_and_certificate(house: House) -> None:
    house.api.lose_answers = 1
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching", 10)
    assert not house.token_file.exists()
    assert len(house.api.trusts) == 1


def test_after_a_kill_between_the_exchange_and_the_tokens_removal_all_is_well(house: House) -> None:
    house.start()
    text = house.api.token()
    house.lay_down(text)
    house.becomes("watching")
    house.end()
    house.lay_down(text)  # it is used, and still there
    house.start()
    house.becomes("watching")
    until(lambda: not house.token_file.exists())


def test_a_spent_token_is_refused_and_the_next_one_is_taken_with_the_same_key(house: House) -> None:
    house.start()
    before = house.becomes("waiting-for-token").certificate
    house.lay_down(house.api.token("gone"))
    house.api.tokens.clear()
    house.end()
    house.lay_down(base64.b64encode(b"{}"))
    house.start()
    house.becomes("token-refused")
    text = house.api.token("gone")
    house.api.tokens.clear()
    house.lay_down(text)
    refused = until(lambda: house.state() if "used, expired" in house.state().detail else None)
    assert refused.state == "token-refused"
    assert refused.certificate == before
    house.lay_down(house.api.token("new"))
    assert house.becomes("watching").certificate == before


def test_an_expired_token_is_refused_without_being_sent(house: House) -> None:
    house.start()
    house.lay_down(house.api.token(expires_at="2020-01-01T00:00:00Z"))
    assert "expired at 2020" in house.becomes("token-refused").detail
    assert house.api.sent == []


def test_a_token_of_another_server_is_not_sent_and_pins_nothing(house: House) -> None:
    house.start()
    house.lay_down(house.api.token(fingerprint=OTHER))
    house.becomes("pin-mismatch")
    assert house.api.sent == []
    assert not (house.directory / identity.PIN).exists()


def test_pin_and_key_lie_there_before_the_token_is_sent(house: House) -> None:
    seen: list[list[str]] = []
    house.start()
    house.becomes("waiting-for-token")
    original = Connection.send

    class Watching(Connection):
        def send(self, *arguments: Any, **named: Any) -> None:
            seen.append(sorted(os.listdir(house.directory)))
            original(self, *arguments, **named)

    assert house.daemon is not None
    house.end()
    ways = house.ways()
    watching = msgspec.structs.replace(
        ways, connect=lambda server: cast(client.Client, Watching(house.api, server))
    )
    house.ways = lambda: watching  # type: ignore[method-assign]
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    assert {identity.KEY, identity.CERTIFICATE, identity.PIN} <= set(seen[0])


def test_a_refusal_stops_all_work_at_once_and_a_new_token_heals_it(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    (work,) = until(lambda: house.works)
    house.api.trusts.clear()
    work.failure = errors.Forbidden("cannot list instances: not authorized")
    house.becomes("untrusted")
    assert work.ended.is_set()
    assert house.teller.calls == ["begin", "pause"]
    house.lay_down(house.api.token("two"))
    house.becomes("watching")
    assert len(house.works) == 2
    told = [cause for kind, cause in house.teller.told if kind == "state"]
    assert f"untrusted: {daemon.UNKNOWN}" in told  # not what happened to be asked then
    assert not any("cannot list instances" in cause for cause in told)


def test_a_refusal_of_a_known_certificate_is_told_in_its_own_words(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "AGAIN", 60)
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.works[0].failure = errors.Forbidden("cannot list instances: not authorized")
    assert house.becomes("untrusted").detail == "cannot list instances: not authorized"


def test_a_refusal_is_not_said_again_and_again_and_who_is_trusted_again_works_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "AGAIN", 0.1)
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    trusts = set(house.api.trusts)
    asked: list[str] = []
    house.api.trusts.clear()
    house.works[0].failure = errors.Forbidden("cannot list instances: not authorized")
    house.becomes("untrusted")
    shake_hands = house.api.shake_hands

    def counted(server: remotes.Server) -> None:
        asked.append(server.fingerprint)
        shake_hands(server)

    house.api.shake_hands = counted  # type: ignore[method-assign]
    until(lambda: len(asked) > 8)
    refused = [one[1]["detail"] for one in house.said if one[1].get("state") == "untrusted"]
    assert refused == [daemon.UNKNOWN]
    assert len(house.works) == 1
    house.api.trusts |= trusts
    house.becomes("watching")
    assert len(house.works) == 2
    assert house.api.sent == ["/1.0/certificates"]  # with what it had


def test_a_refusal_of_the_stream_is_one_of_the_work(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.api.trusts.clear()
    house.teller.refused = True
    house.becomes("untrusted")
    assert house.works[0].ended.is_set()


def test_a_restarted_daemon_says_which_server_it_has_pinned_before_it_has_met_it(
    house: House,
) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.end()
    house.api.shown = OTHER
    house.start()
    assert house.becomes("pin-mismatch").server == SERVER


def test_a_replaced_server_certificate_is_healed_by_a_token_that_names_it(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.api.shown = OTHER
    house.works[0].failure = errors.Untrusted("cannot trust it: another certificate")
    house.becomes("pin-mismatch")
    sent = len(house.api.sent)
    house.api.trusts.clear()
    house.lay_down(house.api.token("two", fingerprint=OTHER))
    assert house.becomes("watching").server == OTHER
    assert len(house.api.sent) == sent + 1


def test_a_token_that_comes_while_all_is_well_interrupts_nothing(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.lay_down(house.api.token("two"))
    until(lambda: not house.token_file.exists())
    time.sleep(0.5)
    assert len(house.works) == 1
    assert house.state().state == "watching"


def test_a_server_that_is_not_there_is_waited_for_with_the_token_kept(house: House) -> None:
    house.api.up = False
    house.start()
    house.lay_down(house.api.token())
    house.becomes("unreachable")
    assert house.token_file.exists()
    house.api.up = True
    house.becomes("watching", 10)


def test_a_bad_identity_is_told_with_its_remedy_and_used_again_once_mended(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.end()
    key = house.directory / identity.KEY
    key.chmod(0o644)
    before = key.read_bytes()
    house.start()
    assert f"chmod 0600 {key}" in house.becomes("bad-identity").detail
    assert key.read_bytes() == before
    key.chmod(0o600)
    house.becomes("watching", 10)


def test_a_wiped_volume_begins_anew(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    old = house.becomes("watching").certificate
    house.end()
    for file in house.directory.iterdir():
        file.unlink()
    house.start()
    assert house.becomes("waiting-for-token").certificate != old
    house.lay_down(house.api.token("two"))
    house.becomes("watching")


def test_an_identity_that_is_removed_while_it_works_is_missed_at_once(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    old = house.becomes("watching").certificate
    for name in (identity.KEY, identity.CERTIFICATE, identity.PIN):
        (house.directory / name).unlink()
    assert house.becomes("waiting-for-token", 2).certificate != old
    assert house.works[0].ended.is_set()
    assert not [one for one in house.said if one[1].get("state") == "pin-mismatch"]


def test_files_that_went_while_the_server_was_asked_are_no_other_server(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    (house.directory / identity.KEY).unlink()
    house.works[0].failure = errors.Untrusted("cannot use the client certificate: no such file")
    house.becomes("untrusted", 2)  # a new key, that nobody trusts yet
    assert not [one for one in house.said if one[1].get("state") == "pin-mismatch"]


@pytest.mark.parametrize("word", ["pin-mismatch", "untrusted"])
def test_what_waits_for_a_minute_looks_again_when_its_files_are_gone(
    house: House, word: str
) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    if word == "pin-mismatch":
        house.api.shown = OTHER
        house.works[0].failure = errors.Untrusted("cannot trust it: another certificate")
    else:
        house.api.trusts.clear()
        house.works[0].failure = errors.Forbidden("cannot read: not authorized")
    house.becomes(word)
    for name in (identity.KEY, identity.CERTIFICATE, identity.PIN):
        (house.directory / name).unlink()
    house.becomes("waiting-for-token", 2)


def test_a_project_that_is_gone_is_no_reason_to_end(house: House) -> None:
    house.api.projects.clear()
    house.start()
    house.lay_down(house.api.token())
    house.becomes("untrusted")
    assert house.thread is not None
    assert house.thread.is_alive()


def test_a_fault_in_the_work_is_said_and_the_work_begun_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "MENDING", 0.2)
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.works[0].failure = ZeroDivisionError("division by zero")
    until(lambda: len(house.works) == 2)
    house.becomes("watching")
    assert ("fault", {"error": "ZeroDivisionError: division by zero"}) in house.said


def test_the_work_says_what_it_watches_and_whether_it_is_cut_off(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    work = house.works[0]
    work.seen = daemon.View(connected=True, watched=7, misconfigured=("web: user.restart",))
    assert until(lambda: house.state().misconfigured) == ("web: user.restart",)
    work.seen = daemon.View(connected=False, detail="cannot reach Incus", watched=7)
    assert house.becomes("unreachable").detail == "cannot reach Incus"
    work.seen = daemon.View(connected=True, watched=7)
    house.becomes("watching")
    assert len(house.works) == 1


def test_work_that_has_just_begun_is_not_yet_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "CONNECTING", 1.0)
    monkeypatch.setattr(Work, "first", daemon.View(connected=False, detail="not connected yet"))
    house.start()
    house.lay_down(house.api.token())
    until(lambda: house.works)
    time.sleep(0.5)
    assert house.state().state in ("starting", "waiting-for-token")
    house.becomes("unreachable")
    house.works[0].seen = daemon.View(connected=True)
    house.becomes("watching")


def test_it_ends_within_three_seconds_whatever_hangs(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    house.works[0].takes = 2.0
    began = time.monotonic()
    assert house.daemon is not None
    house.daemon.end()
    assert house.thread is not None
    house.thread.join(3.0)
    assert not house.thread.is_alive()
    assert time.monotonic() - began < 3.0
    assert house.state().state == "ended"
    assert house.teller.calls[-1] == "end"


def test_a_call_that_hangs_is_cut_off_at_the_end(house: House) -> None:
    hanging = threading.Event()
    house.api.shake_hands = lambda server: hanging.wait(8) and None  # type: ignore[method-assign]
    house.start()
    house.becomes("waiting-for-token")
    house.lay_down(house.api.token())
    until(lambda: not house.said or True)
    time.sleep(0.6)
    assert house.daemon is not None
    house.daemon.end()
    until(lambda: house.left == [0], 3.0)
    assert house.state().state == "ended"
    hanging.set()


def test_the_watchdog_gives_up_on_what_stands_still_and_only_then(house: House) -> None:
    house.start()
    house.lay_down(house.api.token())
    house.becomes("watching")
    assert house.daemon is not None
    watchdog = daemon.Watchdog(house.daemon, house.ways(), every=0.3, ticks=4)
    watchdog.start()
    time.sleep(2.5)
    assert house.left == []
    house.works[0].stands_still = True
    until(lambda: house.left == [70], 5.0)
    watchdog.stop()


def test_the_state_file_is_replaced_whole_and_closed_to_others(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    for n in range(3):
        daemon.write_state(path, sidecar.State(state="watching", since=n))
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert sidecar.decode(Path(path).read_bytes()) == sidecar.State(state="watching", since=2)
    assert os.listdir(tmp_path) == ["state.json"]


def test_the_log_holds_no_token(house: House) -> None:
    house.start()
    text = house.api.token("5ecret")
    house.lay_down(text, mode=0o644)
    house.becomes("watching", 8)
    shown = json.dumps(house.said)
    assert "5ecret" not in shown
    assert text.decode() not in shown
    assert any("warning" in fields for _, fields in house.said)
