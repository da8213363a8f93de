"""The way from a command line to a Stack: finds and reads its files, and runs the stages.

Options and environment in; a Stack with its warnings out, or one ComposeError with every mistake in it. It
prints nothing, and touches the world through `files` alone.

Each document of each file: parse, interpolate, cast, extend, include, lay on what came before, check by the
schema, write out the long forms. Then, for the stack and for each include: defaults, checks of single
values, absolute paths. Then for the stack: normalise, profiles, env files, cross-checks, read by sections.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

import msgspec

from ic import errors, units
from ic.compose import checks, environment, extends, files, graft, include, merge, model, paths
from ic.fields import (
    image,
    lifecycle,
    networking,
    placement,
    process,
    storage,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Options = files.Options
INCLUDE_DEPTH = 100


def load(
    options: Options, env: Mapping[str, str], stdin: Callable[[], bytes] | None = None
) -> model.Stack:
    """The stack as understood, with its warnings.

    Raises UsageError when there is no file to read, ComposeError with all mistakes of the files.
    """
    report = tree.Report()
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
    documents = [one for path in found.files for one in loading.documents(path)]
    _stop_if_failed(report)
    name = _name(options, found, documents, report)
    variables = found.env | {"COMPOSE_PROJECT_NAME": name}
    scope = Scope(directory=found.directory, root=found.directory, env=variables, chain=())
    root = loading.tree_of(found.files, scope)
    if not root.data:
        report.error("E_YAML", "the compose file is empty", root.position)
    reading = _Reading(options, found, variables, report, disk)
    stack = reading.stack(name, root)
    _stop_if_failed(report)
    return msgspec.structs.replace(
        stack,
        files=tuple((path, _digest(content)) for path, content in disk.contents.items()),
        diagnostics=tuple(report.diagnostics),
    )


def stack_name(options: Options, env: Mapping[str, str]) -> str:
    """The stack's name for commands that need no file: `-p NAME`, or that of the directory's stack.

    Raises UsageError for a name that is none, ComposeError where a file cannot be read.
    """
    report = tree.Report()
    if options.project_name is not None:
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
    return hashlib.sha256(content).hexdigest()


# --- loading ------------------------------------------------------------------------------------------


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Where some files stand: the stack's own, or those of one include.

    `directory` is absolute and what files are looked for in; `root` is what their relative paths are below,
    which for an include is relative to the including one. `chain` are the files that include one another.
    """

    directory: str
    root: str
    env: dict[str, str]
    chain: tuple[str, ...]


