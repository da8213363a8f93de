"""Reading `depends_on`, `restart`, `stop_signal`, `stop_grace_period` and `profiles`."""

import pytest

from ic.fields import lifecycle
from tests.fields import reading

STARTED = lifecycle.Dependency()


@pytest.mark.parametrize(
    ("body", "depends"),
    [
        ("depends_on: [a, b]", {"a": STARTED, "b": STARTED}),
        ("depends_on: {a: {condition: service_started}}", {"a": STARTED}),
        (
            "depends_on: {a: {condition: service_completed_successfully, required: false, restart: true}}",
            {
                "a": lifecycle.Dependency(
                    condition="service_completed_successfully", required=False, restart=True
                )
            },
        ),
        ("depends_on: {a: {condition: service_started, x-why: 1}}", {"a": STARTED}),
    ],
)
def test_dependencies_in_both_forms(body: str, depends: dict[str, lifecycle.Dependency]) -> None:
    assert reading.right(lifecycle, body).depends_on == depends


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("depends_on: a", "E_TYPE 13 w.depends_on must be a mapping, not text"),
        ("depends_on: {a: }", "E_TYPE 16 w.depends_on.a must be a mapping with a condition, not nothing"),
        ("depends_on: {a: {}}", "E_VALUE 17 w.depends_on.a has no condition (add condition: service_started)"),
        ("depends_on: {a: {condition: service_healthy}}", "E_UNSUPPORTED 29 w.depends_on.a.condition: 'service_healthy' is not supported yet"),
        ("depends_on: {a: {condition: healthy}}", "E_VALUE 29 w.depends_on.a.condition must be one of service_started, service_completed_successfully, not 'healthy'"),
        ("depends_on: {a: {condition: service_started, when: 1}}", "E_UNKNOWN_KEY 46 w.depends_on.a has the unknown key 'when'"),
        ("depends_on: [1]", "E_TYPE 14 w.depends_on.[0] must be a mapping with a condition, not a list"),
        ("stop_grace_period: 10", 'E_TYPE 20 w.stop_grace_period must be text, not a number (put it in quotes: "10")'),
        ("stop_grace_period: ten", "E_VALUE 20 w.stop_grace_period: 'ten' is not a duration; write it like 10s or 1m30s"),
        ("profiles: x", "E_TYPE 11 w.profiles must be a list, not text"),
        ("restart: false", 'E_TYPE 10 w.restart must be text, not a boolean (put it in quotes: "false")'),
    ],
)  # fmt: skip
def test_faults_of_form(body: str, message: str) -> None:
    assert reading.fault(lifecycle, body) == message


def test_values() -> None:
    body = "restart: 'no'\nstop_signal: SIGUSR1\nstop_grace_period: 1m30s\nprofiles: [a, b, a]"
    assert reading.right(lifecycle, body) == lifecycle.Lifecycle(
        restart="no", stop_signal="SIGUSR1", stop_grace_period=90_000, profiles=("a", "b")
    )
    assert reading.right(lifecycle, "") == lifecycle.Lifecycle()


@pytest.mark.parametrize(
    "restart", [None, "no", "always", "unless-stopped", "on-failure", "on-failure:12"]
)
@pytest.mark.parametrize(
    "signal", [None, "SIGTERM", "term", "9", "SIGRTMIN", "RTMIN+3", "SIGRTMAX-2", "64"]
)
def test_what_can_run(restart: str | None, signal: str | None) -> None:
    assert lifecycle.faults(lifecycle.Lifecycle(restart=restart, stop_signal=signal)) == []


@pytest.mark.parametrize(
    "restart", ["on-failure:", "on-failure:x", "on-failure:-1", "yes", "Always"]
)
def test_restart_words_that_mean_nothing(restart: str) -> None:
    ((key, reason, _),) = lifecycle.faults(lifecycle.Lifecycle(restart=restart))
    assert key == "restart"
    assert repr(restart) in reason


@pytest.mark.parametrize("signal", ["SIGFOO", "0", "65", "-9", "RTMIN+", "SIG"])
def test_signals_that_are_none(signal: str) -> None:
    ((key, reason, _),) = lifecycle.faults(lifecycle.Lifecycle(stop_signal=signal))
    assert (key, reason) == ("stop_signal", f"{signal!r} is not a signal")


def test_the_nearest_signal_is_told() -> None:
    assert (
        lifecycle.faults(lifecycle.Lifecycle(stop_signal="SIGTREM"))[0][2]
        == "did you mean 'SIGTERM'?"
    )
