"""The way from a command line to a Stack: finds and reads its files, and runs the stages.

Options and environment in; a Stack with its warnings out, or one ComposeError with every mistake in it. It
prints nothing, and touches the world through `files` alone.

Each document of each file: parse, interpolate, cast, extend, include, lay on what came before, check by the
schema, write out the long forms. Then, for the stack and for each include: defaults, checks of single
values, absolute paths. Then for the stack: normalise, profiles, env files, cross-checks, read by sections.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ic import errors
from ic.compose import (
    checks,
    environment,
    extends,
    files,
    graft,
    include,
    merge,
    model,
    normal,
    paths,
    stages,
)
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Options = files.Options
INCLUDE_DEPTH = 100


def load(
    given: Options | Iterable[str | os.PathLike[str]],
    env: Mapping[str, str],
    stdin: Callable[[], bytes] | None = None,
) -> model.Stack:
    """The stack as understood, with its warnings.

    `given` are the paths of its files, or the options of a command line. `env` are the variables, `stdin`
    gives the content of the file `-`.

    Raises UsageError when there is no file to read, ComposeError with all mistakes of the files.
    """
    options = given
    if not isinstance(options, Options):
        options = Options(files=tuple([os.fspath(path) for path in options]))
    # Trees have no cycles, and looking for some takes a third of the time that a long stack needs.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _load(options, env, stdin)
    finally:
        if collects:
            gc.enable()


def _load(
    options: Options, env: Mapping[str, str], stdin: Callable[[], bytes] | None
) -> model.Stack:
    report = tree.Report(lenient=not options.interpolate)
    disk = files.Disk(options.cwd, stdin)
    found = files.find(options, env, disk, report)
    if not found.files:
        raise errors.UsageError(
            f"cannot find a compose file: none of {', '.join(files.DEFAULT_NAMES)} "
            f"in {found.cwd} or above",
            hint="name one with -f FILE",
            code="E_NO_FILE",
        )
    loading = _Loading(options, found, disk, report)
    loading.foresee({path: found.files.count(path) for path in dict.fromkeys(found.files)})
    documents = [one for path in found.files for one in loading.documents(path)]
    _stop_if_failed(report)
    name = _name(options, found, documents, report)
    variables = found.env | {"COMPOSE_PROJECT_NAME": name}
    scope = Scope(directory=found.directory, root=found.directory, env=variables, chain=())
    root = loading.tree_of(found.files, scope)
    if not root.data and not report.failed:
        report.error("E_YAML", "the compose file is empty", root.position)
    if options.normalize:
        root = normal.normalize(root, name, variables if options.interpolate else {})
    stack = _stack_of(root, loading, name, variables)
    return msgspec.structs.replace(
        stack,
        files=tuple(
            (path, _digest(content) if options.for_running else "")
            for path, content in disk.contents.items()
        ),
        environment=variables,
        merged=tuple(disk.shown(path) for path in found.files),
        diagnostics=tuple(report.diagnostics),
    )


def _stack_of(
    root: tree.Node, loading: _Loading, name: str, variables: dict[str, str]
) -> model.Stack:
    """The stack of a tree in normal form, checked across; raises ComposeError with every mistake."""
    options, found, disk, report = loading.options, loading.found, loading.disk, loading.report
    if not (options.interpolate or options.whole):
        _stop_if_failed(report)
        return model.Stack(name=name, working_dir=found.directory, services={}, tree=root)
    profiles = _profiles(options, variables)
    active = environment.active(root, profiles, options.services)
    by_profile = environment.active(root, profiles, ())
    with_env = active if options.resolve_named_env else by_profile
    stages.values(root, report)
    if options.consistency:
        checked = active if options.for_running else by_profile
        checks.consistent(root, checked, report)
        if not report.failed:
            root = normal.with_replicas(root, checked)
    root = environment.with_files(
        root,
        with_env if options.resolve_env else (),
        active if options.for_running else by_profile,
        variables,
        read=lambda path: (disk.shown(path), disk.read(path)),
        report=report,
    )
    running = tree.Report()
    model.tell_pending(root, active, running)
    if report.failed:
        report.diagnostics += running.diagnostics if options.for_running else []
        _stop_if_failed(report)
    stack = model.read(root, active, name, found.directory, running)
    if options.for_running:
        checks.check_for_running(stack, running)
    pending = tuple(one for one in running.diagnostics if one.severity == "error")
    report.diagnostics += running.diagnostics if options.for_running else []
    _stop_if_failed(report)
    return checks.without_unused(msgspec.structs.replace(stack, pending=pending))


def _profiles(options: Options, variables: Mapping[str, str]) -> tuple[str, ...]:
    if options.profiles:
        return options.profiles
    return tuple(one.strip() for one in variables.get("COMPOSE_PROFILES", "").split(","))


def stack_name(options: Options, env: Mapping[str, str]) -> str:
    """The stack's name for commands that need no file: `-p NAME`, or that of the directory's stack.

    Raises UsageError for a name that is none, ComposeError where a file cannot be read.
    """
    report = tree.Report()
    if options.project_name:
        return _checked_name(options.project_name, "-p")
    disk = files.Disk(options.cwd)
    found = files.find(options, env, disk, report)
    if found.env.get("COMPOSE_PROJECT_NAME"):
        return _checked_name(found.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME")
    loading = _Loading(options, found, disk, report)
    documents = [
        one for path in found.files if path != files.STDIN for one in loading.documents(path)
    ]
    _stop_if_failed(report)
    return _name(options, found, documents, report)


def _stop_if_failed(report: tree.Report) -> None:
    if not report.failed:
        return
    ranks: dict[str, int] = {}
    for one in report.diagnostics:
        ranks.setdefault(one.position.file if one.position else "", len(ranks))
    report.diagnostics.sort(key=lambda one: _place_of(one, ranks))
    wrong = [one for one in report.diagnostics if one.severity == "error"]
    if len(wrong) == 1:
        summary = f"cannot read the stack: {wrong[0].summary}"
        code, hint = wrong[0].code, wrong[0].hint
    else:
        summary = f"cannot read the stack: {len(wrong)} mistakes in the compose files"
        code, hint = None, ""
    raise errors.ComposeError(summary, hint=hint, code=code, diagnostics=tuple(report.diagnostics))


def _place_of(one: errors.Diagnostic, ranks: Mapping[str, int]) -> tuple[int, int, int]:
    """Where a diagnostic comes in order: by file as they came up, then from top to bottom."""
    at = one.position
    return (ranks[at.file], at.line, at.column) if at else (-1, 0, 0)


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


# --- loading ------------------------------------------------------------------------------------------


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Where some files stand: the stack's own, or those of one include.

    `directory` is absolute and what files are looked for in; `root` is what their relative paths are below,
    which for an include is relative to the including one. `chain` are the files that include one another.
    """

    directory: str
    root: str
    env: Mapping[str, str]
    chain: tuple[str, ...]


