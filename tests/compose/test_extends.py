"""`extends` follows chains through files to their end, and refuses circles."""

import pathlib

import pytest

from ic import errors
from tests.compose import stacks


def web(root: pathlib.Path, text: str, **files: str) -> dict[str, str]:
    """The environment of the service `web`."""
    texts = {f"{name}.yaml": body for name, body in files.items()}
    return stacks.load(root, text, None, texts).services["web"].process.environment


BASE = "services: {base: {image: b, environment: {A: base, B: base}}}\n"


def test_a_service_of_the_same_file_and_of_another(tmp_path: pathlib.Path) -> None:
    own = "web: {extends: base, environment: {B: web}}"
    assert web(tmp_path, BASE.rstrip("}\n") + "}}, " + own + "}") == {"A": "base", "B": "web"}
    text = "services: {web: {extends: {file: base.yaml, service: base}, environment: {B: web}}}"
    assert web(tmp_path, text, base=BASE) == {"A": "base", "B": "web"}


def test_a_chain_goes_through_files(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {extends: {file: one.yaml, service: web}, environment: {A: web}}}"
    one = "services: {web: {extends: mid, environment: {B: one}}, mid: {extends: {file: two.yaml, service: base}}}"
    two = "services: {base: {image: b, environment: {A: two, B: two, C: two}}}"
    assert web(tmp_path, text, one=one, two=two) == {"A": "web", "B": "one", "C": "two"}


def test_a_long_chain_is_followed(tmp_path: pathlib.Path) -> None:
    links = "".join(f"  s{i}: {{extends: s{i + 1}}}\n" for i in range(900))
    text = f"services:\n  web: {{extends: s0}}\n{links}  s900: {{image: deep}}\n"
    assert stacks.load(tmp_path, text).services["web"].image.image == "deep"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "services: {web: {image: a, extends: nope}, nop: {image: a}}",
            "E_REFERENCE 1:37 services.web.extends: service 'nope' not found in compose.yaml",
        ),
        (
            "services: {web: {image: a, extends: {file: nope.yaml, service: x}}}",
            "E_FILE 1:44 cannot read nope.yaml: not found (no such file or directory)",
        ),
        (
            "services: {web: {image: a, extends: {file: empty.yaml, service: x}}}",
            "E_REFERENCE 1:65 services.web.extends: service 'x' not found in empty.yaml",
        ),
        (
            "services: {web: {image: a, extends: {file: https://example.com/x.yaml, service: x}}}",
            "E_FILE_REMOTE 1:44 extends: https://example.com/x.yaml is not on this machine; "
            "files from elsewhere are not fetched",
        ),
    ],
)
def test_what_cannot_be_extended_is_told_where_it_is_named(
    tmp_path: pathlib.Path, text: str, fault: str
) -> None:
    stacks.write(tmp_path, {"empty.yaml": "x-nothing: 1\n"})
    assert stacks.faults(stacks.refused(tmp_path, text)) == [fault]


def test_circles_are_refused_with_their_services(tmp_path: pathlib.Path) -> None:
    text = "services: {a: {image: x, extends: b}, b: {image: x, extends: a}}"
    found = stacks.faults(stacks.refused(tmp_path, text))
    assert (
        found[0]
        == "E_EXTENDS_CYCLE 1:35 services extend each other in a cycle (circular reference): a -> b -> a"
    )
    other = "services: {b: {image: x, extends: {file: compose.yaml, service: a}}}"
    text = "services: {a: {image: x, extends: {file: other.yaml, service: b}}}"
    error = stacks.refused(tmp_path, text, texts={"other.yaml": other})
    assert "a (compose.yaml) -> b (other.yaml) -> a (compose.yaml)" in stacks.faults(error)[0]
    itself = stacks.refused(tmp_path, "services: {a: {image: x, extends: a}}")
    assert "a -> a" in stacks.faults(itself)[0]


def test_a_fault_is_told_once_for_all_who_meet_it(tmp_path: pathlib.Path) -> None:
    ring = "a: {extends: b}, b: {extends: c}, c: {extends: a}, d: {extends: a}, e: {extends: d}"
    (told,) = stacks.faults(stacks.refused(tmp_path, f"services: {{{ring}}}"))
    assert told.endswith("(circular reference): a -> b -> c -> a")
    text = "services: {a: {extends: b}, b: {extends: gone}, c: {extends: b}}"
    (told,) = stacks.faults(stacks.refused(tmp_path, text))
    assert told == "E_REFERENCE 1:42 services.b.extends: service 'gone' not found in compose.yaml"


def test_a_key_that_extends_does_not_know_is_named(tmp_path: pathlib.Path) -> None:
    warning = (
        "services.web.extends has the unknown key 'fil', which is ignored: did you mean 'file'?"
    )
    error = stacks.refused(tmp_path, "services: {web: {image: a, extends: {fil: base.yaml}}}")
    assert [one.summary for one in error.diagnostics] == [
        "services.web.extends must name a service",
        warning,
    ]
    text = "services: {web: {extends: {fil: x, service: db}}, db: {image: b}}"
    (told,) = stacks.load(tmp_path, text).diagnostics
    assert (told.code, told.severity, told.summary) == ("W_EXTENDS", "warning", warning)
    assert told.position == errors.Position("compose.yaml", 1, 28)


def test_reset_and_override_work_on_what_is_extended(tmp_path: pathlib.Path) -> None:
    own = "web: {extends: base, environment: {A: !reset null}, labels: !override {n: w}}"
    base = "base: {image: b, environment: {A: base, B: base}, labels: {o: b}}"
    stack = stacks.load(tmp_path, f"services: {{{base}, {own}}}")
    assert stack.services["web"].process.environment == {"B": "base"}
    assert stack.services["web"].placement.labels == {"n": "w"}


def test_reset_works_within_the_file_that_is_extended(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {extends: {file: base.yaml, service: b}}}"
    base = "services: {b: {extends: c, labels: !reset [], environment: !override [A=b]}, "
    base += "c: {image: c, labels: [l=c], environment: [A=c, B=c]}}"
    service = stacks.load(tmp_path, text, None, {"base.yaml": base}).services["web"]
    assert service.image.image == "c"
    assert service.placement.labels == {}
    assert service.process.environment == {"A": "b"}


def test_an_empty_file_has_nothing_to_extend(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {extends: {file: base.yaml, service: b}}}"
    error = stacks.refused(tmp_path, text, texts={"base.yaml": "# nothing"})
    assert stacks.faults(error) == [
        "E_REFERENCE 1:54 services.web.extends: service 'b' not found in base.yaml"
    ]