class _Loading:
    """The files of one stack on their way to one tree; what is read twice is parsed once."""

    def __init__(
        self, options: Options, found: files.Found, disk: files.Disk, report: tree.Report
    ) -> None:
        self.options = options
        self.disk = disk
        self.report = report
        self.home = found.env.get("HOME", "")
        self.table = merge.Table(model.merge_rules())
        self.parsed: dict[str, list[tree.Node]] = {}
        self.sources: dict[tuple[str, int], extends.Source] = {}
        self.included: dict[tuple[object, ...], tree.Node | None] = {}
        self.scopes: list[Scope] = []  # kept, so that an id stays that of one scope
        self.envs: dict[tuple[object, ...], dict[str, str]] = {}

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
            return found
        for one in documents:
            if isinstance(one.data, dict):
                found.append(one)
            else:
                self.report.error(
                    tree.TYPE,
                    f"the top level must be a mapping, not {tree.kind_of(one)}",
                    one.position,
                )
        return found

    def tree_of(self, paths_: tuple[str, ...], scope: Scope) -> tree.Node:
        """Files laid on each other, complete but for what only a whole stack has. Raises UsageError."""
        self.scopes.append(scope)
        root: tree.Node | None = None
        for path in paths_:
            inner = msgspec.structs.replace(scope, chain=(*scope.chain, path))
            for one in self.documents(path):
                root = self._laid_on(root, one, path, inner)
        if root is None:
            return tree.Node({}, errors.Position(self.disk.shown(paths_[0]), 1, 1), {})
        # Here: defaults, then checks of single values.
        if self.options.resolve_paths or len(scope.chain) > 0:
            root = paths.resolve(root, scope.root, self.home, self.report)
        return environment.resolve(root, scope.env)

    def _laid_on(
        self, root: tree.Node | None, one: tree.Node, path: str, scope: Scope
    ) -> tree.Node:
        report = self.report
        one = self._prepared(one, scope)
        source = extends.Source(path, self.disk.shown(path), one.child("services"))
        one = extends.apply(
            one, source, lambda node: self._source(node, scope), self._extended, report
        )
        one = include.apply(one, lambda entry: self._included(entry, scope), report)
        # Then: unicity, the schema, long forms, unicity again.
        return merge.merge(root, one, self.table, report)

    def _prepared(self, one: tree.Node, scope: Scope) -> tree.Node:
        if not self.options.interpolate:
            return one
        from ic.compose import interpolate

        # Then: texts become what their keys want.
        return interpolate.interpolate(one, scope.env, self.report)

    # --- extends ---

    def _extended(self, base: tree.Node, service: tree.Node, where: str) -> tree.Node:
        del where
        wrapped = merge.merge(_as_service(base), _as_service(service), self.table, self.report)
        services = wrapped.child("services")
        found = services.child("x") if services is not None else None
        assert found is not None
        return found

    def _source(self, node: tree.Node, scope: Scope) -> extends.Source | None:
        """The file that an `extends` names, its services in their long form and with absolute paths."""
        path = self._path(node, scope.directory, "extends")
        if path is None:
            return None
        found = self.sources.get((path, id(scope.env)))
        if found is not None:
            return found
        documents = self._read(node, path)
        if not documents:
            return None
        root: tree.Node | None = None
        for one in documents:
            root = merge.merge(root, self._prepared(one, scope), self.table, self.report)
            # Then: unicity, long forms, unicity again.
        if root is not None:
            below = os.path.relpath(os.path.dirname(path), scope.directory)
            root = paths.resolve(root, below, self.home, self.report)
        services = root.child("services") if root is not None else None
        found = extends.Source(path, self.disk.shown(path), services)
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

    def _included(self, entry: include.Entry, scope: Scope) -> tree.Node | None:
        paths_: list[str] = []
        for node in entry.paths:
            path = self._path(node, scope.directory, "include")
            if path is None:
                return None
            if path in scope.chain:
                self._cycle(scope.chain, path, node)
                return None
            if self._read(node, path) is None:
                return None
            paths_.append(path)
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
            root = os.path.relpath(directory, scope.directory)
        env = self._env_of(entry, scope, directory)
        if env is None:
            return None
        key = (tuple(paths_), directory, root, id(env))
        if key not in self.included:
            inner = Scope(directory=directory, root=root, env=env, chain=scope.chain)
            self.included[key] = graft.without_marks(self.tree_of(tuple(paths_), inner))
        return self.included[key]

    def _env_of(self, entry: include.Entry, scope: Scope, directory: str) -> dict[str, str] | None:
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
            try:
                below = files.env_files(named, scope.env, self.disk, self.report)
            except errors.UsageError as problem:
                node = (entry.env_files or entry.paths)[0]
                self.report.error(problem.code, problem.summary, node.position, problem.hint)
                return None
            self.envs[key] = {**below, **scope.env}
        return self.envs[key]

    def _cycle(self, chain: tuple[str, ...], path: str, node: tree.Node) -> None:
        ring = [self.disk.shown(one) for one in (*chain[chain.index(path) :], path)]
        self.report.error(
            include.CYCLE,
            f"files include each other in a circle: {' -> '.join(ring)}",
            node.position,
        )


def _as_service(node: tree.Node) -> tree.Node:
    at = node.position
    return tree.Node({"services": tree.Node({"x": node}, at, {"x": at})}, at, {"services": at})


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
        f"cannot name the stack {text!r} ({source}): a name has lower case letters, digits, '-' and '_' "
        "and begins with a letter or a digit",
        hint=f"write {hint}" if hint else "",
        code="E_NAME",
    )


