"""Durations, times, byte sizes, ports and numbers: text to value and back, as docker writes them.

Pure; imports nothing of ic. What cannot be read raises ValueError with a reason that completes the
sentence "cannot read X: ...". Durations are integers of milliseconds, sizes integers of bytes.
"""

from __future__ import annotations

import re
from decimal import Decimal


class Date(str):
    """A date with its time, as an extension may hold it: YAML writes it without quotes."""

    __slots__ = ()


_DURATION_MS = {
    "ns": Decimal("0.000001"),
    "us": Decimal("0.001"),
    "µs": Decimal("0.001"),
    "μs": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1000),
    "m": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
    "w": Decimal(604_800_000),
}
# Compiled where they are first needed, not at every start.
_DURATION_PART = r"(?a)(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w)"
_LONGEST_MS = 2**63 // 1_000_000  # docker keeps nanoseconds in 64 bits

_DIGITS_OF_SIZE = r"\d(?:_?\d)*"
_SIZE = (
    rf"(?ai)([+-]?(?:{_DIGITS_OF_SIZE}(?:\.(?:{_DIGITS_OF_SIZE})?)?|\.{_DIGITS_OF_SIZE})"
    rf"(?:e[+-]?{_DIGITS_OF_SIZE})?) ?(?:([kmgtp])(?:i?b)?|b)?"
)
_SIZE_LIMIT = 2**63
_SIZE_FACTOR = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}

_DIGITS = re.compile(r"\d{1,9}", re.ASCII)
PORT_LIMIT = 65535


def duration_ms(text: str) -> int:
    """Milliseconds of `1m30s`, `1.5h`, `500ms`, `2d`; a bare `0` is zero. Parts of a millisecond round up.

    Units are those that docker compose takes: ns us ms s m h d w. Raises ValueError.
    """
    if text == "0":
        return 0
    total = Decimal(0)
    at = 0
    parts = re.compile(_DURATION_PART)
    while at < len(text):
        part = parts.match(text, at)
        if part is None:
            break
        total += Decimal(part[1]) * _DURATION_MS[part[2]]
        at = part.end()
    if not text or at < len(text) or len(text) > 100:
        raise ValueError(f"{text!r} is an invalid duration; write it like 10s or 1m30s")
    if total > _LONGEST_MS:
        raise ValueError(f"{text!r} is longer than 292 years")
    return int(total.to_integral_value(rounding="ROUND_CEILING"))


def duration_text(ms: int) -> str:
    """The duration as docker compose prints it: `1m30s`, `1.5s`, `500ms`, `0s`."""
    if ms == 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    seconds, rest = divmod(ms, 1000)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    fraction = f".{rest:03d}".rstrip("0") if rest else ""
    if hours:
        return f"{hours}h{minutes}m{seconds}{fraction}s"
    if minutes:
        return f"{minutes}m{seconds}{fraction}s"
    return f"{seconds}{fraction}s"


def size_bytes(text: str) -> int:
    """Bytes of `64m`, `1.5gb`, `512 KiB`, `1024`, `1e6`: multiples of 1024, whatever the spelling.

    As docker does, in the numbers with a point of 64 bits that it takes for it. Raises ValueError.
    """
    found = re.fullmatch(_SIZE, text)
    number = float(found[1]) * _SIZE_FACTOR.get((found[2] or "").lower(), 1) if found else -1.0
    if number < 0 or len(text) > 40:
        raise ValueError(f"{text!r} is an invalid size; write it like 64m or 1.5g")
    if number >= _SIZE_LIMIT:
        raise ValueError(f"{text!r} is more than there is room for anywhere")
    return int(number)


def port_range(text: str) -> tuple[int, int]:
    """First and last port of `80` or `8000-8010`. Raises ValueError."""
    first, dash, last = text.partition("-")
    start = _port(first, text)
    end = _port(last, text) if dash else start
    if end < start:
        raise ValueError(f"the port range {text!r} ends before it begins")
    return start, end


def _port(digits: str, whole: str) -> int:
    if _DIGITS.fullmatch(digits) is None or int(digits) > PORT_LIMIT:
        raise ValueError(f"{whole!r} is an invalid port or range of ports (0 to {PORT_LIMIT})")
    return int(digits)


def number_text(value: float) -> str:
    """A number or a boolean as docker compose turns it into text: `true`, `3`, `1e+06`, `0.5`, `+Inf`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value != value:  # noqa: PLR0124 - the one value that differs from itself
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    # The shortest digits that read back; with an exponent below 10^-4 and from 10^6 on (measured).
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if digits == (0,):
        return "-0" if sign else "0"
    return ("-" if sign else "") + _go_digits("".join(map(str, digits)), int(exponent))


def _go_digits(digits: str, exponent: int) -> str:
    power = len(digits) + exponent - 1
    if power < -4 or power >= 6:
        mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return "0." + "0" * (-power - 1) + digits
    whole = digits[: power + 1].ljust(power + 1, "0")
    rest = digits[power + 1 :]
    return f"{whole}.{rest}" if rest else whole


def ipv4(text: str) -> int | None:
    """The number of a dotted IPv4 address, None when it is none."""
    parts = text.split(".")
    if len(parts) != 4:
        return None
    number = 0
    for part in parts:
        if not _DIGITS.fullmatch(part) or int(part) > 255 or (len(part) > 1 and part[0] == "0"):
            return None
        number = number << 8 | int(part)
    return number


def ipv4_text(number: int) -> str:
    """The dotted form of an IPv4 address."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def ipv4_network(text: str) -> tuple[int, int]:
    """First address and prefix length of `10.0.0.0/24`. Raises ValueError."""
    address, slash, digits = text.partition("/")
    first = ipv4(address)
    if first is None or not slash or not _DIGITS.fullmatch(digits) or int(digits) > 32:
        raise ValueError(f"{text!r} is not an IPv4 subnet; write it like 10.20.0.0/24")
    prefix = int(digits)
    if first & ((1 << (32 - prefix)) - 1):
        base = ipv4_text(first >> (32 - prefix) << (32 - prefix))
        raise ValueError(f"{text!r} is not a subnet: it begins at {base}/{prefix}")
    return first, prefix


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address (as inet_pton reads it)."""
    if ipv4(text) is not None:
        return True
    import socket

    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def time_ms(text: str) -> int | None:
    """An RFC 3339 time in UTC, as servers write it (up to nanoseconds), in milliseconds; None for no time."""
    import calendar

    found = re.fullmatch(
        r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?Z?", text, re.ASCII
    )
    if found is None:
        return None
    try:
        seconds = calendar.timegm(tuple(map(int, found.groups()[:6])))
    except ValueError:  # a month beyond the twelfth
        return None
    return seconds * 1000 + int((found[7] or "")[:3].ljust(3, "0"))
