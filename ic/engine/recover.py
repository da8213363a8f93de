"""Steps in doubt: a run was cut off between asking for something and knowing whether it was done.

The rule (`verdicts`) is pure: intents without an outcome and what is live go in, one verdict each comes out.
`plan` uses it in memory; `settle` writes what it says under the lease, after running operations have ended
and after the remains of half-made instances are deleted (under an intent of their own). Done twice, it does
nothing the second time: outcomes are keyed by their intent.

Looked at is the stamp on each resource, the number of the intent that touched it last: the change and its
proof are one write. Anything without our stamp is never touched.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import msgspec

from ic import errors, names, units
from ic.engine import sidecar
from ic.incus import client as incus
from ic.journal import events, fold, redact
from ic.resources import kind
from ic.resources import sidecar as resources

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.journal import book
    from ic.plan import facts

PATIENCE = 120.0  # seconds that a running operation on a resource in doubt may take


class Server(Protocol):
    """The part of `ic.incus.client.Client` that settling uses."""

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; a background operation is awaited."""
        ...

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The metadata of a GET."""
        ...

    def operations(self, project: str) -> list[dict[str, Any]]:
        """The operations of a project that have not ended."""
        ...


# --- the rule ----------------------------------------------------------------------------------------------


def verdicts(
    doubts: tuple[fold.Doubt, ...], observed: facts.Observed, key: bytes
) -> tuple[fold.Verdict, ...]:
    """What became of each step in doubt, by what is live now. Pure; the table of docs/journal-format.md."""
    return tuple(_verdict(doubt, observed, key) for doubt in doubts)


def _verdict(doubt: fold.Doubt, observed: facts.Observed, key: bytes) -> fold.Verdict:
    live = observed.live.get(doubt.address)
    verb = doubt.event.rpartition(".")[2]
    half_made = False
    status: events.Status
    if verb == "create":
        status, reason, half_made = _created(doubt, live, observed)
    elif doubt.gone:
        status, reason = _deleted(doubt, live)
    elif verb in ("start", "restart"):
        status, reason = _started(doubt, live, restart=verb == "restart")
    elif verb == "stop":
        status, reason = _stopped(live)
    elif verb == "seed":
        status, reason = _seeded(live)
    elif verb == "exec":
        status, reason = "unknown", "what ran in it cannot be known"
    elif doubt.event in _SIDECAR:
        status, reason = _SIDECAR[doubt.event](doubt, observed)
    else:
        status, reason = _updated(doubt, live, observed, key)
    return fold.Verdict(
        n=doubt.n,
        address=doubt.address,
        event=doubt.event,
        status=status,
        reason=reason,
        half_made=half_made,
    )


def _touched_by(live: kind.Live) -> int:
    """The number of the intent that touched a resource last, 0 when its stamp has none."""
    number = live.stamp.event.rpartition("/")[2]
    return int(number) if number.isdecimal() else 0


def _created(
    doubt: fold.Doubt, live: kind.Live | None, observed: facts.Observed
) -> tuple[events.Status, str, bool]:
    if live is None:
        noun = names.kind_of(doubt.address)
        if doubt.name in observed.facts.foreign.get(noun, frozenset()):
            return "undone", f"another {noun} has its name", False
        return "undone", "it is not there", False
    if _touched_by(live) < doubt.n:
        return "undone", "an older one is there", False
    if live.half_made:
        # What is half made of a network is replaced by the plan; an instance has to go first.
        remains = names.kind_of(doubt.address) == "instance"
        return "undone", "its creation was cut off half way", remains
    if names.kind_of(doubt.address) == "volume" and ("config", names.SEEDED) not in live.fields:
        return "undone", "it may be filled half way", False
    return "ok", "it is there", False


def _deleted(doubt: fold.Doubt, live: kind.Live | None) -> tuple[events.Status, str]:
    if live is None:
        return "ok", "it is gone"
    if _touched_by(live) > doubt.n:
        return "superseded", "a newer one is there"
    return "undone", "it is still there"


def _started(
    doubt: fold.Doubt, live: kind.Live | None, *, restart: bool
) -> tuple[events.Status, str]:
    if live is None:
        return "undone", "it is not there"
    since = units.time_ms(live.started)
    # The server keeps whole seconds here and there: the second of the intent counts as after it.
    again = since is not None and live.ever_started and since // 1000 >= doubt.time // 1000
    if restart:
        return ("ok", "it was started since") if again else ("undone", "it was not started since")
    if live.power == "Running":
        return "ok", "it runs"
    return ("ok", "it was started, and has ended") if again else ("undone", "it does not run")


def _stopped(live: kind.Live | None) -> tuple[events.Status, str]:
    if live is None:
        return "undone", "it is not there"
    if live.power == "Stopped":
        return "ok", "it is stopped"
    return "undone", "it still runs"


def _seeded(live: kind.Live | None) -> tuple[events.Status, str]:
    if live is None:
        return "undone", "it is not there"
    if live.fields.get(("config", names.SEEDED)):
        return "ok", "it is filled"
    return "undone", "it may be filled half way"


def _placed(doubt: fold.Doubt, observed: facts.Observed) -> tuple[events.Status, str]:
    """A file leaves no trace on the instance: it is put there again before the next start."""
    if doubt.address not in observed.live:
        return "undone", "it is not there"
    return "undone", "the file may be there half way"


def _enrolled(_: fold.Doubt, observed: facts.Observed) -> tuple[events.Status, str]:
    state = observed.facts.sidecar_state
    if state is not None and state.state == "watching":
        return "ok", "the health daemon watches"
    return "undone", "the health daemon does not watch"


def _revoked(_doubt: fold.Doubt, _: facts.Observed) -> tuple[events.Status, str]:
    """A certificate is none of the stack's resources: taking it away again does no harm."""
    return "undone", "the certificate may be there still"


