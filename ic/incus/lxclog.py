"""What an instance's lxc.log tells of its last run. Pure.

In: the log's bytes (it begins anew at every start). Out: an exit status as a shell counts it. The API has no
exit codes; liblxc writes one line at level info, which ic turns on with `lxc.log.level=info`. Measured:
a non-zero exit is "ended on error (37)", a death by signal "ended on signal Killed(9)" when the entrypoint is
PID 1 and "ended on error (137)" below lxc's own init; an exit with 0 leaves no line; an entrypoint that is
PID 1 and cannot be executed leaves "Failed to exec". A stop by force leaves "has stopped" of `lxc_cmd_stop`,
which no exit and no graceful stop does. Every end runs the hooks `stopns` and `stop`; while a start is under
way or a process runs, the log has neither.
"""

from __future__ import annotations

import re

_ENDED = re.compile(rb"Child <\d+> ended on (error|signal) [^(\n]*\((\d{1,3})\)")
_NOT_RUN = re.compile(rb"start - \S+ - ([^-\n]+) - Failed to exec ")
_NOT_STARTED = b"Failed to spawn container"
NOT_STARTED = 128
LEVEL_KEY = "lxc.log.level"  # of raw.lxc: an instance without it leaves no code
_FORCED = re.compile(rb":lxc_cmd_stop:\d+ - Container [^\n]* has stopped")
_HOOK = re.compile(rb"callhook [^\n]* stop(ns)?\"")
_LEVEL = re.compile(rb" (INFO|DEBUG|TRACE|NOTICE) ")


def exit_code(log: bytes) -> int | None:
    """The exit status of the last run: 128+n when killed, 127 and 126 when it could not be executed.

    128 when it was not even come to that (a mount or a network that could not be made).

    None when the log does not tell: it is empty, or not written at level info.
    """
    ended = _ENDED.findall(log)
    if ended:
        how, number = ended[-1]
        return int(number) + (128 if how == b"signal" else 0)
    if not_run := _NOT_RUN.search(log):
        return 127 if not_run[1].strip() == b"No such file or directory" else 126
    if _NOT_STARTED in log:
        return NOT_STARTED
    return 0 if _LEVEL.search(log) else None


def goes_on(log: bytes) -> bool:
    """Whether the log is of a run whose end it does not hold: another start is under way, or a power cut."""
    return exit_code(log) == 0 and _HOOK.search(log) is None


def over(log: bytes) -> bool:
    """Whether the log has the end of its run; the server may call it running for a second more."""
    return exit_code(log) is not None and not goes_on(log)


def forced(log: bytes) -> bool:
    """Whether somebody stopped the last run by force (or by a grace period that was over)."""
    return _FORCED.search(log) is not None
