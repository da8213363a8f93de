"""Image references resolved at their registry: digest, config, and what the server needs to pull them.

In: a reference as compose files write it, the process environment, the server's machine. Out: the manifest's
digest for that machine and the image config, checked against their digests. Not pure; changes nothing.
Sources: OCI Distribution Specification 1.1, OCI Image Specification 1.1, Docker Registry token
authentication. Two requests per image (an index costs one more), over transport.

What is resolved is the manifest of one platform, not the index: an index that gains a platform is no
reason to replace a running instance.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import msgspec

from ic import errors
from ic.incus import registries, transport

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCKER_HUB = "docker.io"
_HUB_API = "registry-1.docker.io"
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LOOPBACK = ("127.", "localhost", "[::1]")
_LIMIT = 4 * 1024 * 1024  # the specification's own bound for a manifest; configs are smaller

# uname's machine -> (architecture, variants by preference) as Go names them
_MACHINES = {
    "x86_64": ("amd64", ("", "v1")),
    "i686": ("386", ("",)),
    "aarch64": ("arm64", ("v8", "")),
    "armv7l": ("arm", ("v7", "v6", "")),
    "armv6l": ("arm", ("v6", "")),
    "riscv64": ("riscv64", ("",)),
    "ppc64le": ("ppc64le", ("",)),
    "s390x": ("s390x", ("",)),
    "loongarch64": ("loong64", ("",)),
}

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?|\[[0-9A-Fa-f:]+\](?::\d+)?")
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """An image reference taken apart; `tag` and `digest` may both be there, the digest decides."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""


class RegistryImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a registry says of a reference: HOST/REPOSITORY@DIGEST to pull, and the image config as it is.

    `fingerprint` is what a server calls the image that has pulled it, empty when that cannot be known.
    """

    resolved: str
    digest: str
    config: dict[str, Any]
    fingerprint: str = ""


def parse(text: str) -> Reference:
    """A reference as docker reads it: `nginx` is docker.io/library/nginx:latest, `host:5000/x` stays.

    Raises RegistryError for what is none.
    """
    rest, at, digest = text.partition("@")
    first, slash, path = rest.partition("/")
    known = slash and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    host, name = (first, path) if known else (DOCKER_HUB, rest)
    repository, colon, tag = name.partition(":")
    if host in ("index.docker.io", _HUB_API):
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if (
        not _HOST.fullmatch(host)
        or not _REPOSITORY.fullmatch(repository)
        or (colon and not _TAG.fullmatch(tag))
        or (at and not _DIGEST.fullmatch(digest))
        or len(repository) > 255
    ):
        raise errors.RegistryError(
            f"cannot resolve image {transport.clean(text)!r}: that is no image reference",
            hint="a reference is [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], in lower case",
        )
    if not tag and not digest:
        tag = "latest"
    return Reference(host=host, repository=repository, tag=tag, digest=digest)


def resolve(text: str, env: Mapping[str, str], *, machine: str = "x86_64") -> RegistryImage:
    """Ask the registry of a reference, mirrors first, for the image that suits `machine` (as uname says it).

    Raises RegistryError: no reference, unknown image or registry, refused credentials (never shown), no image
    for that machine, content that is not what its digest says.
    """
    reference = parse(text)
    found = registries.places(
        reference.host,
        reference.repository,
        registries.load(env),
        by_digest=bool(reference.digest),
    )
    failed: list[_Failure] = []
    for place in found:
        login = registries.login(place.host, place.repository, env)
        with transport.Web() as web:
            try:
                digest, config, fingerprint = _Asked(web, place, login).image(reference, machine)
            except _Failure as failure:
                failed.append(failure)
                continue
        return RegistryImage(
            resolved=f"{reference.host}/{reference.repository}@{digest}",
            digest=digest,
            config=config,
            fingerprint=fingerprint,
        )
    raise _told(text, failed)


def pinned(text: str, env: Mapping[str, str]) -> str:
    """A reference with the digest that its registry has for its tag now: of the index, where there is one.

    In full (`docker.io/library/nginx:1@sha256:...`), as docker compose pins it; one that has a digest is not
    asked for and loses its tag. Raises RegistryError as `resolve` does.
    """
    reference = parse(text)
    name = f"{reference.host}/{reference.repository}"
    if reference.digest:
        return f"{name}@{reference.digest}"
    failed: list[_Failure] = []
    for place in registries.places(
        reference.host, reference.repository, registries.load(env), by_digest=False
    ):
        login = registries.login(place.host, place.repository, env)
        with transport.Web() as web:
            try:
                digest = _Asked(web, place, login).digest(reference.tag)
            except _Failure as failure:
                failed.append(failure)
                continue
        return f"{name}:{reference.tag}@{digest}"
    raise _told(text, failed)


def pull_source(resolved: str, env: Mapping[str, str]) -> dict[str, object]:
    """The `source` of POST /1.0/images for a resolved reference (HOST/REPOSITORY@DIGEST), with credentials.

    The server asks the registry by its own registries.conf. Credentials travel in the server's URL, the
    only place that Incus has for them: never show this value.
    """
    reference = parse(resolved)
    login = registries.login(reference.host, reference.repository, env)
    user = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}@" if login.user else ""
    tail = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    return {
        "type": "image",
        "mode": "pull",
        "protocol": "oci",
        "server": f"https://{user}{reference.host}",
        "alias": f"{reference.repository}{tail}",
    }


def _fingerprint(layers: list[object]) -> str:
    """The server's name for an image of these layers: SHA-256 over their digests, one behind the other.

    Measured on Incus 7.0: the same by tag, by digest and by another name. Empty when a layer has no digest.
    """
    digests = [
        str(cast("dict[str, Any]", one).get("digest", "")) if isinstance(one, dict) else ""
        for one in layers
    ]
    if not digests or not all(digests):
        return ""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


# --- what went wrong -----------------------------------------------------------------------------------


class _Failure(Exception):
    """One place did not give the image; `rank` orders reasons, the most telling one is shown first."""

    def __init__(self, place: registries.Place, reason: str, *, rank: int, hint: str = "") -> None:
        super().__init__(reason)
        self.place = place
        self.reason = reason
        self.rank = rank
        self.hint = hint


def _told(text: str, failed: list[_Failure]) -> errors.RegistryError:
    """One error for all places: the most telling reason first (an image unknown there, before no answer)."""
    shown = transport.clean(text)
    worst = max(failed, key=lambda failure: failure.rank)
    others = tuple(f"{one.place.host}: {one.reason}" for one in failed if one is not worst)
    return errors.RegistryError(
        f"cannot resolve image {shown!r}: {worst.place.host}: {worst.reason}",
        details=others,
        hint=worst.hint,
    )


# --- asking one registry --------------------------------------------------------------------------------


class _Asked:
    """The requests to one place for one image; learns scheme and authorization from the first answer."""

    def __init__(
        self, web: transport.Web, place: registries.Place, login: registries.Login
    ) -> None:
        self.web = web
        self.place = place
        self.login = login
        self.base = ""
        self.authorization = ""

    def image(self, reference: Reference, machine: str) -> tuple[str, dict[str, Any], str]:
        """The digest of the manifest for a machine, the config that it names, the server's fingerprint."""
        name = reference.digest or reference.tag
        body, kind = self._manifest(name)
        digest = reference.digest or _digest(body)
        tree = self._json(body)
        if kind in _INDEXES or isinstance(tree.get("manifests"), list):
            digest = self._choose(tree, machine)
            body, kind = self._manifest(digest)
            tree = self._json(body)
        named = tree.get("config")
        if not isinstance(named, dict) or not isinstance(tree.get("layers"), list):
            raise self._fails("its manifest is of a kind that is not supported", rank=4)
        blob = str(cast("dict[str, Any]", named).get("digest", ""))
        if not _DIGEST.fullmatch(blob):
            raise self._fails("its manifest names no config", rank=4)
        answer = self._get(f"blobs/{blob}", "application/octet-stream, */*")
        self._check(answer.body, blob)
        return digest, self._json(answer.body), _fingerprint(cast("list[object]", tree["layers"]))

    def digest(self, tag: str) -> str:
        """The digest of what a tag stands for."""
        body, _ = self._manifest(tag)
        return _digest(body)

    def _manifest(self, name: str) -> tuple[bytes, str]:
        answer = self._get(f"manifests/{name}", ", ".join((*_INDEXES, *_MANIFESTS)))
        if name.startswith("sha256:"):
            self._check(answer.body, name)
        return answer.body, answer.content_type

    def _choose(self, index: dict[str, Any], machine: str) -> str:
        """The digest of the manifest for a machine."""
        architecture, variants = _MACHINES.get(machine, (machine, ("",)))
        best: tuple[int, str] | None = None
        offered: set[str] = set()
        for entry in cast("list[object]", index.get("manifests") or []):
            if not isinstance(entry, dict):
                continue
            one = cast("dict[str, Any]", entry)
            platform = cast("dict[str, Any]", one.get("platform") or {})
            digest = str(one.get("digest", ""))
            offered.add(f"{platform.get('os', '?')}/{platform.get('architecture', '?')}")
            variant = str(platform.get("variant", ""))
            if (
                platform.get("os") == "linux"
                and platform.get("architecture") == architecture
                and variant in variants
                and _DIGEST.fullmatch(digest)
            ):
                rank = variants.index(variant)
                if best is None or rank < best[0]:
                    best = (rank, digest)
        if best is None:
            there = ", ".join(sorted(transport.clean(one) for one in offered)) or "none"
            raise self._fails(f"it has no image for linux/{architecture}, only for {there}", rank=5)
        return best[1]

    def _check(self, body: bytes, digest: str) -> None:
        if _digest(body) != digest:
            raise self._fails("the registry gave other content than its digest says", rank=6)

    def _json(self, body: bytes) -> dict[str, Any]:
        try:
            tree: object = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
            raise self._fails("the registry's answer is not JSON", rank=3) from cause
        if not isinstance(tree, dict):
            raise self._fails("the registry's answer is not an object", rank=3)
        return cast("dict[str, Any]", tree)

    def _get(self, what: str, accept: str) -> transport.Answer:
        """A manifest or a blob, authorized when the registry wants it."""
        path = f"/v2/{self.place.repository}/{what}"
        answer = self._fetch(path, accept)
        if answer.status == 401:
            self._authorize(answer.headers.get("www-authenticate", ""))
            answer = self._fetch(path, accept)
        if answer.status == 200:
            return answer
        raise self._refused(answer)

    def _fetch(self, path: str, accept: str) -> transport.Answer:
        headers = {"Accept": accept}
        if self.authorization:
            headers["Authorization"] = self.authorization
        host = _HUB_API if self.place.host == DOCKER_HUB else self.place.host
        *others, last = (
            (self.base,) if self.base else tuple(f"{one}://{host}" for one in self._schemes())
        )
        for base in others:
            with contextlib.suppress(errors.Unreachable):
                answer = self._ask(base + path, headers)
                if answer.status != 400:  # what a server of TLS says to plain http
                    self.base = base
                    return answer
        try:
            answer = self._ask(last + path, headers)
        except errors.Unreachable as error:
            raise self._fails(transport.reason(error), rank=1, hint=error.hint) from error
        self.base = last
        return answer

    def _schemes(self) -> tuple[str, ...]:
        """How a registry is spoken to: TLS, then plain http where that is allowed; on this machine the other
        way round, because setting up TLS costs more than everything else together.
        """
        if not self.place.insecure:
            return ("https",)
        return ("http", "https") if self.place.host.startswith(_LOOPBACK) else ("https", "http")

    def _ask(self, url: str, headers: Mapping[str, str]) -> transport.Answer:
        return self.web.get(url, headers, insecure=self.place.insecure, limit=_LIMIT)

    def _authorize(self, challenge: str) -> None:
        """Answer a challenge: basic, or a token of the realm that it names."""
        scheme, _, rest = challenge.partition(" ")
        fields = {name.lower(): value for name, value in _FIELD.findall(rest)}
        basic = ""
        if self.login.user:
            pair = f"{self.login.user}:{self.login.password}".encode()
            basic = "Basic " + base64.b64encode(pair).decode()
        if scheme.lower() == "basic":
            if not basic or self.authorization:
                raise self._unauthorized()
            self.authorization = basic
            return
        realm = fields.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise self._fails("it wants to be authorized in a way that ic does not know", rank=4)
        if not realm.startswith("https://") and not self.place.insecure:
            raise self._fails("it wants credentials over plain http, which is refused", rank=4)
        query = {
            "service": fields.get("service", ""),
            "scope": fields.get("scope") or f"repository:{self.place.repository}:pull",
        }
        asked = urlencode({name: value for name, value in query.items() if value})
        try:
            answer = self._ask(
                f"{realm}{'&' if '?' in realm else '?'}{asked}",
                {"Authorization": basic} if basic else {},
            )
        except errors.Unreachable as error:
            raise self._fails(transport.reason(error), rank=1, hint=error.hint) from error
        if answer.status != 200:
            raise self._unauthorized()
        tree = self._json(answer.body)
        token = tree.get("token") or tree.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self._fails("it gave no token", rank=3)
        self.authorization = f"Bearer {token}"

    def _unauthorized(self) -> _Failure:
        host = self.place.host
        if self.login.user:
            return self._fails(
                f"it refuses the credentials of user {transport.clean(self.login.user)!r}",
                rank=4,
                hint=f"log in again: `podman login {host}` or `docker login {host}`",
            )
        return self._fails(
            "it is not public (or does not exist), and no credentials are known for it",
            rank=4,
            hint=self.login.note or f"log in first: `podman login {host}` or `docker login {host}`",
        )

    def _refused(self, answer: transport.Answer) -> _Failure:
        if answer.status == 404:
            return self._fails(
                f"there is no image of that name and tag ({_said(answer) or 'status 404'})",
                rank=3,
                hint="check the spelling of name and tag",
            )
        if answer.status in (401, 403):
            return self._unauthorized()
        if answer.status == 429:
            return self._fails(
                "it answers no more requests for now (429)",
                rank=4,
                hint="log in, or wait; registries limit requests without credentials",
            )
        return self._fails(f"it answered {answer.status} {_said(answer)}".rstrip(), rank=2)

    def _fails(self, reason: str, *, rank: int, hint: str = "") -> _Failure:
        return _Failure(self.place, reason, rank=rank, hint=hint)


_FIELD = re.compile(r'([A-Za-z_]+)="([^"]*)"')


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _said(answer: transport.Answer) -> str:
    """The registry's own words: the first message of its errors."""
    try:
        tree: object = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    listed = cast("dict[str, object]", tree).get("errors") if isinstance(tree, dict) else None
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        return transport.clean(str(cast("dict[str, object]", listed[0]).get("message", "")))[:200]
    return ""
