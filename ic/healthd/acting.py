"""Carries out what was decided for one instance: claims it by compare-and-swap, acts, writes its keys.

In: an instance under watch and a command of `worker`. Out: an inbox.Answer with what came of it. Runs on the
lanes' threads. A claim (`user.ic.health`) is taken before a restart or a stop, so that of several daemons one
acts; before each request it is asked whether that is still wanted, so that a person's stop stands.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ic import errors, names
from ic.healthd import inbox, spec, watched, worker
from ic.incus import transport

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from ic.healthd import calls

CLAIM_TRIES = 3
NAME_KEPT = 16  # characters of a daemon's name (a fingerprint) that stand in its claims


class Acting:
    """The acts of one daemon. `me` as in the manager; `void` are the holds that count no more.

    `say` tells of an instance; `cancel` ends waiting. `writes` counts the keys written outside of claims.
    """

    def __init__(
        self,
        api: calls.Api,
        say: Callable[[watched.Entry, worker.Tell], None],
        *,
        me: str,
        wall: Callable[[], float] = time.time,
        cancel: threading.Event,
        void: AbstractSet[str],
    ) -> None:
        self._api = api
        self._say = say
        self._me = me
        self._wall = wall
        self._cancel = cancel
        self._void = void
        self.writes = 0

    def claim_and_act(self, entry: watched.Entry, command: worker.Do) -> inbox.Answer | inbox.Fault:
        try:
            claim = self._claim(entry, command)
        except errors.IncusError as error:
            acted = worker.Acted(act=command.act, outcome="failed", detail=error.summary)
            return inbox.refusal(error) or inbox.Answer(
                entry.name, acted, doubt=inbox.doubtful(error)
            )
        if isinstance(claim, str):
            outcome: worker.Outcome = "claimed" if claim == "claimed" else "refused"
            return inbox.Answer(
                entry.name, worker.Acted(act=command.act, outcome=outcome, detail=claim)
            )
        return self.act(entry, command, claim)

    def _claim(self, entry: watched.Entry, command: worker.Do) -> spec.Claim | str:
        """The claim that was taken, or why it was not: `claimed` by somebody else, or a reason not to act."""
        for attempt in range(CLAIM_TRIES):
            body, etag = self._api.instance(entry.name)
            own = cast("dict[str, Any]", body.get("config") or {})
            config = cast("dict[str, Any]", body.get("expanded_config") or own)
            asked = spec.read(entry.name, config)
            run = str(body.get("last_used_at") or "")
            before = spec.claim(own)
            if before.restarts != command.claim.restarts or (command.run and run != command.run):
                return "claimed"
            if watched.POWER.get(str(body.get("status", ""))) != "running":
                return "not running"
            held = asked.held and asked.held not in self._void
            if held or asked.want_stopped or asked.paused:
                return "left alone"
            if self._api.moving(entry.name):
                return "busy"  # somebody is restarting it, gracefully
            claim = spec.Claim(
                restarts=before.restarts + 1,
                at=int(self._wall() * 1000),
                run=run,
                do=_promise(command.act, asked),
                why=command.why,
                by=self._me[:NAME_KEPT],
            )
            keys = {names.HEALTH: spec.claim_text(claim)}
            if asked.test:
                lines = entry.state.lines
                keys[names.HEALTH_STATUS] = "unhealthy"
                keys[names.HEALTH_OUTPUT] = transport.clean("".join(lines[-1:]))[
                    : watched.OUTPUT_SHOWN
                ]
            entry.expect()
            try:
                self._api.patch(entry.name, keys, etag)
            except errors.PreconditionFailed:
                entry.unexpect()  # changed: perhaps by somebody who claims it, perhaps by something else
            except errors.IncusError as error:
                entry.unexpect()
                if not transport.is_busy(error):
                    raise
                if attempt + 1 == CLAIM_TRIES:
                    return "busy"
                self._cancel.wait(0.2)
            else:
                return claim
        return "claimed"

    def act(
        self, entry: watched.Entry, command: worker.Do, claim: spec.Claim | None
    ) -> inbox.Answer | inbox.Fault:
        name, grace, signal = entry.name, entry.asked.grace_ms, entry.asked.signal
        run = "" if claim is None else claim.run
        given = True

        def wanted() -> bool:
            asked = entry.asked
            return not (asked.want_stopped or asked.held or entry.state.stopped_by == "person")

        if claim is not None:
            self._say(entry, worker.Tell(kind=command.act, cause=command.why))
        try:
            if command.act == "start":
                self._api.start(name, wanted=wanted)
            elif command.act == "restart":
                given = self._api.restart(name, grace, signal, run=run, wanted=wanted)
            else:
                grace = grace if command.act == "stop" else 0
                given = self._api.stop(name, grace, signal, run=run, wanted=wanted)
        except errors.NotFound:
            acted = worker.Acted(act=command.act, outcome="refused", claim=claim)
            return inbox.Answer(name, acted)
        except errors.IncusError as error:
            acted = worker.Acted(
                act=command.act, outcome="failed", detail=error.summary, claim=claim
            )
            return inbox.refusal(error) or inbox.Answer(name, acted, doubt=inbox.doubtful(error))
        if not given:
            cause = f"no shell in the image to give {signal} with: it had a second"
            self._say(entry, worker.Tell(kind="ungraceful", cause=cause))
        if not wanted():
            acted = worker.Acted(act=command.act, outcome="refused", claim=claim)
            return inbox.Answer(name, acted)
        return inbox.Answer(name, worker.Acted(act=command.act, outcome="done", claim=claim))

    def write(
        self, entry: watched.Entry, command: worker.Write, state: worker.State
    ) -> inbox.Answer | inbox.Fault:
        """Read, then write by compare-and-swap, once: no person's start shall meet a write that insists."""
        refused = worker.Wrote(done=False)
        try:
            body, etag = self._api.instance(entry.name)
            own = cast("dict[str, Any]", body.get("config") or {})
            now_run = str(body.get("last_used_at") or "")
            before = spec.claim(own)
            power = watched.POWER.get(str(body.get("status", "")))
            # Claimed meanwhile: what was promised must not be written over.
            if before.restarts > state.claim.restarts or power != state.power:
                return inbox.Answer(entry.name, refused)
            if (state.run and now_run != state.run) or self._api.moving(entry.name):
                return inbox.Answer(entry.name, refused)
            claim = msgspec.structs.replace(
                before,
                at=int(self._wall() * 1000),
                run=now_run,
                do=command.do,
                why=command.why,
                by=self._me[:NAME_KEPT],
            )
            keys = {names.HEALTH: spec.claim_text(claim)}
            if command.status or own.get(names.HEALTH_STATUS):
                keys[names.HEALTH_STATUS] = command.status
                keys[names.HEALTH_OUTPUT] = transport.clean(command.line)[: watched.OUTPUT_SHOWN]
            entry.expect()
            try:
                self._api.patch(entry.name, keys, etag)
            except BaseException:
                entry.unexpect()
                raise
        except errors.IncusError as error:
            return inbox.refusal(error) or inbox.Answer(
                entry.name, refused, doubt=inbox.doubtful(error)
            )
        self.writes += 1
        return inbox.Answer(entry.name, worker.Wrote(done=True, status=command.status, claim=claim))


def _promise(act: worker.Act, asked: spec.Spec) -> spec.Promise:
    """What a successor has to finish when this daemon dies in between."""
    if act == "kill":
        return "" if asked.restart in ("", "no") else "restart"
    return "stop" if act == "stop" else "restart"
