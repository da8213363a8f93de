"""What is told of a text unread: far too many values for sure, and never of one that has few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.compose import census, document
from ic.fields import tree

LIMIT = 20


def tells(text: str) -> bool:
    return census.is_beyond(text.encode(), LIMIT)


@pytest.mark.parametrize(
    "line",
    [
        "k{}: v\n", '"k{}": v\n', "'k{}': 'v'\n", "k{}:\n", "\u00e9{}: v\r\n", "? k{}\n: v\n", "k{}: !t v # c\n",
        "- a{}\n", "-\n", "- - a\n", "--- a\n", "---\n", "k{}: [a, b]\n", '"k{}": "a: \\" b" # [, "\n',
    ],
)  # fmt: skip
def test_lines_that_are_entries_are_counted(line: str) -> None:
    assert tells("".join(line.format(at) for at in range(LIMIT + 1)))
    assert not tells("".join(line.format(at) for at in range(LIMIT // 3 - 1)))


@pytest.mark.parametrize(
    "item", ["a,", "'a, b', ", '"a, \\"b",', "[], ", "a:b, ", "*a, ", "&a b, ", "\n a,", "\n  [a],"]
)
@pytest.mark.parametrize(
    "head", ["x: [", "x:\n  y:\n    - z: [", "[", "y: |\n  it's, [\nx: &x [", "'x': !t ["]
)
def test_commas_of_flow_collections_are_counted(head: str, item: str) -> None:
    assert tells(head + item * (LIMIT + 2) + "b]\n")
    assert tells(head + item * (LIMIT + 2))


@pytest.mark.parametrize(
    "text",
    [
        "x: |\n" + "  k: v, w\n" * 99,
        "x: |\r\n" + "  - v\r\n" * 99,
        "x: >2-  # k\n" + "  - v\n" * 99,
        "- k: !t |\n" + "   k: v\n" * 99,
        "x: '" + "k: v\n\n  " * 99 + "'\n",
        'x: "' + "- v\\\" '\n  " * 99 + '"\n',
        "x: " + "a, " * 99 + "a\n",
        "x: a [" + ", " * 99 + "\n",
        "x: '" + "[a, b], " * 99 + "'\n",
        "# a: b, [\n" * 99 + "x: 1\n",
        "\n" * 99 + "x: 1\n",
        "x: [a, b]\ny: " + "a, " * 99 + "\n",
        "x: [\n  a,\n  b]\ny: " + "a, " * 99 + "\n",
        "x: a\n\n" + "  - v\n" * 99,
        "x: |\x85" + "  - v\n" * 99,
        "x: |\r" + "  - v\n" * 99,
        "k: v\n" * (LIMIT // 2) + "x: '\n" + "\n  k: v" * 99 + "'\n",
        "k: v\n" * (LIMIT // 2) + "x: |\n" + "  k: v\n" * 99,
        "- a\n" + "  - b\n" * 99,
        "x: a\n" + " - b\n" * 99,
        "x: it's [\ny: 'a\n" + "\n- b, c" * 99 + "'\n",
        "{\n" + ",\n".join(f'  "k{at}": [1]' for at in range(LIMIT)) + "\n}\n",
    ],
)
def test_what_only_looks_like_values_is_not(text: str) -> None:
    assert not tells(text)


@given(st.lists(st.sampled_from([
    "k: v\n", "- a\n", "  ", "[", "]", "{", "}", ", ", "a", "'", '"', "\\", "#", " # c\n", "\n", "|\n", "x: >\n",
    "x: [", "q{}: ", "- ", "? ", "---\n", "&a ", "!t ", ": ",
]), max_size=60))  # fmt: skip
def test_no_text_has_fewer_values_than_told(pieces: list[str]) -> None:
    text = "".join(piece.replace("{}", str(at)) for at, piece in enumerate(pieces))
    report = tree.Report()
    try:
        found = document.parse(text.encode(), "f", report)
    except errors.ComposeError:
        return  # what is refused anyway may be refused for another reason
    if report.failed or not all(isinstance(one.data, dict) for one in found):
        return
    held = sum(map(values, found))
    assert not census.is_beyond(text.encode(), held)


def values(node: tree.Node) -> int:
    """A node and all that is below it."""
    data = node.data
    below = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return 1 + sum(map(values, below))


def test_a_count_goes_up_to_the_limit_and_is_never_too_high() -> None:
    for text, held in (
        ("k: v\n" * 9, 9),
        ("- 'a'\n" * 9, 9),
        ("x: [a, b]\n", 2),
        ("x: |\n  k: v\n", 1),
    ):
        assert census.at_least(text.encode(), LIMIT) == held
    assert census.at_least(b"k: v\n" * 999, LIMIT) > LIMIT
    assert census.most(b"a, b\n") == 2
