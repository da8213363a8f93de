"""Variables and env files reach the tree; profiles choose the services."""

import pytest

from ic import errors
from ic.compose import environment
from ic.fields import tree
from tests.compose import stacks

ENV = {"A": "a", "B": "b"}


def plain(node: tree.Node) -> object:
    return tree.plain(node)


def test_names_without_a_value_take_that_of_the_environment() -> None:
    node = stacks.node("services: {x: {environment: [A, B=1, C]}, y: {environment: {A: }}}\n")
    assert plain(environment.resolve(node, ENV)) == {
        "services": {"x": {"environment": ["A=a", "B=1", "C"]}, "y": {"environment": {"A": None}}}
    }


def test_a_config_of_the_environment_gets_its_content() -> None:
    node = stacks.node("configs: {x: {environment: A}, y: {environment: Z}, z: }\n")
    assert plain(environment.resolve(node, ENV)) == {
        "configs": {"x": {"environment": "A", "content": "a"}, "y": {"environment": "Z"}, "z": None}
    }


@pytest.mark.parametrize(
    ("profiles", "named", "active"),
    [
        ((), (), {"always"}),
        (("p",), (), {"always", "one"}),
        (("*",), (), {"always", "one", "two"}),
        ((), ("two",), {"always", "two"}),
        (("nope",), ("always",), {"always"}),
    ],
)
def test_profiles_choose_the_services(
    profiles: tuple[str, ...], named: tuple[str, ...], active: set[str]
) -> None:
    node = stacks.node("services: {always: {}, one: {profiles: [p]}, two: {profiles: [q, r]}}")
    assert environment.active(node, profiles, named) == active


def test_no_services_are_no_error() -> None:
    assert environment.active(stacks.node("name: x"), ("*",), ()) == frozenset()


def with_files(text: str, files: dict[str, bytes], *, env_files: bool = True):
    report = tree.Report()

    def read(path: str) -> tuple[str, bytes]:
        if path not in files:
            error = errors.UsageError(f"cannot read {path}: not found (no such file or directory)")
            raise error from FileNotFoundError()
        return path, files[path]

    node = stacks.node(f"services: {{x: {text}, other: {{env_file: [{{path: nope}}]}}}}")
    made = environment.with_files(
        node, {"x"} if env_files else (), {"x"}, ENV, read=read, report=report
    )
    services = made.child("services")
    assert services is not None
    one = services.child("x")
    assert one is not None
    return plain(one), [str(one) for one in report.diagnostics]


def test_env_files_stand_below_the_environment_and_later_ones_win() -> None:
    text = "{env_file: [{path: e}, {path: f}], environment: {X: own, N: , A: }}"
    files = {"e": b"X=e\nY=e\nN=e\nZ=$X$A\n", "f": b"Y=f$Z\n"}
    found, told = with_files(text, files)
    assert found == {"environment": {"X": "own", "Y": "fowna", "Z": "owna", "N": None, "A": "a"}}
    assert told == []


def test_the_raw_format_knows_no_variables() -> None:
    found, _ = with_files("{env_file: [{path: e, format: raw}]}", {"e": b"X='$A' # c\n"})
    assert found == {"environment": {"X": "'$A' # c"}}


def test_a_missing_file_is_an_error_unless_it_may_be_missing() -> None:
    found, told = with_files("{env_file: [{path: e, required: false}]}", {})
    assert (found, told) == ({}, [])
    found, told = with_files("{env_file: [{path: e}]}", {})
    assert found == {}
    assert told == [
        "f:1:34: services.x.env_file: cannot read e: not found (no such file or directory)"
    ]


def test_a_format_that_is_not_known_is_refused() -> None:
    _, told = with_files("{env_file: [{path: e, format: zz}]}", {"e": b"A=1\n"})
    assert told == ["f:1:45: services.x.env_file: unsupported format 'zz'"]


def test_a_fault_in_a_file_has_its_line() -> None:
    _, told = with_files("{env_file: [{path: e}]}", {"e": b"A=1\nB%=2\n"})
    assert told == ["e:2:1: unexpected character '%' in the variable name 'B%'"]


def test_label_files_stand_below_the_labels() -> None:
    text = "{label_file: [l, m], labels: [x=own, bare]}"
    files = {"l": b"x=l\ny=l\n", "m": b"y=m-$y\n"}
    found, told = with_files(text, files, env_files=False)
    assert found == {"labels": ["x=own", "y=m-l", "bare="]}
    assert told == []


def test_without_env_files_they_stay_named() -> None:
    found, _ = with_files("{env_file: [{path: e}], environment: [A]}", {}, env_files=False)
    assert found == {"env_file": [{"path": "e"}], "environment": ["A"]}
