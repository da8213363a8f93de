"""What goes on while a plan is carried out: live lines on a terminal, one line per change elsewhere.

Enters: the plan, then steps as they start and end (always from the deciding thread). Leaves: text on stderr,
through `cli.output`. On a terminal there is one line per resource, repainted in place; it is never wider
nor higher than the window. `--progress json` writes one JSON object per line instead.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from ic import errors, names
from ic.cli import output
from ic.plan import changes
from ic.resources import kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic.engine import execute

MODES = ("auto", "tty", "plain", "json", "quiet")
REPAINT_SECONDS = 0.1

_DOING = {
    "create": "creating",
    "update": "updating",
    "restart": "restarting",
    "replace": "replacing",
    "delete": "deleting",
    "start": "starting",
    "stop": "stopping",
    "forget": "forgetting",
    "adopt": "adopting",
}
DONE: dict[str, str] = {
    "create": "created",
    "update": "updated",
    "restart": "restarted",
    "replace": "replaced",
    "delete": "deleted",
    "start": "started",
    "stop": "stopped",
    "forget": "forgotten",
    "adopt": "adopted",
}
_STEPS = {  # by the step's verb, where that says more than what becomes of the resource
    "hold": "holding back the health daemon",
    "release": "letting the health daemon go on",
    "watching": "waiting until it watches",
    "enrol": "giving it an identity",
    "revoke": "revoking its certificate",
    "place": "putting its program in",
    "user": "looking up its user",
    "attach": "attaching",
    "detach": "detaching",
    "keep": "letting it be started again",
}
_LANES = {
    "image": "pulling",
    "start": "starting",
    "stop": "stopping",
    "delete": "deleting",
}


class Progress(Protocol):
    """Something that is told what goes on."""

    def begin(self, plan: changes.Plan) -> None: ...
    def started(self, step: kind.Step) -> None: ...
    def finished(self, outcome: execute.Outcome) -> None: ...
    def tick(self) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class _Line(msgspec.Struct, kw_only=True):
    """One resource's state, counted from its steps."""

    change: changes.Change
    left: int
    doing: str = "waiting"
    began: float = 0.0
    ended: float = 0.0
    state: str = "waiting"  # waiting, running, done, failed, left
    error: str = ""


