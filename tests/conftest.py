"""What all tests share: the option that makes golden files anew, and patience for a busy machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis

if TYPE_CHECKING:
    import pytest

# How long one example takes says more about what else the machine does than about ic.
hypothesis.settings.register_profile(
    "ic", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ic")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", default=False, help="write golden files anew"
    )
