"""Where an image reference leads: mirrors, other locations, plain http, and the credentials for it.

In: the process environment and a reference's host and repository. Out: Places to ask, in order, and a user
with a password. Reads the files that podman, skopeo and docker use (containers-registries.conf(5), version 2
and the lists of version 1; containers-auth.json(5); docker's config.json); runs no credential helper, writes
nothing. Python 3.10 has no TOML, so the small part of it that these files use is read here.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ic import errors
from ic.incus import remotes

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE_LIMIT = 4 * 1024 * 1024
_SYSTEM = "/etc/containers"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One registry to ask: host (with port), repository there; `insecure` allows plain http."""

    host: str
    repository: str
    insecure: bool = False


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """One [[registry.mirror]]. `pull` is all, digest-only or tag-only."""

    location: str
    insecure: bool = False
    pull: str = "all"


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """One [[registry]]: what is said of every reference that begins with `prefix`."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A user and a password for a registry; `note` says why there is none although one is kept somewhere."""

    user: str = ""
    password: str = ""
    note: str = ""


# --- where to ask ------------------------------------------------------------------------------------


def places(
    host: str, repository: str, registries: tuple[Registry, ...], *, by_digest: bool
) -> tuple[Place, ...]:
    """The places that have an image, mirrors first. Raises RegistryError when the registry is blocked."""
    full = f"{host}/{repository}"
    chosen: Registry | None = None
    length = -1
    for registry in registries:
        matched = _matched(registry.prefix, full)
        if matched > length:
            chosen, length = registry, matched
    if chosen is None:
        return (Place(host=host, repository=repository),)
    if chosen.blocked:
        raise errors.RegistryError(
            f"cannot use registry {host}: it is blocked by registries.conf",
        )
    rest = full[length:]
    found: list[Place] = []
    for mirror in chosen.mirrors:
        if mirror.pull == ("tag-only" if by_digest else "digest-only"):
            continue
        found.append(_place(mirror.location + rest, insecure=mirror.insecure))
    location = chosen.location + rest if chosen.location else full
    found.append(_place(location, insecure=chosen.insecure))
    return tuple(found)


def _place(full: str, *, insecure: bool) -> Place:
    host, _, repository = full.partition("/")
    return Place(host=host, repository=repository, insecure=insecure)


def _matched(prefix: str, full: str) -> int:
    """How many characters of host/repository a prefix covers, -1 when it does not match."""
    if prefix.startswith("*."):
        host = full.partition("/")[0]
        return len(host) if host.partition(":")[0].endswith(prefix[1:]) else -1
    if full == prefix or (full.startswith(prefix) and full[len(prefix)] in "/:@"):
        return len(prefix)
    return -1


def load(env: Mapping[str, str]) -> tuple[Registry, ...]:
    """The registries that the containers' configuration of this user, else of this machine, describes.

    Raises RegistryError for a file that cannot be read or understood.
    """
    given = env.get("CONTAINERS_REGISTRIES_CONF")
    files = [given] if given else _conf_files([_SYSTEM, *_own_folder(env)])
    found: dict[str, Registry] = {}
    for file in files:
        text = _text(file)
        if text is not None:
            for registry in parse(text, file):
                found[registry.prefix] = registry
    return tuple(found.values())


def _conf_files(folders: list[str]) -> list[str]:
    """The last folder's registries.conf that exists, then the pieces of all folders."""
    mains = [f"{folder}/registries.conf" for folder in folders]
    files = [path for path in mains if os.path.exists(path)][-1:]
    for folder in (f"{folder}/registries.conf.d" for folder in folders):
        if os.path.isdir(folder):
            pieces = sorted(name for name in os.listdir(folder) if name.endswith(".conf"))
            files += [f"{folder}/{name}" for name in pieces]
    return files


def parse(text: str, file: str) -> tuple[Registry, ...]:
    """The registries of one registries.conf. Raises RegistryError with the line."""
    tree = _toml(text, file)
    found = [_registry(entry) for entry in _tables(tree.get("registry"))]
    old = tree.get("registries")
    if isinstance(old, dict):
        lists = cast("dict[str, Any]", old)
        insecure, blocked = _old_list(lists, "insecure"), _old_list(lists, "block")
        found += [
            Registry(prefix=name, location=name, insecure=name in insecure, blocked=name in blocked)
            for name in sorted({*insecure, *blocked})
        ]
    return tuple(one for one in found if one.prefix)


