"""The lab: a real Incus server and its image registries, alone in namespaces of this machine.

`lab.py up` brings up Debian's Incus in mount, network, process, host name, IPC and cgroup
namespaces of its own, with an open registry on 127.0.0.1:5000 and one that asks for a password on
127.0.0.1:5001. Several labs live side by side over one cached root. `machine NAME` adds another
machine: namespaces of its own, joined to the lab by a cable. Nothing of the machine that it runs on
is touched: not its Incus, its bridges or its packet filter. `lab.py down` leaves nothing.

Runs as root on Debian 12 and 13 with nothing but Debian's own python3; debootstrap is installed
when it is missing. The tests use this file as a module, through `fixtures.py`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
SUITE = "trixie"
PACKAGES = (
    f"incus-base/{SUITE}-backports",
    f"incus-client/{SUITE}-backports",
    "acl",
    "attr",
    "btrfs-progs",
    "busybox-static",
    "ca-certificates",
    "curl",
    "dnsmasq-base",
    "docker-registry",
    "iproute2",
    "lxcfs",
    "nftables",
    "openssl",
    "python3",
    "rsync",
    "skopeo",
    "squashfs-tools",
    "tzdata",
    "uidmap",
    "umoci",
    "xz-utils",
)
REGISTRY = "127.0.0.1:5000"
PRIVATE_REGISTRY = "127.0.0.1:5001"
REGISTRY_USER = "lab"
REGISTRY_PASSWORD = "lab-password"
REGISTRY_HTPASSWD = "lab:$2y$05$AxxufT.GyWXHz91fz.xUtePwPqAxc0UaBvXqNqq.9QAU5bFzeH8yi"
ADDRESS = "10.76.0.1"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

REGISTRIES_CONF = f"""\
# docker.io is mirrored by the lab's own registry, as an operator would set up a mirror.
unqualified-search-registries = ["docker.io"]

[[registry]]
prefix = "docker.io"
location = "docker.io"

[[registry.mirror]]
location = "{REGISTRY}"
insecure = true

[[registry]]
location = "{REGISTRY}"
insecure = true

[[registry]]
location = "{PRIVATE_REGISTRY}"
insecure = true
"""

REGISTRY_YML = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {directory}}}
  delete: {{enabled: true}}
http:
  addr: {address}
  secret: lab
"""
REGISTRY_AUTH_YML = """\
auth:
  htpasswd: {realm: lab, path: /etc/docker/registry/htpasswd}
"""


class LabError(Exception):
    """The lab cannot do what was asked; the text says why."""


class ApiError(LabError):
    """Incus answered a request with an error."""

    def __init__(self, request: str, code: int, text: str) -> None:
        super().__init__(f"{request}: {code} {text}")
        self.code = code
        self.text = text


def cache_directory() -> Path:
    return Path(os.environ.get("IC_LAB_CACHE", "/var/cache/ic-lab"))


def state_directory() -> Path:
    return Path(os.environ.get("IC_LAB_STATE", "/var/lib/ic-lab"))


# The cached base root


def recipe() -> str:
    """A hash over all that decides what the base root holds."""
    parts = [SUITE, *PACKAGES, REGISTRIES_CONF, REGISTRY_YML, REGISTRY_AUTH_YML, REGISTRY_HTPASSWD]
    parts += [(HERE / "images.py").read_text(), "1"]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def output_of(*argv: str) -> str:
    """Standard output of a command of this machine; LabError with its words when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{shlex.join(argv)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout


def require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: namespaces, mounts and a package installation")


def install(*packages: str) -> None:
    """Install packages of this machine's Debian."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{shlex.join(argv)} failed:\n{done.stdout}{done.stderr}")


def debian_mirror() -> str | None:
    """The Debian mirror that this machine's apt uses, or None when apt does not say."""
    query = ("apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)")
    for line in output_of(*query).splitlines():
        origin, label, component, uri = line.split("|", 3)
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return uri.rstrip("/")
    return None


def apt_settings() -> str:
    """What this machine's apt configuration says about reaching its servers."""
    kept = re.compile(r"Acquire::(https?|Check-|Retries|ForceIPv|Max-|Proxy|AllowInsecure)")
    dump = output_of("apt-config", "dump", "Acquire").splitlines()
    # A script that finds the proxy is not there in the new root; its answer is asked for instead.
    return "".join(f"{line}\n" for line in dump if kept.match(line) and "Detect" not in line)


