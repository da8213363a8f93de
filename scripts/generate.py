"""Writes what is derived from the code: the manual pages from the parsers, the schemas from the documents.

`python scripts/generate.py` writes them; a test compares what is committed with what this would write.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import TYPE_CHECKING, Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import ic  # noqa: E402
from ic.cli import documents, main  # noqa: E402
from ic.resources import sidecar  # noqa: E402

if TYPE_CHECKING:
    import argparse

STATUS = (
    ("0", "done, or nothing to do"),
    ("1", "error"),
    ("2", "`plan --detailed-exitcode` found changes"),
    (
        "3",
        "refused: confirmation missing, something foreign in the way, stale plan, `destroy` with things left",
    ),
    ("4", "journal damaged"),
    ("70", "internal error"),
    ("75", "locked by another ic, or fenced"),
    ("130", "interrupted"),
)

ENVIRONMENT = (
    ("COMPOSE_FILE", "compose files, separated by COMPOSE_PATH_SEPARATOR, when -f is not given"),
    ("COMPOSE_PATH_SEPARATOR", "what separates them (default: a colon)"),
    ("COMPOSE_PROJECT_NAME", "the stack's name when -p is not given"),
    ("COMPOSE_PROFILES", "active profiles, separated by commas"),
    ("COMPOSE_ENV_FILES", "files of variables, separated by commas, when --env-file is not given"),
    ("INCUS_SOCKET, INCUS_DIR", "the local server's socket, or the directory that it is in"),
    ("INCUS_CONF", "directory of the incus client's configuration: remotes and certificates"),
    ("IC_HEALTHD_IMAGE", "what the health daemon runs in, when --healthd-image is not given"),
    ("NOTIFY_SOCKET", "where `up --wait` tells a service manager how far it is (sd_notify)"),
    ("NO_COLOR", "any text turns colours off"),
)


# Commands whose page is not in section 1, and what a page says besides its options.
SECTIONS = {"healthd": 8}
MORE: dict[str, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    "healthd": (
        (
            "THE DAEMON",
            (
                (
                    "what it does",
                    "It finds its work from the keys user.healthcheck.* and user.restart of the project's"
                    " instances, runs the checks, writes user.healthcheck.status, and restarts what fails and"
                    " what falls over, as docker does. `ic up` and `ic apply` set it up where it is needed."
                    " It has no configuration file.",
                ),
                (
                    "identity",
                    "It makes its own key and certificate, takes a one-time trust token from the token file,"
                    " pins the server's certificate by the token's fingerprint before it sends a byte, and"
                    " registers once. An existing key is never written over.",
                ),
                (
                    "signals",
                    "SIGTERM and SIGINT end it within three seconds, with nothing half done. A kill at any"
                    " moment loses counters only. Nothing else ends it; when it stands still for a minute it"
                    " leaves with 70, and Incus starts it again.",
                ),
                (
                    "log",
                    "One JSON object a line on standard output: time, event and its fields. No secrets.",
                ),
            ),
        ),
        (
            "STATES",
            (
                ("watching", "all is well"),
                ("waiting-for-token", "it has no trust yet, and no token lies there"),
                ("token-refused", "the token was used, expired, cancelled, lost or malformed"),
                ("unreachable", "the server does not answer"),
                ("pin-mismatch", "the server shows another certificate than the pinned one"),
                ("untrusted", "the server knows the certificate no more: all work has stopped"),
                ("bad-identity", "key or certificate cannot be used; the state has the remedy"),
                ("starting, ended", "it has just begun; it was told to end"),
            ),
        ),
        (
            "FILES",
            (
                (f"{sidecar.IDENTITY}/key.pem, client.pem, server.pin", "the identity: 0600"),
                (sidecar.IDENTITY + sidecar.STATE_FILE, "the state, replaced when it changes"),
                (
                    f"{sidecar.IDENTITY}/daemon.log",
                    "the log, at most 128 KiB of it; `ic healthd logs`",
                ),
                (sidecar.SOCKET, "the way to the server: a proxy device, TLS inside"),
                (sidecar.TOKEN_FILE, "where a token is laid down; removed once it is used"),
            ),
        ),
        (
            "ENVIRONMENT",
            (
                (
                    "IC_HEALTHD_PROJECT",
                    "the Incus project to watch; without it `healthd` is no daemon",
                ),
            ),
        ),
    ),
}


def _roff(text: str) -> str:
    """Text for a manual page: backslashes and dashes escaped, no line that begins as a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    lines = [f"\\&{line}" if line[:1] in (".", "'") else line for line in escaped.splitlines()]
    return "\n".join(lines)


