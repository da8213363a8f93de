"""When health restarts wait: a slow server, a crowd that fails together, and how many may go on at once."""

from __future__ import annotations

from ic.healthd import storm

INTERVAL = 10_000


def _calm(count: int, now: int = 100_000) -> storm.Storm:
    weather = storm.Storm()
    for number in range(count):
        weather.probed(f"web-{number}", INTERVAL, now, good=True)
    for _ in range(20):
        weather.answered(10)
    return weather


def test_one_of_two_that_fails_is_restarted():
    weather = _calm(2)
    weather.probed("web-0", INTERVAL, 101_000, good=False)
    assert weather.admits(INTERVAL, 2, 130_000)


def test_a_third_that_begins_to_fail_together_is_a_brown_out_until_two_clean_intervals():
    weather = _calm(20)
    for number in range(6):
        weather.probed(f"web-{number}", INTERVAL, 101_000, good=False)
    assert weather.brown_out(101_000) == ""
    weather.probed("web-6", INTERVAL, 101_000, good=False)
    assert weather.brown_out(101_000) == "7 of 20 began to fail together"
    assert not weather.admits(INTERVAL, 20, 102_000)
    for number in range(20):
        weather.probed(f"web-{number}", INTERVAL, 105_000, good=True)
    assert weather.brown_out(101_000 + 2 * INTERVAL - 1)
    assert weather.brown_out(102_000 + 2 * INTERVAL) == ""
    assert weather.admits(INTERVAL, 20, 102_000 + 2 * INTERVAL)


def test_what_has_been_broken_for_long_is_no_storm():
    weather = _calm(6)
    for at in range(101_000, 201_000, INTERVAL):
        for number in range(6):
            weather.probed(f"web-{number}", INTERVAL, at, good=number >= 3)
        weather.brown_out(at)
    assert weather.admits(INTERVAL, 6, 201_000)


def test_a_server_that_answers_late_is_a_brown_out():
    weather = _calm(2)
    for _ in range(2):
        weather.answered(5_010)
    assert weather.brown_out(101_000) == ""  # one slow call is no trouble
    weather.answered(5_010)
    assert weather.brown_out(101_000) == "the server answers late"
    for _ in range(5):
        weather.answered(12)
    assert weather.brown_out(102_000)
    assert not weather.brown_out(101_000 + 2 * INTERVAL)


def test_usual_noise_is_not_slow_and_a_slow_start_does_not_make_everything_usual():
    weather = storm.Storm()
    for _ in range(10):
        weather.answered(3)
        weather.answered(200)
    assert not weather.brown_out(1_000)
    weather = storm.Storm()
    for _ in range(10):
        weather.answered(5_005)
    assert weather.brown_out(1_000)


def test_a_tenth_at_once_and_two_seconds_between():
    weather = _calm(25)
    now, begun = 130_000, 0
    while weather.admits(INTERVAL, 25, now):
        weather.began(f"web-{begun}", now)
        begun += 1
        assert not weather.admits(INTERVAL, 25, now + 1_999)
        now += 2_000
    assert begun == 2
    weather.ended("web-0")
    assert weather.admits(INTERVAL, 25, now)
    assert storm.Storm().admits(INTERVAL, 1, 130_000)  # one at least


def test_after_connecting_the_first_interval_is_the_servers_own():
    weather = _calm(2)
    weather.connected(200_000)
    assert not weather.admits(INTERVAL, 2, 209_999)
    assert weather.admits(INTERVAL, 2, 210_000)
    assert weather.admits(3_600_000, 2, 260_000)


def test_what_is_gone_is_forgotten():
    weather = _calm(6)
    for number in range(6):
        weather.probed(f"web-{number}", INTERVAL, 101_000, good=False)
        weather.began(f"web-{number}", 101_000)
    assert weather.brown_out(101_000)
    for number in range(6):
        weather.forget(f"web-{number}")
    assert weather.admits(INTERVAL, 1, 200_000)