def apt_proxy(mirror: str) -> str | None:
    """The proxy that this machine's apt takes to a mirror, detection scripts included."""
    scheme = mirror.split(":", 1)[0]
    values = dict(
        line.rstrip(";").split(" ", 1)
        for line in output_of("apt-config", "dump", f"Acquire::{scheme}::").splitlines()
        if " " in line
    )
    proxy = values.get(f"Acquire::{scheme}::Proxy", '""').strip('"')
    helper = Path("/usr/lib/apt/apt-helper")
    if not proxy and helper.exists() and any("Detect" in name for name in values):
        found = subprocess.run(
            [helper, "auto-detect-proxy", mirror], capture_output=True, text=True, check=False
        )
        words = found.stdout.split()
        proxy = words[-1] if words and "://" in words[-1] and words[-1] != mirror else ""
    return proxy if proxy and proxy != "DIRECT" else None


def build_base(target: Path) -> None:
    """Make the base root: Debian with Incus, the registries' content, their configuration.

    Built beside its place and renamed into it, so that a base root is there whole or not at all.
    """
    if not shutil.which("debootstrap"):
        say("installing debootstrap")
        install("debootstrap")
    mirror = debian_mirror()
    if mirror is None:
        output_of("apt-get", "update", "-q")
        mirror = debian_mirror()
    work = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    log = target.parent / "build.log"
    root = work / "root"
    try:
        with log.open("w") as out:
            say(f"building the base root, about a minute (log: {log})")
            populate(root, work, mirror, out)
        say("making the images")
        output_of(sys.executable, str(HERE / "images.py"), str(root))
        root.rename(target)
    except LabError as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise LabError(f"{error}\n{tail}\n(all of it: {log})") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def populate(root: Path, work: Path, mirror: str | None, out: Any) -> None:
    """Fill a root from Debian's packages, by the way this machine's own apt takes."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    fetch = dict(env)
    auth = [Path("/etc/apt/auth.conf"), *sorted(Path("/etc/apt/auth.conf.d").glob("*.conf"))]
    auth = [file for file in auth if file.is_file()]
    if auth:
        # debootstrap fetches with wget, which reads the same words from a .netrc.
        netrc = work / ".netrc"
        netrc.touch(mode=0o600)
        netrc.write_text("\n".join(file.read_text() for file in auth))
        fetch["HOME"] = str(work)
    proxy = apt_proxy(mirror) if mirror else None
    if mirror and proxy:
        fetch[f"{mirror.split(':', 1)[0]}_proxy"] = proxy

    def step(argv: list[str], environment: Mapping[str, str]) -> None:
        out.write(f"$ {shlex.join(argv)}\n")
        out.flush()
        done = subprocess.run(
            argv, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise LabError(f"{argv[0]} failed ({done.returncode}) while building the base root")

    address = [mirror] if mirror else []
    step(["debootstrap", "--variant=minbase", SUITE, str(root), *address], fetch)

    def write(path: str, text: str, mode: int = 0o644) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    configured = (root / "etc/apt/sources.list").read_text()
    uri = mirror or configured.split()[1]
    settings = apt_settings() + (
        f'Acquire::{uri.split(":")[0]}::Proxy "{proxy}";\n' if proxy else ""
    )
    write("etc/apt/sources.list", f"deb {uri} {SUITE} main\ndeb {uri} {SUITE}-backports main\n")
    write("etc/apt/apt.conf.d/99host", settings)
    write("etc/dpkg/dpkg.cfg.d/lab", "force-unsafe-io\npath-exclude=/usr/share/man/*\n")
    write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    for file in auth:
        write(f"etc/apt/auth.conf.d/host-{file.name}", file.read_text(), 0o600)
    for directory in (
        "etc/apt/keyrings",
        "etc/apt/trusted.gpg.d",
        "usr/local/share/ca-certificates",
    ):
        if Path("/", directory).is_dir():
            shutil.copytree(Path("/", directory), root / directory, dirs_exist_ok=True)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    if certificates.is_file():
        write("etc/ssl/certs/ca-certificates.crt", certificates.read_text())
    for name in ("resolv.conf", "hosts"):
        if Path("/etc", name).exists():
            write(f"etc/{name}", Path("/etc", name).read_text())
    step(["chroot", str(root), "apt-get", "update", "-q"], env)
    install_all = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    step(["chroot", str(root), *install_all], env)
    step(["chroot", str(root), "apt-get", "clean"], env)

    # Nothing of this machine's access stays behind, nor what the lab has no use for.
    for pattern in ("etc/apt/auth.conf.d/host-*", "etc/apt/apt.conf.d/99host", "etc/machine-id"):
        for file in root.glob(pattern):
            file.unlink()
    for directory in ("var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "var/cache/apt"):
        shutil.rmtree(root / directory, ignore_errors=True)
    for directory in ("opt/repo", "stacks", "var/lib/docker-registry-private"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "opt/ic").symlink_to("repo/dist")
    write("etc/apt/sources.list", f"# {SUITE}: the lab reaches no package server\n")
    write("etc/subuid", "root:1000000:1000000000\n")
    write("etc/subgid", "root:1000000:1000000000\n")
    write("etc/containers/registries.conf", REGISTRIES_CONF)
    write("etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    public = REGISTRY_YML.format(directory="/var/lib/docker-registry", address=REGISTRY)
    private = REGISTRY_YML.format(
        directory="/var/lib/docker-registry-private", address=PRIVATE_REGISTRY
    )
    write("etc/docker/registry/public.yml", public)
    write("etc/docker/registry/private.yml", private + REGISTRY_AUTH_YML)
    write("etc/docker/registry/htpasswd", f"{REGISTRY_HTPASSWD}\n", 0o600)


def base() -> Path:
    """The base root of this recipe, built when it is not there."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o711)
    target = cache / f"base-{recipe()}"
    with locked(cache / "lock"):
        if not target.exists():
            build_base(target)
            discard_bases(kept=target)
    return target


