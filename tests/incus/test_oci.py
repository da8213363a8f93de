"""Image references and registries: a registry of the test's own that answers as told, and the lab's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ic import errors
from ic.incus import oci
from tests.incus import fake
from tests.lab import lab as labs

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("nginx", "docker.io", "library/nginx", "latest", ""),
        ("nginx:1.27-alpine", "docker.io", "library/nginx", "1.27-alpine", ""),
        ("acme/app", "docker.io", "acme/app", "latest", ""),
        ("index.docker.io/acme/app", "docker.io", "acme/app", "latest", ""),
        ("docker.io/nginx", "docker.io", "library/nginx", "latest", ""),
        ("host:5000/image", "host:5000", "image", "latest", ""),
        ("localhost/image:x", "localhost", "image", "x", ""),
        ("ghcr.io/a/b/c:v1", "ghcr.io", "a/b/c", "v1", ""),
        (f"nginx@{SHA}", "docker.io", "library/nginx", "", SHA),
        (f"h.example/x:1@{SHA}", "h.example", "x", "1", SHA),
        ("[::1]:5000/x", "[::1]:5000", "x", "latest", ""),
        ("127.0.0.1:5000/a__b-c.d", "127.0.0.1:5000", "a__b-c.d", "latest", ""),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(
    text: str, host: str, repository: str, tag: str, digest: str
) -> None:
    assert oci.parse(text) == oci.Reference(
        host=host, repository=repository, tag=tag, digest=digest
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Nginx",
        "a b",
        "nginx:",
        "nginx:a b",
        "x@sha256:12",
        "x@",
        "a//b",
        "/x",
        "http://x/y",
        "images:debian/12",
        "a\x1b[31m",
        "-x",
        "x" * 300,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(errors.RegistryError, match="no image reference") as caught:
        oci.parse(text)
    assert "\x1b" not in caught.value.summary


# --- a registry of the test's own ---


def pack(value: Any) -> tuple[bytes, str]:
    body = json.dumps(value).encode()
    return body, f"sha256:{hashlib.sha256(body).hexdigest()}"


CONFIG, CONFIG_DIGEST = pack({"architecture": "amd64", "config": {"Cmd": ["serve"]}})
SINGLE, SINGLE_DIGEST = pack(
    {"mediaType": MANIFEST, "config": {"digest": CONFIG_DIGEST}, "layers": []}
)
OTHER, OTHER_DIGEST = pack({"config": {"digest": SHA}, "layers": []})


def entry(digest: str, architecture: str, variant: str = "") -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture}
    return {"digest": digest, "platform": {**platform, **({"variant": variant} if variant else {})}}


class Registry:
    """Answers for the repository `app`; a test changes what it says."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {
            "manifests/1": (SINGLE, MANIFEST),
            f"manifests/{SINGLE_DIGEST}": (SINGLE, MANIFEST),
            f"blobs/{CONFIG_DIGEST}": (CONFIG, "application/octet-stream"),
        }
        self.wants = ""  # the challenge
        self.accepts = ""  # the Authorization that is good
        self.status = 0
        self.token = fake.Reply(b'{"token": "tok"}')

    def put(self, name: str, value: Any, kind: str = INDEX) -> str:
        body, digest = pack(value)
        self.files[f"manifests/{name}"] = self.files[f"manifests/{digest}"] = (body, kind)
        return digest

    def __call__(self, request: fake.Request) -> fake.Reply:
        if request.path == "/token":
            return self.token
        if self.status:
            return fake.Reply(b"", self.status)
        if self.wants and request.headers.get("authorization") != self.accepts:
            return fake.Reply(b"{}", 401, {"WWW-Authenticate": self.wants})
        body, kind = self.files.get(request.path.removeprefix("/v2/app/"), (b"", ""))
        if not body:
            text = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown\\u001b[31m"}]}'
            return fake.Reply(text, 404)
        return fake.Reply(body, 200, {"Content-Type": kind})


class Served:
    """A registry on a port, and the environment in which it is insecure."""

    def __init__(
        self, answers: Registry, server: fake.Server, host: str, env: dict[str, str]
    ) -> None:
        self.answers = answers
        self.server = server
        self.host = host
        self.env = env

    def resolve(self, name: str = "app:1", machine: str = "x86_64") -> oci.RegistryImage:
        return oci.resolve(f"{self.host}/{name}", self.env, machine=machine)

    @contextlib.contextmanager
    def refuses(self, why: str) -> Generator[pytest.ExceptionInfo[errors.RegistryError]]:
        with pytest.raises(errors.RegistryError, match=why) as caught:
            yield caught


@pytest.fixture
def registry(tmp_path: Path) -> Generator[Served]:
    answers = Registry()
    with fake.on_port(answers) as (server, port):
        host = f"127.0.0.1:{port}"
        conf = tmp_path / "registries.conf"
        conf.write_text(f"[[registry]]\nlocation = '{host}'\ninsecure = true\n")
        env = {
            "HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "CONTAINERS_REGISTRIES_CONF": str(conf),
        }
        yield Served(answers, server, host, env)


def test_an_image_costs_two_requests(registry: Served) -> None:
    found = registry.resolve()
    assert found == oci.RegistryImage(
        resolved=f"{registry.host}/app@{SINGLE_DIGEST}",
        digest=SINGLE_DIGEST,
        config={"architecture": "amd64", "config": {"Cmd": ["serve"]}},
    )
    assert [one.path for one in registry.server.requests] == [
        "/v2/app/manifests/1",
        f"/v2/app/blobs/{CONFIG_DIGEST}",
    ]


def test_the_servers_name_for_an_image_is_known_by_its_layers(registry: Served) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    layers: list[tuple[list[Any], str]] = [
        ([{"digest": one}], hashlib.sha256(one.encode()).hexdigest()),
        ([{"digest": one}, {"digest": two}], hashlib.sha256((one + two).encode()).hexdigest()),
        ([{"digest": one}, {}], ""),
        (["odd"], ""),
        ([], ""),
    ]
    for given, fingerprint in layers:
        registry.answers.put("9", {"config": {"digest": CONFIG_DIGEST}, "layers": given}, MANIFEST)
        assert registry.resolve("app:9").fingerprint == fingerprint


def test_an_index_leads_to_the_machines_own_manifest(registry: Served) -> None:
    registry.answers.put(
        "2",
        {
            "manifests": [
                "odd",
                {"digest": OTHER_DIGEST, "platform": {"os": "windows", "architecture": "amd64"}},
                entry(OTHER_DIGEST, "arm64", "v9"),
                entry(OTHER_DIGEST, "s390x"),
                entry(SINGLE_DIGEST, "amd64"),
                entry(OTHER_DIGEST, "amd64", "v3"),
            ]
        },
    )
    assert registry.resolve("app:2").digest == SINGLE_DIGEST
    with registry.refuses(
        "no image for linux/riscv64, only for linux/amd64, linux/arm64, linux/s390x"
    ):
        registry.resolve("app:2", machine="riscv64")


def test_of_several_variants_the_best_that_fits_is_taken(registry: Served) -> None:
    registry.answers.put(
        "2",
        {
            "manifests": [
                entry(OTHER_DIGEST, "arm", "v6"),
                entry(SINGLE_DIGEST, "arm", "v7"),
                entry(SHA, "arm", "v8"),
            ]
        },
    )
    assert registry.resolve("app:2", machine="armv7l").digest == SINGLE_DIGEST


def test_a_digest_is_asked_for_and_checked(registry: Served) -> None:
    assert registry.resolve(f"app:ignored@{SINGLE_DIGEST}").digest == SINGLE_DIGEST
    registry.answers.files[f"manifests/{SHA}"] = (SINGLE, MANIFEST)
    with registry.refuses("other content than its digest says"):
        registry.resolve(f"app@{SHA}")


def test_a_config_that_is_not_what_its_digest_says_is_refused(registry: Served) -> None:
    registry.answers.files[f"blobs/{CONFIG_DIGEST}"] = (b"{}", "application/json")
    with registry.refuses("other content than its digest says"):
        registry.resolve()


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "not supported"),
        ({"config": {"digest": "md5:1"}, "layers": []}, "names no config"),
        ([1], "not an object"),
    ],
)
def test_a_manifest_of_another_kind_is_told(registry: Served, manifest: Any, why: str) -> None:
    registry.answers.put("2", manifest, MANIFEST)
    with registry.refuses(why):
        registry.resolve("app:2")


