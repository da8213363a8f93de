"""The images of the lab: made here, named as public ones, laid into a registry's storage.

Enters: a Debian root that holds busybox and python3 (the lab's own base). Leaves: the file layout
in which Debian's docker-registry keeps repositories, so that no registry has to run for it. Equal
inputs give equal digests. Image names are those a compose file would use (`nginx:alpine`); the lab
mirrors docker.io, and what is no public name lives under `lab/`.

Run as a script: `images.py ROOT` fills ROOT/var/lib/docker-registry (open) and
ROOT/var/lib/docker-registry-private (the one that asks for a password).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

CREATED = "2026-01-01T00:00:00Z"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

PYTHON_PACKAGES = (
    "python3",
    "base-files",
    "dash",
    "coreutils",
    "libc-bin",
    "tzdata",
    "sed",
    "grep",
)
LEFT_OUT = (
    "/usr/share/doc/",
    "/usr/share/locale/",
    "/usr/share/man/",
    "/usr/lib/x86_64-linux-gnu/gconv/",
    "/usr/lib/aarch64-linux-gnu/gconv/",
)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
GROUP = "root:x:0:\ntty:x:5:\nstaff:x:50:\nnogroup:x:65534:\n"

NGINX = """#!/bin/sh
# A small web server in the place of nginx: serves one directory on port 80.
end() { kill "$httpd" 2>/dev/null; exit 0; }
trap end QUIT TERM INT
busybox httpd -f -vv -p "${NGINX_PORT:-80}" -h /usr/share/nginx/html &
httpd=$!
while kill -0 "$httpd" 2>/dev/null; do wait "$httpd"; done
"""

WORKER = """#!/bin/sh
# Says who it is and what it was given, writes a heartbeat into its volume, ends on SIGTERM.
echo "worker $(id -un):$(id -gn) in $(pwd) mode=${WORKER_MODE} args=$*"
trap 'echo "worker ends"; exit 0' TERM INT
date +%s >/srv/data/alive || echo "worker cannot write its volume"
while :; do sleep 1 & wait $!; done
"""

SLOWSTOP = """#!/bin/sh
# Needs four seconds to end after SIGTERM, and leaves a mark only when it gets them.
mkdir -p /data
trap 'echo "slowstop: asked to end"; n=0
      while [ $n -lt 40 ]; do sleep 0.1; n=$((n + 1)); done
      date +%s >/data/stopped; echo "slowstop: done"; exit 0' TERM
echo "slowstop: ready"
while :; do sleep 1 & wait $!; done
"""

EXIT = """#!/bin/sh
# Ends by itself: with the code of its argument or of EXIT_CODE, after EXIT_AFTER seconds.
sleep "${EXIT_AFTER:-0}"
code=${1:-${EXIT_CODE:-0}}
echo "exit: ends with $code"
exit "$code"
"""


class Entry(NamedTuple):
    """One file of a layer: a directory when content is None, a link when target is set."""

    path: str
    content: bytes | None = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    target: str = ""


class Blob(NamedTuple):
    """What a manifest says of a blob: digest and size; diff is the digest before compression."""

    digest: str
    size: int
    diff: str


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Store:
    """The storage directory of one registry."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "docker" / "registry" / "v2"

    def blob(self, data: bytes) -> str:
        digest = sha256(data)
        where = self.root / "blobs" / "sha256" / digest[7:9] / digest[7:]
        where.mkdir(parents=True, exist_ok=True)
        (where / "data").write_bytes(data)
        return digest

    def link(self, repository: str, where: str, digest: str) -> None:
        file = self.root / "repositories" / repository / where / "link"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(digest)

    def own(self, repository: str, digest: str) -> None:
        """Say that a blob (layer or config) belongs to a repository."""
        self.link(repository, f"_layers/sha256/{digest[7:]}", digest)

    def manifest(self, repository: str, tags: tuple[str, ...], body: dict[str, object]) -> Blob:
        data = json.dumps(body, indent=1).encode()
        digest = self.blob(data)
        self.link(repository, f"_manifests/revisions/sha256/{digest[7:]}", digest)
        for tag in tags:
            self.link(repository, f"_manifests/tags/{tag}/current", digest)
            self.link(repository, f"_manifests/tags/{tag}/index/sha256/{digest[7:]}", digest)
        return Blob(digest, len(data), "")

    def layer(self, entries: list[Entry]) -> Blob:
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry in entries:
                info = tarfile.TarInfo(entry.path.strip("/"))
                info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
                if entry.target:
                    info.type, info.linkname = tarfile.SYMTYPE, entry.target
                elif entry.content is None:
                    info.type = tarfile.DIRTYPE
                else:
                    info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content or b""))
        raw = plain.getvalue()
        data = gzip.compress(raw, compresslevel=3, mtime=0)
        return Blob(self.blob(data), len(data), sha256(raw))

    def image(
        self,
        name: str,
        tags: tuple[str, ...],
        layers: list[Blob],
        config: dict[str, object],
        *,
        docker: bool = False,
    ) -> None:
        """Store an image: in Docker's format alone, or as an OCI index of two platforms.

        The second platform has the same layers and another command, so that a reader which does
        not choose by platform is found out.
        """
        repository = name if "/" in name else f"library/{name}"
        if docker:
            self.manifest(repository, tags, self.body(repository, layers, config, docker=True))
            return
        entries: list[dict[str, object]] = []
        for architecture in ("s390x", ARCHITECTURE):
            own = config if architecture == ARCHITECTURE else {**config, "Cmd": ["/wrong-platform"]}
            body = self.body(repository, layers, own, docker=False, architecture=architecture)
            found = self.manifest(repository, (), body)
            entries.append(
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": found.digest,
                    "size": found.size,
                    "platform": {"architecture": architecture, "os": "linux"},
                }
            )
        self.manifest(
            repository,
            tags,
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries},
        )

    def body(
        self,
        repository: str,
        layers: list[Blob],
        config: dict[str, object],
        *,
        docker: bool,
        architecture: str = ARCHITECTURE,
    ) -> dict[str, object]:
        """Store the config blob of one platform and make the manifest that names it."""
        document = json.dumps(
            {
                "created": CREATED,
                "architecture": architecture,
                "os": "linux",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [layer.diff for layer in layers]},
                "history": [{"created": CREATED, "created_by": "lab"} for _ in layers],
            },
            indent=1,
        ).encode()
        digest = self.blob(document)
        for each in (digest, *(layer.digest for layer in layers)):
            self.own(repository, each)
        return {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                "digest": digest,
                "size": len(document),
            },
            "layers": [
                {
                    "mediaType": DOCKER_LAYER if docker else OCI_LAYER,
                    "digest": layer.digest,
                    "size": layer.size,
                }
                for layer in layers
            ],
        }


