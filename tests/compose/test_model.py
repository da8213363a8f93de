"""The model: every key of the specification has its place, and a path finds its position."""

import os
import pathlib

import msgspec
import pytest

from ic import errors
from ic.compose import model
from ic.fields import schema
from tests.compose import stacks

KEYS = os.path.join(os.path.dirname(__file__), "specified-keys.txt")


def specified() -> list[str]:
    """Every path of keys in the schema that docker compose 2.40.3 reads (compose-go 2.9.1)."""
    with open(KEYS, encoding="utf-8") as file:
        return file.read().split()


def test_every_key_of_the_specification_is_read_and_no_other() -> None:
    ours = {path for path in schema.keys_of(model.STACK) if ".x-" not in f".{path}"}
    assert sorted(ours) == specified()


def test_a_key_belongs_to_one_section() -> None:
    every = [key for one in model.SECTIONS for key in one.SCHEMA]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("where", "key"),
    [("services.w", "pre_start"), ("services.w.build", "no_cache_filter"), ("services.w.build", "platform")],
)  # fmt: skip
def test_newer_keys_are_refused_as_newer(tmp_path: pathlib.Path, where: str, key: str) -> None:
    body = f"{{context: ., {key}: x}}" if where.endswith("build") else ""
    line = f"build: {body}" if body else f"{key}: x"
    error = stacks.refused(tmp_path, f"services: {{w: {{image: a, {line}}}}}")
    found = [one for one in error.diagnostics if one.code == schema.NEWER]
    assert [one.summary for one in found] == [
        f"{where} has the key {key!r}, which is newer than docker compose 2.40.3"
    ]


def test_what_has_no_effect_yet_is_read_and_kept_from_running(tmp_path: pathlib.Path) -> None:
    text = (
        "services:\n  w:\n    image: a\n    privileged: true\n    secrets: [s]\n"
        "    deploy: {resources: {limits: {cpus: 1}}}\n    ports: ['1/sctp']\n"
        "  other: {image: a, profiles: [p], init: true}\n"
        "networks: {n: {driver: overlay, x-incus: {}}}\nsecrets: {s: {file: f}}\n"
    )
    stack = stacks.load(tmp_path, text, for_running=False)
    assert [str(one) for one in stack.pending] == [
        "compose.yaml:4:5: services.w.privileged is not supported yet",
        "compose.yaml:5:5: services.w.secrets is not supported yet",
        "compose.yaml:6:14: services.w.deploy.resources is not supported yet",
        "compose.yaml:9:33: networks.n.x-incus is not supported yet",
        "compose.yaml:10:1: secrets is not supported yet",
        "compose.yaml:7:13: services.w.ports[0]: the protocol sctp is not supported yet",
        "compose.yaml:9:24: networks.n.driver: 'overlay' is not supported yet",
    ]
    assert sorted(map(str, stacks.refused(tmp_path, text).diagnostics)) == sorted(
        map(str, stack.pending)
    )


@pytest.mark.parametrize(
    "line",
    [
        "init: false", "tty: false", "stdin_open: 'no'", "privileged: false", "read_only: false",
        "oom_kill_disable: false", "use_api_socket: false", "attach: true", "attach: 'true'",
        "cpus: 0", "cpus: '0'", "cpu_count: 0", "cpu_percent: 0", "cpu_shares: 0", "cpuset: ''",
        "mem_limit: 0", "mem_limit: '0'", "memswap_limit: 0", "mem_swappiness: -1", "shm_size: 0",
        "oom_score_adj: 0", "pids_limit: -1", "pids_limit: 0", "cgroup: private", "ipc: private",
        "isolation: default", "uts: ''", "network_mode: ''", "platform: ''", "cap_add: []",
        "devices: []", "sysctls: {}", "ulimits: {}", "dns: []", "extra_hosts: []", "logging: {}",
        "secrets: []", "post_start: []", "annotations: {}", "group_add: []", "storage_opt: {}",
        "deploy: {mode: replicated, endpoint_mode: vip, resources: {}}",
        "volumes: [{type: bind, source: /s, target: /t, bind: {propagation: rprivate}}]",
        "networks: {n: {priority: 0, gw_priority: 0, driver_opts: {}, mac_address: ''}}",
    ],
)  # fmt: skip
def test_what_is_written_at_its_default_asks_for_nothing(tmp_path: pathlib.Path, line: str) -> None:
    top = (
        "networks: {n: {enable_ipv4: true, enable_ipv6: false, attachable: false, driver_opts: {}}}\n"
        "volumes: {v: {driver_opts: {}}}\nsecrets: {}\nconfigs: {}\n"
    )
    text = f"services:\n  w:\n    image: a\n    {line}\n{top}"
    assert stacks.load(tmp_path, text).pending == ()


@pytest.mark.parametrize(
    "line",
    [
        "init: true", "tty: 'true'", "attach: false", "attach: 'no'", "cpus: 0.5", "cpuset: '0'", "mem_limit: 1",
        "mem_swappiness: 1", "pids_limit: 1", "cgroup: host", "ipc: host", "oom_score_adj: -1",
        "memswap_limit: -1", "cap_add: [NET_ADMIN]", "domainname: '0'", "deploy: {mode: global}",
        "deploy: {restart_policy: {}}",
    ],
)  # fmt: skip
def test_anything_else_is_refused_where_it_stands(tmp_path: pathlib.Path, line: str) -> None:
    error = stacks.refused(tmp_path, f"services:\n  w:\n    image: a\n    {line}\n")
    (told,) = error.diagnostics
    assert (told.code, told.position and told.position.line) == ("E_UNSUPPORTED", 4)


@pytest.mark.parametrize("line", ["enable_ipv4: false", "enable_ipv6: true", "attachable: true"])
def test_a_network_that_is_not_as_usual_is_refused(tmp_path: pathlib.Path, line: str) -> None:
    text = f"services: {{w: {{image: a, networks: [n]}}}}\nnetworks: {{n: {{{line}}}}}\n"
    (told,) = stacks.refused(tmp_path, text).diagnostics
    assert told.summary == f"networks.n.{line.partition(':')[0]} is not supported yet"


def test_a_path_without_a_position_has_its_parents() -> None:
    root = stacks.node("services:\n  web: {ports: [1, 2]}\n")
    stack = model.Stack(name="s", working_dir="/", services={}, tree=root)
    assert stack.where("services", "web") == errors.Position("f", 2, 3)
    assert stack.where("services", "web", "ports", 1) == errors.Position("f", 2, 20)
    assert stack.where("services", "web", "ports", 2) == errors.Position("f", 2, 9)
    assert stack.where("services", "db", "ports") == errors.Position("f", 1, 1)
    assert stack.where("networks") is None


def test_values_cannot_be_changed() -> None:
    network = model.Network(key="front")
    with pytest.raises(AttributeError):
        network.key = "back"  # pyright: ignore[reportAttributeAccessIssue]
    assert msgspec.structs.replace(network, key="back").key == "back"
