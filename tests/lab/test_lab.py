"""The lab itself: what its users rely on, seen on a running one."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.fixtures import Stack

pytestmark = pytest.mark.lab


@pytest.fixture
def second() -> Iterator[labs.Lab]:
    """A lab of this test's own, to be stopped, killed and removed."""
    made = labs.Lab(f"side-{secrets.token_hex(3)}")
    made.up()
    yield made
    made.down()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for a condition; whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def project(lab: labs.Lab, name: str) -> str:
    """A project that uses the images and the default profile of project default."""
    config = {"features.images": "false", "features.profiles": "false"}
    lab.api("POST", "/1.0/projects", {"name": name, "config": config})
    return name


def launch(lab: labs.Lab, where: str, name: str, image: str, **more: object) -> None:
    """Create an instance from an image of the lab's registry, and start it."""
    repository = image if "/" in image else f"library/{image}"
    server = f"https://{labs.REGISTRY}"
    source = {"type": "image", "protocol": "oci", "server": server, "alias": repository}
    body = {"name": name, "source": source, **more}
    lab.api("POST", f"/1.0/instances?project={where}", body)
    action = {"action": "start", "timeout": 30}
    lab.api("PUT", f"/1.0/instances/{name}/state?project={where}", action)


def state(lab: labs.Lab, where: str, name: str) -> Any:
    return lab.api("GET", f"/1.0/instances/{name}/state?project={where}")


def status(lab: labs.Lab, where: str, name: str) -> str:
    """An instance's status from the list: its state cannot be asked for while it ends."""
    return str(lab.api("GET", f"/1.0/instances/{name}?project={where}")["status"])


def address(lab: labs.Lab, where: str, name: str) -> str:
    addresses = state(lab, where, name)["network"]["eth0"]["addresses"]
    return str(next(a["address"] for a in addresses if a["family"] == "inet"))


def logged(lab: labs.Lab, where: str, name: str) -> str:
    """What an instance wrote to its console; nothing while Incus cannot read it, as at its end."""
    try:
        return str(lab.api("GET", f"/1.0/instances/{name}/console?project={where}"))
    except labs.ApiError:
        return ""


def config_of(lab: labs.Lab, repository: str, tag: str, architecture: str) -> dict[str, Any]:
    """An image's config and layers as the registry gives them."""

    def get(path: str) -> Any:
        accept = (
            "application/vnd.oci.image.index.v1+json,application/vnd.oci.image.manifest.v1+json,"
        )
        accept += "application/vnd.docker.distribution.manifest.v2+json"
        url = f"http://{labs.REGISTRY}/v2/{repository}/{path}"
        return json.loads(lab.run(["curl", "-sfH", f"Accept: {accept}", url], check=True).stdout)

    manifest = get(f"manifests/{tag}")
    if "manifests" in manifest:
        chosen = [m for m in manifest["manifests"] if m["platform"]["architecture"] == architecture]
        manifest = get(f"manifests/{chosen[0]['digest']}")
    config = get(f"blobs/{manifest['config']['digest']}")
    return {**config, "layers": [layer["digest"] for layer in manifest["layers"]]}


def test_a_lab_that_is_up_is_left_as_it_is_within_a_second(lab: labs.Lab) -> None:
    before = lab.living()
    started = time.monotonic()
    assert lab.up() is False
    assert time.monotonic() - started < 1.0
    assert lab.living() == before


def test_incus_is_a_release_with_application_containers(lab: labs.Lab) -> None:
    server = lab.api("GET", "/1.0")
    assert server["environment"]["server_version"].startswith("7.")
    assert "instance_oci" in server["api_extensions"]
    assert server["auth"] == "trusted"


