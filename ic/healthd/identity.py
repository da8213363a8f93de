"""Who the daemon is: its key, its certificate, the server's pin, and the token that brings them trust.

In: a directory (the identity volume), a token file, a way to the server. Out: an Identity, or an error
that says what is wrong and which one command mends it. The order is everything: key, certificate and pin
lie on the disk, flushed, before the token leaves; so a crash at any point is followed by a start that goes
on with the same certificate, and the server answers that it is trusted already. An existing key is never
written over. docs/healthd.md has it for people, docs/security.md what the certificate may do.

Touches files and the server; nothing here waits.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from ic import errors
from ic.healthd import certificate
from ic.incus import transport
from ic.resources import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.incus import client as incus

KEY = "key.pem"
CERTIFICATE = "client.pem"
PIN = "server.pin"
TOKEN_LIMIT = 64 * 1024
_HEX = frozenset("0123456789abcdef")


class BadIdentity(errors.IcError):
    """Key or certificate cannot be used; the hint is the one command that mends it."""

    code = "E_KEY_PERM"


class Refused(errors.IcError):
    """A token that brings nothing: no token at all, used, expired, cancelled or lost."""

    code = "E_TOKEN_FORMAT"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon shows a server: two files, the fingerprint of the certificate, and until when (s)."""

    key: str
    certificate: str
    fingerprint: str
    ends: int


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A trust token taken apart: the server's fingerprint, its end (s since 1970, 0: none), the text to send.

    The text is a secret until it was used: it is never printed, nor is its length.
    """

    fingerprint: str
    expires: int
    text: str

    def __repr__(self) -> str:
        return f"Token({self.fingerprint[:12]})"


# --- the directory -------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the identity lies, and for which Incus project: the commands that mend it name both."""

    directory: str
    project: str = ""

    def path(self, name: str) -> str:
        """A file's path."""
        return os.path.join(self.directory, name)

    def command(self, *words: str) -> str:
        """A command as the operator types it: through incus where this is the sidecar's own place."""
        import shlex

        if self.directory != sidecar.IDENTITY:
            return shlex.join(words)
        start = ("incus", "exec", sidecar.INSTANCE, "--project", self.project, "--")
        return shlex.join((*start, *words))

    def anew(self) -> str:
        """The command that makes room for a new identity; the next `ic up` brings it a token."""
        return self.command("rm", "-f", self.path(KEY), self.path(CERTIFICATE))


def _refuse_if_open(place: Place, path: str, found: os.stat_result, *, folder: bool) -> None:
    """Raise BadIdentity for what is not ours alone."""
    what = "directory" if folder else "file"
    kind = stat.S_ISDIR if folder else stat.S_ISREG
    if not kind(found.st_mode):
        shown = "a symlink" if stat.S_ISLNK(found.st_mode) else f"no {what}"
        raise BadIdentity(
            f"cannot use {path}: it is {shown}",
            hint=place.command("rm", path),
        )
    if found.st_uid != os.geteuid():
        raise BadIdentity(
            f"cannot use {path}: it belongs to user {found.st_uid}",
            hint=place.command("chown", str(os.geteuid()), path),
        )
    if found.st_mode & 0o077:
        raise BadIdentity(
            f"cannot use {path}: its mode is {stat.S_IMODE(found.st_mode):04o}, others may reach it",
            hint=place.command("chmod", "0700" if folder else "0600", path),
        )


def _read(place: Place, name: str) -> str | None:
    """A file of the identity, None when there is none. Raises BadIdentity when it is not ours alone."""
    path = place.path(name)
    try:
        _refuse_if_open(place, path, os.lstat(path), folder=False)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise BadIdentity(
            f"cannot read {path}: {cause.strerror}", hint=place.command("ls", "-ln", path)
        ) from cause
    with open(descriptor, encoding="ascii", errors="replace") as file:
        # Looked at again: what was opened is what counts.
        _refuse_if_open(place, path, os.fstat(descriptor), folder=False)
        return file.read(TOKEN_LIMIT)


