"""The echoes of the daemon's own writes are told from the changes of others by counting."""

from __future__ import annotations

from ic.healthd import spec, watched


def test_so_many_echoes_are_the_daemons_own_as_writes_were_sent() -> None:
    entry = watched.Entry("web", spec.read("web", {}))
    assert not entry.unexpect()
    entry.expect()
    entry.expect()
    assert [entry.unexpect() for _ in range(3)] == [True, True, False]
    entry.expect()  # an echo that nobody expected is not owed later
    assert entry.unexpect()


def test_an_entry_begins_with_what_its_keys_say() -> None:
    asked = spec.read("web", {"user.ic.held": "7"})
    entry = watched.Entry("web", asked)
    assert entry.address == "instance:web"
    assert (entry.holding, entry.state.power) == (asked.held, "unknown")
