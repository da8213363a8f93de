"""What a service may use and what it may do: cpu, memory, devices, capabilities, namespaces.

Compose Specification, section Services. Pure. ic maps none of these keys yet; each is refused by name,
because a limit or a security key that does nothing is worse than an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ic.fields import tree

KEYS: dict[str, tree.Rule | None] = {}
BELOW: tree.Rules = {}
PENDING = frozenset(
    {
        "blkio_config", "cap_add", "cap_drop", "cgroup", "cgroup_parent", "cpu_count", "cpu_percent",
        "cpu_period", "cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares", "cpus", "cpuset",
        "credential_spec", "device_cgroup_rules", "devices", "gpus", "ipc", "isolation", "mem_limit",
        "mem_reservation", "mem_swappiness", "memswap_limit", "oom_kill_disable", "oom_score_adj",
        "pid", "pids_limit", "privileged", "read_only", "security_opt", "shm_size", "sysctls",
        "ulimits", "use_api_socket", "userns_mode", "uts",
    }
)  # fmt: skip
