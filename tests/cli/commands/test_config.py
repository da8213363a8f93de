"""`ic config`: the stack as understood, without a server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ic.cli import main
from tests.incus import fake

COMPOSE = """\
services:
  web: {image: "nginx:${TAG:-1}", networks: [inner], volumes: ["data:/data"]}
  db: {image: postgres, profiles: [full]}
networks: {inner: {}}
volumes: {data: {}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCUS_SOCKET", "/no/such/socket")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["config", "--services"], "web\n"),
        (["--profile", "full", "config", "--services"], "db\nweb\n"),
        (["config", "--services", "db"], "web\n"),
        (["config", "--images", "db"], "postgres\n"),
        (["config", "--volumes"], "data\n"),
        (["config", "--networks"], "inner\n"),
        (["config", "--images"], "nginx:1\n"),
        (["config", "--profiles"], "full\n"),
        (["config", "-q"], ""),
        (["-q", "config"], ""),
    ],
)
def test_parts_are_printed_one_a_line(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(argv) == 0
    assert capsys.readouterr().out == expected


def test_the_document_is_yaml_or_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAG", "7")
    assert main.main(["config"]) == 0
    assert "image: nginx:7" in capsys.readouterr().out
    assert main.main(["config", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["services"]["web"]["image"] == "nginx:7"


def test_a_mistake_is_shown_with_its_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compose.yaml").write_text("services:\n  web:\n    imgae: x\n")
    assert main.main(["config", "-q"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "compose.yaml:3:5: error: " in shown.err
    assert "    3 |     imgae: x" in shown.err


def test_no_file_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "compose.yaml").unlink()
    assert main.main(["config"]) == 1
    assert "compose.yaml" in capsys.readouterr().err


# --- flags ----------------------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main.main(list(argv)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--services=true", "--services=1", "--volumes=false --services"])
def test_a_switch_may_say_what_it_is(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "config", *flag.split()) == "web\n"


def test_a_switch_is_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "--services=maybe"]) == 1
    assert "true or false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--volumes --services", "web\n"),
        ("--profiles --images", "full\n"),
        ("--images --variables", "nginx:1\n"),
        ("--environment --networks", "inner\n"),
        ("-q --services", "web\n"),
        ("--format xml --services", "web\n"),
        ("--no-interpolate --services", "db\nweb\n"),
        ("web --images db", "nginx:1\npostgres\n"),
    ],
)
def test_of_several_lists_docker_composes_first_one_is_printed(
    flags: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "config", *flags.split()) == expected


