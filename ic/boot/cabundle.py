"""Stands in for certifi in `ic.pyz`: the system's own certificate bundle, nothing brought along.

Only registries on the internet need public authorities; Incus servers are known by pinned certificates.
A missing bundle is therefore no error here: requests says so when a connection really needs it.
"""

import os

PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)


def where() -> str:
    """The first bundle that exists, else the first place looked at."""
    for place in PLACES:
        if os.path.exists(place):
            return place
    return PLACES[0]


def contents() -> str:
    """The bundle's text; OSError when the system has none."""
    with open(where(), encoding="ascii", errors="replace") as file:
        return file.read()
