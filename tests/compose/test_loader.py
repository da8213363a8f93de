"""From the command line to a stack: files, variables, names, profiles, env files, and every fault in one go."""

import hashlib
import os
import pathlib
import threading

import pytest

from ic import compose, errors
from ic.compose import files, loader
from ic.fields import image, lifecycle, networking
from tests.compose import stacks

ONE = "services:\n  web:\n    image: ${TAG-none}\n    volumes: ['./v:/v']\n"


def load(root: pathlib.Path, env: dict[str, str] | None = None, **options: object):
    """The stack of files that stand there."""
    return stacks.load(root, None, env, None, **{"project_name": None, **options})


# --- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", files.DEFAULT_NAMES)
def test_default_names(tmp_path: pathlib.Path, name: str) -> None:
    stacks.write(tmp_path, {name: ONE})
    assert list(load(tmp_path).services) == ["web"]


@pytest.mark.parametrize("name", files.OVERRIDE_NAMES)
def test_the_override_beside_a_default_file_is_merged(tmp_path: pathlib.Path, name: str) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE, name: "services: {web: {user: x}}"})
    assert load(tmp_path).services["web"].process.user == "x"


def test_of_several_default_files_the_first_is_used_with_a_warning(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"compose.yml": ONE, "docker-compose.yml": "services: {z: {image: z}}"})
    stack = load(tmp_path)
    assert list(stack.services) == ["web"]
    assert "W_FILES" in {one.code for one in stack.diagnostics}


def test_files_are_searched_upward_and_paths_are_relative_to_them(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"shop/compose.yaml": ONE, "shop/a/b/x": ""})
    stack = load(tmp_path, cwd=str(tmp_path / "shop/a/b"))
    assert stack.name == "shop"
    assert stack.working_dir == str(tmp_path / "shop")
    assert stack.services["web"].storage.volumes[0].source == str(tmp_path / "shop/v")
    assert stack.where("services", "web") == errors.Position("../../compose.yaml", 2, 3)


def test_no_file_at_all_says_what_was_looked_for(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError) as caught:
        load(tmp_path)
    assert caught.value.code == "E_NO_FILE"
    assert "compose.yaml" in caught.value.summary
    assert caught.value.hint == "name one with -f FILE"


def test_several_files_root_at_the_first(tmp_path: pathlib.Path) -> None:
    over = "services: {web: {volumes: ['./o:/o']}}"
    stacks.write(tmp_path, {"d/a.yaml": ONE, "o/b.yaml": over})
    mounts = load(tmp_path, files=("d/a.yaml", "o/b.yaml")).services["web"].storage.volumes
    assert [mount.source for mount in mounts] == [str(tmp_path / "d/v"), str(tmp_path / "d/o")]


def test_the_project_directory_roots_everything(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"d/a.yaml": ONE, "e/.env": "TAG=e\n", "d/.env": "TAG=d\n"})
    stack = load(tmp_path, files=("d/a.yaml",), project_directory="e")
    assert stack.services["web"].image.image == "e"
    assert stack.services["web"].storage.volumes[0].source == str(tmp_path / "e/v")
    assert stack.name == "e"


@pytest.mark.parametrize(
    ("files", "root"), [(("-",), "."), (("d/x.yaml", "-"), "d"), (("-", "d/x.yaml"), "d")]
)
def test_standard_input(tmp_path: pathlib.Path, files: tuple[str, ...], root: str) -> None:
    stacks.write(tmp_path, {"d/x.yaml": "services: {other: {image: o}}"})
    options = loader.Options(files=files, cwd=str(tmp_path), project_name="s")
    stack = loader.load(options, {}, ONE.encode)
    assert stack.services["web"].storage.volumes[0].source == str((tmp_path / root / "v").resolve())
    assert stack.where("services", "web") == errors.Position("<stdin>", 2, 3)


def test_files_of_the_environment(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"c/a.yaml": ONE, "b.yaml": "services: {z: {image: z}}"})
    assert len(load(tmp_path, {"COMPOSE_FILE": "c/a.yaml:b.yaml"}).services) == 2
    env = {"COMPOSE_FILE": "c/a.yaml,b.yaml", "COMPOSE_PATH_SEPARATOR": ","}
    assert len(load(tmp_path, env).services) == 2