def test_without_a_profile_an_image_has_the_name_of_its_stack(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compose.yaml").write_text("services: {web: {build: .}}\nname: s\n")
    assert printed(capsys, "config", "--images") == "s-web\n"
    assert printed(capsys, "--compatibility", "config", "--images") == "s_web\n"


def test_unused_resources_are_printed_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compose.yaml").write_text("services: {web: {image: x}}\nvolumes: {v: {}}\n")
    assert printed(capsys, "config", "--volumes") == ""
    assert printed(capsys, "--all-resources", "config", "--volumes") == "v\n"
    assert "volumes:" in printed(capsys, "config", "--all-resources")


def test_variables_are_a_table_or_a_document(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert printed(capsys, "config", "--variables") == (
        "NAME                REQUIRED            DEFAULT VALUE       ALTERNATE VALUE\n"
        "TAG                 false               1                   \n"
    )
    assert printed(capsys, "config", "--variables", "--format", "yaml") == (
        'TAG:\n    name: TAG\n    defaultvalue: "1"\n    presencevalue: ""\n    required: false\n'
    )
    assert printed(capsys, "config", "--variables", "--format", "JSON") == (
        '{\n    "TAG": {\n        "Name": "TAG",\n        "DefaultValue": "1",\n'
        '        "PresenceValue": "",\n        "Required": false\n    }\n}\n\n'
    )
    assert main.main(["config", "--variables", "--format", "xml"]) == 1
    (folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
    assert printed(capsys, "config", "--variables", "--format", "json") == "{}\n\n"


def test_the_environment_is_printed_sorted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AAA", "x y")
    lines = printed(capsys, "-p", "shop", "config", "--environment").splitlines()
    assert "AAA=x y" in lines
    assert "COMPOSE_PROJECT_NAME=shop" in lines
    assert lines == sorted(lines)


def test_digests_are_those_of_docker_compose(capsys: pytest.CaptureFixture[str]) -> None:
    every = printed(capsys, "--profile", "full", "config", "--hash", "*")
    assert [line.split()[0] for line in every.splitlines()] == ["db", "web"]
    assert printed(capsys, "--profile=full", "config", "--hash", "web,db") == every
    assert main.main(["config", "--hash", "db"]) == 1
    assert "none of its profiles is active" in capsys.readouterr().err
    assert main.main(["config", "--hash", "nope"]) == 1
    assert "no such service" in capsys.readouterr().err


def test_a_build_for_a_platform_of_the_environment_has_another_digest(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "services: {web: {build: {context: /x, platforms: [linux/amd64]}, networks: {n: }}}\n"
    (folder / "compose.yaml").write_text(f"{text}networks: {{n: }}\n")
    before = printed(capsys, "config", "--hash", "web")
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    assert printed(capsys, "config", "--hash", "web") != before
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    assert main.main(["config", "--hash", "web"]) == 1
    assert "linux/arm64" in capsys.readouterr().err


def test_the_document_goes_into_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "config")
    assert printed(capsys, "config", "-o", "out.yaml") == ""
    assert (folder / "out.yaml").read_text() == shown
    assert printed(capsys, "config", "-q", "-o", "none.yaml") == ""
    assert not (folder / "none.yaml").exists()
    assert main.main(["config", "-o", "no/such/out.yaml"]) == 1
    assert "cannot write no/such/out.yaml" in capsys.readouterr().err


def test_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["config", "--format", "xml"]) == 1
    assert "'xml'" in capsys.readouterr().err
    assert main.main(["config", "-q", "--format", "xml"]) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--services", ["web"]),
        ("--no-interpolate --services", ["db", "web"]),
        ("--images", ["nginx:1"]),
        ("--models", []),
        ("--variables", {"TAG": {"Name": "TAG", "DefaultValue": "1", "PresenceValue": "", "Required": False}}),
    ],
)  # fmt: skip
def test_with_json_a_list_is_one_document(
    flags: str, expected: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(printed(capsys, "config", "--json", *flags.split())) == expected


def test_with_json_the_document_is_that_of_its_format(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "config", "--format", "json")
    assert printed(capsys, "config", "--json") == shown
    assert printed(capsys, "config", "--json", "--format", "json") == shown
    assert main.main(["config", "--json", "--format", "yaml"]) == 1
    assert json.loads(capsys.readouterr().err)["code"] == "E_USAGE"


def test_with_json_digests_and_variables_are_mappings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, digest = printed(capsys, "config", "--hash", "*").split()
    assert json.loads(printed(capsys, "config", "--json", "--hash", "*")) == {name: digest}
    monkeypatch.setenv("AAA", "x\x1b")
    shown = printed(capsys, "config", "--json", "--environment")
    assert json.loads(shown)["AAA"] == "x\x1b"
    assert "\x1b" not in shown


def test_with_json_every_mistake_stands_in_one_document(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "include: [{pth: x}]\nservices:\n  web:\n    imgae: x\n  db: {image: a, user: 5}\n"
    (folder / "compose.yaml").write_text(text)
    assert main.main(["config", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    told = json.loads(shown.err)
    assert (told["schema"], told["code"], told["exit"]) == ("ic.error/1", "E_COMPOSE", 1)
    found = [
        (one["severity"], one["code"], one["file"], one["line"], one["column"])
        for one in told["diagnostics"]
    ]
    assert found == [
        ("warning", "W_INCLUDE", "compose.yaml", 1, 11),
        ("warning", "W_INCLUDE", "compose.yaml", 1, 12),
        ("error", "E_UNKNOWN_KEY", "compose.yaml", 4, 5),
        ("error", "E_TYPE", "compose.yaml", 5, 24),
    ]
    assert told["diagnostics"][2]["hint"] == "did you mean 'image'?"


def test_a_warning_is_told_beside_the_mistake_that_it_explains(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "compose.yaml").write_text("include: [{pth: x.yaml}]\n")
    assert main.main(["config"]) == 1
    shown = capsys.readouterr().err
    assert "error: the compose file is empty" in shown
    assert "compose.yaml:1:12: warning: include[0] has the unknown key 'pth'" in shown
    assert main.main(["-q", "config"]) == 1
    assert "warning" not in capsys.readouterr().err


def test_merged_files_are_named_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "compose.override.yaml").write_text("services: {web: {user: me}}\n")
    (folder / "compose.incus.yaml").write_text("services: {web: {hostname: h}}\n")
    assert main.main(["config", "-v", "--services"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "web\n"
    assert shown.err.splitlines() == [
        "merged compose.yaml",
        "merged compose.incus.yaml",
        "merged compose.override.yaml",
    ]
    assert main.main(["--incus", "never", "config", "-v", "--services"]) == 0
    assert "incus" not in capsys.readouterr().err


def test_the_command_line_is_stronger_than_the_environment_about_companions(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "compose.incus.yaml").write_text("services: {web: {hostname: h}}\n")
    monkeypatch.setenv("IC_INCUS_FILES", "never")
    assert main.main(["config", "-v", "--services"]) == 0
    assert "compose.incus.yaml" not in capsys.readouterr().err
    assert main.main(["--incus", "auto", "config", "-v", "--services"]) == 0
    assert "merged compose.incus.yaml" in capsys.readouterr().err


def test_images_are_pinned_to_what_their_registry_has(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = "sha256:" + hashlib.sha256(b"{}").hexdigest()
    with fake.on_port(lambda _: fake.Reply(b"{}", 200)) as (server, port):
        image = f"127.0.0.1:{port}/app"
        conf = folder / "registries.conf"
        conf.write_text(f"[[registry]]\nlocation = '127.0.0.1:{port}'\ninsecure = true\n")
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        (folder / "compose.yaml").write_text(
            f"name: s\nservices: {{a: {{image: '{image}'}}, b: {{image: '{image}'}}, c: {{build: /}}}}\n"
        )
        shown = printed(capsys, "config", "--resolve-image-digests")
        assert shown.count(f"image: {image}:latest@{digest}\n") == 2
        assert len(server.requests) == 1
        assert printed(capsys, "config", "--lock-image-digests") == (
            f"services:\n  a:\n    image: {image}:latest@{digest}\n"
            f"  b:\n    image: {image}:latest@{digest}\n  c: {{}}\n"
        )
        shown = printed(capsys, "config", "--no-interpolate", "--resolve-image-digests")
        assert f"{image}:latest@{digest}" in shown


@pytest.mark.parametrize(
    "flags", ["", "--format json", "--no-interpolate", "--variables", "--hash *"]
)
def test_nothing_that_opens_a_connection_is_imported(folder: Path, flags: str) -> None:
    program = (
        "import sys; from ic.cli import main; status = main.main(sys.argv[1:]);"
        "found = {'requests', 'urllib3', 'socket', 'ssl'} & sys.modules.keys();"
        "sys.exit(status or sorted(found) or 0)"
    )
    root = str(Path(__file__).parents[3])
    ran = subprocess.run(
        [sys.executable, "-c", program, "config", *flags.split()],
        cwd=folder, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