def test_an_unknown_image_is_told_in_the_registrys_words_without_its_escape_codes(
    registry: Served,
) -> None:
    with registry.refuses(r"no image of that name and tag \(manifest unknown \[31m\)") as caught:
        registry.resolve("app:none")
    assert "\x1b" not in caught.value.summary


@pytest.mark.parametrize(("status", "why"), [(429, "no more requests"), (500, "answered 500")])
def test_a_registry_in_trouble_is_told(registry: Served, status: int, why: str) -> None:
    registry.answers.status = status
    with registry.refuses(why):
        registry.resolve()


def login(registry: Served, user: str, password: str) -> None:
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = Path(registry.env["HOME"]) / "containers/auth.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"auths": {registry.host: {"auth": pair}}}))


def test_basic_credentials_are_sent_when_asked_for_and_not_before(registry: Served) -> None:
    registry.answers.wants = 'Basic realm="x"'
    registry.answers.accepts = "Basic " + base64.b64encode(b"me:pw").decode()
    with registry.refuses("no credentials are known") as caught:
        registry.resolve()
    assert "login" in caught.value.hint
    login(registry, "me", "pw")
    assert registry.resolve().digest == SINGLE_DIGEST
    sent = [one.headers.get("authorization", "") for one in registry.server.requests[-3:]]
    assert sent == ["", registry.answers.accepts, registry.answers.accepts]


