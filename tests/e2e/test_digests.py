"""Obligation: `ic config` asks registries for digests, the open one and the one with a password, and nobody else."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from tests.e2e import scenario

OPEN = "127.0.0.1:5000/library/nginx:alpine"
PRIVATE = "127.0.0.1:5001/private/busybox:1"
DIGEST = r"sha256:[0-9a-f]{64}"
PINNED = f"127.0.0.1:9/library/nginx@sha256:{'1' * 64}"


def images(done: scenario.Done) -> dict[str, str]:
    services: dict[str, dict[str, Any]] = done.json()["services"]
    return {name: one["image"] for name, one in services.items() if "image" in one}


def config(case: scenario.Scenario, *argv: str, code: int = 0) -> scenario.Done:
    return case.ic("config", "--format", "json", *argv, code=code)


def test_tags_become_digests_and_what_has_one_or_is_built_is_not_asked_for(
    case: scenario.Scenario,
) -> None:
    case.compose(
        {
            "services": {
                "web": {"image": OPEN},
                "pinned": {"image": PINNED},
                "built": {"build": {"context": "."}},
            }
        }
    )
    found = images(config(case, "--resolve-image-digests"))
    assert re.fullmatch(f"{OPEN}@{DIGEST}", found["web"])
    assert found["pinned"] == PINNED
    assert found.keys() == {"web", "pinned"}
    locked = images(config(case, "--lock-image-digests"))
    assert locked == found


@pytest.mark.parametrize("word", ["lab:lab-password", "lab:wrong", ""])
def test_a_private_registry_is_asked_with_the_credentials_that_docker_has(
    case: scenario.Scenario, word: str
) -> None:
    case.env["HOME"] = f"{case.inside}/home"
    auths = {"127.0.0.1:5001": {"auth": base64.b64encode(word.encode()).decode()}} if word else {}
    case.write("home/.docker/config.json", json.dumps({"auths": auths}))
    case.compose({"services": {"web": {"image": PRIVATE}}})
    right = word == "lab:lab-password"
    done = config(case, "--resolve-image-digests", code=0 if right else 1)
    if right:
        assert re.fullmatch(f"{PRIVATE}@{DIGEST}", images(done)["web"])
    else:
        assert PRIVATE in done.err
        assert done.out == ""
    assert "lab-password" not in done.out + done.err


@pytest.mark.parametrize(
    "image",
    ["127.0.0.1:5000/library/nginx:nowhere", "127.0.0.1:5000/no/such:1", "127.0.0.1:9/a/b:1"],
)
def test_an_image_that_is_not_there_and_a_registry_that_is_away(
    case: scenario.Scenario, image: str
) -> None:
    case.compose({"services": {"web": {"image": image}}})
    done = config(case, "--resolve-image-digests", code=1)
    assert image in done.err
    assert done.out == ""