@pytest.mark.parametrize("name", ["nope.yaml", "d", "\0"])
def test_a_file_that_cannot_be_read(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(errors.UsageError) as caught:
        load(tmp_path, files=(name,))
    assert caught.value.code == "E_FILE"


def test_a_loop_of_links_is_an_error(tmp_path: pathlib.Path) -> None:
    os.symlink("b.yaml", tmp_path / "a.yaml")
    os.symlink("a.yaml", tmp_path / "b.yaml")
    with pytest.raises(errors.UsageError):
        load(tmp_path, files=("a.yaml",))


def test_a_pipe_is_read_once_and_one_that_nobody_writes_to_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIPE_WAIT_S", 0.3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(errors.UsageError, match="nothing was written"):
        load(tmp_path, files=("pipe",))
    feeder = threading.Thread(target=lambda: pipe.write_text(ONE))
    feeder.start()
    monkeypatch.setattr(files, "PIPE_WAIT_S", 10.0)
    assert list(load(tmp_path, files=("pipe",)).services) == ["web"]
    feeder.join()


def test_every_file_read_is_named_with_its_digest(tmp_path: pathlib.Path) -> None:
    texts = {
        "compose.yaml": "services: {a: {image: x, env_file: [e.env, {path: no.env, required: false}]}}",
        "compose.override.yaml": "services: {a: {user: u}}",
        ".env": "A=1\n",
        "e.env": "B=2\n",
    }
    stacks.write(tmp_path, texts)
    expected = {
        str(tmp_path / name): hashlib.sha256(text.encode()).hexdigest()
        for name, text in texts.items()
    }
    assert dict(load(tmp_path).files) == expected


def test_a_companion_is_laid_on_its_file(tmp_path: pathlib.Path) -> None:
    beside = "services: {web: {image: beside}}"
    stacks.write(tmp_path, {"compose.yaml": ONE, "compose.incus.yaml": beside})
    assert load(tmp_path).services["web"].image.image == "beside"
    assert load(tmp_path, companions=False).services["web"].image.image == "none"


def test_standard_input_and_what_is_included_or_extended_have_no_companions(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = "services: {web: {user: taken}, base: {user: taken}, more: {user: taken}}"
    stacks.write(
        tmp_path,
        {
            "-.incus.yaml": taken,
            "base.yaml": "services: {base: {image: b}}",
            "base.incus.yaml": taken,
            "more.yaml": "services: {more: {image: m}}",
            "more.incus.yaml": taken,
        },
    )
    text = "include: [more.yaml]\nservices: {web: {extends: {file: base.yaml, service: base}}}\n"
    options = loader.Options(files=("-",), cwd=str(tmp_path), project_name="s")
    stack = loader.load(options, {}, text.encode)
    assert [one.process.user for one in stack.services.values()] == [None, None]
    assert stack.merged == ("<stdin>",)


def test_a_file_of_comments_beside_another_one_adds_nothing(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE, "compose.override.yaml": "# nothing yet\n"})
    assert list(load(tmp_path).services) == ["web"]
    error = stacks.refused(tmp_path, "# nothing\n", texts={"compose.override.yaml": ""})
    assert stacks.faults(error) == ["E_YAML 1:1 the compose file is empty"]


# --- variables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "env", "options", "image_name"),
    [
        ({".env": "TAG=dot"}, {}, {}, "dot"),
        ({".env": "TAG=dot"}, {"TAG": "process"}, {}, "process"),
        ({".env": "TAG=dot"}, {"COMPOSE_DISABLE_ENV_FILE": "1"}, {}, "none"),
        ({".env": "TAG=dot", "e": "TAG=e"}, {}, {"env_files": ("e",)}, "e"),
        ({"e": "TAG=e", "f": "TAG=f"}, {}, {"env_files": ("e", "f")}, "f"),
        ({"e": "A=1", "f": "TAG=x$A"}, {}, {"env_files": ("e", "f")}, "x1"),
        ({"e": "TAG=e", "f": "TAG=f"}, {"COMPOSE_ENV_FILES": "e,f"}, {}, "f"),
        ({"e": "TAG=e"}, {"COMPOSE_ENV_FILES": "e", "COMPOSE_DISABLE_ENV_FILE": "1"}, {}, "e"),
    ],
)
def test_where_variables_come_from(
    tmp_path: pathlib.Path,
    files: dict[str, str],
    env: dict[str, str],
    options: dict[str, tuple[str, ...]],
    image_name: str,
) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE, **files})
    assert load(tmp_path, env, **options).services["web"].image.image == image_name


