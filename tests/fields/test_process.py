"""Reading `command`, `entrypoint`, `environment`, `env_file`, `user` and `working_dir`."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.fields import process, tree
from tests.compose import stacks
from tests.fields import reading

# Each checked against docker compose 2.40.3.
WORDS = {
    r"echo 'a b' \"c d\" e\ f": ["echo", "a b", '"c', 'd"', "e f"],
    r'echo "a\nb"': ["echo", "anb"],
    r"echo a\nb 'x\ny'": ["echo", "anb", r"x\ny"],
    "echo `date -u` z": ["echo", "`date -u`", "z"],
    "echo $(a b) c": ["echo", "$(a b)", "c"],
    "echo a#b # c": ["echo", "a#b", "#", "c"],
    "a=b c": ["a=b", "c"],
    "": [],
    "  ": [],
    "''": [""],
    'a ""': ["a", ""],
    "a'b'c": ["abc"],
    "a\tb\nc": ["a", "b", "c"],
    "sh -c 'x; y'": ["sh", "-c", "x; y"],
    r"echo \;x": ["echo", ";x"],
    "{a,b} * $HOME": ["{a,b}", "*", "$HOME"],
}


@pytest.mark.parametrize(("text", "words"), WORDS.items())
def test_command_lines_are_split_as_docker_compose_splits_them(text: str, words: list[str]) -> None:
    assert process.split_words(text) == (words, "")


@pytest.mark.parametrize(
    ("text", "words", "rest"),
    [
        ("echo a; ls", ["echo", "a"], "; ls"),
        ("echo a && b", ["echo", "a"], "&& b"),
        ("echo a | b", ["echo", "a"], "| b"),
        ("echo 2>&1 x", ["echo"], ">&1 x"),
        ("echo x>y", ["echo", "x"], ">y"),
    ],
)
def test_a_command_line_ends_where_a_shell_would_be_needed(
    text: str, words: list[str], rest: str
) -> None:
    assert process.split_words(text) == (words, rest)


def test_what_is_left_out_of_a_command_is_said() -> None:
    section, words = reading.read(process, "command: echo a; ls")
    assert section.command == ("echo", "a")
    assert words[0].startswith("W_COMMAND 10 w.command: everything from ';' on is left out")


@pytest.mark.parametrize(
    "text", ["echo (a)", "'open", '"open', "`open", "$(open", "tail\\", "a ) b"]
)
def test_command_lines_that_cannot_be_split(text: str) -> None:
    with pytest.raises(ValueError, match="stray or unclosed"):
        process.split_words(text)


@given(st.lists(st.text(alphabet="ab '\"\\$`;&|<>()\n#{}*"), max_size=5))
def test_quoted_words_are_split_again_into_themselves(words: list[str]) -> None:
    assert process.split_words(shlex.join(words)) == (words, "")


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("", None),
        ("command:", None),
        ("command: []", ()),
        ("command: ''", ()),
        ("command: [a, 'b c']", ("a", "b c")),
        ("command: a b", ("a", "b")),
    ],
)
def test_no_command_is_not_an_empty_one(body: str, command: tuple[str, ...] | None) -> None:
    assert reading.right(process, body).command == command
    assert reading.right(process, body.replace("command", "entrypoint")).entrypoint == command


def test_variables_without_a_value_are_told_apart_from_empty_ones() -> None:
    section = reading.right(process, "environment: {A: 1, C: , D: ''}")
    assert section.environment == {"A": "1", "D": ""}
    assert section.unresolved == ("C",)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "command: [1]",
            'E_TYPE 11 w.command[0] must be a string, not a number (put it in quotes: "1")',
        ),
        ("command: {a: b}", "E_TYPE 10 w.command must be an array or a string, not a mapping"),
        ('command: "\'x"', 'E_VALUE 10 w.command: invalid command line: a stray or unclosed "\'"'),
        (
            "environment: ['A =1']",
            "E_VALUE 15 w.environment[0]: 'A ' is not the name of an environment variable: it has a trailing space",
        ),
        ("environment: {'': 1}", "E_NAME 15 w.environment has an empty name"),
        (
            "env_file: [{required: true}]",
            "E_MISSING 12 w.env_file[0]: the required property 'path' is missing (add path:)",
        ),
        ("user: 1000", 'E_TYPE 7 w.user must be a string, not a number (put it in quotes: "1000")'),
    ],
)
def test_faults(body: str, message: str) -> None:
    assert reading.fault(process, body) == message


def test_env_files_in_their_long_form() -> None:
    report = tree.Report()
    node = reading.long(stacks.node("env_file: [a.env, {path: /d.env, format: raw}]"), report)
    assert tree.plain(node) == {
        "env_file": [
            {"path": "a.env", "required": True},
            {"path": "/d.env", "format": "raw", "required": True},
        ]
    }
