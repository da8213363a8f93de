"""The stand-in for websocket._app."""

import json
import os
import subprocess

import pytest

from ic.boot import callbacks


def test_a_client_that_calls_back_is_refused() -> None:
    with pytest.raises(ImportError):
        callbacks.WebSocketApp("ws://incus/1.0/events")


def test_how_soon_it_connects_again_can_be_said() -> None:
    callbacks.set_reconnect(5)


def test_websockets_in_the_zipapp_do_without_inspect(probe_pyz: str, tmp_path: object) -> None:
    script = (
        "import runpy, sys; sys.argv = [PYZ, 'websocket']\n"
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
    assert "websocket._core" in modules
    assert not {"inspect", "ast", "dis"} & set(modules)
