"""Builds `dist/ic.pyz`: one file that runs on every CPython from 3.10 to 3.14, on glibc and musl.

Enters: `zipapp.lock` (wheels by name and hash), the wheels (fetched once, then kept in `.cache/wheels`), the
sources under `ic/`. Leaves: the same bytes for the same inputs, whoever builds, wherever, whenever. Pure
sources lie in the zip once, the native part once per interpreter and platform; `ic/boot/` tells the start.

    python build_zipapp.py [--output FILE] [--wheels DIR] [--offline] [--only TAG,...] [--lock]
"""

import argparse
import base64
import concurrent.futures
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from typing import NamedTuple

ROOT = os.path.dirname(os.path.abspath(__file__))
PYTHONS = ("310", "311", "312", "313", "314")
PLATFORMS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}
TAGS = tuple(f"cpython-{py}-{platform}" for py in PYTHONS for platform in PLATFORMS.values())
LIMIT = 5_500_000
SHEBANG = b"#!/usr/bin/env python3\n"
EPOCH = 315532800  # 1980-01-01, the first day a zip can name

# Distribution -> the packages taken from it. Everything else in a wheel stays behind.
TAKEN = {
    "msgspec": "msgspec",
    "pyyaml": "yaml",
    "requests": "requests",
    "urllib3": "urllib3",
    "idna": "idna",
    "charset-normalizer": "charset_normalizer",
    "requests-unixsocket": "requests_unixsocket",
    "websocket-client": "websocket",
}
NATIVE = "msgspec"

# Modules of ic/boot that go into the zip in the place of others'.
SHIMS = {
    "certifi/__init__.py": "cabundle.py",
    "msgspec/__init__.py": "structs.py",
    "msgspec/json.py": "structs_json.py",
    "urllib3/http2/__init__.py": "http2.py",
    "websocket/_app.py": "callbacks.py",
    "websocket/_dispatcher.py": "dispatcher.py",
}
LEFT_OUT = re.compile(r"/tests?/|/emscripten/")
LICENCE = re.compile(r"\.dist-info/(licenses/)?(LICEN[CS]E|COPYING|NOTICE)[^/]*$", re.IGNORECASE)


class BuildError(Exception):
    """The build cannot go on; the text says why."""


class Wheel(NamedTuple):
    """One line of the lock. Role: `pure` (its sources are taken) or the tag its native part is for."""

    name: str
    version: str
    file: str
    sha256: str
    role: str


# --- the lock ---------------------------------------------------------------------------------------


def read_lock(path: str) -> list[Wheel]:
    """The locked wheels. Raises BuildError unless they cover every distribution and every tag."""
    with open(path, encoding="utf-8") as file:
        wheels = [Wheel(**entry) for entry in json.load(file)["wheels"]]
    pure = sorted(w.name for w in wheels if w.role == "pure")
    if pure != sorted(set(TAKEN) - {NATIVE}):
        raise BuildError(f"cannot use {path}: its pure wheels are {', '.join(pure)}")
    native = sorted(w.role for w in wheels if w.name == NATIVE)
    if native != sorted(TAGS):
        raise BuildError(f"cannot use {path}: {NATIVE} is locked for {', '.join(native)}")
    if len({w.version for w in wheels if w.name == NATIVE}) != 1:
        raise BuildError(f"cannot use {path}: more than one version of {NATIVE}")
    return wheels


def pinned_versions() -> dict[str, str]:
    """Distribution -> version, as requirements/runtime.txt has them."""
    with open(os.path.join(ROOT, "requirements", "runtime.txt"), encoding="utf-8") as file:
        return dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", file.read(), re.MULTILINE))


def make_lock(path: str) -> None:
    """Writes the lock anew for the versions of requirements/runtime.txt; fetches every wheel."""
    pins = pinned_versions()
    wanted: list[tuple[str, list[str], str]] = [
        (name, ["--platform", "any", "--abi", "none", "--python-version", PYTHONS[0]], "pure")
        for name in TAKEN
        if name not in (NATIVE, "pyyaml")
    ]
    # PyYAML has no wheel without the C part; only the sources are taken from this one.
    platform = next(iter(PLATFORMS))
    for name, py, plat, role in [("pyyaml", PYTHONS[0], platform, "pure")] + [
        (NATIVE, py, plat, f"cpython-{py}-{PLATFORMS[plat]}")
        for py in PYTHONS
        for plat in PLATFORMS
    ]:
        wanted.append(
            (name, ["--platform", plat, "--abi", f"cp{py}", "--python-version", py], role)
        )

    def fetch_one(item: tuple[str, list[str], str]) -> Wheel:
        name, options, role = item
        with tempfile.TemporaryDirectory() as directory:
            run_pip([*options, f"{name}=={pins[name]}"], directory)
            (file,) = os.listdir(directory)
            sha256 = file_hash(os.path.join(directory, file))
        return Wheel(name, pins[name], file, sha256, role)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wheels = sorted(pool.map(fetch_one, wanted))
    document = {"schema": "ic.zipapp-lock/1", "wheels": [w._asdict() for w in wheels]}
    replace_file(path, (json.dumps(document, indent=1) + "\n").encode(), 0o644)


