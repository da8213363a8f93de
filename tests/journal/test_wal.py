"""The writer of the run object: what is queued travels together, in order, and is there when it says so."""

from __future__ import annotations

from ic import names
from ic.journal import lease, lines, pages, wal
from tests.journal import server as fakes
from tests.journal import stage


class Rig:
    """A writer without its thread: the test says when it writes."""

    def __init__(self, times: lease.Times | None = None) -> None:
        self.server = fakes.Server()
        stage.found(self.server)
        self.clock = fakes.Clock()
        self.times = times or lease.Times()
        self.lost: list[bool] = []
        self.folds: list[int] = []
        terms = lease.Terms(
            holder=lease.Holder(actor="me"),
            nonce=lambda: "cafebabe",
            say=lambda _: None,
            clock=self.clock,
            times=self.times,
        )
        self.taken = lease.acquire(self.server, stage.PROJECT, terms)
        self.writer = wal.Writer(
            self.server,
            self.taken,
            kept=[pages.Line(3, 3, b'{"n":3}')],
            head="head",
            tip=pages.Tip(3, "c3"),
            folded=3,
            clock=self.clock,
            times=self.times,
            fold_in=self.fold_in,
            on_lost=lambda: self.lost.append(True),
        )

    def fold_in(self, last: int) -> str:
        self.folds.append(last)
        return f"head at {last}"

    def put(self, n: int, said: list[int], size: int = 0) -> None:
        raw = b'{"n":%d,"x":"%s"}' % (n, b"y" * size)
        self.writer.put(pages.Line(n, n, raw), f"c{n}", lambda: said.append(n))

    @property
    def config(self) -> dict[str, str]:
        return self.server.profile_configs(stage.PROJECT)[self.taken.name]


def test_a_flush_writes_everything_that_is_queued_in_order() -> None:
    rig = Rig()
    said: list[int] = []
    for n in (4, 5, 6):
        rig.put(n, said)
    assert said == []
    rig.server.calls.clear()
    rig.writer.flush()
    assert said == [4, 5, 6]
    assert [call.method for call in rig.server.calls] == ["PUT"]
    assert [pages.line_of(raw).n for raw in lines.open_segment(rig.config[names.WAL])] == [
        3,
        4,
        5,
        6,
    ]
    assert rig.config[names.TIP] == '{"n":6,"c":"c6"}'
    assert rig.config[names.HEAD] == "head"


def test_every_write_is_a_heartbeat_and_renews_the_lease() -> None:
    rig = Rig()
    before = int(rig.config[names.HEARTBEAT])
    rig.clock.now += 15
    rig.writer.flush()
    rig.clock.now += 15
    rig.writer.guard()
    assert int(rig.config[names.HEARTBEAT]) == before + 1


def test_the_lease_counts_from_when_the_write_was_sent() -> None:
    rig = Rig()

    def slow(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "PUT":
            rig.clock.now += 7

    rig.server.fault = slow
    sent = rig.clock.now
    rig.writer.flush()
    assert rig.writer.acknowledged == sent


def test_a_fold_is_due_by_size_and_by_age() -> None:
    rig = Rig()
    said: list[int] = []
    rig.put(4, said)
    rig.writer.flush()
    assert not rig.writer._fold_due()
    rig.clock.now += rig.times.fold_every
    assert rig.writer._fold_due()
    rig.writer.fold()
    assert rig.folds == [4]
    rig.put(5, said, wal.FOLD_BYTES)
    rig.writer.flush()
    assert rig.writer._fold_due()
    assert rig.config[names.HEAD] == "head at 4"


def test_lines_of_this_run_stay_after_its_own_fold() -> None:
    rig = Rig()
    rig.put(4, [])
    rig.writer.flush()
    rig.writer.fold()
    rig.writer.release("new head")
    assert '"n":4' in rig.config[names.WAL]
    assert (rig.config[names.HOLD], rig.config[names.HEAD]) == (lease.FREE, "new head")


def test_a_very_long_run_drops_what_was_folded_before() -> None:
    rig = Rig()
    size = wal.FOLD_BYTES
    for n in (4, 5, 6, 7):
        rig.put(n, [], size)
        rig.writer.flush()
        rig.writer.fold()
    kept = [line.n for line in rig.writer.unfolded]
    assert kept == []
    rig.writer.flush()
    held = [pages.line_of(raw).n for raw in lines.open_segment(rig.config[names.WAL])]
    assert held[-1] == 7
    assert held == list(range(held[0], 8))
    assert held[0] > 3


def test_the_thread_writes_at_once_what_waits_for_an_acknowledgement() -> None:
    rig = Rig(lease.Times().scaled(1 / 15))
    rig.writer._clock = lease.SystemClock()
    rig.writer.acknowledged = rig.writer._clock.boottime()
    rig.writer.begin()
    said: list[int] = []
    rig.put(4, said)
    for _ in range(500):
        if said:
            break
        rig.clock.sleep(0)
        rig.writer.lost.wait(0.01)
    rig.writer.stop()
    assert said == [4]
    assert rig.lost == []