def test_the_env_file_stands_beside_the_first_file(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"sub/a.yaml": ONE, ".env": "TAG=top", "sub/.env": "TAG=sub"})
    assert load(tmp_path, files=("sub/a.yaml",)).services["web"].image.image == "sub"


def test_above_and_here_are_both_read_and_here_wins(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {image: '$A-$B'}}"
    stacks.write(tmp_path, {"compose.yaml": text, ".env": "A=up\nB=up", "deep/.env": "A=deep"})
    assert load(tmp_path, cwd=str(tmp_path / "deep")).services["web"].image.image == "deep-up"


def test_the_env_file_may_name_files_and_stack(tmp_path: pathlib.Path) -> None:
    stacks.write(
        tmp_path, {"c/a.yaml": ONE, ".env": "COMPOSE_FILE=c/a.yaml\nCOMPOSE_PROJECT_NAME=n"}
    )
    assert load(tmp_path).name == "n"


def test_a_missing_env_file_is_an_error(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE})
    with pytest.raises(errors.UsageError, match="nope"):
        load(tmp_path, env_files=("nope",))


def test_a_fault_in_an_env_file_has_its_line(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE, ".env": "A=1\nB%=2\n"})
    with pytest.raises(errors.ComposeError) as caught:
        load(tmp_path)
    (one,) = caught.value.diagnostics
    assert (one.code, str(one.position)) == ("E_ENV_FILE", ".env:2:1")


def test_a_switch_that_is_neither_yes_nor_no_is_an_error(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE})
    with pytest.raises(errors.UsageError, match="COMPOSE_DISABLE_ENV_FILE"):
        load(tmp_path, {"COMPOSE_DISABLE_ENV_FILE": "maybe"})


# --- name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "env", "given", "name"),
    [
        ("", {}, None, "shop"),
        ("name: blog\n", {}, None, "blog"),
        ("name: My Blog\n", {}, None, "myblog"),
        ("name: ${N:-x}y\n", {}, None, "xy"),
        ("name: blog\n", {"COMPOSE_PROJECT_NAME": "env"}, None, "env"),
        ("name: blog\n", {"COMPOSE_PROJECT_NAME": "env"}, "flag", "flag"),
        ("name: blog\n", {"COMPOSE_PROJECT_NAME": ""}, "", "blog"),
        ("name: a\n---\nname: b\n", {}, None, "b"),
    ],
)
def test_the_name_of_the_stack(
    tmp_path: pathlib.Path, text: str, env: dict[str, str], given: str | None, name: str
) -> None:
    stacks.write(tmp_path, {"Shop!/compose.yaml": text + ONE})
    options = {"cwd": str(tmp_path / "Shop!"), "project_name": given}
    assert load(tmp_path, env, **options).name == name
    assert loader.stack_name(loader.Options(**options), env) == name  # pyright: ignore[reportArgumentType]


def test_the_name_is_a_variable_of_the_files(tmp_path: pathlib.Path) -> None:
    stacks.write(
        tmp_path, {"compose.yaml": "name: n\nservices: {a: {image: '${COMPOSE_PROJECT_NAME}'}}"}
    )
    assert load(tmp_path).services["a"].image.image == "n"