def test_wrong_credentials_are_told_and_never_shown(registry: Served) -> None:
    registry.answers.wants = 'Basic realm="x"'
    login(registry, "me", "hunter2-secret")
    with registry.refuses("refuses the credentials of user 'me'") as caught:
        registry.resolve()
    error = caught.value
    encoded = base64.b64encode(b"me:hunter2-secret").decode()
    shown = " ".join(
        [error.summary, *error.details, error.hint, repr(error), repr(error.__cause__)]
    )
    assert "hunter2-secret" not in shown
    assert encoded not in shown


def test_a_token_is_fetched_with_the_credentials_and_used(registry: Served) -> None:
    registry.answers.wants = (
        f'Bearer realm="http://{registry.host}/token",service="reg",scope="repository:app:pull"'
    )
    registry.answers.accepts = "Bearer tok"
    login(registry, "me", "pw")
    assert registry.resolve().digest == SINGLE_DIGEST
    asked = next(one for one in registry.server.requests if one.path == "/token")
    assert asked.target == "/token?service=reg&scope=repository%3Aapp%3Apull"
    assert asked.headers["authorization"] == "Basic " + base64.b64encode(b"me:pw").decode()


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (fake.Reply(b"{}", 401), "no credentials are known"),
        (fake.Reply(b"{}"), "gave no token"),
        (fake.Reply(b'{"token": "a\\nb"}'), "gave no token"),
        (fake.Reply(b"<html>"), "not JSON"),
    ],
)
def test_a_token_that_does_not_come_is_told(registry: Served, token: fake.Reply, why: str) -> None:
    registry.answers.wants = f'Bearer realm="http://{registry.host}/token"'
    registry.answers.token = token
    with registry.refuses(why):
        registry.resolve()


def test_an_unknown_way_to_authorize_is_told(registry: Served) -> None:
    registry.answers.wants = "Negotiate"
    with registry.refuses("in a way that ic does not know"):
        registry.resolve()


def test_plain_http_is_not_spoken_to_a_registry_that_is_not_said_to_be_insecure(
    registry: Served,
) -> None:
    env = {**registry.env, "CONTAINERS_REGISTRIES_CONF": "/nonexistent"}
    with pytest.raises(errors.RegistryError, match="TLS") as caught:
        oci.resolve(f"{registry.host}/app:1", env)
    assert "registries.conf" in caught.value.hint
    assert registry.server.requests == []


def test_a_port_that_speaks_tls_alone_is_asked_by_tls_after_plain_http(registry: Served) -> None:
    registry.answers.status = 400
    with registry.refuses("TLS"):
        registry.resolve()
    assert len(registry.server.requests) == 1


def test_a_mirror_is_asked_first_and_the_canonical_name_is_kept(registry: Served) -> None:
    conf = Path(registry.env["CONTAINERS_REGISTRIES_CONF"])
    conf.write_text(
        "[[registry]]\nlocation = 'far.invalid'\n"
        f"[[registry.mirror]]\nlocation = '{registry.host}'\ninsecure = true\n"
    )
    found = oci.resolve("far.invalid/app:1", registry.env)
    assert found.resolved == f"far.invalid/app@{SINGLE_DIGEST}"
    with pytest.raises(errors.RegistryError, match="no image of that name and tag") as caught:
        oci.resolve("far.invalid/app:none", registry.env)
    assert caught.value.details == ("far.invalid: there is no host of that name",)


