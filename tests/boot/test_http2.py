"""The stand-in for urllib3.http2."""

import json
import os
import subprocess

import pytest

from ic.boot import http2


def test_switching_http2_on_is_refused() -> None:
    with pytest.raises(ImportError):
        http2.inject_into_urllib3()


def test_requests_in_the_zipapp_does_without_importlib_metadata(
    probe_pyz: str, tmp_path: object
) -> None:
    script = (
        "import runpy, sys; sys.argv = [PYZ, 'requests']; sys.path.insert(0, PYZ)\n"
        "try:\n    runpy.run_path(PYZ, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", f"PYZ = {probe_pyz!r}\n{script}"],
        env={"PATH": "/usr/bin:/bin", "IC_CACHE_DIR": os.fspath(f"{tmp_path}/cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "requests" in modules
    assert "urllib3.http2.probe" in modules
    assert "importlib.metadata" not in modules