@pytest.mark.parametrize("name", ["Shop", "a b", "-a", "\u00e9", "a/b", "../x"])
def test_a_name_that_is_none_is_refused_with_one_that_is(tmp_path: pathlib.Path, name: str) -> None:
    stacks.write(tmp_path, {"compose.yaml": ONE})
    with pytest.raises(errors.UsageError) as caught:
        load(tmp_path, project_name=name)
    assert caught.value.code == "E_NAME"
    assert caught.value.hint == (
        f"write {loader.normalized_name(name)}" if loader.normalized_name(name) else ""
    )


def test_a_name_in_the_file_that_holds_nothing_usable_is_refused(tmp_path: pathlib.Path) -> None:
    error = stacks.refused(tmp_path, "name: '!'\n" + ONE, project_name=None)
    assert stacks.faults(error) == ["E_NAME 1:7 name: '!' holds no letter or digit"]


def test_a_directory_without_a_letter_needs_a_name(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"--/compose.yaml": ONE})
    with pytest.raises(errors.UsageError, match="cannot name the stack after the directory"):
        load(tmp_path, cwd=str(tmp_path / "--"))


def test_the_name_needs_no_file(tmp_path: pathlib.Path) -> None:
    assert loader.stack_name(loader.Options(cwd=str(tmp_path), project_name="n"), {}) == "n"
    nowhere = tmp_path / "there"
    nowhere.mkdir()
    assert loader.stack_name(loader.Options(cwd=str(nowhere)), {}) == "there"


# --- profiles -----------------------------------------------------------------------------------------

PROFILES = """services:
  a: {image: a, profiles: [p]}
  b: {image: b, profiles: [q, r]}
  c: {image: c}
"""


@pytest.mark.parametrize(
    ("options", "env", "active"),
    [
        ({}, {}, "c"),
        ({"profiles": ("p",)}, {}, "ac"),
        ({"profiles": ("q", "p")}, {}, "abc"),
        ({"profiles": ("*",)}, {}, "abc"),
        ({}, {"COMPOSE_PROFILES": "p, r"}, "abc"),
        ({"profiles": ("q",)}, {"COMPOSE_PROFILES": "p"}, "bc"),
        ({"profiles": ("none",)}, {}, "c"),
        ({"services": ("a",)}, {}, "ac"),
    ],
)
def test_profiles(
    tmp_path: pathlib.Path, options: dict[str, tuple[str, ...]], env: dict[str, str], active: str
) -> None:
    stack = stacks.load(tmp_path, PROFILES, env, None, **options)
    assert "".join(sorted(stack.services)) == active
    assert not stack.services.keys() & stack.inactive.keys()
    assert len(stack.services) + len(stack.inactive) == 3


# --- env files of services ----------------------------------------------------------------------------


def environment(root: pathlib.Path, body: str, **files: str) -> dict[str, str]:
    text = f"services:\n  web:\n    image: a\n{body}"
    stack = stacks.load(
        root, text, {"P": "pv"}, {name.replace("_", "."): one for name, one in files.items()}
    )
    return stack.services["web"].process.environment


def test_later_files_win_and_the_environment_wins_over_all(tmp_path: pathlib.Path) -> None:
    body = "    env_file: [a.env, b.env]\n    environment: {D: own, P: }\n"
    found = environment(tmp_path, body, a_env="A=1\nB=2\nP=no\n", b_env="A=3\nC=$B$P\nD=no\n")
    assert found == {"A": "3", "B": "2", "C": "2pv", "D": "own", "P": "pv"}


def test_a_name_without_a_value_hides_that_of_a_file(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {image: a, env_file: a.env, environment: [A]}}"
    process = stacks.load(tmp_path, text, None, {"a.env": "A=1\nB=2\n"}).services["web"].process
    assert (process.environment, process.unresolved) == ({"B": "2"}, ("A",))


def test_the_raw_format(tmp_path: pathlib.Path) -> None:
    body = "    env_file: [{path: a.env, format: raw}]\n"
    assert environment(tmp_path, body, a_env="A=$P 'x'\n") == {"A": "$P 'x'"}


