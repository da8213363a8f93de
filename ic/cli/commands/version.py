"""`ic version`: ic, its journal's format, and the server, where one answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import ic
from ic import errors

if TYPE_CHECKING:
    import argparse

    from ic.cli import documents
    from ic.cli import session as sessions

DESCRIPTION = (
    "Shows the versions of ic, of Python, of the journal's format and of the server, and which API"
    " extensions the server lacks. Without a server that answers, ic's own part alone."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document (ic.version/1)"
    )


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Ask the server, print; 0 also when none answers."""
    import platform

    from ic import buildinfo
    from ic.cli import documents
    from ic.journal import events

    server, reason = _server(session)
    document = documents.Version(
        ic=ic.__version__,
        python=platform.python_version(),
        journal=events.VERSION,
        server=server,
    )
    if arguments.json:
        session.out.document(document)
        return 0
    lines = [
        f"ic       {document.ic} (build {buildinfo.build_id()})",
        f"python   {document.python}",
        f"journal  format {document.journal}",
    ]
    if server is None:
        lines.append(f"server   none: {reason}")
    else:
        lines.append(f"server   Incus {server.version}, {session.server()}")
        if server.api_extensions_missing:
            lines.append(f"         lacks {', '.join(server.api_extensions_missing)}")
    session.out.text("\n".join(lines))
    return 0


def _server(session: sessions.Session) -> tuple[documents.Server | None, str]:
    """The server's part, or None and why."""
    from ic.cli import documents
    from ic.incus import client

    try:
        found = session.client().server()
    except (errors.IncusError, errors.UsageError) as error:
        return None, error.summary
    environment = cast("dict[str, object]", found.get("environment") or {})
    return documents.Server(
        version=str(environment.get("server_version", "")),
        api_extensions_missing=client.missing_extensions(found),
    ), ""