class _Loading:
    """The files of one stack on their way to one tree; what is read twice is parsed once."""

    def __init__(
        self, options: Options, found: files.Found, disk: files.Disk, report: tree.Report
    ) -> None:
        self.options = options
        self.found = found
        self.disk = disk
        self.report = report
        self.home = found.env.get("HOME", "")
        self.parsed: dict[str, list[tree.Node]] = {}
        self.broken: set[str] = set()  # what was told to be no file of a stack
        self.sources: dict[tuple[str, int], extends.Source] = {}
        self.included: dict[tuple[object, ...], tree.Node | None] = {}
        self.scopes: list[Scope] = []  # kept, so that an id stays that of one scope
        self.envs: dict[tuple[object, ...], Mapping[str, str]] = {}
        self.sizes: dict[int, int] = {}  # of the documents, which are kept

    def documents(self, path: str) -> list[tree.Node]:
        """The documents of a file, each a mapping; others are errors. Raises UsageError."""
        from ic.compose import document

        found = self.parsed.get(path)
        if found is not None:
            return found
        found = self.parsed[path] = []
        shown = self.disk.shown(path)
        try:
            documents = document.parse(self.disk.read(path), shown, self.report)
        except errors.ComposeError as problem:
            self.report.diagnostics.extend(problem.diagnostics)
            self.broken.add(path)
            return found
        for one in documents:
            if isinstance(one.data, dict):
                found.append(one)
            else:
                self.broken.add(path)
                self.report.error(
                    tree.TYPE,
                    f"the top-level object must be a mapping, not {tree.kind_of(one)}",
                    one.position,
                )
        return found

    def foresee(self, times: Mapping[str, int]) -> None:
        """Refuse files that together hold too many values before the first of them is parsed.

        `times` says how often each is going to be read. What cannot be read is told later, in its place.
        """
        if sum(times.values()) < 2:  # a file's own limit is lower
            return
        room = self.report.readable
        contents = [(path, count, self._content(path)) for path, count in times.items()]
        if sum(len(content) * count for _, count, content in contents) <= room:
            return
        from ic.compose import census

        if sum(census.most(content) * count for _, count, content in contents) <= room:
            return
        held = 0
        for path, count, content in contents:
            held += count * census.at_least(content, (room - held) // count)
            if held > room:
                self.report.read(held, errors.Position(self.disk.shown(path), 1, 1))

    def _content(self, path: str) -> bytes:
        if path in self.parsed:
            return b""
        try:
            return self.disk.read(path)
        except errors.UsageError:
            return b""

    def tree_of(self, paths_: tuple[str, ...], scope: Scope) -> tree.Node:
        """Files laid on each other, complete but for what only a whole stack has. Raises UsageError."""
        self.scopes.append(scope)
        root: tree.Node | None = None
        self._foresee_laying([one for path in paths_ for one in self.documents(path)])
        for path in paths_:
            inner = msgspec.structs.replace(scope, chain=(*scope.chain, path))
            for one in self.documents(path):
                root = self._laid_on(root, one, path, inner)
        if root is None:
            return tree.Node({}, errors.Position(self.disk.shown(paths_[0]), 1, 1), {})
        root = stages.fill(root, self.report)
        checks.validate(root, self.report)
        if self.options.resolve_paths or len(scope.chain) > 0:
            root = paths.resolve(root, scope.root, self.home, self.report)
        return environment.resolve(root, scope.env) if self.options.interpolate else root

    def _foresee_laying(self, documents: list[tree.Node]) -> None:
        """Count what documents hold; refuse those that lay too much on each other before any is."""
        held: dict[tuple[str, str], int] = {}
        count = 0
        for one in documents:
            self.report.read(graft.size(one, self.sizes), one.position)
            if len(documents) == 1 or not isinstance(one.data, dict):
                continue
            for kind, part in one.data.items():
                entries = part.data.items() if isinstance(part.data, dict) else [("", part)]
                for name, entry in entries:
                    below = held.get((kind, name), 0)
                    count += below
                    held[kind, name] = below + graft.size(entry, self.sizes)
            self.report.has_ground(count, one.position)

    def _laid_on(
        self, root: tree.Node | None, one: tree.Node, path: str, scope: Scope
    ) -> tree.Node:
        report = self.report
        one = self._prepared(one, scope)
        source = extends.Source(path, self.disk.shown(path), one.child("services"))
        if root is not None:
            root = merge.unmarked(root, one)  # as extends carries some of the marks out
        self._foresee_extends(source, scope)
        one = extends.apply(
            one, source, lambda node: self._source(node, scope), self._extended, report
        )
        self._foresee_includes(one, scope)
        one = include.apply(one, lambda entry: self._included(entry, scope), report)
        if root is not None:
            report.lay(graft.size(graft.part(root, one), {}), one.position)
        root = merge.merge(root, one, report)
        # What this document does not speak of went through all of it with an earlier one.
        touched = graft.part(root, one)
        made = merge.unique(touched)
        stages.check(made, report)
        made = merge.unique(stages.long(made, report))
        return graft.without(graft.with_part(root, touched, made), "version")

    def _prepared(self, one: tree.Node, scope: Scope) -> tree.Node:
        if not self.options.interpolate:
            return one
        from ic.compose import interpolate

        return stages.cast(interpolate.interpolate(one, scope.env, self.report), self.report)

    # --- extends ---

    def _foresee_extends(self, source: extends.Source, scope: Scope) -> None:
        """Refuse services that extend files which hold too much, before the first of these is parsed."""
        services = source.services.data if source.services is not None else None
        named = (
            [one.child("extends") for one in services.values()]
            if isinstance(services, dict)
            else []
        )
        paths_ = {self._near(one.child("file"), scope) for one in named if one is not None}
        self.foresee(dict.fromkeys(paths_ - {"", source.file}, 1))

    def _extended(self, base: tree.Node, service: tree.Node, where: str) -> tree.Node:
        return merge.extend(base, service, where, self.report)

    def _source(self, node: tree.Node, scope: Scope) -> extends.Source | None:
        """The file that an `extends` names, its services in their long form and with absolute paths."""
        path = self._path(node, scope.directory, "extends")
        if path is None:
            return None
        found = self.sources.get((path, id(scope.env)))
        if found is not None:
            return found
        documents = self._read(node, path)
        if documents is None or path in self.broken:
            return None
        root: tree.Node | None = None
        drops: list[tuple[str, ...]] = []
        self._foresee_laying(documents)
        for one in documents:
            if root is not None:
                self.report.lay(graft.size(root, {}), one.position)
            drops = graft.marked(one.child("services") or one)
            root = merge.unique(merge.merge(root, self._prepared(one, scope), self.report))
            root = merge.unique(stages.long(root, self.report))
        if root is not None:
            below = os.path.relpath(os.path.dirname(path), scope.directory)
            root = paths.resolve(root, below, self.home, self.report)
        services = root.child("services") if root is not None else None
        found = extends.Source(path, self.disk.shown(path), services, tuple(drops))
        self.sources[path, id(scope.env)] = found
        return found

    def _path(self, node: tree.Node, directory: str, key: str) -> str | None:
        if not isinstance(node.data, str) or not node.data:
            tree.wrong_type(node, f"{key}.file", self.report, "the name of a file")
            return None
        if files.is_remote(node.data):
            self.report.error(
                "E_FILE_REMOTE",
                f"{key}: {node.data} is not on this machine; files from elsewhere are not fetched",
                node.position,
                "fetch it first and name the copy",
            )
            return None
        return os.path.normpath(os.path.join(directory, node.data))

    def _read(self, node: tree.Node, path: str) -> list[tree.Node] | None:
        """The documents of a file that a node names; None, and an error there, where it cannot be read."""
        try:
            return self.documents(path)
        except errors.UsageError as problem:
            self.report.error(problem.code, problem.summary, node.position, problem.hint)
            return None

    # --- include ---

    def _foresee_includes(self, document: tree.Node, scope: Scope) -> None:
        """Refuse a document whose `include` names files that hold too much, before the first is parsed."""
        given = document.child("include")
        if given is None or given.mark == "reset":
            return
        # Told again with the entries themselves; a file is laid on others once for each of its directories.
        named = {
            (
                tuple(self._near(node, scope) for node in entry.paths),
                self._near(entry.directory, scope),
            )
            for entry in include.entries(document, tree.Report())
        }
        times: dict[str, int] = {}
        for paths_, _ in named:
            for path in paths_:
                if path and path not in scope.chain:
                    times[path] = times.get(path, 0) + 1
        self.foresee(times)

    @staticmethod
    def _near(node: tree.Node | None, scope: Scope) -> str:
        """The path that a node names; empty where there is none that can be read."""
        if node is None or not isinstance(node.data, str) or not node.data:
            return ""
        if files.is_remote(node.data):
            return ""
        return os.path.normpath(os.path.join(scope.directory, node.data))

    def _included(self, entry: include.Entry, scope: Scope) -> tree.Node | None:
        paths_: list[str] = []
        for node in entry.paths:
            path = self._path(node, scope.directory, "include")
            if path is None:
                return None
            if path in scope.chain:
                self._cycle(scope.chain, path, node)
                return None
            if self._read(node, path) is not None:
                paths_.append(path)
        if len(paths_) < len(entry.paths):
            if entry.env_files:  # what is wrong with these is told as well
                self._env_of(entry, scope, scope.directory)
            return None
        if len(scope.chain) >= INCLUDE_DEPTH:
            self.report.error(
                "E_LIMIT",
                f"files include one another more than {INCLUDE_DEPTH} levels deep",
                entry.paths[0].position,
            )
            return None
        directory = os.path.dirname(paths_[0])
        given = entry.directory
        if given is not None:
            assert isinstance(given.data, str)
            directory = os.path.normpath(os.path.join(scope.directory, given.data))
        root = directory
        if given is None or not os.path.isabs(str(given.data)):
            # As docker compose has it, a directory that is not there stands for the one above it.
            there = directory if os.path.isdir(directory) else os.path.dirname(directory)
            root = os.path.relpath(there, scope.directory)
        env = self._env_of(entry, scope, directory)
        if env is None:
            return None
        key = (tuple(paths_), directory, root, id(env))
        if key not in self.included:
            inner = Scope(directory=directory, root=root, env=env, chain=scope.chain)
            self.included[key] = graft.without_marks(self.tree_of(tuple(paths_), inner))
        return self.included[key]

    def _env_of(
        self, entry: include.Entry, scope: Scope, directory: str
    ) -> Mapping[str, str] | None:
        """The variables of an include: those of the including file, and below them its env files."""
        named = [
            os.path.normpath(os.path.join(scope.directory, str(node.data)))
            for node in entry.env_files
        ]
        if not named:
            default = files.default_env_file(directory)
            named = [default] if default else []
        if not named:
            return scope.env
        key = (id(scope.env), *named)
        if key not in self.envs:
            from ic.compose import envfile

            try:
                below = files.env_files(named, scope.env, self.disk, self.report)
            except errors.UsageError as problem:
                node = (entry.env_files or entry.paths)[0]
                self.report.error(problem.code, problem.summary, node.position, problem.hint)
                return None
            self.envs[key] = envfile.Surroundings(scope.env, below)
        return self.envs[key]

    def _cycle(self, chain: tuple[str, ...], path: str, node: tree.Node) -> None:
        ring = [self.disk.shown(one) for one in (*chain[chain.index(path) :], path)]
        self.report.error(
            include.CYCLE,
            f"include cycle detected: {' -> '.join(ring)}",
            node.position,
        )


# --- name ---------------------------------------------------------------------------------------------

_NOT_IN_NAME = re.compile(r"[^a-z0-9_-]")


def normalized_name(text: str) -> str:
    """The name that docker compose makes of a text: lower case, letters, digits, `_` and `-` only."""
    return _NOT_IN_NAME.sub("", text.lower()).lstrip("_-")


def _checked_name(text: str, source: str) -> str:
    if text and normalized_name(text) == text:
        return text
    hint = normalized_name(text)
    raise errors.UsageError(
        f"cannot name the stack: invalid project name {text!r} ({source}): a name has lower case "
        "letters, digits, '-' and '_' and begins with a letter or a digit",
        hint=f"write {hint}" if hint else "",
        code="E_NAME",
    )


def _name(
    options: Options, found: files.Found, documents: list[tree.Node], report: tree.Report
) -> str:
    """The stack's name: -p, COMPOSE_PROJECT_NAME, the last `name:`, the directory."""
    from ic.compose import interpolate

    if options.project_name:
        return _checked_name(options.project_name, "-p")
    if found.env.get("COMPOSE_PROJECT_NAME"):
        return _checked_name(found.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME")
    node: tree.Node | None = None
    for one in documents:
        given = one.child("name")
        if given is not None and isinstance(given.data, str) and given.data:
            node = given
    if node is not None:
        named = str(node.data)
        if options.interpolate:
            try:
                named = interpolate.substitute(named, found.env, lambda name: None)  # noqa: ARG005
            except interpolate.Fault:
                return "stack"  # told with its position when the documents are interpolated
        name = normalized_name(named) if options.normalize else named
        if not name:
            reason = f"name: {named!r} holds no letter or digit" if named else "name: is empty"
            report.error("E_NAME", reason, node.position, "write a name, or give one with -p NAME")
            return "stack"
        return name
    name = normalized_name(os.path.basename(found.directory))
    if not name:
        raise errors.UsageError(
            f"cannot name the stack after the directory {found.directory!r}: no letter or digit in it",
            hint="name it with -p NAME or name:",
            code="E_NAME",
        )
    return name
