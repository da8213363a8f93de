"""registries.conf and the files with credentials, as the containers' tools write them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.incus import registries
from ic.incus.registries import Place

CONF = """\
# a comment
unqualified-search-registries = ["docker.io", 'quay.io'] # two
short-name-mode = "permissive"

[[registry]]
prefix = "docker.io"
location = "docker.io"

[[registry.mirror]]
location = "mirror.example:5000/hub"   # with a path
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"

[[registry]]
location = 'local.example:5000'
insecure = true

[[registry]]
prefix = "docker.io/acme/secret"
location = "vault.example/acme"

[[registry]]
prefix = "*.corp.example"
insecure = true

[[registry]]
location = "bad.example"
blocked = true

[aliases]
"alpine" = "docker.io/library/alpine"
list = [
  "one",   # first
  "two",
]
number = 1_000
inline = { a = "b" }
"""

OLD = """\
[registries.search]
registries = ['docker.io']
[registries.insecure]
registries = ["old.example:5000"]
[registries.block]
registries = ["gone.example"]
"""


def read(text: str) -> tuple[registries.Registry, ...]:
    return registries.parse(text, "registries.conf")


@pytest.mark.parametrize(
    ("host", "repository", "by_digest", "expected"),
    [
        (
            "docker.io",
            "library/nginx",
            False,
            (
                Place(host="mirror.example:5000", repository="hub/library/nginx", insecure=True),
                Place(host="docker.io", repository="library/nginx"),
            ),
        ),
        (
            "docker.io",
            "library/nginx",
            True,
            (
                Place(host="mirror.example:5000", repository="hub/library/nginx", insecure=True),
                Place(host="digests.example", repository="library/nginx"),
                Place(host="docker.io", repository="library/nginx"),
            ),
        ),
        (
            "docker.io",
            "acme/secret/x",
            False,
            (Place(host="vault.example", repository="acme/x"),),
        ),
        (
            "docker.io",
            "acme/secrets",
            True,
            (
                Place(host="mirror.example:5000", repository="hub/acme/secrets", insecure=True),
                Place(host="digests.example", repository="acme/secrets"),
                Place(host="docker.io", repository="acme/secrets"),
            ),
        ),
        (
            "local.example:5000",
            "x",
            False,
            (Place(host="local.example:5000", repository="x", insecure=True),),
        ),
        ("local.example", "x", False, (Place(host="local.example", repository="x"),)),
        (
            "a.corp.example",
            "x",
            False,
            (Place(host="a.corp.example", repository="x", insecure=True),),
        ),
        ("ghcr.io", "a/b", False, (Place(host="ghcr.io", repository="a/b"),)),
    ],
)
def test_a_reference_leads_to_its_places_mirrors_first(
    host: str, repository: str, *, by_digest: bool, expected: tuple[Place, ...]
) -> None:
    assert registries.places(host, repository, read(CONF), by_digest=by_digest) == expected


def test_a_blocked_registry_is_refused() -> None:
    with pytest.raises(errors.RegistryError, match="blocked"):
        registries.places("bad.example", "x", read(CONF), by_digest=False)


def test_the_old_form_with_lists_is_read() -> None:
    assert registries.places("old.example:5000", "x", read(OLD), by_digest=False)[0].insecure
    with pytest.raises(errors.RegistryError, match="blocked"):
        registries.places("gone.example", "x", read(OLD), by_digest=False)


@pytest.mark.parametrize(
    "text", ["[[registry]\nx", "a = ", "a = nonsense", "list = [\n'a',\n", "just words"]
)
def test_a_file_that_is_not_understood_is_named_with_its_line(text: str) -> None:
    with pytest.raises(errors.RegistryError, match=r"registries\.conf:\d"):
        read(text)


def test_escapes_and_hashes_in_text_are_read_as_written() -> None:
    found = read('[[registry]]\nlocation = "a\\"#b"\nprefix = \'c#d\' # e')
    assert (found[0].location, found[0].prefix) == ('a"#b', "c#d")


def test_the_users_file_replaces_the_machines_and_pieces_add_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "containers"
    (folder / "registries.conf.d").mkdir(parents=True)
    (folder / "registries.conf").write_text("[[registry]]\nlocation='a.example'\n")
    (folder / "registries.conf.d/1.conf").write_text(
        "[[registry]]\nlocation='a.example'\ninsecure=true\n"
    )
    (folder / "registries.conf.d/2.conf").write_text("[[registry]]\nlocation='b.example'\n")
    (folder / "registries.conf.d/not.txt").write_text("broken")
    found = {
        one.prefix: one.insecure for one in registries.load({"XDG_CONFIG_HOME": str(tmp_path)})
    }
    assert found["a.example"] is True
    assert found["b.example"] is False


def test_a_given_file_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text(CONF)
    env = {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "x.conf")}
    assert registries.load(env) == read(CONF)


# --- credentials ---


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))


def env_of(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}


def test_podmans_files_come_before_dockers(tmp_path: Path) -> None:
    env = env_of(tmp_path)
    assert registries.login("r.example", "x", env) == registries.Login()
    write(tmp_path / "home/.docker/config.json", auths={"r.example": auth("docker", "1")})
    assert registries.login("r.example", "x", env).user == "docker"
    write(tmp_path / "home/.config/containers/auth.json", auths={"r.example": auth("config", "2")})
    assert registries.login("r.example", "x", env).user == "config"
    write(tmp_path / "run/containers/auth.json", auths={"r.example": auth("run", "3:4")})
    assert registries.login("r.example", "x", env) == registries.Login(user="run", password="3:4")
    write(tmp_path / "own.json", auths={})
    env["REGISTRY_AUTH_FILE"] = str(tmp_path / "own.json")
    assert registries.login("r.example", "x", env).user == ""


@pytest.mark.parametrize(
    "key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"]
)
def test_every_name_of_docker_hub_is_known(tmp_path: Path, key: str) -> None:
    write(tmp_path / "home/.docker/config.json", auths={key: auth("me", "pw")})
    assert registries.login("docker.io", "library/x", env_of(tmp_path)).user == "me"


def test_the_most_exact_entry_counts(tmp_path: Path) -> None:
    entries = {"r.example": auth("all", "1"), "r.example/team": auth("team", "2")}
    write(tmp_path / "run/containers/auth.json", auths=entries)
    env = env_of(tmp_path)
    assert registries.login("r.example", "team/app", env).user == "team"
    assert registries.login("r.example", "teams/app", env).user == "all"


def test_plain_fields_are_read_too(tmp_path: Path) -> None:
    entry = {"username": "u", "password": "p"}
    write(tmp_path / "home/.docker/config.json", auths={"http://r.example:5000/v2/": entry})
    assert registries.login("r.example:5000", "x", env_of(tmp_path)) == registries.Login(
        user="u", password="p"
    )


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ({"credsStore": "secretservice"}, "docker-credential-secretservice"),
        (
            {"credHelpers": {"r.example": "ecr"}, "auths": {"r.example": {}}},
            "docker-credential-ecr",
        ),
        ({"auths": {"r.example": {"identitytoken": "t"}}}, "identity token"),
        ({"credHelpers": {"other.example": "ecr"}}, ""),
    ],
)
def test_credentials_that_are_kept_elsewhere_are_told_of(
    tmp_path: Path, body: dict[str, Any], note: str
) -> None:
    write(tmp_path / "home/.docker/config.json", **body)
    found = registries.login("r.example", "x", env_of(tmp_path))
    assert (found.user, note in found.note) == ("", True)


@pytest.mark.parametrize("text", ["{", '{"auths": {"r.example": {"auth": "%%%"}}}'])
def test_a_broken_file_is_named_and_never_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "home/.docker/config.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(errors.RegistryError, match=r"config\.json") as caught:
        registries.login("r.example", "x", env_of(tmp_path))
    assert "%%%" not in str(caught.value)


def test_an_unreadable_shape_holds_no_credentials(tmp_path: Path) -> None:
    path = tmp_path / "home/.docker/config.json"
    path.parent.mkdir(parents=True)
    path.write_text("[1]")
    assert registries.login("r.example", "x", env_of(tmp_path)) == registries.Login()