def _option(action: argparse.Action) -> list[str]:
    """One option or argument as a tagged paragraph."""
    value = ""
    if action.option_strings and action.nargs != 0:
        if action.choices:
            value = f" {{{','.join(str(one) for one in action.choices)}}}"
        else:
            value = f" {action.metavar or action.dest.upper()}"
    names = [f"\\fB{_roff(one)}\\fR{_roff(value)}" for one in action.option_strings]
    head = ", ".join(names) or f"\\fI{_roff(str(action.metavar or action.dest))}\\fR"
    return [".TP", head, _roff(str(action.help))]


def _page(title: str, summary: str, usage: str, body: list[str], section: int = 1) -> str:
    lines = [
        f'.TH {title.upper()} {section} "" "ic {ic.__version__}" "ic manual"',
        ".SH NAME",
        f"{_roff(title)} \\- {_roff(summary)}",
        ".SH SYNOPSIS",
        f".B {_roff(usage)}",
        *body,
    ]
    return "\n".join(lines) + "\n"


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def _groups(parser: argparse.ArgumentParser) -> list[tuple[str, list[argparse.Action]]]:
    titles = {"positional arguments": "ARGUMENTS", "options": "OPTIONS"}
    found = [
        (titles.get(str(group.title), str(group.title).upper()), list(group._group_actions))  # noqa: SLF001
        for group in parser._action_groups  # noqa: SLF001
    ]
    return [(title, actions) for title, actions in found if actions]


def pages() -> dict[str, str]:
    """Every manual page, by its path from the root."""
    top = main.top_parser()
    body = [
        ".SH DESCRIPTION",
        _roff(
            "ic runs compose files on Incus: it shows what would change, changes just that, and writes every"
            " step into a journal in the project's own metadata."
        ),
        ".SH COMMANDS",
    ]
    for name, summary in main.COMMANDS.items():
        section = SECTIONS.get(name, 1)
        body += [".TP", f"\\fB{name}\\fR", f"{_roff(summary)}; see \\fBic\\-{name}\\fR({section})"]
    for title, actions in _groups(top):
        body += [f".SH {title}", *(line for action in actions for line in _option(action))]
    body.append(".SH EXIT STATUS")
    for status, meaning in STATUS:
        body += [".TP", f"\\fB{status}\\fR", _roff(meaning)]
    body.append(".SH ENVIRONMENT")
    for name, meaning in ENVIRONMENT:
        body += [".TP", f"\\fB{_roff(name)}\\fR", _roff(meaning)]
    found = {"man/ic.1": _page("ic", "runs compose files on Incus", _usage(top), body)}
    for name, summary in main.COMMANDS.items():
        parser = main.command_parser(name)
        body = [".SH DESCRIPTION", _roff(str(parser.description))]
        for title, actions in _groups(parser):
            body += [f".SH {title}", *(line for action in actions for line in _option(action))]
        for title, entries in MORE.get(name, ()):
            body.append(f".SH {title}")
            for head, text in entries:
                body += [".TP", f"\\fB{_roff(head)}\\fR", _roff(text)]
        body += [".SH SEE ALSO", "\\fBic\\fR(1)"]
        section = SECTIONS.get(name, 1)
        found[f"man/ic-{name}.{section}"] = _page(
            f"ic-{name}", summary, _usage(parser), body, section
        )
    return found


def _cleaned(value: Any) -> Any:
    """A schema with every docstring free of its indentation: Python 3.13 drops it, earlier ones keep it."""
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(one)
            if key == "description" and isinstance(one, str)
            else _cleaned(one)
            for key, one in value.items()
        }
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


def schemas() -> dict[str, str]:
    """Every JSON schema, by its path from the root."""
    import msgspec

    found: dict[str, str] = {}
    for name, document in documents.DOCUMENTS.items():
        made: dict[str, Any] = _cleaned(msgspec.json.schema(document))
        made["$defs"][document.__name__]["required"].insert(0, "schema")
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": name.replace("-", "/"),
            **made,
        }
        found[f"docs/schemas/{name}.json"] = json.dumps(schema, indent=2) + "\n"
    return found


def write() -> None:
    """Bring every derived file up to date."""
    for path, text in {**pages(), **schemas()}.items():
        target = os.path.join(ROOT, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write()
