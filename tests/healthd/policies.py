"""What follows when something stops or starts an instance, for each restart policy: the table, as data.

The rules are docker's (its documentation of restart policies) where docker has one; the rest is what
docs/healthd.md decides. That page shows this very table to the operator (`shown`);
tests/e2e/test_policies.py goes through it on a real server, row by row.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

Outcome = Literal[
    "stays stopped",  # and nothing is told of it
    "left, and shown",  # as `stopped while unwatched`
    "started",  # once, by the daemon
    "started N times",  # in all, by the daemon: `on-failure:N`; without an N as often as it fails
    "started by Incus",  # or by the person: the daemon has nothing to do
    "runs on",  # not touched
    "stays frozen",
]
When = Literal["here", "away"]
Four = tuple[Outcome, Outcome, Outcome, Outcome]

POLICIES = ("", "no", "always", "on-failure", "on-failure:2", "unless-stopped")
COLUMNS = ("none, or `no`", "`always`", "`on-failure[:N]`", "`unless-stopped`")
_COLUMN = {"": 0, "no": 0, "always": 1, "unless-stopped": 3}

COMPLETED: Four = ("stays stopped", "started", "stays stopped", "started")
FAILED: Four = ("stays stopped", "started", "started", "started")
UNSEEN_DONE: Four = ("stays stopped", "started", "stays stopped", "left, and shown")
UNSEEN: Four = ("stays stopped", "started", "left, and shown", "left, and shown")


def _all(outcome: Outcome) -> Four:
    return (outcome, outcome, outcome, outcome)


STOPPED = _all("stays stopped")
INCUS = _all("started by Incus")
FROZEN = _all("stays frozen")
ON = _all("runs on")


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing that happens while the daemon is here or away, and what follows for each of COLUMNS."""

    when: When
    way: str
    words: str
    follows: Four

    def outcome(self, policy: str) -> Outcome:
        return self.follows[_COLUMN.get(policy, 2)]


TABLE = (
    Row("here", "exits 0", "it ends with 0", COMPLETED),
    Row("here", "exits 3", "it ends with another exit code", FAILED),
    Row("here", "killed", "it is killed (137), as when memory is short", FAILED),
    Row("here", "signalled", "a signal from inside makes it end with 0", COMPLETED),
    Row("here", "powered off", "it is powered off from inside (130)", FAILED),
    Row("here", "rebooted", "it is rebooted from inside", INCUS),
    Row(
        "here",
        "fails again",
        "it fails N + 1 times in a row",
        ("stays stopped", "started", "started N times", "started"),
    ),
    Row("here", "stop", "`incus stop`", STOPPED),
    Row("here", "stop -f", "`incus stop --force`", STOPPED),
    Row("here", "stopped by ic", "`ic` stops it", STOPPED),
    Row("here", "restart", "`incus restart`", INCUS),
    Row("here", "restart -f", "`incus restart --force`", INCUS),
    Row("here", "frozen", "`incus pause`", FROZEN),
    Row("here", "frozen, stop -f", "`incus pause`, then `incus stop --force`", STOPPED),
    Row("here", "frozen, killed", "`incus pause`, then it is killed", FAILED),
    Row("here", "server restarted", "the server is restarted, or dies", ON),
    Row(
        "here",
        "exits 3, no server",
        "it ends while the server is down",
        ("stays stopped", "started by Incus", "left, and shown", "started by Incus"),
    ),
    Row(
        "here",
        "stop -f, server restarted",
        "`incus stop`, then the server is restarted",
        ("stays stopped", "started by Incus", "stays stopped", "stays stopped"),
    ),
    Row(
        "here",
        "host rebooted",
        "the host is rebooted",
        ("stays stopped", "started by Incus", "left, and shown", "started by Incus"),
    ),
    Row(
        "here",
        "stop -f, host rebooted",
        "`incus stop`, then the host is rebooted",
        ("stays stopped", "started by Incus", "left, and shown", "left, and shown"),
    ),
    Row("away", "exits 0", "it ends with 0", UNSEEN_DONE),
    Row("away", "exits 3", "it ends with another exit code", UNSEEN),
    Row("away", "killed", "it is killed", UNSEEN),
    Row("away", "powered off", "it is powered off from inside", UNSEEN),
    Row("away", "rebooted", "it is rebooted from inside", INCUS),
    Row("away", "stop", "`incus stop`", UNSEEN),
    Row("away", "stop -f", "`incus stop --force`", UNSEEN),
    Row("away", "stopped by ic", "`ic` stops it", STOPPED),
    Row("away", "restart", "`incus restart`", INCUS),
    Row("away", "frozen", "`incus pause`", FROZEN),
    Row("away", "frozen, killed", "`incus pause`, then it is killed", UNSEEN),
)


def row(when: When, way: str) -> Row:
    """The row of the table; it must be there."""
    [found] = [one for one in TABLE if (one.when, one.way) == (when, way)]
    return found


def shown() -> str:
    """The table as docs/healthd.md has it; rows that follow each other and end alike share one."""
    lines = [f"| the daemon is | what happens | {' | '.join(COLUMNS)} |", "|---" * 6 + "|"]
    for (when, follows), rows in itertools.groupby(TABLE, lambda one: (one.when, one.follows)):
        words = "; ".join(one.words for one in rows)
        lines.append(f"| {when} | {words} | {' | '.join(follows)} |")
    return "\n".join(lines) + "\n"