# --- the wheels -------------------------------------------------------------------------------------


def run_pip(arguments: list[str], directory: str) -> None:
    """Fetches wheels, never their dependencies and never sources. Raises BuildError with pip's words."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", directory]
    done = subprocess.run(
        command + arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"cannot fetch wheels: {done.stderr.strip() or done.stdout.strip()}")


def fetch(wheels: list[Wheel], directory: str, *, offline: bool) -> None:
    """Makes sure that every wheel lies in `directory` with the locked hash.

    Raises BuildError when one has another hash, or is missing and `offline` is true.
    """
    os.makedirs(directory, exist_ok=True)
    missing = [w for w in wheels if not os.path.exists(os.path.join(directory, w.file))]
    if missing and offline:
        raise BuildError(f"cannot build offline: {missing[0].file} is not in {directory}")
    groups: dict[tuple[str, ...], list[Wheel]] = {}
    for wheel in missing:
        groups.setdefault(tuple(wheel.file[: -len(".whl")].split("-")[-3:]), []).append(wheel)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch_group, groups.keys(), groups.values(), [directory] * len(groups)))
    for wheel in wheels:
        path = os.path.join(directory, wheel.file)
        found = file_hash(path)
        if found != wheel.sha256:
            raise BuildError(f"cannot use {path}: its sha256 is {found}, locked is {wheel.sha256}")


def fetch_group(tags: tuple[str, ...], wheels: list[Wheel], directory: str) -> None:
    """Fetches wheels of one interpreter and platform, with hashes, and moves them into place whole."""
    python, abi, platforms = tags
    options = ["--require-hashes", "--abi", abi]
    options += ["--python-version", python[2:] if python.startswith("cp") else PYTHONS[0]]
    for platform in platforms.split("."):
        options += ["--platform", platform]
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        listing = os.path.join(fresh, "wanted.txt")
        with open(listing, "w", encoding="utf-8") as file:
            for wheel in wheels:
                file.write(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        run_pip([*options, "-r", listing], fresh)
        for wheel in wheels:
            if not os.path.exists(os.path.join(fresh, wheel.file)):
                raise BuildError(f"cannot fetch {wheel.file}: pip chose another file")
            os.replace(os.path.join(fresh, wheel.file), os.path.join(directory, wheel.file))


def read_wheel(path: str) -> dict[str, bytes]:
    """Every member of a wheel, checked against its RECORD. Raises BuildError when one differs."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (record,) = [name for name in members if name.endswith(".dist-info/RECORD")]
    hashes = {row[0]: row[1] for row in csv.reader(io.StringIO(members[record].decode()))}
    for name, data in members.items():
        if name == record or name.endswith(("/", ".jws", ".p7s")):
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if hashes.get(name) != f"sha256={digest}":
            raise BuildError(f"cannot use {path}: {name} is not as its RECORD says")
    return members


def collect(wheels: list[Wheel], directory: str) -> dict[str, bytes]:
    """Members of the zip that come from wheels: sources, native parts, licences.

    Raises BuildError when two wheels do not agree about a file, or one has not exactly one native part.
    """
    found: dict[str, bytes] = {}
    for wheel in wheels:
        members = read_wheel(os.path.join(directory, wheel.file))
        package = TAKEN[wheel.name]
        for name, data in members.items():
            if (
                name.startswith(package + "/")
                and name.endswith(".py")
                and not LEFT_OUT.search(name)
            ):
                target = name
            elif LICENCE.search(name):
                target = f"LICENSES/{wheel.name}/{os.path.basename(name)}"
            else:
                continue
            if found.setdefault(target, data) != data:
                raise BuildError(
                    f"cannot use {wheel.file}: its {name} differs from another wheel's"
                )
        if wheel.name == NATIVE:
            native = [data for name, data in members.items() if name.endswith(".so")]
            if len(native) != 1:
                raise BuildError(f"cannot use {wheel.file}: {len(native)} native parts, not one")
            found[f"_so/{wheel.role}.so"] = native[0]
    return found


# --- the zip ----------------------------------------------------------------------------------------


def application(root: str) -> dict[str, bytes]:
    """The modules of ic under `root`, by their names in the zip. Raises BuildError on CR line ends."""
    found: dict[str, bytes] = {}
    for directory, _, names in os.walk(os.path.join(root, "ic")):
        for name in names:
            if not name.endswith(".py"):
                continue
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                data = file.read()
            if b"\r" in data:
                raise BuildError(f"cannot take {path}: it has carriage returns")
            found[os.path.relpath(path, root).replace(os.sep, "/")] = data
    return found


def fill(source: bytes, values: dict[str, object]) -> bytes:
    """A module with the values of some of its constants replaced. Raises BuildError if one is missing."""
    text = source.decode()
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.MULTILINE)
        if count != 1:
            raise BuildError(f"cannot fill {name}: found {count} times")
    return text.encode()


