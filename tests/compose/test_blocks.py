"""Line by line or by the parser: the same events, whatever the text; what is odd is left to the parser."""

import glob
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ic import errors
from ic.compose import blocks, document
from ic.fields import tree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

EVERYDAY = [
    "a: 1\nb:\nc: x y  # d\n\n# e\nd: http://x:80/y\n",
    "services:\n  web:\n    image: a\n    ports: [1, '2', \"3\"]\n  db: {image: b, labels: {c: d}}\n",
    "a:\n- b\n-\n- - c\n  - d: 1\n    e: 2\n-   f: 3\n",
    "a: &x {k: v}\nb: *x\nc:\n  <<: [*x, *x]\nd: &y\n  e: 1\n",
    "a: |\n  one\n   two\n\n  three\n\nb: |-\n  x\n\nc: |+\n  y\n\n\nd: 1\n",
    "\"a b\": 1\n'c': \"d\\n\\\"\\\\\"\ne: 'it''s'\n",
    "---\na: 1\n",
    "a: $b\nc: ${D:-e}\nf: -g\nh: '#'\ni: a#b\nj: {}\nk: []\n",
    "a: [[b, c], {d: [e]}]\nf: {g: 'h', \"i\": *j}\n",
]

ODD = [
    "a: b\n  c\n", "a: >\n  b\n", "a: !x b\n", "a:\tb\n", "a: 1\n---\nb: 1\n", "a: 'b\n  c'\n", "a: [b,\n  c]\n",
    "? a\n: b\n", "a: b: c\n", "a: [b, c\n", "a: {b}\n", "a: [b: c]\n", "a: |2\n   b\n", "a: \"\\x41\"\n",
    "- a\nb: c\n", "a: 1\n b: 2\n", "%YAML 1.1\n---\na: 1\n", "a: *b c\n", "a: b\r\n", "\ufeffa: b\n", "", "# c\n",
    "a: @b\n", "a: `b`\n", "a: %b\n", "a: [b,, c]\n", "a: [b], c\n", "a: 'b' c\n", "a: &b &c d\n", "a", "a: |\n  b",
]  # fmt: skip


def plain(events: list[blocks.Event]) -> list[tuple[object, ...]]:
    """Events without the places of what has no place in a tree."""
    placeless = (blocks.END, blocks.DOCUMENT, blocks.DOCUMENT_END)
    return [one[:1] if one[0] in placeless else one for one in events]


def read(text: str) -> list[tuple[object, ...]] | None:
    """The events of a text read line by line; None when it is for the parser."""
    try:
        return plain(list(blocks.read(text)))
    except blocks.Odd:
        return None


def parsed(text: str) -> list[tuple[object, ...]]:
    return plain(list(document.events(text)))


@pytest.mark.parametrize("text", EVERYDAY)
def test_everyday_texts_are_read_line_by_line_to_the_same_events(text: str) -> None:
    quick = read(text)
    assert quick is not None
    assert quick == parsed(text)


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_left_to_the_parser(text: str) -> None:
    assert read(text) is None


def test_the_examples_of_the_project_are_everyday() -> None:
    paths = glob.glob(f"{ROOT}/examples/*/compose.yaml")
    assert paths
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        quick = read(text)
        if quick is not None:
            assert quick == parsed(text)


_BITS = st.sampled_from(
    ["a", "b: ", "key:", "\n", "\n  ", "\n    ", "\n- ", "- ", "'", '"', "[", "]", "{", "}", ", ", "#", " #", " ",
     "&x ", "*x", "|\n", "|-\n", ">\n", "? ", "!t ", "\\n", "<<: *x", ":", "-", "$", "é", "1", "\n\n", "---\n",
     "a: [b, 'c']", "{d: e}", "f: |\n  g\n", "''", "%", "x: &x {y: z}\n"]
)  # fmt: skip


@given(
    st.sampled_from(EVERYDAY),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), _BITS), max_size=5),
)
@example(EVERYDAY[0], [])
def test_any_text_read_line_by_line_is_read_alike_by_the_parser(
    text: str, edits: list[tuple[int, int, str]]
) -> None:
    for at, dropped, bit in edits:
        where = at % (len(text) + 1)
        text = text[:where] + bit + text[where + dropped :]
    quick = read(text)
    if quick is not None:
        assert quick == parsed(text)


@given(st.lists(_BITS, max_size=20).map("".join))
def test_any_pieces_read_line_by_line_are_read_alike_by_the_parser(text: str) -> None:
    quick = read(text)
    if quick is not None:
        assert quick == parsed(text)


def test_positions_and_faults_are_the_same_either_way() -> None:
    text = "services:\n  web: {image: a}\n  web:\n    image: b\n    x: 2024-01-01\n"
    faults: list[list[str]] = []
    for one in (text, text + "y: !!str z\n"):  # the tag is for the parser
        report = tree.Report()
        document.parse(one.encode(), "f", report)
        faults.append([str(fault) for fault in report.diagnostics])
    assert faults[0] == faults[1]
    assert errors.Position("f", 3, 3) in [None, *_places(text)]


def _places(text: str) -> list[errors.Position | None]:
    report = tree.Report()
    document.parse(text.encode(), "f", report)
    return [one.position for one in report.diagnostics]
