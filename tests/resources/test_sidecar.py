"""The sidecar's vocabulary: what the daemon writes, the operator's side reads."""

from __future__ import annotations

from ic.resources import sidecar


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
