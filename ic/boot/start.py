# pyright: reportTypeCommentUsage=false
"""The first code that runs in `ic.pyz`: checks Python, finds the cache entry, starts `ic.cli.main`.

Enters: argv, environment, the cache's files. Leaves: the finder first in `sys.meta_path`, then the exit
status. Must stay readable for Python 2.7, so that an old Python gets one clean line, and imports nothing
that the interpreter has not loaded by itself: it is compiled at every start.
"""

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # for the type comments
    from typing import Any  # noqa: F401
    from zipimport import zipimporter  # noqa: F401

    from ic.boot.finder import Finder  # noqa: F401

# These three lines are filled in by build_zipapp.py.
VERSION = "0"
BUILD = "source"
SIZES = {}  # type: dict[str, int]

NEEDED = (3, 10)
_DIRECTORY, _KIND, _OTHERS_WRITE, _STICKY, _NOEXEC = 0o040000, 0o170000, 0o022, 0o1000, 8


def too_old(version):
    # type: (tuple[int, ...]) -> str
    """The line for a Python that cannot run ic; empty for one that can."""
    if version >= NEEDED:
        return ""
    text = ".".join([str(n) for n in version[:3]])
    return "ic: needs Python %d.%d or newer, this is Python %s\n" % (NEEDED[0], NEEDED[1], text)


def native_tag(suffix, version):
    # type: (str, tuple[int, ...]) -> str
    """The name of this interpreter's extensions; CPython 3.10 on musl calls itself gnu as well."""
    tag = suffix[1:-3]
    if version[:2] == (3, 10) and tag.endswith("-linux-gnu"):
        try:
            glibc = os.confstr("CS_GNU_LIBC_VERSION")
        except (OSError, ValueError):
            glibc = None
        if not glibc:
            tag = tag[:-3] + "musl"
    return tag


def bases(uid, environ):
    # type: (int, dict[str, str]) -> list[str]
    """Where entries may be, best first. Root never looks at HOME: sudo may have kept a user's."""
    if "IC_CACHE_DIR" in environ:
        return [p for p in [environ["IC_CACHE_DIR"]] if p.startswith("/")]
    found = ["/var/cache/ic"]
    if uid != 0:
        home = environ.get("HOME", "")
        if not home:
            import pwd

            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                home = ""
        cache = environ.get("XDG_CACHE_HOME", "")
        if not cache.startswith("/"):
            cache = home.rstrip("/") + "/.cache"
        found += [p + "/ic" for p in (cache, environ.get("XDG_RUNTIME_DIR", "")) if p[:1] == "/"]
    return found + ["/tmp/ic-cache-%d" % uid]


def trusted(path, uid):
    # type: (str, int) -> bool
    """Whether nobody but root and `uid` can have put something at `path` (absolute, no links)."""
    first = True
    while True:
        try:
            found = os.lstat(path)
        except OSError:
            return False
        if found.st_mode & _KIND != _DIRECTORY or found.st_uid not in (0, uid):
            return False
        if found.st_mode & _OTHERS_WRITE and (first or not found.st_mode & _STICKY):
            return False
        if path == "/":
            return True
        path = path[: path.rindex("/")] or "/"
        first = False


def open_entry(base, name, uid, magic, core_size):
    # type: (str, str, int, bytes, int) -> tuple[int, int, bytes, str] | None
    """(file, offset of the code, head, native part) of a sound entry that may be trusted, else None."""
    entry = os.path.realpath(base) + "/" + name
    if not trusted(entry, uid):
        return None
    core = entry + "/_core.so"
    try:
        fd = os.open(entry + "/lib.bin", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        head = os.pread(fd, 24, 0)
        total, length = int.from_bytes(head[8:16], "little"), int.from_bytes(head[16:], "little")
        if head[:8] == b"icb1" + magic and os.fstat(fd).st_size == total:
            if os.lstat(core).st_size == core_size:
                if os.statvfs(entry).f_flag & _NOEXEC:
                    core = ""
                return fd, 24 + length, os.pread(fd, length, 24), core
    except OSError:
        pass
    os.close(fd)
    return None


def standard_path(path):
    # type: (list[str]) -> list[str]
    """What of `sys.path` belongs to Python itself: no current directory, PYTHONPATH or site."""
    short = "%d.%d" % sys.version_info[:2]
    own = [os.path.dirname(os.__file__)]
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        for lib in ("lib", sys.platlibdir):
            own += [prefix + "/" + lib + "/python" + short]
            own += [prefix + "/" + lib + "/python" + short.replace(".", "") + ".zip"]
    return [p for p in path if p in own or (p.endswith("/lib-dynload") and p[:-12] in own)]


def main(loader):
    # type: (zipimporter) -> int
    """Runs ic from the zip that `loader` reads; the exit status."""
    line = too_old(sys.version_info[:3])
    if line:
        sys.stderr.write(line)
        return 1
    if sys.argv[1:] == ["--version"]:
        try:
            os.write(1, ("ic %s\n" % VERSION).encode())
        except OSError:
            return 1
        return 0
    import _imp
    import marshal
    from _frozen_importlib_external import MAGIC_NUMBER

    # Few commands live long enough to need a collection; those that do still get theirs.
    gc.set_threshold(100000, 50, 50)
    archive = os.path.abspath(loader.archive)
    sys.path[:] = [archive] + standard_path(sys.path)
    tag = native_tag(_imp.extension_suffixes()[0], sys.version_info[:3])
    if tag not in SIZES:
        sys.stderr.write("ic: no native part for this Python (%s); on board:\n" % tag)
        sys.stderr.write("".join(["  %s\n" % one for one in sorted(SIZES)]))
        return 1
    uid = os.geteuid()
    name = "%s-%s-%s" % (BUILD, tag, MAGIC_NUMBER[:2].hex())
    places = bases(uid, os.environ)  # type: ignore[arg-type]
    for base in places:
        found = open_entry(base, name, uid, MAGIC_NUMBER, SIZES[tag])
        if found is not None:
            fd, offset, head, core = found
            code, index = marshal.loads(head)
            scope = {"__name__": "ic.boot.finder"}  # type: dict[str, Any]
            exec(code, scope)
            finder = scope["Finder"](archive, tag, index, fd, offset, core)  # type: Finder
            break
    else:
        for module in [m for m in sys.modules if m.partition(".")[0] == "ic"]:
            del sys.modules[module]
        from ic.boot import firstrun

        finder = firstrun.first_run(sys.modules[__name__], loader, archive, tag, name, places)
    finder.install()
    from ic.cli import main as application

    return application.main(sys.argv[1:])


def leave(status, archive):
    # type: (int, str) -> None
    """Ends the process without taking the interpreter apart, which is a tenth of what a command takes.

    Not where other threads run, which Python waits for, and not inside of another program.
    """
    threading = sys.modules.get("threading")
    if archive in getattr(sys, "orig_argv", ()) and (
        threading is None or threading.active_count() == 1
    ):
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or nobody reads it: what was to be said about that was said
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    try:
        status = main(__loader__)  # type: ignore[name-defined]
    except KeyboardInterrupt:  # ic.cli.main, which would say so, is still being loaded
        sys.stderr.write("error: cannot go on: interrupted\n")
        status = 130
    leave(status, __loader__.archive)  # type: ignore[name-defined]
