"""Tabs and colons as docker compose's YAML library takes them; each spelling was asked of it."""

from __future__ import annotations

import pytest

from ic import errors
from ic.fields import tree
from tests.compose import stacks


def _read(text: str) -> object:
    report = tree.Report()
    found = tree.plain(stacks.node(text, report))
    assert not report.failed
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\tb\n", {"a": "b"}),
        ("a: b\tc\n", {"a": "b\tc"}),
        ("a: b\t# comment\n", {"a": "b"}),
        ("a: [b,\tc]\n", {"a": ["b", "c"]}),
        ("a: {b: c,\n\td: e}\n", {"a": {"b": "c", "d": "e"}}),
        ("a: b\n\n \tc\nd: e\n", {"a": "b\nc", "d": "e"}),
        ('"a"\t: b\n', {"a": "b"}),
        ("a: |\t# comment\n  b\n  \tc\n", {"a": "b\n\tc\n"}),
        ("a: |+2\n   b\n\nc: d\n", {"a": " b\n\n", "c": "d"}),
        ("a: {b:, c: d}\n", {"a": {"b:": None, "c": "d"}}),
        ("a: b\n  c\n\n  d # comment\n", {"a": "b c\nd"}),
        ('a: "b\\\'c"\n', {"a": "b'c"}),
    ],
)
def test_a_tab_may_stand_between_tokens(text: str, value: object) -> None:
    assert _read(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a:\n\tb: c\n", "a tab cannot indent a line"),
        ("a:\n  -\tb\n", "a tab cannot start a token"),
        ("a: |\n  \tb\n", "an indentation must be of spaces"),
        ("a:\n  b: c\n\td\n", "violates indentation"),
        ("a: |0\n  b\n", "from 1 to 9"),
        ("a: | b\n", "a comment or a line break"),
        ('a: "\\/"\n', "means nothing within double quotes"),
    ],
)
def test_a_tab_may_not_be_an_indentation(text: str, reason: str) -> None:
    with pytest.raises(errors.ComposeError, match=reason):
        _read(text)