def discard_bases(kept: Path | None = None) -> None:
    """Remove the cached base roots that no lab runs on, except one."""
    for directory in cache_directory().glob("base-*"):
        held = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if directory != kept:
                shutil.rmtree(directory)
        except BlockingIOError:
            say(f"{directory} stays: a lab runs on it")
        finally:
            os.close(held)


@contextlib.contextmanager
def locked(file: Path) -> Generator[None]:
    """Hold a lock file for the time of a block."""
    while True:
        with file.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # The one before may have removed the file along with its lab.
            if file.exists() and file.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                yield
                return


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


# Places: the lab itself, and the machines joined to it


class Process:
    """A command that runs inside a place. `pid` is its own, not that of the program between."""

    def __init__(self, popen: subprocess.Popen[str], pid: int) -> None:
        self.popen = popen
        self.pid = pid
        self.stdin = popen.stdin
        self.stdout = popen.stdout
        self.stderr = popen.stderr

    def send_signal(self, number: int) -> None:
        if self.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        # nsenter stops itself along with its child, and would not see the child's end.
        if number in (signal.SIGCONT, signal.SIGKILL):
            self.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        return self.popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self.popen.wait(timeout)

    def communicate(
        self, input: str | None = None, timeout: float | None = None
    ) -> tuple[str, str]:
        return self.popen.communicate(input, timeout)


