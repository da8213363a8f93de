"""The rules of merging, one by one; tests/compose/test_merge.py has them by key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic import errors
from ic.fields import merging, schema, tree
from tests.compose import stacks

PLAIN = schema.text()


def merged(rule: schema.Merge, base: str, over: str) -> object:
    report = tree.Report()
    found = rule(stacks.node(base), stacks.node(over), PLAIN, "w", report)
    assert report.diagnostics == []
    return tree.plain(found)


@pytest.mark.parametrize(
    ("base", "over", "made"),
    [
        ("{b: 1, a: 2}", "[c=3]", ["a=2", "b=1", "c=3"]),
        ("{a: 1.5, b: true, c: , d: [x, y]}", "[]", ["a=1.5", "b=true", "c", "d=x", "d=y"]),
        ("a", "b", ["a", "b"]),
        ("[a]", "null", ["a"]),
        ("{a: 1e21, b: 0.5}", "{}", ["a=1e+21", "b=0.5"]),
    ],
)
def test_sequences(base: str, over: str, made: list[str]) -> None:
    assert merged(merging.sequences, base, over) == made


def test_hosts_are_not_repeated() -> None:
    assert merged(merging.hosts, "[a=1, b=2]", "{b: '2', c: '3'}") == ["a=1", "b=2", "c=3"]


def test_null_replaces_where_the_later_stands_alone() -> None:
    assert merged(merging.replace, "[a]", "null") is None
    assert merged(merging.names, "[a]", "null") == {"a": None}
    assert merged(merging.logging, "{driver: a}", "null") == {"driver": "a"}
    assert merged(merging.build, "a", "null") == {"context": "a"}


@pytest.mark.parametrize(("node", "mark"), [("a=b=c", "a"), ("a", "a"), ("1", None), ("[a]", None)])
def test_entries_by_name(node: str, mark: str | None) -> None:
    assert merging.by_name(stacks.node(node)) == mark


@pytest.mark.parametrize(("node", "mark"), [("80", "80"), ("'80'", "80"), ("true", None)])
def test_entries_by_text(node: str, mark: str | None) -> None:
    assert merging.by_text(stacks.node(node)) == mark


@pytest.mark.parametrize(
    ("node", "mark"), [("a", "a"), ("{path: a}", "a"), ("{}", None), ("1", None)]
)
def test_entries_by_a_key(node: str, mark: str | None) -> None:
    assert merging.by_key("path")(stacks.node(node)) == mark


TEXTS = st.lists(st.sampled_from(["a=1", "b", "c=2", "a=3"]), max_size=4)


@given(TEXTS, TEXTS, TEXTS)
def test_sequences_are_merged_in_any_grouping(a: list[str], b: list[str], c: list[str]) -> None:
    one, two, three = (stacks.node(str(texts)) for texts in (a, b, c))

    def both(first: tree.Node, second: tree.Node) -> tree.Node:
        return merging.sequences(first, second, PLAIN, "w", tree.Report())

    assert tree.plain(both(both(one, two), three)) == tree.plain(both(one, both(two, three)))


POOL = schema.listing(
    schema.mapping({"subnet": schema.text(), "gateway": schema.text(), "ip_range": schema.text()})
)
pools = st.lists(
    st.fixed_dictionaries(
        {}, optional={name: st.sampled_from("abc") for name in ("subnet", "gateway", "ip_range")}
    ),
    max_size=4,
)


def one_by_one(base: list[dict[str, str]], over: list[dict[str, str]]) -> list[dict[str, str]]:
    """Every pool of the base through every later one, as docker compose does it, and as slowly."""
    found: list[dict[str, str]] = []
    for first in base:
        pool = dict(first)
        for second in over:
            if second.get("subnet") != pool.get("subnet") and all(
                one.get("subnet") != second.get("subnet") for one in found
            ):
                found.append(second)
                continue
            pool.update(second)  # wherever it was put already
            same = [at for at, one in enumerate(found) if one.get("subnet") == pool.get("subnet")]
            if same:
                found[same[0]] = pool
            else:
                found.append(pool)
    return found


@given(pools, pools)
def test_pools_are_as_if_each_went_through_all_later_ones(
    base: list[dict[str, str]], over: list[dict[str, str]]
) -> None:
    first, second = (stacks.node(json.dumps(one)) for one in (base, over))
    made = merging.subnets(first, second, POOL, "n", tree.Report())
    assert tree.plain(made) == one_by_one(base, over)


def test_many_pools_without_a_subnet_are_refused_not_waited_for() -> None:
    many = stacks.node("[" + ", ".join(f"{{gateway: '{at}'}}" for at in range(1000)) + "]")
    with pytest.raises(errors.ComposeError) as caught:
        merging.subnets(many, many, POOL, "networks.n", tree.Report())
    assert caught.value.code == "E_LIMIT"
