"""Normal form: what the files imply is written down. Rows were checked against docker compose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.compose import normal
from ic.fields import tree
from tests.compose import stacks


def service(body: str, env: dict[str, str] | None = None) -> object:
    """The service `w` of a stack in normal form, without its networks."""
    root = normal.normalize(stacks.node(f"services: {{w: {{{body}}}}}"), "shop", env or {})
    found = tree.plain(root)["services"]["w"]  # pyright: ignore[reportIndexIssue]
    del found["networks"]
    return found


STARTED = {"condition": "service_started", "restart": True, "required": True}


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ("pull_policy: if_not_present", {"pull_policy": "missing"}),
        ("build: {}", {"build": {"context": ".", "dockerfile": "Dockerfile"}}),
        ("build: {dockerfile_inline: x}", {"build": {"dockerfile_inline": "x", "context": "."}}),
        ("build: {context: a, dockerfile: b}", {"build": {"context": "a", "dockerfile": "b"}}),
        ("environment: {A: , B: , C: 1}", {"environment": {"A": "a", "B": None, "C": 1}}),
        ("environment: [A, B, C=1]", {"environment": ["A=a", "B", "C=1"]}),
        ("volumes: [{target: /a/../b//}]", {"volumes": [{"target": "/b"}]}),
        ("links: [a, 'b:c']", {"links": ["a", "b:c"], "depends_on": {"a": STARTED, "b": STARTED}}),
        ("ipc: service:a", {"ipc": "service:a", "depends_on": {"a": STARTED}}),
        ("pid: host", {"pid": "host"}),
        (
            "volumes_from: ['a:ro', 'container:x']",
            {"volumes_from": ["a:ro", "container:x"], "depends_on": {"a": STARTED | {"restart": False}}},
        ),
        (
            "links: [a], depends_on: {a: {condition: service_healthy}}",
            {"links": ["a"], "depends_on": {"a": {"condition": "service_healthy"}}},
        ),
    ],
)  # fmt: skip
def test_what_a_service_implies(body: str, made: object) -> None:
    assert service(body, {"A": "a"}) == made


def test_build_arguments_without_a_value_anywhere_are_gone() -> None:
    args = "build: {context: ., dockerfile: d, args: %s}"
    for given_, made in (("{A: , B: , C: 1}", {"A": "a", "C": 1}), ("[A, B, C=1]", ["A=a", "C=1"])):
        found = service(args % given_, {"A": "a"})
        assert found == {"build": {"context": ".", "dockerfile": "d", "args": made}}


@pytest.mark.parametrize(
    ("body", "networks"),
    [
        ("image: a", {"default": None}),
        ("networks: {}", {"default": None}),
        ("networks: {n: null}", {"n": None}),
        ("network_mode: host", None),
        ("provider: {type: x}", None),
    ],
)
def test_who_is_on_the_default_network(body: str, networks: object) -> None:
    root = tree.plain(normal.normalize(stacks.node(f"services: {{w: {{{body}}}}}"), "shop", {}))
    assert isinstance(root, dict)
    assert root["services"]["w"].get("networks") == networks
    expected = {"default": {"name": "shop_default"}} if networks == {"default": None} else None
    assert root.get("networks") == expected


def test_networks_volumes_configs_and_secrets_get_their_names() -> None:
    text = (
        "networks: {a: , b: {external: true}, c: {name: x}}\nvolumes: {a: {}}\n"
        "configs: {a: {file: f}}\nsecrets: {a: {external: true, name: y}}\nmodels: {m: {model: z}}\n"
    )
    assert tree.plain(normal.normalize(stacks.node(text), "shop", {})) == {
        "name": "shop",
        "networks": {
            "a": {"name": "shop_a"}, "b": {"external": True, "name": "b"}, "c": {"name": "x"},
        },
        "volumes": {"a": {"name": "shop_a"}},
        "configs": {"a": {"file": "f", "name": "shop_a"}},
        "secrets": {"a": {"external": True, "name": "y"}},
        "models": {"m": {"model": "z"}},
    }  # fmt: skip


def test_what_was_given_stays_as_it_is() -> None:
    text = "services: {w: {image: a, build: {}, links: [b]}}"
    root = stacks.node(text)
    normal.normalize(root, "shop", {})
    assert tree.plain(root) == tree.plain(stacks.node(text))


@given(
    st.lists(
        st.sampled_from(
            ["image: a", "build: {}", "links: [a]", "environment: [A]", "networks: {n: }",
             "network_mode: host", "volumes: [{target: /a/}]", "volumes_from: [b]"]
        ),
        unique=True,
    )
)  # fmt: skip
def test_normal_form_is_its_own_normal_form(lines: list[str]) -> None:
    root = stacks.node(f"services: {{w: {{{', '.join(lines)}}}}}")
    once = normal.normalize(root, "shop", {"A": "a"})
    assert tree.plain(normal.normalize(once, "shop", {"A": "a"})) == tree.plain(once)
