"""What was observed: the live resources and the facts that planning needs beside them. Pure values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from ic.resources import image, kind, sidecar

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    `fingerprints` are the images that the server holds, None while that was not asked. `foreign` are names
    taken by things without our stamp:
    {"instance": {...}, "network": {...}, "volume": {...}, "project": {...}}.
    `missing` are bind sources that do not exist, `local` is true when the server is this host.
    `https_address` is the server's `core.https_address`, empty when it listens nowhere, None when this client
    may not see it; `addresses` are those that the server says to be reached at, `server_fingerprint` is its
    certificate's. `sidecar_state` is what the health daemon says of
    itself, None when there is none or its file is not readable, `sidecar_home` the project that it lives in.
    `home_exists` is whether there is a project of its own for it, `home_marked` whether that is this stack's.
    `may_administer` is false for a client whose certificate is restricted: it may make no token and change
    nothing of the server.
    """

    server: str = ""
    version: str = ""
    local: bool = True
    project_exists: bool = False
    project_marked: bool = False
    project_restrictions: dict[str, str] = {}
    images: dict[str, image.ImageFacts] = {}
    fingerprints: frozenset[str] | None = frozenset()
    subnets: tuple[tuple[str, str], ...] = ()  # (CIDR, owner)
    pools: tuple[str, ...] = ()
    default_pool: str = ""
    listeners: tuple[Listener, ...] = ()
    foreign: dict[str, frozenset[str]] = {}
    external_networks: dict[str, dict[str, str]] = {}  # name -> config, of those the stack names
    external_volumes: dict[str, str] = {}  # name -> pool, of those the stack names
    marks: dict[str, dict[str, kind.Stamp]] = {}  # of `foreign` things that some ic has marked
    bind_sources: dict[str, Literal["directory", "file", "missing"]] = {}
    https_address: str | None = None
    addresses: tuple[str, ...] = ()
    server_fingerprint: str = ""
    sidecar_state: sidecar.State | None = None
    sidecar_home: str = ""
    home_exists: bool = False
    home_marked: bool = False
    may_administer: bool = True


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything read before planning.

    `doubles` are bridges of this stack whose address another one has in `live`: what a run leaves that is
    cut off while a network gets another name.
    """

    live: dict[str, kind.Live]  # by address; marked with this stack's stamp
    facts: Facts
    project_config: dict[str, str] = {}
    profiles: dict[str, dict[str, str]] = {}  # name -> config: the run object is among them
    doubles: tuple[kind.Live, ...] = ()


def prefer(observed: Observed, wanted: Mapping[str, str]) -> Observed:
    """The same look, where of two bridges with one address the one that has the wanted name is live.

    `wanted` maps addresses to Incus names.
    """
    live = dict(observed.live)
    doubles: list[kind.Live] = []
    for one in observed.doubles:
        other = live.get(one.address)
        if other is not None and one.name == wanted.get(one.address) != other.name:
            live[one.address] = one
            doubles.append(other)
        else:
            doubles.append(one)
    return msgspec.structs.replace(observed, live=live, doubles=tuple(doubles))
