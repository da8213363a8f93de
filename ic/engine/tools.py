"""What carrying out a deed needs beside it: the server, the lease's word, the clock, who may interrupt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from ic.incus import client


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What a deed needs beside itself. `guard` and `confirm_delete` raise Fenced when the lease is lost.

    `interrupted` says whether a person wants to stop: a deed that waits gives up. `token_file` is
    `--healthd-token`.
    """

    client: client.Client
    lineage: str
    guard: Callable[[], None]
    confirm_delete: Callable[[], None]
    env: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    interrupted: Callable[[], bool] = lambda: False
    token_file: str = ""