def script(path: str, text: str) -> Entry:
    return Entry(path, text.encode())


def busybox_entries(root: Path, passwd: str = PASSWD, group: str = GROUP) -> list[Entry]:
    """A root of one static busybox with all its names."""
    binary = (root / "usr/bin/busybox").read_bytes()
    entries = [
        Entry(name, mode=mode)
        for name, mode in (
            ("bin", 0o755),
            ("dev", 0o755),
            ("etc", 0o755),
            ("home", 0o755),
            ("proc", 0o755),
            ("root", 0o700),
            ("run", 0o755),
            ("srv", 0o755),
            ("sys", 0o755),
            ("tmp", 0o1777),
            ("usr", 0o755),
            ("usr/bin", 0o755),
            ("usr/local", 0o755),
            ("usr/local/bin", 0o755),
            ("usr/sbin", 0o755),
            ("usr/share", 0o755),
            ("var", 0o755),
        )
    ]
    entries.append(Entry("bin/busybox", binary))
    entries.append(Entry("sbin", target="bin"))
    entries.extend(Entry(f"bin/{name}", target="busybox") for name in applets(root))
    entries.append(Entry("usr/bin/env", target="/bin/busybox"))
    entries.append(Entry("etc/passwd", passwd.encode(), mode=0o644))
    entries.append(Entry("etc/group", group.encode(), mode=0o644))
    return entries


def applets(root: Path) -> list[str]:
    """The names busybox answers to."""
    listing = subprocess.run(
        ["chroot", str(root), "busybox", "--list"], capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.split() if name != "busybox"]


def package_files(root: Path, names: tuple[str, ...]) -> list[str]:
    """The paths of Debian packages and of all that they depend on, sorted."""
    stanzas: dict[str, dict[str, str]] = {}
    provided: dict[str, str] = {}
    for text in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in text.splitlines() if ": " in line and line[0] != " "
        )
        if "Package" in fields:
            stanzas[fields["Package"]] = fields
            for each in fields.get("Provides", "").split(","):
                provided.setdefault(each.split("(")[0].strip(), fields["Package"])
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        name = name if name in stanzas else provided.get(name, "")
        if not name or name in wanted:
            continue
        wanted.add(name)
        needs = stanzas[name].get("Depends", "") + "," + stanzas[name].get("Pre-Depends", "")
        for alternatives in needs.split(","):
            options = [part.split("(")[0].split(":")[0].strip() for part in alternatives.split("|")]
            queue.extend([o for o in options if o in stanzas or o in provided][:1])
    wanted -= {"debconf", "dpkg", "perl-base", "install-info"}
    info = root / "var/lib/dpkg/info"
    paths: set[str] = set()
    for name in wanted:
        for listing in (info / f"{name}.list", *info.glob(f"{name}:*.list")):
            if listing.exists():
                paths.update(listing.read_text().splitlines())
    return sorted(path for path in paths if path != "/." and not path.startswith(LEFT_OUT))


