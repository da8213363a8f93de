"""A process that holds a lease and writes intents until it is told to stop, killed, paused or fenced.

Started by tests as a program: `python -m tests.journal.holder SOCKET PROJECT MODE`. Every line that it prints
is something that the server has acknowledged, so that a test can compare it with what is there later.
"""

from __future__ import annotations

import queue
import sys
import time

from ic import errors
from ic.incus import client, remotes, transport
from ic.journal import book, lease
from tests.journal import stage

#: Scaled by 1/15 but for the time that a request may take: the machine is shared.
TIMES = lease.Times(
    ttl=2.0, heartbeat=0.4, timeout=5.0, fence=1.3, poll=0.05, linger=0.1, fold_every=60.0
)


def connect(socket: str) -> client.Client:
    """A client of the server behind a socket."""
    server = remotes.resolve(None, {"INCUS_SOCKET": socket})
    return client.Client(transport.connect(server))


def say(*words: object) -> None:
    """One line, at once."""
    print(*words, flush=True)  # noqa: T201 - a program of its own


def write(run: book.Run, number: int, answers: queue.Queue[book.Intent]) -> None:
    """One step: intent, acknowledgement, a guarded act (nothing), outcome."""
    run.intend(stage.step(f"instance:w/{run.generation}-{number}"), answers.put)
    while True:
        try:
            intent = answers.get(timeout=0.05)
        except queue.Empty:
            if run.lost.is_set():
                run.guard()
            continue
        break
    say("acked", intent.n, intent.stamp)
    run.guard()
    say("acts", intent.n)
    run.outcome(intent.n, "ok", 1)


def main(socket: str, project: str, mode: str) -> int:
    """`hold`, `patient`: write for ever. `once`: three steps. Exit status 75 when locked or fenced.

    `patient` has the lease's real times, and so the patience for a server that is started again.
    """
    server = connect(socket)
    times = lease.Times() if mode == "patient" else TIMES
    try:
        run = book.begin(
            server,
            project,
            book.start(mode, version="0"),
            times=times,
            lock_timeout=60,
            say=lambda _: None,
        )
        say("held", run.generation)
        answers: queue.Queue[book.Intent] = queue.Queue()
        number = 0
        while mode != "once" or number < 3:
            write(run, number, answers)
            number += 1
            time.sleep(0.02)
        run.close("ok")
        say("closed", run.generation)
    except errors.JournalError as error:
        say("refused", error.code, type(error.__cause__).__name__, error.summary)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
