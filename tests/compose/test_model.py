"""The model: every key of the specification has its place, and a path finds its position."""

import msgspec
import pytest

from ic import errors
from ic.compose import model
from ic.fields import tree

# The keys of a service in the Compose Specification, as docker compose 2.40.3 knows them (compose-go 2.9.1).
SPECIFIED = [
    "annotations",
    "attach",
    "blkio_config",
    "build",
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "command",
    "configs",
    "container_name",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpus",
    "cpuset",
    "credential_spec",
    "depends_on",
    "deploy",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "extends",
    "external_links",
    "extra_hosts",
    "gpus",
    "group_add",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "ipc",
    "isolation",
    "label_file",
    "labels",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "models",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "post_start",
    "pre_stop",
    "privileged",
    "profiles",
    "provider",
    "pull_policy",
    "pull_refresh_after",
    "read_only",
    "restart",
    "runtime",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "use_api_socket",
    "user",
    "userns_mode",
    "uts",
    "volumes",
    "volumes_from",
    "working_dir",
]


def test_every_key_of_the_specification_is_read_or_refused_by_name() -> None:
    assert sorted(model.SERVICE_KEYS | model.SERVICE_PENDING) == sorted(SPECIFIED)


def test_a_key_belongs_to_one_section() -> None:
    every = [key for one in model.SECTIONS for key in (*one.KEYS, *one.PENDING)]
    assert len(every) == len(set(every))


def test_top_level_keys_of_the_specification() -> None:
    assert sorted(model.TOP_KEYS | model.TOP_PENDING) == [
        "configs", "include", "models", "name", "networks", "secrets", "services", "version", "volumes",
    ]  # fmt: skip
    assert sorted(model.NETWORK_KEYS | model.NETWORK_PENDING) == [
        "attachable", "driver", "driver_opts", "enable_ipv4", "enable_ipv6", "external", "internal",
        "ipam", "labels", "name",
    ]  # fmt: skip
    assert sorted(model.VOLUME_KEYS | model.VOLUME_PENDING) == [
        "driver", "driver_opts", "external", "labels", "name",
    ]  # fmt: skip


def test_rules_are_given_for_keys_that_are_read() -> None:
    for path, rule in model.merge_rules().items():
        assert isinstance(rule, tree.Rule)
        if path[0] == "services":
            assert path[2] in model.SERVICE_KEYS


def test_a_path_without_a_position_has_its_parents() -> None:
    web = errors.Position("f", 2, 3)
    stack = model.Stack(
        name="s", working_dir="/", services={}, positions={("services", "web"): web}
    )
    assert stack.where("services", "web", "ports", 0) == web
    assert stack.where("networks") is None


def test_values_cannot_be_changed() -> None:
    network = model.Network(key="front")
    with pytest.raises(AttributeError):
        network.key = "back"  # pyright: ignore[reportAttributeAccessIssue]
    assert msgspec.structs.replace(network, key="back").key == "back"