def test_busybox_is_pulled_and_starts_without_waiting_for_ipv6(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    launch(lab, where, "first", "busybox:1.36")
    started = time.monotonic()
    launch(lab, where, "again", "busybox")
    # With a NIC that waits for an address of IPv6 the start alone takes five seconds.
    assert time.monotonic() - started < 4.0
    assert state(lab, where, "again")["status"] == "Running"
    assert address(lab, where, "again").startswith("10.77.0.")


def test_the_web_server_serves_its_page_and_ends_on_its_stop_signal(
    lab: labs.Lab, stack: Stack
) -> None:
    where = project(lab, stack.name)
    launch(lab, where, "web", "nginx:alpine", config={"raw.lxc": "lxc.signal.halt=SIGQUIT"})
    url = f"http://{address(lab, where, 'web')}/"
    assert until(lambda: "Welcome to nginx!" in lab.run(["curl", "-s", url]).stdout)
    action = {"action": "stop", "timeout": 10, "force": False}
    lab.api("PUT", f"/1.0/instances/web/state?project={where}", action)
    assert state(lab, where, "web")["status"] == "Stopped"


def test_the_worker_runs_as_its_user_in_its_directory(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    launch(lab, where, "worker", "lab/worker:1")
    said = "worker worker:worker in /srv/app mode=mode-1 args=--serve 1"
    assert until(lambda: said in logged(lab, where, "worker")), logged(lab, where, "worker")


def test_a_process_that_asks_for_four_seconds_marks_that_it_got_them(
    lab: labs.Lab, stack: Stack
) -> None:
    where = project(lab, stack.name)
    own_init = "lxc.execute.cmd=\nlxc.init.cmd=/usr/local/bin/slowstop\nlxc.signal.halt=SIGTERM"
    launch(lab, where, "slow", "lab/slowstop:1", config={"raw.lxc": own_init})
    assert until(lambda: "ready" in logged(lab, where, "slow"))
    started = time.monotonic()
    action = {"action": "stop", "timeout": 20, "force": False}
    lab.api("PUT", f"/1.0/instances/slow/state?project={where}", action)
    assert time.monotonic() - started > 3.9
    mark = lab.api("GET", f"/1.0/instances/slow/files?project={where}&path=/data/stopped")
    assert str(mark).strip().isdigit()


def test_the_python_image_runs_python_with_its_library(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    check = "python3 -c 'import ssl, sqlite3, ctypes, zoneinfo; print(6 * 7)'"
    config = {"oci.entrypoint": check, "raw.lxc": "lxc.log.level=info"}
    launch(lab, where, "py", "python:3-alpine", config=config)
    assert until(lambda: logged(lab, where, "py").strip() == "42"), logged(lab, where, "py")


def test_a_process_that_ends_leaves_a_stopped_instance(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    launch(lab, where, "job", "lab/exit:1", config={"environment.EXIT_CODE": "3"})
    assert until(lambda: status(lab, where, "job") == "Stopped")
    assert until(lambda: logged(lab, where, "job").strip() == "exit: ends with 3")


def test_worker_1_and_2_differ_in_nothing_but_their_config(lab: labs.Lab) -> None:
    one = config_of(lab, "lab/worker", "1", "")
    two = config_of(lab, "lab/worker", "2", "")
    assert one["layers"] == two["layers"]
    assert one["config"]["Cmd"] != two["config"]["Cmd"]
    assert one["config"]["User"] == "worker"
    assert one["config"]["Volumes"] == {"/srv/data": {}}
    assert one["config"]["Healthcheck"]["Test"][0] == "CMD-SHELL"


def test_an_index_holds_another_platform_before_that_of_the_server(lab: labs.Lab) -> None:
    server = str(lab.api("GET", "/1.0")["environment"]["kernel_architecture"])
    own = {"x86_64": "amd64", "aarch64": "arm64"}[server]
    assert config_of(lab, "library/nginx", "alpine", own)["config"]["Cmd"][0] == "nginx"
    assert config_of(lab, "library/nginx", "alpine", "s390x")["config"]["Cmd"] == [
        "/wrong-platform"
    ]


def test_the_second_registry_asks_for_a_password(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    user = f"{labs.REGISTRY_USER}:{labs.REGISTRY_PASSWORD}@"
    source = {"type": "image", "mode": "pull", "protocol": "oci", "alias": "private/busybox:1"}

    def pull(user: str) -> Any:
        server = f"https://{user}{labs.PRIVATE_REGISTRY}"
        return lab.api(
            "POST", f"/1.0/images?project={where}", {"source": {**source, "server": server}}
        )

    with pytest.raises(labs.ApiError, match=r"(?i)unauthori[sz]ed|authentication required"):
        pull("")
    fingerprint = pull(user)["metadata"]["fingerprint"]
    lab.api("DELETE", f"/1.0/images/{fingerprint}")


def test_docker_hub_names_come_from_the_mirror(lab: labs.Lab) -> None:
    inspect = [
        "skopeo",
        "inspect",
        "--no-tags",
        "--format",
        "{{.Name}}",
        "docker://docker.io/library/nginx:alpine",
    ]
    assert lab.run(inspect, check=True).stdout.strip() == "docker.io/library/nginx"


def test_commands_run_inside_with_their_own_environment_and_status(
    lab: labs.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IC_LAB_LEAK", "seen")
    script = 'echo "$GIVEN|$IC_LAB_LEAK|$PWD"; cat; echo bad >&2; exit 7'
    done = lab.run(["sh", "-c", script], env={"GIVEN": "a b"}, cwd="/tmp", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "a b||/tmp\nin\n", "bad\n")
    with pytest.raises(labs.LabError, match="false failed"):
        lab.run(["false"], check=True)


def test_a_command_over_its_time_is_killed_with_what_it_said(lab: labs.Lab) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        lab.run(["sh", "-c", "echo begun; exec sleep 47"], timeout=0.5)
    assert caught.value.output == "begun\n"
    assert "sleep 47" not in processes(lab)


def test_signals_reach_the_command_itself(lab: labs.Lab) -> None:
    script = "trap 'echo asked; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    process = lab.popen(["sh", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=10)
    assert (process.wait(), out) == (5, "asked\n")
    process = lab.popen(["sleep", "48"])
    process.send_signal(signal.SIGSTOP)
    process.kill()
    process.communicate(timeout=10)
    assert process.wait() == -signal.SIGKILL


def processes(lab: labs.Lab) -> str:
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null"
    return lab.run(["sh", "-c", script]).stdout


def test_files_are_shared_and_the_repository_is_read_only(lab: labs.Lab, stack: Stack) -> None:
    stack.write("deep/compose.yaml", "services: {}\n")
    inside = f"{stack.inside}/deep/compose.yaml"
    assert lab.run(["cat", inside], check=True).stdout == "services: {}\n"
    lab.run(["sh", "-c", f"echo back >{stack.inside}/answer"], check=True)
    assert (stack.directory / "answer").read_text() == "back\n"
    assert lab.run(["readlink", "-f", "/opt/ic"]).stdout.strip() == "/opt/repo/dist"
    mine = hashlib.sha256(Path(labs.__file__).read_bytes()).hexdigest()
    assert mine in lab.run(["sha256sum", "/opt/repo/tests/lab/lab.py"], check=True).stdout
    assert "Read-only" in lab.run(["touch", "/opt/repo/x"]).stderr
    assert lab.path("/etc/hostname").read_text() == f"{lab.identity}\n"


def test_ports_are_seen_from_outside(lab: labs.Lab) -> None:
    assert lab.listening(8443)
    assert lab.listening(5000)
    assert not lab.listening(5002)


def test_another_machine_is_another_machine(lab: labs.Lab) -> None:
    other = lab.machine("other")
    assert lab.machine("other").living() == other.living()
    facts = (
        "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; readlink /proc/self/ns/net"
    )
    here = lab.run(["sh", "-c", facts], check=True).stdout.split()
    there = other.run(["sh", "-c", facts], check=True).stdout.split()
    assert len(here) == len(there) == 4
    assert not set(here) & set(there)
    assert "No such file" in other.run(["ls", "/var/lib/incus/unix.socket"]).stderr
    lab.workdir("only-here")
    assert other.run(["ls", "/stacks/only-here"]).returncode != 0


def test_another_machine_reaches_incus_over_https_with_a_pinned_certificate(lab: labs.Lab) -> None:
    stranger = lab.machine("stranger")
    seen = json.loads(stranger.run(["curl", "-sk", f"{lab.url}/1.0"], check=True).stdout)
    assert seen["metadata"]["auth"] == "untrusted"
    other = lab.trusted_remote("other")
    assert other.run(["incus", "list", "lab:"], check=True).returncode == 0
    pinned = other.run(["cat", "/root/.config/incus/servercerts/lab.crt"], check=True).stdout
    assert pinned.strip() == lab.api("GET", "/1.0")["environment"]["certificate"].strip()
    trusted = other.run(
        [
            *("curl", "-sk", "--cert", "/root/.config/incus/client.crt"),
            *("--key", "/root/.config/incus/client.key", f"{lab.url}/1.0"),
        ],
        check=True,
    )
    assert json.loads(trusted.stdout)["metadata"]["auth"] == "trusted"


def test_a_published_port_answers_from_another_machine(lab: labs.Lab, stack: Stack) -> None:
    where = project(lab, stack.name)
    publish = {"type": "proxy", "listen": "tcp:0.0.0.0:8088", "connect": "tcp:127.0.0.1:80"}
    launch(lab, where, "web", "nginx:alpine", devices={"http": publish})
    url = f"http://{labs.ADDRESS}:8088/"
    other = lab.machine("other")
    assert until(lambda: "Welcome to nginx!" in other.run(["curl", "-s", url]).stdout)
    assert lab.listening(8088)


def test_sweep_deletes_what_carries_the_prefix_and_nothing_else(
    lab: labs.Lab, stack: Stack
) -> None:
    mine, kept = f"{stack.name}-a", f"kept-{stack.name}"
    project(lab, mine)
    project(lab, kept)
    launch(lab, mine, "box", "busybox")
    config = {"ipv4.address": "none", "ipv6.address": "none", "user.ic.stack": mine}
    lab.api("POST", "/1.0/networks", {"name": "labswept", "type": "bridge", "config": config})
    assert lab.sweep(stack.name) == [mine, "labswept"]
    left = lab.api("GET", "/1.0/projects")
    assert f"/1.0/projects/{kept}" in left
    assert f"/1.0/projects/{mine}" not in left
    assert "/1.0/networks/incusbr0" in lab.api("GET", "/1.0/networks")
    lab.api("DELETE", f"/1.0/projects/{kept}")


def test_containers_outlive_a_killed_daemon(second: labs.Lab) -> None:
    launch(second, "default", "box", "busybox")
    init = state(second, "default", "box")["pid"]
    second.kill_incusd()
    with pytest.raises(OSError, match=r"refused|No such file"):
        second.api("GET", "/1.0")
    assert second.path(f"/proc/{init}/stat").exists()
    second.start_incusd()
    assert until(lambda: state(second, "default", "box")["pid"] == init)
    second.restart_incusd()
    assert until(lambda: state(second, "default", "box")["pid"] == init)


def test_orphans_are_reaped(lab: labs.Lab) -> None:
    script = "for n in 1 2 3 4 5; do sh -c 'sleep 0.2 & :'; done"
    lab.run(["sh", "-c", script], check=True)

    def zombies() -> list[str]:
        stats = lab.run(["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"]).stdout.splitlines()
        return [line for line in stats if ") Z 1 " in line]

    assert until(lambda: not zombies()), zombies()


def test_two_labs_live_side_by_side_and_one_leaves_nothing(lab: labs.Lab, second: labs.Lab) -> None:
    launch(second, "default", "box", "busybox")
    other = second.trusted_remote("other")
    assert "box" not in lab.incus("list", "--format", "csv", "--columns", "n")
    assert second.incus("query", "/1.0/instances") == ["/1.0/instances/box"]
    spaces = {Path(f"/proc/{p.living()}/ns/net").readlink() for p in (second, other)}
    assert Path(f"/proc/{lab.living()}/ns/net").readlink() not in spaces
    assert len(spaces) == 2
    first = lab.living()

    assert second.down() is True

    assert second.pid() is None
    assert not second.directory.exists()
    assert until(lambda: not in_namespaces({str(space) for space in spaces}))
    assert second.identity not in Path("/proc/self/mountinfo").read_text()
    with pytest.raises(labs.LabError, match="is not up"):
        second.run(["true"])
    assert second.down() is False
    assert lab.living() == first
    assert lab.api("GET", "/1.0")["auth"] == "trusted"


def in_namespaces(spaces: set[str]) -> list[str]:
    """The processes of this machine that live in one of these network namespaces."""
    found: list[str] = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            space = str((directory / "ns" / "net").readlink())
        except OSError:
            continue  # it has ended
        if space in spaces:
            found.append(directory.name)
    return found


def test_the_machine_itself_is_left_alone(lab: labs.Lab) -> None:
    links = Path("/proc/net/dev").read_text()
    assert "lab0" not in links
    assert "incusbr0" not in links or Path("/var/lib/incus").exists()
    assert str(lab.directory) not in Path("/proc/self/mountinfo").read_text()


def test_the_command_line_runs_commands_and_names_what_is_wrong(lab: labs.Lab) -> None:
    def call(*args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, labs.__file__, *args]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    done = call("exec", "--name", lab.name, "--env", "A=b=c", "--", "sh", "-c", "echo $A; exit 9")
    assert (done.returncode, done.stdout) == (9, "b=c\n")
    assert re.search(rf"^{lab.name} +up ", call("status").stdout, re.MULTILINE)
    assert call("pid", "--name", lab.name).stdout == f"{lab.living()}\n"
    missing = call("exec", "--name", "no-such-lab", "--", "true")
    assert (missing.returncode, missing.stderr) == (1, "lab: lab ic-lab-no-such-lab is not up\n")
    assert "at most 31 characters" in call("up", "--name", "Bad_Name").stderr
    assert call("up", "--name", lab.name).stderr == f"lab: {lab.name} was up already\n"
