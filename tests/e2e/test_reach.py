"""Obligation: services are reached, find each other, and keep their files as compose says."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e import scenario
from tests.lab import lab as labs

TCP, UDP, BOUND = 18080, 18081, 18082

ECHO = """\
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.bind(("0.0.0.0", 7))
while True:
    data, peer = link.recvfrom(2048)
    link.sendto(data.upper(), peer)
"""
ASK = """\
import socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.settimeout(5)
link.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
print(link.recv(2048).decode())
"""
FIRST = "for n in web www my_db my-db; do nslookup $$n >/out/$$n 2>&1 || exit 1; done"


@pytest.fixture(scope="module")
def reach(shared: scenario.Scenario) -> scenario.Scenario:
    shared.write("page/index.html", "a page of mine\n")
    shared.write("conf/app.conf", "from the host\n")
    shared.write("echo.py", ECHO)
    (shared.directory / "out").mkdir()
    shared.compose(
        {
            "services": {
                "web": {
                    "image": "nginx:alpine",
                    "ports": [f"{TCP}:80", f"127.0.0.1:{BOUND}:80"],
                    "volumes": ["./page:/usr/share/nginx/html:ro"],
                    "networks": {"front": {"aliases": ["www"]}, "back": {}},
                },
                "my_db": {
                    "image": "lab/worker:1",
                    "volumes": ["/srv/data", "named:/srv/app", "./conf:/conf"],
                    "networks": ["back"],
                },
                "echo": {
                    "image": "python:3-alpine",
                    "command": ["python3", "/echo.py"],
                    "ports": [f"{UDP}:7/udp"],
                    "volumes": ["./echo.py:/echo.py:ro", {"type": "tmpfs", "target": "/scratch"}],
                    "networks": ["front"],
                },
                "peek": scenario.idle(
                    networks=["front", "back"], user="1000:1000", working_dir="/tmp"
                ),
                "hidden": scenario.idle(networks=["inside"], hostname="other-name"),
                "neighbour": {"image": "nginx:alpine", "networks": ["inside"]},
                "early": {
                    "image": "busybox",
                    "command": ["sh", "-c", FIRST],
                    "volumes": ["./out:/out"],
                    "networks": ["front", "back"],
                },
            },
            "networks": {
                "front": {},
                "back": {"ipam": {"config": [{"subnet": "10.66.7.0/24", "gateway": "10.66.7.1"}]}},
                "inside": {"internal": True},
            },
            "volumes": {"named": {}},
        }
    )
    (shared.directory / "out").chmod(0o777)
    shared.apply()
    return shared


def fetch(place: labs.Place, url: str) -> str:
    return place.run(["curl", "-sS", "--max-time", "8", url], check=True).stdout


def refused(place: labs.Place, url: str) -> bool:
    return place.run(["curl", "-sS", "--max-time", "3", url]).returncode != 0


def test_a_tcp_port_answers_on_loopback_on_the_host_and_from_another_machine(
    reach: scenario.Scenario,
) -> None:
    other = reach.lab.machine("other")
    for place, host in ((reach.lab, "127.0.0.1"), (reach.lab, "10.76.0.1"), (other, "10.76.0.1")):
        assert fetch(place, f"http://{host}:{TCP}/") == "a page of mine\n"


def test_a_port_with_a_host_address_answers_there_alone(reach: scenario.Scenario) -> None:
    assert fetch(reach.lab, f"http://127.0.0.1:{BOUND}/") == "a page of mine\n"
    assert refused(reach.lab, f"http://10.76.0.1:{BOUND}/")


def test_a_udp_port_answers_on_loopback_on_the_host_and_from_another_machine(
    reach: scenario.Scenario,
) -> None:
    other = reach.lab.machine("other")
    for place, host in ((reach.lab, "127.0.0.1"), (reach.lab, "10.76.0.1"), (other, "10.76.0.1")):
        asked = place.run(["python3", "-c", ASK, host, str(UDP)], check=True)
        assert asked.stdout == "HELLO\n"


def address(reach: scenario.Scenario, instance: str, device: str) -> str:
    return reach.instance(instance)["devices"][device]["ipv4.address"]


def test_names_and_aliases_resolve_from_the_first_moment(reach: scenario.Scenario) -> None:
    for name, instance in (("web", "web"), ("www", "web"), ("my_db", "my-db"), ("my-db", "my-db")):
        answer = (reach.directory / "out" / name).read_text()
        found = {
            d["ipv4.address"]
            for d in reach.instance(instance)["devices"].values()
            if "ipv4.address" in d
        }
        assert any(one in answer for one in found), answer


def test_names_resolve_after_a_restart_of_either_side(reach: scenario.Scenario) -> None:
    for instance in ("web", "peek"):
        body = {"action": "restart", "force": True, "timeout": 10}
        reach.send("PUT", f"/1.0/instances/{instance}/state", body)
    for name in ("web", "www", "my_db"):
        reach.run("peek", "nslookup", name)
    assert reach.run("peek", "wget", "-qO-", "http://web/") == "a page of mine\n"


def test_a_network_has_the_subnet_and_gateway_of_the_file(reach: scenario.Scenario) -> None:
    assert reach.networks()["back"]["config"]["ipv4.address"] == "10.66.7.1/24"
    assert address(reach, "my-db", "eth0").startswith("10.66.7.")


def test_networks_are_attached_in_the_order_of_the_file(reach: scenario.Scenario) -> None:
    devices = reach.instance("peek")["devices"]
    assert devices["eth0"]["network"] == reach.networks()["front"]["name"]
    assert devices["eth1"]["network"] == reach.networks()["back"]["name"]


def test_an_internal_network_has_no_way_out(reach: scenario.Scenario) -> None:
    route = reach.run("hidden", "ip", "route")
    assert "default" not in route
    config = reach.networks()["inside"]["config"]
    assert config.get("ipv4.nat", "false") == "false"
    out = reach.lab.run(
        [
            "incus",
            "exec",
            "--project",
            reach.name,
            "hidden",
            "--",
            "ping",
            "-c1",
            "-W1",
            "10.76.0.1",
        ]
    )
    assert out.returncode != 0


def test_instances_of_an_internal_network_reach_each_other(reach: scenario.Scenario) -> None:
    assert "nginx" in reach.run("hidden", "wget", "-qO-", "-T", "5", "http://neighbour/")


def test_user_working_directory_and_host_name_are_those_of_the_file(
    reach: scenario.Scenario,
) -> None:
    status = reach.run("peek", "cat", "/proc/1/status")
    assert "Uid:\t1000\t1000\t1000\t1000" in status
    assert "Gid:\t1000\t1000\t1000\t1000" in status
    assert reach.run("peek", "readlink", "/proc/1/cwd").strip() == "/tmp"
    assert reach.run("hidden", "hostname").strip() == "other-name"


def test_the_images_user_and_directory_are_used(reach: scenario.Scenario) -> None:
    assert "Uid:\t1234\t" in reach.run("my-db", "cat", "/proc/1/status")
    assert reach.run("my-db", "readlink", "/proc/1/cwd").strip() == "/srv/app"


def test_a_new_volume_is_filled_from_the_image_with_owner_and_mode(
    reach: scenario.Scenario,
) -> None:
    def stat(path: str) -> str:
        return reach.run("my-db", "stat", "-c", "%a %u:%g", path).strip()

    # The image says 2750; the server's files API tells nothing of set-id bits.
    assert stat("/srv/data") == "750 1234:1234"
    assert stat("/srv/data/seed.txt") == "640 1234:1234"
    assert stat("/srv/data/deep") == "700 1234:50"
    assert reach.run("my-db", "cat", "/srv/data/seed.txt") == "seeded by the image\n"
    assert reach.run("my-db", "readlink", "/srv/data/deep/link").strip() == "../seed.txt"
    assert stat("/srv/app") == "755 1234:1234"
    # The service writes its volume as its own user.
    assert reach.run("my-db", "cat", "/srv/data/alive").strip().isdigit()
    mounts = {
        d["path"]: d
        for d in reach.instance("my-db")["devices"].values()
        if d["type"] == "disk" and "path" in d
    }
    assert mounts["/srv/app"]["source"] == "named"
    assert mounts["/srv/data"]["source"] in reach.volumes()


def test_a_bind_shows_the_hosts_files_both_ways(reach: scenario.Scenario) -> None:
    assert reach.run("my-db", "cat", "/conf/app.conf") == "from the host\n"
    assert reach.run("my-db", "stat", "-c", "%u:%g", "/conf/app.conf").strip() == "0:0"
    reach.run("my-db", "sh", "-c", "echo back >/conf/answer")
    assert (reach.directory / "conf" / "answer").read_text() == "back\n"
    failed = reach.lab.run(
        ["incus", "exec", "--project", reach.name, "web", "--", "touch", "/usr/share/nginx/html/x"]
    )
    assert failed.returncode != 0


def test_a_tmpfs_is_one(reach: scenario.Scenario) -> None:
    assert " /scratch tmpfs " in reach.run("echo", "cat", "/proc/mounts")


def test_ps_tells_what_runs(reach: scenario.Scenario) -> None:
    rows = {row["name"]: row for row in reach.ic("ps", "--json").json()["instances"]}
    assert set(rows) == {"web", "my-db", "echo", "peek", "hidden", "neighbour", "early"}
    assert rows["my-db"]["service"] == "my_db"
    assert rows["web"]["state"] == "running"
    assert (rows["early"]["state"], rows["early"]["exit_code"]) == ("exited", 0)
    assert str(TCP) in json.dumps(rows["web"]["ports"])
    assert address(reach, "web", "eth0") in json.dumps(rows["web"]["addresses"])


def test_a_taken_port_is_refused_before_anything_changes(
    reach: scenario.Scenario, case: scenario.Scenario
) -> None:
    case.compose({"services": {"thief": scenario.idle(ports=[f"{TCP}:80"])}})
    before = scenario.everything(case.lab)
    done = case.ic("apply", "-y", code=1)
    assert str(TCP) in done.err
    assert scenario.everything(case.lab) == before


def test_an_address_stays_through_a_replacement(reach: scenario.Scenario) -> None:
    before = address(reach, "peek", "eth0"), reach.uuid("peek")
    document = json.loads((reach.directory / "compose.yaml").read_text())
    document["services"]["peek"]["image"] = "alpine:3"
    document["services"]["peek"]["labels"] = {"changed": str(time.time())}
    reach.apply(document)
    assert reach.uuid("peek") != before[1]
    assert address(reach, "peek", "eth0") == before[0]
