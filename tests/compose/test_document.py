"""YAML to a tree with positions: scalars as docker compose resolves them, faults with their place."""

import contextlib
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.compose import document
from ic.fields import tree
from tests.compose import stacks

# What docker compose 2.40.3 makes of spellings: as a value of an environment (`text`, or refused), and in an
# extension (`value` of its JSON, or `printed` in YAML where JSON has no word for it).
with open(os.path.join(os.path.dirname(__file__), "scalars.json"), encoding="utf-8") as _file:
    SCALARS: list[dict[str, object]] = json.load(_file)


@pytest.mark.parametrize("row", SCALARS, ids=[str(row["written"]) for row in SCALARS])
def test_scalars_are_resolved_as_docker_compose_resolves_them(row: dict[str, object]) -> None:
    report = tree.Report()
    text = f"environment:\n  V: {row['written']}\n"
    try:
        value = stacks.node(text, report).child("environment")
    except errors.ComposeError:
        assert row.get("refused")
        return
    found = tree.pairs(value, "environment", report)
    assert report.failed == row.get("refused", False)
    if not report.failed:
        assert found == {"V": row["text"]}


@pytest.mark.parametrize(
    "row", [row for row in SCALARS if "value" in row], ids=lambda row: str(row["written"])
)
def test_scalars_of_extensions_keep_their_type(row: dict[str, object]) -> None:
    report = tree.Report()
    value = stacks.node(f"x-v: {row['written']}\n", report).child("x-v")
    assert value is not None
    assert not report.failed
    found, wanted = tree.plain(value), row["value"]
    assert found == (float(wanted) if isinstance(found, float) else wanted)  # pyright: ignore[reportArgumentType]
    assert isinstance(found, bool) is isinstance(wanted, bool)


@pytest.mark.parametrize(
    "written",
    [
        "2020-01-01",
        "2020-01-01T10:00:00Z",
        "2020-1-2 10:00:00.5",
        "!!timestamp 2020-01-01",
        "! 2020-01-01",
    ],
)
def test_a_bare_date_is_refused(written: str) -> None:
    report = tree.Report()
    stacks.node(f"k: {written}\n", report)
    wrong = [one for one in report.diagnostics if one.severity == "error"]
    assert [(one.code, str(one.position)) for one in wrong] == [("E_YAML_DATE", "f:1:4")]


def test_a_date_in_an_extension_is_text() -> None:
    assert stacks.plain("x-since: {at: 2020-1-1}\n") == {"x-since": {"at": "2020-01-01T00:00:00Z"}}


def test_every_node_and_key_remembers_where_it_stands() -> None:
    root = stacks.node("services:\n  web:\n    ports: [80,\n      '81']\n")
    web = root.child("services").child("web")  # pyright: ignore[reportOptionalMemberAccess]
    assert web is not None
    assert str(web.key_position("ports")) == "f:3:5"
    ports = web.child("ports")
    assert ports is not None
    assert isinstance(ports.data, list)
    assert [str(one.position) for one in ports.data] == ["f:3:13", "f:4:7"]


def test_aliases_share_their_node_and_merge_keys_keep_the_position_of_their_source() -> None:
    root = stacks.node("x-a: &a {image: b}\nw:\n  <<: *a\n  user: c\nv: *a\n")
    merged = root.child("w")
    assert merged is not None
    assert tree.plain(merged) == {"user": "c", "image": "b"}
    assert str(merged.key_position("image")) == "f:1:10"
    assert root.child("v") is root.child("x-a")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{<<: [{a: 1}, {a: 2, b: 2}], c: 3}", {"a": 1, "b": 2, "c": 3}),
        ("{a: 0, <<: {a: 1}}", {"a": 0}),
        ("{<<: {a: {x: 1}}, a: {y: 2}}", {"a": {"y": 2}}),
        ('{"<<": 1}', {"<<": 1}),
        ("{<<: {<<: {a: 1}, b: 2}}", {"a": 1, "b": 2}),
    ],
)
def test_merge_keys_are_shallow_and_the_first_source_wins(text: str, value: object) -> None:
    assert stacks.plain(text) == value


