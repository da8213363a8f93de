"""A command line survives LXC's own splitting: by a model of it for any words, and on the real server."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ic.fields import process

if TYPE_CHECKING:
    from tests.lab import fixtures
    from tests.lab import lab as labs

words = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
        st.sampled_from(
            ("", " ", "it's", 'say "x"', 'it\'s "x"', "a\nb", "#x", "$HOME", "\\t", "=")
        ),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


def split_by_lxc(value: str) -> tuple[str, ...]:
    """liblxc's line parser and lxc_string_split_quoted, as read in their source."""
    value = value.strip(" \t")
    if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]:
        value = value[1:-1]
    found: list[str] = []
    state, start = " ", 0
    for index, character in enumerate(value):
        if state == " ":
            if character.isspace():
                continue
            start, state = index, character if character in "'\"" else "a"
        elif state == "a" and character.isspace():
            found.append(value[start:index])
            state = " "
        elif state in "'\"" and character == state:
            found.append(value[start + 1 : index])
            state = " "
    if state == "a":
        found.append(value[start:])
    return tuple(found)


@given(words)
def test_words_come_out_of_lxc_as_they_went_in(given_words: tuple[str, ...]) -> None:
    assume(given_words[0])
    line = process.lxc_words(process.carried(given_words, {}))
    assert "\n" not in line
    assert "\r" not in line
    found = split_by_lxc(line)
    if found != given_words:
        assert found == process.carried(given_words, {})
        assert uncarried(found) == given_words


def uncarried(found: tuple[str, ...]) -> tuple[str, ...]:
    """What the image's shell would put together from octal digits."""
    digits = re.findall(r"\\0([0-7]{3})", found[2])
    text = bytes(int(each, 8) for each in digits).decode()
    return tuple(shlex.split(text.removeprefix("exec ")))


@given(words, st.dictionaries(st.sampled_from(("A", "B")), st.just("two\nlines"), min_size=1))
def test_a_real_shell_puts_carried_words_and_variables_together(
    given_words: tuple[str, ...], exports: dict[str, str]
) -> None:
    show = ("/usr/bin/env", "printf", "[%s]", *given_words)
    carried = process.carried(show, exports)
    done = subprocess.run(carried, capture_output=True, check=True, timeout=30)
    assert done.stdout.decode() == "".join(f"[{word}]" for word in given_words)
    variable = process.carried(("/usr/bin/env", "printenv", min(exports)), exports)
    done = subprocess.run(variable, capture_output=True, check=True, timeout=30)
    assert done.stdout.decode() == "two\nlines\n"


HARD = (
    ("echo", "a b", "", "it's", 'say "x"', "#no", "$HOME", "\\t", "é", "k=v"),
    ("echo", "last one in quotes"),
    ("echo", "both ' and \"", "two\nlines"),
    ("/bin/echo", "'", '"', "a'b", "=", ";", "x  y", "\t"),
)


@pytest.mark.lab
@pytest.mark.parametrize("hard", HARD)
def test_the_real_server_runs_words_as_they_are(
    lab: labs.Lab, stack: fixtures.Stack, hard: tuple[str, ...]
) -> None:
    # Every word on a line of its own, between brackets.
    show = ("sh", "-c", 'for word; do printf "[%s]" "$word"; done', *hard)
    given_words = process.carried(show, {})
    lab.api("POST", "/1.0/projects", {"name": stack.name, "config": {"features.images": "false"}})
    body = {
        "name": "words",
        "source": {
            "type": "image",
            "protocol": "oci",
            "server": "https://127.0.0.1:5000",
            "alias": "library/busybox:1",
        },
        "profiles": [],
        "config": {
            "oci.entrypoint": shlex.join(given_words),
            "raw.lxc": f"lxc.execute.cmd=\nlxc.init.cmd={process.lxc_words(given_words)}\n",
        },
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
    }
    lab.api("POST", f"/1.0/instances?project={stack.name}", body)
    state = {"action": "start", "timeout": 30}
    lab.api("PUT", f"/1.0/instances/words/state?project={stack.name}", state)
    wanted = "".join(f"[{word}]" for word in hard[1:])
    end = time.monotonic() + 20
    shown = ""
    while time.monotonic() < end and wanted not in shown:
        time.sleep(0.1)
        shown = lab.run(
            ["incus", "console", "words", "--project", stack.name, "--show-log"], check=False
        ).stdout.replace("\r\n", "\n")
    assert wanted in shown
