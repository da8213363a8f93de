"""Stands in for `websocket._dispatcher` in `ic.pyz`, as `callbacks` does for `websocket._app`, and why.

Of the original's classes those are here that its other modules import, for the sake of isinstance alone.
"""


class DispatcherBase:
    """What a connection may be given to wait with; none of ours is."""


class WrappedDispatcher:
    """A foreign event loop, for the same."""
