"""Limits and rights are refused by name where they would run: a security key that does nothing is worse than an error."""

import pathlib

import pytest

from ic.fields import limits, tree
from tests.compose import samples, stacks
from tests.fields import reading


@pytest.mark.parametrize("key", sorted(limits.SCHEMA))
def test_each_is_refused_where_it_stands(tmp_path: pathlib.Path, key: str) -> None:
    text = f"services:\n  web:\n    image: a\n    {key}: {samples.flow(limits.SCHEMA[key])}\n"
    (fault,) = stacks.faults(stacks.refused(tmp_path, text))
    assert fault == f"E_UNSUPPORTED 4:5 services.web.{key} is not supported yet"
    stack = stacks.load(tmp_path, text, for_running=False)
    assert [one.summary for one in stack.pending] == [f"services.web.{key} is not supported yet"]


def long(body: str) -> object:
    report = tree.Report()
    found = tree.plain(reading.long(stacks.node(body), report))
    assert report.diagnostics == []
    return found


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ("devices: [/dev/a]", [{"source": "/dev/a", "target": "/dev/a", "permissions": "rwm"}]),
        ("devices: ['/dev/a:/dev/b']", [{"source": "/dev/a", "target": "/dev/b", "permissions": "rwm"}]),
        ("devices: ['/dev/a:/dev/b:r']", [{"source": "/dev/a", "target": "/dev/b", "permissions": "r"}]),
        ("devices: ['/dev/a:/x', '/dev/b:/x']", [{"source": "/dev/b", "target": "/x", "permissions": "rwm"}]),
        ("devices: [vendor.com/class=name]", [{"source": "vendor.com/class=name", "target": "vendor.com/class=name", "permissions": "rwm"}]),
        ("gpus: all", [{"count": "all"}]),
        ("gpus: [{driver: n}]", [{"driver": "n", "count": "all"}]),
        ("gpus: [{device_ids: [a]}]", [{"device_ids": ["a"]}]),
        ("ulimits: {nofile: '5', nproc: {soft: '1', hard: 2}}", {"nofile": 5, "nproc": {"soft": 1, "hard": 2}}),
        ("privileged: 'true'", True),
        ("cpus: '0.5'", 0.5),
        ("cpu_count: '2'", 2),
        ("cap_add: [A, B, A]", ["A", "B"]),
    ],
)  # fmt: skip
def test_long_forms(body: str, made: object) -> None:
    assert long(body) == {body.partition(":")[0]: made}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("mem_limit: abc", "E_VALUE 12 w.mem_limit: 'abc' is an invalid size; write it like 64m or 1.5g"),
        ("cpu_percent: 101", "E_VALUE 14 w.cpu_percent must be less than or equal to 100, not 101"),
        ("oom_score_adj: -1001", "E_VALUE 16 w.oom_score_adj must be greater than or equal to -1000, not -1001"),
        ("cgroup: public", "E_VALUE 9 w.cgroup must be one of host, private, not 'public'"),
        ("devices: ['a:b:c:d']", "E_VALUE 11 w.devices[0]: 'a:b:c:d' has too many colons; write HOST[:TARGET[:PERMISSIONS]]"),
        ("devices: [{source: /a}]", "E_MISSING 11 w.devices[0]: the required property 'target' is missing (add target:)"),
        ("gpus: some", "E_VALUE 7 w.gpus must be one of all, not 'some'"),
        ("gpus: [{count: few}]", "E_VALUE 16 w.gpus[0].count: 'few' is an invalid value: 'all' or a number is allowed"),
        ("gpus: [{count: 1, device_ids: [a]}]", "E_MODEL_CONFLICT 19 w.gpus[0]: count and device_ids are mutually exclusive (count stands at f:1:9)"),
        ("ulimits: {nofile: {soft: 1}}", "E_MISSING 19 w.ulimits.nofile: the required property 'hard' is missing (add hard:)"),
        ("ulimits: {nofile: many}", "E_TYPE 19 w.ulimits.nofile must be an integer, not 'many'"),
        ("privileged: maybe", "E_TYPE 13 w.privileged must be a boolean, true or false, not 'maybe'"),
        ("cap_add: NET_ADMIN", "E_TYPE 10 w.cap_add must be an array, not a string"),
        ("security_opt: [a, a]", "E_VALUE 19 w.security_opt: items 0 and 1 are equal and must be unique; the first stands at f:1:16"),
        ("blkio_config: {weight: '3'}", "E_VALUE 24 w.blkio_config.weight: must be an integer, not the string '3'"),
        ("blkio_config: {wieght: 3}", "E_UNKNOWN_KEY 16 w.blkio_config has the unknown key 'wieght', which is not allowed (did you mean 'weight'?)"),
    ],
)  # fmt: skip
def test_faults(body: str, message: str) -> None:
    assert reading.fault(limits, body) == message
