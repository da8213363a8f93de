"""Events: known ones come back equal, unknown ones are never an error, and lines hold ASCII only."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from ic.journal import events
from tests.journal import logs


@given(logs.logs())
def test_what_is_encoded_is_decoded_again(log: list[events.AnyEvent]) -> None:
    assert [events.decode(events.encode(event)) for event in log] == log


@given(logs.logs())
def test_lines_are_printable_ascii(log: list[events.AnyEvent]) -> None:
    for event in log:
        assert all(0x20 <= byte < 0x7F for byte in events.encode(event))


@given(logs.TEXT)
def test_escaping_keeps_the_text(text: str) -> None:
    encoded = msgspec.json.encode({"x": text})
    assert msgspec.json.decode(events.ascii_only(encoded)) == {"x": text}


def test_every_kind_is_told_by_its_line() -> None:
    samples: list[events.AnyEvent] = [
        events.Run(n=1, run="ab", generation=2, command="apply", chain="c"),
        events.Intent(n=2, kind="inst.create", address="instance:web/1"),
        events.Outcome(n=3, intent=2, status="ok", ms=4),
        events.End(n=4, run="ab", status="ok", state="d"),
        events.Recover(n=5, run="ab", intents=(2,)),
        events.Steal(n=6, generation=3, of=2, holder="0@host", reason="gone"),
        events.Trunc(n=1, last=9, count=9, chain="c"),
        events.Gap(n=7, last=9, chain="c", reason="damaged"),
        events.Health(n=8, kind="hd.restart", address="instance:web/1", run="ab", stream=4),
    ]
    for sample in samples:
        assert events.decode(events.encode(sample)) == sample


@pytest.mark.parametrize(
    "line",
    [
        b'{"n":4,"k":"acl.create","o":"acl:x","strange":[1,2]}',
        b'{"n":4,"k":"run","r":17}',
        b'{"n":4,"p":"z","k":"inst.create"}',
        b'{"n":4,"p":7}',
        b'{"n":4}',
    ],
)
def test_an_unknown_form_is_an_event_of_another_kind(line: bytes) -> None:
    event = events.decode(line)
    assert isinstance(event, events.Other)
    assert event.n == 4


def test_unknown_fields_are_no_error() -> None:
    event = events.decode(b'{"n":4,"p":"o","i":2,"s":"ok","new":{"a":1}}')
    assert event == events.Outcome(n=4, intent=2, status="ok")


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"n":"4"}', b'{"k":"run"}', b'{"n":4', b"\xff"]
)
def test_what_is_no_numbered_object_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which sentence does not matter
        events.decode(line)


def test_a_head_comes_back_equal() -> None:
    head = events.Head(lineage="ab", generation=3, sequence=9, chain="c", streams={"hd": 4})
    assert events.decode_head(events.encode_head(head)) == head
    assert events.encode_head(head) == (
        '{"v":1,"min":1,"lin":"ab","g":3,"n":9,"c":"c","s":0,"hw":{"hd":4}}'
    )
