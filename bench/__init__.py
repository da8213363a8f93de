"""Timings of ic against the raw calls to the server; see run.py."""
