"""What runs in a service and as whom: `command`, `entrypoint`, `environment`, `env_file`, `user`, `working_dir`.

Compose Specification, section Services. Pure.
"""

from __future__ import annotations

import shlex

import msgspec

from ic import errors, names
from ic.fields import section as contribution
from ic.resources import image as image_kind
from ic.resources import kind


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """The process section.

    `command` and `entrypoint`: None means the image's own, an empty tuple means none. `environment` is the
    final one (env_file and the process environment applied); a None value unsets nothing and is left out.
    """

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    user: str | None = None
    working_dir: str | None = None


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
    fields: kind.Fields = {
        ("config", "oci.entrypoint"): shlex.join(words),
        ("config", "oci.cwd"): section.working_dir or ctx.image.working_dir or "/",
    }
    environment = dict(item.partition("=")[::2] for item in ctx.image.env) | section.environment
    for name, value in environment.items():
        if value:
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


def lxc_words(words: tuple[str, ...]) -> str:
    """Words as LXC splits them again: '...' or \"...\" around a whole word, no escapes, one line.

    Words that this cannot carry (both kinds of quotes, a newline) travel as octal digits and are put
    together by the image's /bin/sh. Source: liblxc's lxc_string_split_quoted and its line parser, which
    also takes off one pair of quotes around the whole value; measured.
    """
    if any("\n" in word or "\r" in word or ("'" in word and '"' in word) for word in words):
        text = f"exec {shlex.join(words)}"
        octal = "".join(f"\\0{byte:03o}" for byte in text.encode())
        words = ("/bin/sh", "-c", f'eval "$(printf %b "{octal}")"')
    line = " ".join(_lxc_word(word) for word in words)
    if line[0] in "'\"":
        outer = '"' if line[0] == "'" else "'"
        line = f"{outer}{line}{outer}"
    return line


def _lxc_word(word: str) -> str:
    if word and not any(character.isspace() for character in word) and word[0] not in "'\"":
        return word
    return f'"{word}"' if "'" in word else f"'{word}'"
