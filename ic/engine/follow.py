"""What running instances write, line by line, until all of them have ended.

Enters: a client, a project, instance names, and a function that is told of every line and every end. One
thread per instance reads its console; telling happens on the caller's thread. Changes nothing, except that
the server's console buffer is read, which empties it.

The live stream is exclusive, so where somebody else is attached the buffer is read once a second instead.
What was written before the stream was opened is read from the buffer after it was opened, so that no line
is missed; what stands in both is shown once.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ic import errors
from ic.incus import lxclog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ic.incus import client as incus
    from ic.incus import websocket

POLL_SECONDS = 1.0
SETTLE_SECONDS = 0.2
END_SECONDS = 1.5
BUFFER_TRIES = 10
_NOT_THERE = b"Error: Failed running forkconsole"  # what the server writes into a stream of nothing
_NEWLINE = re.compile(rb"\r*\n")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an instance, or (with an exit code) its end."""

    instance: str
    text: str = ""
    ended: int | None = None


class Following:
    """The output of some instances, told on the caller's thread."""

    def __init__(self, client: incus.Client, project: str, instances: Iterable[str]) -> None:
        self._inbox: queue.SimpleQueue[Said | errors.IcError] = queue.SimpleQueue()
        self._open = set(instances)
        for name in sorted(self._open):
            console = _Console(client, {"project": project}, name, self._inbox)
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
            if isinstance(said, errors.IcError):
                raise said
            to(said)
            if said.ended is not None:
                self._open.discard(said.instance)


class _Console:
    """One instance's output, on a thread of its own."""

    def __init__(
        self,
        client: incus.Client,
        query: dict[str, str],
        name: str,
        inbox: queue.SimpleQueue[Said | errors.IcError],
    ) -> None:
        self.client = client
        self.query = query
        self.name = name
        self.path = f"/1.0/instances/{name}"
        self.inbox = inbox
        self.rest = b""
        self.read = b""  # what the buffer held last

    def run(self) -> None:
        try:
            self._read()
            self._say(b"", last=True)
            log = self.client.log_file(self.path, "lxc.log", self.query)
            self.inbox.put(Said(instance=self.name, ended=lxclog.exit_code(log) or 0))
        except errors.NotFound:  # removed while it was followed
            self.inbox.put(Said(instance=self.name, ended=0))
        except errors.IcError as error:
            self.inbox.put(error)

    def _running(self) -> bool:
        body = cast("dict[str, Any]", self.client.get(self.path, self.query))
        return body.get("status") != "Stopped"

    def _read(self) -> None:
        attached = False
        while self._running():
            attached = self._attached()
            self._await_end(END_SECONDS if attached else POLL_SECONDS)
        if not attached:
            self._say(self._buffer())

    def _await_end(self, seconds: float) -> None:
        """Give an instance that has ended the time to be shown as stopped: until then its state wavers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._running():
            time.sleep(SETTLE_SECONDS)

    def _attached(self) -> bool:
        """Follow the live stream to its end. False where there is none: what is in the buffer is told."""
        try:
            with self.client.console(self.path, self.query) as stream:
                self._say(self._before(stream))
                while data := stream.next(None):
                    if not data.startswith(_NOT_THERE):
                        self._say(data)
        except errors.Unreachable:
            return False  # the daemon restarts: look again
        except errors.IncusError:  # somebody else is attached, or it has just ended
            self._say(self._buffer())
            return False
        return True

    def _before(self, stream: websocket.Console) -> bytes:
        """What was written before the stream was opened, then what came through it meanwhile."""
        log = _unix(self._buffer())
        live = b""
        end = time.monotonic() + SETTLE_SECONDS
        while (left := end - time.monotonic()) > 0:
            data = stream.next(left)
            if data == b"":
                break
            live += data or b""
        return joined(log, b"" if live.startswith(_NOT_THERE) else _unix(live))

    def _buffer(self) -> bytes:
        """What was written since the buffer was read last.

        Reading it while the instance runs empties it; once it has stopped the same is read every time.
        While it ends the buffer cannot be read for a moment.
        """
        for _ in range(BUFFER_TRIES):
            found = self._buffer_now()
            if found is not None:
                again = found == self.read
                self.read = found
                return b"" if again else found
            time.sleep(SETTLE_SECONDS)
        return b""

    def _buffer_now(self) -> bytes | None:
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
