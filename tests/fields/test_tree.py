"""The readers that all sections share: types, spellings, unknown keys and their nearest neighbours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.fields import tree
from tests.compose import stacks
from tests.fields import reading


def value(text: str) -> tree.Node:
    found = stacks.node(f"k: {text}").child("k")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("written", "result"),
    [
        ("true", True),
        ("'True'", True),
        ("false", False),
        ("'FALSE'", False),
        ("yes", True),
        ("Off", False),
    ],
)
def test_booleans_are_read_in_every_spelling(*, written: str, result: bool) -> None:
    assert tree.boolean(value(written), "k", tree.Report()) is result


def test_the_old_spellings_of_booleans_are_warned_about() -> None:
    report = tree.Report()
    tree.boolean(value("yes"), "k", report)
    assert reading.said(report) == ["W_BOOLEAN 4 k: 'yes' is read as true; write true"]


@pytest.mark.parametrize("written", ["maybe", "1", "[]", "null"])
def test_what_is_no_boolean(written: str) -> None:
    report = tree.Report()
    assert tree.boolean(value(written), "k", report, default=True) is True
    assert report.diagnostics[0].code == "E_TYPE"


@pytest.mark.parametrize(
    ("written", "result"), [("3", 3), ("'3'", 3), ("3.0", 3), ("-1", -1), ("0x10", 16)]
)
def test_whole_numbers(written: str, result: int) -> None:
    assert tree.integer(value(written), "k", tree.Report()) == result


@pytest.mark.parametrize(
    "written", ["x", "3.5", "true", "''", "'3 '", "'" + "9" * 30 + "'", "null"]
)
def test_what_is_no_whole_number(written: str) -> None:
    report = tree.Report()
    assert tree.integer(value(written), "k", report) is None
    assert report.diagnostics[0].code == "E_TYPE"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("5", 'E_TYPE 4 k must be a string, not a number (put it in quotes: "5")'),
        ("true", 'E_TYPE 4 k must be a string, not a boolean (put it in quotes: "true")'),
        ("null", "E_TYPE 4 k must be a string, not null"),
        ("[]", "E_TYPE 4 k must be a string, not an array"),
        ("{}", "E_TYPE 4 k must be a string, not a mapping"),
    ],
)
def test_what_is_no_text_is_told_how_to_become_one(written: str, message: str) -> None:
    report = tree.Report()
    assert tree.text(value(written), "k", report) is None
    assert reading.said(report) == [message]


def test_what_is_absent_is_no_fault() -> None:
    report = tree.Report()
    assert tree.text(None, "k", report) is None
    assert tree.integer(None, "k", report) is None
    assert tree.boolean(None, "k", report) is False
    assert (tree.items(None, "k", report), tree.entries(None, "k", report)) == ([], {})
    assert (tree.pairs(None, "k", report), tree.strings(None, "k", report)) == ({}, ())
    assert report.diagnostics == []


@pytest.mark.parametrize(
    ("written", "result"),
    [
        ("{a: 1, b: , c: 'x', d: true}", {"a": "1", "b": None, "c": "x", "d": "true"}),
        ("[a=1, b, c=, d=x=y]", {"a": "1", "b": None, "c": "", "d": "x=y"}),
        ("[a=1, a=2]", {"a": "2"}),
    ],
)
def test_pairs_as_a_mapping_and_as_a_list(written: str, result: dict[str, str | None]) -> None:
    assert tree.pairs(value(written), "k", tree.Report()) == result


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("x", "E_TYPE 4 k must be a mapping or an array, not a string"),
        (
            "[1]",
            'E_TYPE 5 k[0] must be a string of the form NAME=VALUE, not a number (put it in quotes: "1")',
        ),
        ("{a: [1]}", "E_TYPE 8 k.a must be a string, a number or a boolean, not an array"),
        ("{'': 1}", "E_VALUE 5 k has an empty name"),
        ('["a\\n=1"]', "E_VALUE_CTRL 5 k[0]: the name 'a\\n' holds the control character U+000A"),
    ],
)
def test_what_are_no_pairs(written: str, message: str) -> None:
    report = tree.Report()
    tree.pairs(value(written), "k", report)
    assert reading.said(report) == [message]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("enviroment", "did you mean 'environment'?"),
        ("depends-on", "did you mean 'depends_on'?"),
        ("Image", "did you mean 'image'?"),
        ("port", "did you mean 'ports'?"),
        ("xy", ""),
        ("q" * 200, ""),
    ],
)
def test_the_nearest_known_word(given: str, hint: str) -> None:
    assert tree.nearest_hint(given, ["image", "ports", "environment", "depends_on"]) == hint


def test_a_single_letter_is_near_to_none_but_itself() -> None:
    assert tree.nearest_hint("c", ["a", "cd"]) == ""
    assert tree.nearest_hint("A", ["b", "a"]) == "did you mean 'a'?"


@given(st.text(alphabet="abc", min_size=5, max_size=60), st.integers(0, 4), st.sampled_from("xyz"))
def test_one_wrong_letter_is_always_found(word: str, at: int, wrong: str) -> None:
    typo = word[:at] + wrong + word[at + 1 :]
    assert tree.nearest_hint(typo, [word]) == f"did you mean {word!r}?"


def test_a_warning_said_once_is_not_said_again() -> None:
    report = tree.Report()
    for _ in range(3):
        report.warn("W_X", "x", None, once="x")
        report.warn("W_Y", "y", None)
    assert [one.code for one in report.diagnostics] == ["W_X", "W_Y", "W_Y", "W_Y"]
    assert not report.failed


def test_where_a_value_could_not_be_made_no_second_fault_is_told() -> None:
    report = tree.Report()
    at = errors.Position("f", 1, 1)
    report.error("E_A", "first", at)
    report.faulty.add(at)
    report.error("E_B", "second", at)
    assert [one.code for one in report.diagnostics] == ["E_A"]


@pytest.mark.parametrize(
    ("text", "strict", "words"),
    [
        ("a\tb\nc\x1b", False, ""),
        ("a\0", False, "a NUL character"),
        ("\ud800", False, "the lone surrogate U+D800"),
        ("a\x1b", True, "the control character U+001B"),
        ("\x85", True, "the control character U+0085"),
        ("\u00e9", True, ""),
    ],
)
def test_characters_that_may_not_stand(*, text: str, strict: bool, words: str) -> None:
    assert tree.control_fault(text, strict=strict) == words


def test_extensions_are_plain_values() -> None:
    node = value("{x-a: {b: [1, null, x]}, image: y}")
    assert tree.extensions(node) == {"x-a": {"b": [1, None, "x"]}}
