"""One instance under watch, as the thread that decides and those that carry out share it.

In: its name and what its keys ask for. Out: its state, what is under way, and which of the events are
echoes of the daemon's own writes. Only the deciding thread sets anything but those echoes.
"""

from __future__ import annotations

import threading

from ic import names
from ic.healthd import spec, worker

OUTPUT_SHOWN = 200  # characters of a probe's last line that are told and kept

POWER: dict[str, worker.Power] = {
    "Running": "running",
    "Ready": "running",
    "Stopped": "stopped",
    "Frozen": "frozen",
}


class Entry:
    """One instance: what is asked, its state, and what is under way."""

    __slots__ = (
        "address",
        "asked",
        "at",
        "changed",
        "holding",
        "look_again",
        "looking",
        "mine",
        "name",
        "own",
        "state",
        "touched",
    )

    def __init__(self, name: str, asked: spec.Spec) -> None:
        self.name = name
        self.address = names.address("instance", name)
        self.asked = asked  # as it is acted upon: a void hold is left out
        self.holding = asked.held  # the generation that the instance itself names
        self.state = worker.State()
        self.at: int | None = None  # what stands in the heap
        self.changed = 0  # grows with every event about its power: what was read before is old
        self.touched = 0  # when the last of them came
        self.looking = False
        self.look_again = False
        self.own = 0  # our own writes whose `instance-updated` is still to come
        self.mine = threading.Lock()

    def expect(self) -> None:
        """A write of ours is about to be sent."""
        with self.mine:
            self.own += 1

    def unexpect(self) -> bool:
        """It was refused, or its event came. False when none was expected (any more)."""
        with self.mine:
            self.own -= 1
            if self.own >= 0:
                return True
            self.own = 0
            return False
