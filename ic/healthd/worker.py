"""One watched instance: docker's rules of health checks and restarts as a state machine. Pure.

In: a State, the Spec that holds now, one event, and the time (ms of a clock that only goes forward). Out: the
next State and commands. Nothing is done here: the manager (or whoever waits for one service) runs probes,
sends requests and brings what came of them back as events. The same events at the same times give the same
verdicts.

The rules are those of docker's documentation (HEALTHCHECK, restart policies); what differs is said in
docs/healthd.md: a probe that could not be run is no verdict, silence makes the status `unknown` and never
restarts anything, and an unhealthy instance is acted upon.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ic.healthd import policy, spec

if TYPE_CHECKING:
    from collections.abc import Callable

Power = Literal["unknown", "running", "frozen", "stopped"]
Status = Literal["", "starting", "healthy", "unhealthy", "stopped", "unknown"]
By = Literal["none", "me", "peer", "other", "somebody"]
"""Who asked for a change of power: nobody (an exit, the server itself), this daemon, another daemon, somebody
else (a daemon that is not known yet included), or somebody who may be this daemon."""
Act = Literal["restart", "start", "stop", "kill"]
Outcome = Literal["done", "claimed", "failed", "refused"]
"""What came of an action: done; claimed by somebody else; tried in vain; not to be done any more."""

CONFIRM_MS = 1_200  # after a start: did it live? An end within milliseconds is not always told of
MISSING_MS = (
    2_000  # a stopped instance without an event: the event of a stop comes 0.8 s after its end
)
OURS_MS = 5_000  # events of an action of ours may come so long after its answer
THEIRS_MS = 60_000  # how long another daemon may take over what it has claimed
THEIRS_START_MS = 5_000  # and from the end that it has brought about to the start
QUIET_HEALTH_MS = 1_000  # no writes so shortly after a change of power: a person may be at it
QUIET_START_MS = 2_000
QUIET_STOP_MS = 3_000
YOUNG_MS = 600_000  # what ended before its first watch: only in a run that began so shortly ago
AWAY_START_MS = 3_000  # the server itself starts what ran before; ours comes after that
PROMISED_MS = 1_000  # a start that is so far away is promised: plans leave it alone then
RETRY_MS = 1_000
RETRY_MOST_MS = 30_000
CODE_PATIENCE_MS = 10_000  # an exit code that was asked for and did not come is asked for again
UNWATCHED = "stopped while unwatched"
LEAK_LIMIT = 3
LINES_KEPT = 5
LINE_KEPT = 1024


# --- events ----------------------------------------------------------------------------------------------


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The instance as the server lists it.

    `run` is its `last_used_at`, `age_ms` how long ago that was (only looked at when the daemon sees it for
    the first time), `claim` and `status` what stands in its keys. `fresh` after (re)connecting: what
    happened before was not seen.
    """

    power: Power
    run: str
    age_ms: int = 0
    ever_started: bool = True
    status: Status = ""
    claim: spec.Claim = spec.Claim()
    fresh: bool = False


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A Look was in vain: the server did not tell."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """It was started; or restarted in one (`both`), whose first half the server does not tell of."""

    by: By = "none"
    both: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """It ended: by itself (`by` none), or somebody stopped it."""

    by: By = "none"


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """The exit code that was asked for; None when the server does not know it.

    `forced`: it did not exit, somebody stopped it by force.
    """

    code: int | None
    forced: bool = False


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """Its processes were frozen."""


class Thawed(msgspec.Struct, frozen=True, kw_only=True):
    """Its processes run again."""


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """A probe has ended. `number` is the command's, `started` when its process began (ms).

    `exit`: with `code`. `timeout`: killed for taking too long. `error`: it could not be run, or the server
    did not tell. `gone`: the instance is not running. `line` is the last line that it wrote, made safe;
    `leaked` names the processes that are left of it.
    """

    number: int
    started: int
    kind: Literal["exit", "timeout", "error", "gone"]
    code: int = 0
    line: str = ""
    leaked: tuple[str, ...] = ()


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an Act. `claim` as it stands on the server now."""

    act: Act
    outcome: Outcome
    detail: str = ""
    claim: spec.Claim | None = None