def assemble(
    wheel_members: dict[str, bytes], app: dict[str, bytes], tags: list[str]
) -> dict[str, bytes]:
    """Every member of the zip by name, the build id filled in."""
    boot = {n: data for n, data in application(ROOT).items() if n.startswith("ic/boot/")}
    start = boot.pop("ic/boot/start.py")
    shims = {target: boot.pop(f"ic/boot/{name}") for target, name in SHIMS.items()}
    members = {
        name: data
        for name, data in wheel_members.items()
        if not name.startswith("_so/") or name[len("_so/") : -len(".so")] in tags
    }
    members |= {name: data for name, data in app.items() if not name.startswith("ic/boot/")}
    members |= boot
    members |= shims
    with open(os.path.join(ROOT, "LICENSE"), "rb") as file:
        members["LICENSES/ic/LICENSE"] = file.read()
    modules = sorted(name for name in members if name.endswith(".py"))
    members["_icmembers"] = "".join(f"{name}\n" for name in modules).encode()

    digest = hashlib.sha256(SHEBANG + start)
    for name in sorted(members):
        digest.update(f"{name}\0{len(members[name])}\0".encode() + members[name])
    build = digest.hexdigest()[:20]
    version = re.search(r'^__version__ = "([^"]+)"$', app["ic/__init__.py"].decode(), re.MULTILINE)
    if version is None:
        raise BuildError("cannot find __version__ in ic/__init__.py")
    sizes = {tag: len(members[f"_so/{tag}.so"]) for tag in sorted(tags)}
    members["ic/buildinfo.py"] = fill(members["ic/buildinfo.py"], {"BUILD_ID": build})
    values: dict[str, object] = {"VERSION": version.group(1), "BUILD": build, "SIZES": sizes}
    members["__main__.py"] = fill(start, values)
    return members


def zipped(members: dict[str, bytes], epoch: int) -> bytes:
    """The file's bytes: members sorted, one time, one mode, no extra fields."""
    date = time.gmtime(max(epoch, EPOCH))[:6]
    out = io.BytesIO()
    out.write(SHEBANG)
    with zipfile.ZipFile(out, "w", compresslevel=9) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            stored = name == "__main__.py"
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name], compresslevel=9)
    return out.getvalue()


def build(
    output: str,
    *,
    wheels_directory: str,
    root: str = ROOT,
    tags: list[str] | None = None,
    offline: bool = False,
) -> dict[str, bytes]:
    """Builds the zipapp of the application under `root` for `tags` (all by default); its members.

    Raises BuildError when an input is not what the lock says, zlib would give other bytes, or the file
    would be larger than LIMIT.
    """
    if "ng" in getattr(zlib, "ZLIB_RUNTIME_VERSION", ""):
        raise BuildError("cannot build with zlib-ng: it compresses to other bytes than zlib does")
    chosen = list(TAGS) if tags is None else tags
    unknown = sorted(set(chosen) - set(TAGS))
    if unknown:
        raise BuildError(f"cannot build for {unknown[0]}: known are {', '.join(TAGS)}")
    wheels = read_lock(os.path.join(ROOT, "zipapp.lock"))
    fetch(wheels, wheels_directory, offline=offline)
    members = assemble(collect(wheels, wheels_directory), application(root), chosen)
    data = zipped(members, int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)))
    if len(data) > LIMIT:
        raise BuildError(f"cannot ship {len(data)} bytes: the limit is {LIMIT}")
    os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    replace_file(output, data, 0o755)
    return members


def replace_file(path: str, data: bytes, mode: int) -> None:
    """Writes a file by rename: a process that still reads the old one keeps the old one."""
    fresh = f"{path}.new-{os.getpid()}"
    with open(fresh, "wb") as file:
        file.write(data)
    os.chmod(fresh, mode)
    os.replace(fresh, path)


def file_hash(path: str) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description="Build ic.pyz.")
    parser.add_argument("--output", default=os.path.join(ROOT, "dist", "ic.pyz"))
    parser.add_argument("--wheels", default=os.path.join(ROOT, ".cache", "wheels"))
    parser.add_argument("--offline", action="store_true", help="fetch nothing")
    parser.add_argument("--only", metavar="TAG,...", help="native parts for these only")
    parser.add_argument(
        "--application", default=ROOT, metavar="DIR", help="the folder that has ic/"
    )
    parser.add_argument("--lock", action="store_true", help="make zipapp.lock anew, build nothing")
    options = parser.parse_args(argv)
    try:
        if options.lock:
            make_lock(os.path.join(ROOT, "zipapp.lock"))
            return 0
        build(
            options.output,
            wheels_directory=options.wheels,
            root=options.application,
            tags=options.only.split(",") if options.only else None,
            offline=options.offline,
        )
    except BuildError as problem:
        print(f"build_zipapp: {problem}", file=sys.stderr)
        return 1
    size = os.path.getsize(options.output)
    print(f"{options.output}: {size} bytes, sha256 {file_hash(options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
