"""One life of the daemon up to the moment that it watches, cut off at a chosen call: for test_identity.py.

`exchange.py FOLDER PROJECT CUT`: identity in FOLDER/volume, token in FOLDER/token. The process ends with 9
just before its CUT-th call that touches the disk or the server, counted from 0; with 0 once it watches. It
stands in for the whole daemon but for its work, which is nothing of this.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from ic.healthd import daemon, identity
from ic.incus import client, remotes, transport

CALLS = ((os, "open"), (os, "fsync"), (os, "replace"), (os, "unlink"), (transport, "connected"))


class Work:
    """Nothing to do: to have begun is all."""

    beat = 0

    def __init__(self, living: daemon.Daemon) -> None:
        self.living = living

    def view(self) -> daemon.View:
        return daemon.View(connected=True)

    def run(self, stop: threading.Event) -> None:
        stop.wait(0.4)
        self.living.end()


class Teller:
    """Tells nobody."""

    refused = False

    def tell(self, *_: object, **__: object) -> None:
        return

    begin = pause = end = tell


def count(cut: int) -> None:
    """Let the process end at the cut-th of the calls."""
    seen = 0

    def counted(real: Any, answer: bool = False) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            if seen == cut:
                os._exit(9)
            seen += 1
            return real(*arguments, **named)

        return call

    for module, name in CALLS:
        setattr(module, name, counted(getattr(module, name)))
    # Before a request, and after its answer: two points.
    real = transport.Transport.request

    def request(self: Any, *arguments: Any, **named: Any) -> Any:
        return counted(lambda: counted(lambda found: found)(real(self, *arguments, **named)))()

    transport.Transport.request = request  # type: ignore[method-assign]


def say(text: str) -> None:
    """Write at once: the process may be about to end."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main(folder: str, project: str, cut: int) -> int:
    settings = daemon.Settings(
        project=project,
        server=remotes.Server(name="incus", host="127.0.0.1"),
        directory=os.path.join(folder, "volume"),
        token_file=os.path.join(folder, "token"),
    )
    begun: list[daemon.Daemon] = []
    living = daemon.Daemon(
        settings,
        daemon.Ways(
            connect=lambda server: client.Client(transport.connect(server)),
            shake_hands=lambda server: transport.connected(server).close(),
            work=lambda _: Work(begun[0]),
            teller=Teller(),
            say=lambda word, fields: say(f"{word} {fields}\n"),
            leave=os._exit,
        ),
    )
    begun.append(living)
    identity.certificate.make("warm", 0, os.urandom)
    count(cut)
    return living.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
