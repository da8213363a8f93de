"""The exported journal: complete, readable without ic, and without the key."""

from __future__ import annotations

import json

from hypothesis import given, settings

from ic import names
from ic.journal import events, export, fold, pages
from tests.journal import logs, test_pages


@settings(max_examples=50)
@given(logs.logs())
def test_the_exported_lines_fold_to_the_state_in_the_footer(log: list[events.AnyEvent]) -> None:
    journal = pages.read("shop", logs.config_of(log), {})
    header, *lines, footer = export.export(journal, stack="shop", version="1.2").splitlines()
    assert json.loads(header) == {
        "schema": "ic.journal-export/1",
        "stack": "shop",
        "lineage": journal.lineage,
        "first": 1,
        "last": log[-1].n,
        "chain": journal.recorded.chain,
        "version": 1,
        "ic": "1.2",
    }
    assert [events.decode(line) for line in lines] == log
    assert json.loads(footer)["lines"] == len(log)
    assert json.loads(footer)["state"] == fold.fold(log).digest()


def test_a_journal_without_its_beginning_carries_the_state_that_it_goes_on_from() -> None:
    log = test_pages.busy(2600, 600)
    config = test_pages.grown(test_pages.empty(), log, 60)
    journal = pages.read("shop", config, {})
    header, *lines, footer = export.export(journal, stack="shop", version="1.2").splitlines()
    taken = fold.decode_snapshot(json.dumps(json.loads(header)["snapshot"]))
    state = fold.restore(taken)
    later = [event for event in map(events.decode, lines) if event.n > taken.sequence]
    assert fold.fold(later, state).digest() == json.loads(footer)["state"]


def test_the_key_is_not_exported() -> None:
    config = logs.config_of(test_pages.busy(9))
    journal = pages.read("shop", config, {})
    assert config[names.KEY].encode() not in export.export(journal, stack="s", version="1")
