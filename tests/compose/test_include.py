"""`include` brings other stacks in, each with its own directory and variables, and refuses conflicts."""

import pathlib

import pytest

from tests.compose import stacks

MAIN = "include: [{}]\nservices: {{web: {{image: a}}}}\n"


def images(
    root: pathlib.Path, entry: str, env: dict[str, str] | None = None, **files: str
) -> dict[str, str | None]:
    texts: dict[str, str | bytes] = {
        name.replace("__", "/") + ".yaml": text for name, text in files.items()
    }
    stack = stacks.load(root, MAIN.format(entry), env, texts)
    return {name: one.image.image for name, one in stack.services.items()}


def test_short_and_long_entries(tmp_path: pathlib.Path) -> None:
    one, two = "services: {one: {image: '1'}}", "services: {two: {image: '2'}}"
    over = "services: {two: {image: over}}"
    found = images(tmp_path, "one.yaml, {path: [two.yaml, over.yaml]}", one=one, two=two, over=over)
    assert found == {"web": "a", "one": "1", "two": "over"}


def test_an_include_may_include(tmp_path: pathlib.Path) -> None:
    found = images(
        tmp_path,
        "d/one.yaml",
        d__one="include: [e/two.yaml]",
        d__e__two="services: {two: {image: t}}",
    )
    assert found == {"web": "a", "two": "t"}


def test_each_has_its_own_variables_below_those_of_the_including(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"d/.env": "A=env\nB=env\n", "own": "A=own\n", ".env": "B=main\n"})
    one = "services: {one: {image: '$A-$B'}}"
    assert images(tmp_path, "d/one.yaml", d__one=one)["one"] == "env-main"
    assert images(tmp_path, "{path: d/one.yaml, env_file: own}", d__one=one)["one"] == "own-main"
    assert images(tmp_path, "d/one.yaml", {"A": "shell"}, d__one=one)["one"] == "shell-main"


def test_a_conflict_names_both_places(tmp_path: pathlib.Path) -> None:
    one = "services:\n  web: {image: other}\n"
    error = stacks.refused(tmp_path, MAIN.format("one.yaml"), texts={"one.yaml": one})
    assert stacks.faults(error) == [
        "E_MODEL_CONFLICT 2:12 services.web conflicts with the included one at one.yaml:2:3"
    ]


def test_the_same_twice_is_no_conflict(tmp_path: pathlib.Path) -> None:
    one, x = "include: [x.yaml]", "services: {x: {image: x}}"
    assert images(tmp_path, "l.yaml, r.yaml", l=one, r=one, x=x) == {"web": "a", "x": "x"}


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("nope.yaml", "E_FILE 1:11 cannot read nope.yaml: not found (no such file or directory)"),
        ("compose.yaml", "E_INCLUDE_CYCLE 1:11 include cycle detected: "
         "compose.yaml -> compose.yaml"),
        ("1", "E_TYPE 1:11 include[0] must be a string or a mapping, not a number"),
        ("{path: [one.yaml, 2]}", "E_TYPE 1:29 include[0].path[1] must be a string, not a number"),
        ("{path: one.yaml, env_file: nope}",
         "E_FILE 1:38 cannot read nope: not found (no such file or directory)"),
        ("oci://x/y", "E_FILE_REMOTE 1:11 include: oci://x/y is not on this machine; "
         "files from elsewhere are not fetched"),
    ],
)  # fmt: skip
def test_what_cannot_be_included_is_told_where_it_is_named(
    tmp_path: pathlib.Path, entry: str, fault: str
) -> None:
    texts = {"one.yaml": "services: {one: {image: o}}"}
    error = stacks.refused(tmp_path, MAIN.format(entry), texts=texts)
    assert stacks.faults(error) == [fault]


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        ("null", "include[0] names no path, so it includes nothing"),
        ("{env_file: x}", "include[0] names no path, so it includes nothing"),
        ("{path: }", "include[0] names no path, so it includes nothing"),
        (
            "{path: one.yaml, env_files: x}",
            "include[0] has the unknown key 'env_files', which is ignored: did you mean 'env_file'?",
        ),
    ],
)
def test_what_docker_compose_takes_without_effect_is_warned_of(
    tmp_path: pathlib.Path, entry: str, warning: str
) -> None:
    texts: dict[str, str | bytes] = {"one.yaml": "services: {one: {image: o}}"}
    (told,) = stacks.load(tmp_path, MAIN.format(entry), None, texts).diagnostics
    assert (told.code, told.summary) == ("W_INCLUDE", warning)


def test_what_the_including_file_resets_is_the_included_one(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"one.yaml": "services: {one: {image: included}}"})
    text = "services: {one: {image: first, labels: {a: b}}}\n---\n"
    text += "include: [one.yaml]\nservices: {one: !reset null}\n"
    one = stacks.load(tmp_path, text).services["one"]
    assert (one.image.image, one.placement.labels) == ("included", {})


def test_a_missing_file_and_a_missing_env_file_are_told_together(tmp_path: pathlib.Path) -> None:
    text = "include:\n  - path: no.yaml\n    env_file: no.env\nservices: {web: {image: x}}\n"
    assert stacks.faults(stacks.refused(tmp_path, text)) == [
        "E_FILE 2:11 cannot read no.yaml: not found (no such file or directory)",
        "E_FILE 3:15 cannot read no.env: not found (no such file or directory)",
    ]


def test_a_circle_through_other_files_is_refused(tmp_path: pathlib.Path) -> None:
    texts = {"one.yaml": "include: [two.yaml]", "two.yaml": "include: [one.yaml]"}
    error = stacks.refused(tmp_path, MAIN.format("one.yaml"), texts=texts)
    assert stacks.faults(error) == [
        "E_INCLUDE_CYCLE 1:11 include cycle detected: one.yaml -> two.yaml -> one.yaml"
    ]


def test_doubling_at_every_level_is_loaded_once(tmp_path: pathlib.Path) -> None:
    levels = {f"l{i}.yaml": f"include: [l{i + 1}.yaml, r{i + 1}.yaml]" for i in range(40)}
    levels |= {f"r{i}.yaml": f"include: [l{i + 1}.yaml, r{i + 1}.yaml]" for i in range(40)}
    levels |= {"l40.yaml": "services: {x: {image: x}}", "r40.yaml": "services: {x: {image: x}}"}
    stack = stacks.load(tmp_path, MAIN.format("l0.yaml"), None, {**levels})
    assert set(stack.services) == {"web", "x"}


def test_a_thousand_files_may_be_included(tmp_path: pathlib.Path) -> None:
    texts = {f"f{i}.yaml": f"services: {{s{i}: {{image: x}}}}" for i in range(1000)}
    entries = ", ".join(texts)
    stack = stacks.load(tmp_path, MAIN.format(entries), None, {**texts})
    assert len(stack.services) == 1001
