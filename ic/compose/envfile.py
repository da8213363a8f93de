"""The grammar of `.env`, `--env-file` and `env_file`: text to names and values.

Pure. `KEY=value`, `KEY: value`, `export KEY=value`; a KEY alone takes its value from the surroundings or is
left out; at the end of the text without a line's end it is a value without a name, as docker compose has it.
Comments start a line or follow a space. `'...'` is taken as it is, over several lines too; `"..."` has
escapes and variables, as has a value without quotes. Names that begin with a digit are kept.
The format `raw` knows whole lines `KEY=value` and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ic.compose import interpolate
from ic.fields import tree

_SPACES = " \t\v\f\r\x85\xa0"
_EXPORT = r"export[ \t\v\f\r]+"
_ESCAPE = r'\\(0[0-9]{0,3}|[abcfnrtv$"\\])'
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    '"': '"', "\\": "\\", "$": "$$",
}  # fmt: skip
SIZE_LIMIT = 8 * 2**20
NAMES_LIMIT = 200_000
_SIMPLE = r"([A-Za-z_][A-Za-z0-9_]*)=([!%&(-\[\]-~]*)\n"
_WITHOUT_VALUE = rb"(?m)^[^=:\n#]*[^=:\n#\s][^=:\n#]*$"


class Fault(Exception):
    """A line that cannot be read; turned into a diagnostic by whoever knows the file."""

    def __init__(self, code: str, line: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.line = line
        self.reason = reason


class Surroundings(Mapping[str, str]):
    """What variables mean in a file: the surroundings first, then what stands above."""

    def __init__(self, outer: Mapping[str, str], inner: Mapping[str, str]) -> None:
        self.outer = outer
        self.inner = inner

    def __getitem__(self, key: str) -> str:
        found = self.outer.get(key)
        return self.inner[key] if found is None else found

    def __iter__(self):
        return iter(dict(self.inner) | dict(self.outer))

    def __len__(self) -> int:
        return len(dict(self.inner) | dict(self.outer))


def parse(
    content: bytes,
    outer: Mapping[str, str],
    above: Mapping[str, str],
    unset: Callable[[str, int], None],
) -> dict[str, str]:
    """Names and values of a file. Variables are looked up in `outer`, then in the file, then in `above`.

    `unset(name, line)` is told of variables without a value. Raises Fault.
    """
    return _File(decode(content), outer, above, unset).parse()


def is_closed(content: bytes) -> bool:
    """Whether a file says the same wherever it is read: no variable in it, no name without a value."""
    return b"$" not in content and re.search(_WITHOUT_VALUE, content) is None


def parse_raw(content: bytes, outer: Mapping[str, str]) -> dict[str, str]:
    """Names and values of a file in the format `raw`: no quotes, no variables, no comments after values.

    Raises Fault.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(decode(content).split("\n"), 1):
        line = line.removesuffix("\r").lstrip(_SPACES)  # noqa: PLW2901
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key or " " in key or "\t" in key:
            raise Fault("E_ENV_FILE", number, f"{key!r} is not the name of a variable")
        if equals:
            _check(key, value, number)
            found[key] = value
        elif key in outer:
            found[key] = outer[key]
    return found


def decode(content: bytes) -> str:
    """The text of a file; bytes that are none are kept for whoever reads a value. Raises Fault."""
    if len(content) > SIZE_LIMIT:
        raise Fault("E_ENV_FILE", 1, f"the file has more than {SIZE_LIMIT} bytes")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _check(name: str, value: str, line: int) -> None:
    fault = tree.control_fault(value)
    if "surrogate" in fault:
        raise Fault("E_ENV_FILE", line, f"the value of {name} is not UTF-8 text")
    if fault:
        raise Fault("E_VALUE_CTRL", line, f"the value of {name} holds {fault}")


