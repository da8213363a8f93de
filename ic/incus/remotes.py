"""Which server: the `incus` client's own remotes and certificates, or a local socket.

In: a remote's name (or None) and the process environment. Out: a Server, the way to one Incus daemon.
Reads the client's config.yml and nothing else; writes nothing and connects to nothing. The order is that of
docs/cli.md, "Which server". The file belongs to `incus`, so only what is needed of it is looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ic import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

LOCAL_SOCKETS = ("/var/lib/incus/unix.socket", "/run/incus/unix.socket")
DEFAULT_PORT = 8443
_CONFIG_LIMIT = 1024 * 1024


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one Incus daemon: a socket's path, or host and port with three certificate files.

    `name` is the remote's name as the user knows it. `others` are further addresses of the same server, for
    when the first cannot be reached. `tls` says that TLS is spoken through the socket (a proxy device whose
    other end is the server's HTTPS address); with a host it always is. `pinned` is the PEM file with the
    one certificate that the server may show, or `fingerprint` its SHA-256 in hex, which comes first.
    `certificate` and `key` are the client's own; without them (both empty) it shows none.
    """

    name: str
    socket: str = ""
    tls: bool = False
    host: str = ""
    port: int = DEFAULT_PORT
    others: tuple[tuple[str, int], ...] = ()
    pinned: str = ""
    fingerprint: str = ""
    certificate: str = ""
    key: str = ""

    @property
    def local(self) -> bool:
        """Whether the server is this machine's own: a socket, and nothing behind it that leads elsewhere."""
        return bool(self.socket) and not self.tls

    @property
    def url(self) -> str:
        """The address as `incus remote list` writes it."""
        if self.socket:
            return f"{'tls+' if self.tls else ''}unix://{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"


def resolve(name: str | None, env: Mapping[str, str]) -> Server:
    """The server to talk to.

    `name` (from --remote) wins, then INCUS_SOCKET, INCUS_DIR, the default remote of the client's
    config.yml, the local socket. Raises UsageError for an unknown or unusable remote or an unreadable
    config.yml. Whether anything answers there is found out by the first request.
    """
    if name is None:
        if env.get("INCUS_SOCKET"):
            return Server(name="local", socket=_socket_path(env["INCUS_SOCKET"]))
        if env.get("INCUS_DIR"):
            return Server(name="local", socket=os.path.join(env["INCUS_DIR"], "unix.socket"))
    folder = _config_folder(env)
    shared = env.get("INCUS_GLOBAL_CONF") or "/etc/incus"
    own = _read(os.path.join(folder, "config.yml")) if folder else {}
    wanted = name if name is not None else own.get("default-remote") or "local"
    if not isinstance(wanted, str):
        raise errors.UsageError("cannot read the default remote: it is not a name")
    wanted = wanted.removesuffix(":")
    remote = _remotes(own).get(wanted)
    place = folder
    if remote is None:
        remote = _remotes(_read(os.path.join(shared, "config.yml"))).get(wanted)
        place = shared
    if remote is None:
        if wanted == "local":
            return Server(name="local", socket=_local_socket())
        raise errors.UsageError(
            f"cannot use remote {wanted!r}: the incus client knows no remote of that name",
            hint="`incus remote list` shows those it knows; `incus remote add` adds one",
        )
    return _server(wanted, remote, folder or shared, place)


def _server(name: str, remote: dict[str, Any], folder: str, place: str) -> Server:
    """A remote of config.yml as a Server; raises UsageError for those that hold only images."""
    address = remote.get("addr")
    if not isinstance(address, str) or not address:
        raise errors.UsageError(f"cannot use remote {name!r}: it has no address")
    protocol = remote.get("protocol") or "incus"
    if protocol != "incus" or remote.get("public"):
        what = "a public image server" if protocol == "incus" else f"an image server ({protocol})"
        raise errors.UsageError(
            f"cannot use remote {name!r}: it is {what}, nothing can run there",
            hint="`incus remote list` shows the remotes; choose one with protocol incus that is not public",
        )
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        return Server(name=name, socket=path or _local_socket())
    if remote.get("auth_type") not in (None, "", "tls"):
        raise errors.UsageError(
            f"cannot use remote {name!r}: it authenticates by {remote['auth_type']!r}, not by a certificate",
            hint="add a remote that uses TLS: `incus remote add NAME TOKEN`",
        )
    # A remote that was added by a token has all addresses that the server knew of, with commas.
    (host, port), *others = (host_and_port(name, one) for one in address.split(","))
    return Server(
        name=name,
        host=host,
        port=port,
        others=tuple(others),
        pinned=os.path.join(place, "servercerts", f"{name}.crt"),
        certificate=os.path.join(folder, "client.crt"),
        key=os.path.join(folder, "client.key"),
    )


def host_and_port(name: str, address: str) -> tuple[str, int]:
    """Host and port of an https:// address of a remote. Raises UsageError."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "https", address
    rest = rest.split("/", 1)[0]
    host, port = rest, ""
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if scheme != "https" or not host or not (port or "0").isascii() or not (port or "0").isdigit():
        raise errors.UsageError(
            f"cannot use remote {name!r}: {address!r} is neither https:// nor unix://"
        )
    number = int(port) if port else DEFAULT_PORT
    if not 0 < number < 65536:
        raise errors.UsageError(f"cannot use remote {name!r}: {number} is not a port")
    return host, number


def _socket_path(text: str) -> str:
    return text.removeprefix("unix:").removeprefix("//") if text.startswith("unix:") else text


def _local_socket() -> str:
    """The first local socket that exists, else the usual one (so that an error names it)."""
    for path in LOCAL_SOCKETS:
        if os.path.exists(path):
            return path
    return LOCAL_SOCKETS[0]


def home(env: Mapping[str, str]) -> str:
    """The user's home: HOME, else what the user database says; empty when there is none."""
    if env.get("HOME"):
        return env["HOME"]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _config_folder(env: Mapping[str, str]) -> str:
    """The incus client's folder: INCUS_CONF, else below the home; empty when there is no home at all."""
    if env.get("INCUS_CONF"):
        return env["INCUS_CONF"]
    at = home(env)
    return os.path.join(at, ".config", "incus") if at else ""


def _remotes(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    listed = config.get("remotes")
    if not isinstance(listed, dict):
        return {}
    return {
        str(name): cast("dict[str, Any]", remote)
        for name, remote in cast("dict[object, object]", listed).items()
        if isinstance(remote, dict)
    }


def _read(path: str) -> dict[str, Any]:
    """config.yml as a mapping; empty when the file does not exist. Raises UsageError when unreadable."""
    try:
        with open(path, "rb") as file:
            text = file.read(_CONFIG_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as cause:
        raise errors.UsageError(
            f"cannot read {path}: {cause.strerror}", hint="give another one with INCUS_CONF"
        ) from cause
    if len(text) > _CONFIG_LIMIT:
        raise errors.UsageError(f"cannot read {path}: over {_CONFIG_LIMIT} bytes")
    if not text.strip():
        return {}
    import yaml

    try:
        tree: object = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as cause:
        raise errors.UsageError(f"cannot read {path}: it is not valid YAML") from cause
    if not isinstance(tree, dict):
        raise errors.UsageError(f"cannot read {path}: it is not a mapping")
    return cast("dict[str, Any]", tree)