class Place:
    """Namespaces with a root, a process 1 and a state directory; see stage.sh and init.py."""

    kind = "lab"

    def __init__(self, directory: Path, identity: str) -> None:
        self.directory = directory
        self.identity = identity

    @property
    def control(self) -> Path:
        return self.directory / "run" / "control"

    def pid(self) -> int | None:
        """Process 1 of the place as this machine numbers it, or None when it does not run.

        The kernel itself names the process at the other end of the control socket: there is no
        number in a file that could by now be another's.
        """
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(self.control))
            except OSError:
                return None
            found = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, _, _ = struct.unpack("3i", found)
            return pid or None

    def living(self) -> int:
        """Process 1 of the place; LabError when it does not run."""
        pid = self.pid()
        if pid is None:
            raise LabError(f"{self.kind} {self.identity} is not up")
        return pid

    def order(self, text: str) -> None:
        """Have init.py do something, and wait until it is done."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(60.0)
            link.connect(str(self.control))
            link.sendall(f"{text}\n".encode())
            reply = link.makefile().readline().strip()
        if reply != "ok":
            raise LabError(f"{text}: {reply or 'no answer'}")

    def path(self, inside: str) -> Path:
        """Where this machine sees a path of the place."""
        if inside == "/stacks" or inside.startswith("/stacks/"):
            return self.directory / inside[1:]
        return Path(f"/proc/{self.living()}/root/{inside.lstrip('/')}")

    def workdir(self, name: str) -> Path:
        """Make an empty directory /stacks/NAME inside; answers its path on this machine."""
        made = self.directory / "stacks" / name
        if made.exists():
            shutil.rmtree(made)
        made.mkdir(parents=True)
        return made

    def command(
        self, argv: Sequence[str], cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """The command line that runs argv inside, with nothing of this machine's environment."""
        given = {
            "PATH": PATH,
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            **(env or {}),
        }
        return [
            *("nsenter", "-t", str(self.living())),
            *("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"),
            *("--", "/usr/bin/env", "-i", f"--chdir={cwd or '/root'}"),
            *(f"{key}={value}" for key, value in given.items()),
            *argv,
        ]

    def popen(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> Process:
        """Start a command inside, in text mode. Its pid is that of the command itself."""
        popen = subprocess.Popen(
            self.command(argv, cwd, env), stdin=stdin, stdout=stdout, stderr=stderr, text=True
        )
        return Process(popen, only_child(popen))

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 120.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; text in, text out.

        When the time is over the command is killed and TimeoutExpired raised with what it had
        said. With check, an exit status other than 0 is a LabError with its output.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        process = self.popen(argv, cwd=cwd, env=env, stdin=stdin)
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise subprocess.TimeoutExpired(list(argv), timeout, out, err) from None
        done = subprocess.CompletedProcess(list(argv), process.wait(), out, err)
        if check and done.returncode:
            raise LabError(f"{shlex.join(argv)} failed ({done.returncode})\n{out}{err}")
        return done

    def listening(self, port: int, protocol: str = "tcp") -> bool:
        """Whether something inside listens on a port (a kernel rule of a NAT proxy does not)."""
        wanted = "0A" if protocol == "tcp" else "07"
        for table in (protocol, f"{protocol}6"):
            for line in self.path(f"/proc/1/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] == wanted:
                    return True
        return False

    def prepare(self) -> None:
        """Lay out the state directory and what the place has of its own under /etc."""
        for name in ("upper/etc", "work", "root", "run", "cgroup", "stacks", "incus"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
            (self.directory / name).chmod(0o755)
        etc = self.directory / "upper" / "etc"
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "hostname").write_text(f"{self.identity}\n")
        (etc / "hosts").write_text(
            f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {self.identity}\n"
        )
        (self.directory / "run" / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def launch(self, prefix: Sequence[str] = ()) -> None:
        """Start the namespaces and wait until process 1 answers."""
        env = {
            "PATH": PATH,
            "IC_LAB_DIR": str(self.directory),
            "IC_LAB_ID": self.identity,
            "IC_LAB_BASE": str(base()),
            "IC_LAB_REPO": str(REPO),
            "IC_LAB_PYTHON": sys.executable,
            "IC_LAB_KIND": self.kind,
        }
        log = self.directory / "run" / "stage.log"
        # The lab outlives this process: setsid leaves it to the machine's own process 1. It holds
        # the base root by the lock that it inherits, so that nobody clears that away below it.
        held = os.open(env["IC_LAB_BASE"], os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            with log.open("w") as out:
                started = subprocess.Popen(
                    [
                        *("setsid", "--fork", *prefix),
                        *("unshare", "--mount", "--propagation", "unchanged"),
                        *("/bin/sh", str(HERE / "stage.sh"), "mounts"),
                    ],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=out,
                    cwd="/",
                    pass_fds=(held,),
                )
        finally:
            os.close(held)
        # init.py says one word when it is ready; an end without it is the end of them all.
        with started:
            assert started.stdout is not None
            ready, _, _ = select.select([started.stdout], [], [], 60.0)
            word = started.stdout.readline() if ready else b""
        if word != b"up\n":
            raise LabError(f"{self.identity} did not start: {log.read_text().strip()}")

    def remove(self) -> None:
        """End every process of the place and delete its state; no error when there is none."""
        pid = self.pid()
        if pid is not None:
            handle = os.pidfd_open(pid)
            try:
                # Again, now that the handle holds the process: it may have ended in between.
                if self.pid() == pid:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    select.select([handle], [], [], 30.0)
            finally:
                os.close(handle)
        remove_cgroup(self.identity)
        if self.directory.exists():
            delete_tree(self.directory)


def only_child(parent: subprocess.Popen[str]) -> int:
    """The process that nsenter started, once it is there; nsenter's own when that has ended."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while parent.poll() is None:
        if numbers := children.read_text().split():
            return int(numbers[0])
        time.sleep(0.001)
    return parent.pid


def remove_cgroup(identity: str) -> None:
    """Remove the cgroup of a place, with all below it, once its last process has gone."""
    script = """
        if mountpoint -q /; then mount --make-rprivate /; fi
        mount -t cgroup2 cgroup2 "$1" || exit 1
        n=0
        while [ -d "$1/$2" ] && [ $n -lt 100 ]; do
            find "$1/$2" -depth -type d -exec rmdir {} + 2>/dev/null
            [ ! -d "$1/$2" ] || sleep 0.1
            n=$((n + 1))
        done
        if [ -d "$1/$2" ]; then echo "its processes do not end" >&2; left=1; else left=0; fi
        umount "$1"
        exit $left
    """
    with tempfile.TemporaryDirectory(prefix="ic-lab-") as mountpoint:
        unshare = ("unshare", "--mount", "--propagation", "unchanged")
        argv = [*unshare, "/bin/sh", "-c", script, "remove", mountpoint, identity]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"the cgroup {identity} cannot be removed: {done.stderr.strip()}")


def delete_tree(directory: Path) -> None:
    """Delete a directory of the lab; never through something mounted below it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = Path(line.split()[4])
        if where.is_relative_to(directory):
            output_of("umount", "--lazy", str(where))
    if any(
        Path(line.split()[4]).is_relative_to(directory)
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ):
        raise LabError(f"{directory} is not deleted: something is still mounted below it")
    shutil.rmtree(directory)


class Machine(Place):
    """Another machine: it reaches the lab over a cable and shares nothing else with it."""

    kind = "machine"

    def __init__(self, lab: Lab, name: str) -> None:
        super().__init__(lab.directory / "machines" / name, f"{lab.identity}.{name}")
        self.lab = lab
        self.name = name

    @property
    def address(self) -> str:
        return (self.directory / "run" / "address").read_text().strip()

    def up(self) -> None:
        """Bring the machine up and join it to the lab; nothing to do when it runs."""
        if self.pid() is not None:
            return
        if self.directory.exists():
            self.remove()
        number = 11 + sum(1 for _ in (self.lab.directory / "machines").glob("*/run/address"))
        self.prepare()
        (self.directory / "run" / "address").write_text(f"10.76.0.{number}\n")
        self.launch(("nsenter", "-t", str(self.lab.living()), "-p", "--"))
        # Both ends of the cable are made in the lab, which numbers the machine's process its own way.
        numbers = next(
            line.split()[1:]
            for line in Path(f"/proc/{self.living()}/status").read_text().splitlines()
            if line.startswith("NSpid:")
        )
        cable = f"m{number}"
        for words in (
            f"link add {cable} type veth peer name eth0 netns {numbers[-2]}",
            f"link set {cable} master lab0 up",
        ):
            self.lab.run(["ip", *words.split()], check=True)
        for words in ("link set eth0 up", f"address add {self.address}/24 dev eth0"):
            self.run(["ip", *words.split()], check=True)


class Lab(Place):
    """One lab: an Incus server, its registries, and the machines joined to it."""

    def __init__(self, name: str = "lab") -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise LabError(f"a lab's name is of a-z, 0-9 and '-', at most 31 characters: {name}")
        super().__init__(state_directory() / name, f"ic-lab-{name}")
        self.name = name

    @property
    def socket(self) -> Path:
        """The Incus socket, reachable from this machine."""
        return self.directory / "incus" / "unix.socket"

    @property
    def url(self) -> str:
        """The HTTPS address of Incus for the other machines."""
        return f"https://{ADDRESS}:8443"

    def up(self) -> bool:
        """Bring the lab up; False when it was up."""
        require_root()
        state_directory().mkdir(parents=True, exist_ok=True)
        with locked(state_directory() / f".{self.name}.lock"):
            if self.pid() is not None and (self.directory / "ready").exists():
                return False
            base()
            self.remove()
            self.prepare()
            try:
                self.launch()
                self.wait_ready()
                self.preseed()
            except LabError as error:
                logs = sorted((self.directory / "run").glob("*.log"))
                words = "".join(f"\n== {log.name}\n{log.read_text()[-2000:]}" for log in logs)
                self.remove()
                raise LabError(f"{error}{words}") from None
            (self.directory / "ready").touch()
        return True

    def down(self) -> bool:
        """Stop and remove the lab and its machines; False when there was none."""
        require_root()
        if not self.directory.exists():
            return False
        with locked(state_directory() / f".{self.name}.lock"):
            machines = self.directory / "machines"
            for directory in sorted(machines.glob("*")):
                Machine(self, directory.name).remove()
            self.remove()
            (state_directory() / f".{self.name}.lock").unlink()
        return True

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until Incus answers over its socket."""
        end = time.monotonic() + seconds
        while (silence := self.silence()) is not None:
            if self.pid() is None:
                raise LabError("the lab ended while Incus was starting")
            if time.monotonic() > end:
                raise LabError(f"Incus does not answer after {seconds:.0f} s: {silence}")
            time.sleep(0.02)

    def silence(self) -> str | None:
        """Why Incus does not answer, or None when it does."""
        try:
            self.api("GET", "/1.0")
        except (OSError, http.client.HTTPException, ApiError) as error:
            return str(error)
        return None

    def preseed(self) -> None:
        """What an administrator sets up once: a pool, a bridge, the listener, the profile."""
        self.api("PATCH", "/1.0", {"config": {"core.https_address": ":8443"}})
        self.api("POST", "/1.0/storage-pools", {"name": "default", "driver": "dir"})
        network = {"ipv4.address": "10.77.0.1/24", "ipv4.nat": "true", "ipv6.address": "none"}
        self.api("POST", "/1.0/networks", {"name": "incusbr0", "type": "bridge", "config": network})
        devices = {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "network": "incusbr0", "name": "eth0", "ipv6.address": "none"},
        }
        self.api("PATCH", "/1.0/profiles/default", {"devices": devices})

    def api(self, method: str, path: str, body: object = None, timeout: float = 120.0) -> Any:
        """One request to Incus over its socket; the answer's metadata.

        An operation is waited for and its metadata returned. Raises ApiError with Incus's own
        words, OSError when nothing listens.
        """
        answer = self.request(method, path, body, timeout)
        if answer.get("type") == "async":
            operation = str(answer["operation"]).split("?", 1)[0]
            done = self.request(
                "GET", f"{operation}/wait?timeout={int(timeout)}", None, timeout + 5
            )
            state = done["metadata"]
            if state["status_code"] != 200:
                words = state["err"] or state["status"]
                raise ApiError(f"{method} {path}", state["status_code"], words)
            return state
        return answer.get("metadata")

    def request(self, method: str, path: str, body: object, timeout: float) -> Any:
        """One request to Incus; the whole answer, or ApiError."""
        connection = UnixConnection(str(self.socket), timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} if data else {}
            connection.request(method, path, data, headers)
            reply = connection.getresponse()
            text = reply.read()
        finally:
            connection.close()
        # A file's content is no JSON, and an empty one is called JSON all the same.
        if not text or "json" not in reply.headers.get("Content-Type", ""):
            return {"metadata": text.decode(errors="replace")}
        answer = json.loads(text)
        if answer.get("type") == "error":
            raise ApiError(f"{method} {path}", answer["error_code"], answer["error"])
        return answer

    def incus(self, *args: str) -> Any:
        """Run the incus client inside; its output, parsed when it is JSON."""
        out = self.run(["incus", *args], check=True).stdout
        try:
            return json.loads(out)
        except ValueError:
            return out

    def stop_incusd(self) -> None:
        """Have the daemon end in peace; containers go on."""
        self.order("incusd stop")

    def kill_incusd(self) -> None:
        """Kill the daemon with SIGKILL; containers go on."""
        self.order("incusd kill")

    def start_incusd(self) -> None:
        """Start the daemon when it does not run, and wait until it answers."""
        self.order("incusd start")
        self.wait_ready()

    def restart_incusd(self) -> None:
        self.stop_incusd()
        self.start_incusd()

    def machine(self, name: str = "other") -> Machine:
        """The other machine of that name, brought up when it is not."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,14}", name):
            raise LabError(
                f"a machine's name is of a-z, 0-9 and '-', at most 15 characters: {name}"
            )
        self.living()
        machine = Machine(self, name)
        machine.up()
        return machine

    def place(self, machine: str | None) -> Place:
        return self.machine(machine) if machine else self

    def trusted_remote(self, machine: str = "other", remote: str = "lab") -> Machine:
        """Give a machine's user a client certificate that Incus trusts, and a remote of that name.

        Done as a person would: a token made on the server, `incus remote add` on the machine.
        """
        place = self.machine(machine)
        listed = place.run(["incus", "remote", "list", "--format", "json"], check=True).stdout
        if remote in json.loads(listed):
            return place
        body = {"name": f"{place.identity}-{remote}", "type": "client", "token": True}
        state = self.request("POST", "/1.0/certificates", body, 30)["metadata"]["metadata"]
        token = {
            "client_name": body["name"],
            "fingerprint": state["fingerprint"],
            "addresses": [f"{ADDRESS}:8443"],
            "secret": state["secret"],
            "expires_at": "0001-01-01T00:00:00Z",
        }
        text = base64.b64encode(json.dumps(token).encode()).decode()
        place.run(["incus", "remote", "add", remote, text, "--accept-certificate"], check=True)
        return place

    def sweep(self, prefix: str) -> list[str]:
        """Delete every Incus project whose name starts with a prefix, with all that is in it.

        Bridges live in the default project: those go that nobody uses and that carry the prefix in
        their name or in a `user.*` value. Certificates and pending tokens of health daemons go that
        are named for such a project. Answers the names of what was deleted.
        """
        gone: list[str] = []
        names = [str(p["name"]) for p in self.api("GET", "/1.0/projects?recursion=1")]
        for name in (name for name in names if name.startswith(prefix) and name != "default"):
            with contextlib.suppress(ApiError):
                stop = {"state": {"action": "stop", "force": True, "timeout": 30}}
                self.api("PUT", f"/1.0/instances?project={name}", stop)
            self.api("DELETE", f"/1.0/projects/{name}?force=true")
            gone.append(name)
        for network in self.api("GET", "/1.0/networks?recursion=1"):
            if not network["managed"] or network["used_by"]:
                continue
            values = (v for k, v in network["config"].items() if k.startswith("user."))
            ours = any(re.search(rf"\b{re.escape(prefix)}", str(value)) for value in values)
            if ours or str(network["name"]).startswith(prefix):
                self.api("DELETE", f"/1.0/networks/{network['name']}")
                gone.append(str(network["name"]))
        for name, path in self.trusted(f"ic-healthd {prefix}"):
            self.api("DELETE", path)
            gone.append(name)
        return gone

    def trusted(self, prefix: str) -> list[tuple[str, str]]:
        """Certificates and pending tokens whose names begin with a prefix: name and path."""
        found = [
            (str(one["name"]), f"/1.0/certificates/{one['fingerprint']}")
            for one in self.api("GET", "/1.0/certificates?recursion=1")
        ]
        for group in (self.api("GET", "/1.0/operations?recursion=1") or {}).values():
            found += [
                (one["metadata"]["request"]["name"], f"/1.0/operations/{one['id']}")
                for one in group
                if one["class"] == "token" and one["status"] == "Running"
            ]
        return [(name, path) for name, path in found if name.startswith(prefix)]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("incus", timeout=timeout)
        self.unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


def labs() -> list[Lab]:
    """Every lab that has state on this machine."""
    found = sorted(state_directory().glob("*/upper")) if state_directory().is_dir() else []
    return [Lab(path.parent.name) for path in found]


# The command line


def show(lab: Lab) -> None:
    me = "python3 tests/lab/lab.py"
    print(
        f"lab {lab.name} is up\n"
        f"  a shell in it        {me} shell --name {lab.name}\n"
        f"  one command in it    {me} exec --name {lab.name} -- incus list\n"
        f"  Incus from outside   {lab.socket}\n"
        f"  Incus from machines  {lab.url}\n"
        f"  files                /stacks inside, {lab.directory}/stacks outside;"
        " /opt/ic inside is dist/\n"
        f"  registries           {REGISTRY} (mirrors docker.io), {PRIVATE_REGISTRY}"
        f" (user {REGISTRY_USER}, password {REGISTRY_PASSWORD})\n"
        f"  take it down         {me} down --name {lab.name}"
    )


def enter(place: Place, argv: Sequence[str], cwd: str | None, env: Mapping[str, str]) -> NoReturn:
    """Become a command inside a place, with this process's terminal, input and output."""
    command = place.command(argv, cwd, env)
    os.execvp(command[0], command)


def pairs(values: Sequence[str]) -> dict[str, str]:
    """The environment that `K=V` words of the command line spell."""
    made: dict[str, str] = {}
    for value in values:
        key, _, made[key] = value.partition("=")
    return made


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="lab.py", description="A real Incus server to test on.")
    verbs = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str, *, machine: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.add_argument("--name", default="lab", help="which lab (default: lab)")
        if machine:
            made.add_argument("--machine", help="on another machine of that name, made if need be")
            made.add_argument("--env", action="append", default=[], metavar="K=V")
            made.add_argument("--cwd", help="directory inside (default: /root)")
        return made

    verb("up", "bring a lab up; nothing to do when it is")
    down = verb("down", "stop a lab and remove all of it; the cached base root stays")
    down.add_argument("--all", action="store_true", help="every lab of this machine")
    verbs.add_parser("purge", help="every lab down, and the cached base roots removed")
    verbs.add_parser("status", help="the labs of this machine")
    verb("pid", "the number of a lab's process 1, for nsenter")
    verb("shell", "a shell inside", machine=True)
    execute = verb("exec", "run one command inside", machine=True)
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND...")
    incusd = verb("incusd", "stop, kill or start the daemon; containers go on")
    incusd.add_argument("how", choices=("stop", "kill", "start"))
    machine = verb("machine", "bring up another machine with a trusted remote `lab`")
    machine.add_argument("machine", nargs="?", default="other")
    return top


def main(argv: Sequence[str]) -> int:
    options = parser().parse_args(argv)
    try:
        require_root()
        act(options)
    except LabError as error:
        say(str(error))
        return 1
    return 0


def act(options: argparse.Namespace) -> None:
    """Carry out one verb of the command line."""
    match options.verb:
        case "status":
            for lab in labs():
                print(f"{lab.name:16} {'up' if lab.pid() else 'dead'}  {lab.directory}")
        case "purge":
            for lab in labs():
                lab.down()
            discard_bases()
        case "down":
            for lab in labs() if options.all else [Lab(options.name)]:
                say(f"{lab.name} removed" if lab.down() else f"{lab.name}: no such lab")
        case "up":
            lab = Lab(options.name)
            if not lab.up():
                say(f"{lab.name} was up already")
            show(lab)
        case "pid":
            print(Lab(options.name).living())
        case "shell":
            place = Lab(options.name).place(options.machine)
            enter(place, ["bash", "-i"], options.cwd, pairs(options.env))
        case "exec":
            words = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
            if not words:
                raise LabError("exec: no command given")
            place = Lab(options.name).place(options.machine)
            enter(place, words, options.cwd, pairs(options.env))
        case "incusd":
            lab = Lab(options.name)
            lab.living()
            {"stop": lab.stop_incusd, "kill": lab.kill_incusd, "start": lab.start_incusd}[
                options.how
            ]()
        case "machine":
            place = Lab(options.name).trusted_remote(options.machine)
            print(f"{place.name}: {place.address}, remote `lab` is {place.lab.url}")
        case _:
            raise LabError(f"unknown verb {options.verb}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
