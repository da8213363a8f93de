"""Extensions of other tools: checked where they are known, told where they are not, and not carried out."""

import pathlib

import pytest

from tests.compose import stacks

PLACES = """
services:
  w:
    image: a
    x-incus: {limits.memory: 1GiB, limits.cpu: 2, security.privileged: false}
    x-incus-compose: {devices: {gpu0: {type: gpu, id: 1}}}
    ports: [{target: 80, x-incus-compose: {nat: true}}]
    volumes: [{type: volume, source: vol, target: /v, x-incus: {size: 1GiB}, x-incus-compose: {seed: 'true'}}]
    networks: {n: {x-incus: {hwaddr: x}, x-incus-compose: {gateway: true}}}
networks: {n: {x-incus: {ipv4.address: 10.0.0.1/24}, x-incus-compose: {network: br0, uplink: u}}}
volumes: {vol: {x-incus: {size: 10GiB}, x-incus-compose: {pool: fast}}}
x-incus: {features.images: false}
x-incus-compose:
  backup:
  healthd: {scope: global, workers: '3', external: false, x-incus: {limits.cpu: 1}}
  network: {driver: ovn, uplink: u}
  dns: {disabled: true}
"""


def test_every_place_is_read_and_kept_from_running(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(tmp_path, PLACES, for_running=False)
    assert stack.diagnostics == ()
    assert sorted(one.summary for one in stack.pending) == sorted(
        f"{where}.{key} is not supported yet".removeprefix(".")
        for where, keys in (
            ("services.w", ("x-incus", "x-incus-compose")),
            ("services.w.ports[0]", ("x-incus-compose",)),
            ("services.w.volumes[0]", ("x-incus", "x-incus-compose")),
            ("services.w.networks.n", ("x-incus", "x-incus-compose")),
            ("networks.n", ("x-incus", "x-incus-compose")),
            ("volumes.vol", ("x-incus", "x-incus-compose")),
            ("", ("x-incus", "x-incus-compose")),
        )
        for key in keys
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x-incus: [a]", "E_TYPE 2:10 x-incus must be a mapping, not an array"),
        ("x-incus: {a: {b: c}}", "E_TYPE 2:14 x-incus.a must be a number, a boolean or a string, not a mapping"),
        ("x-incus-compose: {healthd: {scope: here}}", "E_VALUE 2:36 x-incus-compose.healthd.scope must be one of global, project, not 'here'"),
        ("x-incus-compose: {healthd: {workers: 0}}", "E_VALUE 2:38 x-incus-compose.healthd.workers must be greater than or equal to 1, not 0"),
        ("networks: {n: {x-incus-compose: {uplink: [a]}}}", "E_TYPE 2:42 networks.n.x-incus-compose.uplink must be a string, not an array"),
    ],
)  # fmt: skip
def test_faults(tmp_path: pathlib.Path, text: str, fault: str) -> None:
    error = stacks.refused(tmp_path, f"services: {{w: {{image: a}}}}\n{text}\n", for_running=False)
    assert stacks.faults(error) == [fault]


def test_a_device_has_a_type(tmp_path: pathlib.Path) -> None:
    text = "services: {w: {image: a, x-incus-compose: {devices: {d: {path: /x}}}}}"
    (fault,) = stacks.faults(stacks.refused(tmp_path, text, for_running=False))
    assert (
        fault
        == "E_MISSING 1:57 services.w.x-incus-compose.devices.d: the required property 'type' is missing"
    )


def test_a_key_that_is_not_known_is_said_and_let_pass(tmp_path: pathlib.Path) -> None:
    text = "services: {w: {image: a}}\nx-incus-compose: {helthd: {a: b}, other: 1}\n"
    assert [str(one) for one in stacks.load(tmp_path, text, for_running=False).diagnostics] == [
        "compose.yaml:2:19: x-incus-compose has the key 'helthd', which ic does not know; did you mean 'healthd'?",
        "compose.yaml:2:35: x-incus-compose has the key 'other', which ic does not know",
    ]
