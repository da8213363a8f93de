"""What `ic config` prints: as docker compose 2.40.3 prints it, and it reads back to the same stack."""

import json
import pathlib
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ic.compose import canonical, document, model
from ic.fields import image, lifecycle, networking, placement, process, storage, tree
from tests.compose import stacks

SOURCE = r"""
x-common: &common {restart: always, labels: [z=1, "a"]}
services:
  web10: {image: b}
  web:
    <<: *common
    image: nginx
    command: echo "a b" $$c
    entrypoint: []
    environment: {A: 1, B: , C: 1e6, E: "", F: "yes", H: "a: b", I: "one\ntwo\n", J: "$$x", "N": 2}
    ports: ["8080:80", "127.0.0.1:53:53/udp", "3000"]
    expose: [80]
    volumes: [data:/data, /anon, "./c:/c:ro,z", {type: tmpfs, target: /t, tmpfs: {size: 64m, mode: 0o700}}]
    tmpfs: /run:size=64m
    depends_on: {db: {condition: service_completed_successfully, restart: true}}
    networks: {front: {aliases: [z, a]}, back: }
    scale: 1
    stop_grace_period: 1m30s
    x-foo: {b: [1], a: "012"}
  web9: {image: b}
  db:
    image: db
    deploy: {replicas: 2}
    user: "1000"
networks:
  front: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.0.0.1}]}, internal: true}
  back: {external: true}
  unused: {}
volumes:
  data: {labels: {x: y}}
x-top: 1
"""

# Recorded from docker compose 2.40.3 for SOURCE, in the directory /srv.
YAML = """\
name: shop
services:
  db:
    deploy:
      replicas: 2
    image: db
    networks:
      default: null
    user: "1000"
  web:
    command:
      - echo
      - a b
      - $$c
    depends_on:
      db:
        condition: service_completed_successfully
        restart: true
        required: true
    entrypoint: []
    environment:
      A: "1"
      B: null
      C: "1e+06"
      E: ""
      F: "yes"
      H: 'a: b'
      I: |
        one
        two
      J: $$x
      "N": "2"
    expose:
      - "80"
    image: nginx
    labels:
      a: ""
      z: "1"
    networks:
      back: null
      front:
        aliases:
          - z
          - a
    ports:
      - mode: ingress
        target: 80
        published: "8080"
        protocol: tcp
      - mode: ingress
        host_ip: 127.0.0.1
        target: 53
        published: "53"
        protocol: udp
      - mode: ingress
        target: 3000
        protocol: tcp
    restart: always
    scale: 1
    stop_grace_period: 1m30s
    tmpfs:
      - /run:size=64m
    volumes:
      - type: volume
        source: data
        target: /data
        volume: {}
      - type: volume
        target: /anon
        volume: {}
      - type: bind
        source: /srv/c
        target: /c
        read_only: true
        bind:
          selinux: z
          create_host_path: true
      - type: tmpfs
        target: /t
        tmpfs:
          size: "67108864"
          mode: 448
    x-foo:
      a: "012"
      b:
        - 1
  web9:
    image: b
    networks:
      default: null
  web10:
    image: b
    networks:
      default: null
networks:
  back:
    name: back
    external: true
  default:
    name: shop_default
  front:
    name: shop_front
    ipam:
      config:
        - subnet: 10.0.0.0/24
          gateway: 10.0.0.1
    internal: true
volumes:
  data:
    name: shop_data
    labels:
      x: "y"
x-common:
  labels:
    - z=1
    - a
  restart: always
x-top: 1
"""


def stack_of(root: pathlib.Path, text: str) -> model.Stack:
    return stacks.load(
        root, text, project_directory="/srv", for_running=False, files=("compose.yaml",)
    )


def test_yaml_is_byte_for_byte_that_of_docker_compose(tmp_path: pathlib.Path) -> None:
    assert canonical.to_yaml(stack_of(tmp_path, SOURCE)) == YAML


