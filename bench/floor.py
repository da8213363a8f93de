"""The floor: the fewest raw calls that make and end N instances, and how long the server takes for them.

A script of the standard library alone, run beside the server: `floor.py up|down NAME COUNT`. Up: project,
bridge, then create and start of each instance back to back, three in flight. Down: stop with sixteen,
delete with four, then the bridge; the project is deleted outside the measured time. The instances are
those that ic makes of the bench's services: busybox that ends on SIGTERM at once, one address each.
Prints one JSON object: {"seconds", "calls"}.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
import sys
import threading
import time
from typing import Any

SOCKET = "/var/lib/incus/unix.socket"
IDLE = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"
CREATE_AND_START, STOP, DELETE = 3, 16, 4

local = threading.local()
calls: list[str] = []


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: object = None) -> Any:
    """One request, on the thread's own connection; a background operation is waited for."""
    if not hasattr(local, "link"):
        local.link = UnixConnection("incus")
    calls.append(f"{method} {path}")
    data = json.dumps(body) if body is not None else None
    local.link.request(method, path, data, {"Content-Type": "application/json"})
    answer = json.loads(local.link.getresponse().read())
    if answer["type"] == "error":
        raise SystemExit(f"{method} {path}: {answer['error']}")
    if answer["type"] != "async":
        return answer["metadata"]
    done = call("GET", f"{answer['operation'].split('?')[0]}/wait")
    if done["status_code"] != 200:
        raise SystemExit(f"{method} {path}: {done['err']}")
    return done


def image() -> str:
    """The fingerprint of the cached busybox image, pulled when it is not there."""
    for known in call("GET", "/1.0/images?recursion=1"):
        if "busybox" in known["properties"].get("id", ""):
            return known["fingerprint"]
    source = {
        "type": "image",
        "mode": "pull",
        "protocol": "oci",
        "server": "https://127.0.0.1:5000",
        "alias": "library/busybox",
    }
    done = call("POST", "/1.0/images", {"source": source})
    return done["metadata"]["fingerprint"]


def each(workers: int, what: Any, numbers: range) -> None:
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(what, numbers))


def up(name: str, count: int) -> None:
    """Project, bridge, and each instance created and started."""
    fingerprint = image()
    calls.clear()
    began = time.monotonic()
    features = {"features.images": "false", "features.profiles": "true"}
    call("POST", "/1.0/projects", {"name": name, "config": features})
    config = {"ipv4.address": "10.222.7.1/24", "ipv4.nat": "true", "ipv6.address": "none"}
    call("POST", "/1.0/networks", {"name": name, "type": "bridge", "config": config})

    def make(number: int) -> None:
        body = {
            "name": f"s{number}",
            "type": "container",
            "source": {"type": "image", "fingerprint": fingerprint},
            "profiles": [],
            "config": {
                "raw.lxc": "lxc.execute.cmd=\nlxc.init.cmd='sh' '-c' \"" + IDLE + '"\n'
                "lxc.signal.halt=SIGTERM\nlxc.log.level=info\n",
                "user.ic.stack": "bench",
            },
            "devices": {
                "root": {"type": "disk", "path": "/", "pool": "default"},
                "eth0": {
                    "type": "nic",
                    "network": name,
                    "name": "eth0",
                    "ipv4.address": f"10.222.7.{10 + number}",
                    "ipv6.address": "none",
                },
            },
        }
        call("POST", f"/1.0/instances?project={name}", body)
        state = {"action": "start", "timeout": 30}
        call("PUT", f"/1.0/instances/s{number}/state?project={name}", state)

    each(CREATE_AND_START, make, range(count))
    seconds = time.monotonic() - began
    counted = len(calls)
    for one in call("GET", f"/1.0/instances?project={name}&recursion=1"):
        if one["status"] != "Running":
            raise SystemExit(f"{one['name']} is {one['status']}")
    print(json.dumps({"seconds": seconds, "calls": counted}))


def down(name: str, count: int) -> None:
    """Stop, delete, bridge; then, unmeasured, the project."""
    began = time.monotonic()

    def stop(number: int) -> None:
        state = {"action": "stop", "timeout": 10}
        call("PUT", f"/1.0/instances/s{number}/state?project={name}", state)

    def delete(number: int) -> None:
        call("DELETE", f"/1.0/instances/s{number}?project={name}")

    each(STOP, stop, range(count))
    each(DELETE, delete, range(count))
    call("DELETE", f"/1.0/networks/{name}")
    seconds = time.monotonic() - began
    counted = len(calls)
    call("DELETE", f"/1.0/projects/{name}?force=true")
    print(json.dumps({"seconds": seconds, "calls": counted}))


if __name__ == "__main__":
    {"up": up, "down": down}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
