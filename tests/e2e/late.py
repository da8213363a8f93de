"""A TCP relay whose answers come late: `late.py PORT TO_PORT`, on the loopback.

A line on standard input says by how many seconds, from now on; 0 at first.
"""

from __future__ import annotations

import collections
import socket
import sys
import threading
import time

delay = 0.0


def pour(source: socket.socket, target: socket.socket, *, late: bool) -> None:
    """Hand on what comes, each piece in order and so much later; ends with the connection."""
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    more = threading.Condition()

    def deliver() -> None:
        while True:
            with more:
                while not waiting:
                    more.wait()
                at, data = waiting.popleft()
            time.sleep(max(0.0, at - time.monotonic()))
            try:
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
            except OSError:
                return

    threading.Thread(target=deliver, daemon=True).start()
    data = b"begun"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        with more:
            waiting.append((time.monotonic() + (delay if late else 0.0), data))
            more.notify()


def serve(listener: socket.socket, to: int) -> None:
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", to))
        except OSError:
            near.close()
            continue
        threading.Thread(target=pour, args=(near, far), kwargs={"late": False}, daemon=True).start()
        threading.Thread(target=pour, args=(far, near), kwargs={"late": True}, daemon=True).start()


listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=serve, args=(listening, int(sys.argv[2])), daemon=True).start()
sys.stdout.write("up\n")
sys.stdout.flush()
for line in sys.stdin:
    delay = float(line)
