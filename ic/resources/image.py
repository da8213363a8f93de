"""OCI images as a resource: what the registry says of one, and the pull by the server.

Pure. Docker's rules for ENTRYPOINT and CMD are applied in `ic.fields.process`, from the config kept here.
"""

from __future__ import annotations

import msgspec


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an OCI image config that a stack needs (OCI Image Specification, config)."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    healthcheck: dict[str, object] | None = None


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An image reference, resolved. `resolved` is the pull reference HOST/REPOSITORY@DIGEST."""

    reference: str
    resolved: str
    digest: str
    config: ImageConfig
    fingerprint: str = ""  # known once the server has pulled it