def python_entries(root: Path) -> list[Entry]:
    """Debian's python3 with its whole standard library and a shell."""
    entries: list[Entry] = []
    for path in package_files(root, PYTHON_PACKAGES):
        source = root / path.lstrip("/")
        # A path below an aliased directory (/lib -> usr/lib) is the same file under its other name.
        if path.split("/")[1] in ("bin", "lib", "lib64", "sbin") and path.count("/") > 1:
            continue
        try:
            found = source.lstat()
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if stat.S_ISLNK(found.st_mode):
            entries.append(Entry(path, target=str(source.readlink())))
        elif stat.S_ISDIR(found.st_mode):
            entries.append(Entry(path, mode=mode))
        elif stat.S_ISREG(found.st_mode):
            entries.append(Entry(path, source.read_bytes(), mode))
    known = {entry.path for entry in entries}
    for path, target in (("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/sbin", "usr/sbin")):
        if path not in known:
            entries.append(Entry(path, target=target))
    if (root / "lib64").is_symlink() and "/lib64" not in known:
        entries.append(Entry("/lib64", target="usr/lib64"))
    entries.append(Entry("/usr/local/bin/python3", target="/usr/bin/python3"))
    entries.append(Entry("/usr/local/bin/python", target="/usr/bin/python3"))
    entries.append(Entry("/etc/passwd", PASSWD.encode(), mode=0o644))
    entries.append(Entry("/etc/group", GROUP.encode(), mode=0o644))
    return entries


def fill(root: Path) -> None:
    """Make every image of the lab below a Debian root."""
    public = Store(root / "var/lib/docker-registry")
    base = public.layer(busybox_entries(root))
    shell: dict[str, object] = {"Env": [PATH], "Cmd": ["sh"]}
    public.image("busybox", ("latest", "1", "1.36"), [base], shell)
    public.image("alpine", ("latest", "3", "3.20"), [base], {"Env": [PATH], "Cmd": ["/bin/sh"]})

    page = b"<!DOCTYPE html>\n<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n"
    entrypoint = '#!/bin/sh\nset -e\nexec "$@"\n'
    web = public.layer(
        [
            script("docker-entrypoint.sh", entrypoint),
            script("usr/sbin/nginx", NGINX),
            Entry("usr/share/nginx"),
            Entry("usr/share/nginx/html"),
            Entry("usr/share/nginx/html/index.html", page, mode=0o644),
        ]
    )
    public.image(
        "nginx",
        ("latest", "alpine", "1.27", "1.27-alpine"),
        [base, web],
        {
            "Env": [PATH, "NGINX_VERSION=1.27.0"],
            "Entrypoint": ["/docker-entrypoint.sh"],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
            "Labels": {"maintainer": "the lab"},
        },
    )

    python = public.layer(python_entries(root))
    public.image(
        "python",
        ("latest", "3", "3-alpine", "3-slim", "3.13", "3.13-slim"),
        [python],
        {"Env": [PATH, "LANG=C.UTF-8", "PYTHON_VERSION=3.13"], "Cmd": ["python3"]},
    )

    worker = public.layer(
        [
            Entry(
                "etc/passwd", f"{PASSWD}worker:x:1234:1234::/home/worker:/bin/sh\n".encode(), 0o644
            ),
            Entry("etc/group", f"{GROUP}worker:x:1234:\nextra:x:1300:worker\n".encode(), 0o644),
            Entry("home/worker", mode=0o700, uid=1234, gid=1234),
            Entry("srv/app", uid=1234, gid=1234),
            Entry("srv/data", mode=0o2750, uid=1234, gid=1234),
            Entry("srv/data/seed.txt", b"seeded by the image\n", 0o640, 1234, 1234),
            Entry("srv/data/deep", mode=0o700, uid=1234, gid=50),
            Entry("srv/data/deep/link", target="../seed.txt"),
            script("usr/local/bin/worker", WORKER),
        ]
    )
    for number in ("1", "2"):
        public.image(
            "lab/worker",
            (number,) if number == "1" else (number, "latest"),
            [base, worker],
            {
                "User": "worker",
                "WorkingDir": "/srv/app",
                "Env": [PATH, f"WORKER_MODE=mode-{number}"],
                "Entrypoint": ["/usr/local/bin/worker"],
                "Cmd": ["--serve", number],
                "Volumes": {"/srv/data": {}},
                "ExposedPorts": {"9000/tcp": {}, "9001/udp": {}},
                "Labels": {"org.example.role": "worker", "org.example.number": number},
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "test -f /srv/data/alive"],
                    "Interval": 2_000_000_000,
                    "Timeout": 1_000_000_000,
                    "StartPeriod": 1_000_000_000,
                    "Retries": 3,
                },
            },
            docker=True,
        )

    slowstop = public.layer([Entry("data"), script("usr/local/bin/slowstop", SLOWSTOP)])
    public.image(
        "lab/slowstop",
        ("1", "latest"),
        [base, slowstop],
        {"Env": [PATH], "Cmd": ["/usr/local/bin/slowstop"]},
        docker=True,
    )
    ending = public.layer([script("usr/local/bin/exit", EXIT)])
    public.image(
        "lab/exit",
        ("1", "latest"),
        [base, ending],
        {"Env": [PATH], "Entrypoint": ["/usr/local/bin/exit"]},
        docker=True,
    )

    private = Store(root / "var/lib/docker-registry-private")
    base = private.layer(busybox_entries(root))
    secret = private.layer([Entry("etc/private", b"only with a password\n", mode=0o644)])
    private.image("private/busybox", ("1", "latest"), [base, secret], shell)


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
