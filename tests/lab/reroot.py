"""Make this process's root the root of its mount namespace, then become another program.

In a plain chroot the kernel makes no user namespace, so that no container starts, and pivot_root
has no mount point to leave. Entering one's own mount namespace once more leads to its true root;
from there the directory that was the root becomes it again, this time as a mount. Enters: a mount
namespace of its own, and the command line of the program to become.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

CLONE_NEWNS = 0x00020000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155}.get(platform.machine(), 41)  # the C library has no function for it

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: object) -> None:
    """A function of the C library that answers 0, or OSError."""
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def main(argv: list[str]) -> None:
    root = os.open("/", os.O_RDONLY)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("setns", own, CLONE_NEWNS)
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    os.fchdir(root)
    # The path that the kernel now has for it: from here on it is no longer "/".
    where = os.getcwd().encode()
    call("mount", where, where, None, MS_BIND | MS_REC, None)
    os.chdir(where)
    call("syscall", PIVOT_ROOT, b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    os.close(root)
    os.close(own)
    os.execvp(argv[0], argv)


main(sys.argv[1:])