class _File:
    """One file being read."""

    def __init__(
        self,
        text: str,
        outer: Mapping[str, str],
        above: Mapping[str, str],
        unset: Callable[[str, int], None],
    ) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.size = 0
        self.found: dict[str, str] = {}
        self.outer = outer
        self.names = Surroundings(outer, Surroundings(self.found, above))
        self.unset = unset

    def parse(self) -> dict[str, str]:
        while self._simple() and self._skip_to_statement():
            line = self.line
            key, has_value = self._key()
            if not has_value:
                if key in self.outer:
                    self.found[key] = self.outer[key]
                continue
            value = self._value()
            _check(key, value, line)
            self.size += len(value)
            if self.size > SIZE_LIMIT:
                raise Fault("E_LIMIT", line, f"its values grow beyond {SIZE_LIMIT} characters")
            self.found[key] = value
            if len(self.found) > NAMES_LIMIT:
                raise Fault("E_LIMIT", line, f"it has more than {NAMES_LIMIT} names")
        return self.found

    def _simple(self) -> bool:
        """Take the lines from here on that are a name, `=` and a value of letters that mean nothing more."""
        match, text, found = re.compile(_SIMPLE).match, self.text, self.found
        while (line := match(text, self.at)) is not None:
            found[line[1]] = line[2]
            self.size += len(line[2])
            self.at = line.end()
            self.line += 1
            if len(found) > NAMES_LIMIT:
                raise Fault("E_LIMIT", self.line, f"it has more than {NAMES_LIMIT} names")
        return True

    def _skip_to_statement(self) -> bool:
        text = self.text
        while self.at < len(text):
            one = text[self.at]
            if one == "#":
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif one.isspace():
                self.line += one == "\n"
                self.at += 1
            else:
                return True
        return False

    def _key(self) -> tuple[str, bool]:
        text = self.text
        export = re.compile(_EXPORT).match(text, self.at)
        start = at = export.end() if export else self.at
        while at < len(text):
            one = text[at]
            if one in "=:\n":
                break
            if not (one.isalnum() or one in "_.-[]" or one in _SPACES):
                shown = re.split("[=:\n]", text[start:], maxsplit=1)[0][:40]
                raise Fault(
                    "E_ENV_FILE",
                    self.line,
                    f"unexpected character {one!r} in the variable name {shown!r}",
                )
            at += 1
        if at >= len(text):
            if at == start:
                raise Fault("E_ENV_FILE", self.line, "a variable name is missing after 'export'")
            # As docker compose has it: the last line without `=` and without an end is a value of no name.
            self.at = start
            return "", True
        key = text[start:at].rstrip()
        if " " in key:
            raise Fault("E_ENV_FILE", self.line, f"the variable name {key!r} holds a space")
        has_value = text[at] != "\n"
        self.at = at + 1 if has_value else at
        return key, has_value

    def _value(self) -> str:
        text = self.text
        while self.at < len(text) and text[self.at] in _SPACES:
            self.at += 1
        if self.at < len(text) and text[self.at] in "'\"":
            return self._quoted(text[self.at])
        end = text.find("\n", self.at)
        end = len(text) if end < 0 else end
        raw = text[self.at : end]
        self.at = end
        return self._expanded(raw.partition(" #")[0].rstrip())

    def _quoted(self, quote: str) -> str:
        text, line = self.text, self.line
        at = self.at + 1
        pieces: list[str] = []
        while True:
            end = text.find(quote, at)
            if end < 0:
                # Without the value: it may be a secret.
                raise Fault(
                    "E_ENV_FILE", line, f"unterminated quoted value: {quote} is never closed"
                )
            backslashes = end - len(text[at:end].rstrip("\\")) - at
            if backslashes % 2 == 0:
                pieces.append(text[at:end])
                break
            pieces.append(text[at : end - 1] + quote)
            at = end + 1
        self.line += text.count("\n", self.at, end)
        self.at = end + 1
        value = "".join(pieces)
        if quote == "'":
            return value
        return self._expanded(re.sub(_ESCAPE, _unescape, value))

    def _expanded(self, value: str) -> str:
        line = self.line
        try:
            return interpolate.substitute(value, self.names, lambda name: self.unset(name, line))
        except interpolate.Fault as fault:
            raise Fault(fault.code, line, fault.reason) from fault


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] == "0":
        # The zero alone is taken away where no octal number of three digits, that of a byte, follows it.
        digits = code[1:]
        is_byte = re.fullmatch("[0-3][0-7]{2}", digits) is not None
        return chr(int(digits, 8)) if is_byte else f"\\{digits}"
    return _ESCAPES.get(code, found[0])
