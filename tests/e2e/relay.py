"""A TCP relay: `relay.py ADDRESS PORT TO PORT`. Makes a registry of the lab reachable from elsewhere."""

from __future__ import annotations

import socket
import sys
import threading


def pour(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def main(address: str, port: str, to: str, to_port: str) -> None:
    listener = socket.create_server((address, int(port)))
    sys.stdout.write("up\n")
    sys.stdout.flush()
    while True:
        near, _ = listener.accept()
        far = socket.create_connection((to, int(to_port)))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pour, args=pair, daemon=True).start()


main(*sys.argv[1:])
