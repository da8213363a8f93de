"""Reading and mapping `depends_on`, `healthcheck`, `restart`, `stop_signal`, `stop_grace_period` and `profiles`."""

import pytest

from ic import names
from ic.fields import lifecycle, section
from ic.resources import image
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
        ("depends_on: a", "E_TYPE 13 w.depends_on must be a mapping or an array, not a string"),
        ("depends_on: {a: }", "E_TYPE 16 w.depends_on.a must be a mapping, not null"),
        ("depends_on: {a: {}}", "E_MISSING 17 w.depends_on.a: the required property 'condition' is missing (add condition:)"),
        ("depends_on: {a: {condition: healthy}}", "E_VALUE 29 w.depends_on.a.condition must be one of service_started, service_healthy, service_completed_successfully, not 'healthy'"),
        ("healthcheck: [a]", "E_TYPE 14 w.healthcheck must be a mapping, not an array"),
        ("healthcheck: {test: 1}", "E_TYPE 21 w.healthcheck.test must be an array or a string, not a number (put it in quotes: \"1\")"),
        ("healthcheck: {test: [CMD, 1]}", "E_TYPE 27 w.healthcheck.test[1] must be a string, not a number (put it in quotes: \"1\")"),
        ("healthcheck: {interval: --1s}", "E_VALUE 25 w.healthcheck.interval: '-1s' is an invalid duration; write it like 10s or 1m30s"),
        ("healthcheck: {timeout: 5}", "E_TYPE 24 w.healthcheck.timeout must be a string, not a number ('5' is an invalid duration; write it like 10s or 1m30s)"),
        ("healthcheck: {retries: -1}", "E_VALUE 24 w.healthcheck.retries: -1 must not be negative"),
        ("healthcheck: {disable: maybe}", "E_TYPE 24 w.healthcheck.disable must be a boolean, true or false, not 'maybe'"),
        ("healthcheck: {intervall: 1s}", "E_UNKNOWN_KEY 15 w.healthcheck has the unknown key 'intervall', which is not allowed (did you mean 'interval'?)"),
        ("depends_on: {a: {condition: service_started, when: 1}}", "E_UNKNOWN_KEY 46 w.depends_on.a has the unknown key 'when', which is not allowed"),
        ("depends_on: [1]", "E_TYPE 14 w.depends_on[0] must be a string, not a number (put it in quotes: \"1\")"),
        ("stop_grace_period: 10", "E_TYPE 20 w.stop_grace_period must be a string, not a number ('10' is an invalid duration; write it like 10s or 1m30s)"),
        ("stop_grace_period: ten", "E_VALUE 20 w.stop_grace_period: 'ten' is an invalid duration; write it like 10s or 1m30s"),
        ("profiles: x", "E_TYPE 11 w.profiles must be an array, not a string"),
        ("restart: false", 'E_TYPE 10 w.restart must be a string, not a boolean (put it in quotes: "false")'),
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
    ("body", "check"),
    [
        ("test: curl -f x", lifecycle.Healthcheck(test=("CMD-SHELL", "curl -f x"))),
        ("test: [CMD, a, a]", lifecycle.Healthcheck(test=("CMD", "a", "a"))),
        ("test: [NONE]", lifecycle.Healthcheck(test=("NONE",))),
        ("disable: true", lifecycle.Healthcheck(disable=True)),
        (
            "interval: 90s, timeout: 0s, retries: '4', start_period: 1m, start_interval: 1500ms",
            lifecycle.Healthcheck(
                interval=90_000, timeout=0, retries=4, start_period=60_000, start_interval=1500
            ),
        ),
        ("x-why: 1", lifecycle.Healthcheck(extensions={"x-why": 1})),
    ],
)
def test_health_checks(body: str, check: lifecycle.Healthcheck) -> None:
    assert reading.right(lifecycle, f"healthcheck: {{{body}}}").healthcheck == check


@pytest.mark.parametrize("word", ["CMD", "CMD-SHELL"])
def test_a_check_without_a_command_cannot_run(word: str) -> None:
    section = reading.right(lifecycle, f"healthcheck: {{test: [{word}]}}")
    ((key, reason, _),) = lifecycle.faults(section)
    assert (key, reason) == ("healthcheck", f"test has no command after {word}")
    assert not lifecycle.faults(
        reading.right(lifecycle, f"healthcheck: {{test: [{word}], disable: true}}")
    )


def watched(body: str, config: image.ImageConfig) -> dict[str, str]:
    section_ = reading.right(lifecycle, body)
    ctx = section.Context(service="w", replica=1, image=config, image_mark="w@sha256:1")
    fields = lifecycle.contribute(section_, ctx).fields
    prefix = names.HEALTH_PREFIX
    return {p[1].removeprefix(prefix): v for p, v in fields.items() if p[1].startswith(prefix)}


IMAGE = image.ImageConfig(
    healthcheck={
        "Test": ["CMD-SHELL", "ready"],
        "Interval": 5_000_000_000,
        "Timeout": 1_500_000,
        "StartPeriod": 60_000_000_000,
        "Retries": 7,
    }
)


def test_an_images_own_check_is_taken_key_by_key() -> None:
    own = {
        "test": '["CMD-SHELL","ready"]', "interval": "5s", "timeout": "2ms",
        "start_period": "1m0s", "retries": "7",
    }  # fmt: skip
    assert watched("", IMAGE) == own
    assert watched("healthcheck: {}", IMAGE) == own
    assert watched("healthcheck: {interval: 0s, retries: 0, test: []}", IMAGE) == own
    assert watched("healthcheck: {interval: 1m30s, start_interval: 1s}", IMAGE) == own | {
        "interval": "1m30s", "start_interval": "1s",
    }  # fmt: skip
    assert watched('healthcheck: {test: [CMD, "a \\"b\\"", "ü\\n"]}', IMAGE) == own | {
        "test": '["CMD","a \\"b\\"","ü\\n"]'
    }


@pytest.mark.parametrize("body", ["disable: true", "test: [NONE]", "test: [NONE, x], retries: 3"])
def test_a_disabled_check_leaves_no_key(body: str) -> None:
    assert watched(f"healthcheck: {{{body}}}", IMAGE) == {}


@pytest.mark.parametrize(
    "check", [None, {}, {"Test": None}, {"Test": ["NONE"]}, {"Test": 1}, {"Retries": 3}]
)
def test_without_a_test_there_is_no_check(check: dict[str, object] | None) -> None:
    assert watched("healthcheck: {interval: 1s}", image.ImageConfig(healthcheck=check)) == {}


def test_the_images_own_shell_runs_a_text() -> None:
    config = image.ImageConfig(shell=("/bin/bash", "-c"))
    assert watched("healthcheck: {test: a b}", config) == {"test": '["CMD","/bin/bash","-c","a b"]'}


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
