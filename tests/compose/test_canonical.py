"""What `ic config` prints: as docker compose 2.40.3 prints it, and it reads back to the same stack."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ic import errors
from ic.compose import canonical, model
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


def test_the_output_reads_back_to_the_same_stack(tmp_path: pathlib.Path) -> None:
    first = stack_of(tmp_path, SOURCE)
    second = stack_of(tmp_path, canonical.to_yaml(first))
    assert canonical.to_yaml(second) == canonical.to_yaml(first)
    assert canonical.to_json(second) == canonical.to_json(first)


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
    assert canonical.to_yaml(second) == canonical.to_yaml(first)


# --- what is selected -----------------------------------------------------------------------------------

ROOT: dict[str, Any] = {
    "name": "shop",
    "services": {
        "web": {
            "image": "a",
            "depends_on": {"db": {"required": True}, "gone": {"required": False}},
            "networks": {"front": None},
            "volumes": [{"type": "volume", "source": "data", "target": "/d"}],
            "build": {"secrets": [{"source": "key"}]},
        },
        "db": {"image": "b", "configs": [{"source": "conf"}], "models": {"llm": None}},
        "web2": {"image": "c", "depends_on": {"web": {}}, "secrets": [{"source": "s"}]},
        "off": {"image": "d"},
    },
    "networks": {"front": {}, "back": {}},
    "volumes": {"data": {}, "more": {}},
    "secrets": {"key": {"file": "/k"}, "s": {"environment": "S", "content": "secret"}},
    "configs": {"conf": {"content": "c"}, "none": {}},
    "models": {"llm": {"model": "m"}, "none": {"model": "n"}},
    "x-any": 1,
}
ACTIVE = ("web", "db", "web2")


def names_of(root: dict[str, Any]) -> dict[str, list[str]]:
    return {key: sorted(one) for key, one in root.items() if isinstance(one, dict)}


def test_without_arguments_all_active_services_are_printed_with_what_they_use() -> None:
    assert names_of(canonical.selected(ROOT, ACTIVE)) == {
        "services": ["db", "web", "web2"],
        "networks": ["front"],
        "volumes": ["data"],
        "secrets": ["key", "s"],
        "configs": ["conf"],
        "models": ["llm"],
    }


def test_arguments_bring_their_dependencies_and_nothing_else() -> None:
    found = canonical.selected(ROOT, ACTIVE, ["web"])
    assert names_of(found)["services"] == ["db", "web"]
    assert names_of(found)["secrets"] == ["key"]
    services: Any = found["services"]
    assert services["web"]["depends_on"] == {"db": {"required": True}}
    assert ROOT["services"]["web"]["depends_on"].keys() == {"db", "gone"}


def test_an_argument_may_be_a_pattern() -> None:
    assert names_of(canonical.selected(ROOT, ACTIVE, ["w?b"]))["services"] == ["db", "web"]
    assert names_of(canonical.selected(ROOT, ACTIVE, ["[c-e]*"]))["services"] == ["db"]
    assert names_of(canonical.selected(ROOT, ACTIVE, ["web[^0-1]"]))["services"] == [
        "db", "web", "web2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["of", "off", "x*", "we[b"])
def test_an_argument_that_is_no_active_service_is_refused(name: str) -> None:
    with pytest.raises(errors.UsageError, match="no such service"):
        canonical.selected(ROOT, ACTIVE, [name])


def test_everything_stays_when_everything_is_wanted() -> None:
    found = canonical.selected(ROOT, ACTIVE, ["db"], everything=True)
    assert names_of(found)["networks"] == ["back", "front"]
    assert names_of(found)["models"] == ["llm", "none"]


def test_models_stand_in_yaml_alone_and_contents_of_secrets_nowhere() -> None:
    made = canonical.document(ROOT, "shop")
    assert list(made) == [
        "name", "services", "networks", "volumes", "secrets", "configs", "models", "x-any",
    ]  # fmt: skip
    assert made["secrets"] == {"key": {"file": "/k"}, "s": {"environment": "S"}}
    made = canonical.document(ROOT, "shop", json=True)
    assert list(made) == [
        "configs", "name", "networks", "secrets", "services", "volumes", "x-any",
    ]  # fmt: skip


def test_the_model_is_alphabetical_and_keeps_its_dollars() -> None:
    made = canonical.model_document({"services": {"a": {"image": "$X", "a": [], "A": 1}}, "b": 1})
    assert canonical.text_of(made, dollars=False) == (
        "b: 1\nservices:\n  a:\n    A: 1\n    a: []\n    image: $X\n"
    )


def test_images_alone_are_an_override_file() -> None:
    found = canonical.document(canonical.images_only(ROOT), "")
    assert canonical.text_of(found).startswith('services:\n  db:\n    image: b\n  "off":')


# Recorded from docker compose 2.40.3 (`config --hash`); the services are those of one file.
DIGESTS: list[tuple[dict[str, Any], str]] = [
    (
        {"image": "nginx", "networks": {"default": None}},
        "daef7adc9ecc59d4881bd1ebc06f26a836d35656f8b5fb0adfdb95b2d856fbd3",
    ),
    (
        {
            "image": "x",
            "command": ["a", "<b>"],
            "entrypoint": [],
            "environment": {"A": "1", "B": None},
            "labels": {"l": "&"},
            "stop_grace_period": "90s",
            "mem_limit": "1g",
            "cpus": 0.5,
            "networks": {"default": None},
        },
        "2a9458147ba26d49dae9acba0ff8c73bae6334422007fce3729992b380f37d75",
    ),
    (
        {
            "image": "x",
            "deploy": {"replicas": 2, "resources": {"limits": {"cpus": "0.25", "memory": "64m"}}},
            "healthcheck": {"test": "true", "interval": "5s", "retries": 0},
            "networks": {"default": None},
        },
        "cb061de6a2b141b9439e5fc5f333597c2c8d142641064a7a5113be5de41a9f15",
    ),
    (
        {
            "image": "x",
            "blkio_config": {"device_read_bps": [{"path": "/d", "rate": "1k"}]},
            "ulimits": {"nofile": {"soft": 1, "hard": 2}, "nproc": 3},
            "tmpfs": ["/t"],
            "x-own": 1,
            "networks": {"default": None},
        },
        "fde0f8a4a782db4db5c41d790e24f9c8c4fefdc12346e71335498c72abe70aa5",
    ),
]


@pytest.mark.parametrize(("service", "digest"), DIGESTS)
def test_a_digest_is_that_of_docker_compose(service: dict[str, Any], digest: str) -> None:
    assert canonical.digest(service) == digest
    more = {"scale": 3, "profiles": ["p"], "depends_on": {"x": {}}, "pull_policy": "always"}
    assert canonical.digest({**service, **more, "build": {"context": "/"}}) == digest


# --- order ----------------------------------------------------------------------------------------------
# Recorded from docker compose 2.40.3.
ORDER = [
    "1w", "W", "w", "w-1", "w.", "w_1", "w1", "w1a", "w1-", "w01", "w001", "w9", "w09", "w10", "w10a", "wa",
]  # fmt: skip


@given(st.permutations(ORDER))
def test_the_order_of_names_is_that_of_docker_compose(names: list[str]) -> None:
    made = canonical.document({"services": {name: {"image": "x"} for name in names}}, "s")
    services: Any = made["services"]
    assert list(services) == ORDER
