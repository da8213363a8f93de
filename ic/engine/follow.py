"""What running instances write, line by line, until all of them have ended.

Enters: a client, a project, instance names, and a function that is told of every line and every end. One
thread per instance reads its console; telling happens on the caller's thread. Changes nothing, except that
the server's console buffer is read, which empties it.

The live stream is exclusive, so where somebody else is attached the buffer is read once a second instead.
What was written before the stream was opened is read from the buffer after it was opened, so that no line
is missed; what stands in both is shown once.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from ic import errors
from ic.incus import lxclog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ic.incus import client as incus
    from ic.incus import websocket

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.2
END_SECONDS = 1.5
IDLE_SECONDS = 10.0
_NOT_THERE = b"Error: Failed running forkconsole"  # what the server writes into a stream of nothing
_TAKEN = "already connected"
_NEWLINE = re.compile(rb"\r*\n")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an instance, or (with an exit code) its end."""

    instance: str
    text: str = ""
    ended: int | None = None


class Following:
    """The output of some instances, told on the caller's thread.

    `before` is what the buffers of stopped instances held before they were started (`remembered`).
    """

    def __init__(
        self,
        client: incus.Client,
        project: str,
        instances: Iterable[str],
        before: Mapping[str, bytes],
    ) -> None:
        self._inbox: queue.SimpleQueue[Said | BaseException] = queue.SimpleQueue()
        self._open = set(instances)
        for name in sorted(self._open):
            earlier = before.get(name, b"")
            console = _Console(client, {"project": project}, name, self._inbox, earlier)
            threading.Thread(target=console.run, daemon=True).start()

    def tell(self, to: Callable[[Said], None], *, seconds: float | None = None) -> None:
        """Tell of every line and every end until all have ended, or for that many seconds.

        KeyboardInterrupt passes through, and telling may go on afterwards. Raises IncusError.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while self._open:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            try:
                said = self._inbox.get(timeout=left)
            except queue.Empty:
                return
            if isinstance(said, BaseException):
                raise said
            to(said)
            if said.ended is not None:
                self._open.discard(said.instance)


def remembered(client: incus.Client, project: str, stopped: Iterable[str]) -> dict[str, bytes]:
    """What the buffers of these stopped instances hold: the words of runs that are over."""
    found: dict[str, bytes] = {}
    for name in stopped:
        with contextlib.suppress(errors.IncusError):
            found[name] = client.console_log(f"/1.0/instances/{name}", {"project": project})
    return found


class _Console:
    """One instance's output, on a thread of its own."""

    def __init__(
        self,
        client: incus.Client,
        query: dict[str, str],
        name: str,
        inbox: queue.SimpleQueue[Said | BaseException],
        before: bytes,
    ) -> None:
        self.client = client
        self.query = query
        self.name = name
        self.path = f"/1.0/instances/{name}"
        self.inbox = inbox
        self.rest = b""
        self.before = before

    def run(self) -> None:
        try:
            self._read()
            self._say(b"", last=True)
            log = self.client.log_file(self.path, "lxc.log", self.query)
            self.inbox.put(Said(instance=self.name, ended=lxclog.exit_code(log) or 0))
        except errors.NotFound:  # removed while it was followed
            self.inbox.put(Said(instance=self.name, ended=0))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, raised there
            self.inbox.put(error)

    def _running(self) -> bool:
        body = cast("dict[str, Any]", self.client.get(self.path, self.query))
        return body.get("status") != "Stopped"

    def _read(self) -> None:
        way = ""
        while self._running():
            way = self._attached()
            self._await_end(POLL_SECONDS if way == "taken" else END_SECONDS)
        if way != "followed":
            self._last_words()

    def _await_end(self, seconds: float) -> None:
        """Give an instance that has ended the time to be shown as stopped: until then its state wavers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._running():
            time.sleep(SETTLE_SECONDS)

    def _attached(self) -> Literal["followed", "taken", "gone"]:
        """Follow the live stream to its end, or say why there is none."""
        try:
            with self.client.console(self.path, self.query) as stream:
                return "followed" if self._live(stream) else "gone"
        except errors.Unreachable:
            return "gone"  # the daemon restarts: look again
        except errors.IncusError as error:
            if _TAKEN not in error.summary:
                return "gone"  # it has just ended
        self._say(self._buffer() or b"")
        return "taken"

    def _live(self, stream: websocket.Console) -> bool:
        """What was written before the stream was opened, then the stream; False when it leads nowhere."""
        first = stream.next(SETTLE_SECONDS) or b""
        if first.startswith(_NOT_THERE):
            return False
        log = self._buffer() or b""
        with contextlib.suppress(errors.Unreachable):  # what the buffer held is not lost for that
            first += stream.next(SETTLE_SECONDS) or b""
        if first.startswith(_NOT_THERE):  # said late; what does not run keeps its buffer
            return False
        self._say(joined(_unix(log), _unix(first)))
        while True:
            data = stream.next(IDLE_SECONDS)
            if data:
                self._say(data)
            elif data is not None or not self._running():
                return True

    def _last_words(self) -> None:
        """What one that has ended without being followed has said.

        It comes into the buffer a moment after the end: behind what earlier runs have left there, or instead
        of it. What does not change for a while is taken for the same words, said again.
        """
        end = time.monotonic() + END_SECONDS
        found = self._buffer()
        while found in (None, self.before) and time.monotonic() < end:
            time.sleep(SETTLE_SECONDS)
            found = self._buffer()
        if found is not None:
            self._say(found if found == self.before else found.removeprefix(self.before))

    def _buffer(self) -> bytes | None:
        """What the buffer holds; None for the moment in which it cannot be read, while an instance ends.

        Reading it while the instance runs empties it (and forgets earlier runs), so that is done only by who
        tells what it holds.
        """
        try:
            return self.client.console_log(self.path, self.query)
        except errors.OperationFailed:
            return None

    def _say(self, data: bytes, *, last: bool = False) -> None:
        """Pass on whole lines; the rest waits for its newline."""
        lines = _NEWLINE.split(self.rest + data)
        self.rest = b"" if last else lines.pop()
        for line in lines:
            if line or not last:
                self.inbox.put(Said(instance=self.name, text=line.decode(errors="replace")))


def _unix(data: bytes) -> bytes:
    return _NEWLINE.sub(b"\n", data)


def joined(log: bytes, live: bytes) -> bytes:
    """Two pieces of one output, of which the end of the first may be the beginning of the second. Pure."""
    for length in range(min(len(log), len(live)), 0, -1):
        if log.endswith(live[:length]):
            return log + live[length:]
    return log + live
