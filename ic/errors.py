"""Every error a user can meet, and the diagnostics that travel beside values.

Nothing of ic is imported here. An error knows its stable code and the exit status of `ic` (the table in
docs/cli.md); `cli.main` is the only place that turns one into text. Wording of a summary:
"cannot <verb> <thing>: <reason>".
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

Severity = Literal["error", "warning"]


class Position(msgspec.Struct, frozen=True):
    """Where something was written: a file's name as the user knows it, line and column from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell the user about the input; returned beside values, never logged and lost."""

    severity: Severity
    code: str
    summary: str
    position: Position | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.position}: " if self.position else ""
        return f"{where}{self.summary}"


class IcError(Exception):
    """An error with a name: summary (one line), details (more lines), hint (what to type next)."""

    code: ClassVar[str] = "E_INTERNAL"
    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        summary: str,
        *,
        details: tuple[str, ...] = (),
        hint: str = "",
        diagnostics: tuple[Diagnostic, ...] = (),
        code: str | None = None,
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details = details
        self.hint = hint
        self.diagnostics = diagnostics
        if code is not None:
            self.code = code  # pyright: ignore[reportAttributeAccessIssue]


class UsageError(IcError):
    """Bad flags, no compose file, an argument that names nothing."""

    code = "E_USAGE"


class ComposeError(IcError):
    """The compose files are wrong; carries every diagnostic that was found, not the first alone."""

    code = "E_COMPOSE"


class PlanError(IcError):
    """The plan cannot be made or may not be carried out."""

    code = "E_PLAN"


class OwnershipConflict(PlanError):
    """Something without our stamp stands where the stack wants to be; it is never seized."""

    code = "E_CONFLICT"
    exit_status = 3


class DependencyCycle(PlanError):
    """Services, or steps, that wait for each other."""

    code = "E_CYCLE"


class ConfirmationRequired(PlanError):
    """There are changes, nobody can be asked and `--yes` was not given; or the answer was no."""

    code = "E_CONFIRM"
    exit_status = 3


class StalePlan(PlanError):
    """A saved plan no longer matches the journal, the files or the live state."""

    code = "E_STALE"
    exit_status = 3


class Refused(PlanError):
    """A command that would lose something and was not told to (`destroy` with things left)."""

    code = "E_REFUSED"
    exit_status = 3


class JournalError(IcError):
    """The journal cannot be read or written."""

    code = "E_JOURNAL"
    exit_status = 4


class Locked(JournalError):
    """Another ic holds the stack's lease."""

    code = "E_LOCKED"
    exit_status = 75


class Fenced(JournalError):
    """This run has lost its lease: another ic took over; nothing more is written."""

    code = "E_FENCED"
    exit_status = 75


class Corrupt(JournalError):
    """The journal is damaged: chain, encoding or sequence do not agree."""

    code = "E_JOURNAL_CORRUPT"


class Rollback(JournalError):
    """The journal in the project is older than what a run object has seen."""

    code = "E_JOURNAL_ROLLBACK"


class NewerVersion(JournalError):
    """The journal needs a newer ic."""

    code = "E_JOURNAL_NEWER"


class Full(JournalError):
    """The journal does not fit into the project's config any more."""

    code = "E_JOURNAL_FULL"


class IncusError(IcError):
    """The server, or the way to it, failed."""

    code = "E_API"


class Unreachable(IncusError):
    """No server answers there (socket missing or not permitted, connection refused, TLS)."""

    code = "E_UNREACHABLE"


class Untrusted(IncusError):
    """The server's certificate is not the pinned one, or none is pinned, or ours is not trusted."""

    code = "E_TLS_PIN"


class TooOld(IncusError):
    """The server lacks API extensions that ic needs."""

    code = "E_SERVER_OLD"


class Forbidden(IncusError):
    """The server refuses this to us (403)."""

    code = "E_FORBIDDEN"


class NotFound(IncusError):
    """The object does not exist (404)."""

    code = "E_NOT_FOUND"


class Conflict(IncusError):
    """An object of that name exists already, or is busy."""

    code = "E_EXISTS"


class PreconditionFailed(IncusError):
    """If-Match did not match (412)."""

    code = "E_PRECONDITION"


class OperationFailed(IncusError):
    """A background operation ended in failure."""

    code = "E_OPERATION"


class TimedOut(IncusError):
    """The server did not answer in time; what it did is unknown."""

    code = "E_TIMEOUT"


class RegistryError(IncusError):
    """An image reference cannot be resolved: unknown, unauthorized, unreachable registry."""

    code = "E_IMAGE"


class ApplyError(IcError):
    """Some steps failed; the rest was done or not started."""

    code = "E_APPLY"


class Interrupted(IcError):
    """SIGINT or SIGTERM; what was begun is in the journal."""

    code = "E_INTERRUPTED"
    exit_status = 130
