"""What instances write, told once and to the end: joining is pure, the rest is seen on the lab."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ic.engine import follow
from ic.incus import client as incus
from ic.incus import remotes, transport
from tests.lab import lab as labs

PID_ONE = "lxc.execute.cmd=\nlxc.init.cmd={}\nlxc.signal.halt=SIGTERM\nlxc.log.level=info"


@pytest.mark.parametrize(
    ("log", "live", "whole"),
    [
        (b"", b"", b""),
        (b"one\n", b"", b"one\n"),
        (b"", b"one\n", b"one\n"),
        (b"one\ntwo\n", b"two\nthree\n", b"one\ntwo\nthree\n"),
        (b"one\n", b"two\n", b"one\ntwo\n"),
        (b"one\ntwo\n", b"one\ntwo\n", b"one\ntwo\n"),
        (b"one\ntw", b"two\n", b"one\ntwo\n"),
    ],
)
def test_what_stands_in_both_is_told_once(log: bytes, live: bytes, whole: bytes) -> None:
    assert follow.joined(log, live) == whole


@given(st.lists(st.integers(), unique=True), st.data())
def test_an_output_cut_anywhere_is_joined_to_itself(
    numbers: list[int], data: st.DataObject
) -> None:
    whole = b"".join(b"line %d\n" % number for number in numbers)
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    if begin == end:
        return  # nothing in common: the pieces are adjacent
    joined = follow.joined(whole[:end], whole[begin:])
    assert joined.startswith(whole[:end])
    assert len(joined) <= len(whole)


class Place:
    def __init__(self, lab: labs.Lab) -> None:
        self.project = f"t-follow-{os.getpid()}"
        self.query = {"project": self.project}
        server = remotes.Server(name="lab", socket=str(lab.socket))
        self.client = incus.Client(transport.connect(server))
        lab.api(
            "POST", "/1.0/projects", {"name": self.project, "config": {"features.images": "false"}}
        )
        source = {
            "type": "image",
            "mode": "pull",
            "protocol": "oci",
            "server": f"https://{labs.REGISTRY}",
            "alias": "library/busybox:1",
        }
        body = {"source": source, "auto_update": False}
        pulled = self.client.call("POST", "/1.0/images", {"project": "default"}, body)
        self.fingerprint: str = pulled["fingerprint"]

    def create(self, name: str, script: str) -> None:
        body = {
            "name": name,
            "type": "container",
            "profiles": [],
            "config": {"raw.lxc": PID_ONE.format(f"/bin/sh -c '{script}'")},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
            "source": {"type": "image", "fingerprint": self.fingerprint},
        }
        self.client.call("POST", "/1.0/instances", self.query, body)

    def state(self, name: str, action: str) -> None:
        body = {"action": action, "timeout": 10, "force": False}
        self.client.call("PUT", f"/1.0/instances/{name}/state", self.query, body)

    def rest(self, name: str) -> None:
        """Wait until its end is over: a start before that fails now and then [measured]."""

        def stopped() -> bool:
            return self.client.get(f"/1.0/instances/{name}", self.query)["status"] == "Stopped"

        assert incus.stays_stopped(stopped, 10, clock=time.monotonic, sleep=time.sleep)

    def told(self, *names: str, before: dict[str, bytes] | None = None) -> list[follow.Said]:
        found: list[follow.Said] = []
        following = follow.Following(self.client, self.project, names, before or {})
        following.tell(found.append, seconds=30)
        return found


@pytest.fixture(scope="module")
def place(lab: labs.Lab) -> Iterator[Place]:
    made = Place(lab)
    yield made
    made.client.close()
    lab.sweep(made.project)


def words(said: list[follow.Said], name: str) -> list[str]:
    return [one.text for one in said if one.instance == name and one.ended is None]


def ends(said: list[follow.Said]) -> dict[str, int]:
    return {one.instance: one.ended for one in said if one.ended is not None}


def test_every_line_of_every_instance_is_told_in_order_and_once(place: Place) -> None:
    script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i; sleep 0.1; done; exit {}"
    for name, code in (("one", 0), ("two", 4)):
        place.create(name, script.replace("{}", str(code)))
        place.state(name, "start")
    said = place.told("one", "two")
    for name in ("one", "two"):
        assert words(said, name) == [f"line {n}" for n in range(1, 21)]
    assert ends(said) == {"one": 0, "two": 4}
    for name in ("one", "two"):  # its end is told after its last word
        assert [one.ended for one in said if one.instance == name][-1] is not None


def test_a_quick_jobs_words_are_told_each_time_it_runs(place: Place) -> None:
    place.create("quick", "echo first; echo second")
    for _ in range(3):
        before = follow.remembered(place.client, place.project, ["quick"])
        place.state("quick", "start")
        said = place.told("quick", before=before)
        assert words(said, "quick") == ["first", "second"]
        assert ends(said) == {"quick": 0}
        place.rest("quick")


def test_a_last_line_without_its_newline_is_told(place: Place) -> None:
    place.create("cut", "echo whole; sleep 0.5; printf half")
    place.state("cut", "start")
    assert words(place.told("cut"), "cut") == ["whole", "half"]


def test_telling_can_stop_and_go_on(place: Place) -> None:
    place.create(
        "long", 'trap "echo bye; exit 0" TERM; echo hello; while :; do sleep 1000 & wait $!; done'
    )
    place.state("long", "start")
    found: list[follow.Said] = []
    following = follow.Following(place.client, place.project, ["long"], {})
    end = time.monotonic() + 20
    while not found and time.monotonic() < end:
        following.tell(found.append, seconds=0.2)
    assert words(found, "long") == ["hello"]
    stop = threading.Thread(target=lambda: place.state("long", "stop"))
    stop.start()
    following.tell(found.append, seconds=20)
    stop.join()
    assert words(found, "long") == ["hello", "bye"]
    assert ends(found) == {"long": 0}


def test_a_console_that_somebody_else_holds_is_read_from_the_buffer(place: Place) -> None:
    place.create("held", "i=0; while [ $i -lt 15 ]; do i=$((i+1)); echo line $i; sleep 0.2; done")
    place.state("held", "start")
    with place.client.console("/1.0/instances/held", place.query):
        said = place.told("held")
    assert words(said, "held")[:10] == [f"line {n}" for n in range(1, 11)]


def test_an_instance_that_is_gone_has_ended(place: Place) -> None:
    assert ends(place.told("nobody")) == {"nobody": 0}


def test_nothing_to_follow_returns_at_once(place: Place) -> None:
    assert place.told() == []
