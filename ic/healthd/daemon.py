"""The daemon's life: who it is, whether it may, then work; and what it says of itself while it lives.

In: settings, and the ways to the world (`Ways`: connections, the work itself, a place to log). Out: an exit
status, after a signal. One thread, the caller's, decides: it takes tokens, judges trust, starts and stops the
work, writes the state file. Nothing outside itself ends it: without a token, a server or trust it says so
in its state, and looks again. A 403 stops all work at once. A thread beside it ends the process with 70
when either this thread or the work's own has stood still for a minute: Incus starts it again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ic import buildinfo, errors
from ic.healthd import identity
from ic.incus import client as incus
from ic.incus import remotes, transport
from ic.resources import sidecar

TICK = 0.25  # seconds between looks at the token's place, the work and the signals
AGAIN = 60.0  # seconds until a server that does not trust us is asked again
UNREACHED = 2.0  # seconds until a server that did not answer is asked again, doubled up to:
UNREACHED_MOST = 15.0
CONNECTING = 3.0  # seconds that the work has for its first list, before it is said to be cut off
MENDING = 5.0  # seconds until a bad identity is looked at again
UNKNOWN = "cannot watch: the server does not know this certificate (any more)"
LEAVING = 1.6  # seconds that the work has to end in
LEAVING_STREAM = 0.8  # and then the writer of the stream
LEAVING_MOST = 2.7  # after which the process ends whatever goes on
WATCH_EVERY = 5.0
WATCH_TICKS = 12  # looks without progress until the process is given up: a minute


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The work as it goes: how many instances are watched, and which are misconfigured (`NAME: KEY`).

    `connected`: it has the server's list and its events. If not, `detail` says why.
    """

    watched: int = 0
    misconfigured: tuple[str, ...] = ()
    connected: bool = False
    detail: str = ""


