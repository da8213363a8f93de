"""YAML and JSON as docker compose writes them: recorded from 2.40.3, and they read back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ic import errors
from ic.compose import document, shapes, writing
from ic.fields import tree

# Recorded from docker compose 2.40.3: a text, and how its YAML writes it after `K:`.
QUOTING = {
    "22:22": '"22:22"', "017": '"017"', "true": '"true"', "yes": '"yes"', "Off": '"Off"', "": '""',
    "null": '"null"', "~": '"~"', "1e3": '"1e3"', "2020-01-01": '"2020-01-01"', "2020-13-01": "2020-13-01",
    "a b": "a b", "a #b": "'a #b'", "a#b": "a#b", "#a": "'#a'", "@a": "'@a'", "*a": "'*a'",
    "- a": "'- a'", "-a": "-a", "a ": "'a '", " a": "' a'", "?": "'?'", "? a": "'? a'", "-": "'-'",
    "a:": "'a:'", "a:b c": "a:b c", "a :b": "a :b", "=": "=", "[a": "'[a'", "a]": "a]", "a,b": "a,b",
    "!a": "'!a'", "|": "'|'", '"': "'\"'", "'": "''''", 'a"b': 'a"b', "...": "'...'", "---": "'---'",
    "--- a": "'--- a'", "~a": "~a", "nO": "nO", "y": '"y"', "N": '"N"', "a\tb": '"a\\tb"', "<<": "<<",
    "\u00e9": "\u00e9", "\U0001f600": '"\\U0001F600"', "a\rb": '"a\\rb"', "\x1b[0m": '"\\e[0m"', "%a": "'%a'",
    "{a": "'{a'", "`a": "'`a'", "a: b": "'a: b'", "it's": "it's", "1.2.3": "1.2.3", "._5": "._5",
}  # fmt: skip

WRITTEN = QUOTING | {
    "": '""',
    "plain": "plain",
    "yes": '"yes"',
    "y": '"y"',
    "null": '"null"',
    "~": '"~"',
    "1": '"1"',
    "0o17": '"0o17"',
    "1_000": '"1_000"',
    "1e3": '"1e3"',
    "22:22": '"22:22"',
    "2001-01-01": '"2001-01-01"',
    ".inf": '".inf"',
    "<<": "<<",
    "a: b": "'a: b'",
    "a #b": "'a #b'",
    "a#b": "a#b",
    "-": "'-'",
    "- a": "'- a'",
    "-a": "-a",
    "?\xa0(": "?\xa0(",
    " a": "' a'",
    "it's": "it's",
    "'it": "'''it'",
    "[a": "'[a'",
    "a\tb": '"a\\tb"',
    "\x1b[0m": '"\\e[0m"',
    "\ufeffab\xa0": '"\\uFEFF\\x61\\x62\\_"',
    "😀": '"\\U0001F600"',
    "\x7f": '"\\x7F"',
    "a\u2028b": "'a\u2028    b'",
    "\u2028 b": '"\\L b"',
}


@pytest.mark.parametrize("value", WRITTEN)
def test_a_text_stands_plain_only_where_it_reads_back(value: str) -> None:
    assert writing.to_yaml({"a": {"b": value}}) == f"a:\n  b: {WRITTEN[value]}\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb", "a: |-\n  a\n  b\n"),
        ("a\nb\n", "a: |\n  a\n  b\n"),
        ("a\n\n", "a: |+\n  a\n\n"),
        (" a\nb", "a: |2-\n   a\n  b\n"),
        ("\n", "a: |2+\n\n"),
        ("a \nb", 'a: "a \\nb"\n'),
        ("a\x1b\nb", 'a: "a\\e\\nb"\n'),
    ],
)
def test_a_text_of_several_lines_is_a_block(value: str, expected: str) -> None:
    assert writing.to_yaml({"a": value}) == expected


def test_long_keys_and_keys_of_several_lines_stand_after_a_question_mark() -> None:
    made: shapes.Document = {"k" * 128: 1, "k" * 129: {"a": 1}, "a\nb": [["x"]], "c\rd": "v"}
    assert writing.to_yaml(made) == (
        f'{"k" * 128}: 1\n? {"k" * 129}\n: a: 1\n? |-\n  a\n  b\n: - - x\n? "c\\rd"\n: v\n'
    )


def test_lists_stand_further_in_and_empty_ones_on_the_line() -> None:
    made: shapes.Document = {"a": [{"b": 1, "c": []}, [1, {"d": None}], {}], "e": 1.5e6, "f": True}
    assert writing.to_yaml(made) == (
        "a:\n  - b: 1\n    c: []\n  - - 1\n    - d: null\n  - {}\ne: 1.5e+06\nf: true\n"
    )
    assert writing.to_yaml({}) == "{}\n"


def test_json_escapes_markup_and_writes_numbers_as_go_does() -> None:
    made: shapes.Document = {
        "a": '<&>\u2028\x00\x7f\b"\\',
        "b": [1.0, 0.5, 1e21, 1e-7, 1e20, -0.0],
        "c": {},
        "d": [],
    }
    assert writing.to_compact_json(made) == (
        '{"a":"\\u003c\\u0026\\u003e\\u2028\\u0000\x7f\\b\\"\\\\",'
        '"b":[1,0.5,1e+21,1e-7,100000000000000000000,-0],"c":{},"d":[]}'
    )
    assert writing.to_json({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert writing.to_wide_json({"a": "<&>\\u003c"}) == '{\n    "a": "<&>\\\\u003c"\n}'


def test_json_has_no_word_for_infinity() -> None:
    with pytest.raises(errors.IcError, match=r"\+Inf"):
        writing.to_json({"a": float("inf")})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.sampled_from(sorted(WRITTEN)).filter(lambda text: "\u2028" not in text),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text("abyn01-_. :#", min_size=1, max_size=6), below, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), values, min_size=1, max_size=3))
def test_what_is_written_reads_back(made: dict[str, Any]) -> None:
    report = tree.Report()
    (node,) = document.parse(writing.to_yaml(made).encode(), "x", report)
    assert not report.failed
    assert tree.plain(node) == made
    assert json.loads(writing.to_json(made)) == made
    assert json.loads(writing.to_compact_json(made)) == made


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff")))
def test_every_text_reads_back(value: str) -> None:
    (found,) = document.parse(writing.to_yaml({"K": value}).encode(), "f", tree.Report())
    assert tree.plain(found) == {"K": value}
