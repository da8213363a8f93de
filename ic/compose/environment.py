"""What variables and env files bring into a tree: environments, labels, secrets and configs by name.

Pure: trees, variables and a way to read files in, trees out. First `resolve` fills in what only names a
variable; at the end `with_files` lays a service's environment on its env files, and its labels likewise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors, units
from ic.compose import envfile, graft
from ic.fields import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def resolve(root: tree.Node, env: Mapping[str, str]) -> tree.Node:
    """The tree with the variables that an environment in list form, or a config, names without a value."""

    def services(node: tree.Node) -> tree.Node:
        return graft.mapped(node, lambda _, one: graft.changed(one, "environment", listed))

    def listed(node: tree.Node) -> tree.Node:
        if not isinstance(node.data, list):
            return node
        return tree.Node([_named(item, env) for item in node.data], node.position, None, node.mark)

    def config(_: str, node: tree.Node) -> tree.Node:
        named = node.child("environment")
        if named is None or not isinstance(named.data, str) or named.data not in env:
            return node
        return graft.with_child(node, "content", tree.Node(env[named.data], named.position))

    root = graft.changed(root, "services", services)
    return graft.changed(root, "configs", lambda node: graft.mapped(node, config))


def _named(item: tree.Node, env: Mapping[str, str]) -> tree.Node:
    if isinstance(item.data, str) and item.data in env:
        return tree.Node(f"{item.data}={env[item.data]}", item.position)
    return item


def active(root: tree.Node, profiles: Collection[str], named: Collection[str]) -> frozenset[str]:
    """The names of the services that profiles let take part; naming a service makes its profiles active.

    Raises UsageError for the name of a service that is not there.
    """
    services = root.child("services")
    data = services.data if services is not None else None
    everything = data if isinstance(data, dict) else {}
    wanted = set(profiles)
    for name in named:
        if name in everything:
            wanted.update(_profiles(everything[name]))
    return frozenset(
        name
        for name, one in everything.items()
        if not (own := _profiles(one)) or "*" in wanted or not wanted.isdisjoint(own)
    )


def _profiles(service: tree.Node) -> list[str]:
    node = service.child("profiles")
    items = node.data if node is not None and isinstance(node.data, list) else []
    return [item.data for item in items if isinstance(item.data, str)]


def with_files(
    root: tree.Node,
    with_env: Collection[str],
    with_labels: Collection[str],
    env: Mapping[str, str],
    *,
    read: Callable[[str], tuple[str, bytes]],
    report: tree.Report,
) -> tree.Node:
    """The tree in which services have what their env files (`with_env`) and label files (`with_labels`) say.

    `read` gives the name to show and the content of a path, and raises UsageError where it cannot.
    """

    known: dict[tuple[str, bool], dict[str, str]] = {}

    def service(name: str, node: tree.Node) -> tree.Node:
        files = _Files(f"services.{name}", env, read, report, known)
        if name in with_env:
            node = files.environment(node)
        return files.labels(node) if name in with_labels else node

    return graft.changed(root, "services", lambda node: graft.mapped(node, service))


class _Files:
    """One service that gets its files."""

    def __init__(
        self,
        where: str,
        env: Mapping[str, str],
        read: Callable[[str], tuple[str, bytes]],
        report: tree.Report,
        closed: dict[tuple[str, bool], dict[str, str]],
    ) -> None:
        self.closed = closed  # what files say that mean the same for every service
        self.where = where
        self.env = env
        self.read = read
        self.report = report

    def environment(self, service: tree.Node) -> tree.Node:
        """The service with its env files in `environment`, and without `env_file`."""
        own = _as_pairs(service.child("environment"))
        for name, one in own.items():
            if one.data is None and name in self.env:
                own[name] = tree.Node(self.env[name], one.position)
        texts = {name: _text(one.data) for name, one in own.items() if one.data is not None}
        lookup = envfile.Surroundings(self.env, texts)
        found: dict[str, tree.Node] = {}
        known = dict(texts)
        node = service.child("env_file")
        for item in node.data if node is not None and isinstance(node.data, list) else []:
            values = self._env_file(item, lookup, known)
            where = f"{self.where}.env_file"
            self.report.make(len(values), where, item.position)
            self.report.grow(sum(map(len, values.values())), where, item.position)
            for name, value in values.items():
                known[name] = value
                found[name] = tree.Node(value, item.position)
        merged = {**found, **own}
        if not merged:
            return graft.without(service, "env_file")
        place = service.child("environment") or node or service
        at = service.key_position("environment")
        made = tree.Node(merged, place.position)
        return graft.without(graft.with_child(service, "environment", made, at), "env_file")

    def _env_file(
        self, item: tree.Node, lookup: Mapping[str, str], above: Mapping[str, str]
    ) -> dict[str, str]:
        path = item.child("path")
        if path is None or not isinstance(path.data, str):
            return {}
        required, kind = item.child("required"), item.child("format")
        optional = required is not None and required.data is False
        content = self._content(path, "env_file", optional=optional)
        if content is None:
            return {}
        shown, text = content
        if kind is not None and kind.data not in ("", ".env", "raw"):
            self.report.error(
                tree.VALUE,
                f"{self.where}.env_file: unsupported format {kind.data!r}",
                kind.position,
                "leave it out, or write raw",
            )
            return {}
        if kind is not None and kind.data == "raw":
            return self._parsed(shown, text, lambda: envfile.parse_raw(text, lookup), raw=True)
        return self._parsed(
            shown, text, lambda: envfile.parse(text, lookup, above, self._unset_in(shown))
        )

    def labels(self, service: tree.Node) -> tree.Node:
        """The service with its label files in `labels`, and without `label_file`."""
        node = service.child("label_file")
        if node is None or not isinstance(node.data, list):
            return graft.without(service, "label_file")
        found: dict[str, tree.Node] = {}
        known: dict[str, str] = {}
        for item in node.data:
            content = self._content(item, "label_file", optional=False)
            if content is None:
                continue
            shown, text = content
            values = self._parsed(
                shown,
                text,
                lambda text=text, shown=shown: envfile.parse(
                    text, known, {}, self._unset_in(shown)
                ),
            )
            where = f"{self.where}.label_file"
            self.report.make(len(values), where, item.position)
            self.report.grow(sum(map(len, values.values())), where, item.position)
            for name, value in values.items():
                known[name] = value
                found[name] = tree.Node(value, item.position)
        own = _as_pairs(service.child("labels"))
        every = [_pair(name, one) for name, one in {**found, **own}.items()]
        made = tree.Node(every, node.position)
        if not every:
            return graft.without(service, "label_file")
        return graft.without(graft.with_child(service, "labels", made), "label_file")

    def _content(self, path: tree.Node, key: str, *, optional: bool) -> tuple[str, bytes] | None:
        if not isinstance(path.data, str):
            return None  # told when the document is checked
        if not path.data:
            self.report.error("E_FILE", f"{self.where}.{key} names no file", path.position)
            return None
        try:
            return self.read(path.data)
        except errors.UsageError as problem:
            missing = isinstance(problem.__cause__, FileNotFoundError)
            if missing and optional:
                return None
            hint = "add required: false where it may be missing" if key == "env_file" else ""
            self.report.error(
                "E_FILE",
                f"{self.where}.{key}: {problem.summary}",
                path.position,
                hint if missing else "",
            )
            return None

    def _parsed(
        self, shown: str, content: bytes, parse: Callable[[], dict[str, str]], *, raw: bool = False
    ) -> dict[str, str]:
        found = self.closed.get((shown, raw))
        if found is not None:
            return found
        try:
            found = parse()
        except envfile.Fault as fault:
            self.report.error(fault.code, fault.reason, errors.Position(shown, fault.line, 1))
            return {}
        if envfile.is_closed(content):
            self.closed[shown, raw] = found
        else:
            # Read again for each service, it counts in part as what it brings.
            self.report.grow(len(content) // 4, f"{self.where}: {shown}", None)
        return found

    def _unset_in(self, shown: str) -> Callable[[str, int], None]:
        return unset_in(shown, self.report)


def unset_in(shown: str, report: tree.Report) -> Callable[[str, int], None]:
    """What notes a variable without a value in an env file; once for each name."""

    def note(name: str, line: int) -> None:
        report.warn(
            "W_UNSET",
            f"the variable {name} is not set; an empty text is used",
            errors.Position(shown, line, 1),
            once=f"unset {name}",
        )

    return note


def _as_pairs(node: tree.Node | None) -> dict[str, tree.Node]:
    """Names to values of a mapping or of a list of NAME=VALUE; null for a name without a value."""
    if node is None:
        return {}
    if isinstance(node.data, dict):
        return dict(node.data)
    found: dict[str, tree.Node] = {}
    for item in node.data if isinstance(node.data, list) else []:
        name, equals, value = _text(item.data).partition("=")
        found[name] = tree.Node(value if equals else None, item.position)
    return found


def _pair(name: str, value: tree.Node) -> tree.Node:
    return tree.Node(f"{name}={_text(value.data)}", value.position)


def _text(data: object) -> str:
    """A value of an environment as the text that the process sees."""
    if isinstance(data, str):
        return data
    return units.number_text(data) if isinstance(data, (int, float)) else ""
