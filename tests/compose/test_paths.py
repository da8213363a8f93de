"""Relative paths are resolved where a path stands, and nowhere else."""

import os
import pathlib

import pytest

from ic.compose import paths
from ic.fields import tree
from tests.compose import stacks


def resolved(text: str, directory: str = "/d", home: str = "/home/me") -> object:
    report = tree.Report()
    found = tree.plain(paths.resolve(stacks.node(text), directory, home, report))
    assert report.diagnostics == []
    return found


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("x", "/d/x"),
        ("./x/../y", "/d/y"),
        ("../x", "/x"),
        (".", "/d"),
        ("/abs/../kept", "/abs/../kept"),
        ("~", "/home/me"),
        ("~/x", "/home/me/x"),
    ],
)
def test_a_path_is_joined_and_made_plain(value: str, path: str) -> None:
    assert resolved(f"configs: {{a: {{file: '{value}'}}}}") == {"configs": {"a": {"file": path}}}
    text = f"services: {{a: {{build: {{context: '{value}'}}, env_file: [{{path: '{value}'}}]}}}}"
    build = {"context": path}
    assert resolved(text) == {"services": {"a": {"build": build, "env_file": [{"path": path}]}}}


@pytest.mark.parametrize(
    "value",
    ["https://x/y.git", "git@host:x", "service:base", "docker-image://x", "github.com/a/b", ""],
)
def test_a_build_context_may_be_elsewhere(value: str) -> None:
    text = (
        f"services: {{a: {{build: {{context: '{value}', additional_contexts: {{x: '{value}'}}}}}}}}"
    )
    build = {"context": value, "additional_contexts": {"x": value}}
    assert resolved(text) == {"services": {"a": {"build": build}}}


def test_only_bind_mounts_have_a_path_and_those_of_windows_are_absolute() -> None:
    text = r"""
services:
  a:
    volumes:
      - {type: bind, source: x, target: /x}
      - {type: volume, source: x, target: /x}
      - {type: bind, source: 'C:\x', target: /x}
      - {type: bind, source: '\\host\share\x', target: /x}
"""
    sources = ["/d/x", "x", "C:\\x", "\\\\host\\share\\x"]
    kinds = ["bind", "volume", "bind", "bind"]
    assert resolved(text) == {
        "services": {
            "a": {
                "volumes": [
                    {"type": kind, "source": source, "target": "/x"}
                    for kind, source in zip(kinds, sources, strict=True)
                ]
            }
        }
    }


def test_a_volume_of_the_local_driver_may_be_a_bind_mount() -> None:
    options = "driver_opts: {o: bind, device: x}"
    assert resolved(f"volumes: {{a: {{driver: local, {options}}}, b: {{{options}}}, c: }}") == {
        "volumes": {
            "a": {"driver": "local", "driver_opts": {"o": "bind", "device": "/d/x"}},
            "b": {"driver_opts": {"o": "bind", "device": "x"}},
            "c": None,
        }
    }


def test_a_relative_directory_keeps_paths_relative() -> None:
    text = "secrets: {a: {file: x}, b: {file: ../x}}"
    assert resolved(text, "sub") == {"secrets": {"a": {"file": "sub/x"}, "b": {"file": "x"}}}
    assert resolved(text, ".") == {"secrets": {"a": {"file": "x"}, "b": {"file": "../x"}}}


def test_links_are_followed_in_what_is_watched(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    text = "services: {a: {develop: {watch: [{path: link/x}, {path: real}]}}}"
    real = str((tmp_path / "real").resolve())
    found = resolved(text, str(tmp_path))
    watched = [{"path": f"{real}/x"}, {"path": str(tmp_path / "real")}]
    assert found == {"services": {"a": {"develop": {"watch": watched}}}}


def test_a_home_that_is_not_known_is_told_where_it_is_used() -> None:
    report = tree.Report()
    paths.resolve(stacks.node("secrets: {a: {file: ~/x}}"), "/d", "", report)
    assert [str(one) for one in report.diagnostics] == [
        "f:1:21: '~' has no meaning: HOME is not set"
    ]


def test_what_is_no_path_is_left_alone() -> None:
    text = "services: {a: {image: x, volumes: 3, env_file: y, build: null}}\nx-a: {file: x}\n"
    node = stacks.node(text)
    assert paths.resolve(node, "/d", "", tree.Report()) is node
