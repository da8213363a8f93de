"""What is asked of one instance: its own `user.*` keys, read. Pure.

In: an instance's name and its config (with that of its profiles). Out: a Spec; what cannot be read stands in
its `problems`, with the key's name, and that part is not watched. The words, defaults and zero rules are
docker's (Engine API, HealthConfig: 0 and absent mean the default); docs/healthd.md is the table for people.

Also reads and writes `user.ic.health`, the one key in which the daemon remembers: which run of the instance
the status is about, how often it was restarted, and what is under way (a claim, taken by compare-and-swap).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar, cast

import msgspec

from ic import names, units

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
Policy = Literal["", "no", "always", "unless-stopped", "on-failure"]
"""`user.restart`; empty when there is none: exits are left alone, an unhealthy instance is restarted."""
Action = Literal["restart", "stop", "kill", "none"]
Promise = Literal["", "restart", "start", "stop"]
"""What somebody was about to do to an instance, and its successor has to finish."""
Problem = tuple[str, str]
"""The key, and what is wrong with it; never its value where that may be secret."""

INTERVAL_MS = 30_000
TIMEOUT_MS = 30_000
RETRIES = 3
START_INTERVAL_MS = 5_000
GRACE_MS = 10_000
MOST_RETRIES = 1_000_000
_TEXT_LIMIT = 64 * 1024
_SHOWN = 40
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("", "false", "0", "no", "off")
_ENVIRONMENT = "environment."
_TEST = msgspec.json.Decoder(list[str])


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of an instance. Times in milliseconds.

    `test` is empty without a healthcheck, else docker's form: `("CMD", ...)` or `("CMD-SHELL", text)`.
    `restart_limit` is the N of `on-failure:N`, 0 without one. `paused`: a person wants it left alone.
    `want_stopped`: ic stopped it on purpose; `want_running`: ic started it. `held` is the generation of the
    ic run that may stop and start it right now. `home` and `user` are those of its environment, empty when
    it has none; the rest of its environment reaches a probe through the server. `signal` is a stop signal
    that has to be given from inside, because the server may not be told of it (a restricted project), empty
    where the server gives it; `ends_on` the number of its stop signal, whoever gives it. `daemon` marks a
    health daemon, which is never watched.
    """

    name: str
    test: tuple[str, ...] = ()
    interval_ms: int = INTERVAL_MS
    timeout_ms: int = TIMEOUT_MS
    retries: int = RETRIES
    start_period_ms: int = 0
    start_interval_ms: int = START_INTERVAL_MS
    restart: Policy = ""
    restart_limit: int = 0
    on_unhealthy: Action = "restart"
    grace_ms: int = GRACE_MS
    signal: str = ""
    ends_on: int = 15
    paused: bool = False
    daemon: bool = False
    want_stopped: bool = False
    want_running: bool = False
    held: str = ""
    uid: int = 0
    gid: int = 0
    cwd: str = "/"
    home: str = ""
    user: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def watched(self) -> bool:
        """Whether there is anything to do for it: a healthcheck or a restart policy, and no pause."""
        policy = self.restart not in ("", "no")
        return not self.daemon and not self.paused and (bool(self.test) or policy)

    @property
    def argv(self) -> tuple[str, ...]:
        """The command of the healthcheck, as docker runs it; empty without one."""
        if self.test and self.test[0] == "CMD-SHELL":
            return ("/bin/sh", "-c", *self.test[1:])
        return self.test[1:]

    @property
    def silence_ms(self) -> int:
        """After so long without a verdict the status is unknown."""
        return max(3 * self.interval_ms, 90_000)


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`user.ic.health`: written with the status, always by compare-and-swap.

    `restarts` grows by one with every restart that was claimed, `at` (ms since 1970, for people) is the last
    write. `run` is the run of the instance (its `last_used_at`) that this is about: after a start that is
    another one, and `do` is done or void. `do` is what the writer was about to do; `why` its cause; `by` the
    beginning of the name under which the server knows the writer, empty when that is not known.
    """

    restarts: int = 0
    at: int = 0
    run: str = ""
    do: Promise = ""
    why: str = ""
    by: str = ""


def claim(config: Mapping[str, object]) -> Claim:
    """The daemon's claim on an instance; an empty one where there is none, or one that cannot be read."""
    text = config.get(names.HEALTH)
    if not isinstance(text, str) or not text:
        return Claim()
    try:
        return msgspec.json.decode(text, type=Claim)
    except (msgspec.MsgspecError, RecursionError):
        return Claim()


def claim_text(claim: Claim) -> str:
    """The claim as it is written: compact JSON."""
    return msgspec.json.encode(claim).decode()


def status(body: Mapping[str, object]) -> str:
    """The status of an instance as its body (recursion 1) tells it, `starting` when it is of another run.

    Between a start and the daemon's first write the key still holds the status of the run before; whoever
    waits for `healthy` must not take that for an answer. Written by others (no `user.ic.health` at all), it
    is believed. What has no check has no status, though its restarts leave a claim.
    """
    config = cast("Mapping[str, object]", body.get("config") or {})
    said = str(config.get(names.HEALTH_STATUS) or "")
    whole = cast("Mapping[str, object]", body.get("expanded_config") or config)
    about = claim(config).run
    if whole.get(names.HEALTH_TEST) and about and about != str(body.get("last_used_at") or ""):
        return "starting"
    return said


