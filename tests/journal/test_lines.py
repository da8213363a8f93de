"""Lines: what is joined or sealed comes back byte by byte, and the chain finds every change."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ic.journal import lines
from tests.journal import logs

LINES = st.lists(st.from_regex(rb'\{"n":[0-9]{1,4},"x":"[ -!#-\[\]-~]{0,20}"\}', fullmatch=True))


@given(LINES)
def test_plain_and_sealed_segments_come_back(log: list[bytes]) -> None:
    text = lines.joined(log)
    assert lines.open_segment(text) == log
    assert lines.open_segment(lines.seal(text)) == log


def test_an_editor_may_leave_a_blank_line() -> None:
    assert lines.split('{"n":1}\n\n{"n":2}') == [b'{"n":1}', b'{"n":2}']


@given(logs.logs(), st.data())
def test_the_chain_finds_any_mutation(log: list[object], data: st.DataObject) -> None:
    raw = logs.raw_of(log)  # pyright: ignore[reportArgumentType]
    good = lines.end_of(lines.start("lin"), raw)
    changed = list(raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    how = data.draw(st.sampled_from(["flip", "drop", "swap", "twice"]))
    if how == "flip":
        index = data.draw(st.integers(0, len(raw[at]) - 1))
        flipped = bytes([raw[at][index] ^ (1 << data.draw(st.integers(0, 7)))])
        changed[at] = raw[at][:index] + flipped + raw[at][index + 1 :]
    elif how == "drop":
        del changed[at]
    elif how == "swap":
        other = data.draw(st.integers(0, len(raw) - 1))
        changed[at], changed[other] = changed[other], changed[at]
    else:
        changed.insert(at, raw[at])
    assume(changed != raw)
    assert lines.end_of(lines.start("lin"), changed) != good


def test_chains_of_two_lineages_differ() -> None:
    assert lines.start("a") != lines.start("b")
    assert list(lines.chained("c", [b"x", b"y"]))[-1] == lines.end_of("c", [b"x", b"y"])


@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_damaged_sealed_value_is_a_value_error_or_the_same_text(junk: bytes, cut: int) -> None:
    sealed = lines.seal('{"n":1}\n' * 40)
    text = sealed[: 2 + cut] + junk.decode("latin-1")
    try:
        opened = lines.unseal(text)
    except ValueError:
        return
    assert opened == '{"n":1}\n' * 40


def test_what_follows_a_sealed_value_is_refused() -> None:
    packed = zlib.compress(b"text") + b"more"
    with pytest.raises(ValueError, match="followed"):
        lines.unseal(lines.SEALED + base64.b64encode(packed).decode())


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "OPENED_LIMIT", 1000)
    with pytest.raises(ValueError, match="too long"):
        lines.unseal(lines.seal("x" * 2000))
