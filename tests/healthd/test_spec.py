"""What the keys of an instance ask for, and what is said of keys that cannot be read."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from ic import names
from ic.healthd import spec


def _read(**keys: str) -> spec.Spec:
    return spec.read("web", {names.HEALTH_PREFIX + key: value for key, value in keys.items()})


def test_absent_and_zero_are_dockers_defaults():
    test = json.dumps(["CMD", "true"])
    for found in (
        _read(test=test),
        _read(test=test, interval="0s", timeout="0", retries="0", start_interval="0s"),
    ):
        assert (found.interval_ms, found.timeout_ms, found.retries) == (30_000, 30_000, 3)
        assert (found.start_period_ms, found.start_interval_ms) == (0, 5_000)
        assert found.problems == ()


def test_every_key_is_read():
    found = spec.read(
        "web",
        {
            "user.healthcheck.test": '["CMD-SHELL","curl -f http://localhost || exit 1"]',
            "user.healthcheck.interval": "1m30s",
            "user.healthcheck.timeout": "500ms",
            "user.healthcheck.retries": "7",
            "user.healthcheck.start_period": "10s",
            "user.healthcheck.start_interval": "1s",
            "user.healthcheck.on_unhealthy": "kill",
            "user.restart": "on-failure:4",
            "boot.host_shutdown_timeout": "25",
            "oci.uid": "1000",
            "oci.gid": "1001",
            "oci.cwd": "/srv",
            "environment.HOME": "/home/web",
            "environment.USER": "web",
            "environment.PASSWORD": "hunter2",
            "user.ic.want": "running",
            "user.ic.held": "12",
        },
    )
    assert found.argv == ("/bin/sh", "-c", "curl -f http://localhost || exit 1")
    assert (found.interval_ms, found.timeout_ms, found.retries) == (90_000, 500, 7)
    assert (found.start_period_ms, found.start_interval_ms) == (10_000, 1_000)
    assert (found.restart, found.restart_limit, found.on_unhealthy) == ("on-failure", 4, "kill")
    assert (found.grace_ms, found.uid, found.gid, found.cwd) == (25_000, 1000, 1001, "/srv")
    assert (found.home, found.user, found.held, found.want_stopped) == (
        "/home/web",
        "web",
        "12",
        False,
    )
    assert found.watched
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize("test", ["[]", '["NONE"]'])
def test_no_test_and_none_are_no_healthcheck(test: str):
    found = _read(test=test)
    assert found.test == ()
    assert not found.watched
    assert found.problems == ()


@pytest.mark.parametrize(
    ("restart", "unhealthy", "action"),
    [
        ("", "", "restart"),
        ("no", "", "none"),
        ("no", "restart", "restart"),
        ("always", "none", "none"),
        ("on-failure", "", "restart"),
        ("sometimes", "", "none"),
        ("", "explode", "none"),
    ],
)
def test_what_an_unhealthy_verdict_leads_to(restart: str, unhealthy: str, action: str):
    found = spec.read("web", {"user.restart": restart, "user.healthcheck.on_unhealthy": unhealthy})
    assert found.on_unhealthy == action


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test", "curl -f http://localhost"),
        ("test", "7"),
        ("test", '["CMD", 7]'),
        ("test", '{"CMD": "x"}'),
        ("test", '["CMD"]'),
        ("test", '["CMD-SHELL", ""]'),
        ("test", '["RUN", "x"]'),
        ("test", '["CMD", "' + "x" * 2**20 + '"]'),
        ("test", "[" * 100_000),
        ("interval", "-5s"),
        ("interval", "soon"),
        ("interval", "9" * 2**20),
        ("timeout", "5 fortnights"),
        ("start_period", "-1"),
        ("start_interval", "1y"),
        ("retries", "-1"),
        ("retries", "three"),
        ("retries", "1.5"),
        ("retries", "9999999999"),
    ],
)
def test_a_healthcheck_that_cannot_be_read_names_its_key_and_is_left_out(key: str, value: str):
    found = spec.read(
        "web",
        {
            "user.healthcheck.test": '["CMD", "true"]',
            "user.restart": "always",
            names.HEALTH_PREFIX + key: value,
        },
    )
    assert [problem[0] for problem in found.problems] == [names.HEALTH_PREFIX + key]
    assert len(found.problems[0][1]) < 150
    assert found.test == ()
    assert found.restart == "always"
    assert found.watched  # its restart policy still is


@pytest.mark.parametrize("value", ["often", "on-failure:x", "on-failure:-1", "always:3", "Always"])
def test_a_restart_policy_that_cannot_be_read_restarts_nothing(value: str):
    found = spec.read("web", {"user.restart": value, "user.healthcheck.test": '["CMD", "true"]'})
    assert [problem[0] for problem in found.problems] == ["user.restart"]
    assert (found.restart, found.on_unhealthy) == ("no", "none")
    assert found.test == ("CMD", "true")


def test_other_keys_that_cannot_be_read_are_named_and_have_their_default():
    found = spec.read(
        "web",
        {
            "user.healthcheck.stopped": "perhaps",
            "user.healthcheck.daemon": "2",
            "oci.uid": "root",
            "boot.host_shutdown_timeout": "-3",
        },
    )
    assert sorted(key for key, _ in found.problems) == [
        "boot.host_shutdown_timeout",
        "oci.uid",
        "user.healthcheck.daemon",
        "user.healthcheck.stopped",
    ]
    assert (found.paused, found.daemon, found.uid, found.grace_ms) == (False, False, 0, 10_000)


def test_a_secret_in_a_broken_test_is_not_repeated():
    assert "hunter2" not in str(_read(test='["CMD", "login", "hunter2"').problems)


def test_the_daemon_and_the_paused_are_not_watched():
    assert not spec.read("a", {"user.restart": "always", "user.healthcheck.daemon": "true"}).watched
    assert not spec.read(
        "a", {"user.restart": "always", "user.healthcheck.stopped": "true"}
    ).watched


@hypothesis.given(
    st.dictionaries(
        st.sampled_from(
            [
                *(
                    names.HEALTH_PREFIX + key
                    for key in ("test", "interval", "timeout", "retries", "stopped", "on_unhealthy")
                ),
                names.RESTART,
                names.HEALTH,
                "oci.uid",
            ]
        ),
        st.text() | st.just(None),
    )
)
def test_whatever_stands_in_the_keys_something_is_read(config: dict[str, str]):
    found = spec.read("web", config)
    assert found.retries > 0
    assert found.interval_ms > 0
    assert isinstance(spec.claim(config), spec.Claim)


def test_a_claim_reads_back():
    claim = spec.Claim(restarts=3, at=17, run="2026-11-23T08:00:00Z", do="restart", why="unhealthy")
    assert spec.claim({names.HEALTH: spec.claim_text(claim)}) == claim
    assert spec.claim({}) == spec.claim({names.HEALTH: "{"}) == spec.Claim()


def test_a_status_of_the_run_before_is_no_answer():
    claim = spec.claim_text(spec.Claim(run="one"))
    check = {names.HEALTH_TEST: '["CMD","true"]'}
    config = {**check, names.HEALTH_STATUS: "healthy", names.HEALTH: claim}
    assert spec.status({"config": config, "last_used_at": "one"}) == "healthy"
    assert spec.status({"config": config, "last_used_at": "two"}) == "starting"
    assert (
        spec.status({"config": {names.HEALTH_STATUS: "healthy"}, "last_used_at": "x"}) == "healthy"
    )
    assert spec.status({"config": {}}) == ""
    profiled = {"config": {names.HEALTH: claim}, "expanded_config": check, "last_used_at": "two"}
    assert spec.status(profiled) == "starting"


def test_what_is_only_restarted_has_no_status():
    claim = spec.claim_text(spec.Claim(run="one"))
    body = {"config": {names.HEALTH: claim, names.RESTART: "always"}, "last_used_at": "two"}
    assert spec.status(body) == ""


@pytest.mark.parametrize(
    ("keys", "grace", "signal", "ends_on"),
    [
        ({}, 10_000, "", 15),
        ({"boot.host_shutdown_timeout": "3"}, 3_000, "", 15),
        ({"raw.lxc": "lxc.log.level=info\nlxc.signal.halt=SIGQUIT"}, 10_000, "", 3),
        ({"raw.lxc": "lxc.signal.halt = 37"}, 10_000, "", 37),
        ({"user.ic.signal": "SIGINT", "user.ic.grace": "7"}, 7_000, "SIGINT", 2),
        ({"user.ic.signal": "SIGNONE"}, 10_000, "SIGNONE", 15),
    ],
)
def test_how_it_is_stopped_stands_in_the_servers_keys_or_in_ics_own(
    keys: dict[str, str], grace: int, signal: str, ends_on: int
) -> None:
    found = spec.read("web", keys)
    assert (found.grace_ms, found.signal, found.ends_on) == (grace, signal, ends_on)


def test_a_grace_period_that_is_no_number_is_named() -> None:
    found = spec.read("web", {"user.ic.grace": "soon", "boot.host_shutdown_timeout": "4"})
    assert found.grace_ms == 4_000
    assert [key for key, _ in found.problems] == ["user.ic.grace"]