def _server_set(doubt: fold.Doubt, observed: facts.Observed) -> tuple[events.Status, str]:
    wanted = doubt.fields.get(("config", "core.https_address"))
    if wanted is not None and observed.facts.https_address == wanted:
        return "ok", "the server listens there"
    return "undone", "the server does not listen there"


_SIDECAR: dict[str, Callable[[fold.Doubt, facts.Observed], tuple[events.Status, str]]] = {
    "inst.place": _placed,
    "cert.enrol": _enrolled,
    "cert.revoke": _revoked,
    "srv.update": _server_set,
}


def _updated(
    doubt: fold.Doubt, live: kind.Live | None, observed: facts.Observed, key: bytes
) -> tuple[events.Status, str]:
    fields: Mapping[kind.Path, str]
    if live is not None:
        if live.stamp.event == doubt.stamp:
            return "ok", "it carries this change's stamp"
        fields = live.fields
    elif names.kind_of(doubt.address) == "project":
        fields = {("config", name): text for name, text in observed.project_config.items()}
    else:
        return "undone", "it is not there"
    if not doubt.fields and not doubt.unset:
        return "undone", "it left no trace"
    done = all(_is(fields.get(path), value, key) for path, value in doubt.fields.items())
    if done and not any(path in fields for path in doubt.unset):
        return "ok", "every field has its new value"
    return "undone", "it has not its new values"


def _is(text: str | None, value: fold.Value, key: bytes) -> bool:
    if text is None:
        return False
    return (
        redact.digest(key, text) == value.hmac if isinstance(value, fold.Digest) else text == value
    )


def cleared(observed: facts.Observed, found: tuple[fold.Verdict, ...]) -> facts.Observed:
    """What will be live once half-made instances are deleted: what planning in memory goes on from."""
    remains = {verdict.address for verdict in found if verdict.half_made}
    if not remains:
        return observed
    return msgspec.structs.replace(
        observed, live={name: live for name, live in observed.live.items() if name not in remains}
    )


