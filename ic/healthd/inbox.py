"""What comes into the inbox of the thread that decides, and the lanes of threads that carry out.

In: jobs, which are calls and probes. Out: their answers, one message each; what raises becomes a Fault, which
the deciding thread raises. A lane has a size and takes jobs in order.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from ic import errors
from ic.healthd import probes, worker

if TYPE_CHECKING:
    from collections.abc import Callable

Body = dict[str, Any]


class Fault(msgspec.Struct, frozen=True):
    """Something that must not happen, or a refusal that ends all work."""

    error: BaseException


class Online(msgspec.Struct, frozen=True):
    """The event stream is open: list now."""


class Offline(msgspec.Struct, frozen=True):
    """The event stream broke."""

    reason: str


class Told(msgspec.Struct, frozen=True):
    """An event of the server."""

    event: Body


class Listed(msgspec.Struct, frozen=True):
    """A full listing that was asked for at `asked` (ms), `first` after connecting."""

    asked: int
    first: bool
    bodies: list[Body] | None


class Looked(msgspec.Struct, frozen=True):
    """One instance read; None when it is gone."""

    name: str
    changed: int
    body: Body | None
    failed: bool = False
    doubt: bool = False


class Answer(msgspec.Struct, frozen=True):
    """The answer to a command of a worker. `doubt`: the server could not be reached meanwhile."""

    name: str
    event: worker.Event
    doubt: bool = False


class Probe(msgspec.Struct, frozen=True):
    """A probe that has ended."""

    name: str
    number: int
    due: int
    started: int
    result: probes.Result


class Held(msgspec.Struct, frozen=True):
    """The heartbeat of a run that holds instances; empty when it holds no more, None when unknown."""

    generation: str
    heartbeat: str | None


class Lane:
    """Threads that run jobs in order; made when there is work for one more."""

    def __init__(self, name: str, size: int, post: Callable[[Any], None]) -> None:
        self._name = name
        self._size = size
        self._post = post
        self._jobs: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()
        self.threads: list[threading.Thread] = []

    def put(self, job: Callable[[], Any]) -> None:
        """Run a job when a thread is free; its answer is posted."""
        with self._lock:
            self._idle -= 1
            if self._idle < 0 and len(self.threads) < self._size:
                thread = threading.Thread(
                    target=self._work, name=f"{self._name}-{len(self.threads)}", daemon=True
                )
                self.threads.append(thread)
                self._idle += 1
                thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """Take no more; what waits is thrown away."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self.threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                answer = job()
            except Exception as error:  # noqa: BLE001 - the loop's boundary: the deciding thread raises it
                answer = Fault(error)
            with self._lock:
                self._idle += 1
            self._post(answer)


def refusal(error: errors.IncusError) -> Fault | None:
    """The end of all work, when the server says that this client may not; None for every other failure.

    What a restricted project forbids to everybody (E_RESTRICTED) is a failure like others.
    """
    untrusted = isinstance(error, errors.Untrusted) or error.code == errors.Forbidden.code
    return Fault(error) if untrusted else None


def doubtful(error: errors.IncusError) -> bool:
    """Whether the server was not there, or its answer was lost."""
    return isinstance(error, errors.Unreachable | errors.TimedOut)
