"""Trees with one place changed share everything else, and compare by value and type."""

import pytest

from ic.compose import graft
from ic.fields import tree
from tests.compose import stacks


def test_what_is_not_changed_is_the_same_node() -> None:
    node = stacks.node("a: {b: 1}\nc: {d: 2}\n")
    new = graft.changed(node, "a", lambda one: graft.without(one, "b"))
    assert tree.plain(new) == {"a": {}, "c": {"d": 2}}
    assert new.child("c") is node.child("c")
    assert tree.plain(node) == {"a": {"b": 1}, "c": {"d": 2}}
    assert graft.changed(node, "a", lambda one: one) is node
    assert graft.changed(node, "nope", lambda one: graft.without(one, "b")) is node
    assert graft.without(node, "nope") is node


def test_a_new_key_stands_where_it_is_told_or_where_its_value_does() -> None:
    node = stacks.node("a: 1\nb: 2\n")
    value = stacks.node("x")
    told = graft.with_child(node, "c", value, node.key_position("b"))
    assert told.key_position("c").line == 2
    assert graft.with_child(node, "c", value).key_position("c") == value.position
    assert graft.with_child(node, "a", value).key_position("a").line == 1


def test_marks_are_forgotten_and_what_is_reset_goes() -> None:
    node = stacks.node("a: !reset x\nb: [1, !reset 2, 3]\nc: !override {d: 2, e: 1}\nf: 1\n")
    assert tree.plain(graft.without_marks(node)) == {"b": [1, 3], "c": {"d": 2, "e": 1}, "f": 1}
    clean = graft.without_marks(node)
    assert all(
        one.mark == "" for one in (clean, *(clean.data if isinstance(clean.data, list) else []))
    )
    assert graft.without_marks(clean) is clean


def test_marks_have_paths_and_paths_can_be_left_out() -> None:
    node = stacks.node("a: {b: !reset 1, c: {d: !override [1], e: 2}}\nf: !reset {g: !reset 1}\n")
    assert graft.marked(node) == [("a", "b"), ("a", "c", "d"), ("f",)]
    assert tree.plain(graft.without_path(node, ("a", "c", "d"))) == {
        "a": {"b": "1", "c": {"e": 2}},
        "f": {"g": "1"},
    }
    assert graft.without_path(node, ("a", "nope", "d")) is node


def test_the_part_that_another_tree_speaks_of_is_two_levels_deep_and_can_be_put_back() -> None:
    whole = stacks.node("{a: {b: {c: 1}, d: {e: 2}}, f: {g: 3}, h: 4}")
    like = stacks.node("{a: {d: {z: 0}, y: 0}, h: 5, x: 0}")
    part = graft.part(whole, like)
    assert tree.plain(part) == {"a": {"d": {"e": 2}}, "h": 4}
    assert graft.with_part(whole, part, part) is whole
    new = stacks.node("{a: {d: [6]}, h: 7}")
    made = graft.with_part(whole, part, new)
    assert tree.plain(made) == {"a": {"b": {"c": 1}, "d": [6]}, "f": {"g": 3}, "h": 7}
    assert list(tree.plain(made)) == ["a", "f", "h"]  # pyright: ignore[reportArgumentType]
    assert made.child("f") is whole.child("f")


def test_a_part_that_is_the_whole_is_replaced_by_what_was_made_of_it() -> None:
    whole = stacks.node("[1, 2]")
    assert graft.part(whole, stacks.node("{a: 1}")) is whole
    new = stacks.node("{a: 1}")
    assert graft.with_part(whole, whole, new) is new


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("{a: [1, x], b: {}}", "{b: {}, a: [1, x]}", True),
        ("1", "'1'", False),
        ("1", "true", False),
        ("1", "1.0", False),
        ("[1, 2]", "[2, 1]", False),
        ("{a: 1}", "{b: 1}", False),
        ("[]", "{}", False),
        ("null", "''", False),
    ],
)
def test_equality_is_by_value_and_type(one: str, other: str, *, same: bool) -> None:
    assert graft.same(stacks.node(one), stacks.node(other)) is same
