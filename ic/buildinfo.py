"""Which build of ic is running. Pure; imports nothing.

The one value here is replaced by build_zipapp.py in the copy that it puts into `ic.pyz`.
"""

BUILD_ID = "source"


def build_id() -> str:
    """The first 20 hex digits of the hash over the running `ic.pyz`; "source" in a checkout."""
    return BUILD_ID


def archive() -> str:
    """The path of the running `ic.pyz`; empty in a checkout."""
    loader = __spec__.loader
    return str(getattr(loader, "archive", ""))
