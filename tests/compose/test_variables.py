"""Which variables texts use: as `config --variables` of docker compose 2.40.3 finds them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import variables


# Recorded from docker compose 2.40.3: name, default, alternate, required.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", [("A", "", "", False)]),
        ("a${A}b", [("A", "", "", False)]),
        ("${A:-b}", [("A", "b", "", False)]),
        ("${A-b}", [("A", "b", "", False)]),
        ("${A:+b}", [("A", "", "b", False)]),
        ("${A+b}", [("A", "", "b", False)]),
        ("${A:?b}", [("A", "", "", True)]),
        ("${A?}", [("A", "", "", True)]),
        ("$$A", []),
        ("$", []),
        ("$1", []),
        ("${1X}", [("", "", "", False)]),
        ("${A:-b\nc}", [("", "", "", False)]),
        ("${A:-${B:-c}}", [("A", "${B:-c}", "", False), ("B", "c", "", False)]),
        ("${A:+$B} $C", [("A", "", "$B", False), ("B", "", "", False), ("C", "", "", False)]),
        ("${A:-{x}}", [("A", "{x}", "", False)]),
    ],
)
def test_every_form_is_found(text: str, expected: list[tuple[str, str, str, bool]]) -> None:
    found = [
        (one.name, one.default, one.alternate, one.required) for one in variables.of_text(text)
    ]
    assert found == expected


def test_of_braces_on_one_line_the_first_use_counts_and_else_the_last() -> None:
    assert variables.of_tree({"a": "${A:-1} ${A:-2}"})["A"].default == "1"
    assert variables.of_tree({"a": "${A:-1}\n${A:-2}"})["A"].default == "2"
    assert variables.of_tree({"b": ["${A:-1}"], "c": {"d": "${A:-2}"}, "e": 3})["A"].default == "2"


@given(st.text("${}:-+?AB \n", max_size=40))
def test_any_text_is_read(text: str) -> None:
    assert all(isinstance(one.name, str) for one in variables.of_text(text))


def test_a_long_line_takes_time_in_proportion() -> None:
    begin = time.perf_counter()
    assert len(variables.of_text("${A:-b} " * 20_000)) == 20_000
    assert len(variables.of_text("${A:-" * 20_000 + "}")) > 64
    assert time.perf_counter() - begin < 5
