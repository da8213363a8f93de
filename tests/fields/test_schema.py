"""What the specification allows at a place: held against a tree, and walked by the stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.fields import schema, tree
from tests.compose import stacks

INNER = schema.mapping({"size": schema.whole(low=1, high=9), "word": schema.word("one", "two")})
KEY = schema.mapping(
    {
        "text": schema.text("^[a-z]+$", told="has other letters", near=("hello",)),
        "flag": schema.flag(),
        "late": schema.late_flag(),
        "many": schema.texts(),
        "inner": INNER,
        "items": schema.listing(INNER),
        "named": schema.named(INNER, schema.NAME),
        "pairs": schema.pairs(),
        "loose": schema.named(INNER, schema.NAME, loose=True),
        "closed": schema.mapping({"a": schema.text()}, extensions=False, required=("a",)),
    },
    newer=("future",),
)


def said(text: str) -> list[str]:
    report = tree.Report()
    schema.validate(stacks.node(text), KEY, report)
    return [f"{one.code} {one.summary} {one.hint}".strip() for one in report.diagnostics]


@pytest.mark.parametrize(
    "text",
    [
        "{}", "text: abc", "flag: true", "flag: maybe", "many: [a, b]", "inner: {size: 9, word: two}",
        "inner: {size: 3.0}", "items: [{size: 1}, {}]", "named: {a.b-c_1: {size: 1}}", "x-any: [1]", "loose: {'a b': {any: 1}}",
        "inner: {x-any: 1}", "pairs: {a: 1, b: null, c: true}", "pairs: [a=1, b]", "closed: {a: b}",
    ],
)  # fmt: skip
def test_what_is_allowed(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "E_TYPE the top level must be a mapping, not a string"),
        ("text: 1", 'E_TYPE text must be a string, not a number put it in quotes: "1"'),
        ("text: helloO", "E_VALUE text: 'helloO' has other letters did you mean 'hello'?"),
        ("flag: 1", "E_TYPE flag must be a boolean, not a number"),
        ("many: a", "E_TYPE many must be an array, not a string"),
        ("many: [a, b, a]", "E_VALUE many: items 0 and 2 are equal and must be unique; the first stands at f:1:8"),
        ("inner: {size: 10}", "E_VALUE inner.size must be less than or equal to 9, not 10"),
        ("inner: {size: 0}", "E_VALUE inner.size must be greater than or equal to 1, not 0"),
        ("inner: {size: 1.5}", "E_TYPE inner.size must be an integer, not a number"),
        ("inner: {wrd: one}", "E_UNKNOWN_KEY inner has the unknown key 'wrd', which is not allowed did you mean 'word'?"),
        ("items: [{}, {word: tow}]", "E_VALUE items[1].word must be one of one, two, not 'tow' did you mean 'two'?"),
        ("named: {'a b': {}}", "E_NAME named has the name 'a b': letters, digits, '.', '_' and '-' are allowed"),
        ("loose: {'a b': x}", "E_TYPE loose.a b must be a mapping, not a string"),
        ("named: {'': {}}", "E_NAME named has an empty name"),
        ("pairs: {'': 1}", "E_NAME pairs has an empty name"),
        ("pairs: {a: []}", "E_TYPE pairs.a must be a number, a boolean or a string, not an array"),
        ("closed: {a: b, x-any: 1}", "E_UNKNOWN_KEY closed has the unknown key 'x-any', which is not allowed"),
        ("inner: {size: 1e21}", "E_TYPE inner.size must be an integer, not a number"),
        ("closed: {}", "E_MISSING closed: the required property 'a' is missing add a:"),
        ("future: 1", "E_NEWER_KEY the top level has the key 'future', which is newer than docker compose 2.40.3"),
    ],
)  # fmt: skip
def test_what_is_not(text: str, message: str) -> None:
    assert said(text) == [message]


def test_everything_wrong_is_told_in_one_go() -> None:
    assert len(said("{text: 1, flag: [], inner: {size: 0, wrd: x}, named: {'a b': {}, c: 1}}")) == 6


def test_a_key_with_some_things_changed_is_another_one() -> None:
    other = KEY.but(newer=(), loose=True)
    assert (other.loose, KEY.loose, other.keys is KEY.keys) == (True, False, True)
    assert schema.text("^a$").but(pending=True).pattern == schema.text("^a$").pattern


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("FALSE", False), ("Yes", True), ("off", False), ("n", False)],
)
def test_words_for_booleans(*, text: str, value: bool) -> None:
    assert schema.to_boolean(text) is value


@pytest.mark.parametrize("text", ["", "maybe", "1", "t"])
def test_other_words_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        schema.to_boolean(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_round_trip(number: int) -> None:
    assert schema.to_integer(str(number)) == number


@pytest.mark.parametrize("text", ["", "1.5", "1_000", " 1", "0x1", "1e3", str(2**63), "9" * 30])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="integer"):
        schema.to_integer(text)


@given(st.floats(allow_nan=False))
def test_numbers_round_trip(number: float) -> None:
    assert schema.to_float(repr(number)) == number


@pytest.mark.parametrize("text", ["", "1,5", "1.5.2", "half", "1e", "9" * 500])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        schema.to_float(text)


def test_a_stage_goes_only_where_it_has_something_to_do() -> None:
    seen: list[str] = []
    root = stacks.node("{text: a, flag: 'yes', inner: {size: '1', word: one}, many: [a]}")

    def one(node: tree.Node, key: schema.Key, where: str) -> tree.Node:
        assert key.cast is not None
        seen.append(where)
        return tree.Node(key.cast(str(node.data)), node.position)

    made = schema.rewrite(root, KEY, "cast", one)
    assert seen == ["flag", "inner.size"]
    assert tree.plain(made) == {
        "text": "a", "flag": True, "inner": {"size": 1, "word": "one"}, "many": ["a"],
    }  # fmt: skip
    assert tree.plain(root) == {
        "text": "a", "flag": "yes", "inner": {"size": "1", "word": "one"}, "many": ["a"],
    }  # fmt: skip
    assert made.child("many") is root.child("many")
    assert schema.rewrite(root, KEY, "index", one) is root


def test_paths_of_keys() -> None:
    assert list(schema.keys_of(schema.mapping({"a": INNER, "b": schema.listing(INNER)}))) == [
        "a", "a.size", "a.word", "b", "b[].size", "b[].word",
    ]  # fmt: skip
    assert list(schema.keys_of(schema.named(INNER))) == ["*.size", "*.word"]
