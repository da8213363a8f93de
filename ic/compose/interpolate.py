"""`$VAR` and `${VAR...}` in every scalar of a tree, from a given environment.

Pure. The forms are `$NAME`, `${NAME}`, and with `:-` or `-` a default, with `:?` or `?` a message for a
missing value, with `:+` or `+` a text to use instead of a value; each may hold further variables. `$$` is a
dollar. A dollar that begins none of them stays as it is; `${` that cannot be read is an error. Keys of
mappings are left alone, as docker compose does.

The text of a default ends where docker compose ends it: at the brace that closes it, on the same line; where
braces do not match, at the last one of the line. Each level of nesting walks its text once.
Limits: 64 levels of nesting, 8 MiB for one value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ic import errors

DEPTH_LIMIT = 64
SIZE_LIMIT = 8 * 2**20
BRACES_LIMIT = 10_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = (":-", ":?", ":+", "-", "?", "+")
_BRACES = re.compile(r"\{.?|\}", re.DOTALL)  # what follows an opening one is passed over


class Fault(Exception):
    """A text that cannot be interpolated; turned into a diagnostic by whoever knows its position."""

    def __init__(self, code: str, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hint = hint


def substitute(text: str, env: Mapping[str, str], unset: Callable[[str], None]) -> str:
    """The text with every variable replaced; `unset(name)` is told of names that have no value.

    Raises Fault.
    """
    if "$" not in text:
        return text
    return _Scan(text, env, unset).run(0, len(text), 0)


class _Scan:
    """One text being scanned."""

    def __init__(self, text: str, env: Mapping[str, str], unset: Callable[[str], None]) -> None:
        self.text = text
        self.env = env
        self.unset = unset
        self.line = range(0)  # positions before the same line's end, which is its stop
        self.last: dict[int, int] = {}  # by the end of what is looked at
        self.size = 0

    def run(self, at: int, end: int, depth: int) -> str:
        text = self.text
        out: list[str] = []
        while at < end:
            dollar = text.find("$", at, end)
            if dollar < 0 or dollar + 1 >= end:
                out.append(text[at:end])
                break
            out.append(text[at:dollar])
            following = text[dollar + 1]
            if following == "$":
                out.append("$")
                at = dollar + 2
            elif following == "{":
                piece, at = self._braced(dollar, end, depth)
                out.append(self._counted(piece))
            else:
                name = _NAME.match(text, dollar + 1, end)
                if name is None:
                    out.append("$")
                    at = dollar + 1
                else:
                    out.append(self._counted(self._value(name[0])))
                    at = name.end()
        return "".join(out)

    def _counted(self, piece: str) -> str:
        self.size += len(piece)
        if self.size > SIZE_LIMIT:
            raise Fault("E_INTERP_SIZE", f"the value grows beyond {SIZE_LIMIT} characters")
        return piece

    def _value(self, name: str) -> str:
        value = self.env.get(name)
        if value is None:
            self.unset(name)
            return ""
        return value

    def _braced(self, dollar: int, end: int, depth: int) -> tuple[str, int]:
        text = self.text
        name = _NAME.match(text, dollar + 2, end)
        at = name.end() if name else dollar + 2
        operator = next((one for one in _OPERATORS if name and text.startswith(one, at, end)), "")
        behind = at + len(operator)
        close = self._close(dollar, behind, end)
        if close < 0:
            raise Fault(
                "E_INTERP_SYNTAX",
                "invalid interpolation template: '${' is never closed by '}' on its line"
                if "}" in text[dollar:end]
                else "invalid interpolation template: '${' is never closed by '}'",
                "escape a dollar that is meant as it is: $$",
            )
        if depth >= DEPTH_LIMIT:
            raise Fault("E_INTERP_DEPTH", f"variables are nested deeper than {DEPTH_LIMIT} levels")
        if name is None or (not operator and text[at] != "}"):
            raise Fault(
                "E_INTERP_SYNTAX",
                f"invalid interpolation template: {text[dollar : min(close + 1, dollar + 60)]!r} is "
                "not a variable",
                "escape a dollar that is meant as it is: $$",
            )
        if not operator:
            return self._value(name[0]), at + 1
        return self._operated(name[0], operator, (behind, close), depth), close + 1

    def _close(self, dollar: int, at: int, end: int) -> int:
        """The brace that ends what begins at a dollar, none before `at`; -1 where its line has none."""
        end = min(end, self._line_end(at))
        last = self.last.get(end)
        if last is None:
            last = self.last[end] = self.text.rfind("}", 0, end)
        if last < at:
            return -1
        level = 0
        for found in _BRACES.finditer(self.text, dollar + 1, last + 1):
            level += -1 if found[0] == "}" else 1
            if not level:
                return found.start()
            if level > BRACES_LIMIT:
                raise Fault("E_INTERP_DEPTH", f"more than {BRACES_LIMIT} braces are open at once")
        return last

    def _line_end(self, at: int) -> int:
        if at not in self.line:
            newline = self.text.find("\n", at)
            self.line = range(at, (newline if newline >= 0 else len(self.text)) + 1)
        return self.line.stop - 1

    def _operated(self, name: str, operator: str, rest: tuple[int, int], depth: int) -> str:
        value = self.env.get(name)
        present = value is not None and (value != "" or operator[0] != ":")
        kind = operator[-1]
        used = present if kind == "+" else not present
        told = self.unset
        if not used:
            # Errors in it count, as in docker compose; variables that are not needed need not be set.
            self.unset = _ignore
        other = self.run(*rest, depth + 1)
        self.unset = told
        if kind == "?" and not present:
            reason = f"required variable {name} is missing a value"
            raise Fault("E_INTERP_REQUIRED", f"{reason}: {other}" if other else reason)
        return other if used else value or ""


def _ignore(name: str) -> None:
    del name


def interpolate(node: tree.Node, env: Mapping[str, str], report: tree.Report) -> tree.Node:
    """The tree with all its texts interpolated; what has no variable is shared with the tree given.

    Errors and, once per name, unset variables go into the report with their position.
    """
    return _Walk(env, report).visit(node, "")


class _Walk:
    """One tree being interpolated; what aliases share is done once."""

    def __init__(self, env: Mapping[str, str], report: tree.Report) -> None:
        self.env = env
        self.report = report
        self.done: dict[int, tree.Node] = {}

    def visit(self, node: tree.Node, where: str) -> tree.Node:
        data = node.data
        if node.mark == "reset":
            return node  # nothing of it is ever read
        if isinstance(data, str):
            return self._text(node, data, where) if "$" in data else node
        if isinstance(data, dict):
            found = self.done.get(id(node))
            if found is None:
                changed: dict[str, tree.Node] = {}
                for key, value in data.items():
                    new = self.visit(value, f"{where}.{key}" if where else key)
                    if new is not value:
                        changed[key] = new
                found = (
                    tree.Node({**data, **changed}, node.position, node.keys, node.mark)
                    if changed
                    else node
                )
                self.done[id(node)] = found
            return found
        if isinstance(data, list):
            found = self.done.get(id(node))
            if found is None:
                new_items = [self.visit(item, f"{where}[{i}]") for i, item in enumerate(data)]
                same = all(new is old for new, old in zip(new_items, data, strict=True))
                found = node if same else tree.Node(new_items, node.position, None, node.mark)
                self.done[id(node)] = found
            return found
        return node

    def _text(self, node: tree.Node, text: str, where: str) -> tree.Node:
        try:
            value = substitute(text, self.env, lambda name: self._unset(name, node.position))
        except Fault as fault:
            self.report.error(fault.code, f"{where}: {fault.reason}", node.position, fault.hint)
            self.report.faulty.add(node.position)
            return tree.Node("", node.position, mark=node.mark)
        self.report.grow(len(value), where, node.position)
        wrong = tree.control_fault(value)
        if wrong:
            self.report.error(tree.CONTROL, f"{where}: the value holds {wrong}", node.position)
        return tree.Node(value, node.position, mark=node.mark)

    def _unset(self, name: str, position: errors.Position) -> None:
        self.report.warn(
            "W_UNSET",
            f"the variable {name} is not set; an empty text is used",
            position,
            once=f"unset {name}",
        )
