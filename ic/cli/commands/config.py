"""`ic config`: the compose files as understood, in one document or as lists. Asks no server.

Flags, their precedence and what they leave out of reading are docker compose 2.40.3's. Only
`--resolve-image-digests` and `--lock-image-digests` open a connection: to the registries of the images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ic import errors

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from ic.cli import session as sessions
    from ic.compose import model
    from ic.compose.shapes import Document

DESCRIPTION = (
    "Prints the stack as understood: files merged, variables filled in, short forms written out."
    " Values of the environment are part of it. Asks no server, and a registry only for digests."
)

_LISTS = (
    ("services", "print the services' names only, one a line"),
    ("volumes", "print the volumes' names only, one a line"),
    ("networks", "print the networks' names only, one a line"),
    ("models", "print the models only, one a line"),
    ("profiles", "print the profiles' names only, one a line"),
    ("images", "print the services' images only, one a line"),
    ("variables", "print the variables that the files use, with their defaults"),
    ("environment", "print the variables that are filled in, with their values"),
)
_LEFT_OUT = (
    ("interpolate", "fill in no variables; print the model before types are given to it"),
    ("normalize", "add nothing that the files do not say: default networks, names, build contexts"),
    ("path-resolution", "leave relative paths as they are"),
    ("consistency", "do not check that what services refer to is there"),
    ("env-resolution", "read no env files for services that only SERVICE makes active"),
)
# docker compose's precedence: the first of these that is given decides.
_PRECEDENCE = (
    "services", "volumes", "networks", "models", "hash", "profiles", "images", "variables", "environment",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument(
        "--format",
        default="",
        metavar="FORMAT",
        help="yaml or json (default: yaml; --variables: a table)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document, as --format json; of lists too; errors as ic.error/1",
    )
    for name, what in _LISTS:
        parser.add_argument(f"--{name}", dest=f"only_{name}", action="store_true", help=what)
    parser.add_argument(
        "--hash",
        dest="only_hash",
        default="",
        metavar="SERVICE,...",
        help="print docker compose's digest of these services, `*` is all",
    )
    for name, what in _LEFT_OUT:
        parser.add_argument(f"--no-{name}", action="store_true", help=what)
    parser.add_argument(
        "--resolve-image-digests",
        action="store_true",
        help="pin each image to the digest that its registry has for it",
    )
    parser.add_argument(
        "--lock-image-digests",
        action="store_true",
        help="print a file that pins the images to their digests, and nothing else",
    )
    parser.add_argument(
        "-o", "--output", default="", metavar="FILE", help="write the document into a file"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", default=None, help="check the files and print nothing"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="name the files that were merged, on stderr"
    )
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help="these and what they depend on only"
    )


def run(session: sessions.Session, arguments: argparse.Namespace) -> int:
    """Load and print."""
    if arguments.json:
        if arguments.format not in ("", "json"):
            raise errors.UsageError(
                f"cannot print as {arguments.format!r} and as JSON", hint="leave out one of them"
            )
        arguments.format = "json"
    only = next((name for name in _PRECEDENCE if getattr(arguments, f"only_{name}")), "")
    if only == "variables":
        _variables(session, arguments)
    elif only == "environment":
        _environment(session, arguments)
    elif only == "hash":
        _hash(session, arguments)
    elif only:
        _list(session, arguments, only)
    else:
        _document(session, arguments)
    return 0


# --- loading --------------------------------------------------------------------------------------------


def _load(
    session: sessions.Session,
    arguments: argparse.Namespace,
    services: Iterable[str] = (),
    *,
    interpolate: bool = True,
    env_files: bool = True,
    whole: bool = True,
) -> model.Stack:
    stack = session.stack(
        tuple(services),
        for_running=False,
        interpolate=interpolate,
        whole=whole,
        normalize=not (arguments.no_normalize or session.options.compatibility),
        resolve_paths=not arguments.no_path_resolution,
        consistency=not arguments.no_consistency,
        resolve_env=env_files,
        resolve_named_env=not arguments.no_env_resolution,
    )
    if arguments.verbose:
        for name in stack.merged:
            session.out.note(f"merged {name}")
    return stack


def _selected(
    session: sessions.Session, stack: model.Stack, services: Iterable[str] = ()
) -> Document:
    from ic.compose import canonical

    return canonical.selected(
        canonical.plain_tree(stack),
        stack.services,
        services,
        everything=session.options.all_resources,
    )


def _print(session: sessions.Session, text: str) -> None:
    """Print as it is where it goes into a pipe or a file; for people without what moves their cursor."""
    isatty = getattr(session.out.stdout, "isatty", None)
    if isatty is not None and isatty():
        session.out.text(text)
    else:
        session.out.raw(text)


def _lines(session: sessions.Session, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if text:
        _print(session, text)


def _listed(session: sessions.Session, names: list[str]) -> None:
    """Names, one a line; with --json as one list."""
    if session.out.json:
        session.out.values(names)
    else:
        _lines(session, names)


# --- the document ---------------------------------------------------------------------------------------


def _document(session: sessions.Session, arguments: argparse.Namespace) -> None:
    from ic.compose import canonical, checks

    json = arguments.format == "json"
    interpolate = not arguments.no_interpolate
    named: list[str] = arguments.services
    stack = _load(
        session,
        arguments,
        named if interpolate else (),
        interpolate=interpolate,
        whole=interpolate,
    )
    if arguments.format not in ("", "yaml", "json"):
        raise errors.UsageError(
            f"cannot print as {arguments.format!r}: no such format", hint="yaml or json"
        )
    if interpolate:
        root = _selected(session, stack, named)
        if not arguments.no_consistency:
            checks.check_containers(stack, cast("Document", root.get("services") or {}))
    else:
        root = canonical.plain_tree(stack)
    name = stack.name
    if arguments.resolve_image_digests or arguments.lock_image_digests:
        root = _pinned(session, root)
    if arguments.lock_image_digests:
        root, name = canonical.images_only(root), ""
    if interpolate:
        made = canonical.document(root, name, json=json)
    else:
        made = canonical.model_document(root, json=json)
    text = canonical.text_of(made, json=json, dollars=interpolate)
    if session.out.quiet:
        return
    if arguments.output:
        _write(arguments.output, text)
    else:
        _print(session, text)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise errors.UsageError(f"cannot write {path}: {reason}") from problem


def _pinned(session: sessions.Session, root: Document) -> Document:
    """The services with their images as their registries know them now."""
    from ic.incus import oci

    services = cast("Document", root.get("services") or {})
    made: Document = {}
    known: dict[str, str] = {}
    for name, one in services.items():
        service = cast("Document", one or {})
        image = service.get("image")
        if isinstance(image, str) and image:
            if image not in known:
                known[image] = oci.pinned(image, session.env)
            service = {**service, "image": known[image]}
        made[name] = service
    return {**root, "services": made}


# --- lists ----------------------------------------------------------------------------------------------


def _list(session: sessions.Session, arguments: argparse.Namespace, only: str) -> None:
    if only == "services" and arguments.no_interpolate:
        from ic.compose import canonical

        stack = _load(session, arguments, interpolate=False, env_files=False, whole=False)
        found = canonical.plain_tree(stack).get("services")
        _listed(session, sorted(cast("Document", found or {})))
        return
    named: list[str] = arguments.services if only in ("profiles", "images") else []
    stack = _load(
        session,
        arguments,
        named,
        interpolate=not arguments.no_interpolate,
        env_files=False,
    )
    # Of all services too those are looked for that they depend on: without the checks one may be missing.
    root = _selected(session, stack, stack.services if only == "services" else named)
    services = cast("dict[str, Document]", root.get("services") or {})
    if only == "images":
        old = session.options.compatibility or _is_true(
            stack.environment.get("COMPOSE_COMPATIBILITY", "")
        )
        separator = "_" if old else "-"
        found = [
            str(one.get("image") or f"{stack.name}{separator}{name}")
            for name, one in services.items()
        ]
    elif only == "models":
        models = cast("dict[str, Document]", root.get("models") or {})
        found = [str((one or {}).get("model") or "") for one in models.values()]
    elif only == "profiles":
        everyone = cast("dict[str, Document]", _every_service(stack))
        found = list(
            {
                str(profile)
                for one in everyone.values()
                for profile in cast("list[object]", one.get("profiles") or [])
            }
        )
    else:
        found = list(cast("Document", root.get(only) or {}))
    _listed(session, sorted(one for one in found if one))


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("1", "t", "true", "y")


def _every_service(stack: model.Stack) -> Document:
    from ic.compose import canonical

    return cast("Document", canonical.plain_tree(stack).get("services") or {})


def _hash(session: sessions.Session, arguments: argparse.Namespace) -> None:
    from ic.compose import canonical

    stack = _load(session, arguments, interpolate=not arguments.no_interpolate, env_files=False)
    services = cast("dict[str, Document]", _selected(session, stack).get("services") or {})
    named: list[str] = arguments.only_hash.split(",")
    wanted = services if arguments.only_hash == "*" else named
    platform = stack.environment.get("DOCKER_DEFAULT_PLATFORM", "")
    made: dict[str, str] = {}
    for name in sorted(wanted):
        if name not in services:
            everyone = _every_service(stack)
            raise errors.UsageError(
                f"cannot digest the service {name!r}: "
                + ("none of its profiles is active" if name in everyone else "no such service"),
                code="E_REFERENCE",
            )
        service = _for_platform(name, services[name], platform)
        made[name] = canonical.digest(service)
        if not arguments.json:
            _lines(session, [f"{name} {made[name]}"])
    if arguments.json:
        session.out.values(made)


def _for_platform(name: str, service: Document, default: str) -> Document:
    """A service with the platform that it is built for. Raises UsageError where its build has none such."""
    build = cast("Document | None", service.get("build"))
    if build is None:
        return service
    platform = service.get("platform") or default
    offered = cast("list[object]", build.get("platforms") or [])
    if platform and offered and platform not in offered:
        raise errors.UsageError(
            f"cannot digest the service {name!r}: its build has no platform {platform}",
            hint="name it in build.platforms, or another one in DOCKER_DEFAULT_PLATFORM",
        )
    return {**service, "platform": platform} if platform else service


# --- variables ------------------------------------------------------------------------------------------


def _environment(session: sessions.Session, arguments: argparse.Namespace) -> None:
    named: list[str] = arguments.services
    stack = _load(session, arguments, named, interpolate=not arguments.no_interpolate)
    _selected(session, stack, named)
    if session.out.quiet:
        return
    if arguments.json:
        session.out.values(dict(sorted(stack.environment.items())))
    else:
        _lines(session, sorted(f"{name}={value}" for name, value in stack.environment.items()))


_COLUMNS = ("NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE")
_NARROWEST, _GAP = 20, 3


def _variables(session: sessions.Session, arguments: argparse.Namespace) -> None:
    from ic.compose import canonical, shapes, variables, writing

    kind: str = arguments.format
    stack = _load(session, arguments, interpolate=False, env_files=False, whole=False)
    found = variables.of_tree(canonical.plain_tree(stack))
    if kind.lower() not in ("", "table", "pretty", "json") and kind != "yaml":
        raise errors.UsageError(
            f"cannot print variables as {kind!r}: no such format", hint="table, yaml or json"
        )
    if kind == "yaml":
        made = {
            name: {
                "name": name,
                "defaultvalue": one.default,
                "presencevalue": one.alternate,
                "required": one.required,
            }
            for name in shapes.ordered(found, json=False)
            if (one := found[name])
        }
        if not session.out.quiet:
            _print(session, writing.to_wide_yaml(cast("Document", made)))
    elif kind.lower() == "json":
        listed = {
            name: {
                "Name": name,
                "DefaultValue": one.default,
                "PresenceValue": one.alternate,
                "Required": one.required,
            }
            for name, one in sorted(found.items())
        }
        _print(session, writing.to_wide_json(listed) + "\n\n")
    else:
        rows: list[tuple[str, str, str, str]] = [_COLUMNS]
        for name, one in sorted(found.items()):
            required = "true" if one.required else "false"
            rows.append((name, required, one.default, one.alternate))
        widths = [max(_NARROWEST, *(len(row[at]) + _GAP for row in rows)) for at in range(3)]
        _lines(
            session,
            (
                "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
                + row[-1]
                for row in rows
            ),
        )
