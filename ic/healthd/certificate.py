"""A P-256 key and a certificate signed by itself, made of whole numbers: for `ic.healthd.identity`.

In: a name, a time, a source of random bytes. Out: PEM texts; and, the other way, until when a
certificate is good. Pure, but for the randomness that is handed in. Source of the rules: FIPS 186-5 and
SEC 1 (curve and signature), RFC 5915 and 5958 (key), RFC 5280 (certificate). Why it is done here and not
by a library: docs/adr/0021.

A key is made once in the life of a sidecar, by a process that nobody else watches. The arithmetic does
not take the same time for every number, so it must not be used to sign what others choose or can time.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# The curve y^2 = x^3 - 3x + b over the integers modulo P; G generates N points.
P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

LIFETIME = 10 * 365 * 86400  # seconds: as long as those that the incus client makes for itself
BACKDATED = 86400  # seconds before now from which it is good: clocks of two machines differ

_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_PRIME256V1 = "1.2.840.10045.3.1.7"
_ECDSA_SHA256 = "1.2.840.10045.4.3.2"
_COMMON_NAME = "2.5.4.3"
_BASIC_CONSTRAINTS = "2.5.29.19"
_KEY_USAGE = "2.5.29.15"
_EXTENDED_KEY_USAGE = "2.5.29.37"
_CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"


# --- the curve -----------------------------------------------------------------------------------------

_Jacobian = tuple[int, int, int]  # (x, y, z) is the point (x/z^2, y/z^3); z = 0 is infinity


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    square = y * y % P
    s = 4 * x * square % P
    m = 3 * (x - z * z) * (x + z * z) % P
    x3 = (m * m - 2 * s) % P
    return x3, (m * (s - x3) - 8 * square * square) % P, 2 * y * z % P


def _add(one: _Jacobian, other: _Jacobian) -> _Jacobian:
    if not one[2]:
        return other
    if not other[2]:
        return one
    x1, y1, z1 = one
    x2, y2, z2 = other
    zz1, zz2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * zz2 % P, x2 * zz1 % P
    s1, s2 = y1 * z2 * zz2 % P, y2 * z1 * zz1 % P
    if u1 == u2:
        return _double(one) if s1 == s2 else (1, 1, 0)
    h, r = u2 - u1, s2 - s1
    hh = h * h % P
    hhh, v = h * hh % P, u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, z1 * z2 * h % P


def multiple(number: int, point: tuple[int, int] = G) -> tuple[int, int]:
    """`number` (1 to N-1) times a point of the curve, as x and y."""
    result: _Jacobian = (1, 1, 0)
    for bit in f"{number:b}":
        result = _double(result)
        if bit == "1":
            result = _add(result, (*point, 1))
    inverse = pow(result[2], -1, P)
    squared = inverse * inverse % P
    return result[0] * squared % P, result[1] * squared * inverse % P


def _number(entropy: Callable[[int], bytes]) -> int:
    """A number from 1 to N-1; 64 bits more than needed, so that none is likelier (FIPS 186-5, A.2.1)."""
    return int.from_bytes(entropy(40), "big") % (N - 1) + 1


def sign(message: bytes, private: int, entropy: Callable[[int], bytes]) -> tuple[int, int]:
    """The ECDSA signature (r, s) over SHA-256 of a message."""
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        k = _number(entropy)
        r = multiple(k)[0] % N
        s = pow(k, -1, N) * (digest + r * private) % N
        if r and s:
            return r, s


def verified(message: bytes, signature: tuple[int, int], public: tuple[int, int]) -> bool:
    """Whether a signature is that of the key's owner over a message."""
    r, s = signature
    if not (0 < r < N and 0 < s < N):
        return False
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    inverse = pow(s, -1, N)
    parts: list[_Jacobian] = [
        (*multiple(factor, point), 1)
        for factor, point in ((digest * inverse % N, G), (r * inverse % N, public))
        if factor
    ]
    x, _, z = parts[0] if len(parts) == 1 else _add(*parts)
    return bool(z) and x * pow(z, -2, P) % P % N == r


# --- DER -----------------------------------------------------------------------------------------------


