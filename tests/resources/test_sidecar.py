"""The sidecar's vocabulary: what the daemon writes, the operator's side reads."""

from __future__ import annotations

import msgspec
import pytest

from ic.resources import kind, sidecar


def test_a_state_reads_back_as_it_was_written() -> None:
    state = sidecar.State(
        state="untrusted", since=1795417126034, detail="403", certificate="ab" * 32, watched=3
    )
    assert sidecar.decode(sidecar.encode(state)) == state


def test_what_is_no_state_is_none() -> None:
    for data in (b"", b"{", b'{"state": "dancing", "since": 1}', b"\xff", b"[" * 100_000):
        assert sidecar.decode(data) is None


def test_two_lives_of_a_stack_have_two_identities() -> None:
    assert sidecar.identity_name("shop", "a" * 12) != sidecar.identity_name("shop", "b" * 12)


@pytest.mark.parametrize(
    ("setting", "reached"),
    [
        ("", "127.0.0.1:8443"),
        ("127.0.0.1:8443", "127.0.0.1:8443"),
        (":8443", "127.0.0.1:8443"),
        (":9443", "127.0.0.1:9443"),
        ("0.0.0.0:8443", "127.0.0.1:8443"),
        ("[::]:8443", "127.0.0.1:8443"),
        ("[::]", "127.0.0.1:8443"),
        ("[::1]:8443", "[::1]:8443"),
        ("::1", "[::1]:8443"),
        ("[fd00::5]:9443", "[fd00::5]:9443"),
        ("10.1.2.3:8443", "10.1.2.3:8443"),
        ("10.1.2.3", "10.1.2.3:8443"),
        ("incus.example:443", "incus.example:443"),
    ],
)
def test_where_a_server_is_reached_from_its_own_host(setting: str, reached: str) -> None:
    assert sidecar.reachable(setting) == reached


@pytest.mark.parametrize(
    ("words", "python"),
    [
        (("python3",), "python3"),
        (("/usr/bin/python3.11",), "/usr/bin/python3.11"),
        (("/usr/bin/python",), "python3"),
        (("sh", "-c", "python3"), "python3"),
        ((), "python3"),
    ],
)
def test_the_interpreter_is_the_images_own_or_in_its_path(
    words: tuple[str, ...], python: str
) -> None:
    assert sidecar.interpreter(words) == python


def test_a_program_that_runs_by_itself_is_laid_down_and_started_as_it_is() -> None:
    assert sidecar.command(("python3",), runs_itself=False) == ("python3", "/ic.pyz", "healthd")
    assert sidecar.command(("python3",), runs_itself=True) == ("/ic-healthd", "healthd")
    places = [
        sidecar.place(project="shop", source="/x", runs_itself=own, needs=()).deed
        for own in (False, True)
    ]
    assert [(one.file, one.mode) for one in places if isinstance(one, kind.Place)] == [
        ("/ic.pyz", "0644"),
        ("/ic-healthd", "0755"),
    ]


def test_a_certificates_name_ends_with_the_lineage_once_there_is_one() -> None:
    step = sidecar.enrol(home="shop", projects=("shop",), pool="p", needs=())
    for deed in (step.deed, sidecar.revoke(projects=("shop",)).deed):
        assert isinstance(deed, kind.Enrol | kind.Revoke)
        assert deed.name == "ic-healthd shop"
        stamped = kind.stamped(msgspec.structs.replace(step, deed=deed), "11aa", "shop", "4/9")
        assert isinstance(stamped, kind.Enrol | kind.Revoke)
        assert stamped.name == sidecar.identity_name("shop", "11aa")


def test_the_identity_volume_is_for_root_alone() -> None:
    step = sidecar.create_volume(sidecar.identity_volume("p"), project="shop", needs=())
    assert isinstance(step.deed, kind.Call)
    assert step.deed.path == "/1.0/storage-pools/p/volumes/custom"
    assert step.deed.body == {
        "name": "ic-healthd",
        "type": "custom",
        "config": {"security.shifted": "true", "initial.mode": "0700"},
    }
