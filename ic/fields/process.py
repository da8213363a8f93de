"""What runs in a service, and as whom.

`command`, `entrypoint`, `environment`, `env_file`, `user`, `working_dir`: Compose Specification. Pure.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.fields import forms, merging, schema, tree, values
from ic.fields import section as contribution

if TYPE_CHECKING:
    from ic.resources import image as image_kind
    from ic.resources import kind


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """The process section.

    `command` and `entrypoint`: None means the image's own, an empty tuple means none. `environment` is the
    final one (env_file and the process environment applied); names that have no value anywhere stand in
    `unresolved` and are not set.
    """

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    unresolved: tuple[str, ...] = ()
    user: str | None = None
    working_dir: str | None = None


# --- reading half ---------------------------------------------------------------------------------------


def _faulty_line(node: tree.Node) -> str:
    if not isinstance(node.data, str):
        return ""
    try:
        split_words(node.data)
    except ValueError as problem:
        return str(problem)
    return ""


def _long_env_file(node: tree.Node, where: str, report: tree.Report) -> tree.Node:
    del where, report
    given = tree.as_list(node)
    if not isinstance(given.data, list):
        return node
    listed = [
        forms.made(one.position, path=one.data, required=True)
        if isinstance(one.data, str)
        else forms.having(one, required=True)
        for one in given.data
    ]
    return tree.Node(listed, node.position)


COMMAND = schema.Key(
    schema.TEXT | schema.LIST | schema.NULL,
    item=schema.text(),
    merge=merging.replace,
    fault=_faulty_line,
)
ENVIRONMENT = schema.pairs(item=schema.text(fault=values.variable))
HOOK = schema.mapping(
    {
        "command": COMMAND.but(merge=None),
        "user": schema.text(),
        "privileged": schema.late_flag(),
        "working_dir": schema.text(),
        "environment": ENVIRONMENT,
    },
    required=("command",),
)
_ENV_FILE = schema.Key(
    schema.TEXT | schema.MAPPING,
    keys={"path": schema.text(), "format": schema.text(), "required": schema.late_flag()},
    required=("path",),
    extensions=False,
)
SCHEMA: dict[str, schema.Key] = {
    "command": COMMAND,
    "entrypoint": COMMAND,
    "environment": ENVIRONMENT.but(merge=merging.sequences, index=merging.by_name),
    "env_file": schema.Key(
        schema.TEXT | schema.LIST,
        item=_ENV_FILE,
        merge=merging.sequences,
        index=merging.by_key("path"),
        long=_long_env_file,
    ),
    "group_add": schema.listing(
        schema.Key(schema.TEXT | schema.NUMBER, fault=values.no_fraction),
        distinct=True,
        pending=True,
    ),
    "stdin_open": schema.flag(pending=True),
    "tty": schema.flag(pending=True),
    "user": schema.text(),
    "working_dir": schema.text(),
}


def normalize(service: tree.Node, where: str, report: tree.Report) -> Process:
    """Read the section from a service's long form; its env files are in `environment` already."""
    environment: dict[str, str] = {}
    unresolved: list[str] = []
    node = service.child("environment")
    for name, value in tree.pairs(node, f"{where}.environment", report).items():
        if value is None:
            unresolved.append(name)
            continue
        fault = tree.control_fault(value)
        if fault:
            report.error(
                tree.CONTROL,
                f"{where}.environment: the value of {name} holds {fault}",
                node.key_position(name) if node is not None else service.position,
            )
        environment[name] = value
    return Process(
        command=_words(service.child("command"), f"{where}.command", report),
        entrypoint=_words(service.child("entrypoint"), f"{where}.entrypoint", report),
        environment=environment,
        unresolved=tuple(sorted(unresolved)),
        user=tree.text(service.child("user"), f"{where}.user", report) or None,
        working_dir=tree.text(service.child("working_dir"), f"{where}.working_dir", report) or None,
    )


def _words(node: tree.Node | None, where: str, report: tree.Report) -> tuple[str, ...] | None:
    if node is None or node.data is None:
        return None
    if isinstance(node.data, str):
        try:
            words, rest = split_words(node.data)
        except ValueError as problem:
            report.error(tree.VALUE, f"{where}: {problem}", node.position)
            return ()
        if rest:
            report.warn(
                "W_COMMAND",
                f"{where}: everything from {rest[0]!r} on is left out, as docker compose does; "
                "there is no shell",
                node.position,
            )
        return tuple(words)
    found: list[str] = []
    for index, item in enumerate(tree.items(node, where, report)):
        found.append(tree.text(item, f"{where}[{index}]", report) or "")
    return tuple(found)


# Compiled where a command line is split, not at every start.
_PIECE = r"""(?xs)(?P<space>[ \t\r\n]+)
      | (?P<end>[;&|<>])
      | '(?P<single>[^']*)'
      | "(?P<double>(?:\\.|[^"\\])*)"
      | (?P<group>`(?:\\.|[^`\\])*` | \$\((?:\\.|[^)\\])*\))
      | (?P<escape>\\.)
      | (?P<plain>[^ \t\r\n;&|<>'"`()\\$]+ | \$(?!\())"""
_BACKSLASHED = r"(?s)\\(.)"


