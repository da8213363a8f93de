"""Stack to the document that `ic config` prints: as docker compose 2.40.3 prints it, in YAML and in JSON.

Pure. YAML: `name services networks volumes x-*`, names of maps sorted, the keys of a service in docker
compose's order. JSON: the top level alphabetical, `command` and `entrypoint` always there. A dollar is
written `$$`, so that the document reads back to the same stack.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, TypeVar, cast

from ic import units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ic.compose import model
    from ic.fields import lifecycle, networking, storage

Value = object
_T = TypeVar("_T")
Document = dict[str, Value]


# --- the document -------------------------------------------------------------------------------------


def document(stack: model.Stack, *, json: bool = False) -> Document:
    """The stack as a document of plain values in the order of printing. Unused networks are gone already."""
    networks: set[str] = set()
    volumes: set[str] = set()
    services: Document = {}
    order = None if json else _natural
    for name in sorted(stack.services, key=order):
        service = stack.services[name]
        services[name] = _service(service, json=json)
        networks.update(service.networking.networks)
        volumes.update(mount.source for mount in service.storage.volumes if mount.type == "volume")
    made: Document = {
        "name": stack.name,
        "services": services,
        "networks": {
            key: _network(stack.networks[key], stack.name, json=json)
            for key in sorted(networks & stack.networks.keys(), key=order)
        },
        "volumes": {
            key: _volume(stack.volumes[key], stack.name, json=json)
            for key in sorted(volumes & stack.volumes.keys(), key=order)
        },
    }
    for key in ("networks", "volumes"):
        if not made[key]:
            del made[key]
    made |= _sorted(stack.extensions, json=json)
    return dict(sorted(made.items())) if json else made


def _service(service: model.Service, *, json: bool) -> Document:
    process, networking, life = service.process, service.networking, service.lifecycle
    placement = service.placement
    deploy: Document | None = {} if placement.deploy else None
    if deploy is not None:
        if placement.deploy_replicas is not None:
            deploy["replicas"] = placement.deploy_replicas
        if json:
            deploy |= {"resources": {}, "placement": {}}
    environment: Document = {**process.environment}
    environment.update((name, None) for name in process.unresolved)
    grace = life.stop_grace_period
    mounts = [_mount(mount) for mount in service.storage.volumes if not mount.short]
    made: Document = {
        "profiles": list(life.profiles),
        "command": None if process.command is None else list(process.command),
        "container_name": placement.container_name,
        "depends_on": {
            name: {"condition": one.condition}
            | ({"restart": True} if one.restart else {})
            | {"required": one.required}
            for name, one in _in_order(life.depends_on, json=json)
        },
        "deploy": deploy,
        "entrypoint": None if process.entrypoint is None else list(process.entrypoint),
        "environment": _sorted(environment, json=json),
        "expose": list(networking.expose),
        "hostname": networking.hostname,
        "healthcheck": _healthcheck(life.healthcheck, json=json),
        "image": service.image.image,
        "labels": _sorted(placement.labels, json=json),
        "networks": {
            key: _attachment(one) for key, one in _in_order(networking.networks, json=json)
        },
        "ports": [_port(port) for port in networking.ports],
        "pull_policy": service.image.pull_policy,
        "restart": life.restart,
        "scale": placement.scale,
        "stop_grace_period": None if grace is None else units.duration_text(grace),
        "stop_signal": life.stop_signal,
        "tmpfs": [mount.short for mount in service.storage.volumes if mount.short],
        "user": process.user,
        "volumes": mounts,
        "working_dir": process.working_dir,
    }
    always = ("command", "entrypoint") if json else ()
    kept = {key: value for key, value in made.items() if _stands(key, value) or key in always}
    return kept if json else kept | _sorted(service.extensions)


def _stands(key: str, value: Value) -> bool:
    if key in ("command", "entrypoint", "healthcheck", "scale", "deploy"):
        return value is not None
    return value not in (None, "", [], {})


def _healthcheck(check: lifecycle.Healthcheck | None, *, json: bool) -> Document | None:
    if check is None:
        return None
    made: Document = {"test": list(check.test or ()) or None}
    for key in ("timeout", "interval", "retries", "start_period", "start_interval"):
        value = cast("int | None", getattr(check, key))
        made[key] = value if value is None or key == "retries" else units.duration_text(value)
    made["disable"] = check.disable or None
    kept = {key: value for key, value in made.items() if value is not None}
    return kept if json else kept | _sorted(check.extensions)


def _attachment(one: networking.Attachment) -> Document | None:
    made: Document = {}
    if one.aliases:
        made["aliases"] = list(one.aliases)
    if one.ipv4_address:
        made["ipv4_address"] = one.ipv4_address
    return made or None


def _port(port: networking.Port) -> Document:
    published = ""
    if port.published is not None:
        published = str(port.published)
        if port.published_end is not None:
            published += f"-{port.published_end}"
    made: Document = {
        "name": port.name,
        "mode": port.mode,
        "host_ip": port.host_ip,
        "target": port.target,
        "published": published,
        "protocol": port.protocol,
        "app_protocol": port.app_protocol,
    }
    return {key: value for key, value in made.items() if value != ""}


def _mount(mount: storage.Mount) -> Document:
    made: Document = {"type": mount.type}
    if mount.source:
        made["source"] = mount.source
    made["target"] = mount.target
    if mount.read_only:
        made["read_only"] = True
    if mount.consistency:
        made["consistency"] = mount.consistency
    bind: Document = {}
    if mount.selinux:
        bind["selinux"] = mount.selinux
    if mount.create_host_path:
        bind["create_host_path"] = True
    if bind or (mount.type == "bind" and mount.detailed):
        made["bind"] = bind
    if mount.type == "volume" and mount.detailed:
        made["volume"] = {"nocopy": True} if mount.nocopy else {}
    elif mount.type == "tmpfs" and mount.detailed:
        tmpfs: Document = {}
        if mount.size is not None:
            tmpfs["size"] = str(mount.size)
        if mount.mode:
            tmpfs["mode"] = mount.mode
        made["tmpfs"] = tmpfs
    return made


def _network(network: model.Network, stack: str, *, json: bool) -> Document:
    made: Document = {"name": _full_name(network, stack)}
    if network.driver:
        made["driver"] = network.driver
    ipam: Document = {}
    if network.ipam_driver:
        ipam["driver"] = network.ipam_driver
    if network.subnet or network.gateway:
        pool: Document = {"subnet": network.subnet, "gateway": network.gateway}
        ipam["config"] = [{key: value for key, value in pool.items() if value}]
    if ipam or json:
        made["ipam"] = ipam
    if network.external:
        made["external"] = True
    if network.internal:
        made["internal"] = True
    if network.labels:
        made["labels"] = _sorted(network.labels, json=json)
    return made | ({} if json else _sorted(network.extensions))


def _volume(volume: model.Volume, stack: str, *, json: bool) -> Document:
    made: Document = {"name": _full_name(volume, stack)}
    if volume.driver:
        made["driver"] = volume.driver
    if volume.external:
        made["external"] = True
    if volume.labels:
        made["labels"] = _sorted(volume.labels, json=json)
    return made | ({} if json else _sorted(volume.extensions))


def _full_name(resource: model.Network | model.Volume, stack: str) -> str:
    return resource.name or (resource.key if resource.external else f"{stack}_{resource.key}")


# --- order --------------------------------------------------------------------------------------------


def _before(one: str, other: str) -> int:
    """The order of names in docker compose's YAML: letters after other characters, numbers by their value.

    Right after a common digit, a letter comes first instead. (Measured, and go-yaml v3's documented order.)
    """
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += 1
    else:
        return len(one) - len(other)
    a, b = one[at], other[at]
    if a.isalpha() and b.isalpha():
        return -1 if a < b else 1
    if a.isalpha() or b.isalpha():
        after_digit = at > 0 and one[at - 1].isdigit()
        return -1 if a.isalpha() == after_digit else 1
    left, right = _run(one, at), _run(other, at)
    # Inside of a number the digits before count too; zeros that lead it do not.
    head = "1" if "0" in (a, b) and _run_before(one, at).strip("0") else "0"
    difference = int(head + left) - int(head + right)
    return difference or len(left) - len(right) or (-1 if a < b else 1)


_DIGITS = re.compile(r"[0-9]*")


def _run(text: str, at: int) -> str:
    found = _DIGITS.match(text, at)
    return found[0] if found else ""


def _run_before(text: str, at: int) -> str:
    start = at
    while start > 0 and text[start - 1].isdigit():
        start -= 1
    return text[start:at]


_natural = functools.cmp_to_key(_before)


def _in_order(values: Mapping[str, _T], *, json: bool) -> list[tuple[str, _T]]:
    return [(key, values[key]) for key in sorted(values, key=None if json else _natural)]


def _sorted(values: Mapping[str, Value], *, json: bool = False) -> Document:
    order = None if json else _natural
    return {key: _sorted_value(values[key], json=json) for key in sorted(values, key=order)}


def _sorted_value(value: Value, *, json: bool) -> Value:
    if isinstance(value, dict):
        return _sorted(cast("Document", value), json=json)
    if isinstance(value, list):
        # In its JSON an empty list of an extension is null.
        return [_sorted_value(one, json=json) for one in cast("list[Value]", value)] or (
            None if json else []
        )
    return value


# --- text ---------------------------------------------------------------------------------------------


def to_json(stack: model.Stack) -> str:
    """The stack as JSON, without a newline at the end, as docker compose prints it."""
    import json

    text = json.dumps(
        _with_dollars(document(stack, json=True)), indent=2, ensure_ascii=False, allow_nan=False
    )
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def to_yaml(stack: model.Stack) -> str:
    """The stack as YAML, with a newline at the end."""
    lines: list[str] = []
    _emit_mapping(cast("Document", _with_dollars(document(stack))), 0, lines)
    return "\n".join(lines) + "\n"


def _with_dollars(value: Value) -> Value:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {
            key.replace("$", "$$"): _with_dollars(one)
            for key, one in cast("Document", value).items()
        }
    if isinstance(value, list):
        return [_with_dollars(one) for one in cast("list[Value]", value)]
    return value


def _emit_mapping(
    values: Document, indent: int, lines: list[str], first: str | None = None
) -> None:
    """Append the lines of a mapping; `first` begins its first line (`- ` of the list it stands in)."""
    for key, value in values.items():
        start = " " * indent if first is None else first
        first = None
        _emit_value(start + _key(key) + ":", value, indent, lines)


def _emit_value(start: str, value: Value, indent: int, lines: list[str]) -> None:
    if isinstance(value, dict) and value:
        lines.append(start)
        _emit_mapping(cast("Document", value), indent + 2, lines)
    elif isinstance(value, list) and value:
        lines.append(start)
        _emit_list(cast("list[Value]", value), indent + 2, lines)
    else:
        _emit_scalar(start + " ", cast("Value", value), indent + 2, lines)


def _emit_list(
    values: list[Value], indent: int, lines: list[str], first: str | None = None
) -> None:
    for value in values:
        start = (" " * indent if first is None else first) + "- "
        first = None
        if isinstance(value, dict) and value:
            _emit_mapping(cast("Document", value), indent + 2, lines, start)
        elif isinstance(value, list) and value:
            _emit_list(cast("list[Value]", value), indent + 2, lines, start)
        else:
            _emit_scalar(start, cast("Value", value), indent + 2, lines)


def _emit_scalar(start: str, value: Value, indent: int, lines: list[str]) -> None:
    if not isinstance(value, str):
        lines.append(start + _plain(value))
    elif "\n" in value and _block_allowed(value):
        lines.append(start + "|" + _block_hints(value))
        body = value.removesuffix("\n")
        lines.extend(" " * indent + line if line else "" for line in body.split("\n"))
    else:
        lines.append(start + _text(value))


def _plain(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:  # noqa: PLR0124 - the one value that differs from itself
            return ".nan"
        if value in (float("inf"), float("-inf")):
            return ".inf" if value > 0 else "-.inf"
        return units.number_text(value)
    return {"{}": "{}", "[]": "[]"}.get(str(value), str(value))


def _key(text: str) -> str:
    return _double(text) if "\n" in text else _text(text)


def _text(text: str) -> str:
    """A text on one line: plain where it reads back as itself, else in quotes."""
    if "\n" in text or _reads_as_other(text):
        return _double(text)
    if _SPECIAL.search(text) or "\t" in text:
        return _double(text)
    if text.strip(" ") != text or _INDICATOR.search(text):
        return "'" + text.replace("'", "''") + "'"
    return text


_OLD_BOOLEANS = frozenset(
    one
    for word in ("y", "yes", "on", "n", "no", "off")
    for one in (word, word.title(), word.upper())
)
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
# What YAML calls printable, without the tab and without characters beyond the basic plane.
_SPECIAL = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd]")
_INDICATOR = re.compile(
    r"\A(---|\.\.\.)|\A[#,\[\]{}&*!|>'\"%@`]|\A[?:-](?=[\s]|\Z)|:(?=[\s]|\Z)|(?<=\s)#"
)


def _reads_as_other(text: str) -> bool:
    from ic.compose import document as reading

    if text in _OLD_BOOLEANS or _BASE_60.fullmatch(text):
        return True
    try:
        return not isinstance(reading.resolve(text), str)
    except ValueError:
        return True


def _block_allowed(text: str) -> bool:
    return not text.endswith(" ") and " \n" not in text and not _SPECIAL.search(text)


def _block_hints(text: str) -> str:
    hint = "2" if text[0] in " \n" else ""
    if not text.endswith("\n"):
        return hint + "-"
    return hint + ("+" if text == "\n" or text.endswith("\n\n") else "")


_ESCAPES = {
    "\0": "0", "\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r",
    "\x1b": "e", '"': '"', "\\": "\\", "\x85": "N", "\u2028": "L", "\u2029": "P",
}  # fmt: skip


def _double(text: str) -> str:
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(one: str) -> str:
    if one in _ESCAPES:
        return "\\" + _ESCAPES[one]
    if not _SPECIAL.match(one):
        return one
    code = ord(one)
    if code <= 0xFF:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
