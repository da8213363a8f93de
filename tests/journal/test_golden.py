"""Journals of released versions: every later ic must read and fold them as the one that wrote them did.

`journal.json` holds the config of a project and of its profiles, as that version left them in the middle of a
run; `folded.json` what it meant. These files are never made anew: a difference is a broken promise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ic.journal import fold, history, lines, pages

VERSIONS = sorted(path.name for path in (Path(__file__).parent / "golden").iterdir())


def load(version: str, name: str) -> Any:
    """A file of a version."""
    return json.loads((Path(__file__).parent / "golden" / version / name).read_text("ascii"))


def form(value: fold.Value) -> Any:
    return {"$h": value.hmac} if isinstance(value, fold.Digest) else value


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_journal_is_folded_as_it_was(version: str) -> None:
    stored, folded = load(version, "journal.json"), load(version, "folded.json")
    journal = pages.read("shop", stored["project"], stored["profiles"])
    assert (journal.state, journal.problems) == ("ok", ())
    recorded = journal.recorded
    assert {
        "lineage": journal.lineage,
        "sequence": recorded.sequence,
        "generation": recorded.generation,
        "digest": journal.folding().digest(),
        "resources": {
            address: {
                "name": one.name,
                "pool": one.pool,
                "power": one.power,
                "event": one.event,
                "unknown": one.unknown,
                "facts": one.facts,
                "fields": {fold.path_text(path): form(value) for path, value in one.fields.items()},
            }
            for address, one in recorded.resources.items()
        },
        "doubts": [[one.n, one.event, one.address, one.stamp] for one in recorded.doubts],
        "runs": [[run.run, run.command, run.status, run.counts] for run in history.runs(journal)][
            :6
        ],
    } == folded


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_journal_folds_the_same_without_its_snapshots(version: str) -> None:
    stored = load(version, "journal.json")
    project = {key: text for key, text in stored["project"].items() if ".s." not in key}
    assert len(project) < len(stored["project"])
    assert any(text.startswith(lines.SEALED) for text in project.values())
    journal = pages.read("shop", project, stored["profiles"])
    assert journal.state == "ok"
    assert journal.folding().digest() == load(version, "folded.json")["digest"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_digest_of_the_state_is_as_documented(version: str) -> None:
    folded = load(version, "folded.json")
    resources = [
        {
            key: value
            for key, value in {"address": address, **one}.items()
            if value not in ("", {}, False)
        }
        for address, one in sorted(folded["resources"].items())
    ]
    text = json.dumps(resources, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == folded["digest"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_released_journal_can_be_written_on(version: str) -> None:
    stored = load(version, "journal.json")
    journal = pages.read("shop", stored["project"], stored["profiles"])
    packed = pages.pack(
        stored["project"], journal.lines, journal.folding(), lineage=journal.lineage, generation=999
    )
    again = pages.read("shop", packed, {})
    assert again.recorded.resources == journal.recorded.resources
    assert again.recorded.doubts == journal.recorded.doubts
    assert packed["user.mine"] == stored["project"]["user.mine"]
