"""Stands in for `urllib3.http2` in `ic.pyz`: nothing here speaks HTTP/2.

The original imports importlib.metadata at every start of whatever uses urllib3 (6 ms), only to look at a
version when HTTP/2 is switched on. Its module `probe` is shipped as it is.
"""


def inject_into_urllib3() -> None:
    """Switching HTTP/2 on is refused: ImportError, as the original does without its dependency."""
    raise ImportError("ic.pyz does not bring HTTP/2 along")