def test_json_has_the_same_content_with_its_own_order(tmp_path: pathlib.Path) -> None:
    text = canonical.to_json(stack_of(tmp_path, SOURCE))
    found = json.loads(text)
    assert list(found) == ["name", "networks", "services", "volumes", "x-common", "x-top"]
    assert list(found["services"]) == ["db", "web", "web10", "web9"]
    assert found["services"]["db"] == {
        "command": None,
        "deploy": {"replicas": 2, "resources": {}, "placement": {}},
        "entrypoint": None,
        "image": "db",
        "networks": {"default": None},
        "user": "1000",
    }
    assert "x-foo" not in found["services"]["web"]
    assert found["networks"]["default"] == {"name": "shop_default", "ipam": {}}
    assert not text.endswith("\n")


def test_json_escapes_what_docker_compose_escapes(tmp_path: pathlib.Path) -> None:
    text = canonical.to_json(
        stack_of(tmp_path, 'services: {a: {image: x, command: ["<&>\\u2028\\u00e9"]}}')
    )
    assert "\\u003c\\u0026\\u003e\\u2028\u00e9" in text


def same(stack: model.Stack) -> model.Stack:
    """A stack without what is not part of its meaning: positions, files, where external names come from."""
    services = {name: without_source(one) for name, one in stack.services.items()}
    networks = {key: named(one, stack.name) for key, one in stack.networks.items()}
    volumes = {key: named(one, stack.name) for key, one in stack.volumes.items()}
    return msgspec.structs.replace(
        stack,
        services=services,
        networks=networks,
        volumes=volumes,
        files=(),
        positions={},
        diagnostics=(),
    )


def without_source(service: model.Service) -> model.Service:
    bare = msgspec.structs.replace(service.process, env_files=())
    return msgspec.structs.replace(service, process=bare)


def named(one: Any, stack: str) -> Any:
    default = one.key if one.external else f"{stack}_{one.key}"
    return msgspec.structs.replace(one, name=one.name or default)


def test_the_output_reads_back_to_the_same_stack(tmp_path: pathlib.Path) -> None:
    first = stack_of(tmp_path, SOURCE)
    second = stack_of(tmp_path, canonical.to_yaml(first))
    assert same(second) == same(first)
    assert canonical.to_yaml(second) == canonical.to_yaml(first)


# --- scalars ------------------------------------------------------------------------------------------

# Recorded from docker compose 2.40.3: a text, and how its YAML writes it after `K:`.
QUOTING = {
    "22:22": '"22:22"', "017": '"017"', "true": '"true"', "yes": '"yes"', "Off": '"Off"', "": '""',
    "null": '"null"', "~": '"~"', "1e3": '"1e3"', "2020-01-01": '"2020-01-01"', "2020-13-01": "2020-13-01",
    "a b": "a b", "a #b": "'a #b'", "a#b": "a#b", "#a": "'#a'", "@a": "'@a'", "*a": "'*a'",
    "- a": "'- a'", "-a": "-a", "a ": "'a '", " a": "' a'", "?": "'?'", "? a": "'? a'", "-": "'-'",
    "a:": "'a:'", "a:b c": "a:b c", "a :b": "a :b", "=": "=", "[a": "'[a'", "a]": "a]", "a,b": "a,b",
    "!a": "'!a'", "|": "'|'", '"': "'\"'", "'": "''''", 'a"b': 'a"b', "...": "'...'", "---": "'---'",
    "--- a": "'--- a'", "~a": "~a", "nO": "nO", "y": '"y"', "N": '"N"', "a\tb": '"a\\tb"', "<<": "<<",
    "\u00e9": "\u00e9", "\U0001f600": '"\\U0001F600"', "a\rb": '"a\\rb"', "\x1b[0m": '"\\e[0m"', "%a": "'%a'",
    "{a": "'{a'", "`a": "'`a'", "a: b": "'a: b'", "it's": "it's", "1.2.3": "1.2.3", "._5": "._5",
}  # fmt: skip


SECTIONS: dict[str, Any] = {
    "image": image.Image(),
    "process": process.Process(),
    "networking": networking.Networking(),
    "storage": storage.Storage(),
    "lifecycle": lifecycle.Lifecycle(),
    "placement": placement.Placement(),
}


