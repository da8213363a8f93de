"""`ic healthd`: the health daemon itself, and what an operator asks about it.

Without a word it is the daemon (`python3 ic.pyz healthd` in its sidecar): only where IC_HEALTHD_PROJECT or
--project says what to watch. With one it is a command like the others, for the stack of the directory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import ic
from ic import buildinfo, errors, names
from ic.resources import sidecar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ic.cli import session as sessions
    from ic.healthd import daemon, manager
    from ic.incus import remotes

DESCRIPTION = (
    "Asks about the health daemon of the stack: `status` shows its state and what it watches, `logs` what it"
    " has written, `restart` starts it anew and waits until it watches, for 30 s at most, `check SERVICE`"
    " runs a service's check once, now, and prints what it gave. Without a word it is the daemon itself,"
    " which watches the instances of the Incus project that IC_HEALTHD_PROJECT or --project names, and ends"
    " when it is told to (SIGTERM)."
)
VERBS = ("status", "logs", "restart", "check")
LOG_LIMIT = 64 * 1024
_UNLOGGED = ("healthy", "starting")  # as many as there are services, at every start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "verb",
        nargs="?",
        metavar="COMMAND",
        help="status, logs, restart or check; without it: be the daemon",
    )
    parser.add_argument(
        "service", nargs="?", metavar="SERVICE", help="of check: SERVICE or SERVICE/N"
    )
    parser.add_argument(
        "--json", action="store_true", help="status, logs, check: one JSON document"
    )
    parser.add_argument(
        "-n", dest="tail", type=int, metavar="N", help="logs: only the last N lines, 0 is none"
    )
    parser.add_argument(
        "--lock-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="restart: how long to wait while another ic works on the stack (default: 10)",
    )
    group = parser.add_argument_group("the daemon")
    group.add_argument(
        "--project", metavar="NAME", help="Incus project to watch (default: IC_HEALTHD_PROJECT)"
    )
    group.add_argument(
        "--api",
        metavar="ADDRESS",
        default=sidecar.SOCKET,
        help="the server: https://HOST:PORT, or a unix socket that leads to its HTTPS address"
        f" (default: {sidecar.SOCKET})",
    )
    group.add_argument(
        "--identity",
        metavar="DIR",
        default=sidecar.IDENTITY,
        help=f"where key, certificate, pin and state lie (default: {sidecar.IDENTITY})",
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        default=sidecar.TOKEN_FILE,
        help=f"where a trust token is taken from (default: {sidecar.TOKEN_FILE})",
    )
    group.add_argument(
        "--metrics",
        metavar="SOCKET",
        nargs="?",
        const=sidecar.METRICS,
        help="answer with metrics in the OpenMetrics form on this unix socket"
        f" ({sidecar.METRICS}; in the sidecar always, unless it is empty)",
    )
    group.add_argument(
        "--once",
        action="store_true",
        help="run every check once, change nothing, and end: 0 all well, 1 not",
    )


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Be the daemon, or answer a question about it."""
    verb = arguments.verb
    if verb is not None:
        if verb not in VERBS:
            raise errors.UsageError(
                f"cannot run `healthd {verb}`: no such command",
                hint=f"there are {', '.join(VERBS)}",
            )
        if (arguments.service is not None) != (verb == "check"):
            missing = "which service?" if verb == "check" else f"{verb} takes no service"
            raise errors.UsageError(f"cannot run `healthd {verb}`: {missing}")
        _check_options(verb, arguments)
        return _VERBS[verb](session, arguments)
    project = arguments.project or session.env.get(sidecar.PROJECT_VARIABLE)
    if not project:
        raise errors.UsageError(
            "cannot be the health daemon: neither IC_HEALTHD_PROJECT nor --project says what to watch",
            hint="`ic healthd status` shows how the stack's health daemon is",
        )
    settings = _settings(arguments, project)
    return _once(session, settings) if arguments.once else _live(session, arguments, settings)


def _check_options(verb: str, arguments: argparse.Namespace) -> None:
    """Refuse what would do nothing with this verb."""
    if arguments.json and verb == "restart":
        raise errors.UsageError("cannot print JSON: `healthd restart` has no result to print")
    if arguments.tail is not None and verb != "logs":
        raise errors.UsageError(f"cannot use -n with `healthd {verb}`: only logs has lines")
    if arguments.tail is not None and arguments.tail < 0:
        raise errors.UsageError(
            f"cannot show the last {arguments.tail} lines: -n takes a number from 0"
        )


