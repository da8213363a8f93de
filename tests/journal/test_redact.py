"""Redaction: only what the whitelist names is in clear; everything else is a keyed digest."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ic.journal import fold, redact
from ic.resources import kind

KEY = b"k" * 32


def test_public_fields_stay_and_private_ones_become_digests() -> None:
    record = kind.Record(
        name="web",
        fields={
            ("config", "limits.cpu"): "2",
            ("config", "environment.TOKEN"): "hunter2-hunter2",
            ("devices", "eth0", "network"): "shop-default",
        },
    )
    effect = redact.effect(record, KEY)
    assert effect["set"] == {
        "config/limits.cpu": "2",
        "config/environment.TOKEN": {"$h": redact.digest(KEY, "hunter2-hunter2")},
        "devices/eth0/network": "shop-default",
    }
    assert b"hunter2" not in msgspec.json.encode(effect)


@given(
    st.text(min_size=4),
    st.sampled_from(["environment.X", "user.label.a", "raw.lxc", "oci.entrypoint"]),
)
def test_no_private_value_is_ever_written(secret: str, key: str) -> None:
    value = redact.value(("config", key), secret, KEY)
    assert isinstance(value, fold.Digest)
    assert len(value.hmac) == 24


@given(st.text(), st.text())
def test_digests_are_equal_only_for_equal_values_and_keys(one: str, other: str) -> None:
    assert (redact.digest(KEY, one) == redact.digest(KEY, other)) == (one == other)
    assert redact.digest(KEY, one) != redact.digest(b"x" * 32, one)


def test_a_body_digest_does_not_depend_on_the_order_of_keys() -> None:
    one = {"set": {"a": "1", "b": "2"}, "name": "x"}
    other = {"name": "x", "set": {"b": "2", "a": "1"}}
    assert redact.body(one, KEY) == redact.body(other, KEY)
    assert len(redact.body(one, KEY)) == 12


def test_messages_are_short_printable_and_without_private_values() -> None:
    text = redact.message(
        'bad value \x1b[31m"hunter2-hunter2" \n' + "x" * 300, ("hunter2-hunter2", "no")
    )
    assert "hunter2" not in text
    assert text.startswith('bad value ?[31m"[...]" ?xxx')
    assert len(text) == redact.TEXT_LIMIT


def test_private_values_of_a_record() -> None:
    record = kind.Record(fields={("config", "environment.A"): "s", ("config", "limits.cpu"): "2"})
    assert redact.private_values(record) == ("s",)