def written(value: str) -> str:
    """How a text is written as a value."""
    service = model.Service(**SECTIONS, name="w")
    section = process.Process(environment={"K": value})
    stack = model.Stack(
        name="s", working_dir="/", services={"w": msgspec.structs.replace(service, process=section)}
    )
    return canonical.to_yaml(stack).split("      K: ", 1)[1].removesuffix("\n")


@pytest.mark.parametrize(("value", "text"), QUOTING.items())
def test_quoting_is_that_of_docker_compose(value: str, text: str) -> None:
    assert written(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x\ny\n", "|\n        x\n        y"),
        ("x\ny", "|-\n        x\n        y"),
        ("x\n\n", "|+\n        x\n"),
        (" x\ny", "|2-\n         x\n        y"),
        ("x\n\ny\n", "|\n        x\n\n        y"),
        ("x \ny", '"x \\ny"'),
    ],
)
def test_texts_of_several_lines(value: str, text: str) -> None:
    assert written(value) == text


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_every_text_reads_back(value: str) -> None:
    (found,) = document.parse(f"K: {written(value)}\n".encode(), "f", tree.Report())
    text = tree.plain(found)
    assert text == {"K": value.replace("$", "$$")}


# Recorded from docker compose 2.40.3.
ORDER = [
    "1w", "W", "w", "w-1", "w.", "w_1", "w1", "w1a", "w1-", "w01", "w001", "w9", "w09", "w10", "w10a", "wa",
]  # fmt: skip


@given(st.permutations(ORDER))
def test_the_order_of_names_is_that_of_docker_compose(names: list[str]) -> None:
    service = model.Service(**SECTIONS, name="x")
    stack = model.Stack(name="s", working_dir="/", services=dict.fromkeys(names, service))
    assert re.findall(r"^  (\S+):", canonical.to_yaml(stack), re.MULTILINE) == ORDER


# --- stacks of any content ------------------------------------------------------------------------------

TEXT = st.text(alphabet="abc $:{}#'\"\\\n-1.\u00e9", max_size=12)
NAME = st.text(alphabet="abcxyz019_-", min_size=1, max_size=6).filter(
    lambda name: name[0] not in "-_"
)


def documents() -> st.SearchStrategy[dict[str, object]]:
    service = st.fixed_dictionaries(
        {"image": st.just("a")},
        optional={
            "command": st.lists(TEXT, max_size=3),
            "environment": st.dictionaries(NAME, st.none() | TEXT, max_size=3),
            "labels": st.dictionaries(NAME, TEXT, max_size=3),
            "ports": st.lists(
                st.sampled_from(["80", "81:81/udp", "127.0.0.1::82", "83-84:83"]), max_size=3
            ),
            "volumes": st.lists(
                st.sampled_from(["data:/a", "/b", "./c:/c:ro", "data:/d:nocopy"]), max_size=3
            ),
            "restart": st.sampled_from(["no", "always", "on-failure:3"]),
            "stop_grace_period": st.sampled_from(["1m30s", "0s", "1.5s"]),
            "scale": st.integers(0, 3),
            "expose": st.lists(st.sampled_from(["80", "90/udp"]), max_size=2),
            "x-any": st.dictionaries(
                NAME, TEXT | st.integers() | st.booleans() | st.none(), max_size=2
            ),
        },
    )
    return st.dictionaries(NAME, service, min_size=1, max_size=3).map(
        lambda services: {"services": services, "volumes": {"data": None}}
    )


@settings(max_examples=60, deadline=None)
@given(documents())
def test_any_stack_reads_back_to_itself(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    root = tmp_path_factory.mktemp("stack")
    # JSON is YAML; a dollar of the file is doubled, so that it is meant.
    text = json.dumps(content).replace("$", "$$").replace("\\/", "/")
    first = stack_of(root, text)
    second = stack_of(root, canonical.to_yaml(first))
    assert same(second) == same(first)
    assert canonical.to_yaml(second) == canonical.to_yaml(first)
