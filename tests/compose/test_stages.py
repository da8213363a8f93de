"""The stages that walk a whole stack by its schema."""

import pytest

from ic.compose import merge, model, stages
from ic.fields import schema, tree
from tests.compose import samples, stacks


def of_service(body: str) -> tree.Node:
    return stacks.node(f"services: {{w: {{{body}}}}}")


@pytest.mark.parametrize(
    ("body", "made"),
    [
        ("privileged: 'true', scale: '3', cpus: '0.5'", {"privileged": True, "scale": 3, "cpus": 0.5}),
        ("ports: [{target: '80'}]", {"ports": [{"target": 80}]}),
        ("ulimits: {a: '1', b: {soft: '2'}}", {"ulimits": {"a": 1, "b": {"soft": 2}}}),
        ("volumes: [{read_only: 'FALSE', volume: {nocopy: 'true'}}]", {"volumes": [{"read_only": False, "volume": {"nocopy": True}}]}),
        ("image: 'true', attach: 'true', environment: {A: '1'}", {"image": "true", "attach": "true", "environment": {"A": "1"}}),
        ("build: {ulimits: {a: '1'}}", {"build": {"ulimits": {"a": "1"}}}),
    ],
)  # fmt: skip
def test_texts_become_what_their_keys_want(body: str, made: object) -> None:
    report = tree.Report()
    root = of_service(body)
    assert tree.plain(stages.cast(root, report)) == {"services": {"w": made}}
    assert report.diagnostics == []
    assert tree.plain(root) == tree.plain(of_service(body))


def test_a_text_that_does_not_fit_is_told_once_and_not_checked_again() -> None:
    report = tree.Report()
    root = stages.cast(of_service("scale: many, tty: 'on'"), report)
    stages.check(root, report)
    assert [(one.code, str(one)) for one in report.diagnostics] == [
        ("E_TYPE", "f:1:23: services.w.scale must be an integer, not 'many'"),
        ("W_BOOLEAN", "f:1:34: services.w.tty: 'on' is read as true; write true"),
    ]


def test_what_stands_for_an_absent_key_is_filled_in() -> None:
    body = (
        "build: {}, ports: [{target: 80}, {target: 81, protocol: udp, mode: host}], "
        "secrets: [{source: s}], gpus: [{}], deploy: {resources: {reservations: {devices: [{}]}}}"
    )
    assert tree.plain(stages.fill(of_service(body), tree.Report())) == {
        "services": {
            "w": {
                "build": {"context": "."},
                "ports": [
                    {"target": 80, "protocol": "tcp", "mode": "ingress"},
                    {"target": 81, "protocol": "udp", "mode": "host"},
                ],
                "secrets": [{"source": "s", "target": "/run/secrets/s"}],
                "gpus": [{"count": "all"}],
                "deploy": {"resources": {"reservations": {"devices": [{"count": "all"}]}}},
            }
        }
    }


@pytest.mark.parametrize(
    "body",
    ["ports: ['80', '${A}:90']", "volumes: ['${A:-b}:/x', '/a::b']", "build: {additional_contexts: ['${A}']}"],
)  # fmt: skip
def test_while_variables_are_not_filled_in_what_cannot_be_read_stays(body: str) -> None:
    report = tree.Report(lenient=True)
    stages.long(of_service(body), report)
    assert report.diagnostics == []
    strict = tree.Report()
    stages.long(of_service(body), strict)
    assert strict.failed


@pytest.mark.parametrize("body", ["ulimits: {n: '${A}'}", "build: {ulimits: {n: '${A}'}}"])
def test_a_limit_is_no_text_even_then(body: str) -> None:
    report = tree.Report(lenient=True)
    stages.long(of_service(body), report)
    assert [one.code for one in report.diagnostics] == ["E_TYPE"]


def test_a_list_of_ports_with_a_variable_stays_whole() -> None:
    made = stages.long(of_service("ports: ['80', '${A}:90']"), tree.Report(lenient=True))
    assert tree.plain(made) == {"services": {"w": {"ports": ["80", "${A}:90"]}}}


def keys() -> list[tuple[str, schema.Key]]:
    """Every key of a service, and of the top level."""
    service = [(name, key) for name, key in (model.SERVICE.keys or {}).items()]
    return sorted(service)


@pytest.mark.parametrize(("name", "key"), keys())
def test_a_sample_of_every_key_is_taken_and_its_long_form_is_a_fixed_point(
    name: str, key: schema.Key
) -> None:
    report = tree.Report()
    root = stages.cast(of_service(f"{name}: {samples.flow(key)}"), report)
    once = merge.unique(stages.long(root, report))
    stages.check(once, report)
    stages.values(once, report)
    assert report.diagnostics == []
    assert tree.plain(stages.long(once, report)) == tree.plain(once)


@pytest.mark.parametrize(("name", "key"), keys())
@pytest.mark.parametrize("wrong", ["[[]]", "{'': {}}", "1.5", "[{}]"])
def test_no_value_whatever_brings_a_stage_down(name: str, key: schema.Key, wrong: str) -> None:
    del key
    report = tree.Report()
    root = stages.cast(of_service(f"{name}: {wrong}"), report)
    stages.check(root, report)
    root = stages.fill(merge.unique(stages.long(merge.unique(root), report)), report)
    stages.values(root, report)
    assert all(one.position for one in report.diagnostics)