# --- the daemon ----------------------------------------------------------------------------------------


def _settings(arguments: argparse.Namespace, project: str) -> daemon.Settings:
    from ic.healthd import daemon

    return daemon.Settings(
        project=project,
        server=_server(arguments.api),
        directory=os.path.abspath(arguments.identity),
        token_file=arguments.token_file,
    )


def _server(address: str) -> remotes.Server:
    """The way to the server: a socket's path, or https://host:port. Raises UsageError."""
    from ic.incus import remotes

    path = address.removeprefix("unix:")
    if path.startswith("/"):
        return remotes.Server(name="incus", socket="/" + path.lstrip("/"), tls=True)
    if not address.startswith("https://"):
        raise errors.UsageError(
            f"cannot use --api {address}: it is neither https://HOST:PORT nor a socket's path"
        )
    host, port = remotes.host_and_port("incus", address)
    return remotes.Server(name="incus", host=host, port=port)


class _Log:
    """The daemon's log: one JSON object a line, on standard output and, bounded, beside the state.

    Both, because the server gives every byte of a console to one reader only, the first.
    """

    def __init__(self, session: sessions.Session, directory: str = "") -> None:
        self._out = session.out
        self._path = directory + sidecar.LOG_FILE if directory else ""
        self._lock = threading.Lock()

    def say(self, word: str, fields: Mapping[str, Any]) -> None:
        """Write a line: when, what, and its fields."""
        import msgspec

        from ic.cli import output

        line = {"time": output.timestamp(int(time.time() * 1000)), "event": word, **fields}
        text = msgspec.json.encode(line)
        with self._lock:
            self._out.text(text.decode())
            if self._path:
                with contextlib.suppress(OSError):  # a full disk, no directory: stdout has it
                    _append(self._path, text + b"\n")


def _append(path: str, line: bytes) -> None:
    """Put a line at the end of a file of bounded size; the one before it is kept."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, line)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if size > LOG_LIMIT:
        os.replace(path, path + sidecar.LOG_BEFORE)


def _live(
    session: sessions.Session, arguments: argparse.Namespace, settings: daemon.Settings
) -> int:
    """Be the daemon until a signal ends it; 0."""
    import signal

    from ic.healthd import calls, daemon, manager, metrics, probes, stream
    from ic.incus import client, transport
    from ic.journal import lease

    log = _Log(session, settings.directory)
    about = stream.About(
        project=settings.project,
        run=os.urandom(4).hex(),
        say=log.say,
        version=ic.__version__,
        build=buildinfo.build_id(),
        clock=lease.SystemClock(),
    )
    writer = stream.Writer(about)
    at_work: list[manager.Manager] = []

    def tell(
        kind: str, address: str = "", *, cause: str = "", code: int | None = None, line: str = ""
    ) -> None:
        writer.tell(kind, address, cause=cause, code=code, line=line)
        if kind not in _UNLOGGED:  # what a check wrote may be private: the log goes without it
            told = {"address": address, "cause": cause, "code": code}
            log.say(kind, {key: one for key, one in told.items() if one not in ("", None)})

    def work(connection: client.Client) -> manager.Manager:
        at_work[:] = [
            manager.Manager(
                calls.Calls(connection, settings.project),
                probes.Prober(connection, settings.project),
                tell,
                me=living.state.certificate,
            )
        ]
        return at_work[0]

    ways = daemon.Ways(
        connect=lambda server: client.Client(transport.connect(server)),
        shake_hands=lambda server: transport.connected(server).close(),
        work=work,
        teller=writer,
        say=log.say,
        leave=session.leave,
    )
    living = daemon.Daemon(settings, ways)

    def ended(*_: object) -> None:
        living.end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ended)
    in_sidecar = bool(session.env.get(sidecar.PROJECT_VARIABLE))
    place = arguments.metrics
    if place is None and in_sidecar:
        place = sidecar.METRICS
    if place:

        def text() -> str:
            cpu, memory = metrics.usage()
            figures = at_work[0].figures() if at_work else None
            return metrics.render(living.state, figures, cpu=cpu, memory=memory)

        try:
            metrics.Server(place, text).start()
        except OSError as error:
            log.say("metrics", {"error": f"{place}: {error.strerror or error}"})
    _settle()
    return living.run()


def _settle() -> None:
    """What was imported stays: the collector need not look at it again."""
    import gc

    gc.collect()
    gc.freeze()


def _once(session: sessions.Session, settings: daemon.Settings) -> int:
    """Run every check once with the identity that is there; 0 when all are well, else 1."""
    from ic.healthd import calls, identity, manager, probes
    from ic.incus import client, transport

    place = identity.Place(directory=settings.directory, project=settings.project)
    mine = identity.load(place, time.time())
    pin = identity.pinned(place)
    if mine is None or not pin:
        raise identity.BadIdentity(
            f"cannot run a round: {settings.directory} holds no identity yet",
            hint="the daemon makes it, and is given a token by `ic up`",
        )
    import msgspec

    server = msgspec.structs.replace(
        settings.server, fingerprint=pin, certificate=mine.certificate, key=mine.key
    )
    with client.Client(transport.connect(server)) as connection:
        rounds = manager.Manager(
            calls.Calls(connection, settings.project),
            probes.Prober(connection, settings.project),
            _untold,
        ).once()
    log = _Log(session)
    for one in rounds:
        log.say("check", _round(one))
    return 0 if all(_is_well(one) for one in rounds) else 1


def _untold(*_: object, **__: object) -> None:
    """A round writes nothing into the journal."""


def _round(one: manager.Round) -> dict[str, Any]:
    """A round's line: what the check gave, or what is wrong with its keys."""
    fields: dict[str, Any] = {"instance": one.name}
    if one.result is not None:
        fields |= {"result": one.result.kind, "code": one.result.code}
        if one.result.output:
            fields["output"] = _last_line(one.result.output)
        if one.result.error is not None:
            fields["error"] = one.result.error.summary
    if one.problems:
        fields["misconfigured"] = [key for key, _ in one.problems]
    return fields


