"""Reading `scale`, `deploy.replicas`, `container_name` and `labels`."""

import pytest

from ic.fields import placement
from tests.fields import reading


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("", 1), ("scale: 3", 3), ("scale: '2'", 2), ("scale: 0", 0), ("deploy: {replicas: 4}", 4),
        ("deploy: {}", 1), ("deploy:", 1), ("scale: 2\ndeploy: {replicas: 2}", 2),
    ],
)  # fmt: skip
def test_replicas(body: str, count: int) -> None:
    assert reading.right(placement, body).replicas == count


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("scale: x", "E_TYPE 8 w.scale must be an integer, not 'x'"),
        ("deploy: 3", "E_TYPE 9 w.deploy must be a mapping, not a number"),
        ("deploy: {replica: 1}", "E_UNKNOWN_KEY 10 w.deploy has the unknown key 'replica', which is not allowed (did you mean 'replicas'?)"),
        ("deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {value: 1e19}}]}}}", "E_VALUE 90 w.deploy.resources.reservations.generic_resources[0].discrete_resource_spec.value: 1e+19 is not a number from -9223372036854775808 to 9223372036854775807"),
        ("container_name: x", "E_VALUE 17 w.container_name: 'x' does not match [a-zA-Z0-9][a-zA-Z0-9_.-]+: it needs a letter or digit and at least two characters"),
    ],
)  # fmt: skip
def test_faults(body: str, message: str) -> None:
    assert reading.fault(placement, body) == message


def test_labels_in_both_forms() -> None:
    assert reading.right(placement, "labels: {a: 1, b: , c: x=y}").labels == {
        "a": "1",
        "b": "",
        "c": "x=y",
    }
    assert reading.right(placement, "labels: [a=1, b, c=x=y]").labels == {
        "a": "1",
        "b": "",
        "c": "x=y",
    }


def test_a_container_name_with_other_characters_cannot_run() -> None:
    assert placement.faults(placement.Placement(container_name="my_db.1-x")) == []
    ((key, _, _),) = placement.faults(placement.Placement(container_name="my db"))
    assert key == "container_name"


def test_a_label_without_a_name_cannot_run() -> None:
    section = reading.right(placement, "labels: ['=x']")
    assert placement.faults(section) == [("labels", "a label has an empty name", "")]
