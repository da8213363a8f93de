"""What a run that says no more gets: the real clock, nobody who interrupts, no administrator's token."""

from __future__ import annotations

import time
from typing import Any, cast

from ic.engine.tools import Tools


def test_a_run_that_says_no_more_waits_by_the_real_clock_and_is_not_interrupted() -> None:
    tools = Tools(
        client=cast("Any", None),
        lineage="0123456789ab",
        guard=lambda: None,
        confirm_delete=lambda: None,
        env={},
    )
    before = time.monotonic()
    tools.sleep(0.01)
    assert tools.clock() - before >= 0.01
    assert not tools.interrupted()
    assert tools.token_file == ""