def _old_list(lists: dict[str, Any], name: str) -> list[str]:
    section = lists.get(name)
    if not isinstance(section, dict):
        return []
    listed = cast("dict[str, Any]", section).get("registries")
    return [str(one) for one in cast("list[object]", listed)] if isinstance(listed, list) else []


def _registry(entry: dict[str, Any]) -> Registry:
    location = str(entry.get("location", ""))
    prefix = str(entry.get("prefix") or location)
    usual = "digest-only" if entry.get("mirror-by-digest-only") is True else "all"
    return Registry(
        prefix=prefix,
        location=location or ("" if prefix.startswith("*.") else prefix),
        insecure=entry.get("insecure") is True,
        blocked=entry.get("blocked") is True,
        mirrors=tuple(
            Mirror(
                location=str(mirror["location"]),
                insecure=mirror.get("insecure") is True,
                pull=str(mirror.get("pull-from-mirror") or usual),
            )
            for mirror in _tables(entry.get("mirror"))
            if mirror.get("location")
        ),
    )


def _tables(value: object) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", value) if isinstance(value, list) else []


# --- the part of TOML that these files use -----------------------------------------------------------

_HEAD = re.compile(r"^(\[\[?)\s*([\w.\"'/:-]+)\s*(\]\]?)\s*(?:#.*)?$")
_PAIR = re.compile(r"^([\w-]+|\"[^\"]*\"|'[^']*')\s*=\s*(.*)$", re.DOTALL)
_TEXT = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "b": "\b", "f": "\f"}


def _toml(text: str, file: str) -> dict[str, Any]:
    """Tables, arrays of tables, and pairs of text, booleans, numbers and lists of text."""
    root: dict[str, Any] = {}
    table = root
    held = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = f"{held}\n{raw}" if held else raw
        bare = _without_comment(line).strip()
        held = ""
        if not bare:
            continue
        head = _HEAD.match(bare)
        if head is not None:
            table = _enter(root, head[2].split("."), many=head[1] == "[[")
            continue
        pair = _PAIR.match(bare)
        if pair is None:
            raise _unreadable(file, number)
        value = pair[2].strip()
        if value.startswith("[") and not value.endswith("]"):
            held = bare
            continue
        table[pair[1].strip("\"'")] = _value(value, file, number)
    if held:
        raise _unreadable(file, len(text.splitlines()))
    return root


def _without_comment(line: str) -> str:
    """The line up to a # that stands outside of quotes, for each of its physical lines."""
    quote = ""
    for at, char in enumerate(line):
        if quote:
            quote = "" if char == quote and (quote == "'" or line[at - 1] != "\\") else quote
        elif char in "\"'":
            quote = char
        elif char == "#":
            end = line.find("\n", at)
            return line[:at] if end < 0 else line[:at] + _without_comment(line[end:])
    return line


def _enter(root: dict[str, Any], path: list[str], *, many: bool) -> dict[str, Any]:
    """The table of a heading, made when new; for [[...]] one more of its list."""
    table = root
    for part in path[:-1]:
        table = _inner(table, part)
    if not many:
        return _inner(table, path[-1])
    new: dict[str, Any] = {}
    listed: object = table.setdefault(path[-1].strip("\"'"), [])
    if isinstance(listed, list):
        cast("list[dict[str, Any]]", listed).append(new)
    return new


def _inner(table: dict[str, Any], name: str) -> dict[str, Any]:
    inner: object = table.setdefault(name.strip("\"'"), {})
    if isinstance(inner, list) and inner:
        inner = cast("list[object]", inner)[-1]
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def _value(text: str, file: str, line: int) -> object:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("["):
        return [_string(found) for found in _TEXT.finditer(text)]
    found = _TEXT.fullmatch(text)
    if found is not None:
        return _string(found)
    if text.lstrip("+-").replace("_", "").isdecimal():
        return int(text.replace("_", ""))
    if text.startswith("{"):
        return {}
    raise _unreadable(file, line)