class Work(Protocol):
    """What the daemon is for: watching a project (`ic.healthd.manager`)."""

    @property
    def beat(self) -> int:
        """Grows while the scheduler goes on."""
        ...

    def view(self) -> View:
        """How it goes; from any thread."""
        ...

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop`. Raises Forbidden or Untrusted when the server says no; rides out the rest."""
        ...


class Teller(Protocol):
    """What is told to the journal (`ic.healthd.stream`)."""

    @property
    def refused(self) -> bool:
        """Whether the server has said no to it since `begin`."""
        ...

    def tell(self, kind: str, address: str = "", *, cause: str = "") -> None:
        """Something happened."""
        ...

    def begin(self, client: incus.Client) -> None:
        """There is trust: write along."""
        ...

    def pause(self, seconds: float) -> None:
        """There is none: write nothing."""
        ...

    def end(self, seconds: float) -> None:
        """Write the rest and the end."""
        ...


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`server` is the way to the API without pin and certificate: the identity has those."""

    project: str
    server: remotes.Server
    directory: str = sidecar.IDENTITY
    token_file: str = sidecar.TOKEN_FILE


class Ways(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon reaches the world: tests hand in others.

    `say` writes one line of the log: a word and its fields. `leave` ends the process at once.
    """

    connect: Callable[[remotes.Server], incus.Client]
    shake_hands: Callable[[remotes.Server], None]
    work: Callable[[incus.Client], Work]
    teller: Teller
    say: Callable[[str, dict[str, Any]], None]
    leave: Callable[[int], None]
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Daemon:
    """One life. `run` it on the main thread; `end` it from a signal handler."""

    def __init__(self, settings: Settings, ways: Ways) -> None:
        self.settings = settings
        self._ways = ways
        self.place = identity.Place(directory=settings.directory, project=settings.project)
        self._inbox = identity.Inbox(settings.token_file)
        self._stop = threading.Event()
        self._gone = threading.Event()
        self._turns = 0
        self._work: Work | None = None
        self._identity: identity.Identity | None = None
        self._files: tuple[object, ...] = ()  # the identity's, as the last look found or left them
        self._token: identity.Found | None = None  # complete, and not tried yet
        self._tried = (0, 0)  # the token file that was tried last, and could not be decided
        self._refused: tuple[sidecar.Word, str] | None = None  # why the last token brought nothing
        self._pause = UNREACHED
        self._began = 0.0  # when the work did
        self.state = sidecar.State(
            state="starting",
            since=self._now_ms(),
            project=settings.project,
            build=buildinfo.build_id(),
        )
        self._written: sidecar.State | None = None

    # --- from outside ---

    def end(self) -> None:
        """Ask for the end; for signal handlers and tests. What still waits for a server is left behind."""
        if self._stop.is_set():
            return
        self._stop.set()
        threading.Thread(target=self._cut, name="cut", daemon=True).start()

    def _cut(self) -> None:
        """Every file is replaced whole and every restart is claimed first: leaving is safe at any time."""
        if not self._gone.wait(LEAVING_MOST):
            self._become("ended")
            self._ways.leave(0)

    @property
    def progress(self) -> tuple[int, int]:
        """Changes while everything goes on: for the watchdog."""
        work = self._work
        return self._turns, work.beat if work is not None else 0

    # --- the loop ---

    def run(self) -> int:
        """Live until `end`; 0. The state file says what it is doing all along."""
        self._say("start", build=self.state.build, project=self.state.project)
        self._become("starting")
        watchdog = Watchdog(self, self._ways)
        watchdog.start()
        try:
            while not self._stop.is_set():
                self._wait(self._turn())
        finally:
            watchdog.stop()
        self._become("ended")
        self._gone.set()
        self._say("end")
        return 0

    def _turn(self) -> float:
        """One look at everything; the seconds until the next one (a token ends the wait early)."""
        self._tried = (0, 0)
        self._files = identity.mark(self.place)
        try:
            mine = self._own()
            self._take_token(mine)
            found = identity.pinned(self.place)
            self._files = identity.mark(self.place)
            self.state = msgspec.structs.replace(self.state, server=found)
            if not found:
                self._without_trust("waiting-for-token", "no token lies there yet")
                return AGAIN
            return self._serve(self._server(mine, found))
        except identity.BadIdentity as error:
            self._become("bad-identity", f"{error.summary}; {error.hint}")
            return MENDING
        except (errors.Unreachable, errors.TimedOut) as error:
            self._become("unreachable", error.summary)
            self._pause = min(2 * self._pause, UNREACHED_MOST)
            return self._pause
        except errors.Untrusted as error:
            if self._touched():
                return 0.0  # it was the own files that could not be used: they are looked at now
            self._become("pin-mismatch", "; ".join((error.summary, *error.details)))
            return AGAIN
        except (errors.Forbidden, errors.NotFound) as error:
            self._without_trust("untrusted", error.summary)
            return AGAIN
        except errors.IncusError as error:
            # A server that restarts answers all sorts of things.
            self._become("unreachable", error.summary)
            return UNREACHED_MOST

    def _wait(self, seconds: float) -> None:
        """Wait; a token that is laid down, another identity, or the end cuts it short."""
        until = self._ways.clock() + seconds
        while not self._stop.wait(min(TICK, seconds)):
            self._turns += 1
            if self._ways.clock() >= until or self._token_there() or self._touched():
                return

    def _touched(self) -> bool:
        """Whether somebody has changed, mended or removed the identity's files since the last look."""
        return identity.mark(self.place) != self._files

    def _token_there(self) -> bool:
        """Whether a whole token lies there that was not tried yet."""
        try:
            found = self._inbox.look(self._ways.clock())
        except identity.Refused as error:
            self._refuse("token-refused", error)
            return False
        if found is None or found.which == self._tried:
            return False
        self._token = found
        return True

    # --- who ---

    def _own(self) -> identity.Identity:
        """The identity that lies there, made now when there is none."""
        found = identity.load(self.place, self._ways.wall())
        if found is None:
            found = identity.create(self.place, self._ways.wall())
            self._say("identity", certificate=found.fingerprint)
        if found != self._identity:
            self._identity = found
            self.state = msgspec.structs.replace(self.state, certificate=found.fingerprint)
        return found

    def _server(self, mine: identity.Identity, fingerprint: str) -> remotes.Server:
        return msgspec.structs.replace(
            self.settings.server,
            fingerprint=fingerprint,
            certificate=mine.certificate,
            key=mine.key,
        )

    def _take_token(self, mine: identity.Identity) -> None:
        """Use the token that lies there, if one does.

        One that names another server than answers is of no use: the pin stays as it is. Raises IncusError
        when nobody answered: then the token stays where it is.
        """
        if self._token is None and not self._token_there():
            return
        found, self._token = self._token, None
        if found is None:
            return
        self._tried = found.which
        if found.was_open:
            self._say("token", warning="others could read its file; it was closed")
        try:
            token = identity.decode_token(found.data)
            new = self._exchange(mine, token)
        except identity.Refused as error:
            self._inbox.clear(found)
            self._refuse("token-refused", error)
        except errors.Untrusted as error:
            self._inbox.clear(found)
            self._refuse("pin-mismatch", error)
        else:
            self._inbox.clear(found)
            self._refused = None
            self._say("token", used=new, certificate=mine.fingerprint)

    def _exchange(self, mine: identity.Identity, token: identity.Token) -> bool:
        """Pin the server that the token names, and hand the token in; whether it was taken.

        Raises Untrusted before a byte was sent, Refused, or IncusError when it is not known how it ended.
        """
        server = self._server(mine, token.fingerprint)
        self._ways.shake_hands(server)
        if identity.pinned(self.place) != token.fingerprint:
            identity.pin(self.place, token.fingerprint)
            self._say("pin", server=token.fingerprint)
        with self._ways.connect(server) as client:
            if identity.trusted(client):
                return False
            identity.check_expiry(token, self._ways.wall())
            return identity.register(client, token)

    def _refuse(self, word: sidecar.Word, error: errors.IcError) -> None:
        detail = "; ".join((error.summary, *error.details))
        self._refused = (word, detail)
        self._say("token", refused=transport.clean(detail), code=error.code)

    def _without_trust(self, word: sidecar.Word, detail: str) -> None:
        """What is said when nothing can be done: a token that was refused is the nearer reason."""
        self._become(*(self._refused or (word, detail)))

    # --- at work ---

    def _serve(self, server: remotes.Server) -> float:
        """Work until the end, a refusal or a new pin; the seconds until the next look."""
        with self._ways.connect(server) as client:
            if not identity.trusted(client):
                raise errors.Forbidden(UNKNOWN)
            client.get(_project(self.settings.project))
            self._refused = None
            self._pause = UNREACHED
            work = self._ways.work(client)
            self._ways.teller.begin(client)
            self._work, self._began = work, self._ways.clock()
            try:
                failure = self._while_working(work, server)
            finally:
                self._work = None
                if self._stop.is_set():
                    self._ways.teller.end(LEAVING_STREAM)
                else:
                    self._ways.teller.pause(LEAVING_STREAM)
            if isinstance(failure, errors.Forbidden):
                failure = _reason(client, failure)
        if isinstance(failure, errors.IcError):
            raise failure
        if failure is not None:
            self._say("fault", error=f"{type(failure).__name__}: {failure}"[:300])
            self._become("unreachable", f"internal error ({type(failure).__name__})")
            return MENDING
        return 1.0

    def _while_working(self, work: Work, server: remotes.Server) -> BaseException | None:
        """Run the work on its own thread and look after it; why it ended, None when it was asked to."""
        ended: list[BaseException | None] = []
        stop = threading.Event()

        def labour() -> None:
            try:
                work.run(stop)
            except Exception as error:  # noqa: BLE001 - the loop's boundary: the daemon lives on
                ended.append(error)
            else:
                ended.append(None)

        thread = threading.Thread(target=labour, name="work", daemon=True)
        thread.start()
        try:
            while not self._stop.wait(TICK) and thread.is_alive():
                self._turns += 1
                if self._ways.teller.refused:
                    break  # where the work has nothing to ask for a while, this one notices
                if self._touched():
                    break
                self._show(work.view())
                if self._token_there() and self._leads_elsewhere(server):
                    break
        finally:
            stop.set()
            thread.join(LEAVING)
        if thread.is_alive():
            self._say("late", what="the work did not end in time")
        return ended[0] if ended else None

    def _leads_elsewhere(self, server: remotes.Server) -> bool:
        """Use a token that came while all is well; whether it has pinned another server."""
        mine = self._identity
        if mine is None:
            return True
        with contextlib.suppress(errors.IncusError):
            self._take_token(mine)
        return identity.pinned(self.place) != server.fingerprint

    def _show(self, view: View) -> None:
        """Take the work's own view into the state."""
        self.state = msgspec.structs.replace(
            self.state, watched=view.watched, misconfigured=view.misconfigured
        )
        if view.connected:
            self._become("watching")
        elif self.state.state == "watching" or self._ways.clock() - self._began >= CONNECTING:
            self._become("unreachable", view.detail)

    # --- what it says ---

    def _become(self, word: sidecar.Word, detail: str = "") -> None:
        """Write the state when something of it is new."""
        detail = transport.clean(detail)
        now = self.state
        if (now.state, now.detail) != (word, detail):
            since = self._now_ms() if now.state != word else now.since
            now = msgspec.structs.replace(now, state=word, detail=detail, since=since)
        if now == self._written:
            return
        said = self._written is None or (now.state, now.detail) != (
            self._written.state,
            self._written.detail,
        )
        self.state = self._written = now
        if said:
            self._say("state", state=word, **({"detail": detail} if detail else {}))
            if word not in ("starting", "ended"):
                self._ways.teller.tell("state", cause=f"{word}: {detail}" if detail else word)
        try:
            write_state(self.settings.directory + sidecar.STATE_FILE, now)
        except OSError as error:
            self._say("state-file", error=str(error.strerror))

    def _say(self, word: str, **fields: Any) -> None:
        self._ways.say(word, fields)

    def _now_ms(self) -> int:
        return int(self._ways.wall() * 1000)


def _reason(client: incus.Client, refusal: errors.Forbidden) -> errors.Forbidden:
    """What a refusal means: when the server knows the certificate no more, whatever was asked was in vain."""
    with contextlib.suppress(errors.IncusError):
        if not identity.trusted(client):
            return errors.Forbidden(UNKNOWN)
    return refusal


def _project(name: str) -> str:
    from urllib.parse import quote

    return f"/1.0/projects/{quote(name, safe='')}"


def write_state(path: str, state: sidecar.State) -> None:
    """Replace the state file: readers see the old one or the new one. Raises OSError."""
    fresh = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(sidecar.encode(state))
    os.replace(fresh, path)


class Watchdog:
    """Ends the process when nothing goes on. It counts its own looks, not time: a process that was stopped
    as a whole, or a machine that slept, has missed its looks as well.
    """

    def __init__(
        self,
        daemon: Daemon,
        ways: Ways,
        *,
        every: float = WATCH_EVERY,
        ticks: int = WATCH_TICKS,
    ) -> None:
        self._daemon = daemon
        self._ways = ways
        self._every = every
        self._ticks = ticks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self) -> None:
        seen: list[int] = []
        still = [0, 0]
        while not self._stop.wait(self._every):
            now = list(self._daemon.progress)
            still = [
                count + 1 if seen and one == before else 0
                for one, before, count in zip(now, seen or now, still, strict=True)
            ]
            seen = now
            working = now[1] != 0
            if still[0] >= self._ticks or (working and still[1] >= self._ticks):
                self._ways.say("watchdog", {"error": "no progress, giving up", "exit": 70})
                self._ways.leave(70)
                return