def split_words(text: str) -> tuple[list[str], str]:
    """A command line as docker compose splits it: quotes and backslashes as in a shell, nothing expanded.

    Backquotes and `$(...)` hold their words together. The line ends at an unquoted `; & | < >`; what is
    left of it is returned too. Raises ValueError.
    """
    words: list[str] = []
    word: str | None = None
    at = 0
    pieces = re.compile(_PIECE)
    while at < len(text):
        piece = pieces.match(text, at)
        if piece is None:
            raise ValueError(f"invalid command line: a stray or unclosed {text[at]!r}")
        kind_ = piece.lastgroup
        if kind_ == "end":
            if piece[0] == ">" and word is not None and word[:1].isdecimal():
                word = None  # the number of a file descriptor
            break
        if kind_ == "space":
            words += [] if word is None else [word]
            word = None
        else:
            found = piece[kind_ or 0]
            bare = found if kind_ == "single" else re.sub(_BACKSLASHED, r"\1", found)
            word = (word or "") + bare
        at = piece.end()
    return words + ([] if word is None else [word]), text[at:]


# --- mapping half ---------------------------------------------------------------------------------------


def argv(section: Process, image: image_kind.ImageConfig) -> tuple[str, ...]:
    """The command line that runs, by docker's rules.

    `command` replaces CMD, `entrypoint` replaces ENTRYPOINT and drops CMD; an empty one means none
    (Compose Specification, `command` and `entrypoint`).
    """
    entrypoint = section.entrypoint
    command = section.command
    if command is None and entrypoint is None:
        command = image.cmd
    if entrypoint is None:
        entrypoint = image.entrypoint
    return (*(entrypoint or ()), *(command or ()))


def contribute(section: Process, ctx: contribution.Context) -> contribution.Contribution:
    """Command, environment, directory and user of one instance.

    The entrypoint becomes PID 1 through raw.lxc, so that its stop signal reaches it and it gets its
    grace period; `oci.entrypoint` says the same for people. Raises PlanError when nothing is to be run.
    """
    words = argv(section, ctx.image)
    if not words or not words[0]:
        raise errors.PlanError(
            f"cannot run service {ctx.service!r}: neither the file nor its image names a command",
            hint="give it a command: or an entrypoint:",
        )
    environment: dict[str, str] = {}
    for item in ctx.image.env:
        name, _, value = item.partition("=")
        environment[name] = value
    environment |= section.environment
    lines = {name: value for name, value in environment.items() if _breaks(value)}
    for name in sorted(lines):
        if not name.isidentifier() or not name.isascii():
            raise errors.PlanError(
                f"cannot set {name!r} of service {ctx.service!r}: its value has several lines, "
                "and its name is none for a shell",
            )
    words = carried(words, lines)
    fields: kind.Fields = {
        ("config", "oci.entrypoint"): shlex.join(words),
        ("config", "oci.cwd"): section.working_dir or ctx.image.working_dir or "/",
    }
    for name, value in environment.items():
        if value and name not in lines:
            fields["config", f"environment.{name}"] = value
    user = section.user if section.user else ctx.image.user
    uid, gid = numeric(user)
    if uid is not None and gid is not None:
        fields["config", "oci.uid"] = uid
        fields["config", "oci.gid"] = gid
        user = ""
    else:
        fields["config", names.USER] = user
    # Incus takes an empty value for the wish to unset its key; LXC itself can carry one.
    empty = [
        ("lxc.environment", f"{name}=") for name in sorted(environment) if not environment[name]
    ]
    return contribution.Contribution(
        fields=fields,
        lxc=(
            ("lxc.execute.cmd", ""),
            ("lxc.init.cmd", lxc_words(words)),
            ("lxc.log.level", "info"),
            *empty,
        ),
        resolve=user,
    )


def numeric(user: str) -> tuple[str | None, str | None]:
    """uid and gid that need no look into the image: `0`, `root` and `UID:GID`; None where one is needed."""
    if user in {"", "0", "root", "root:root", "0:0"}:
        return "0", "0"
    uid, colon, gid = user.partition(":")
    if colon and uid.isdecimal() and gid.isdecimal():
        return uid, gid
    return None, None


def carried(words: tuple[str, ...], exports: dict[str, str]) -> tuple[str, ...]:
    """Words and variables that one line of LXC's config cannot hold, carried by the image's /bin/sh.

    Both kinds of quotes in one word, or a line break in any, and variables of several lines (Incus refuses
    those): they travel as octal digits and are put together again before the program takes the shell's
    place. The same words when there is nothing to carry.
    """
    if not exports and not any(_breaks(word) or ("'" in word and '"' in word) for word in words):
        return words
    text = "".join(f"export {name}={shlex.quote(exports[name])}; " for name in sorted(exports))
    text += f"exec {shlex.join(words)}"
    octal = "".join(f"\\0{byte:03o}" for byte in text.encode())
    return ("/bin/sh", "-c", f'eval "$(printf %b "{octal}")"')


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def lxc_words(words: tuple[str, ...]) -> str:
    """Words as LXC splits them again: '...' or "..." around a whole word, no escapes, one line.

    Source: liblxc's lxc_string_split_quoted and its line parser, which also takes off one pair of quotes
    around the whole value; measured.
    """
    line = " ".join(_lxc_word(word) for word in words)
    if line[0] in "'\"":
        outer = '"' if line[0] == "'" else "'"
        line = f"{outer}{line}{outer}"
    return line


def _lxc_word(word: str) -> str:
    if word and not any(character.isspace() for character in word) and word[0] not in "'\"":
        return word
    return f'"{word}"' if "'" in word else f"'{word}'"