def test_a_missing_file_is_an_error_unless_it_may_be_missing(tmp_path: pathlib.Path) -> None:
    assert environment(tmp_path, "    env_file: [{path: no.env, required: false}]\n") == {}
    error = stacks.refused(tmp_path, "services: {web: {image: a, env_file: no.env}}")
    assert stacks.faults(error) == [
        "E_FILE 1:38 services.web.env_file: cannot read no.env: not found (no such file or directory)"
    ]


def test_files_of_inactive_services_are_not_read(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {image: a, env_file: no.env, profiles: [p]}}"
    assert list(stacks.load(tmp_path, text).inactive) == ["web"]


# --- the model ----------------------------------------------------------------------------------------


def test_a_service_without_networks_is_on_default(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(tmp_path, "services: {web: {image: a}}")
    assert stack.services["web"].networking.networks == {"default": networking.Attachment()}
    assert list(stack.networks) == ["default"]


def test_networks_and_volumes(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(
        tmp_path,
        """
services: {web: {image: a, networks: [front, back, old], volumes: ['data:/d', 'ext:/e']}}
networks:
  front: {driver: bridge, internal: true, labels: [a=b, c], name: n,
    ipam: {driver: default, config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1}]}, x-note: 1}
  back: {external: true}
  old: {external: {name: older}}
volumes:
  data: {driver: local, labels: {a: 1}}
  ext: {external: true, name: other}
x-top: {a: [1, null]}
""",
    )
    front = stack.networks["front"]
    assert (front.subnet, front.gateway, front.internal) == ("10.9.0.0/24", "10.9.0.1", True)
    assert (front.name, front.labels, front.extensions) == ("n", {"a": "b", "c": ""}, {"x-note": 1})
    assert (stack.networks["back"].external, stack.networks["back"].name) == (True, None)
    assert (stack.networks["old"].external, stack.networks["old"].name) == (True, "older")
    assert stack.volumes["data"].labels == {"a": "1"}
    assert (stack.volumes["ext"].external, stack.volumes["ext"].name) == (True, "other")
    assert stack.extensions == {"x-top": {"a": [1, None]}}
    assert [one.code for one in stack.diagnostics] == ["W_DEPRECATED"]


def test_the_version_is_ignored_with_one_warning(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(tmp_path, "version: '3.9'\nservices: {web: {image: a}}")
    assert [(one.code, str(one.position)) for one in stack.diagnostics] == [
        ("W_VERSION", "compose.yaml:1:1")
    ]


def test_an_unset_variable_warns_once_with_its_first_place(tmp_path: pathlib.Path) -> None:
    stack = stacks.load(tmp_path, "services:\n  a: {image: x$U}\n  b: {image: y$U}\n")
    assert [f"{one.code} {one.position}" for one in stack.diagnostics] == [
        "W_UNSET compose.yaml:2:14"
    ]


def test_all_sections_of_a_service(tmp_path: pathlib.Path) -> None:
    web = stacks.service(tmp_path, "pull_policy: if_not_present\nrestart: always\nx-note: [1]")
    assert web.image == image.Image(image="a", pull_policy="missing")
    assert web.lifecycle == lifecycle.Lifecycle(restart="always")
    assert web.extensions == {"x-note": [1]}


def test_positions_of_ports_and_mounts_are_by_their_index_in_the_stack(
    tmp_path: pathlib.Path,
) -> None:
    stack = stacks.load(
        tmp_path,
        "services:\n  a:\n    image: x\n    ports:\n    - 80-81:80-81\n    - 90:90\n"
        "    volumes:\n    - /a\n    - /b\n    tmpfs: /c\n    environment:\n    - A=1\n",
    )
    where = [stack.where("services", "a", "ports", i) for i in range(3)]
    assert [one.line for one in where if one] == [5, 5, 6]
    where = [stack.where("services", "a", "volumes", i) for i in range(2)]
    assert [one.line for one in where if one] == [8, 9]
    assert stack.where("services", "a", "environment", "A") == errors.Position(
        "compose.yaml", 12, 7
    )


# --- faults -------------------------------------------------------------------------------------------


def test_all_faults_of_all_files_are_told_at_once(tmp_path: pathlib.Path) -> None:
    stacks.write(
        tmp_path,
        {
            "compose.yaml": "services:\n  web:\n    imgae: a\n    cap_add: [x]\n    ports: [x]\n",
            "compose.override.yaml": "services:\n  web:\n    image: b\n    privileged: true\nsecrets: {s: {file: f}}\n",
        },
    )
    with pytest.raises(errors.ComposeError) as caught:
        load(tmp_path)
    assert caught.value.summary == "cannot read the stack: 5 mistakes in the compose files"
    assert [f"{one.position}: {one.code} {one.hint}" for one in caught.value.diagnostics] == [
        "compose.yaml:3:5: E_UNKNOWN_KEY did you mean 'image'?",
        "compose.yaml:4:5: E_UNSUPPORTED ",
        "compose.yaml:5:13: E_VALUE ",
        "compose.override.yaml:4:5: E_UNSUPPORTED ",
        "compose.override.yaml:5:1: E_UNSUPPORTED ",
    ]


def test_a_service_whose_image_is_a_typo_is_not_told_to_have_none(tmp_path: pathlib.Path) -> None:
    error = stacks.refused(tmp_path, "services: {web: {imgae: a}}")
    assert [one.code for one in error.diagnostics] == ["E_UNKNOWN_KEY"]


def test_a_home_that_is_not_set_is_an_error_where_it_is_used(tmp_path: pathlib.Path) -> None:
    text = "services: {web: {image: a, volumes: ['~/x:/x'], env_file: ~/e}}"
    codes = [str(one) for one in stacks.refused(tmp_path, text).diagnostics]
    assert codes == [
        "compose.yaml:1:38: '~' has no meaning: HOME is not set",
        "compose.yaml:1:59: '~' has no meaning: HOME is not set",
    ]


def test_no_message_holds_the_value_of_a_variable(tmp_path: pathlib.Path) -> None:
    for content in ("A='s3cret\n", 'A="s3cret\n', "A%=s3cret\n", "A=s3cret\0\n", "A=s3cret${\n"):
        stacks.write(tmp_path, {".env": content})
        error = stacks.refused(tmp_path, "services: {web: {image: a, command: x}}")
        assert "s3cret" not in repr((error, error.diagnostics))


FAULTS = {
    "services: {web: {image: a}}\nservcies: {}\n": "E_UNKNOWN_KEY 2:1 the top level has the unknown key 'servcies', which is not allowed",
    "services: {web: {image: a}}\ninclude: [x.yaml]\n": "E_FILE 2:11 cannot read x.yaml: not found (no such file or directory)",
    "services: {web: {image: a, x-incus: {}}}\n": "E_UNSUPPORTED 1:28 services.web.x-incus is not supported yet",
    "x-ic: {helthd: false}\nservices: {web: {image: a}}\n": "E_UNKNOWN_KEY 1:8 x-ic has the unknown key 'helthd', which is not allowed",
    "services: {web: {image: a}}\nnetworks: {n: {x-ic: {}}}\n": "E_UNSUPPORTED 2:16 networks.n.x-ic is not supported yet",
    "services: {web: {image: a}}\nnetworks: {n: {x-incus-compose: {}}}\n":
        "E_UNSUPPORTED 2:16 networks.n.x-incus-compose is not supported yet",
    "services: {web: {build: .}}\n": "E_UNSUPPORTED 1:18 services.web.build is not supported yet",
    "services: {web: {image: a, x-ic: {on_unhealthy: reboot}}}\n":
        "E_VALUE 1:49 services.web.x-ic.on_unhealthy must be one of restart, stop, kill, none, not 'reboot'",
    "services: []\n": "E_TYPE 1:11 services must be a mapping, not an array",
    "services: {web: x}\n": "E_TYPE 1:17 services.web must be a mapping, not a string",
    "services: {web: {image: 5}}\n": "E_TYPE 1:25 services.web.image must be a string, not a number",
    "services: {'a b': {image: x}}\n":
        "E_NAME 1:12 services has the name 'a b': letters, digits, '.', '_' and '-' are allowed",
    "[]\n": "E_TYPE 1:1 the top-level object must be a mapping, not an array",
    "": "E_YAML 1:1 the compose file is empty",
    "services: {a: {image: x}}\nnetworks: {n: {driver: macvlan}}\n":
        "E_UNSUPPORTED 2:24 networks.n.driver: 'macvlan' is not supported yet",
    "services: {a: {image: x}}\nvolumes: {v: {driver: nfs}}\n":
        "E_UNSUPPORTED 2:23 volumes.v.driver: 'nfs' is not supported yet",
    "services: {a: {image: x}}\nvolumes: {v: {external: true, driver: local}}\n":
        "E_MODEL_CONFLICT 2:31 volumes.v: driver and external conflict (external stands at compose.yaml:2:15)",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.1/24}]}}}\n":
        "E_VALUE 2:41 networks.n.ipam: '10.0.0.1/24' is not a subnet: it begins at 10.0.0.0/24",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.1.0.1}]}}}\n":
        "E_VALUE 2:63 networks.n.ipam: the gateway '10.1.0.1' is not an address of 10.0.0.0/24",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{gateway: 10.1.0.1}]}}}\n":
        "E_VALUE 2:32 networks.n.ipam: a gateway needs its subnet",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/31}]}}}\n":
        "E_VALUE 2:41 networks.n.ipam: 10.0.0.0/31 has no room for a service",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: 'fd00::/64'}]}}}\n":
        "E_UNSUPPORTED 2:41 networks.n.ipam: the IPv6 subnet fd00::/64 is not supported yet",
    "services: {a: {image: x}}\nnetworks: {n: {ipam: {config: [{subnet: 10.0.0.0/24}, {subnet: 10.1.0.0/24}]}}}\n":
        "E_UNSUPPORTED 2:55 networks.n.ipam.config: a second subnet is not supported yet",
    "services: {a: {image: '${A:?set it}'}}\n":
        "E_INTERP_REQUIRED 1:23 services.a.image: required variable A is missing a value: set it",
}  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), FAULTS.items())
def test_one_fault(tmp_path: pathlib.Path, text: str, fault: str) -> None:
    error = stacks.refused(tmp_path, text)
    assert stacks.faults(error) == [fault]
    assert error.exit_status == 1