class _Board:
    """The state of every resource; the ways of showing it are below."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.lines: dict[str, _Line] = {}
        self.by_step: dict[str, _Line] = {}

    def begin(self, plan: changes.Plan) -> None:
        own = names.address("project", plan.project)
        self.lines = {
            change.address: _Line(change=change, left=len(change.steps))
            for change in plan.changes
            if change.steps
            and (change.address != own or change.action == "update")  # else no step of a walk's
        }
        # A step may be about another resource than the change it belongs to: waiting for a job's end.
        self.by_step = {
            step.id: self.lines[change.address]
            for change in plan.changes
            for step in change.steps
            if change.address in self.lines
        }

    def started(self, step: kind.Step) -> None:
        line = self.by_step[step.id]
        if line.state == "waiting":
            line.began = self.clock()
            line.state = "running"
        line.doing = _doing(line.change, step)

    def finished(self, outcome: execute.Outcome) -> bool:
        """Whether the resource has come to its end with this step."""
        line = self.by_step[outcome.step.id]
        line.left -= 1
        if outcome.status in ("failed", "unknown"):
            line.state = "failed"
            line.error = outcome.error.summary if outcome.error else "its end is not known"
        elif outcome.status == "not-started" and line.state not in ("failed", "left"):
            line.state = "left"
        if line.left:
            return False
        if line.state == "running":
            line.state = "done"
        line.ended = self.clock()
        return True

    def seconds(self, line: _Line) -> float:
        return (line.ended or self.clock()) - line.began if line.began else 0.0


def _doing(change: changes.Change, step: kind.Step) -> str:
    if step.id.endswith("#healthy"):
        return f"waiting for {names.name_of(step.address)} to be healthy"
    if step.id.endswith("#exit"):
        return f"waiting for {names.name_of(step.address)} to end"
    verb = step.id.rpartition("#")[2]
    if verb in _STEPS:
        return _STEPS[verb]
    if isinstance(step.deed, kind.Seed):
        return "filling"
    if step.lane in ("create", "network"):
        return _DOING[change.action] if change.action != "restart" else "updating"
    return _LANES.get(step.lane, _DOING[change.action])


def _sentence(board: _Board, line: _Line) -> str:
    """`instance:web/1  created  0.4s`."""
    address, seconds = line.change.address, f"{board.seconds(line):.1f}s"
    if line.state == "done":
        return f"{address}  {DONE[line.change.action]}  {seconds}"
    if line.state == "failed":
        return f"{address}  failed  {seconds}  {line.error}"
    if line.state == "left":
        return f"{address}  not {DONE[line.change.action]}"
    return f"{address}  {line.doing}"


class Quiet:
    """Tells nothing."""

    def begin(self, plan: changes.Plan) -> None:
        """Nothing to prepare."""

    def started(self, step: kind.Step) -> None:
        """Not told."""

    def finished(self, outcome: execute.Outcome) -> None:
        """Not told."""

    def tick(self) -> None:
        """Not told."""

    def say(self, text: str) -> None:
        """Not told."""

    def close(self) -> None:
        """Nothing to put away."""


class Plain:
    """One line per change when it begins and when it ends: for files, pipes and CI."""

    def __init__(self, out: output.Output, clock: Callable[[], float] = time.monotonic) -> None:
        self.out = out
        self.board = _Board(clock)

    def begin(self, plan: changes.Plan) -> None:
        self.board.begin(plan)

    def started(self, step: kind.Step) -> None:
        line = self.board.by_step[step.id]
        before = line.doing
        self.board.started(step)
        if line.doing != before:
            self.out.note(_sentence(self.board, line))

    def finished(self, outcome: execute.Outcome) -> None:
        if self.board.finished(outcome):
            self.out.note(_sentence(self.board, self.board.by_step[outcome.step.id]))

    def tick(self) -> None:
        """Lines are written when something happens."""

    def say(self, text: str) -> None:
        self.out.note(text)

    def close(self) -> None:
        """Every line is written already."""


class Json:
    """One JSON object per line: `{"time","address","action","step","status","ms","error"}`."""

    def __init__(self, out: output.Output, wall: Callable[[], float] = time.time) -> None:
        self.out = out
        self.wall = wall
        self.actions: dict[str, str] = {}

    def begin(self, plan: changes.Plan) -> None:
        self.actions = {step.id: change.action for change in plan.changes for step in change.steps}

    def _write(self, body: Mapping[str, object]) -> None:
        line = msgspec.json.encode({"time": output.timestamp(int(self.wall() * 1000)), **body})
        self.out.live(output.ascii_json(line.decode()) + "\n")

    def started(self, step: kind.Step) -> None:
        self._write(self._body(step, "started"))

    def finished(self, outcome: execute.Outcome) -> None:
        body = self._body(outcome.step, outcome.status)
        if outcome.status != "not-started":
            body["ms"] = outcome.ms
        if outcome.error is not None:
            body["error"] = outcome.error.summary
        self._write(body)

    def _body(self, step: kind.Step, status: str) -> dict[str, object]:
        return {
            "address": step.address,
            "action": self.actions[step.id],
            "step": step.id,
            "status": status,
        }

    def tick(self) -> None:
        """Lines are written when something happens."""

    def say(self, text: str) -> None:
        self._write({"note": text})

    def close(self) -> None:
        """Every line is written already."""


_UNICODE = {"done": "✔", "failed": "✘", "left": "·", "waiting": "·"}
_ASCII = {"done": "+", "failed": "x", "left": ".", "waiting": "."}
_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPIN_ASCII = "|/-\\"
_STATE_COLOURS = {
    "done": "green",
    "failed": "red",
    "running": "cyan",
    "left": "yellow",
    "waiting": "dim",
}
_BEGIN_FRAME, _END_FRAME = "\x1b[?25l", "\x1b[?25h"  # hide and show the cursor


class Tty:
    """One live line per resource, repainted in place; notes scroll by above it."""

    def __init__(
        self,
        out: output.Output,
        *,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[], tuple[int, int]] | None = None,
        unicode: bool = True,
    ) -> None:
        self.out = out
        self.board = _Board(clock)
        self.size = size or _window
        self.marks = _UNICODE if unicode else _ASCII
        self.spin = _SPIN if unicode else _SPIN_ASCII
        self.painted = 0
        self.last = 0.0
        self.frame = 0

    def begin(self, plan: changes.Plan) -> None:
        self.board.begin(plan)
        self._paint()

    def started(self, step: kind.Step) -> None:
        self.board.started(step)
        self.tick()

    def finished(self, outcome: execute.Outcome) -> None:
        self.board.finished(outcome)
        self.tick()

    def tick(self) -> None:
        if self.board.lines and self.board.clock() - self.last >= REPAINT_SECONDS:
            self._paint()

    def say(self, text: str) -> None:
        width = self.size()[0]
        self.out.live(self._erased() + output.clean(text)[: width - 1] + "\n")
        self.painted = 0
        self._paint()

    def close(self) -> None:
        """The last state stays on the screen in full, and the cursor is shown again."""
        if self.board.lines:
            self._paint(final=True)
            self.board.lines = {}
        self.out.live(_END_FRAME)

    def _erased(self) -> str:
        """To the first painted line, and clear from there."""
        return f"\r\x1b[{self.painted}A\x1b[J" if self.painted else "\r\x1b[J"

    def _paint(self, *, final: bool = False) -> None:
        self.last = self.board.clock()
        self.frame += 1
        width, height = self.size()
        lines = list(self.board.lines.values())
        shown = lines if final else _fitting(lines, max(height - 2, 1))
        rows = [self._row(line, width) for line in shown]
        if len(shown) < len(lines) or not final:
            rows.append(output.paint(_counted(lines)[: width - 1], "dim"))
        text = "".join(f"{row}\n" for row in rows)
        self.out.live(_BEGIN_FRAME + self._erased() + text)
        self.painted = len(rows)

    def _row(self, line: _Line, width: int) -> str:
        mark = self.marks.get(line.state) or self.spin[self.frame % len(self.spin)]
        seconds = f"{self.board.seconds(line):.1f}s" if line.began else ""
        room = width - 1 - 3 - len(seconds) - 1
        address = output.clean(line.change.address)
        words = {
            "done": DONE[line.change.action],
            "failed": f"failed: {output.clean(line.error)}",
            "left": f"not {DONE[line.change.action]}",
        }.get(line.state, line.doing)
        column = min(max((len(x.change.address) for x in self.board.lines.values()), default=0), 40)
        text = f"{address:<{column}}  {words}".replace("\n", " ")[: max(room, 0)]
        if room < 8:  # too narrow for a table: the mark and what fits
            return output.paint(
                f"{mark} {address}"[: max(width - 1, 1)], _STATE_COLOURS[line.state]
            )
        return (
            f" {output.paint(mark, _STATE_COLOURS[line.state])} {text:<{room}} "
            f"{output.paint(seconds, 'dim')}"
        ).rstrip()


def _fitting(lines: list[_Line], height: int) -> list[_Line]:
    """As many as the window has rows, in plan order: those running and failed before all others."""
    if len(lines) <= height:
        return lines
    rank = {"failed": 0, "running": 1, "waiting": 2, "left": 2, "done": 3}
    order = sorted(range(len(lines)), key=lambda i: (rank[lines[i].state], i))
    return [lines[i] for i in sorted(order[:height])]


def _counted(lines: list[_Line]) -> str:
    done = sum(line.state == "done" for line in lines)
    failed = sum(line.state == "failed" for line in lines)
    text = f"   {done} of {len(lines)} done"
    return f"{text}, {failed} failed" if failed else text


def _window() -> tuple[int, int]:
    """Columns and rows of the terminal that stderr is; 80 by 24 where none tells."""
    try:
        size = os.get_terminal_size(2)
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


def choose(mode: str, out: output.Output, *, terminal: bool, unicode: bool) -> Progress:
    """The way of showing for `--progress`; `auto` is live on a terminal, plain elsewhere.

    Raises UsageError for an unknown mode.
    """
    if mode not in MODES:
        raise errors.UsageError(
            f"cannot show progress as {mode!r}: no such way", hint=f"one of {', '.join(MODES)}"
        )
    if mode == "quiet" or out.quiet:
        return Quiet()
    if mode == "json":
        return Json(out)
    if mode == "tty" or (mode == "auto" and terminal):
        return Tty(out, unicode=unicode)
    return Plain(out)
