"""One field at a time: set, removed, left, drifted; and what may be shown of it."""

from __future__ import annotations

import pytest

from ic import names
from ic.journal import fold, redact
from ic.plan import difference
from ic.resources import instance, kind

KEY = b"k" * 32
A, B = ("config", "limits.cpu"), ("config", "environment.B")


def compare(
    desired: kind.Fields, recorded: kind.Fields, live: kind.Fields, *, veiled: bool = False
) -> difference.Diff:
    known = fold.RecordedResource(
        address="instance:web/1",
        fields={path: redact.value(path, text, KEY) for path, text in recorded.items()},
    )
    book = difference.Book({"instance:web/1": known}, KEY)
    resource = kind.Resource(address="instance:web/1", name="web", fields=desired)
    found = kind.Live(
        address="instance:web/1", name="web", fields=live, stamp=kind.Stamp(), veiled=veiled
    )
    return book.compare(resource, found, instance.impact)


@pytest.mark.parametrize(
    ("desired", "recorded", "live", "set_", "unset", "cause"),
    [
        ("1", "1", "1", None, False, ()),
        ("2", "1", "1", "2", False, (difference.CHANGED,)),
        ("1", "1", "9", "1", False, (difference.DRIFT,)),
        ("2", "1", "9", "2", False, (difference.CHANGED,)),
        ("1", "1", None, "1", False, (difference.DRIFT,)),
        ("1", None, None, "1", False, (difference.CHANGED,)),
        ("1", None, "9", "1", False, (difference.CHANGED,)),
        ("2", "1", "2", None, False, ()),
        (None, "1", "1", None, True, (difference.REMOVED,)),
        (None, "1", "9", None, True, (difference.REMOVED,)),
        (None, "1", None, None, False, ()),
        (None, None, "9", None, False, ()),
    ],
)
@pytest.mark.parametrize("path", [A, B])
def test_the_rule_for_one_field(
    path: kind.Path,
    desired: str | None,
    recorded: str | None,
    live: str | None,
    set_: str | None,
    unset: bool,
    cause: tuple[str, ...],
) -> None:
    found = compare(
        *({path: value} if value is not None else {} for value in (desired, recorded, live))
    )
    assert found.set.get(path) == set_
    assert (path in found.unset) is unset
    assert found.causes == cause
    for field in found.fields:
        assert field.redacted is (path == B)
        assert path == A or (field.old, field.new) == (None, None)


@pytest.mark.parametrize("path", [A, B])
def test_what_the_server_does_not_show_is_as_it_is_recorded(path: kind.Path) -> None:
    assert compare({path: "1"}, {path: "1"}, {}, veiled=True) == difference.Diff()
    assert compare({path: "2"}, {path: "1"}, {}, veiled=True).set == {path: "2"}
    assert compare({}, {path: "1"}, {}, veiled=True).gone == (path,)


def test_the_strongest_impact_counts() -> None:
    mark = ("config", names.IMAGE)
    assert compare({A: "2"}, {}, {}).impact == "in-place"
    assert compare({A: "2", B: "2"}, {}, {}).impact == "restart"
    assert compare({A: "2", B: "2", mark: "w@d"}, {}, {mark: "w@e"}).impact == "replace"
    assert compare({mark: "w@d"}, {}, {mark: "w@e"}).causes == (difference.NEW_IMAGE,)


def test_a_device_of_which_nothing_is_wanted_goes_as_a_whole() -> None:
    gone = {("devices", "p", "type"): "proxy", ("devices", "p", "listen"): "tcp:0.0.0.0:80"}
    stays = {("devices", "q", "type"): "disk"}
    found = compare(
        stays,
        {**gone, **stays, ("devices", "q", "path"): "/x"},
        {**gone, **stays, ("devices", "q", "path"): "/x"},
    )
    assert found.unset == (("devices", "p"), ("devices", "q", "path"))
    assert set(found.gone) == {*gone, ("devices", "q", "path")}


def test_the_journal_learns_what_it_does_not_have_like_this() -> None:
    book = difference.Book({}, KEY)
    resource = kind.Resource(
        address="volume:data", name="data", pool="fast", fields={A: "1", B: "2"}
    )
    assert book.record(resource, difference.Diff()).fields == {A: "1", B: "2"}
    known = fold.RecordedResource(
        address="volume:data", fields={A: "1", B: fold.Digest(redact.digest(KEY, "2"))}
    )
    book = difference.Book({"volume:data": known}, KEY)
    record = book.record(resource, difference.Diff(gone=(("config", "x"),)))
    assert record.fields == {}
    assert record.unset == (("config", "x"),)
    assert (record.name, record.pool) == ("data", "fast")


def test_a_card_moves_only_where_another_comes() -> None:
    network, address = ("devices", "eth0", "network"), ("devices", "eth0", "ipv4.address")
    live = kind.Live(
        address="instance:web/1", name="web", fields={network: "back"}, stamp=kind.Stamp()
    )
    moving = difference.moving_cards
    assert moving(difference.Diff(set={network: "front"}), live) == ("eth0",)
    assert moving(difference.Diff(set={address: "10.0.0.1"}), live) == ()
    assert moving(difference.Diff(unset=(("devices", "eth0"),)), live) == ()
    other = ("devices", "eth1", "network")
    assert moving(difference.Diff(set={other: "f"}, unset=(("devices", "eth0"),)), live) == (
        "eth0",
    )
    assert moving(difference.Diff(set={network: "front"}), None) == ()
