"""Short forms become long ones, and stay what they are when they are long already."""

from collections.abc import Callable

import pytest

from ic.fields import forms, tree
from tests.compose import stacks

Form = Callable[[tree.Node, str, tree.Report], tree.Node]

ROWS: list[tuple[Form, str, object]] = [
    (forms.as_list, "a", ["a"]),
    (forms.as_list, "[a, b]", ["a", "b"]),
    (forms.without_empty, "[a, '', b]", ["a", "b"]),
    (forms.without_empty, "''", []),
    (forms.as_mapping, "[a, b]", {"a": None, "b": None}),
    (forms.as_mapping, "{a: 1}", {"a": 1}),
    (forms.as_text, "true", "true"),
    (forms.as_text, "mode=max", "mode=max"),
    (forms.grant, "s", {"source": "s"}),
    (forms.grant, "{source: s, mode: 1}", {"source": "s", "mode": 1}),
    (forms.external, "{external: true}", {"external": True}),
    (forms.external, "{external: {name: x}}", {"external": True, "name": "x"}),
    (forms.external, "{external: {name: x}, name: x}", {"external": True, "name": "x"}),
    (forms.external, "{external: {}}", {"external": True}),
    (forms.request, "{driver: d}", {"driver": "d", "count": "all"}),
    (forms.request, "{count: 1}", {"count": 1}),
    (forms.request, "{device_ids: [a]}", {"device_ids": ["a"]}),
]


@pytest.mark.parametrize(("form", "text", "made"), ROWS)
def test_long_forms(form: Form, text: str, made: object) -> None:
    node = stacks.node(text)
    found = form(node, "w", tree.Report())
    assert tree.plain(found) == made
    assert tree.plain(form(found, "w", tree.Report())) == made
    assert tree.plain(node) == tree.plain(stacks.node(text))


def test_an_old_name_that_differs_is_an_error_at_both_places() -> None:
    report = tree.Report()
    forms.external(stacks.node("{name: x, external: {name: y}}"), "networks.n", report)
    assert [(str(one), one.hint) for one in report.diagnostics] == [
        ("f:1:21: networks.n.external.name is deprecated; use name", ""),
        (
            "f:1:28: networks.n: name and external.name conflict: they differ",
            "use name; it stands at f:1:8",
        ),
    ]


def test_what_is_made_stands_where_the_short_form_stood() -> None:
    made = forms.grant(stacks.node("  s"), "w", tree.Report())
    source = made.child("source")
    assert source is not None
    assert str(made.position) == str(source.position) == "f:1:3"
    assert str(made.key_position("source")) == "f:1:3"


def test_only_what_is_missing_is_added() -> None:
    node = stacks.node("{a: 1}")
    assert forms.having(node, a=2) is node
    assert tree.plain(forms.having(node, a=2, b=3)) == {"a": 1, "b": 3}
