"""The first start of an `ic.pyz` on a machine: compiles everything once and keeps it; or goes without.

Enters: the zip's sources. Leaves: an entry `<base>/<name>/{lib.bin,_core.so}`, renamed into place whole,
and a finder over it; when no base can be written, a finder that compiles from the zip as it goes. There is
no lock file: whoever loses a race uses the winner's entry.

lib.bin is `icb1`, the 4 bytes of the interpreter's pyc magic, the file's length and the head's length (8
bytes each, little endian), the head (marshalled code of the finder, and its index), then the code.
"""

from __future__ import annotations

import marshal
import os
import time
from _frozen_importlib_external import MAGIC_NUMBER
from zipimport import zipimporter

from ic.boot import finder

TYPE_CHECKING = False  # not from typing, as in finder
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType

    # Module name, the name of its source in the zip, whether it is a package.
    Member = tuple[str, str, bool]

    # What start.open_entry gives for a sound entry: file, offset of the code, head, native part.
    Opened = tuple[int, int, bytes, str]

FINDER = "ic/boot/finder.py"
MONTH, HOUR = 30 * 86400, 3600
TRIES = 5  # at putting an entry into place while others do the same


class SourceFinder(finder.Finder):
    """A finder without an entry: compiles each module from the zip when it is asked for.

    Reads by an open file where /proc allows it: a newer ic.pyz may take the name while this process runs.
    """

    def __init__(self, archive: str, tag: str, index: finder.Index) -> None:
        super().__init__(archive, tag, index, -1, 0, "")
        opened = f"/proc/self/fd/{os.open(archive, os.O_RDONLY | os.O_CLOEXEC)}"
        self.reader = zipimporter(opened if os.path.exists(opened) else archive)

    def get_code(self, name: str) -> CodeType:
        """The code of one of our modules, compiled now."""
        member = self.index[name][3]
        return compile_member(self.get_data(member), member)


def compile_member(source: bytes, member: str) -> CodeType:
    """Code whose file name is the same wherever the zip lies, so that an entry serves all copies."""
    return compile(source, "ic.pyz/" + member, "exec", dont_inherit=True, optimize=0)


def members(loader: zipimporter) -> list[Member]:
    """The modules on board, from the list that the build left in the zip."""
    lines = loader.get_data("_icmembers").decode().splitlines()
    found: list[Member] = []
    for member in lines:
        package = member.endswith("/__init__.py")
        stem = member[: -len("/__init__.py")] if package else member[: -len(".py")]
        found.append((stem.replace("/", "."), member, package))
    return found


def bundle(loader: zipimporter) -> bytes:
    """The whole content of lib.bin for the running interpreter."""
    index: finder.Index = {}
    blobs: list[bytes] = []
    place = 0
    for name, member, package in members(loader):
        blob = marshal.dumps(compile_member(loader.get_data(member), member))
        index[name] = (place, len(blob), package, member)
        blobs.append(blob)
        place += len(blob)
    code = compile_member(loader.get_data(FINDER), FINDER)
    head = marshal.dumps((code, index))
    total = 24 + len(head) + place
    numbers = total.to_bytes(8, "little") + len(head).to_bytes(8, "little")
    return b"".join([b"icb1", MAGIC_NUMBER, numbers, head, *blobs])


def write_file(path: str, data: bytes, mode: int) -> None:
    """A new file, on the disk when this returns; OSError when it exists or does not fit."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Removes a directory of plain files, as far as that goes: leftovers only cost space."""
    try:
        for name in os.listdir(path):
            os.unlink(path + "/" + name)
        os.rmdir(path)
    except OSError:
        pass


def ready_base(base: str, uid: int, start: ModuleType) -> str:
    """The real path of a base that exists and may be trusted, made if need be; empty if there is none."""
    if base.startswith("/tmp/") and os.path.islink(base):
        return ""
    shared = uid == 0 and not base.startswith("/tmp/")
    before = os.umask(0o022 if shared else 0o077)
    try:
        os.makedirs(base, exist_ok=True)
        real = os.path.realpath(base)
    except OSError:
        return ""
    finally:
        os.umask(before)
    return real if start.trusted(real, uid) else ""


def prune(real: str, now: float) -> None:
    """Removes entries nobody made anew for a month, and what killed starts left an hour ago."""
    for name in os.listdir(real):
        temporary = name.startswith(".tmp-")
        if not temporary and "-cpython-" not in name:
            continue
        path = real + "/" + name
        try:
            age = now - os.lstat(path).st_mtime
        except OSError:
            continue
        if age > (HOUR if temporary else MONTH):
            remove(path)


def keep(
    real: str, name: str, lib: bytes, core: bytes, open_it: Callable[[], Opened | None]
) -> Opened | None:
    """Puts a new entry into place, or finds that another start did, and opens it; None if neither works."""
    unique = f"{os.getpid()}-{os.urandom(6).hex()}"
    fresh, entry = f"{real}/.tmp-{unique}", f"{real}/{name}"
    before = os.umask(0o022)
    try:
        os.mkdir(fresh, 0o755)
        write_file(fresh + "/lib.bin", lib, 0o644)
        write_file(fresh + "/_core.so", core, 0o755)
        for attempt in range(TRIES):
            try:
                os.rename(fresh, entry)
            except OSError:
                found = open_it()
                if found is not None:
                    return found
                put_aside(entry, f"{real}/.tmp-{unique}-{attempt}")
            else:
                sync_directory(real)
                return open_it()
    except OSError:
        pass
    finally:
        os.umask(before)
        remove(fresh)
    return None


def put_aside(entry: str, aside: str) -> None:
    """Moves a damaged entry out of the way and removes it; another start may have done so already."""
    try:
        os.rename(entry, aside)
    except OSError:
        return
    remove(aside)


def sync_directory(path: str) -> None:
    """Makes a rename last over a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def first_run(
    start: ModuleType, loader: zipimporter, archive: str, tag: str, name: str, places: list[str]
) -> finder.Finder:
    """A finder over a new entry in the first of `places` that can hold one, else over the zip itself."""
    uid = os.geteuid()
    size = start.SIZES[tag]

    def opened(base: str) -> Opened | None:
        return start.open_entry(base, name, uid, MAGIC_NUMBER, size)

    def make() -> bool:
        lib = core = b""
        for base in places:
            real = ready_base(base, uid, start)
            if not real:
                continue
            if not lib:
                lib, core = bundle(loader), loader.get_data(f"_so/{tag}.so")
            if keep(real, name, lib, core, lambda real=real: opened(real)) is not None:
                prune(real, time.time())
                return True
        return False

    for _ in range(
        TRIES
    ):  # others may have taken the new entry for the damaged one, and put it aside
        if not apart(make):
            break
        for base in places:
            found = opened(base)
            if found is not None:
                fd, offset, head, native = found
                return finder.Finder(archive, tag, marshal.loads(head)[1], fd, offset, native)
    index = {module: (0, 0, package, member) for module, member, package in members(loader)}
    return SourceFinder(archive, tag, index)


def apart(work: Callable[[], bool]) -> bool:
    """Does the work in a process of its own; whether it succeeded.

    What the compiler takes would stay with this process for as long as it lives: 6 MiB of a daemon's 38.
    """
    try:
        child = os.fork()
    except OSError:
        return work()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    try:
        return os.waitpid(child, 0)[1] == 0
    except ChildProcessError:
        return True  # whoever started us ignores its children's ends, and so do we: the entry tells
