"""Reading ic's own switches: `x-ic` of a service and of the stack."""

import pytest

from ic.compose import stages
from ic.fields import switches, tree
from tests.compose import stacks
from tests.fields import reading


def of_stack(body: str) -> tuple[switches.StackSwitches, list[str]]:
    report = tree.Report()
    root = stages.cast(stacks.node(body or "{}", report), report)
    stages.check(root, report)
    if report.failed:
        return switches.StackSwitches(), reading.said(report)
    return switches.normalize_stack(root, report), reading.said(report)


@pytest.mark.parametrize("word", ["restart", "stop", "kill", "none"])
def test_what_is_done_with_an_unhealthy_service(word: str) -> None:
    found = reading.right(switches, f"x-ic: {{on_unhealthy: {word}}}")
    assert found == switches.Switches(on_unhealthy=word)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("body", ["", "x-ic: ", "x-ic: {}", "x-other: 1"])
def test_without_a_word_the_policy_decides(body: str) -> None:
    assert reading.right(switches, body) == switches.Switches()
    assert of_stack(body) == (switches.StackSwitches(), [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x-ic: 1", "E_TYPE 7 w.x-ic must be a mapping, not a number"),
        ("x-ic: {on_unhealty: stop}", "E_UNKNOWN_KEY 8 w.x-ic has the unknown key 'on_unhealty', which is not allowed (did you mean 'on_unhealthy'?)"),
        ("x-ic: {on_unhealthy: stp}", "E_VALUE 22 w.x-ic.on_unhealthy must be one of restart, stop, kill, none, not 'stp' (did you mean 'stop'?)"),
        ("x-ic: {on_unhealthy: 1}", 'E_TYPE 22 w.x-ic.on_unhealthy must be a string, not a number (put it in quotes: "1")'),
    ],
)  # fmt: skip
def test_faults_of_a_service(body: str, message: str) -> None:
    assert reading.fault(switches, body) == message


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("healthd: false", switches.StackSwitches(healthd=False)),
        ("healthd: true", switches.StackSwitches()),
        ("healthd: {image: p}", switches.StackSwitches(image="p")),
        ("healthd: {}", switches.StackSwitches()),
        ("isolation: strict", switches.StackSwitches(isolation="strict")),
        ("isolation: default", switches.StackSwitches()),
    ],
)
def test_switches_of_the_stack(body: str, found: switches.StackSwitches) -> None:
    assert of_stack(f"x-ic: {{{body}}}") == (found, [])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x-ic: []", "E_TYPE 7 x-ic must be a mapping, not an array"),
        ("x-ic: {healthd: 1}", 'E_TYPE 17 x-ic.healthd must be a mapping or a boolean, not a number'),
        ("x-ic: {healthd: {img: p}}", "E_UNKNOWN_KEY 18 x-ic.healthd has the unknown key 'img', which is not allowed"),
        ("x-ic: {healthd: {image: 1}}", 'E_TYPE 25 x-ic.healthd.image must be a string, not a number (put it in quotes: "1")'),
        ("x-ic: {isolation: strikt}", "E_VALUE 19 x-ic.isolation must be one of default, strict, not 'strikt' (did you mean 'strict'?)"),
    ],
)  # fmt: skip
def test_faults_of_the_stack(body: str, message: str) -> None:
    assert of_stack(body)[1] == [message]