def _tagged(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _sequence(*contents: bytes) -> bytes:
    return _tagged(0x30, *contents)


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(content: bytes, unused: int = 0) -> bytes:
    return _tagged(0x03, bytes((unused,)), content)


def _oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    out = bytearray((40 * first + second,))
    for number in rest:
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.append(0x80 | number & 0x7F)
        out += bytes(reversed(septets))
    return _tagged(0x06, bytes(out))


def _moment(seconds: int) -> bytes:
    """UTCTime until 2049, GeneralizedTime after it (RFC 5280, 4.1.2.5)."""
    moment = time.gmtime(seconds)
    if moment.tm_year < 2050:
        return _tagged(0x17, time.strftime("%y%m%d%H%M%SZ", moment).encode())
    return _tagged(0x18, time.strftime("%Y%m%d%H%M%SZ", moment).encode())


def _pem(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode()
    body = "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


# --- making one ----------------------------------------------------------------------------------------


def make(name: str, now: int, entropy: Callable[[int], bytes]) -> tuple[str, str]:
    """A new key and its certificate (PEM, PEM) for TLS clients, in the name of `name`, good for ten years.

    `now` in seconds since 1970; `entropy` gives so many random bytes that nobody can guess.
    """
    private = _number(entropy)
    x, y = multiple(private)
    point = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    algorithm = _sequence(_oid(_EC_PUBLIC_KEY), _oid(_PRIME256V1))
    inner = _sequence(
        _integer(1), _tagged(0x04, private.to_bytes(32, "big")), _tagged(0xA1, _bits(point))
    )
    key = _sequence(_integer(0), algorithm, _tagged(0x04, inner))
    signature = _sequence(_oid(_ECDSA_SHA256))
    who = _sequence(_tagged(0x31, _sequence(_oid(_COMMON_NAME), _tagged(0x0C, name[:64].encode()))))
    critical = b"\x01\x01\xff"
    extensions = _sequence(
        _sequence(_oid(_KEY_USAGE), critical, _tagged(0x04, _bits(b"\x80", 7))),
        _sequence(_oid(_EXTENDED_KEY_USAGE), _tagged(0x04, _sequence(_oid(_CLIENT_AUTH)))),
        _sequence(_oid(_BASIC_CONSTRAINTS), critical, _tagged(0x04, _sequence())),
    )
    signed = _sequence(
        _tagged(0xA0, _integer(2)),
        _integer(int.from_bytes(entropy(16), "big") >> 1 | 1),
        signature,
        who,
        _sequence(_moment(now - BACKDATED), _moment(now + LIFETIME)),
        who,
        _sequence(algorithm, _bits(point)),
        _tagged(0xA3, extensions),
    )
    r, s = sign(signed, private, entropy)
    certificate = _sequence(signed, signature, _bits(_sequence(_integer(r), _integer(s))))
    return _pem("PRIVATE KEY", key), _pem("CERTIFICATE", certificate)


# --- reading one ---------------------------------------------------------------------------------------


def _split(der: bytes) -> list[tuple[int, bytes]]:
    """The elements of a DER text: tags and contents. Raises ValueError when it is cut short."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(der):
        if at + 2 > len(der):
            raise ValueError("cut short")
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4 or at + size > len(der):
                raise ValueError("no length")
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("cut short")
        found.append((tag, der[at : at + length]))
        at += length
    return found


def _seconds(tag: int, text: bytes) -> int:
    import calendar

    if tag == 0x17:  # the century of a two-digit year: RFC 5280, 4.1.2.5.1
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    elif tag != 0x18:
        raise ValueError("no time")
    return calendar.timegm(time.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ"))


def lifetime(der: bytes) -> tuple[int, int]:
    """From when until when (seconds since 1970) a certificate is good. Raises ValueError when it is none."""
    try:
        signed = _split(_split(_split(der)[0][1])[0][1])
        at = 4 if signed[0][0] == 0xA0 else 3
        begins, ends = _split(signed[at][1])[:2]
        return _seconds(*begins), _seconds(*ends)
    except (IndexError, ValueError) as cause:
        raise ValueError("it is no certificate") from cause


def der_of(pem: str) -> bytes:
    """The first certificate of a PEM text. Raises ValueError when there is none."""
    import binascii

    _, begun, rest = pem.partition("-----BEGIN CERTIFICATE-----")
    body, ended, _ = rest.partition("-----END CERTIFICATE-----")
    if not begun or not ended:
        raise ValueError("it is no certificate")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise ValueError("it is no certificate") from cause


def fingerprint(der: bytes) -> str:
    """What Incus knows a certificate by: SHA-256 of its DER form, hex."""
    return hashlib.sha256(der).hexdigest()
