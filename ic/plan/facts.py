"""What was observed: the live resources and the facts that planning needs beside them. Pure values."""

from __future__ import annotations

from typing import Literal

import msgspec

from ic.resources import image, kind


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A host port that is taken: by whom, for a message."""

    protocol: str
    address: str
    port: int
    owner: str  # "instance web in project shop" or "a process on this host"
    project: str = ""
    instance: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts beside the live resources.

    `images` maps a reference as written in the file to what the registry (or the journal) says of it.
    `subnets` are those of every network of the server and, where the server is this host, its routes (CIDR).
    `pools` are storage pools, `default_pool` the one that default's default profile has its root on.
    `fingerprints` are the images that the server holds. `foreign` are names taken by things without our
    stamp: {"instance": {...}, "network": {...}, "volume": {...}, "project": {...}}.
    `missing` are bind sources that do not exist, `local` is true when the server is this host.
    """

    server: str = ""
    version: str = ""
    local: bool = True
    project_exists: bool = False
    project_marked: bool = False
    project_restrictions: dict[str, str] = {}
    images: dict[str, image.ImageFacts] = {}
    fingerprints: frozenset[str] = frozenset()
    subnets: tuple[tuple[str, str], ...] = ()  # (CIDR, owner)
    pools: tuple[str, ...] = ()
    default_pool: str = ""
    listeners: tuple[Listener, ...] = ()
    foreign: dict[str, frozenset[str]] = {}
    external_networks: dict[str, dict[str, str]] = {}  # name -> config, of those the stack names
    external_volumes: dict[str, str] = {}  # name -> pool, of those the stack names
    marks: dict[str, dict[str, kind.Stamp]] = {}  # of `foreign` things that some ic has marked
    bind_sources: dict[str, Literal["directory", "file", "missing"]] = {}


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything read before planning."""

    live: dict[str, kind.Live]  # by address; marked with this stack's stamp
    facts: Facts
    project_config: dict[str, str] = {}
    profiles: dict[str, dict[str, str]] = {}  # name -> config: the run object is among them
