"""Finds every module that `ic.pyz` brings along, before anything installed on the host can.

Enters: the index of an entry, an open file with the code, the path of the native part. Leaves: modules.
An entry's head carries this module compiled. Reads by an open file, so an entry that is removed does not
hurt a running process.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from zipimport import zipimporter

# Not from typing: this runs before the application and loads nothing for the sake of a checker.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    # A module's place among the code, its length, whether it is a package, its source's name in the zip.
    Index = dict[str, tuple[int, int, bool, str]]

NATIVE = "msgspec._core"


class Finder:
    """A meta path finder and loader over one file of marshalled code."""

    def __init__(
        self, archive: str, tag: str, index: Index, fd: int, offset: int, native: str
    ) -> None:
        self.archive = archive
        self.tag = tag
        self.index = index
        self.fd = fd
        self.offset = offset
        self.native = native
        self.reader: zipimporter | None = None

    def install(self) -> None:
        """Goes first, and forgets what the host's start-up hooks loaded of names that are ours."""
        ours = {name for name in self.index if "." not in name}
        for name in list(sys.modules):
            if name.partition(".")[0] in ours:
                del sys.modules[name]
        sys.meta_path.insert(0, self)
        sys.path[:] = [p for p in sys.path if p != self.archive]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question: is `name` one of ours?"""
        if name == NATIVE:
            place = self.native_path()
            return ModuleSpec(name, ExtensionFileLoader(name, place), origin=place)
        found = self.index.get(name)
        if found is None:
            return None
        origin = self.archive + "/" + found[3]
        spec = ModuleSpec(name, self, origin=origin, is_package=found[2])  # pyright: ignore[reportArgumentType] - a loader by its methods
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """An ordinary module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module's code."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """The compiled code of one of our modules; KeyError for any other name."""
        place, length = self.index[name][:2]
        return marshal.loads(os.pread(self.fd, length, self.offset + place))

    def get_source(self, name: str) -> str:
        """The source of one of our modules, for tracebacks and debuggers."""
        return self.get_data(self.index[name][3]).decode()

    def get_data(self, path: str) -> bytes:
        """The bytes of a member of the zip, by its name or its full path."""
        if self.reader is None:
            self.reader = zipimporter(self.archive)
        return self.reader.get_data(path.removeprefix(self.archive + "/"))

    def is_package(self, name: str) -> bool:
        """Whether one of our modules is a package."""
        return self.index[name][2]

    def native_path(self) -> str:
        """A path from which the native part can be loaded: the entry's, else one in memory.

        In memory when there is no entry, when it lies on a file system mounted noexec, and when the
        entry was removed after the start. Raises ImportError where neither works.
        """
        if self.native and os.path.exists(self.native):
            return self.native
        try:
            fd = os.memfd_create("ic-native", os.MFD_CLOEXEC)
            data = self.get_data("_so/" + self.tag + ".so")
            while data:
                data = data[os.write(fd, data) :]
        except OSError as problem:
            raise ImportError(
                f"cannot load ic's native part: {problem}; IC_CACHE_DIR can name a directory to keep it in"
            ) from problem
        # The file stays open: the loader may look at the path again.
        self.native = f"/proc/self/fd/{fd}"
        return self.native
