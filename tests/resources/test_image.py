"""Image configs as registries give them, and what the journal keeps of them."""

from __future__ import annotations

import json
import shlex

import msgspec
import pytest

from ic.resources import image, kind

RAW = {
    "architecture": "amd64",
    "config": {
        "User": "worker",
        "Env": ["PATH=/bin"],
        "Entrypoint": ["/run"],
        "Cmd": None,
        "WorkingDir": "/srv",
        "Volumes": {"/b": {}, "/a": {}},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD", "true"]},
        "Labels": {"x": "y"},
    },
}
CONFIG = image.ImageConfig(
    user="worker",
    env=("PATH=/bin",),
    entrypoint=("/run",),
    cmd=None,
    working_dir="/srv",
    volumes=("/a", "/b"),
    exposed_ports=("80/tcp",),
    stop_signal="SIGQUIT",
    healthcheck={"Test": ["CMD", "true"]},
)


def test_a_config_blob_is_read() -> None:
    assert image.parse_config(RAW) == CONFIG


@pytest.mark.parametrize("raw", [{}, {"config": {}}, {"config": None}, {"config": {"Env": None}}])
def test_a_bare_config_is_read_as_empty(raw: dict[str, object]) -> None:
    assert image.parse_config(raw) == image.ImageConfig()


def test_a_command_that_is_one_string_is_one_word() -> None:
    assert image.parse_config({"config": {"Cmd": "run me"}}).cmd == ("run me",)


FACTS = image.ImageFacts(
    reference="lab/worker:1", resolved="r/worker@sha256:aa", digest="sha256:aa", config=CONFIG
)


def test_facts_survive_the_journal() -> None:
    kept = {**image.to_facts(FACTS), "fingerprint": "f1"}
    found = image.from_facts(kept)
    assert found is not None
    assert found.config == CONFIG
    assert found.fingerprint == "f1"


def test_what_is_no_image_gives_none() -> None:
    assert image.from_facts({"config": "?"}) is None


def test_a_pull_is_by_digest_and_keeps_the_facts() -> None:
    step = image.pull(FACTS)
    assert step.deed == kind.Pull(reference="r/worker@sha256:aa", query={"project": "default"})
    assert step.address == "image:lab/worker:1"
    assert step.record.facts == image.to_facts(FACTS)


def test_an_administrators_command_makes_the_same_pull() -> None:
    found = msgspec.structs.replace(FACTS, resolved="registry.example/lab/worker@sha256:aa")
    command, *words = shlex.split(image.command(found))
    assert (command, words[0], words[-1]) == ("incus", "query", "/1.0/images?project=default")
    assert json.loads(words[words.index("-d") + 1]) == {
        "source": {
            "type": "image",
            "mode": "pull",
            "protocol": "oci",
            "server": "https://registry.example",
            "alias": "lab/worker@sha256:aa",
        },
        "auto_update": False,
    }