class Wrote(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a Write: done, or refused for now."""

    done: bool
    status: Status = ""
    claim: spec.Claim = spec.Claim()


class Respec(msgspec.Struct, frozen=True, kw_only=True):
    """Its keys have changed: the Spec that comes with this event is the new one."""

    before: spec.Spec


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon was not there for a while (suspended, stopped, cut off): no burst of what is overdue."""


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """Time has passed: do what is due. `calm` is false while no health restart is admitted."""

    calm: bool = True


Event = (
    Seen
    | Unread
    | Started
    | Ended
    | Exited
    | Frozen
    | Thawed
    | Probed
    | Acted
    | Wrote
    | Respec
    | Gap
    | Tick
)


# --- commands --------------------------------------------------------------------------------------------


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Run the check now; answer with Probed."""

    number: int


class Do(msgspec.Struct, frozen=True, kw_only=True):
    """Restart (gracefully), start, stop (gracefully) or kill the instance; answer with Acted.

    All but `start` have to be claimed first: the claim with `restarts` + 1 by compare-and-swap, and only
    while the instance is still in the run `run`.
    """

    act: Act
    why: str
    run: str = ""
    claim: spec.Claim = spec.Claim()


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """Write status, last line and claim onto the instance, in one; answer with Wrote."""

    status: Status
    line: str = ""
    do: spec.Promise = ""
    why: str = ""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Read the instance; answer with Seen or Unread (or forget it)."""


class ReadCode(msgspec.Struct, frozen=True, kw_only=True):
    """Read the exit code of the last run; answer with Exited."""


class Tell(msgspec.Struct, frozen=True, kw_only=True):
    """Something for the history: a kind in a word, its cause, an exit code, a probe's last line."""

    kind: str
    cause: str = ""
    code: int | None = None
    line: str = ""


Command = Probe | Do | Write | Look | ReadCode | Tell
Commands = tuple[Command, ...]


# --- the state -------------------------------------------------------------------------------------------


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What the instance's keys say of it, as far as this daemon has written or first read them."""

    status: Status = ""
    run: str = ""
    do: spec.Promise = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an instance. Times are ms of the daemon's clock, None where there is nothing due."""

    power: Power = "unknown"
    run: str = ""  # empty between a start and the next look
    started: int = 0
    ended: int = 0
    changed: int = 0  # the last change of power
    stopped_by: Literal["", "person", "exit", "verdict", "away", "never"] = ""
    code: int | None = None
    code_at: int | None = None  # the exit code is waited for: ask again then
    unseen: bool = False  # it ended before anybody watched it: perhaps somebody stopped it
    exit_why: str = ""  # what followed from the last exit

    status: Status = ""
    streak: int = 0
    due: int | None = None  # the next probe
    probing: int = 0  # the number of the probe under way, 0 without one
    number: int = 0  # of the last probe
    heard: int = 0  # the last verdict, or since when one is waited for
    lines: tuple[str, ...] = ()
    leaked: int = 0
    healthy_since: int | None = None

    exits: policy.Exits = policy.Exits()
    ran: int = 0  # ms that the run before lasted, while its exit code is waited for
    start_at: int | None = None
    start_why: str = ""
    restarts: policy.Restarts = policy.Restarts()
    want: Literal["", "restart", "stop", "kill"] = ""  # what the verdict asks for
    want_at: int = 0
    limited: bool = False

    doing: Literal["", "restart", "start", "stop", "kill"] = ""
    did: Literal["", "restart", "start", "stop", "kill"] = ""  # the last action that was done
    ours_until: int = 0
    theirs_until: int = 0
    look_at: int | None = None
    look_pause: int = RETRY_MS  # after the next look in vain
    missing: int | None = None  # since when it was seen stopped without an event
    launched: bool = False  # our start was answered, its event has not come
    owed: bool = False  # it was started anew, and the end of the run before was not told of yet
    untold: bool = False  # this run was found by a look, its event has not come
    claim: spec.Claim = spec.Claim()
    written: Written = Written()
    writing: bool = False
    write_after: int = 0
    write_pause: int = RETRY_MS


Turn = tuple[State, Commands]
_UP = ("running", "frozen")


def step(state: State, asked: spec.Spec, event: Event, now: int) -> Turn:
    """The next state after an event, and what is to be done. A new instance begins with `State()`."""
    handler = _HANDLERS[type(event)]
    return handler(state, asked, event, now)


def wake(state: State, asked: spec.Spec) -> int | None:
    """When a Tick is due, None when nothing is."""
    times = [state.look_at]
    if asked.watched:
        times += [_probe_at(state, asked), _silent_at(state, asked), state.code_at]
        if _may_act(state, asked):
            times.append(state.start_at)
            times.append(state.want_at if state.want else None)
    times.append(_write_at(state, asked))
    return min((at for at in times if at is not None), default=None)


def _replace(state: State, **changes: Any) -> State:
    return msgspec.structs.replace(state, **changes)


# --- what the server lists -------------------------------------------------------------------------------


def _seen(state: State, asked: spec.Spec, seen: Seen, now: int) -> Turn:
    state = _replace(state, look_pause=RETRY_MS)
    if state.power == "unknown":
        return _first(state, asked, seen, now)
    state = _claims(state, seen, now)
    if seen.power == "running":
        return _seen_running(state, asked, seen, now)
    if seen.power == "frozen":
        return (state, ()) if state.power == "frozen" else _frozen(state, asked, Frozen(), now)
    another = state.run not in ("", seen.run)  # empty: it ended before its start was looked at
    if seen.power == "stopped" == state.power and seen.fresh and another:
        return _first_stopped(_replace(state, run=seen.run), asked, seen, now)
    if seen.power == "stopped" == state.power and state.launched:
        return _seen_unstarted(state, asked, now)
    if seen.power != "stopped" or state.power == "stopped":
        return _replace(state, missing=None, run=state.run or seen.run), ()
    return _seen_stopped(state, asked, seen, now)


def _unread(state: State, asked: spec.Spec, event: Unread, now: int) -> Turn:
    del asked, event
    pause = min(2 * state.look_pause, RETRY_MOST_MS)
    return _replace(state, look_at=now + state.look_pause, look_pause=pause), ()


def _claims(state: State, seen: Seen, now: int) -> State:
    """Take notice of a claim that another daemon has made: what follows is its doing, not a person's."""
    theirs = seen.claim.restarts > state.claim.restarts and not state.doing
    if seen.claim.restarts < state.claim.restarts:
        return state  # older than what we know
    state = _replace(state, claim=seen.claim)
    if not theirs:
        return state
    state = _replace(
        state,
        want="",
        theirs_until=now + THEIRS_MS,
        restarts=policy.restarted(state.restarts, now),
        written=Written(status=seen.status, run=seen.claim.run, do=seen.claim.do),
    )
    if state.power == "stopped" and state.stopped_by == "exit" and state.run == seen.claim.run:
        return _end_of_theirs(state, seen.claim.do, now)  # its end came before the claim was read
    return state


def _end_of_theirs(state: State, do: spec.Promise, now: int) -> State:
    """What another daemon has claimed has ended: the rest is its own, unless it dies over it."""
    if do == "stop":
        return _replace(state, stopped_by="verdict", start_at=None)
    if do == "restart":
        at = now + THEIRS_START_MS
        return _replace(state, stopped_by="exit", start_at=at, start_why="unfinished restart")
    return state


def _first(state: State, asked: spec.Spec, seen: Seen, now: int) -> Turn:
    """The instance is seen for the first time by this daemon."""
    same_run = seen.claim.run == seen.run
    state = _replace(
        state,
        power=seen.power,
        run=seen.run,
        claim=seen.claim,
        changed=now - max(0, seen.age_ms),
        written=Written(status=seen.status, run=seen.claim.run, do=seen.claim.do),
    )
    if seen.power in ("running", "frozen"):
        kept: Status = "starting"
        if same_run and seen.status in ("healthy", "unhealthy"):
            kept = "healthy" if seen.status == "healthy" else "unhealthy"
        state = _replace(
            state,
            started=now - max(0, seen.age_ms),
            status=kept if asked.test else "",
            healthy_since=now if kept == "healthy" else None,
            heard=now,
        )
        if _unfinished(state, seen.run):  # the server may be at it: its process has time to end
            state = _replace(state, theirs_until=now + asked.grace_ms + OURS_MS)
        pause = _pause(state, asked, now)
        fresh = 0 <= seen.age_ms < pause and state.status == "starting"
        due = state.started + pause if fresh else _staggered(state, asked, now)
        return _replace(state, due=max(due, now)), ()
    if seen.power == "unknown":
        return state, ()
    if asked.want_running and not seen.claim.run and 0 <= seen.age_ms <= YOUNG_MS:
        return _first_ever(state, asked, seen, now)
    return _first_stopped(state, asked, seen, now, told=same_run and seen.status == "stopped")


def _first_ever(state: State, asked: spec.Spec, seen: Seen, now: int) -> Turn:
    """ic has just started it, and it ended before any daemon watched it: an exit, or a stop, says the log."""
    away, commands = _first_stopped(state, asked, seen, now)
    if not asked.watched or not seen.ever_started or asked.restart in ("", "no"):
        return away, commands
    state = _replace(away, unseen=True, start_at=None, ran=seen.age_ms)
    return _replace(state, code_at=now + CODE_PATIENCE_MS), (ReadCode(),)


def _first_stopped(
    state: State, asked: spec.Spec, seen: Seen, now: int, *, told: bool = False
) -> Turn:
    """It is stopped, and nobody saw how: design of docker's daemon coming back (docs/healthd.md)."""
    state = _replace(
        state,
        power="stopped",
        ended=now,
        changed=now,
        due=None,
        probing=0,
        missing=None,
        want="",
        healthy_since=None,
        status="stopped" if asked.test and seen.ever_started else "",
        stopped_by="away" if seen.ever_started else "never",
    )
    if not seen.ever_started or asked.want_stopped or not asked.watched:
        return state, ()
    if _unfinished(state, seen.run):
        return _replace(
            state,
            stopped_by="exit",
            start_at=now + policy.EXIT_FIRST_MS,
            start_why="unfinished restart",
        ), ()
    if state.claim.do == "stop" and state.claim.run == seen.run:
        return _replace(state, stopped_by="verdict"), ()
    if asked.restart == "always":
        at = now + AWAY_START_MS
        return _replace(state, start_at=at, start_why=UNWATCHED), ()
    if told or asked.restart not in ("unless-stopped", "on-failure"):
        return state, ()
    if asked.restart == "on-failure":  # what has done its work is completed, whoever saw it
        return _replace(state, code_at=now + CODE_PATIENCE_MS), (ReadCode(),)
    return state, (Tell(kind="stopped", cause=UNWATCHED),)


def _unfinished(state: State, run: str) -> bool:
    """Whether somebody was about to start this very run's successor, and did not come to it."""
    return state.claim.do in ("restart", "start") and state.claim.run == run


def _seen_running(state: State, asked: spec.Spec, seen: Seen, now: int) -> Turn:
    state = _replace(state, missing=None)
    if state.power == "frozen":
        return _thawed(state, asked, Thawed(), now)
    if state.power == "running":
        if not state.run or not seen.run or seen.run == state.run:
            return _replace(state, run=state.run or seen.run), ()
    elif seen.run == state.run and now - state.ended < 2 * MISSING_MS:
        # For 0.8 s after a death the status may still say Running.
        return _replace(state, look_at=now + MISSING_MS), ()
    owed = state.power in _UP and not seen.fresh
    state, commands = _begun(state, asked, "somebody", now, run=seen.run)
    return _replace(state, owed=owed, untold=True), commands


def _seen_stopped(state: State, asked: spec.Spec, seen: Seen, now: int) -> Turn:
    """It is stopped and no event said so: it may be on its way, or lost."""
    if state.doing or now < state.theirs_until:
        return _replace(state, look_at=now + MISSING_MS), ()
    if seen.fresh or _unfinished(state, seen.run):
        return _first_stopped(_replace(state, run=seen.run), asked, seen, now)
    if state.missing is None:
        return _replace(state, missing=now, look_at=now + MISSING_MS), ()
    if now - state.missing < MISSING_MS:
        return _replace(state, look_at=state.missing + MISSING_MS), ()
    return _ended(state, asked, Ended(), now)


def _seen_unstarted(state: State, asked: spec.Spec, now: int) -> Turn:
    """Started, says the server, and yet it is stopped: what has just ended counts as running for a moment."""
    if state.missing is None or now - state.missing < MISSING_MS:
        since = now if state.missing is None else state.missing
        return _replace(state, missing=since, look_at=since + MISSING_MS), ()
    return _exit(_replace(state, missing=None, launched=False, ended=now), asked, now, ran_ms=0)


# --- changes of power --------------------------------------------------------------------------------------


def _by_person(state: State, by: By, now: int) -> bool:
    """Whether a change of power was a person's, or another program's: not ours, not another daemon's."""
    if by in ("none", "me", "peer"):
        return False
    if by == "other" and state.claim.by:
        return True  # who has claimed it is known, and this is another one
    if now < state.theirs_until:
        return False
    return by == "other" or not (state.doing or now < state.ours_until)


def _started(state: State, asked: spec.Spec, event: Started, now: int) -> Turn:
    seen = state.untold and now - state.started < OURS_MS
    owed = not event.both and (state.owed if seen else state.power in _UP)
    state, commands = _begun(state, asked, event.by, now)
    return _replace(state, owed=owed, untold=False), commands


def _begun(state: State, asked: spec.Spec, by: By, now: int, run: str = "") -> Turn:
    if _by_person(state, by, now):
        state = _replace(state, exits=policy.Exits(), restarts=policy.Restarts(), limited=False)
    state = _replace(
        state,
        power="running",
        run=run,
        started=now,
        changed=now,
        stopped_by="",
        code=None,
        code_at=None,
        status="starting" if asked.test else "",
        streak=0,
        probing=0,
        heard=now,
        leaked=0,
        healthy_since=None,
        start_at=None,
        want="",
        missing=None,
        launched=False,
        unseen=False,
        look_at=now + CONFIRM_MS,
    )
    return _replace(state, due=now + _pause(state, asked, now)), ()


def _ended(state: State, asked: spec.Spec, event: Ended, now: int) -> Turn:
    person = _by_person(state, event.by, now) or asked.want_stopped or bool(asked.held)
    if state.power == "stopped":
        # Told twice; or somebody stops what waits for its start.
        if person:
            state = _replace(state, stopped_by="person", start_at=None, unseen=False, code_at=None)
        return state, ()
    if event.by == "none" and state.owed and not asked.want_stopped:
        # That of the run before, told late; if it was this one's after all, the look finds out.
        owed = now - state.started < OURS_MS
        state = _replace(state, owed=False)
        if owed:
            return _replace(state, look_at=now + MISSING_MS), ()
    state = _replace(
        state,
        power="stopped",
        ended=now,
        changed=now,
        status="stopped" if asked.test else "",
        due=None,
        probing=0,
        healthy_since=None,
        want="",
        missing=None,
        look_at=None,
    )
    if person:
        return _replace(state, stopped_by="person", start_at=None), ()
    promised = bool(state.run) and state.run == state.claim.run  # the end of this very run
    ours = state.doing or (state.did if now < state.ours_until else "")
    if state.doing or promised or event.by != "none":
        if ours == "stop":
            return _replace(state, stopped_by="verdict"), ()
        if ours == "restart":
            at = now + policy.EXIT_FIRST_MS  # if its second half does not come
            why = "unfinished restart"
            return _replace(state, stopped_by="exit", start_at=at, start_why=why), ()
    if promised and not ours and now < state.theirs_until and state.claim.do in ("restart", "stop"):
        return _end_of_theirs(state, state.claim.do, now), ()
    return _exit(state, asked, now, ran_ms=now - state.started)


def _exit(state: State, asked: spec.Spec, now: int, *, ran_ms: int) -> Turn:
    """It ended and nobody wanted that; with `on-failure` the exit code decides, which is asked for."""
    state = _replace(state, stopped_by="exit", ran=ran_ms, code=None, code_at=None)
    if not asked.watched:
        return state, ()
    if asked.restart == "on-failure":
        return _replace(state, code_at=now + CODE_PATIENCE_MS), (ReadCode(),)
    return _decide(state, asked, None), (ReadCode(),)


def _decide(state: State, asked: spec.Spec, code: int | None) -> State:
    found = policy.after_exit(asked, state.exits, ran_ms=state.ran, code=code)
    start_at = None if found.wait_ms is None else state.ended + found.wait_ms
    return _replace(
        state, exits=found.exits, start_at=start_at, start_why="exited", exit_why=found.why
    )


def _exited_unseen(state: State, asked: spec.Spec, event: Exited, now: int) -> Turn:
    """How it ended before its first watch; when the log does not tell: as while no daemon was there."""
    state = _replace(state, unseen=False, code_at=None)
    if event.forced or event.code == 128 + asked.ends_on or asked.want_stopped:
        return _replace(state, stopped_by="person"), (Tell(kind="stopped", cause="by somebody"),)
    if event.code is None:
        if asked.restart == "always":
            return _replace(state, start_at=now, start_why=UNWATCHED), ()
        return state, (Tell(kind="stopped", cause=UNWATCHED),)
    state = _decide(_replace(state, stopped_by="exit", code=event.code), asked, event.code)
    return state, (Tell(kind="exit", cause=state.exit_why, code=event.code),)


def _exited_away(state: State, asked: spec.Spec, event: Exited) -> Turn:
    """How it ended while nobody watched: only that it has done its work (`on-failure`) is no news."""
    state = _replace(state, code_at=None, code=event.code)
    if asked.want_stopped or (event.code == 0 and not event.forced):
        return state, ()
    return state, (Tell(kind="stopped", cause=UNWATCHED),)


def _exited(state: State, asked: spec.Spec, event: Exited, now: int) -> Turn:
    if state.power == "stopped" and state.unseen:
        return _exited_unseen(state, asked, event, now)
    if state.power == "stopped" and state.stopped_by == "away" and state.code_at is not None:
        return _exited_away(state, asked, event)
    if state.power != "stopped" or state.stopped_by != "exit":
        return state, (Tell(kind="exit", cause=state.exit_why),)
    if state.code_at is not None:
        state = _decide(_replace(state, code_at=None), asked, event.code)
        if state.start_at is not None:
            state = _replace(state, start_at=max(now, state.start_at))
    state = _replace(state, code=event.code)
    return state, (Tell(kind="exit", cause=state.exit_why, code=event.code),)


def _frozen(state: State, asked: spec.Spec, event: Frozen, now: int) -> Turn:
    del asked, event
    if state.power != "running" or state.doing:
        return state, ()
    return _replace(state, power="frozen", changed=now, probing=0, due=None), ()


def _thawed(state: State, asked: spec.Spec, event: Thawed, now: int) -> Turn:
    del event
    if state.power != "frozen":
        return state, ()
    state = _replace(state, power="running", changed=now, heard=now)
    return _replace(state, due=now + _pause(state, asked, now)), ()


# --- probes ------------------------------------------------------------------------------------------------


def _pause(state: State, asked: spec.Spec, now: int) -> int:
    """How long until the next probe: docker's interval, its start interval within the start period."""
    left = state.started + asked.start_period_ms - now
    if state.status == "starting" and left > 0:
        return min(asked.start_interval_ms, left)
    return asked.interval_ms


def _staggered(state: State, asked: spec.Spec, now: int) -> int:
    """The next probe somewhere within a pause, by the instance's name: never all at once."""
    pause = _pause(state, asked, now)
    return now + 1 + zlib.crc32(asked.name.encode()) * pause // 2**32


def _probe_at(state: State, asked: spec.Spec) -> int | None:
    idle = state.power == "running" and not state.probing and not state.doing
    return state.due if idle and asked.test and state.leaked <= LEAK_LIMIT else None


def _silent_at(state: State, asked: spec.Spec) -> int | None:
    waits = asked.test and state.power == "running" and state.status != "unknown"
    return state.heard + asked.silence_ms if waits else None


def _probed(state: State, asked: spec.Spec, event: Probed, now: int) -> Turn:
    if event.number != state.probing:
        return state, ()
    state = _replace(state, probing=0)
    commands: Commands = ()
    if event.leaked:
        state = _replace(state, leaked=state.leaked + len(event.leaked))
        commands = (Tell(kind="probe-leak", cause=", ".join(event.leaked)[:LINE_KEPT]),)
    if event.kind == "gone":
        state = _replace(state, look_at=now)
    elif event.kind != "error":
        lines = (*state.lines, event.line[:LINE_KEPT])[-LINES_KEPT:]
        state, more = _verdict(_replace(state, heard=now, lines=lines), asked, event, now)
        commands += more
    return _replace(state, due=now + _pause(state, asked, now)), commands


def _verdict(state: State, asked: spec.Spec, event: Probed, now: int) -> Turn:
    """Docker's rule for one result (what it does not count, it does not count here)."""
    if event.kind == "exit" and event.code == 0:
        since = now if state.healthy_since is None else state.healthy_since
        settled = policy.settled(state.restarts, since, now)
        changed = state.status != "healthy"
        state = _replace(
            state,
            status="healthy",
            streak=0,
            want="",
            healthy_since=since,
            restarts=settled,
            limited=policy.limited(settled, now),
        )
        return state, (Tell(kind="healthy", line=event.line),) if changed else ()
    state = _replace(state, healthy_since=None)
    if state.status == "starting" and event.started - state.started < asked.start_period_ms:
        return state, ()
    state = _replace(state, streak=state.streak + 1)
    if state.streak < asked.retries:
        return state, ()
    commands: Commands = ()
    if state.status != "unhealthy":
        cause = "timeout" if event.kind == "timeout" else "exit"
        code = None if event.kind == "timeout" else event.code
        commands = (Tell(kind="unhealthy", cause=cause, code=code, line=event.line),)
        state = _replace(state, status="unhealthy")
    if asked.on_unhealthy != "none" and not state.want and now >= state.theirs_until:
        at = max(now, policy.allowed_at(state.restarts, now))
        state = _replace(state, want=asked.on_unhealthy, want_at=at)
    return state, commands


# --- actions ----------------------------------------------------------------------------------------------


def _may_act(state: State, asked: spec.Spec) -> bool:
    return asked.watched and not state.doing and not asked.held


def _acted(state: State, asked: spec.Spec, event: Acted, now: int) -> Turn:
    state = _replace(state, doing="", look_at=now, heard=now)
    commands: Commands = ()
    if event.claim is not None:
        state = _replace(
            state,
            claim=event.claim,
            written=Written(
                status="unhealthy" if asked.test else "", run=event.claim.run, do=event.claim.do
            ),
            restarts=policy.restarted(state.restarts, now),
        )
        limited = policy.limited(state.restarts, now)
        if limited and not state.limited:
            commands = (Tell(kind="restart-limited", cause=f"{policy.LIMIT_RESTARTS} in 10 min"),)
        state = _replace(state, limited=limited)
    down = state.power == "stopped" and state.stopped_by != "person"
    unfinished = down and state.start_at is not None and state.start_why == "unfinished restart"
    if event.outcome == "done":
        # Events of it may come after its answer.
        launched = down and event.act in ("start", "restart")
        if launched and unfinished:
            state = _replace(state, start_at=None)
        launched = launched and state.start_at is None
        return _replace(state, did=event.act, ours_until=now + OURS_MS, launched=launched), commands
    if event.outcome == "claimed":
        state = _replace(state, want="", theirs_until=now + THEIRS_MS)
        return (_end_of_theirs(state, "restart", now) if unfinished else state), commands
    if event.outcome == "refused":
        state = _replace(state, want="")
        if down and event.claim is None and event.act != "start" and state.stopped_by == "exit":
            # It ended before it could be claimed: an exit like any other.
            state = _replace(state, start_at=None)
            state, more = _exit(state, asked, now, ran_ms=state.ended - state.started)
            return state, commands + more
        return _replace(state, start_at=None), commands
    commands += (Tell(kind=f"{event.act}-failed", cause=event.detail),)
    if event.act == "start" and state.power == "stopped":
        state, more = _exit(_replace(state, ended=now), asked, now, ran_ms=0)
        return state, commands + more
    return state, commands


def _respec(state: State, asked: spec.Spec, event: Respec, now: int) -> Turn:
    before = event.before
    policy_gone = asked.restart != before.restart and asked.restart in ("", "no")
    if asked.want_stopped or policy_gone:
        state = _replace(state, start_at=None)
    if asked.want_stopped or asked.on_unhealthy == "none" or not asked.test:
        state = _replace(state, want="")
    if asked.test != before.test:
        status: Status = "starting" if not before.test or state.status == "" else state.status
        if state.power == "stopped":
            status = "stopped" if state.stopped_by != "never" else ""
        state = _replace(state, status=status if asked.test else "", streak=0)
    if before.paused or not before.test:
        state = _replace(state, heard=now)
    if state.power == "running" and asked.test:
        at = now + _pause(state, asked, now)
        state = _replace(state, due=at if state.due is None else min(state.due, at))
    return state, ()


def _gap(state: State, asked: spec.Spec, event: Gap, now: int) -> Turn:
    del event
    due = state.due
    if due is not None and due <= now:
        due = _staggered(state, asked, now)
    return _replace(state, due=due, heard=now), ()


# --- writing ----------------------------------------------------------------------------------------------


def _target(state: State, asked: spec.Spec) -> Written:
    """What the keys should say."""
    status = state.status
    if not asked.test:
        status = "" if state.written.run else state.written.status  # ours to take away, or not ours
    do: Literal["", "start", "stop"] = ""
    if state.stopped_by == "verdict":
        do = "stop"
    elif state.start_at is not None and (
        asked.restart != "always" or state.start_at - state.ended >= PROMISED_MS
    ):
        do = "start"
    return Written(status=status, run=state.run, do=do)


def _write_at(state: State, asked: spec.Spec) -> int | None:
    """When to write; None when all is written, or it is not the time for it."""
    if state.writing or state.doing or asked.held or asked.paused or asked.daemon:
        return None
    target, known = _target(state, asked), state.written
    same_run = known.run == state.run
    do = target.do != (known.do if same_run else "")
    run = bool(target.status) and bool(state.run) and not same_run and state.power == "running"
    # What is not checked has no status: once, for a successor, that it was watched at all.
    first = not known.run and asked.want_running and asked.watched and state.power == "running"
    first = first and bool(state.run)
    if target.status == known.status and not do and not run and not first:
        return None
    quiet = {"starting": QUIET_START_MS, "stopped": QUIET_STOP_MS, "": QUIET_START_MS}
    at = state.changed + quiet.get(target.status, QUIET_HEALTH_MS)
    if target.do == "start" and do:
        at = state.ended  # before the start: a successor has to know
    if state.claim.do and state.claim.run == state.run:
        at = max(at, state.theirs_until)  # another daemon's promise stands there
    return max(at, state.write_after)


def _wrote(state: State, asked: spec.Spec, event: Wrote, now: int) -> Turn:
    del asked
    state = _replace(state, writing=False)
    if not event.done:
        pause = min(2 * state.write_pause, RETRY_MOST_MS)
        after = now + state.write_pause
        return _replace(state, write_after=after, write_pause=pause, look_at=now), ()
    claim = event.claim
    known = Written(status=event.status, run=claim.run, do=claim.do)
    return _replace(state, written=known, claim=claim, write_pause=RETRY_MS), ()


# --- what is due ------------------------------------------------------------------------------------------


def _tick(state: State, asked: spec.Spec, event: Tick, now: int) -> Turn:
    commands: list[Command] = []
    if _reached(state.look_at, now):
        state = _replace(state, look_at=None)
        commands.append(Look())
    if asked.watched:
        state = _tick_watched(state, asked, event, now, commands)
    if _reached(_write_at(state, asked), now):
        target = _target(state, asked)
        state = _replace(state, writing=True)
        line = state.lines[-1] if state.lines and target.status in ("healthy", "unhealthy") else ""
        why = state.start_why if target.do == "start" else ""
        commands.append(Write(status=target.status, line=line, do=target.do, why=why))
    return state, tuple(commands)


def _tick_watched(
    state: State, asked: spec.Spec, event: Tick, now: int, commands: list[Command]
) -> State:
    if _reached(state.code_at, now):
        state = _replace(state, code_at=now + CODE_PATIENCE_MS)
        commands.append(ReadCode())
    if _reached(_silent_at(state, asked), now):
        state = _replace(state, status="unknown", want="", healthy_since=None)
        commands.append(Tell(kind="unknown", cause="no verdict"))
    if _may_act(state, asked) and _reached(state.start_at, now):
        state = _replace(state, start_at=None, doing="start")
        commands.append(Do(act="start", why=state.start_why, run=state.run, claim=state.claim))
    elif state.want and now >= state.want_at and not event.calm:
        state = _replace(state, want_at=now + RETRY_MS)
    elif _may_act(state, asked) and state.want and now >= state.want_at:
        act = state.want
        state = _replace(state, want="", doing=act, probing=0)
        commands.append(Do(act=act, why="unhealthy", run=state.run, claim=state.claim))
    if _reached(_probe_at(state, asked), now):
        number = state.number + 1
        state = _replace(state, number=number, probing=number, due=None)
        commands.append(Probe(number=number))
    return state


def _reached(at: int | None, now: int) -> bool:
    return at is not None and at <= now


_HANDLERS: dict[type, Callable[[State, spec.Spec, Any, int], Turn]] = {
    Seen: _seen,
    Unread: _unread,
    Started: _started,
    Ended: _ended,
    Exited: _exited,
    Frozen: _frozen,
    Thawed: _thawed,
    Probed: _probed,
    Acted: _acted,
    Wrote: _wrote,
    Respec: _respec,
    Gap: _gap,
    Tick: _tick,
}
