"""Shared options: the same for every command that has them."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from ic import errors
from ic.cli import main, options
from ic.plan import planner


def test_the_lock_is_waited_for_ten_seconds_unless_told_otherwise() -> None:
    parser = argparse.ArgumentParser()
    options.add_lock_timeout(parser)
    assert parser.parse_args([]).lock_timeout == 10.0
    assert parser.parse_args(["--lock-timeout", "0"]).lock_timeout == 0.0


@pytest.mark.parametrize("name", ["apply", "up", "down", "destroy"])
def test_every_command_that_takes_the_lease_can_be_told_how_long(name: str) -> None:
    parser = argparse.ArgumentParser()
    main.module(name).add_arguments(parser)
    assert parser.parse_args(["--lock-timeout", "2.5"]).lock_timeout == 2.5


def with_healthd(*argv: str, env: dict[str, str] | None = None) -> planner.Options:
    parser = argparse.ArgumentParser()
    options.add_healthd(parser)
    return options.with_healthd(planner.Options(), parser.parse_args(argv), env or {})


def test_the_health_daemon_is_wanted_unless_told_otherwise() -> None:
    plain = with_healthd()
    assert plain.healthd
    assert (plain.healthd_image, plain.healthd_token) == ("", "")
    # From a checkout there is no ic.pyz to put into it.
    assert (plain.healthd_source, plain.healthd_build) == ("", "")
    assert not with_healthd("--no-healthd").healthd


def test_the_image_of_the_health_daemon_comes_from_the_option_before_the_environment() -> None:
    env = {"IC_HEALTHD_IMAGE": "python:3.12"}
    assert with_healthd(env=env).healthd_image == "python:3.12"
    assert with_healthd("--healthd-image", "alpine", env=env).healthd_image == "alpine"


def test_another_program_for_the_health_daemon_is_known_by_its_digest(tmp_path: Path) -> None:
    program = tmp_path / "other.pyz"
    program.write_bytes(zipapp())
    found = with_healthd("--healthd-binary", str(program))
    assert found.healthd_source == str(program)
    assert found.healthd_build == hashlib.sha256(zipapp()).hexdigest()[:20]


def zipapp(name: str = "__main__.py") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "print()")
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "runs_itself"),
    [
        (zipapp(), False),
        (b"#!/usr/bin/env python3\n" + zipapp(), False),
        (b"\x7fELF\x02\x01\x01", True),
        (b"\x7fELF\x02\x01\x01" + zipapp(), True),
        (b"#!/bin/sh\nexec sleep 1000\n", True),
        (b'#!/bin/sh\nexec python3 "$0" "$@"\n' + zipapp(), True),
        (b"#!/usr/bin/env python3\nprint()\n", True),
    ],
)
def test_a_program_is_pythons_or_runs_by_itself_as_its_content_says(
    tmp_path: Path, content: bytes, runs_itself: bool
) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    found = with_healthd("--healthd-binary", str(program))
    assert found.healthd_runs_itself is runs_itself


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"one", "it is no program"),
        (b"#!\n", "it is no program"),
        (b"print('hello')\n", "it is no program"),
        (zipapp("other.py"), "it is no program"),
        (zipapp()[:-10], "it is no program"),
    ],
)
def test_what_is_no_program_is_refused_at_once(tmp_path: Path, content: bytes, reason: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    with pytest.raises(errors.UsageError, match=f"{program}: {reason}"):
        with_healthd("--healthd-binary", str(program))


def test_a_program_has_to_be_a_file_that_can_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("missing", "No such file"),
        ("", "no regular file"),
        ("pipe", "no regular file"),
    ):
        with pytest.raises(errors.UsageError, match=reason):
            with_healthd("--healthd-binary", str(tmp_path / name))


def test_a_token_that_others_may_read_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(0o644)
    with pytest.raises(errors.UsageError) as caught:
        with_healthd("--healthd-token", str(token))
    assert caught.value.code == "E_TOKEN_MODE"


@pytest.mark.parametrize("option", ["--healthd-image", "--healthd-binary", "--healthd-token"])
def test_no_health_daemon_and_how_it_is_set_up_contradict_each_other(option: str) -> None:
    with pytest.raises(errors.UsageError, match=f"cannot use {option} together"):
        with_healthd("--no-healthd", option, "x")


@pytest.mark.parametrize("name", ["plan", "apply", "up"])
def test_every_command_that_plans_services_takes_them(name: str) -> None:
    parser = argparse.ArgumentParser()
    main.module(name).add_arguments(parser)
    assert parser.parse_args(["--no-healthd"]).no_healthd
