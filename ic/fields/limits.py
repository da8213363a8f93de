"""What a service may use and what it may do: cpu, memory, devices, capabilities, namespaces.

Compose Specification, section Services. Pure. ic carries none of these keys out yet; each is read and
checked, and refused by name where a stack is to run, because a limit or a security key that does nothing is
worse than an error.
"""

from __future__ import annotations

from ic.fields import forms, merging, placement, schema, tree, values

_RATE = schema.Key(
    keys={"path": schema.text(), "rate": schema.Key(schema.WHOLE | schema.TEXT, fault=values.size)},
    types=schema.MAPPING,
    extensions=False,
)
_BITS_16 = values.up_to(2**16 - 1)
_WEIGHT = schema.Key(
    schema.WHOLE | schema.TEXT, fault=lambda node: values.whole(node) or _BITS_16(node)
)
_SIZE = schema.Key(schema.NUMBER | schema.TEXT, fault=values.size, pending=True)
_WHOLE_SIZE = schema.Key(schema.WHOLE | schema.TEXT, fault=values.size, pending=True)
_TEXT = schema.text(pending=True)
_FLAG = schema.flag(pending=True)
_TIME = schema.long_number(pending=True)
_NAMES = schema.texts(pending=True)


def _device(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    if not isinstance(node.data, str):
        return node
    parts = node.data.split(":")
    if len(parts) > 3:
        if not report.lenient:
            report.error(
                tree.VALUE,
                f"{where}: {node.data!r} has too many colons; write HOST[:TARGET[:PERMISSIONS]]",
                node.position,
            )
        parts = ["", "", "rwm"]
    source = parts[0]
    target = (parts[1] if len(parts) > 1 else "") or source
    permissions = parts[2] if len(parts) > 2 else "rwm"
    return forms.made(node.position, source=source, target=target, permissions=permissions)


def _device_target(node: tree.Node) -> str | None:
    if isinstance(node.data, str):
        parts = node.data.split(":")
        return parts[1] if len(parts) > 1 else parts[0]
    target = node.child("target")
    return target.data if target is not None and isinstance(target.data, str) else None


def _gpus(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    if not isinstance(node.data, str):
        return node
    return tree.Node([forms.made(node.position, count="all")], node.position)


_ULIMIT = schema.Key(
    schema.WHOLE | schema.TEXT | schema.MAPPING,
    keys={
        "soft": schema.whole(fault=values.no_fraction),
        "hard": schema.whole(fault=values.no_fraction),
    },
    required=("soft", "hard"),
    cast=schema.to_integer,
    merge=merging.ulimit,
    long=forms.limit,
    fault=values.no_fraction,
)
_DEVICE = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={"source": schema.text(), "target": schema.text(), "permissions": schema.text()},
    required=("source", "target"),
    long=_device,
)
_BLKIO: dict[str, schema.Key] = {
    "device_read_bps": schema.listing(_RATE),
    "device_read_iops": schema.listing(_RATE),
    "device_write_bps": schema.listing(_RATE),
    "device_write_iops": schema.listing(_RATE),
    "weight": _WEIGHT,
    "weight_device": schema.listing(
        schema.mapping({"path": schema.text(), "weight": _WEIGHT}, extensions=False)
    ),
}
SCHEMA: dict[str, schema.Key] = {
    "blkio_config": schema.mapping(_BLKIO, extensions=False, pending=True),
    "cap_add": _NAMES.but(index=merging.by_name),
    "cap_drop": _NAMES.but(index=merging.by_name),
    "cgroup": schema.word("host", "private", pending=True, usual=("private",)),
    "cgroup_parent": _TEXT,
    "cpu_count": schema.whole(low=0, pending=True),
    "cpu_percent": schema.Key(
        schema.WHOLE | schema.TEXT, low=0, high=100, cast=schema.to_float, pending=True
    ),
    "cpu_period": _TIME,
    "cpu_quota": _TIME,
    "cpu_rt_period": _TIME,
    "cpu_rt_runtime": _TIME,
    "cpu_shares": _TIME,
    "cpus": schema.number(pending=True),
    "cpuset": _TEXT,
    "credential_spec": schema.mapping(
        {"config": schema.text(), "file": schema.text(), "registry": schema.text()}, pending=True
    ),
    "device_cgroup_rules": _NAMES,
    "devices": schema.listing(_DEVICE, index=_device_target, pending=True),
    "gpus": schema.Key(
        schema.TEXT | schema.LIST,
        enum=("all",),
        item=schema.mapping(placement.REQUEST, loose=True, fill=forms.request),
        long=_gpus,
        pending=True,
    ),
    "ipc": _TEXT.but(usual=("private",)),
    "isolation": _TEXT.but(usual=("default",)),
    "mem_limit": _SIZE,
    "mem_reservation": _WHOLE_SIZE,
    "mem_swappiness": _WHOLE_SIZE.but(usual=(0, -1)),
    "memswap_limit": _SIZE,
    "oom_kill_disable": _FLAG,
    "oom_score_adj": schema.whole(low=-1000, high=1000, pending=True),
    "pid": schema.Key(schema.TEXT | schema.NULL, fault=values.given, pending=True),
    "pids_limit": _TIME.but(usual=(0, -1)),
    "privileged": _FLAG,
    "read_only": _FLAG,
    "security_opt": _NAMES,
    "shm_size": _SIZE,
    "sysctls": schema.pairs(merge=merging.sequences, index=merging.by_name, pending=True),
    "ulimits": schema.named(_ULIMIT, "^[a-z]+$", loose=True, pending=True),
    "use_api_socket": schema.Key(schema.FLAG, pending=True),
    "userns_mode": _TEXT,
    "uts": _TEXT,
}
