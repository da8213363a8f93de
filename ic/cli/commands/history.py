"""`ic history`: the journal's runs, newest first; one of them event by event. Works from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ic import errors, names

if TYPE_CHECKING:
    import argparse

    from ic.cli import session as sessions
    from ic.journal import book, history

DESCRIPTION = (
    "Shows what was done to the stack: runs, newest first, with who, where, when, which command, what"
    " changed and how it ended; or one RUN in full. Needs no compose file: `-p NAME`, or the directory's"
    " stack. A damaged journal is shown as far as it can be read (exit status 4)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="one run: its id, a unique beginning of it, or generation",
    )
    parser.add_argument("-n", dest="limit", type=int, metavar="N", help="only the newest N runs")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document (ic.history/1)"
    )


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Read the journal and print it; 4 when it is damaged."""
    from ic.journal import history

    if arguments.limit is not None and arguments.limit < 0:
        raise errors.UsageError("cannot show history: -n needs a number that is not negative")
    name = session.stack_name()
    journal = read(session, name)
    runs = history.runs(journal)
    if arguments.run is not None:
        runs = (history.find(runs, arguments.run),)
    elif arguments.limit is not None:
        runs = runs[: arguments.limit]
    if arguments.json:
        _document(session, name, journal, runs)
    elif arguments.run is not None:
        _one(session, runs[0])
    else:
        _table(session, runs)
    if journal.state in ("ok", "none"):
        return 0
    for problem in journal.problems:
        session.out.note(f"journal: {problem}", "yellow")
    return errors.JournalError.exit_status


def read(session: sessions.Session, name: str) -> book.Journal:
    """The stack's journal: run object first, then project, as every reader must.

    Raises UsageError when there is no such stack on the server.
    """
    from ic.incus import client as incus
    from ic.journal import book

    project = names.project(name)
    client = session.client()
    try:
        listed = client.get("/1.0/profiles", {"project": project, "recursion": "1"})
        found = client.get(incus.path("projects", project))
    except errors.NotFound as error:
        raise errors.UsageError(
            f"cannot find stack {name!r} on {session.server()}: it has no project there",
            hint="`incus project list` shows the projects; `-p NAME` names another stack",
            code="E_NO_STACK",
        ) from error
    bodies = cast("list[dict[str, Any]]", listed or [])
    profiles = {str(one["name"]): dict(one.get("config") or {}) for one in bodies}
    return book.read(project, found.get("config") or {}, profiles)


def _document(
    session: sessions.Session,
    name: str,
    journal: book.Journal,
    runs: tuple[history.HistoryRun, ...],
) -> None:
    import msgspec

    from ic.cli import documents

    session.out.document(
        documents.History(
            stack=name,
            lineage=journal.lineage,
            runs=tuple(msgspec.convert(msgspec.to_builtins(one), documents.Run) for one in runs),
        )
    )


def _table(session: sessions.Session, runs: tuple[history.HistoryRun, ...]) -> None:
    session.out.table(
        ("RUN", "STARTED", "COMMAND", "WHO", "STATUS", "CHANGES"),
        [
            (
                one.run or "-",
                _short(one.started),
                one.command or "-",
                one.actor or "-",
                one.status,
                _counts(one),
            )
            for one in runs
        ],
    )


def _short(moment: str) -> str:
    """`2026-11-23 06:00:12` of RFC 3339; UTC."""
    return moment.partition(".")[0].replace("T", " ")


def _counts(one: history.HistoryRun) -> str:
    return ", ".join(f"{count} {what}" for what, count in one.counts.items()) or "-"


def _one(session: sessions.Session, one: history.HistoryRun) -> None:
    out = session.out
    out.text(
        f"run        {one.run}\n"
        f"generation {one.generation}\n"
        f"command    {one.command}\n"
        f"who        {one.actor}\n"
        f"started    {one.started}\n"
        f"ended      {one.ended or '-'}\n"
        f"status     {one.status}\n"
    )
    out.table(
        ("N", "TIME", "EVENT", "ADDRESS", "STATUS", "MS", "NOTE"),
        [
            (
                str(event.n),
                event.time.partition("T")[2].removesuffix("Z"),
                event.kind,
                event.address or "-",
                event.status or ("open" if event.phase == "intent" else "-"),
                "-" if event.ms is None else str(event.ms),
                _note(event),
            )
            for event in one.events
        ],
    )


def _note(event: history.Event) -> str:
    parts = [event.error or "", event.cause or "", event.output or ""]
    if event.recovered_by:
        parts.append(f"found out by run {event.recovered_by}")
    return "; ".join(part for part in parts if part)
