"""`make test` and `make demo` on a bare Debian: a root made by debootstrap, with git and make added.

Long: each run installs, builds and tests everything, the lab included, with nothing cached.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import bare

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("bookworm", "trixie")


@pytest.fixture(scope="module", params=SUITES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A bare Debian with git and make, and a clone of this repository's HEAD in /root/ic."""
    with bare.bootstrapped(request.param, "git,make,ca-certificates") as root:
        for name in ("apt/auth.conf.d", "apt/keyrings", "pip.conf", "resolv.conf", "hosts"):
            source = Path("/etc") / name
            if source.is_dir():
                shutil.copytree(source, root / "etc" / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, root / "etc" / name)
        certificates = "etc/ssl/certs/ca-certificates.crt"
        shutil.copy(Path("/") / certificates, root / certificates)
        bare.run("git", "clone", "--quiet", "--no-hardlinks", ROOT, root / "root/ic")
        yield root


@pytest.mark.long
def test_make_demo_shows_the_main_job_on_a_bare_debian(fresh: Path) -> None:
    shown = bare.in_root(fresh, "cd ic && make demo; python3 tests/lab/lab.py down --name demo")
    assert "Using the lab: there is no Incus" in shown
    assert "<h1>Hello again</h1>" in shown
    assert "The stack is running." in shown


@pytest.mark.long
def test_make_test_is_green_on_a_bare_debian(fresh: Path) -> None:
    last = bare.in_root(fresh, "cd ic && bash .ci/run").strip().splitlines()[-1]
    assert " passed" in last
    assert "failed" not in last
