"""Facts are values: nothing is known until it was looked at, and nobody changes them afterwards."""

from __future__ import annotations

import pytest

from ic.plan import facts


def test_nothing_is_known_of_a_server_that_was_not_looked_at() -> None:
    known = facts.Facts()
    assert not known.project_exists
    assert not known.project_marked
    assert known.foreign == {}
    assert known.listeners == ()


def test_facts_cannot_be_changed() -> None:
    known = facts.Observed(live={}, facts=facts.Facts(server="lab"))
    with pytest.raises(AttributeError):
        known.facts.server = "other"  # pyright: ignore[reportAttributeAccessIssue]
