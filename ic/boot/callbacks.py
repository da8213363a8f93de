"""Stands in for `websocket._app` in `ic.pyz`: nothing here is called back.

The original and `websocket._dispatcher`, for which `dispatcher` stands in, import inspect, and that ast and
dis: 1 MiB of the health daemon for as long as it lives, and 5 MiB where its interpreter comes without
compiled modules [measured]. All else of websocket-client is shipped as it is.
"""


class WebSocketApp:
    """The client that calls back. Making one is refused: ImportError."""

    def __init__(self, *_: object, **__: object) -> None:
        raise ImportError("ic.pyz does not bring WebSocketApp along")


def set_reconnect(_seconds: int) -> None:
    """How soon a WebSocketApp connects again: nothing to set."""
