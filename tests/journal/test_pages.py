"""The journal as keys of the project: reading finds every damage, writing keeps everything that counts."""

from __future__ import annotations

import base64
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ic import errors, names
from ic.journal import events, fold, lines, pages
from tests.journal import logs, stage

LINEAGE = "0a0b0c0d0e0f"
FIRST = stage.step("project:shop", "proj.create", fields={("config", "features.images"): "false"})


def numbered(log: list[events.AnyEvent]) -> tuple[pages.Line, ...]:
    """Events as lines."""
    return tuple(pages.Line(event.n, event.n, events.encode(event)) for event in log)


def big(n: int, size: int) -> events.Intent:
    """An intent whose line has about this many bytes that do not compress."""
    noise = base64.b64encode(random.Random(n).randbytes(size * 3 // 4))
    return events.Intent(
        n=n,
        kind="inst.create",
        address=f"instance:s/{n % 7}",
        effect={"facts": {"x": noise.decode()}},
    )


def busy(count: int, size: int = 200) -> list[events.AnyEvent]:
    """A journal of one run with this many lines: creations and their outcomes."""
    log: list[events.AnyEvent] = [
        events.Run(n=1, run="aa", generation=1, chain=lines.start(LINEAGE))
    ]
    while len(log) < count:
        n = len(log) + 1
        log.extend((big(n, size), events.Outcome(n=n + 1, intent=n, status="ok")))
    return log[:count]


def grown(config: dict[str, str], log: list[events.AnyEvent], step: int) -> dict[str, str]:
    """Fold a log into a config, `step` lines at a time, as runs do."""
    whole = numbered(log)
    for end in range(step, len(whole) + step, step):
        part = whole[:end]
        state = fold.fold(events.decode(line.raw) for line in part)
        config = pages.pack(config, part, state, lineage=LINEAGE, generation=1)
    return config


def empty() -> dict[str, str]:
    """A project whose journal has no line yet."""
    head = events.Head(lineage=LINEAGE, chain=lines.start(LINEAGE))
    return {
        names.HEAD: events.encode_head(head),
        names.KEY: "11" * 32,
        names.LINEAGE: LINEAGE,
        "user.foreign": 'stays "as" it\nis \u00e9',
    }


# --- genesis ------------------------------------------------------------------------------------------


def test_genesis_holds_lineage_key_head_and_the_creation_itself() -> None:
    start = stage.start(run="cafe0001")
    config = pages.genesis(FIRST, start, entropy=lambda size: bytes(range(size)))
    journal = pages.read("shop", config, {})
    assert (journal.state, journal.problems) == ("ok", ())
    assert journal.lineage == "000102030405"
    assert journal.key == bytes(range(32))
    assert journal.recorded.doubts == ()
    assert journal.recorded.resources["project:shop"].fields == {
        ("config", "features.images"): "false"
    }
    assert [type(event).__name__ for event in journal.events()] == ["Run", "Intent", "Outcome"]


def test_two_stacks_never_share_lineage_or_key() -> None:
    one, other = (pages.genesis(FIRST, stage.start()) for _ in range(2))
    assert one[names.LINEAGE] != other[names.LINEAGE]
    assert one[names.KEY] != other[names.KEY]


# --- reading --------------------------------------------------------------------------------------------


def test_a_project_without_our_keys_has_no_journal() -> None:
    journal = pages.read("shop", {"user.mine": "x"}, {"default": {}})
    assert (journal.state, journal.lineage, journal.recorded) == ("none", "", fold.Recorded())


@settings(max_examples=60)
@given(logs.logs())
def test_what_is_written_is_read(log: list[events.AnyEvent]) -> None:
    journal = pages.read("shop", logs.config_of(log), {})
    assert (journal.state, journal.problems) == ("ok", ())
    assert list(journal.events()) == log
    assert journal.recorded.resources == fold.fold(log).resources
    assert journal.recorded.doubts == fold.fold(log).doubts()


@settings(max_examples=200)
@given(st.data())
def test_any_damage_is_found_and_nothing_unproven_is_believed(data: st.DataObject) -> None:
    log = busy(12, 40)
    log.append(
        events.Run(
            n=13, run="bb", generation=2, chain=lines.end_of(lines.start(LINEAGE), logs.raw_of(log))
        )
    )
    log.extend([big(14, 40), events.Outcome(n=15, intent=14, status="ok")])
    good = logs.config_of(log, LINEAGE)
    config = dict(good)
    key = data.draw(st.sampled_from([pages.segment_key(1), names.HEAD]))
    how = data.draw(st.sampled_from(["flip", "cut", "delete", "swap", "twice"]))
    text = config[key]
    if how == "flip":
        at = data.draw(st.integers(0, len(text) - 1))
        config[key] = (
            text[:at] + chr(ord(text[at]) ^ (1 << data.draw(st.integers(0, 6)))) + text[at + 1 :]
        )
    elif how == "cut":
        config[key] = text[: data.draw(st.integers(0, len(text) - 2))]
    elif how == "delete":
        del config[key]
    else:
        parts = config[pages.segment_key(1)].splitlines(keepends=True)
        one, other = (data.draw(st.integers(0, len(parts) - 1)) for _ in range(2))
        if how == "swap":
            parts[one], parts[other] = parts[other], parts[one]
        else:
            parts.insert(one, parts[other])
        config[pages.segment_key(1)] = "".join(parts)
    journal = pages.read("shop", config, {})
    whole = pages.read("shop", good, {})
    if journal.state == "ok":
        # An order of lines, a line twice or a blank line says the same; nothing else may go unseen.
        assert [line.raw for line in journal.lines] == [line.raw for line in whole.lines]
        assert journal.recorded.resources == whole.recorded.resources
        return
    assert journal.problems
    proven = [line for line in journal.lines if line.n <= journal.trusted]
    assert proven == list(whole.lines[: len(proven)])
    assert (
        all(resource.unknown for resource in journal.recorded.resources.values())
        or journal.state != "damaged"
    )


def test_a_damaged_last_run_leaves_the_runs_before_it_proven() -> None:
    log = busy(12, 40)
    before = lines.end_of(lines.start(LINEAGE), logs.raw_of(log))
    log.append(events.Run(n=13, run="bb", generation=2, chain=before))
    log.append(big(14, 40))
    config = logs.config_of(log, LINEAGE)
    config[pages.segment_key(1)] = config[pages.segment_key(1)].replace('"n":14', '"n":15')
    journal = pages.read("shop", config, {})
    assert (journal.state, journal.trusted) == ("damaged", 12)
    assert [line.n for line in journal.lines] == [*range(1, 14), 15]


def test_a_newer_minimum_is_read_only() -> None:
    config = logs.config_of(busy(5))
    head = events.decode_head(config[names.HEAD])
    config[names.HEAD] = events.encode_head(
        msgspec.structs.replace(head, minimum=events.VERSION + 1)
    )
    journal = pages.read("shop", config, {})
    assert journal.state == "newer"
    assert len(journal.lines) == 5


def test_a_missing_key_is_damage() -> None:
    config = logs.config_of(busy(5))
    del config[names.KEY]
    assert pages.read("shop", config, {}).state == "damaged"


# --- writing --------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(logs.logs(), st.integers(1, 9))
def test_folding_in_pieces_reads_back_as_the_whole(log: list[events.AnyEvent], step: int) -> None:
    config = grown(empty(), log, step)
    journal = pages.read("shop", config, {})
    assert (journal.state, journal.problems) == ("ok", ())
    assert list(journal.events()) == log
    assert journal.recorded.resources == fold.fold(log).resources
    assert config["user.foreign"] == empty()["user.foreign"]


def test_plain_segments_are_small_and_readable() -> None:
    config = grown(empty(), busy(200), 10)
    segments = [text for name, text in config.items() if name.startswith(names.SEGMENT_PREFIX)]
    assert len(segments) > 1
    assert all(len(text) <= pages.PLAIN_LIMIT and text.isascii() for text in segments)


def test_folding_twice_changes_nothing() -> None:
    log = busy(50)
    config = grown(empty(), log, 7)
    state = fold.fold(log)
    assert pages.pack(config, numbered(log), state, lineage=LINEAGE, generation=1) == config


def test_a_snapshot_comes_in_time_and_old_segments_are_sealed() -> None:
    log = busy(1300)
    config = grown(empty(), log, 40)
    snapshots = [name for name in config if name.startswith(names.SNAPSHOT_PREFIX)]
    sealed = [text for text in config.values() if text.startswith(lines.SEALED)]
    journal = pages.read("shop", config, {})
    assert len(snapshots) == 2
    assert len(sealed) > 2
    assert journal.base is not None
    assert journal.base.sequence > 800
    assert list(journal.events()) == log
    newest = max(name for name in config if name.startswith(names.SEGMENT_PREFIX))
    assert not config[newest].startswith(lines.SEALED)


@pytest.mark.parametrize("broken", ["newest", "both"])
def test_a_damaged_snapshot_is_only_a_lost_cache(broken: str) -> None:
    log = busy(1300, 80)
    config = grown(empty(), log, 100)
    snapshots = sorted(name for name in config if name.startswith(names.SNAPSHOT_PREFIX))
    assert len(snapshots) == 2
    for name in snapshots[1:] if broken == "newest" else snapshots:
        config[name] = config[name][:-9] + "A" * 9
    journal = pages.read("shop", config, {})
    assert journal.state == "ok"
    assert journal.problems
    assert journal.recorded.resources == fold.fold(log).resources


def test_retention_removes_the_oldest_and_the_state_stays() -> None:
    log = busy(2600, 600)
    config = grown(empty(), log, 60)
    journal = pages.read("shop", config, {})
    assert (journal.state, journal.problems) == ("ok", ())
    first = journal.events()[0]
    assert isinstance(first, events.Trunc)
    assert first.count == first.last > 0
    assert list(journal.events()[1:]) == log[first.last :]
    assert journal.recorded.resources == fold.fold(log).resources
    assert journal.recorded.doubts == fold.fold(log).doubts()
    assert pages.ours_size(config) <= pages.SOFT + pages.SNAPSHOT_BYTES
    del config[max(name for name in config if name.startswith(names.SNAPSHOT_PREFIX))]
    assert pages.read("shop", config, {}).recorded.resources == fold.fold(log).resources


def test_a_truncated_journal_without_any_snapshot_is_damaged() -> None:
    config = grown(empty(), busy(2600, 600), 60)
    config = {
        key: text for key, text in config.items() if not key.startswith(names.SNAPSHOT_PREFIX)
    }
    journal = pages.read("shop", config, {})
    assert (journal.state, journal.trusted) == ("damaged", 0)


def test_no_room_is_said_before_anything_is_written() -> None:
    log: list[events.AnyEvent] = [events.Run(n=1, run="aa", generation=1)]
    for n in range(2, 202, 2):
        intent = big(n, 9000)
        log.append(msgspec.structs.replace(intent, address=f"instance:s/{n}"))
        log.append(events.Outcome(n=n + 1, intent=n, status="ok"))
    with pytest.raises(errors.Full):
        grown(empty(), log, 10)


def test_a_big_foreign_key_counts_for_the_request() -> None:
    config = {**empty(), "user.huge": "x" * (pages.REQUEST - 20_000)}
    log = busy(3)
    packed = pages.pack(config, numbered(log), fold.fold(log), lineage=LINEAGE, generation=1)
    assert pages.request_size(packed, "") <= pages.REQUEST
    config["user.huge"] = "x" * (
        pages.REQUEST - pages.request_size(packed, "") + len(config["user.huge"]) + 1
    )
    with pytest.raises(errors.Full):
        pages.pack(config, numbered(log), fold.fold(log), lineage=LINEAGE, generation=1)


def test_a_project_that_is_not_on_our_chain_is_not_written() -> None:
    log = busy(6)
    other = logs.config_of(busy(6, 100), LINEAGE)
    with pytest.raises(errors.Rollback):
        pages.pack(other, numbered(log), fold.fold(log), lineage=LINEAGE, generation=1)


# --- mending --------------------------------------------------------------------------------------------


def test_only_a_damaged_journal_is_mended() -> None:
    config = logs.config_of(busy(5))
    assert pages.mend(pages.read("shop", config, {}), config) == ()
    del config[pages.segment_key(1)]
    commands = pages.mend(pages.read("shop", config, {}), config)
    assert commands[0] == "incus project show shop > shop.project.yaml"
    assert commands[-1].startswith("incus project set shop")
