"""The zipapp where this machine is not: on the Debian to come, and on another kind of processor."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests import bare
from tests.lab import lab as labs


@pytest.mark.long
def test_the_zipapp_runs_on_the_python_of_debian_to_come(probe_pyz: str) -> None:
    with bare.bootstrapped("sid", "python3") as root:
        shutil.copy(probe_pyz, root / "root/ic.pyz")
        modules = "msgspec yaml requests requests_unixsocket websocket"
        version = bare.in_root(
            root, "python3 -c 'import sys; print(*sys.version_info[:3])'"
        ).split()
        for cache in ("/var/cache/ic", "/var/cache/ic", ""):
            told = json.loads(bare.in_root(root, f"IC_CACHE_DIR={cache} python3 ic.pyz {modules}"))
            assert [str(n) for n in told["python"]] == version
            assert told["finder"] == ("Finder" if cache else "SourceFinder")


@pytest.mark.long
def test_the_zipapp_runs_on_aarch64(
    probe_pyz: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not shutil.which("qemu-aarch64"):
        labs.install("qemu-user")
    cache = tmp_path_factory.mktemp("cache")
    # The packages are only unpacked: their scripts would need this kernel to know the other processor.
    with bare.bootstrapped("trixie", "python3", "--arch=arm64", "--foreign") as root:
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            bare.run("dpkg-deb", "--extract", archive, root)
        for base in (str(cache), ""):
            done = subprocess.run(
                [
                    "qemu-aarch64",
                    "-L",
                    root,
                    root / "usr/bin/python3",
                    probe_pyz,
                    "msgspec",
                    "yaml",
                ],
                env={"PATH": "/usr/bin:/bin", "IC_CACHE_DIR": base},
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["finder"] == ("Finder" if base else "SourceFinder")
    (entry,) = cache.iterdir()
    assert "-aarch64-linux-gnu-" in entry.name
