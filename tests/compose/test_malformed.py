"""What is told about texts that are no YAML: the place to look at, in words, and what to do."""

from __future__ import annotations

import pytest

from ic import errors
from ic.compose import document
from ic.fields import tree

UNFIT = "this line does not fit the lines above it"


@pytest.mark.parametrize(
    ("text", "place", "reason", "hint"),
    [
        ("a:\n\tb: c\n", "2:1", "a tab cannot indent a line", "indent with spaces"),
        ("a:\n  -\tb\n", "2:4", "a tab cannot start a token", "write spaces"),
        ("a: @b\n", "1:4", "a value cannot begin with '@'", "put it in quotes"),
        ("a: *\n", "1:4", "'*' begins an alias, and no name follows", "put it in quotes"),
        ("a: &\n", "1:4", "'&' begins an anchor, and no name follows", "put it in quotes"),
        ("a: b: c\n", "1:5", "a second ': ' in one line", "put the value in quotes when the ':' is a part of it"),
        ("a:\n  b: c\n   d: e\n", "3:4", "this line goes on with the text of the line before, and has a ':'", "it is indented by 3 spaces, line 2 by 2"),
        ("a:\n  b:c\n\n  d: e\n", "4:3", "this line goes on with the text of the line before, and has a ':'", "line 2: write a space behind the ':'"),
        ("a:\n  b:\n    c: d\n   e: f\n", "4:4", UNFIT, "it is indented by 3 spaces, the mapping from line 2 on by 2, line 3 by 4"),
        ("a:\n  b: c\n d: e\n", "3:2", UNFIT, "it is indented by 1 space, the mapping from line 1 on by 0, line 2 by 2"),
        ("a:\n  b:\n      - c\n    - d\n", "4:5", UNFIT, "it is indented by 4 spaces, the mapping from line 2 on by 2, line 3 by 6"),
        ("a:\n  b:\n    - c\n  - d\n", "4:3", UNFIT, "it is indented by 2 spaces, line 3 by 4"),
        ("a: b\n- c\n", "2:1", "an item of a list in a mapping", "line 1 begins a mapping: its lines are of the form `key: value`"),
        ("- a\nb: c\n", "2:1", "this line is not an item of the list above it", "line 1 begins a list: every line of it begins with '- '"),
        ("  a: b\nc: d\n", "2:1", UNFIT, "it is indented by 0 spaces, line 1 by 2"),
        ("a: \"b\" c\n", "1:8", "a value ends here, and something follows", "put all of it in quotes"),
        ("a: - b\n", "1:4", "an item of a list cannot begin here", "begin it on a line of its own; or put the text in quotes"),
        ("a: 'b\nc: d\n", "1:4", "the quote that begins here is never closed", ""),
        ('a: "\\q"\n', "1:6", "\\q means nothing within double quotes", "write \\\\ for a backslash, or put the text in single quotes"),
        ("a: [b\n", "1:4", "the '[' that begins here is never closed", ""),
        ("a: {b: c\nd: e\n", "2:2", "',' or '}' is expected here", "the '{' on line 1 is not closed yet"),
        ("a: [b,\n", "2:1", "the file ends within '[' or '{'", ""),
        ("a: b\nc\nd: e\n", "2:1", "this line has no ':' behind its key", "write `key: value`, with a space behind the ':'"),
    ],
)  # fmt: skip
def test_a_fault_is_told_where_a_person_looks_for_it(
    text: str, place: str, reason: str, hint: str
) -> None:
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(text.encode(), "f", tree.Report())
    (one,) = caught.value.diagnostics
    assert (str(one.position), one.summary, one.hint) == (
        f"f:{place}",
        f"this is not YAML: {reason}",
        hint,
    )


def test_what_has_no_words_of_its_own_is_told_as_the_parser_does() -> None:
    with pytest.raises(errors.ComposeError) as caught:
        document.parse(b"a: |x\n", "f", tree.Report())
    assert "while scanning a block scalar expected" in caught.value.diagnostics[0].summary