def _write(place: Place, name: str, text: str) -> None:
    """Write a file so that it is there whole or not at all: own name, flushed, renamed, directory flushed."""
    fresh = place.path(f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    descriptor = os.open(
        fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, place.path(name))
    folder = os.open(place.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def mark(place: Place) -> tuple[object, ...]:
    """What tells whether somebody has touched the identity since: equal marks, the same files."""
    return tuple(_mark(place.path(name)) for name in (KEY, CERTIFICATE, PIN))


def _mark(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_mode


def check_place(place: Place) -> None:
    """Raise BadIdentity when the directory is missing or open to others."""
    try:
        found = os.lstat(place.directory)
    except OSError as cause:
        raise BadIdentity(
            f"cannot use {place.directory}: {cause.strerror}",
            hint=place.command("mkdir", "-m", "0700", "-p", place.directory),
        ) from cause
    _refuse_if_open(place, place.directory, found, folder=True)


def load(place: Place, now: float) -> Identity | None:
    """The identity that lies there, None when there is no key. `now` in seconds since 1970.

    Raises BadIdentity: open to others, no certificate to the key, not a pair, expired.
    """
    import ssl

    check_place(place)
    key = _read(place, KEY)
    if key is None:
        return None
    path = place.path(CERTIFICATE)
    text = _read(place, CERTIFICATE)
    if text is None:
        raise BadIdentity(
            f"cannot use {place.path(KEY)}: {path} is missing", hint=place.anew(), code="E_KEY_PAIR"
        )
    try:
        der = certificate.der_of(text)
        begins, ends = certificate.lifetime(der)
    except ValueError as cause:
        raise BadIdentity(
            f"cannot use {path}: {cause}", hint=place.anew(), code="E_KEY_PAIR"
        ) from cause
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            path, place.path(KEY), password=_no_password
        )
    except (OSError, ValueError) as cause:  # ssl.SSLError is an OSError
        raise BadIdentity(
            f"cannot use {path}: it does not belong to {place.path(KEY)}, or that is no key",
            hint=place.anew(),
            code="E_KEY_PAIR",
        ) from cause
    if not begins <= now < ends:
        verb = "ended" if now >= ends else "begins"
        when = time.strftime("%Y-%m-%d", time.gmtime(ends if now >= ends else begins))
        raise BadIdentity(
            f"cannot use {path}: its time {verb} on {when}",
            hint=place.anew(),
            code="E_KEY_EXPIRED",
        )
    return Identity(
        key=place.path(KEY),
        certificate=path,
        fingerprint=certificate.fingerprint(der),
        ends=ends,
    )


def _no_password() -> bytes:
    """An encrypted key is none: nobody is there to be asked, and OpenSSL would ask the terminal."""
    return b""


def create(place: Place, now: float, entropy: Callable[[int], bytes] = os.urandom) -> Identity:
    """Make key and certificate and write them. To be called when `load` has found none.

    The certificate is written first: a cut between the two leaves no key, and so nothing to write over.
    Raises BadIdentity when the directory cannot be written.
    """
    key, text = certificate.make(f"{sidecar.INSTANCE} {place.project}".strip(), int(now), entropy)
    try:
        _write(place, CERTIFICATE, text)
        _write(place, KEY, key)
    except OSError as cause:
        raise BadIdentity(
            f"cannot write {place.directory}: {cause.strerror}",
            hint=place.command("ls", "-lnd", place.directory),
        ) from cause
    der = certificate.der_of(text)
    return Identity(
        key=place.path(KEY),
        certificate=place.path(CERTIFICATE),
        fingerprint=certificate.fingerprint(der),
        ends=certificate.lifetime(der)[1],
    )


def pinned(place: Place) -> str:
    """The pinned server certificate's fingerprint, empty when none is pinned. Raises BadIdentity."""
    text = _read(place, PIN)
    if text is None:
        return ""
    found = text.strip().lower()
    if not is_fingerprint(found):
        raise BadIdentity(
            f"cannot use {place.path(PIN)}: it is no SHA-256 fingerprint",
            hint=place.command("rm", place.path(PIN)),
        )
    return found


def pin(place: Place, fingerprint: str) -> None:
    """Pin a server's certificate. Raises BadIdentity when it cannot be written."""
    try:
        _write(place, PIN, fingerprint + "\n")
    except OSError as cause:
        raise BadIdentity(
            f"cannot write {place.path(PIN)}: {cause.strerror}",
            hint=place.command("ls", "-lnd", place.directory),
        ) from cause


def is_fingerprint(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hex."""
    return len(text) == 64 and _HEX.issuperset(text)


# --- the token -----------------------------------------------------------------------------------------


class _Body(msgspec.Struct):
    fingerprint: str
    secret: str
    client_name: str = ""
    expires_at: str = ""


def decode_token(data: bytes) -> Token:
    """A token's text taken apart. Raises Refused (E_TOKEN_FORMAT), with nothing of the text in it."""
    import binascii

    reason = ""
    try:
        text = b"".join(data.split()).decode("ascii")
        body = msgspec.json.decode(base64.b64decode(text, validate=True), type=_Body)
        fingerprint = body.fingerprint.lower()
        if not is_fingerprint(fingerprint) or not body.secret:
            reason = "it names no server, or has no secret"
        expires = _expiry(body.expires_at)
    except (binascii.Error, ValueError, RecursionError):
        # `from None`: what these say holds pieces of the token.
        reason = reason or "it is not the base64 of a token's JSON"
        raise Refused(f"cannot use the token: {reason}") from None
    if reason:
        raise Refused(f"cannot use the token: {reason}")
    return Token(fingerprint=fingerprint, expires=expires, text=text)


def _expiry(text: str) -> int:
    """Seconds since 1970 of Go's time, 0 for its zero time or none. Raises ValueError."""
    import datetime as dt

    if not text or text.startswith("0001-"):
        return 0
    return int(msgspec.convert(text, dt.datetime).timestamp())


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A token file that is complete: its bytes, which file it was (inode and time), whether it was open."""

    data: bytes
    which: tuple[int, int]
    was_open: bool = False

    def __repr__(self) -> str:
        return f"Found({self.which})"


class Inbox:
    """The place where a token is laid down. A push shows an empty file with an open mode first, then the
    content, then its mode: a file counts once it is a token, or has not changed for `settle` seconds.
    """

    def __init__(self, path: str, *, settle: float = 1.0) -> None:
        self.path = path
        self._settle = settle
        self._seen: tuple[int, int, int, int] | None = None
        self._since = 0.0
        self._ignored = (0, 0)  # what could not be used, and could not be removed

    def look(self, now: float) -> Found | None:
        """The file when it is complete, else None. `now` in seconds of a clock that is never set back.

        Raises Refused, once, for what is no file of ours: a symlink, a device, another user's.
        """
        try:
            return self._look(now)
        except (FileNotFoundError, NotADirectoryError):
            self._seen = None
            return None
        except (Refused, OSError) as error:
            if self._ignore():
                return None
            if isinstance(error, Refused):
                raise
            raise Refused(f"cannot read {self.path}: {error.strerror}") from error

    def _ignore(self) -> bool:
        """Leave what lies there alone from now on; whether that was so already."""
        with contextlib.suppress(OSError):
            there = os.lstat(self.path)
            which = (there.st_ino, there.st_mtime_ns)
            known, self._ignored = self._ignored, which
            return known == which
        return False

    def _look(self, now: float) -> Found | None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            which = (found.st_ino, found.st_mtime_ns)
            if which == self._ignored:
                return None
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
                raise Refused(f"cannot use {self.path}: it is not a file of this user")
            data = os.read(descriptor, TOKEN_LIMIT + 1)
            seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)
            if seen != self._seen:
                self._seen, self._since = seen, now
            if not data or (now - self._since < self._settle and not _finished(data, found)):
                return None
            was_open = bool(found.st_mode & 0o077)
            if was_open:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        return Found(data=data, which=which, was_open=was_open)

    def clear(self, found: Found) -> None:
        """Remove the file that was taken; one that was laid down since stays."""
        self._seen = None
        try:
            there = os.lstat(self.path)
            if (there.st_ino, there.st_mtime_ns) == found.which:
                os.unlink(self.path)
        except FileNotFoundError:
            return
        except OSError:  # a directory that cannot be written: it was used, that is what counts
            self._ignored = found.which


def _finished(data: bytes, found: os.stat_result) -> bool:
    """Whether nothing more is to come: a whole token, with its mode set."""
    if found.st_mode & 0o077:
        return False
    try:
        decode_token(data)
    except Refused:
        return False
    return True


def check_expiry(token: Token, now: float) -> None:
    """Raise Refused (E_TOKEN_EXPIRED) for a token whose time is over; the server would only say no."""
    if token.expires and now >= token.expires:
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(token.expires))
        raise Refused(f"cannot use the token: it expired at {when}", code="E_TOKEN_EXPIRED")


# --- the server ----------------------------------------------------------------------------------------


def trusted(client: incus.Client) -> bool:
    """Whether the server knows the certificate. Raises IncusError."""
    found: Mapping[str, object] = client.get("/1.0") or {}
    return found.get("auth") == "trusted"


def register(client: incus.Client, token: Token) -> bool:
    """Hand the token in, once; whether it was taken (False: the server knew the certificate already).

    Raises Refused (E_TOKEN_SPENT) when the server will not have it, Untrusted when it shows another
    certificate than the token names (nothing was sent then), and IncusError when it cannot be reached or
    the answer was lost; then it may be handed in again.
    """
    body = {"type": "client", "trust_token": token.text}
    doing = "use the token"
    try:
        client.send("POST", "/1.0/certificates", None, body)
    except errors.Forbidden as error:
        if trusted(client):
            return False
        raise Refused(
            f"cannot {doing}: the server does not know it: used, expired, cancelled, or lost in a restart",
            code="E_TOKEN_SPENT",
        ) from error
    except errors.Conflict:
        return False
    except errors.OperationFailed as error:
        if trusted(client):
            return False
        raise Refused(f"cannot {doing}: {transport.reason(error)}", code="E_TOKEN_SPENT") from error
    return True