def test_pinning_asks_for_the_digest_of_the_tag_alone_and_writes_the_name_in_full(
    registry: Served,
) -> None:
    index = registry.answers.put("2", {"manifests": [entry(SINGLE_DIGEST, "amd64")]})
    assert oci.pinned(f"{registry.host}/app:2", registry.env) == f"{registry.host}/app:2@{index}"
    assert [one.path for one in registry.server.requests] == ["/v2/app/manifests/2"]
    assert oci.pinned(f"nginx:1@{SHA}", registry.env) == f"docker.io/library/nginx@{SHA}"
    assert len(registry.server.requests) == 1
    with registry.refuses("no image of that name and tag"):
        oci.pinned(f"{registry.host}/app:nope", registry.env)


def test_an_unknown_registry_host_is_told(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": "/nonexistent"}
    with pytest.raises(
        errors.RegistryError, match=r"nowhere\.invalid: there is no host of that name"
    ):
        oci.resolve("nowhere.invalid/app", env)


# --- what the server is told ---


def test_a_pull_by_digest_carries_credentials_in_its_url_only_when_there_are_some(
    registry: Served,
) -> None:
    resolved = f"{registry.host}/app@{SHA}"
    assert oci.pull_source(resolved, registry.env) == {
        "type": "image",
        "mode": "pull",
        "protocol": "oci",
        "server": f"https://{registry.host}",
        "alias": f"app@{SHA}",
    }
    login(registry, "me@x", "p/w:1")
    assert (
        oci.pull_source(resolved, registry.env)["server"]
        == f"https://me%40x:p%2Fw%3A1@{registry.host}"
    )


# --- the lab's registries ---

PROGRAM = """
import json, sys
from ic import errors
from ic.incus import oci
out = []
for reference in sys.argv[1:]:
    try:
        found = oci.resolve(reference, {"HOME": "/nonexistent", "REGISTRY_AUTH_FILE": AUTH,
                                        "CONTAINERS_REGISTRIES_CONF": CONF})
        out.append([found.resolved, found.digest, found.config])
    except errors.RegistryError as error:
        out.append(str(error))
print(json.dumps(out))
"""


def inside(lab: labs.Lab, auth: Path, *references: str) -> list[Any]:
    """Resolve in the lab's network, where its registries are, with the lab's own registries.conf."""
    conf = lab.path("/etc/containers/registries.conf")
    program = f"CONF, AUTH = {str(conf)!r}, {str(auth)!r}\n{PROGRAM}"
    argv = ["nsenter", "-t", str(lab.pid()), "-n", sys.executable, "-c", program, *references]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ran = subprocess.run(
        argv, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(ran.stdout)


def test_the_labs_images_resolve_through_its_mirror(lab: labs.Lab, tmp_path: Path) -> None:
    nginx, worker, none = inside(lab, tmp_path / "none", "nginx:alpine", "lab/worker:1", "nope:1")
    assert nginx[0] == f"docker.io/library/nginx@{nginx[1]}"
    assert nginx[2]["architecture"] == "amd64"
    assert worker[2]["config"]["User"] == "worker"
    assert worker[2]["config"]["Healthcheck"]
    assert "no image of that name and tag" in none


def test_the_labs_private_registry_wants_its_credentials(lab: labs.Lab, tmp_path: Path) -> None:
    reference = "127.0.0.1:5001/private/busybox:1"
    auth = tmp_path / "auth.json"
    assert "no credentials are known" in inside(lab, auth, reference)[0]
    pair = {"auth": base64.b64encode(b"lab:wrong-password").decode()}
    auth.write_text(json.dumps({"auths": {"127.0.0.1:5001": pair}}))
    said = inside(lab, auth, reference)[0]
    assert "refuses the credentials of user 'lab'" in said
    assert "wrong-password" not in said
    pair["auth"] = base64.b64encode(b"lab:lab-password").decode()
    auth.write_text(json.dumps({"auths": {"127.0.0.1:5001": pair}}))
    assert inside(lab, auth, reference)[0][0].startswith("127.0.0.1:5001/private/busybox@sha256:")
