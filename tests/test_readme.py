"""What README and the pages under docs/ print is true: the example, the commands, the links."""

from __future__ import annotations

import os
import re
import shlex

import pytest

from ic.cli import main
from ic.compose import model

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{one}" for one in os.listdir(os.path.join(ROOT, "docs")) if one.endswith(".md")),
]
NO_COMMANDS = {"ic journal LINEAGE"}  # a text that is hashed
PLACES = {"N": "1", "SECONDS": "1", "X": "1"}  # what stands for a number in a sentence


def text(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def blocks(path: str, language: str) -> list[str]:
    """The fenced blocks of a language ("" for none) in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(path), re.MULTILINE | re.DOTALL)


def commands(path: str) -> list[str]:
    """Every `ic ...` of a page: lines of blocks, with or without a prompt, and code in sentences."""
    found: list[str] = []
    for block in blocks(path, "") + blocks(path, "sh"):
        lines = block.replace("\\\n", " ").splitlines()
        found += [m[1] for line in lines if (m := re.match(r"(?:\$ )?(ic [^#]*)", line))]
    prose = re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)
    found += re.findall(r"`(ic [^`]*)`", prose)
    return [one for one in found if one not in NO_COMMANDS]


def understood(command: str) -> None:
    """Parse a command as ic itself would; raises UsageError."""
    words = shlex.split(re.split(r" [|>] |;| &&", command)[0])[1:]
    before, name, rest = main.split([PLACES.get(word, word) for word in words])
    main.top_parser().parse_args(before)
    if name in ("", "COMMAND"):
        return
    parser = main.command_parser(name)
    if rest:  # a command alone is its name in a sentence
        parser.parse_args(rest)


def test_the_stack_of_the_readme_is_an_example() -> None:
    shown = blocks("README.md", "yaml")
    assert shown == [text("examples/hello/compose.yaml")]
    assert len(shown[0].splitlines()) == 20


def test_the_readme_lists_every_command_with_its_own_words() -> None:
    rows = dict(re.findall(r"^\| `ic (\w+)` \| (.*) \|$", text("README.md"), re.MULTILINE))
    assert rows == main.COMMANDS


@pytest.mark.parametrize("path", PAGES)
def test_commands_are_ones_that_ic_understands(path: str) -> None:
    for command in commands(path):
        understood(command)


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_somewhere(path: str) -> None:
    here = os.path.join(ROOT, os.path.dirname(path))
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text(path))
    missing = [one for one in targets if not os.path.exists(os.path.join(here, one))]
    assert missing == []


def test_the_picture_of_the_house_names_every_room() -> None:
    page = text("docs/architecture.md")
    missing: list[str] = []
    for directory, _, files in os.walk(os.path.join(ROOT, "ic")):
        rooms = [one.removesuffix(".py") for one in files if one.endswith(".py")]
        if os.path.basename(directory) in ("commands", "healthd"):
            continue
        missing += [one for one in rooms if "__" not in one and not re.search(rf"\b{one}\b", page)]
    assert missing == []


def test_what_the_readme_calls_unsupported_is_refused() -> None:
    part = text("README.md").partition("## What is not supported yet\n")[2]
    listed = part.partition("Among them today:")[2].partition("lists every key")[0]
    named = [one.rpartition(".")[2] for one in re.findall(r"`([a-z_.]+)`", listed)]
    pending = {
        name
        for key in (model.STACK, model.SERVICE, model.NETWORK, model.SERVICE.below("deploy"))
        for name, one in ((key.keys if key else None) or {}).items()
        if one.pending
    }
    assert len(named) > 10
    assert set(named) <= pending
