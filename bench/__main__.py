"""`python -m bench`."""

from __future__ import annotations

import sys

from bench import run

sys.exit(run.main(sys.argv[1:]))
