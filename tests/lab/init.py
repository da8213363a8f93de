"""Process 1 inside a lab or inside a further machine: starts what runs there and reaps.

It stands above incusd, so that the daemon can be stopped, killed and started while its containers
live on, and so that every orphan finds a parent. It takes orders over the stream socket
/run/lab/control, one line each, and answers one line: `ok`, or the reason why not. Runs with the
lab's own Python and nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HOME = Path("/run/lab")
CONTROL = HOME / "control"
LXCFS = Path("/var/lib/lxcfs")
REGISTRIES = ("public", "private")
INCUSD_ENVIRONMENT = {
    "PATH": "/usr/libexec/incus:/usr/sbin:/usr/bin:/sbin:/bin",
    "INCUS_AGENT_PATH": "/usr/libexec/incus",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class Keeper:
    """The services of a place, and those who wait for one of them to end."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.waiting: dict[str, list[socket.socket]] = {}

    def start(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        """Start a service with its output in /run/lab/NAME.log."""
        with (HOME / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        # This process reaps with waitpid(-1): the object must not wait for the child as well.
        process.returncode = 0
        self.running[name] = process.pid
        (HOME / f"{name}.pid").write_text(f"{process.pid}\n")

    def start_incusd(self) -> None:
        self.start("incusd", ["incusd", "--group", "incus-admin"], INCUSD_ENVIRONMENT)

    def reap(self) -> None:
        """Collect every child that ended, and answer those who waited for it."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, known in list(self.running.items()):
                if known == pid:
                    del self.running[name]
                    (HOME / f"{name}.pid").unlink(missing_ok=True)
                    for peer in self.waiting.pop(name, []):
                        answer(peer, "ok")

    def obey(self, order: str, peer: socket.socket) -> None:
        """Carry out `ping`, or `incusd start|stop|kill`."""
        pid = self.running.get("incusd")
        match order.split():
            case ["ping"]:
                answer(peer, "ok")
            case ["incusd", "start"]:
                if pid is None:
                    self.start_incusd()
                answer(peer, "ok")
            case ["incusd", ("stop" | "kill") as how]:
                if pid is None:
                    answer(peer, "ok")
                    return
                self.waiting.setdefault("incusd", []).append(peer)
                os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGTERM)
            case _:
                answer(peer, f"unknown order: {order}")


def answer(peer: socket.socket, text: str) -> None:
    # The one who asked may have gone; the order is carried out all the same.
    with contextlib.suppress(OSError):
        peer.sendall(f"{text}\n".encode())
    peer.close()


def wait_for(path: Path, seconds: float = 10.0) -> None:
    """Wait until a file can be read; goes on after the time, the service will say what is missing.

    A file system that is just coming up may refuse at first.
    """
    end = time.monotonic() + seconds
    while not readable(path) and time.monotonic() < end:
        time.sleep(0.01)


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def main(kind: str) -> None:
    wakeup, wakeup_writer = socket.socketpair()
    wakeup.setblocking(False)
    wakeup_writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)

    keeper = Keeper()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if kind == "lab":
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        for args in (
            ["add", "lab0", "type", "bridge"],
            ["set", "lab0", "up"],
        ):
            subprocess.run(["ip", "link", *args], check=True)
        subprocess.run(["ip", "address", "add", "10.76.0.1/24", "dev", "lab0"], check=True)
        keeper.start("lxcfs", ["lxcfs", str(LXCFS)])
        for name in REGISTRIES:
            keeper.start(
                f"registry-{name}",
                ["docker-registry", "serve", f"/etc/docker/registry/{name}.yml"],
                {"PATH": "/usr/bin"},
            )
        wait_for(LXCFS / "proc" / "uptime")
        keeper.start_incusd()

    CONTROL.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX)
    control.bind(str(CONTROL))
    control.listen(16)
    control.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(wakeup, selectors.EVENT_READ)
    selector.register(control, selectors.EVENT_READ)
    # Standard output is a pipe to the one who waits for this: a word means up, its end alone failed.
    os.write(1, b"up\n")
    os.dup2(2, 1)
    while True:
        keeper.reap()
        for key, _ in selector.select():
            if key.fileobj is wakeup:
                wakeup.recv(4096)
            else:
                peer, _ = control.accept()
                peer.settimeout(2.0)
                try:
                    order = peer.recv(256).decode()
                except OSError:
                    peer.close()
                    continue
                keeper.obey(order, peer)


main(sys.argv[1])