def test_broken_files_are_all_told(tmp_path: pathlib.Path) -> None:
    stacks.write(tmp_path, {"a.yaml": "a: {", "b.yaml": "a: 1\na: 2\n"})
    with pytest.raises(errors.ComposeError) as caught:
        load(tmp_path, files=("a.yaml", "b.yaml"))
    assert [str(one.position) for one in caught.value.diagnostics] == ["a.yaml:1:5", "b.yaml:2:1"]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("services: {a: {image: i, ports: [" + ", ".join(
            f"'{i}.0.0.1:1-65535:1-65535'" for i in range(1, 3)) + "]}}", {}),
        ("services: {" + ", ".join(f"s{i}: {{image: i, env_file: e}}" for i in range(30)) + "}",
         {"e": "".join(f"V{i}=x\n" for i in range(20_000))}),
        ("services:\n  b: {image: i, labels: {" + ", ".join(f"k{i}: v" for i in range(5000)) + "}}\n"
         + "".join(f"  s{i}: {{extends: b, labels: {{x: y}}}}\n" for i in range(110)), {}),
    ],
    ids=["ports", "env files", "extends"],
)  # fmt: skip
def test_what_grows_beyond_its_files_is_refused(
    tmp_path: pathlib.Path, text: str, files: dict[str, str]
) -> None:
    error = stacks.refused(tmp_path, text, texts=files)
    assert error.code == "E_LIMIT"
    assert "make over 200000 values" in error.summary


def test_the_library_takes_paths_and_variables_and_prints_nothing(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    stack = compose.load([tmp_path / "one.yaml"], {"TAG": "given"})
    assert isinstance(stack, compose.Stack)
    assert stack.services["web"].image.image == "given"
    assert stack.working_dir == str(tmp_path)
    assert capfd.readouterr() == ("", "")
