"""Debian roots made fresh by debootstrap, the way this machine's own apt takes, and commands in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Generator

# How this machine reaches package servers.
PASSED = ("PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_INDEX_URL", "PIP_PROXY", "SSL_CERT_FILE")

# Runs as the first process of its namespaces, in the new root.
STAGE = """
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p old
pivot_root . old
umount -l /old
rmdir /old
cd /root
exec env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb CI=true $PASS \
    bash -c "$COMMAND" </dev/null
"""


def run(*argv: str | Path, **rest: object) -> None:
    """Runs a program that must succeed; its output is the failure's text."""
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        **rest,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@contextlib.contextmanager
def bootstrapped(suite: str, packages: str, *more: str) -> Generator[Path]:
    """A new root of a Debian suite, fetched the way this machine's own apt takes; gone afterwards.

    `more` are further options of debootstrap.
    """
    labs.require_root()
    if not shutil.which("debootstrap"):
        labs.install("debootstrap")
    work = Path(tempfile.mkdtemp(prefix="ic-fresh-", dir="/var/tmp"))
    root = work / "root"
    mirror = labs.debian_mirror()
    proxy = labs.apt_proxy(mirror) if mirror else None
    environment = dict(os.environ)
    auth = [Path("/etc/apt/auth.conf"), *Path("/etc/apt/auth.conf.d").glob("*.conf")]
    words = "\n".join(file.read_text() for file in auth if file.is_file())
    if words:
        (work / ".netrc").touch(mode=0o600)
        (work / ".netrc").write_text(words)
        environment["HOME"] = str(work)
    if mirror and proxy:
        environment[f"{mirror.split(':', 1)[0]}_proxy"] = proxy
    where = [mirror] if mirror else []
    options = ["--variant=minbase", f"--include={packages}", *more]
    try:
        run("debootstrap", *options, suite, root, *where, env=environment)
        (root / "etc/apt/apt.conf.d/99host").write_text(
            labs.apt_settings() + (f'Acquire::http::Proxy "{proxy}";\n' if proxy else "")
        )
        yield root
    finally:
        shutil.rmtree(work)


def in_root(root: Path, command: str) -> str:
    """Runs a shell command in the root, alone in its namespaces; its output. It must succeed."""
    passed = [f"{k}={v}" for k, v in os.environ.items() if k in PASSED]
    done = subprocess.run(
        ["unshare", "-m", "-p", "-u", "-i", "-f", "--kill-child", "sh", "-eu", "-c", STAGE],
        env={
            "PATH": labs.PATH,
            "ROOT": str(root),
            "COMMAND": command,
            "PASS": " ".join(passed),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout
