"""Limits and rights are refused by name: a security key that does nothing is worse than an error."""

import pathlib

import pytest

from ic.fields import limits
from tests.compose import stacks


@pytest.mark.parametrize("key", sorted(limits.PENDING))
def test_each_is_refused_where_it_stands(tmp_path: pathlib.Path, key: str) -> None:
    error = stacks.refused(tmp_path, f"services:\n  web:\n    image: a\n    {key}: x\n")
    assert stacks.faults(error) == [f"E_UNSUPPORTED 4:5 services.web.{key} is not supported yet"]


def test_none_is_read() -> None:
    assert limits.KEYS == {}