def read(name: str, config: Mapping[str, object]) -> Spec:
    """What the keys of an instance ask for; every key that cannot be read is a problem, never an error.

    A problem in a key of the healthcheck leaves the whole healthcheck out (half of one would give verdicts
    that nobody asked for); one in `user.restart` leaves restarting out, after an unhealthy verdict too.
    """
    reader = _Reader(config)
    test: tuple[str, ...] = reader.take(names.HEALTH_TEST, _test, ())
    interval = reader.take(names.HEALTH_INTERVAL, _duration, 0) or INTERVAL_MS
    timeout = reader.take(names.HEALTH_TIMEOUT, _duration, 0) or TIMEOUT_MS
    retries = reader.take(names.HEALTH_RETRIES, _retries, 0) or RETRIES
    start_period = reader.take(names.HEALTH_START_PERIOD, _duration, 0)
    start_interval = reader.take(names.HEALTH_START_INTERVAL, _duration, 0) or START_INTERVAL_MS
    broken = bool(reader.problems)
    restart, limit = reader.take(names.RESTART, _policy, ("", 0), ("no", 0))
    unhealthy: Action = "none" if restart == "no" else "restart"
    unhealthy = reader.take(names.HEALTH_ON_UNHEALTHY, _action, unhealthy, "none")
    grace = reader.take("boot.host_shutdown_timeout", _seconds, GRACE_MS)
    return Spec(
        name=name,
        test=() if broken else test,
        interval_ms=interval,
        timeout_ms=timeout,
        retries=retries,
        start_period_ms=start_period,
        start_interval_ms=start_interval,
        restart=restart,
        restart_limit=limit,
        on_unhealthy=unhealthy,
        grace_ms=reader.take(names.GRACE, _seconds, grace),
        signal=reader.text(names.SIGNAL),
        ends_on=_signal_number(reader.text(names.SIGNAL) or _halt(reader.text("raw.lxc"))),
        paused=reader.take(names.HEALTH_STOPPED, _boolean, default=False),
        daemon=reader.take(names.HEALTH_DAEMON, _boolean, default=False),
        want_stopped=reader.text(names.WANT) == "stopped",
        want_running=reader.text(names.WANT) == "running",
        held=reader.text(names.HELD),
        uid=reader.take("oci.uid", _number, 0),
        gid=reader.take("oci.gid", _number, 0),
        cwd=reader.text("oci.cwd") or "/",
        home=reader.text(_ENVIRONMENT + "HOME"),
        user=reader.text(_ENVIRONMENT + "USER"),
        problems=tuple(reader.problems),
    )


class _Reader:
    """Takes keys out of a config and gathers what is wrong with them."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        self.problems: list[Problem] = []

    def text(self, key: str) -> str:
        value = self._config.get(key)
        return value if isinstance(value, str) else ""

    def take(self, key: str, parse: Callable[[str], T], default: T, broken: T | None = None) -> T:
        """The parsed value, `default` without the key, `broken` (else `default`) when it is unreadable."""
        text = self.text(key)
        if not text:
            return default
        try:
            if len(text) > _TEXT_LIMIT:
                raise ValueError(f"{len(text)} characters, at most {_TEXT_LIMIT}")
            return parse(text)
        except ValueError as error:
            self.problems.append((key, str(error)))
            return default if broken is None else broken


# --- one value each; a ValueError's text completes "KEY: " --------------------------------------------


def _shown(text: str) -> str:
    """A foreign value as a problem may show it: short, and without control characters."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _test(text: str) -> tuple[str, ...]:
    """Docker's test. Its words are not shown: a command line may hold a secret."""
    try:
        test = _TEST.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise ValueError('not a JSON array of strings; write ["CMD", "command", ...]') from None
    if not test or test == ["NONE"]:
        return ()
    if test[0] not in ("CMD", "CMD-SHELL"):
        raise ValueError("the first word must be CMD, CMD-SHELL or NONE")
    if len(test) < 2 or not test[1]:
        raise ValueError(f"no command after {test[0]}")
    return tuple(test)


def _duration(text: str) -> int:
    if text.strip().startswith("-"):
        raise ValueError(f"{_shown(text)} is negative")
    try:
        return units.duration_ms(text)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a duration; write it like 10s or 1m30s") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ValueError(f"{_shown(text)} is not a number")
    return int(text)


def _retries(text: str) -> int:
    retries = _number(text)
    if retries > MOST_RETRIES:
        raise ValueError(f"{_shown(text)} is more than {MOST_RETRIES}")
    return retries


def _seconds(text: str) -> int:
    return _number(text) * 1000


def _halt(lines: str) -> str:
    """The stop signal that the server was told of in its low-level keys; empty when it was not."""
    for line in lines.split("\n"):
        key, _, value = line.partition("=")
        if key.strip() == "lxc.signal.halt":
            return value.strip()
    return ""


def _signal_number(word: str) -> int:
    """A stop signal's number; SIGTERM's for none, and for one that is not known here."""
    if word.isascii() and word.isdigit():
        return int(word[:3])
    import signal

    known = signal.Signals.__members__.get(word)
    return int(known if known is not None else signal.SIGTERM)


def _policy(text: str) -> tuple[Policy, int]:
    word, colon, limit = text.strip().partition(":")
    if word == "on-failure":
        return "on-failure", _number(limit) if colon else 0
    if word in ("no", "always", "unless-stopped") and not colon:
        return cast("Policy", word), 0
    raise ValueError(
        f"{_shown(text)} is not a restart policy: no, always, unless-stopped, on-failure[:N]"
    )


def _action(text: str) -> Action:
    if text in ("restart", "stop", "kill", "none"):
        return text
    raise ValueError(f"{_shown(text)} is none of restart, stop, kill, none")


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{_shown(text)} is neither true nor false")
