"""Finds and reads the files of a stack and runs the stages: the way from a command line to a Stack.

The one room of compose that touches the world: it reads files, and the environment that it is given. It
prints nothing. Options and environment in; a Stack with its warnings out, or one ComposeError with every
mistake in it.

Order of the stages: find files, `.env` and env files, parse (`document`), name, interpolate, merge,
read by sections (`ic.fields`), profiles, env files of services, cross-checks.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING

import msgspec

from ic import errors, units
from ic.compose import checks, merge, model
from ic.fields import (
    image,
    lifecycle,
    networking,
    placement,
    process,
    storage,
    switches,
    tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
COMPANION_SUFFIXES = (".incus.yaml", ".incus.yml")
STDIN = "-"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of the stack; everything may be left out.

    `services` are those named as arguments: their profiles become active. `for_running` also makes the checks
    that matter only when the stack is to run (host ports published twice); `ic config` leaves them out.
    """

    files: tuple[str, ...] = ()
    project_name: str | None = None
    project_directory: str | None = None
    env_files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    cwd: str = "."
    for_running: bool = True


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was found before any compose file is parsed."""

    files: tuple[str, ...]  # absolute, or "-"
    directory: str
    env: dict[str, str]
    read: tuple[tuple[str, bytes], ...]  # env files


def load(
    options: Options, env: Mapping[str, str], stdin: Callable[[], bytes] | None = None
) -> model.Stack:
    """The stack as understood, with its warnings.

    Raises UsageError when there is no file to read, ComposeError with all mistakes of the files.
    """
    report = tree.Report()
    found = _find(options, env, report)
    if not found.files:
        raise errors.UsageError(
            f"cannot find a compose file: none of {', '.join(DEFAULT_NAMES)} "
            f"in {os.path.abspath(options.cwd)} or above",
            hint="name one with -f FILE",
            code="E_NO_FILE",
        )
    contents = _read_all(found, options, stdin)
    for path, _, _ in contents:
        if path != STDIN:
            _refuse_companion(path, os.path.abspath(options.cwd))
    documents = _parse_all(contents, report)
    _stop_if_failed(report)
    name = _name(options, found, documents, report)
    variables = found.env | {"COMPOSE_PROJECT_NAME": name}
    root = _merged(documents, variables, report)
    reading = _Reading(options, found, variables, report)
    stack = reading.stack(name, root)
    digests = [(path, _digest(content)) for path, _, content in contents]
    digests += [(path, _digest(content)) for path, content in (*found.read, *reading.read)]
    _stop_if_failed(report)
    return msgspec.structs.replace(
        stack, files=tuple(dict.fromkeys(digests)), diagnostics=tuple(report.diagnostics)
    )


def stack_name(options: Options, env: Mapping[str, str]) -> str:
    """The stack's name for commands that need no file: `-p NAME`, or that of the directory's stack.

    Raises UsageError for a name that is none, ComposeError where a file cannot be read.
    """
    report = tree.Report()
    if options.project_name is not None:
        return _checked_name(options.project_name, "-p")
    found = _find(options, env, report)
    if found.env.get("COMPOSE_PROJECT_NAME"):
        return _checked_name(found.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME")
    files = tuple(path for path in found.files if path != STDIN)
    readable = msgspec.structs.replace(found, files=files)
    documents = _parse_all(_read_all(readable, options, None), report) if files else []
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


# --- finding ------------------------------------------------------------------------------------------


def _find(options: Options, env: Mapping[str, str], report: tree.Report) -> _Found:
    """Files, directory and variables, in docker compose's order.

    `.env` is looked for in the project directory (or the first file's, or here), and once more beside the
    files found by upward search; what is set already stays. `.env` may itself set COMPOSE_FILE.
    """
    cwd = os.path.abspath(options.cwd)
    directory = os.path.join(cwd, options.project_directory) if options.project_directory else ""
    directory = os.path.normpath(directory) if directory else ""
    files = tuple(_absolute(path, cwd) for path in options.files)
    variables = dict(env)
    reader = _EnvReader(variables, cwd, report)
    given = options.env_files
    if not given and env.get("COMPOSE_ENV_FILES"):
        given = tuple(path.strip() for path in env["COMPOSE_ENV_FILES"].split(",") if path.strip())
    if given:
        reader.named(given)
    else:
        reader.default(directory or _home_of(files, cwd), env)
    if not files and variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        files = tuple(
            _absolute(path, cwd) for path in variables["COMPOSE_FILE"].split(separator) if path
        )
    if not files:
        files = _search(directory or cwd, report)
    if not given:
        reader.default(directory or _home_of(files, cwd), env)
    return _Found(
        files=files,
        directory=directory or _home_of(files, cwd),
        env=variables,
        read=tuple(reader.read.items()),
    )


def _absolute(path: str, cwd: str) -> str:
    return path if path == STDIN else os.path.normpath(os.path.join(cwd, path))


def _home_of(files: tuple[str, ...], cwd: str) -> str:
    return next((os.path.dirname(path) for path in files if path != STDIN), cwd)


def _search(start: str, report: tree.Report) -> tuple[str, ...]:
    at = start
    while True:
        here = [path for name in DEFAULT_NAMES if _there(path := os.path.join(at, name))]
        if here:
            over = [path for name in OVERRIDE_NAMES if _there(path := os.path.join(at, name))]
            for several in (here, over):
                if len(several) > 1:
                    names = ", ".join(os.path.basename(path) for path in several)
                    report.warn(
                        "W_FILES",
                        f"several compose files in {at}: {names}; "
                        f"{os.path.basename(several[0])} is used",
                        None,
                    )
            return (here[0], *over[:1])
        parent = os.path.dirname(at)
        if parent == at:
            return ()
        at = parent


def _there(path: str) -> bool:
    return os.path.exists(path)


class _EnvReader:
    """Reads env files into the variables; a variable that is set already keeps its value."""

    def __init__(self, variables: dict[str, str], cwd: str, report: tree.Report) -> None:
        self.variables = variables
        self.process = dict(variables)
        self.cwd = cwd
        self.report = report
        self.read: dict[str, bytes] = {}

    def named(self, paths: tuple[str, ...]) -> None:
        """Files of `--env-file`: they must exist, and later ones win."""
        found: dict[str, str] = {}
        for path in paths:
            found |= self._file(os.path.normpath(os.path.join(self.cwd, path)), found)
        for name, value in found.items():
            self.variables.setdefault(name, value)

    def default(self, directory: str, env: Mapping[str, str]) -> None:
        """The `.env` of a directory, where there is one and it is not switched off."""
        path = os.path.join(directory, ".env")
        if _is_true(env.get("COMPOSE_DISABLE_ENV_FILE")) or path in self.read:
            return
        if os.path.isfile(path):
            for name, value in self._file(path, {}).items():
                self.variables.setdefault(name, value)

    def _file(self, path: str, above: dict[str, str]) -> dict[str, str]:
        from ic.compose import envfile

        content = _read(path, self.cwd)
        self.read[path] = content
        shown = _shown(path, self.cwd)
        try:
            return envfile.parse(
                content, self.process, above, lambda name, line: self._unset(name, shown, line)
            )
        except envfile.Fault as fault:
            self.report.error(fault.code, fault.reason, errors.Position(shown, fault.line, 1))
            return {}

    def _unset(self, name: str, shown: str, line: int) -> None:
        self.report.warn(
            "W_UNSET",
            f"the variable {name} is not set; an empty text is used",
            errors.Position(shown, line, 1),
            once=f"unset {name}",
        )


def _is_true(text: str | None) -> bool:
    """A switch of the environment. Raises UsageError for a word that is neither yes nor no."""
    if not text or text in ("0", "f", "F", "false", "False", "FALSE"):
        return False
    if text in ("1", "t", "T", "true", "True", "TRUE"):
        return True
    raise errors.UsageError(
        f"cannot read COMPOSE_DISABLE_ENV_FILE: {text!r} is neither true nor false"
    )


# --- reading ------------------------------------------------------------------------------------------


def _shown(path: str, cwd: str) -> str:
    """A file's name as the user knows it: relative where that is no longer than absolute."""
    if path == STDIN:
        return "<stdin>"
    near = os.path.relpath(path, cwd)
    return near if len(near) <= len(path) else path


PIPE_WAIT_S = 10.0  # how long a pipe may stay empty
_MOST_BYTES = 8 * 2**20 + 1  # one more than any reader takes


def _read(path: str, cwd: str) -> bytes:
    """A file's or a pipe's content. Raises UsageError."""
    shown = _shown(path, cwd)
    try:
        if os.path.isdir(path):
            raise errors.UsageError(f"cannot read {shown}: it is a directory", code="E_FILE")
        # Not blocking, so that a pipe without a writer is an error and not a wait without end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return _read_pipe(handle, shown)
            return file.read(_MOST_BYTES)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise errors.UsageError(f"cannot read {shown}: {reason}", code="E_FILE") from problem


def _read_pipe(handle: int, shown: str) -> bytes:
    import select
    import time

    deadline = time.monotonic() + PIPE_WAIT_S
    pieces: list[bytes] = []
    size = 0
    while size < _MOST_BYTES:
        ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(handle, 2**16) if ready else b""
        if piece:
            pieces.append(piece)
            size += len(piece)
        elif pieces and ready:
            break
        elif time.monotonic() >= deadline:
            raise errors.UsageError(
                f"cannot read {shown}: nothing was written to it for {PIPE_WAIT_S:g} s",
                code="E_FILE",
            )
        else:
            time.sleep(0.01)  # no writer yet: readable, and at its end
    return b"".join(pieces)


def _read_all(
    found: _Found, options: Options, stdin: Callable[[], bytes] | None
) -> list[tuple[str, str, bytes]]:
    cwd = os.path.abspath(options.cwd)
    contents: list[tuple[str, str, bytes]] = []
    for path in found.files:
        if path == STDIN:
            if stdin is None:
                raise errors.UsageError("cannot read the stack from standard input here")
            content = stdin()
        else:
            content = _read(path, cwd)
        contents.append((path, _shown(path, cwd), content))
    return contents


def _refuse_companion(path: str, cwd: str) -> None:
    stem = os.path.splitext(path)[0]
    for suffix in COMPANION_SUFFIXES:
        if stem + suffix != path and os.path.exists(stem + suffix):
            shown = _shown(stem + suffix, cwd)
            one = errors.Diagnostic(
                severity="error",
                code=tree.UNSUPPORTED,
                summary=f"the file {os.path.basename(shown)} beside {os.path.basename(path)} "
                "is not supported yet",
                position=errors.Position(shown, 1, 1),
            )
            raise errors.ComposeError(
                f"cannot read the stack: {one.summary}", diagnostics=(one,), code=tree.UNSUPPORTED
            )


def _parse_all(contents: list[tuple[str, str, bytes]], report: tree.Report) -> list[tree.Node]:
    """The documents of all files, in order; one that is no mapping is an error."""
    from ic.compose import document

    found: list[tree.Node] = []
    for _, shown, content in contents:
        try:
            documents = document.parse(content, shown, report)
        except errors.ComposeError as problem:
            report.diagnostics.extend(problem.diagnostics)
            continue
        for one in documents:
            if isinstance(one.data, dict):
                found.append(one)
            else:
                report.error(
                    tree.TYPE,
                    f"the top level must be a mapping, not {tree.kind_of(one)}",
                    one.position,
                )
    if not found and not report.failed:
        shown = contents[0][1] if contents else ""
        report.error("E_YAML", "the compose file is empty", errors.Position(shown, 1, 1))
    return found


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


def _name(options: Options, found: _Found, documents: list[tree.Node], report: tree.Report) -> str:
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


def _merged(
    documents: list[tree.Node], variables: Mapping[str, str], report: tree.Report
) -> tree.Node:
    from ic.compose import interpolate

    table = merge.Table(model.merge_rules())
    base: tree.Node | None = None
    for one in documents:
        base = merge.merge(base, interpolate.interpolate(one, variables, report), table, report)
    assert base is not None
    if not base.data:
        report.error("E_YAML", "the compose file is empty", base.position)
    return base


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
        self, options: Options, found: _Found, variables: Mapping[str, str], report: tree.Report
    ) -> None:
        self.options = options
        self.found = found
        self.variables = variables
        self.report = report
        self.cwd = os.path.abspath(options.cwd)
        self.home = variables.get("HOME", "")
        self.read: list[tuple[str, bytes]] = []
        self.positions: dict[model.Where, errors.Position] = {}

    def stack(self, name: str, root: tree.Node) -> model.Stack:
        report = self.report
        known = (*model.TOP_KEYS, switches.KEY)
        tree.check_keys(root, "", report, known, model.TOP_PENDING)
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
            switches=switches.normalize_stack(root, report),
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
        known = (*model.SERVICE_KEYS, switches.KEY)
        tree.check_keys(node, where, report, known, model.SERVICE_PENDING)
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
            switches=switches.normalize(node, where, report),
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
                        f"{_shown(one.path, self.cwd)} does not exist",
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

        shown = _shown(one.path, self.cwd)
        try:
            content = _read(one.path, self.cwd)
            self.read.append((one.path, content))
            if one.raw:
                return envfile.parse_raw(content, outer)
            return envfile.parse(
                content, outer, above, lambda name, line: self._unset(name, shown, line)
            )
        except envfile.Fault as fault:
            self.report.error(fault.code, fault.reason, errors.Position(shown, fault.line, 1))
        except errors.UsageError as problem:
            self.report.error("E_FILE", problem.summary, one.position)
        return {}

    def _unset(self, name: str, shown: str, line: int) -> None:
        self.report.warn(
            "W_UNSET",
            f"the variable {name} is not set; an empty text is used",
            errors.Position(shown, line, 1),
            once=f"unset {name}",
        )


_DRIVERS = ("host", "none", "overlay", "macvlan", "ipvlan", "default")
