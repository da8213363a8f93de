"""Cross-checks of a whole stack, each with the place where the fault was written."""

import pathlib

import pytest

from tests.compose import stacks

# Each: services and more as YAML, and the one error.
WRONG = {
    "no image": ("services:\n  web: {user: x}\n", "E_MISSING 2:3 services.web has neither an image nor a build"),
    "network": (
        "services:\n  web: {image: a, networks: [frnt]}\nnetworks: {front: }\n",
        "E_REFERENCE 2:30 services.web refers to the undefined network 'frnt': networks does not define it",
    ),
    "volume": (
        "services:\n  web: {image: a, volumes: ['/x', 'dat:/d']}\nvolumes: {data: }\n",
        "E_REFERENCE 2:35 services.web refers to the undefined volume 'dat': volumes does not define it",
    ),
    "dependency": (
        "services:\n  web: {image: a, depends_on: [db]}\n",
        "E_REFERENCE 2:32 services.web depends on the undefined service 'db': services does not define it",
    ),
    "inactive dependency": (
        "services:\n  web: {image: a, depends_on: {db: {condition: service_started}}}\n"
        "  db: {image: b, profiles: [data]}\n",
        "E_REFERENCE 2:32 services.web depends on the service 'db', undefined here: its profile (data) is not active",
    ),
    "cycle": (
        "services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n"
        "  c: {image: x, depends_on: [a]}\n",
        "E_CYCLE 2:30 dependency cycle detected: a -> b -> c -> a",
    ),
    "itself": (
        "services:\n  a: {image: x, depends_on: [a]}\n",
        "E_CYCLE 2:30 dependency cycle detected: a -> a",
    ),
    "port in two services": (
        "services:\n  a: {image: x, ports: ['80:1']}\n  b: {image: x, ports: ['80:2']}\n",
        "E_PORT_TWICE 3:25 services.b.ports: the host port 80/tcp is published twice; "
        "first by 'a' at compose.yaml:2:25",
    ),
    "port in one service": (
        "services:\n  a:\n    image: x\n    ports:\n    - 80:1\n    - 127.0.0.1:80:2\n",
        "E_PORT_TWICE 6:7 services.a.ports: the host port 80/tcp is published twice; "
        "first by 'a' at compose.yaml:5:7",
    ),
    "port inside of a range": (
        "services:\n  a: {image: x, ports: ['79-81:1-3']}\n  b: {image: x, ports: ['80:2']}\n",
        "E_PORT_TWICE 3:25 services.b.ports: the host port 80/tcp is published twice; "
        "first by 'a' at compose.yaml:2:25",
    ),
    "port of replicas": (
        "services:\n  a: {image: x, scale: 2, ports: ['80:1']}\n",
        "E_PORT_TWICE 2:35 services.a.ports: 2 replicas cannot all publish port 80/tcp",
    ),
    "range shorter than replicas": (
        "services:\n  a: {image: x, scale: 3, ports: ['80-81:1']}\n",
        "E_PORT_TWICE 2:35 services.a.ports: 3 replicas cannot all publish port 80-81/tcp",
    ),
    "container name": (
        "services:\n  a: {image: x, container_name: one}\n  b: {image: x, container_name: one}\n",
        "E_MODEL_CONFLICT 3:17 services.b: the container_name 'one' is already in use by services.a (that stands at compose.yaml:2:17)",
    ),
    "address outside": (
        "services:\n  a: {image: x, networks: {n: {ipv4_address: 10.2.0.5}}}\n"
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}\n",
        "E_VALUE 2:32 services.a.networks.n.ipv4_address: 10.2.0.5 is not in 10.1.0.0/24, "
        "the subnet of 'n'",
    ),
    "address without a subnet": (
        "services:\n  a: {image: x, networks: {n: {ipv4_address: 10.2.0.5}}}\nnetworks: {n: }\n",
        "E_VALUE 2:32 services.a.networks.n.ipv4_address: the network 'n' has no subnet of its own "
        "to hold 10.2.0.5",
    ),
    "no address": (
        "services:\n  a: {image: x, networks: {n: {ipv4_address: db}}}\n"
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}\n",
        "E_VALUE 2:32 services.a.networks.n.ipv4_address: 'db' is not an IPv4 address",
    ),
    "address twice": (
        "services:\n  a: {image: x, networks: {n: {ipv4_address: 10.1.0.5}}}\n"
        "  b: {image: x, networks: {n: {ipv4_address: 10.1.0.5}}}\n"
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}\n",
        "E_MODEL_CONFLICT 3:32 services.b.networks.n.ipv4_address: 10.1.0.5 is that of 'a' too",
    ),
    "address of replicas": (
        "services:\n  a: {image: x, scale: 2, networks: {n: {ipv4_address: 10.1.0.5}}}\n"
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24}]}}}\n",
        "E_MODEL_CONFLICT 2:42 services.a.networks.n.ipv4_address: 2 replicas cannot all have 10.1.0.5",
    ),
    "address of the gateway": (
        "services:\n  a: {image: x, networks: {n: {ipv4_address: 10.1.0.9}}}\n"
        "networks: {n: {ipam: {config: [{subnet: 10.1.0.0/24, gateway: 10.1.0.9}]}}}\n",
        "E_MODEL_CONFLICT 2:32 services.a.networks.n.ipv4_address: 10.1.0.9 is the gateway of 'n'",
    ),
    "restart": (
        "services:\n  a: {image: x, restart: allways}\n",
        "E_VALUE 2:17 services.a.restart: 'allways' is none of no, always, unless-stopped, on-failure "
        "and on-failure:TIMES",
    ),
    "signal": (
        "services:\n  a: {image: x, stop_signal: SIGTREM}\n",
        "E_VALUE 2:17 services.a.stop_signal: 'SIGTREM' is not a signal",
    ),
    "host name": (
        "services:\n  a: {image: x, hostname: a b}\n",
        "E_VALUE 2:17 services.a.hostname: 'a b' is not a host name",
    ),
    "container name form": (
        "services:\n  a: {image: x, container_name: ab c}\n",
        "E_VALUE 2:17 services.a.container_name: 'ab c' may hold letters, digits, '_', '.' and '-' only",
    ),
    "relative target": (
        "services:\n  a: {image: x, volumes: ['./a:b']}\n",
        "E_VALUE 2:27 services.a.volumes: the target 'b' is not an absolute path",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), WRONG.values(), ids=WRONG.keys())
