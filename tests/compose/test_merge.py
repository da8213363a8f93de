"""Several files become one: by shape, by rule, and with marks. Rows were checked against docker compose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import merge
from ic.fields import tree
from tests.compose import stacks


def merged(*texts: str) -> object:
    """The service `w` of several files, each given as the YAML of that service."""
    report = tree.Report()
    base: tree.Node | None = None
    for text in texts:
        root = stacks.node(f"services:\n  w:\n    {text}\n", report)
        base = merge.merge(base, root, report)
    assert base is not None
    assert report.diagnostics == []
    return tree.plain(merge.unique(base))["services"]["w"]  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("image: a", "image: b", {"image": "b"}),
        ("image: a", "image:", {"image": "a"}),
        ("command: [a, b]", "command: c d", {"command": "c d"}),
        ("command: [a]", "command:", {"command": None}),
        ("entrypoint: a", "entrypoint: []", {"entrypoint": []}),
        ("environment: {A: 1, B: 2}", "environment: [B=3, C]", {"environment": ["A=1", "B=3", "C"]}),
        ("environment: [A=1, B]", "environment: {B: 2, A: }", {"environment": ["A", "B=2"]}),
        ("environment: [A=1]", "environment:", {"environment": ["A=1"]}),
        ("labels: {a: 1}", "labels: [a=2, b]", {"labels": ["a=2", "b"]}),
        ("deploy: {labels: {a: 1}}", "deploy: {labels: [b=2]}", {"deploy": {"labels": ["a=1", "b=2"]}}),
        ("ports: ['80']", "ports: ['81']", {"ports": ["80", "81"]}),
        ("networks: [a]", "networks: {b: {aliases: [x]}}", {"networks": {"a": None, "b": {"aliases": ["x"]}}}),
        ("networks: {a: {aliases: [x]}}", "networks: [a]", {"networks": {"a": {"aliases": ["x"]}}}),
        ("networks: {a: {aliases: [x]}}", "networks: {a: {aliases: [y]}}", {"networks": {"a": {"aliases": ["x", "y"]}}}),
        ("tmpfs: /a", "tmpfs: [/b]", {"tmpfs": ["/a", "/b"]}),
        ("env_file: a", "env_file: [b]", {"env_file": ["a", "b"]}),
        ("scale: 1", "scale: 2", {"scale": 2}),
        (
            "depends_on: {b: {condition: service_completed_successfully}}", "depends_on: [b]",
            {"depends_on": {"b": {"condition": "service_started", "required": True}}},
        ),
        (
            "depends_on: [b]", "depends_on: {b: {required: false}}",
            {"depends_on": {"b": {"condition": "service_started", "required": False}}},
        ),
        ("ports: ['80']", "ports: !override ['81']", {"ports": ["81"]}),
        ("ports: ['80']\n    user: x", "ports: !reset []", {"user": "x"}),
        ("environment: {A: 1, B: 2}", "environment: {A: !reset null}", {"environment": ["B=2"]}),
        ("environment: {A: 1}", "environment: !override {C: 1}", {"environment": {"C": 1}}),
        ("restart: always", "restart: !reset null", {}),
        ("extra_hosts: {a: [1.1.1.1, 2.2.2.2]}", "extra_hosts: [a=2.2.2.2, 'b:3.3.3.3']", {"extra_hosts": ["a=1.1.1.1", "a=2.2.2.2", "b:3.3.3.3"]}),
        ("logging: {driver: a, options: {x: 1}}", "logging: {options: {y: 2}}", {"logging": {"driver": "a", "options": {"x": 1, "y": 2}}}),
        ("logging: {driver: a, options: {x: 1}}", "logging: {driver: b}", {"logging": {"driver": "b"}}),
        ("build: .", "build: {target: x}", {"build": {"context": ".", "target": "x"}}),
        ("build: {context: a, args: {A: 1.5, B: true, C: }}", "build: {context: b, args: [C=2]}", {"build": {"context": "b", "args": ["A=1.5", "B=true", "C=2"]}}),
        ("ulimits: {nofile: {soft: 1, hard: 2}}", "ulimits: {nofile: 3, nproc: 4}", {"ulimits": {"nofile": 3, "nproc": 4}}),
        ("healthcheck: {test: [CMD, a], retries: 1}", "healthcheck: {test: b}", {"healthcheck": {"test": "b", "retries": 1}}),
        ("models: [a]", "models: {a: {model_var: M}, b: }", {"models": {"a": {"model_var": "M"}, "b": None}}),
        ("cap_add: [A, B]", "cap_add: [B, C]", {"cap_add": ["A", "B", "C"]}),
        ("security_opt: [a]", "security_opt: [b]", {"security_opt": ["a", "b"]}),
        ("volumes: ['a1:/x:ro', '/y1']", "volumes: ['b1:/x']", {"volumes": ["b1:/x", "/y1"]}),
        ("secrets: [s]", "secrets: [{source: t, target: /run/secrets/s}]", {"secrets": [{"source": "t", "target": "/run/secrets/s"}]}),
        ("configs: [s]", "configs: [{source: t, target: /s}]", {"configs": [{"source": "t", "target": "/s"}]}),
        ("devices: ['/a:/x']", "devices: ['/b:/x:r']", {"devices": ["/b:/x:r"]}),
        ("expose: [80, '81']", "expose: ['80', 82]", {"expose": ["80", "81", 82]}),
        ("dns: 1.1.1.1", "dns: [1.1.1.1, 2.2.2.2]", {"dns": ["1.1.1.1", "2.2.2.2"]}),
        ("env_file: [{path: a}]", "env_file: [a, b]", {"env_file": ["a", "b"]}),
        ("x-a: {b: [1]}", "x-a: {b: [2], c: 3}", {"x-a": {"b": [1, 2], "c": 3}}),
    ],
)  # fmt: skip
def test_two_files(base: str, over: str, result: object) -> None:
    assert merged(base, over) == result


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        (["10.0.0.0/24"], ["10.0.0.0/24"], ["10.0.0.0/24"]),
        (["10.0.0.0/24"], ["10.1.0.0/24"], ["10.1.0.0/24"]),
        (["10.0.0.0/24", "10.1.0.0/24"], ["10.1.0.0/24"], ["10.1.0.0/24"]),
    ],
)
def test_pools_of_addresses(base: list[str], over: list[str], result: list[str]) -> None:
    report = tree.Report()
    found: tree.Node | None = None
    for mark, subnets in (("gateway", base), ("ip_range", over)):
        pools = ", ".join(f"{{subnet: {one}, {mark}: x}}" for one in subnets)
        root = stacks.node(f"networks: {{n: {{ipam: {{config: [{pools}]}}}}}}")
        found = merge.merge(found, root, report)
    assert found is not None
    config = tree.plain(found)["networks"]["n"]["ipam"]["config"]  # pyright: ignore[reportIndexIssue]
    assert [one["subnet"] for one in config] == result
    assert all("ip_range" in one for one in config)


def test_a_mark_in_the_only_file() -> None:
    assert merged("labels: {a: !reset null, b: c}") == {"labels": {"b": "c"}}
    assert merged("ports: [!reset '80', '81']") == {"ports": ["81"]}
    assert merged("ports: !override ['81']") == {"ports": ["81"]}


def test_a_service_that_a_later_file_resets_is_gone() -> None:
    report = tree.Report()
    base = merge.merge(None, stacks.node("services: {a: {image: x}, b: {image: y}}"), report)
    over = stacks.node("services: {a: !reset null}")
    assert tree.plain(merge.merge(base, over, report)) == {"services": {"b": {"image": "y"}}}


@pytest.mark.parametrize(
    ("base", "over", "words"),
    [
        ("ports: ['80']", "ports: x", "services.w.ports is a string here and an array at f:3:12"),
        ("x-a: {b: 1}", "x-a: [2]", "services.w.x-a is an array here and a mapping at f:3:10"),
    ],
)
def test_shapes_that_do_not_fit_are_told_with_both_places(base: str, over: str, words: str) -> None:
    report = tree.Report()
    first = merge.merge(None, stacks.node(f"services:\n  w:\n    {base}\n"), report)
    merge.merge(first, stacks.node(f"services:\n  w:\n    {over}\n"), report)
    assert [(one.code, one.summary) for one in report.diagnostics] == [("E_MODEL_CONFLICT", words)]


def test_positions_are_those_of_the_file_that_wrote_the_value() -> None:
    report = tree.Report()
    base = merge.merge(None, stacks.node("a: {b: 1, c: 2}"), report)
    both = merge.merge(base, stacks.node("\na: {b: 3}"), report).child("a")
    assert both is not None
    assert (str(both.key_position("b")), str(both.key_position("c"))) == ("f:2:5", "f:1:11")


def trees() -> st.SearchStrategy[str]:
    """Flow YAML of small mappings with the same shape at each path."""
    scalars = st.sampled_from(["1", "x", "true"])
    lists = st.lists(scalars, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    inner = st.fixed_dictionaries({}, optional={"s": scalars, "t": scalars, "l": lists})
    outer = st.fixed_dictionaries(
        {}, optional={"m": inner.map(flow), "n": inner.map(flow), "s": scalars}
    )
    return outer.map(flow)


def flow(values: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def overlay(base: tree.Node, over: tree.Node) -> tree.Node:
    report = tree.Report()
    found = merge.merge(base, over, report)
    assert report.diagnostics == []
    return found


@given(trees(), trees(), trees())
def test_merging_is_associative(a: str, b: str, c: str) -> None:
    one, two, three = stacks.node(a), stacks.node(b), stacks.node(c)
    left = overlay(overlay(one, two), three)
    right = overlay(one, overlay(two, three))
    assert tree.plain(left) == tree.plain(right)


@given(trees())
def test_an_empty_file_changes_nothing(text: str) -> None:
    root = stacks.node(text)
    assert tree.plain(overlay(root, stacks.node("{}"))) == tree.plain(root)
    assert tree.plain(overlay(stacks.node("{}"), root)) == tree.plain(root)


@given(trees(), trees())
def test_merging_changes_neither_side(a: str, b: str) -> None:
    one, two = stacks.node(a), stacks.node(b)
    before = tree.plain(one), tree.plain(two)
    overlay(one, two)
    assert (tree.plain(one), tree.plain(two)) == before
