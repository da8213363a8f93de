"""For the whole test session: the lab and a stack's place in it (tests/lab/fixtures.py)."""

pytest_plugins = ["tests.lab.fixtures"]
