"""`make test` and `make demo` on a bare Debian: a root made by debootstrap, with git and make added.

Long: each run installs, builds and tests everything, the lab included, with nothing cached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import lab as labs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("bookworm", "trixie")

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
cd /root/ic
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


@pytest.fixture(scope="module", params=SUITES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A new root of the suite with a clone of this repository's HEAD in /root/ic."""
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
        (work / ".netrc").write_text(words)
        (work / ".netrc").chmod(0o600)
        environment["HOME"] = str(work)
    if mirror and proxy:
        environment[f"{mirror.split(':', 1)[0]}_proxy"] = proxy
    where = [mirror] if mirror else []
    packages = "--include=git,make,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, request.param, root, *where, env=environment)
    (root / "etc/apt/apt.conf.d/99host").write_text(
        labs.apt_settings() + (f'Acquire::http::Proxy "{proxy}";\n' if proxy else "")
    )
    for name in ("apt/auth.conf.d", "apt/keyrings", "pip.conf", "resolv.conf", "hosts"):
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy(source, root / "etc" / name)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, root / "root/ic")
    yield root
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


@pytest.mark.long
def test_make_demo_shows_the_main_job_on_a_bare_debian(fresh: Path) -> None:
    shown = in_root(fresh, "make demo; python3 tests/lab/lab.py down --name demo")
    assert "Using the lab: there is no Incus" in shown
    assert "<h1>Hello again</h1>" in shown
    assert "The stack is running." in shown


@pytest.mark.long
def test_make_test_is_green_on_a_bare_debian(fresh: Path) -> None:
    last = in_root(fresh, "bash .ci/run").strip().splitlines()[-1]
    assert " passed" in last
    assert "failed" not in last
