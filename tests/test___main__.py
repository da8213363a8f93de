"""`python -m ic` from a checkout."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_python_m_ic_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ic", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ic 0.1.0\n", "")