def _name(
    options: Options, found: files.Found, documents: list[tree.Node], report: tree.Report
) -> str:
    """The stack's name: -p, COMPOSE_PROJECT_NAME, the last `name:`, the directory."""
    from ic.compose import interpolate

    if options.project_name is not None:
        return _checked_name(options.project_name, "-p")
    if found.env.get("COMPOSE_PROJECT_NAME"):
        return _checked_name(found.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME")
    named = ""
    position: errors.Position | None = None
    for one in documents:
        node = one.child("name")
        if node is not None and isinstance(node.data, str) and node.data:
            position = node.position
            try:
                named = interpolate.substitute(node.data, found.env, lambda name: None)  # noqa: ARG005
            except interpolate.Fault:
                named = ""  # reported with its position when the documents are interpolated
    name = normalized_name(named) or normalized_name(os.path.basename(found.directory))
    if named and not normalized_name(named):
        report.error("E_NAME", f"name: {named!r} holds no letter or digit", position)
        return "stack"
    if not name:
        raise errors.UsageError(
            f"cannot name the stack after the directory {found.directory!r}: no letter or digit in it",
            hint="name it with -p NAME or name:",
            code="E_NAME",
        )
    return name


# --- the model ----------------------------------------------------------------------------------------

_SERVICE_NAME = re.compile(r"[a-zA-Z0-9._-]{1,128}")


_IMAGE_FROM = frozenset({"build", "extends", "provider"})


def _unread(services: tree.Node | None, report: tree.Report) -> frozenset[str]:
    """Services whose image is told to be wrong already, or comes from a key that is not read."""
    unread: set[str] = set()
    data = services.data if services is not None else None
    for name, one in data.items() if isinstance(data, dict) else ():
        given = one.child("image")
        keys = one.data if isinstance(one.data, dict) else {}
        elsewhere = any(
            key in _IMAGE_FROM or (key not in model.SERVICE_KNOWN and not key.startswith("x-"))
            for key in keys
        )
        told = given is not None and (given.data != "" or given.position in report.faulty)
        if elsewhere or told:
            unread.add(name)
    return frozenset(unread)


class _Reading:
    """One merged document being read into a Stack."""

    def __init__(
        self,
        options: Options,
        found: files.Found,
        variables: Mapping[str, str],
        report: tree.Report,
        disk: files.Disk,
    ) -> None:
        self.options = options
        self.found = found
        self.variables = variables
        self.report = report
        self.disk = disk
        self.home = variables.get("HOME", "")
        self.positions: dict[model.Where, errors.Position] = {}

    def stack(self, name: str, root: tree.Node) -> model.Stack:
        report = self.report
        tree.check_keys(root, "", report, model.TOP_KEYS, model.TOP_PENDING)
        self._version(root)
        tree.text(root.child("name"), "name", report)
        everything = self._services(root.child("services"))
        networks = self._networks(root.child("networks"))
        volumes = self._volumes(root.child("volumes"))
        if any("default" in one.networking.networks for one in everything.values()):
            networks.setdefault("default", model.Network(key="default"))
        self._places(root)
        active, inactive = self._selected(everything)
        active = {name: self._with_env_files(one) for name, one in active.items()}
        stack = model.Stack(
            name=name,
            working_dir=self.found.directory,
            services=active,
            inactive=inactive,
            networks=networks,
            volumes=volumes,
            positions=self.positions,
            extensions=tree.extensions(root),
        )
        if root.child("include") is None:
            checks.check(stack, report, unread=_unread(root.child("services"), report))
        if self.options.for_running:
            checks.check_for_running(stack, report)
        return checks.without_unused(stack)

    def _version(self, root: tree.Node) -> None:
        node = root.child("version")
        if node is not None:
            tree.text(node, "version", self.report)
            self.report.warn(
                "W_VERSION",
                "version has no meaning any more and is ignored",
                root.key_position("version"),
                once="version",
            )

    def _services(self, node: tree.Node | None) -> dict[str, model.Service]:
        found: dict[str, model.Service] = {}
        for name, one in tree.entries(node, "services", self.report).items():
            assert node is not None
            if not _SERVICE_NAME.fullmatch(name):
                self.report.error(
                    "E_NAME",
                    f"services has the name {name!r}: letters, digits, '.', '_' and '-' are allowed",
                    node.key_position(name),
                )
            elif not isinstance(one.data, dict):
                tree.wrong_type(one, f"services.{name}", self.report, "a mapping")
            else:
                found[name] = self._service(name, one)
        return found

    def _service(self, name: str, node: tree.Node) -> model.Service:
        where, report = f"services.{name}", self.report
        root = self.found.directory
        tree.check_keys(node, where, report, model.SERVICE_KEYS, model.SERVICE_PENDING)
        return model.Service(
            name=name,
            image=image.normalize(node, where, report),
            process=process.normalize(
                node, where, report, env=self.variables, root=root, home=self.home
            ),
            networking=networking.normalize(node, where, report),
            storage=storage.normalize(node, where, report, root=root, home=self.home),
            lifecycle=lifecycle.normalize(node, where, report),
            placement=placement.normalize(node, where, report),
            extensions=tree.extensions(node),
        )

    def _networks(self, node: tree.Node | None) -> dict[str, model.Network]:
        found: dict[str, model.Network] = {}
        report = self.report
        for key, one in tree.entries(node, "networks", report).items():
            where = f"networks.{key}"
            assert node is not None
            self._check_key_name("networks", key, node)
            tree.entries(one, where, report, null=True)
            tree.check_keys(one, where, report, model.NETWORK_KEYS, model.NETWORK_PENDING)
            external, name = self._external(one, where, model.NETWORK_KEYS)
            ipam_driver, subnet, gateway = self._ipam(one.child("ipam"), f"{where}.ipam")
            found[key] = model.Network(
                key=key,
                name=name,
                external=external,
                driver=tree.word(
                    one.child("driver"), f"{where}.driver", report, ("bridge", ""), _DRIVERS
                )
                or "",
                ipam_driver=ipam_driver,
                internal=tree.boolean(one.child("internal"), f"{where}.internal", report),
                subnet=subnet,
                gateway=gateway,
                labels=tree.labels(one.child("labels"), f"{where}.labels", report),
                extensions=tree.extensions(one),
            )
        return found

    def _check_key_name(self, top: str, key: str, node: tree.Node) -> None:
        if not _SERVICE_NAME.fullmatch(key):
            self.report.error(
                "E_NAME",
                f"{top} has the name {key!r}: letters, digits, '.', '_' and '-' are allowed",
                node.key_position(key),
            )

    def _ipam(self, node: tree.Node | None, where: str) -> tuple[str, str | None, str | None]:
        report = self.report
        tree.entries(node, where, report)
        tree.check_keys(node, where, report, ("driver", "config"), ("options",))
        if node is None:
            return "", None, None
        driver = tree.word(node.child("driver"), f"{where}.driver", report, ("default", "")) or ""
        pools: dict[str, tree.Node] = {}
        for index, one in enumerate(tree.items(node.child("config"), f"{where}.config", report)):
            label = f"{where}.config[{index}]"
            tree.entries(one, label, report)
            tree.check_keys(
                one, label, report, ("subnet", "gateway"), ("ip_range", "aux_addresses")
            )
            pools[tree.text(one.child("subnet"), f"{label}.subnet", report) or ""] = one
        if len(pools) > 1:
            second = list(pools.values())[1]
            tree.unsupported(f"{where}.config: a second subnet", second.position, report)
        for subnet, one in pools.items():
            gateway = tree.text(one.child("gateway"), f"{where}.config.gateway", report)
            self._check_pool(subnet, gateway, one, where)
            return driver, subnet or None, gateway or None
        return driver, None, None

    def _check_pool(self, subnet: str, gateway: str | None, one: tree.Node, where: str) -> None:
        report = self.report
        subnet_node = one.child("subnet") or one
        if not subnet:
            if gateway:
                report.error(tree.VALUE, f"{where}: a gateway needs its subnet", one.position)
            return
        if ":" in subnet:
            tree.unsupported(f"{where}: the IPv6 subnet {subnet}", subnet_node.position, report)
            return
        try:
            first, prefix = units.ipv4_network(subnet)
        except ValueError as problem:
            report.error(tree.VALUE, f"{where}: {problem}", subnet_node.position)
            return
        if prefix > 30:
            report.error(
                tree.VALUE, f"{where}: {subnet} has no room for a service", subnet_node.position
            )
        gateway_node = one.child("gateway")
        if not gateway or gateway_node is None:
            return
        number = units.ipv4(gateway)
        if number is None or number >> (32 - prefix) != first >> (32 - prefix):
            report.error(
                tree.VALUE,
                f"{where}: the gateway {gateway!r} is not an address of {subnet}",
                gateway_node.position,
            )

    def _volumes(self, node: tree.Node | None) -> dict[str, model.Volume]:
        found: dict[str, model.Volume] = {}
        report = self.report
        for key, one in tree.entries(node, "volumes", report).items():
            where = f"volumes.{key}"
            assert node is not None
            self._check_key_name("volumes", key, node)
            tree.entries(one, where, report, null=True)
            tree.check_keys(one, where, report, model.VOLUME_KEYS, model.VOLUME_PENDING)
            external, name = self._external(one, where, model.VOLUME_KEYS)
            driver_node = one.child("driver")
            driver = tree.text(driver_node, f"{where}.driver", report) or ""
            if driver_node is not None and driver not in ("", "local"):
                tree.unsupported(f"{where}.driver: {driver!r}", driver_node.position, report)
            found[key] = model.Volume(
                key=key,
                name=name,
                external=external,
                driver=driver,
                labels=tree.labels(one.child("labels"), f"{where}.labels", report),
                extensions=tree.extensions(one),
            )
        return found

    def _external(
        self, one: tree.Node, where: str, known: frozenset[str]
    ) -> tuple[bool, str | None]:
        """Whether a network or volume is external, and its name; the old form `external: {name: X}` too."""
        report = self.report
        node = one.child("external")
        name = tree.text(one.child("name"), f"{where}.name", report) or None
        if node is None:
            return False, name
        if isinstance(node.data, dict):
            tree.check_keys(node, f"{where}.external", report, ("name",))
            old = tree.text(node.child("name"), f"{where}.external.name", report) or None
            if old and name and old != name:
                report.error(
                    tree.CONFLICT,
                    f"{where}: name and external.name differ",
                    node.position,
                    "use name",
                )
            if old:
                report.warn(
                    "W_DEPRECATED", f"{where}.external.name is deprecated; use name", node.position
                )
            external, name = True, name or old
        else:
            external = tree.boolean(node, f"{where}.external", report)
        if external and isinstance(one.data, dict):
            others = sorted(key for key in one.data if key in known - {"external", "name"})
            if others:
                said = f"{where} is external, so {', '.join(others)}"
                position = one.key_position(others[0])
                if known is model.VOLUME_KEYS:
                    report.error(tree.CONFLICT, f"{said} cannot be given", position)
                else:  # docker compose lets it pass
                    report.warn("W_EXTERNAL", f"{said} has no effect", position)
        return external, name

    def _places(self, root: tree.Node) -> None:
        """Positions of everything; ports and mounts by their index after ranges are spread out."""
        for key in ("services", "networks", "volumes"):
            node = root.child(key)
            if node is not None:
                self.positions[key,] = root.key_position(key)
                self._place(node, (key,))
        services = root.child("services")
        if services is None or not isinstance(services.data, dict):
            return
        silent = tree.Report()
        for name, one in services.data.items():
            where = ("services", name)
            for index, (_, node) in enumerate(
                networking.read_ports(one.child("ports"), "", silent)
            ):
                self.positions[(*where, "ports", index)] = node.position
            for index, (_, node) in enumerate(storage.read_mounts(one, "", silent)):
                self.positions[(*where, "volumes", index)] = node.position

    def _place(self, node: tree.Node, path: model.Where) -> None:
        data = node.data
        if isinstance(data, dict):
            for key, value in data.items():
                below = (*path, key)
                self.positions[below] = node.key_position(key)
                self._place(value, below)
        elif isinstance(data, list):
            for index, value in enumerate(data):
                self.positions[(*path, index)] = value.position
                if isinstance(value.data, str):
                    name, equals, _ = value.data.partition("=")
                    if equals or path[-1] in ("networks", "depends_on"):
                        self.positions[(*path, name)] = value.position
                else:
                    self._place(value, (*path, index))

    # --- profiles and env files ---

    def _selected(
        self, everything: dict[str, model.Service]
    ) -> tuple[dict[str, model.Service], dict[str, model.Service]]:
        given = self.options.profiles or tuple(
            one.strip() for one in self.variables.get("COMPOSE_PROFILES", "").split(",")
        )
        wanted = set(given)
        for name in self.options.services:
            if name in everything:
                wanted.update(everything[name].lifecycle.profiles)
        active: dict[str, model.Service] = {}
        inactive: dict[str, model.Service] = {}
        for name, one in everything.items():
            profiles = one.lifecycle.profiles
            on = not profiles or "*" in wanted or not wanted.isdisjoint(profiles)
            (active if on else inactive)[name] = one
        return active, inactive

    def _with_env_files(self, service: model.Service) -> model.Service:
        if not service.process.env_files:
            return service
        outer = {**service.process.environment, **self.variables}
        found: dict[str, str] = {}
        for one in service.process.env_files:
            if not os.path.exists(one.path):
                if one.required:
                    self.report.error(
                        "E_FILE",
                        f"services.{service.name}.env_file: "
                        f"{self.disk.shown(one.path)} does not exist",
                        one.position,
                        "add required: false where it may be missing",
                    )
                continue
            found |= self._env_file(one, outer, found)
        section = process.with_env_files(service.process, found)
        return msgspec.structs.replace(service, process=section)

    def _env_file(
        self, one: process.EnvFile, outer: Mapping[str, str], above: Mapping[str, str]
    ) -> dict[str, str]:
        from ic.compose import envfile

        shown = self.disk.shown(one.path)
        try:
            content = self.disk.read(one.path)
            if one.raw:
                return envfile.parse_raw(content, outer)
            return envfile.parse(content, outer, above, environment.unset_in(shown, self.report))
        except envfile.Fault as fault:
            self.report.error(fault.code, fault.reason, errors.Position(shown, fault.line, 1))
        except errors.UsageError as problem:
            self.report.error("E_FILE", problem.summary, one.position)
        return {}


_DRIVERS = ("host", "none", "overlay", "macvlan", "ipvlan", "default")
