"""What the command line says about a plan, and which plans remove what no file names."""

from __future__ import annotations

import pytest

from ic.plan import asked


@pytest.mark.parametrize(
    ("options", "removes"),
    [
        (asked.Options(mode="apply"), True),
        (asked.Options(mode="apply", services=("web",)), False),
        (asked.Options(mode="apply", services=("web",), remove_orphans=True), True),
        (asked.Options(mode="up"), False),
        (asked.Options(mode="up", remove_orphans=True), True),
        (asked.Options(mode="stop"), False),
    ],
)
def test_an_apply_of_everything_removes_and_others_when_asked(
    options: asked.Options, *, removes: bool
) -> None:
    assert options.removes is removes
