"""The zipapp on the Python of the Debian to come: newer than any on a stable machine."""

from __future__ import annotations

import json
import shutil

import pytest

from tests import bare


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