# --- writing it down ---------------------------------------------------------------------------------------


def settle(
    run: book.Run,
    client: Server,
    project: str,
    observe: Callable[[], facts.Observed],
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[facts.Observed, tuple[fold.Verdict, ...]]:
    """Settle every step in doubt in the journal; what is live afterwards, and the verdicts.

    `run.recorded` has them from then on. Waits for operations that still run on the resources (at most
    PATIENCE seconds, else TimedOut). Remains of half-made instances are deleted *before* the outcome is
    written: cut off in between, the step is still in doubt and this is done again.
    """
    doubts = run.recorded.doubts
    if not doubts:
        return observe(), ()
    _, busy = await_quiet(
        client,
        project,
        doubts,
        patience=PATIENCE,
        say=say,
        guard=run.guard,
        sleep=sleep,
        clock=clock,
    )
    if busy:
        raise errors.TimedOut(
            f"cannot settle what an earlier run left: the server is still busy ({busy})",
            hint="incus operation list shows it; try again when it is done",
        )
    observed = observe()
    found = verdicts(doubts, observed, run.key)
    for verdict in found:
        if verdict.half_made:
            _clean(run, client, project, observed.live[verdict.address])
    if any(doubt.event == "cert.enrol" for doubt in doubts):
        _cancel_tokens(run, client, project)
    run.recover(found)
    return cleared(observed, found), found


def _clean(run: book.Run, client: Server, project: str, live: kind.Live) -> None:
    """Delete a half-made instance, under an intent of its own. It never ran and holds no data."""
    deed = kind.Call(
        method="DELETE", path=f"/1.0/instances/{quote(live.name)}", query={"project": project}
    )
    step = kind.Step(
        id=f"{live.address}#clean",
        address=live.address,
        event="inst.delete",
        deed=deed,
        lane="delete",
        record=kind.Record(name=live.name, gone=True),
    )
    acknowledged = threading.Event()
    n = run.intend(step, lambda _: acknowledged.set())
    while not acknowledged.wait(0.1):
        run.guard()
    run.confirm_delete()
    run.guard()
    try:
        client.call(deed.method, deed.path, deed.query)
    except errors.NotFound:
        run.outcome(n, "ok")
    except errors.IncusError as error:
        run.outcome(n, "err", error=f"{error.code} {error.summary}")
        raise
    else:
        run.outcome(n, "ok")


def _cancel_tokens(run: book.Run, client: Server, project: str) -> None:
    """Take back a token that a run left which was killed before it was used."""
    name = resources.identity_name(project, run.lineage)
    with contextlib.suppress(errors.Forbidden):
        sidecar.cancel_tokens(client, name, (project,), run.guard)


def await_quiet(
    client: Server,
    project: str,
    doubts: tuple[fold.Doubt, ...],
    *,
    patience: float,
    say: Callable[[str], None],
    guard: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[bool, str]:
    """Wait until the server works on none of the resources in doubt any more.

    What is seen of a resource while an operation on it goes on is neither before nor after: an instance
    that is being started is stopped, and its ports are taken. Returns whether there was anything to wait
    for, and what is still going on after `patience` seconds (empty: nothing). `guard` may raise.
    """
    wanted = {doubt.name for doubt in doubts if doubt.name}
    begun = clock()
    waited = False
    while True:
        busy = [one for one in client.operations(project) if _concerns(one, wanted)]
        if not busy:
            return waited, ""
        what = str(busy[0].get("description") or "an operation")
        if clock() - begun >= patience:
            return True, what
        if not waited:
            waited = True
            say(f"waiting for the server to end what an earlier run began ({what})")
        guard()
        sleep(0.25)


def _concerns(operation: Mapping[str, Any], wanted: set[str]) -> bool:
    """Whether an operation is a running task on one of the named resources."""
    if operation.get("class") != "task" or operation.get("status") not in ("Running", "Pending"):
        return False
    return any(path.rpartition("/")[2] in wanted for path in incus.touched(operation))