def _string(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[2]
    return _ESCAPE.sub(lambda one: _ESCAPES.get(one[1], one[1]), found[1])


def _unreadable(file: str, line: int) -> errors.RegistryError:
    return errors.RegistryError(
        f"cannot read {file}:{line}: it is not what registries.conf may hold"
    )


# --- credentials --------------------------------------------------------------------------------------


def login(host: str, repository: str, env: Mapping[str, str]) -> Login:
    """The credentials for a repository: the first file that has any, its most exact entry.

    Empty without any; with a `note` when they are kept in a way that ic does not use (a credential helper,
    an identity token). Raises RegistryError for a file that cannot be read.
    """
    note = ""
    for file in _auth_files(env):
        text = _text(file)
        if text is None:
            continue
        found = _login_in(text, file, host, repository)
        if found.user:
            return found
        note = note or found.note
    return Login(note=note)


def _auth_files(env: Mapping[str, str]) -> tuple[str, ...]:
    """podman's files before docker's, as podman looks for them."""
    if env.get("REGISTRY_AUTH_FILE"):
        return (env["REGISTRY_AUTH_FILE"],)
    runtime = env.get("XDG_RUNTIME_DIR")
    home = remotes.home(env)
    docker = env.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    return (
        f"{runtime}/containers/auth.json"
        if runtime
        else f"/run/containers/{os.getuid()}/auth.json",
        *(f"{folder}/auth.json" for folder in _own_folder(env)),
        *((f"{docker}/config.json",) if docker else ()),
    )


def _login_in(text: str, file: str, host: str, repository: str) -> Login:
    try:
        tree: object = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise errors.RegistryError(f"cannot read {file}: it is not JSON") from cause
    if not isinstance(tree, dict):
        return Login()
    body = cast("dict[str, Any]", tree)
    entries = {_key(name): entry for name, entry in _mapping(body.get("auths")).items()}
    for key in _keys(host, repository):
        entry = _mapping(entries.get(key))
        if entry.get("auth") or entry.get("username"):
            return _entry(entry, file)
        if entry.get("identitytoken"):
            return Login(note=f"{file} holds an identity token, which ic does not use")
    helpers = {_key(name): str(value) for name, value in _mapping(body.get("credHelpers")).items()}
    for key in _keys(host, repository):
        if key in helpers:
            return Login(note=_helper_note(file, helpers[key]))
    if body.get("credsStore"):
        return Login(note=_helper_note(file, str(body["credsStore"])))
    return Login()


def _helper_note(file: str, helper: str) -> str:
    return f"{file} leaves credentials to docker-credential-{helper}, which ic does not run"


def _entry(entry: dict[str, Any], file: str) -> Login:
    if entry.get("username"):
        return Login(user=str(entry["username"]), password=str(entry.get("password", "")))
    try:
        plain = base64.b64decode(str(entry["auth"]), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as cause:
        raise errors.RegistryError(
            f"cannot read {file}: an entry's `auth` is not base64"
        ) from cause
    user, _, password = plain.partition(":")
    return Login(user=user, password=password.rstrip("\0"))


def _key(name: str) -> str:
    """An entry's key without scheme and API version: `https://index.docker.io/v1/` is docker.io."""
    bare = name.partition("://")[2] or name
    bare = bare.rstrip("/").removesuffix("/v1").removesuffix("/v2")
    return "docker.io" if bare in ("index.docker.io", "registry-1.docker.io") else bare


def _keys(host: str, repository: str) -> list[str]:
    """The keys that fit, the most exact one first: host/a/b, host/a, host."""
    parts = [host, *repository.split("/")]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# --- files --------------------------------------------------------------------------------------------


def _own_folder(env: Mapping[str, str]) -> list[str]:
    """The user's own configuration of containers; none for a user without a home."""
    home = remotes.home(env)
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return [f"{config}/containers"] if config else []


def _text(path: str) -> str | None:
    """A file's text, None when there is none. Raises RegistryError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_FILE_LIMIT).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as cause:
        raise errors.RegistryError(f"cannot read {path}: {cause.strerror}") from cause
