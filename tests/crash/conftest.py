"""Stacks for crash tests; see tests/e2e/conftest.py."""

from __future__ import annotations

from tests.e2e.conftest import case, other, pytest_collection_modifyitems, shared

__all__ = ["case", "other", "pytest_collection_modifyitems", "shared"]