def _is_well(one: manager.Round) -> bool:
    found = one.result
    return not one.problems and found is not None and (found.kind, found.code) == ("exit", 0)


def _last_line(output: bytes) -> str:
    """The last line that is not empty, at most 200 characters of it."""
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


# --- what an operator asks -----------------------------------------------------------------------------


def _found(session: sessions.Session) -> tuple[Any, Any]:
    """The client, and the stack's sidecar. Raises UsageError when there is none."""
    from ic.engine import sidecar as acting

    name = session.stack_name()
    client = session.client()
    found = acting.find(client, names.project(name))
    if found is None:
        raise errors.UsageError(
            f"cannot ask the health daemon of stack {name!r}: there is none on {session.server()}",
            hint="`ic up` sets it up where a service has a healthcheck or a restart policy",
            code="E_NO_HEALTHD",
        )
    return client, found


def _status(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """The daemon's state and what it watches; 0 while it watches, else 1."""
    from ic.cli import documents
    from ic.cli.commands import ps

    name = session.stack_name()
    rows, healthd = ps.look(session.client(), name)
    if healthd is None:
        _found(session)
    watched = tuple(row for row in rows if row.health)
    if arguments.json:
        session.out.document(
            documents.HealthdStatus(stack=name, healthd=healthd, instances=watched)
        )
    elif healthd is not None:
        session.out.text(ps.healthd_text(healthd))
        if watched:
            session.out.table(
                ("SERVICE", "REPLICA", "STATE"),
                [(row.service, str(row.replica), ps.state_text(row)) for row in watched],
            )
    return 0 if healthd is not None and healthd.state == "watching" else 1


def _logs(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """What the daemon has written lately, from its volume."""
    client, found = _found(session)
    raw = b""
    for name in (sidecar.LOG_FILE + sidecar.LOG_BEFORE, sidecar.LOG_FILE):
        with contextlib.suppress(errors.NotFound):
            raw += client.file_get(found.volume, name, found.query)[1]
    lines = [line for line in raw.decode(errors="replace").splitlines() if line.strip()]
    if arguments.tail is not None:
        lines = lines[-arguments.tail :] if arguments.tail > 0 else []
    if arguments.json:
        from ic.cli import documents

        entries = tuple(_entry(line) for line in lines)
        session.out.document(documents.HealthdLog(stack=session.stack_name(), lines=entries))
    elif lines:
        session.out.text("\n".join(lines))
    return 0


def _entry(line: str) -> dict[str, Any]:
    """A line of the log; what a full disk left of one is its text."""
    import msgspec

    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return {"text": line}


def _restart(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Start the daemon anew and wait until it watches; the journal has it like every change."""
    from ic.engine import sidecar as acting
    from ic.engine import tools
    from ic.incus import client as incus
    from ic.journal import book
    from ic.resources import kind

    client, found = _found(session)
    path = incus.path("instances", sidecar.INSTANCE)
    step = kind.Step(
        id=f"{sidecar.ADDRESS}#restart",
        address=sidecar.ADDRESS,
        event="inst.restart",
        lane="start",
        deed=kind.Call(method="PUT", path=f"{path}/state", query=found.query),
        record=kind.Record(name=sidecar.INSTANCE, power="running"),
    )
    begun = book.start("healthd restart", version=ic.__version__, build=buildinfo.build_id())
    with book.begin(
        client,
        names.project(session.stack_name()),
        begun,
        lock_timeout=arguments.lock_timeout,
        say=session.out.note,
    ) as taken:
        acknowledged = threading.Event()
        n = taken.intend(step, lambda _: acknowledged.set())
        while not acknowledged.wait(0.2):
            taken.guard()
        using = tools.Tools(
            client=client,
            lineage=taken.lineage,
            guard=taken.guard,
            confirm_delete=taken.confirm_delete,
            env=session.env,
        )
        began = time.monotonic()
        try:
            acting.restart(using, found)
        except errors.OperationFailed as error:
            taken.outcome(n, "err", error=f"{error.code} {error.summary}")
            raise
        taken.outcome(n, "ok", int((time.monotonic() - began) * 1000))
        acting.await_watching(
            using,
            kind.AwaitWatching(
                path=path, query=found.query, state_path=found.volume, state_query=found.query
            ),
        )
    session.out.note("the health daemon was started anew, and watches")
    return 0


def _check(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Run a service's check once and print what it gave; 0 healthy, 1 not."""
    from ic.cli import documents
    from ic.healthd import manager, probes, spec

    stack = session.stack_name()
    project = names.project(stack)
    client = session.client()
    listed = client.get("/1.0/instances", {"project": project, "recursion": "1"})
    body = _replica(listed, arguments.service, stack)
    config = cast("dict[str, str]", body.get("expanded_config") or body.get("config") or {})
    asked = spec.read(str(body["name"]), config)
    if asked.problems:
        key, reason = asked.problems[0]
        raise errors.UsageError(f"cannot check {arguments.service}: {key} {reason}")
    if not asked.test:
        raise errors.UsageError(
            f"cannot check {arguments.service}: it has no healthcheck",
            hint="`healthcheck:` of the service in the compose file, or one of its image",
        )
    order = manager.order(asked, os.urandom(8).hex())
    result = probes.Prober(client, project)(order, threading.Event())
    if result.error is not None:
        raise result.error
    healthy = (result.kind, result.code) == ("exit", 0)
    text = result.output.decode(errors="replace")
    if arguments.json:
        session.out.document(
            documents.HealthdCheck(
                stack=stack,
                address=names.address("instance", config.get(names.RESOURCE, asked.name)),
                healthy=healthy,
                result=result.kind,
                exit_code=result.code if result.kind == "exit" else None,
                output=text,
                leaked=result.leaked,
            )
        )
        return 0 if healthy else 1
    if text:
        session.out.text(text)
    how = (
        f"exit code {result.code}" if result.kind == "exit" else _how(result.kind, asked.timeout_ms)
    )
    session.out.note(f"{asked.name}: {'healthy' if healthy else 'not healthy'} ({how})")
    if result.leaked:
        session.out.note(f"left behind: {', '.join(result.leaked)}", "yellow")
    return 0 if healthy else 1


def _how(result: str, timeout_ms: int) -> str:
    if result == "timeout":
        return f"killed after {timeout_ms / 1000:g} s"
    return "it is not running"


def _replica(listed: Any, service: str, stack: str) -> Mapping[str, Any]:
    """The instance of SERVICE or SERVICE/N among those of a project. Raises UsageError."""
    wanted = service if "/" in service else f"{service}/1"
    for body in cast("list[dict[str, Any]]", listed or []):
        config = cast("dict[str, str]", body.get("config") or {})
        if config.get(names.STACK) == stack and config.get(names.RESOURCE) == wanted:
            return body
    raise errors.UsageError(
        f"cannot check {service}: stack {stack!r} has no such instance",
        hint="`ic ps` lists them",
    )


_VERBS = {"status": _status, "logs": _logs, "restart": _restart, "check": _check}
