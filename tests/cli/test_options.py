"""Shared options: the same for every command that has them."""

from __future__ import annotations

import argparse

import pytest

from ic.cli import main, options


def test_the_lock_is_waited_for_ten_seconds_unless_told_otherwise() -> None:
    parser = argparse.ArgumentParser()
    options.add_lock_timeout(parser)
    assert parser.parse_args([]).lock_timeout == 10.0
    assert parser.parse_args(["--lock-timeout", "0"]).lock_timeout == 0.0


@pytest.mark.parametrize("name", ["apply", "up", "down", "destroy"])
def test_every_command_that_takes_the_lease_can_be_told_how_long(name: str) -> None:
    parser = argparse.ArgumentParser()
    main.module(name).add_arguments(parser)
    assert parser.parse_args(["--lock-timeout", "2.5"]).lock_timeout == 2.5