def test_one_fault(tmp_path: pathlib.Path, text: str, fault: str) -> None:
    assert stacks.faults(stacks.refused(tmp_path, text)) == [fault]


# What looks like a conflict and is none.
RIGHT = {
    "protocols": "services: {a: {image: x, ports: ['80:1', '80:1/udp']}}",
    "host addresses": "services: {a: {image: x, ports: ['127.0.0.1:80:1', '127.0.0.2:80:1']}}",
    "the host chooses": "services: {a: {image: x, scale: 3, ports: ['80']}}",
    "a range for replicas": "services: {a: {image: x, scale: 3, ports: ['80-82:1']}}",
    "not required": "services: {a: {image: x, depends_on: {b: {condition: service_started, required: false}}}, b: {image: x, profiles: [p]}}",
    "diamond": "services: {a: {image: x, depends_on: [b, c]}, b: {image: x, depends_on: [d]}, c: {image: x, depends_on: [d]}, d: {image: x}}",
    "external": "services: {a: {image: x, networks: {n: {ipv4_address: 10.0.0.5}}}}\nnetworks: {n: {external: true}}",
    "signals": "services: {a: {image: x, stop_signal: SIGRTMIN+3}, b: {image: x, stop_signal: '9'}, c: {image: x, stop_signal: usr1}}",
    "restarts": "services: {a: {image: x, restart: 'on-failure:3'}, b: {image: x, restart: 'no'}}",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT.keys())
def test_what_is_no_fault(tmp_path: pathlib.Path, text: str) -> None:
    assert stacks.load(tmp_path, text).diagnostics == ()


def test_what_matters_only_for_running_is_left_to_those_who_run(tmp_path: pathlib.Path) -> None:
    text = (
        "services: {a: {image: x, restart: soon, ports: ['80:1']}, b: {image: x, ports: ['80:1']}}"
    )
    assert stacks.load(tmp_path, text, for_running=False).services["a"].lifecycle.restart == "soon"
    assert len(stacks.faults(stacks.refused(tmp_path, text))) == 2


def test_a_long_chain_of_dependencies_is_no_matter(tmp_path: pathlib.Path) -> None:
    lines = [f"  s{i}: {{image: x, depends_on: [s{i + 1}]}}" for i in range(2000)]
    text = "services:\n" + "\n".join(lines) + "\n  s2000: {image: x}\n"
    assert len(stacks.load(tmp_path, text).services) == 2001


def test_networks_and_volumes_that_nobody_uses_are_dropped(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(
        tmp_path,
        "services:\n  a: {image: x, networks: [n], volumes: ['data:/v']}\n"
        "  b: {image: x, profiles: [p], networks: [m]}\n"
        "networks: {n: , m: , unused: }\nvolumes: {data: , unused: }\n",
    )
    assert sorted(stack.networks) == ["m", "n"]
    assert sorted(stack.volumes) == ["data"]


def test_a_volume_of_one_letter_is_told_why_it_is_none(tmp_path: pathlib.Path) -> None:
    error = stacks.refused(tmp_path, "services: {a: {image: x, volumes: ['v:/v']}}\nvolumes: {v: }")
    assert "drive" in error.hint