def test_marks_of_reset_and_override() -> None:
    root = stacks.node("a: !reset null\nb: !override [1]\nc: !override {d: 1}\ne: !reset x\n")
    assert isinstance(root.data, dict)
    assert [one.mark for one in root.data.values()] == ["reset", "override", "override", "reset"]


def test_a_reset_inside_of_an_anchor_counts_there_alone() -> None:
    root = stacks.node("x: &x {a: !reset [], b: 1}\nw: {<<: *x}\nv: *x\nr: &r !reset []\ns: *r\n")
    found = {key: tree.plain(root.child(key)) for key in "xwv"}  # pyright: ignore[reportArgumentType]
    assert found == {"x": {"a": [], "b": 1}, "w": {"b": 1}, "v": {"b": 1}}
    assert root.child("s").mark == "reset"  # pyright: ignore[reportOptionalMemberAccess]


def test_several_documents_in_one_file() -> None:
    found = document.parse(b"a: 1\n---\nb: 2\n", "f", tree.Report())
    assert [tree.plain(one) for one in found] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa: b\n",
        "a: b\n".encode("utf-16"),
        b"a: b\r\n",
        b"---\na: b\n...\n",
        b"%YAML 1.1\n---\na: b\n",
    ],
)
def test_encodings_and_line_ends(content: bytes) -> None:
    (found,) = document.parse(content, "f", tree.Report())
    assert tree.plain(found) == {"a": "b"}


@pytest.mark.parametrize(
    ("text", "code", "position"),
    [
        ("a: b\n c: d\n", "E_YAML", "2:2"),
        ("a: 'b\n", "E_YAML", "1:4"),
        ("a: {b\n", "E_YAML", "1:4"),
        ("a: *b\n", "E_YAML", "1:4"),
        ("a: &a [*a]\n", "E_YAML", "1:8"),
        ("w: &w {<<: *w}\n", "E_YAML", "1:12"),
        ("a: {<<: 1}\n", "E_YAML", "1:9"),
        ("%YAML 1.2\n---\na: b\n", "E_YAML", "1:1"),
        ('a: "\\/"\n', "E_YAML", "1:6"),
        ("a: b\x01\n", "E_YAML", "1:5"),
        ("? [a]\n: b\n", "E_YAML_KEY", "1:3"),
        ("a:\n\tb: c\n", "E_YAML", "2:1"),
    ],
)
def test_broken_yaml_is_refused_with_its_place(text: str, code: str, position: str) -> None:
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(text.encode(), "f", tree.Report())
    (one,) = caught.value.diagnostics
    assert (one.code, str(one.position)) == (code, f"f:{position}")


@pytest.mark.parametrize(
    ("text", "code", "position"),
    [
        ("a: 1\nb: 2\na: 3\n", "E_YAML_DUPKEY", "3:1"),
        ("a: {<<: {b: 1}, <<: {c: 1}}\n", "E_YAML_DUPKEY", "1:17"),
        ("1: a\n", "E_YAML_KEY", "1:1"),
        ("true: a\n", "E_YAML_KEY", "1:1"),
        ("~: a\n", "E_YAML_KEY", "1:1"),
        ("a: !!bool yes\n", "E_YAML_TAG", "1:4"),
        ("a: !!int x\n", "E_YAML_TAG", "1:4"),
        ("a: !!binary '*'\n", "E_YAML_TAG", "1:4"),
        ('a: "b\\0c"\n', "E_VALUE_CTRL", "1:4"),
        ('a: "\\ud800"\n', "E_VALUE_CTRL", "1:4"),
        ('"a\\e": b\n', "E_VALUE_CTRL", "1:1"),
        ('"a\\n": b\n', "E_VALUE_CTRL", "1:1"),
    ],
)
def test_faults_that_leave_a_tree_are_collected(text: str, code: str, position: str) -> None:
    report = tree.Report()
    document.parse(text.encode(), "f", report)
    assert [(one.code, str(one.position)) for one in report.diagnostics] == [
        (code, f"f:{position}")
    ]


def test_the_message_of_a_control_character_names_the_field() -> None:
    report = tree.Report()
    stacks.node('services: {web: {environment: {A: "x\\0"}}}\n', report)
    assert "services.web.environment.A holds a NUL" in report.diagnostics[0].summary


def test_all_duplicate_keys_are_told_and_where_the_first_stands() -> None:
    report = tree.Report()
    stacks.node("a: 1\nb: 1\na: 2\nb: 2\n", report)
    assert [one.summary for one in report.diagnostics] == [
        "duplicate key 'a': it is already defined on line 1",
        "duplicate key 'b': it is already defined on line 2",
    ]


def test_an_unknown_tag_is_ignored_with_one_warning() -> None:
    report = tree.Report()
    assert tree.plain(stacks.node("a: !x 1\nb: !x [2]\nc: !x {d: 3}\n", report)) == {
        "a": "1", "b": [2], "c": {"d": 3},
    }  # fmt: skip
    assert [(one.severity, one.code) for one in report.diagnostics] == [("warning", "W_YAML_TAG")]


def test_bytes_that_are_no_utf_8_are_refused_where_they_stand() -> None:
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(b"a: b\nc: \xff\n", "f", tree.Report())
    assert str(caught.value.diagnostics[0].position) == "f:2:4"


def bomb(levels: int) -> str:
    """Each level holds the one before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb(9),
        "x: " + "[" * 10_000,
        "x: " + "{a: " * 10_000,
        "- " * 5_000 + "x",
        "a: &a {}\n"
        + "".join(f"b{i}: &b{i} [*{'a' if not i else f'b{i - 1}'}]\n" for i in range(200)),
    ],
    ids=["bomb", "lists", "maps", "dashes", "chain"],
)
def test_bombs_are_refused_soon(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(text.encode(), "f", tree.Report())
    assert caught.value.code == "E_YAML_LIMIT"
    assert time.thread_time() - started < 1.0


def test_a_file_of_too_many_bytes_is_refused_unread() -> None:
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(b"a" * (document.SIZE_LIMIT + 1), "f", tree.Report())
    assert caught.value.code == "E_YAML_LIMIT"


def test_a_hundred_levels_are_read() -> None:
    assert stacks.node("x: " + "[" * 100 + "]" * 100)


@given(st.text(alphabet="abc: -[]{}#&*!|>'\"\\\n\t<@%?,01.~", max_size=60))
def test_any_text_gives_a_tree_or_our_own_error(text: str) -> None:
    report = tree.Report()
    with contextlib.suppress(errors.ComposeError):
        for one in document.parse(text.encode(), "f", report):
            assert str(one.position).startswith("f:")
            tree.plain(one)


@given(
    st.dictionaries(st.text(alphabet="abcxyz", min_size=1), st.text(alphabet="ab 1:#'\"\\\n\u00e9"))
)
def test_double_quoted_text_reads_back(values: dict[str, str]) -> None:
    quoted = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for key, value in values.items()
    }
    text = "".join(f'{key}: "{value}"\n' for key, value in quoted.items())
    assert stacks.plain(text or "{}") == values


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{i}: v\n" for i in range(400_000)),
        "services:\n" + "".join(f"  s{i}: {{image: a}}\n" for i in range(200_000)),
        "x:\n" + "- a\n" * 500_000,
        "x: [" + "a," * 1_000_000 + "a]\n",
    ],
    ids=["keys", "services", "items", "flow"],
)
def test_far_too_many_values_are_refused_at_once(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(errors.ComposeError, match="more than 150000 values"):
        document.parse(text.encode(), "f", tree.Report())
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "x: |\n" + "  k: v\n" * 400_000,
        "x: '" + "k: v\n\n  " * 200_000 + "'\n",
        "x: " + "a, " * 400_000 + "a\n",
        "\n# a: b" * 300_000 + "\nx: 1\n",
    ],
    ids=["literal", "quoted", "plain", "comments"],
)
def test_what_only_looks_like_many_values_is_taken(text: str) -> None:
    (found,) = document.parse(text.encode(), "f", tree.Report())
    assert isinstance(found.data, dict)
    assert list(found.data) == ["x"]
