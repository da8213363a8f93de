"""What docker compose 2.40.3 prints of each key: in which order, as which type, when it leaves it out.

Pure: plain values of the long form in, plain values in the order of printing out. A shape is a row per key
in the order of printing. docker compose prints Go structs, so what is empty is left out, durations and sizes
are written anew, and YAML and JSON differ: `x-*` keys stand in YAML alone, and a struct that holds nothing
(`ipam`, `resources`) in JSON alone. Measured; the types are those of compose-go 2.9.1.

A row is `key:kind` and a mark: none, empty values are left out; `?`, only a missing one is; `!`, it
always stands; `*`, it always stands in JSON; `~`, a missing one is null in JSON. `[S]` is a list of shape S,
`{S}` a mapping of names to it. `a/B` is named B in JSON.
"""

from __future__ import annotations

import functools
import re
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, cast

from ic import units
from ic.fields import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Value = object
Form = Literal["yaml", "json"]
Document = dict[str, Value]


# --- shapes -------------------------------------------------------------------------------------------


class Row:
    """How one key is printed."""

    __slots__ = ("drops_empty", "json_name", "keeps_empty", "name", "order", "read", "zero")

    def __init__(
        self,
        order: int,
        names: tuple[str, str],
        read: Callable[[Value, Form], Value],
        mark: str,
    ) -> None:
        self.order = order
        self.name, self.json_name = names
        self.read = read
        self.drops_empty = mark not in ("?", "~", "!")
        self.keeps_empty = mark == "*"  # in JSON
        self.zero: Value = None  # what stands for an empty value that stands all the same


class Shape:
    """The rows of one kind of mapping, and what stands in it even when the file has nothing of it."""

    __slots__ = ("always", "always_in_json", "extended", "rows")

    def __init__(self, *, extended: bool) -> None:
        self.extended = extended  # whether its `x-*` keys are printed
        self.rows: dict[str, Row] = {}
        self.always: list[tuple[int, str, str, Value]] = []
        self.always_in_json: list[tuple[int, str, str, Value]] = []


def printed(values: Mapping[str, Value], shape: Shape, *, json: bool) -> Document:
    """A mapping in the order and types of printing; everything below it too."""
    found: list[tuple[int, str, Value]] = []
    extensions: Document = {}
    rows = shape.rows
    form: Form = "json" if json else "yaml"
    for key, value in values.items():
        row = rows.get(key)
        if row is None:
            if not json and shape.extended and key.startswith("x-"):
                extensions[key] = value
        elif value is not None:
            made = row.read(value, form)
            if not made and row.zero is not None:
                made = row.zero
            if made is None or (not made and row.drops_empty and not (json and row.keeps_empty)):
                continue
            found.append((row.order, row.json_name if json else row.name, made))
    always = shape.always_in_json if json else shape.always
    if always:
        there = {order for order, _, _ in found}
        for order, name, json_name, value in always:
            if order not in there:
                found.append((order, json_name if json else name, value))
    found.sort(key=_by_order)
    document: Document = {name: value for _, name, value in found}
    if extensions:
        document |= in_order(extensions, json=False)
    return document


def _by_order(one: tuple[int, str, Value]) -> int:
    return one[0]


def _mapping(value: Value) -> Mapping[str, Value]:
    return cast("Mapping[str, Value]", value) if isinstance(value, dict) else {}


def _list(value: Value) -> list[Value]:
    return cast("list[Value]", value) if isinstance(value, list) else [value]


def _one(shape: Shape) -> Callable[[Value, Form], Value]:
    def read(value: Value, form: Form) -> Value:
        return printed(_mapping(value), shape, json=form == "json")

    return read


def _each(shape: Shape) -> Callable[[Value, Form], Value]:
    def read(value: Value, form: Form) -> Value:
        return [printed(_mapping(one), shape, json=form == "json") for one in _list(value)]

    return read


def _named(shape: Shape) -> Callable[[Value, Form], Value]:
    def read(value: Value, form: Form) -> Value:
        values = _mapping(value)
        return {
            name: None
            if values[name] is None
            else printed(_mapping(values[name]), shape, json=form == "json")
            for name in ordered(values, json=form == "json")
        }

    return read


# --- scalars ------------------------------------------------------------------------------------------


def text_of(value: Value) -> str:
    """Any scalar as text; null is empty."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return units.number_text(value)
    return str(value)


def _text(value: Value, form: Form) -> Value:  # noqa: ARG001 - the shape of every kind
    return text_of(value)


_TRUE = frozenset({"true", "y", "yes", "on"})


def _flag(value: Value, form: Form) -> Value:  # noqa: ARG001
    return value.lower() in _TRUE if isinstance(value, str) else bool(value)


def _integer(value: Value, form: Form) -> Value:  # noqa: ARG001
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return 0
    return int(value) if isinstance(value, (int, float)) else 0


def _ratio(value: Value, form: Form) -> Value:  # noqa: ARG001
    """A number of 32 bits, as the shortest decimal number that means the same."""
    try:
        number = float(value) if isinstance(value, (str, int, float)) else 0.0
        packed = struct.pack("f", number)
    except (ValueError, OverflowError):
        return 0.0
    (number,) = struct.unpack("f", packed)
    for digits in range(1, 10):
        short = float(f"{number:.{digits}g}")
        if struct.pack("f", short) == packed:
            return short
    return number


def _size(value: Value, form: Form) -> Value:  # noqa: ARG001
    """Bytes, as text; nothing for none."""
    if isinstance(value, str):
        try:
            number = units.size_bytes(value)
        except ValueError:
            number = 0
    else:
        number = value if isinstance(value, int) and not isinstance(value, bool) else 0
    return str(number) if number else ""


_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w)"
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
    "w": 604_800 * 10**9,
}


@functools.cache
def _nanoseconds(text: str) -> int:
    total = sum(
        int(Decimal(number) * _NANOSECONDS[unit]) for number, unit in re.findall(_PART, text)
    )
    return -total if text.startswith("-") else total


@functools.cache
def _duration_text(nanoseconds: int) -> str:
    """A duration as Go prints it: `1h0m0s`, `1.5s`, `100ms`, `1.5µs`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, factor in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if rest < factor * 1000:
            return f"{sign}{_decimal(rest, factor)}{unit}"
    minutes, rest = divmod(rest, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h" if hours else ""
    if hours or minutes:
        text += f"{minutes}m"
    return f"{sign}{text}{_decimal(rest, 10**9)}s"


def _decimal(number: int, factor: int) -> str:
    whole, rest = divmod(number, factor)
    return f"{whole}.{rest:0{len(str(factor)) - 1}d}".rstrip("0") if rest else str(whole)


def _duration(value: Value, form: Form) -> Value:  # noqa: ARG001
    return _duration_text(_nanoseconds(text_of(value)))


def _some_duration(value: Value, form: Form) -> Value:  # noqa: ARG001
    nanoseconds = _nanoseconds(text_of(value))
    return _duration_text(nanoseconds) if nanoseconds else ""


def _mode(value: Value, form: Form) -> Value:  # noqa: ARG001
    """Permissions, octal as text."""
    if isinstance(value, str):
        try:
            number = int(value, 8)
        except ValueError:
            number = 0
    else:
        number = value if isinstance(value, int) else 0
    return f"0{number:o}"


def _count(value: Value, form: Form) -> Value:
    """A number of devices; all of them are -1."""
    if isinstance(value, str) and value.lower() == "all":
        return -1
    return _integer(value, form)


# --- lists and mappings of texts ------------------------------------------------------------------------


def _texts(value: Value, form: Form) -> Value:  # noqa: ARG001
    return [text_of(one) for one in _list(value)]


def _words(value: Value, form: Form) -> Value:  # noqa: ARG001
    """A command: one text is split as a shell would."""
    if isinstance(value, str):
        return process.split_words(value)[0]
    return [text_of(one) for one in _list(value)]


def _check(value: Value, form: Form) -> Value:
    """The command of a healthcheck: one text is for a shell."""
    return ["CMD-SHELL", value] if isinstance(value, str) else _texts(value, form)


def _pairs(value: Value) -> Mapping[str, Value]:
    if isinstance(value, dict):
        return _free_names(cast("Mapping[str, Value]", value))
    found: dict[str, Value] = {}
    for one in _list(value):
        name, equals, given = text_of(one).partition("=")
        found[name] = given if equals else None
    return found


def _free_names(values: Mapping[str, Value]) -> Mapping[str, Value]:
    """Names to scalars as docker compose prints them: it takes names `x-*` for extensions."""
    extensions = {name: one for name, one in values.items() if name.startswith("x-")}
    if not extensions:
        return values
    left = {name: one for name, one in values.items() if name not in extensions}
    return {**left, "#extensions": _go_text(extensions)}


def _go_text(value: Value) -> str:
    """A value as Go prints it for want of a form: `map[a:1 b:<nil>]`, `[a b]`."""
    if isinstance(value, dict):
        values = cast("Mapping[str, Value]", value)
        return f"map[{' '.join(f'{name}:{_go_text(values[name])}' for name in sorted(values))}]"
    if isinstance(value, list):
        return f"[{' '.join(map(_go_text, cast('list[Value]', value)))}]"
    return "<nil>" if value is None else text_of(value)


def _labels(value: Value, form: Form) -> Value:
    """Names to texts; a missing one is empty."""
    values = _pairs(value)
    return {name: text_of(values[name]) for name in ordered(values, json=form == "json")}


def _variables(value: Value, form: Form) -> Value:
    """Names to texts; a missing one is null."""
    return _resolved(_pairs(value), form)


def _resolved(value: Value, form: Form) -> Value:
    """Variables as the stack has them in the end, whether a mapping or a list gave them."""
    values = _mapping(value) or _pairs(value)
    return {
        name: None if values[name] is None else text_of(values[name])
        for name in ordered(values, json=form == "json")
    }


def _many(value: Value, form: Form) -> Value:
    """Names to lists of texts; one that is empty is not there."""
    values = _free_names(_mapping(value))
    return {
        name: ["<nil>" if one is None else text_of(one) for one in _list(values[name])]
        for name in ordered(values, json=form == "json")
        if values[name] != []
    }


def _hosts(value: Value, form: Form) -> Value:  # noqa: ARG001
    """Host names and addresses, each as NAME=ADDRESS, sorted; names without any leave an empty list."""
    if not value:
        return None
    found: list[str] = []
    if isinstance(value, dict):
        for name, given in cast("Mapping[str, Value]", value).items():
            found += [f"{name}={_bare(text_of(one))}" for one in _list(given)]
    else:
        for one in _list(value):
            text = text_of(one)
            name, mark, given = text.partition("=")
            if not mark:
                name, mark, given = text.partition(":")
            found += [f"{name}={_bare(address)}" for address in given.split(",")]
    return sorted(found)


def _bare(address: str) -> str:
    in_brackets = len(address) > 2 and address[0] == "[" and address[-1] == "]"
    return address[1:-1] if in_brackets else address


def _keys(value: Value, form: Form) -> Value:  # noqa: ARG001
    """SSH keys: an identity, or one with its path; by name."""
    values = _free_names(_mapping(value))
    return [
        name if not text_of(values[name]) else f"{name}: {text_of(values[name])}"
        for name in sorted(values)
    ]


def _limits(value: Value, form: Form) -> Value:
    """Limits by name: one number, or a soft and a hard one."""
    values = _mapping(value)
    return {name: _limit(values[name], form) for name in ordered(values, json=form == "json")}


def _limit(value: Value, form: Form) -> Value:
    if isinstance(value, dict):
        limits = cast("Mapping[str, Value]", value)
        both = {name: _integer(limits.get(name), form) for name in ("soft", "hard")}
        return {name: one for name, one in both.items() if one} if form == "json" else both
    single = _integer(value, form)
    return single if single else ({} if form == "json" else {"soft": 0, "hard": 0})


def _env_files(value: Value, form: Form) -> Value:
    """Env files: their path alone where they must be there."""
    found: list[Value] = []
    for one in _list(value):
        given = _mapping(one)
        path = text_of(given.get("path")) if given else text_of(one)
        if given.get("required", True):
            found.append(path)
        elif form == "json":
            more = text_of(given.get("format"))
            found.append({"path": path, "required": False} | ({"format": more} if more else {}))
        else:
            found.append({"path": path, "required": False})
    return found


# --- the tables -----------------------------------------------------------------------------------------

_KINDS: dict[str, Callable[[Value, Form], Value]] = {
    "text": _text,
    "flag": _flag,
    "int": _integer,
    "ratio": _ratio,
    "size": _size,
    "duration": _duration,
    "some-duration": _some_duration,
    "mode": _mode,
    "count": _count,
    "texts": _texts,
    "words": _words,
    "check": _check,
    "labels": _labels,
    "variables": _variables,
    "resolved": _resolved,
    "many": _many,
    "hosts": _hosts,
    "keys": _keys,
    "limits": _limits,
    "env-files": _env_files,
}
_ZERO: dict[str, Value] = {"text": "", "flag": False, "int": 0, "size": "0"}
_SHAPES: dict[str, Shape] = {}


def _shape(name: str, rows: str, *, extended: bool = True) -> Shape:
    """The shape written in a table; the shapes that it names are there already."""
    shape = Shape(extended=extended)
    for order, row in enumerate(rows.split()):
        names, _, kind = row.partition(":")
        mark = kind[-1] if kind[-1] in "?!*~" else ""
        kind = kind.removesuffix(mark)
        key, _, json_name = names.partition("/")
        if kind[0] == "[":
            read = _each(_SHAPES[kind[1:-1]])
        elif kind[0] == "{":
            read = _named(_SHAPES[kind[1:-1]])
        else:
            read = _KINDS[kind] if kind in _KINDS else _one(_SHAPES[kind])
        shape.rows[key] = Row(order, (key, json_name or key), read, mark)
        if mark == "!":
            shape.rows[key].zero = _ZERO[kind]
            shape.always.append((order, key, json_name or key, _ZERO[kind]))
            shape.always_in_json.append(shape.always[-1])
        elif mark == "~":
            shape.always_in_json.append((order, key, key, None))
        elif mark == "*":
            empty = printed({}, _SHAPES[kind], json=True)
            shape.always_in_json.append((order, key, key, empty))
    _SHAPES[name] = shape
    return shape


_shape("HOOK", "command:words~ user:text privileged:flag working_dir:text environment:variables")
_shape("GRANT", "source:text target:text uid:text gid:text mode:mode?")
_shape(
    "BUILD",
    """context:text dockerfile:text dockerfile_inline:text entitlements:texts args:variables
    provenance:text sbom:text ssh:keys labels:labels cache_from:texts cache_to:texts no_cache:flag
    additional_contexts:labels pull:flag extra_hosts:hosts? isolation:text network:text target:text
    secrets:[GRANT] shm_size:size tags:texts ulimits:limits platforms:texts privileged:flag""",
)
_shape(
    "WATCH",
    """path:text! action:text! target:text exec:HOOK* include:texts ignore:texts initial_sync:flag""",
)
_shape("DEVELOP", "watch:[WATCH]")
_shape("WEIGHT", "path/Path:text! weight/Weight:int!")
_shape("RATE", "path/Path:text! rate/Rate:size!")
_shape(
    "BLKIO",
    """weight:int weight_device:[WEIGHT] device_read_bps:[RATE] device_read_iops:[RATE]
    device_write_bps:[RATE] device_write_iops:[RATE]""",
)
_shape("CREDENTIALS", "config:text file:text registry:text")
_shape("DEPENDENCY", "condition:text restart:flag required:flag!")
_shape(
    "UPDATE",
    """parallelism:int? delay:some-duration failure_action:text monitor:some-duration
    max_failure_ratio:ratio order:text""",
)
_shape(
    "REQUEST",
    "capabilities:texts driver:text count:count device_ids:texts options:labels",
    extended=False,
)
_shape("DISCRETE", "kind:text! value:int!")
_shape("GENERIC", "discrete_resource_spec:DISCRETE?")
_shape(
    "RESOURCE",
    "cpus:ratio memory:size pids:int devices:[REQUEST] generic_resources:[GENERIC]",
)
_shape("RESOURCES", "limits:RESOURCE? reservations:RESOURCE?")
_shape("RESTART", "condition:text delay:duration? max_attempts:int? window:duration?")
_shape("PREFERENCE", "spread:text")
_shape("PLACEMENT", "constraints:texts preferences:[PREFERENCE] max_replicas_per_node:int")
_shape(
    "DEPLOY",
    """mode:text replicas:int? labels:labels update_config:UPDATE? rollback_config:UPDATE?
    resources:RESOURCES* restart_policy:RESTART? placement:PLACEMENT* endpoint_mode:text""",
)
_shape("DEVICE", "source:text target:text permissions:text")
_shape("PROVIDER", "type:text options:many")
_shape("EXTENDS", "file:text service:text", extended=False)
_shape(
    "HEALTHCHECK",
    """test:check timeout:duration? interval:duration? retries:int? start_period:duration?
    start_interval:duration? disable:flag""",
)
_shape("LOGGING", "driver:text options:labels")
_shape("SERVICE_MODEL", "endpoint_var:text model_var:text")
_shape(
    "ATTACHMENT",
    """aliases:texts driver_opts:labels gw_priority:int interface_name:text ipv4_address:text
    ipv6_address:text link_local_ips:texts mac_address:text priority:int""",
)
_shape(
    "PORT",
    "name:text mode:text host_ip:text target:int published:text protocol:text app_protocol:text",
)
_shape("BIND", "selinux:text propagation:text create_host_path:flag recursive:text")
_shape("NAMED", "labels:labels nocopy:flag subpath:text")
_shape("TMPFS", "size:size mode:int")
_shape("IMAGE", "subpath:text")
_shape(
    "MOUNT",
    """type:text source:text target:text read_only:flag consistency:text bind:BIND? volume:NAMED?
    tmpfs:TMPFS? image:IMAGE?""",
)
SERVICE = _shape(
    "SERVICE",
    """profiles:texts annotations:labels attach:flag? build:BUILD? develop:DEVELOP?
    blkio_config:BLKIO? cap_add:texts cap_drop:texts cgroup_parent:text cgroup:text cpu_count:int
    cpu_percent:ratio cpu_period:int cpu_quota:int cpu_rt_period:int cpu_rt_runtime:int cpus:ratio
    cpuset:text cpu_shares:int command:words~ configs:[GRANT] container_name:text
    credential_spec:CREDENTIALS? depends_on:{DEPENDENCY} deploy:DEPLOY? device_cgroup_rules:texts
    devices:[DEVICE] dns:texts dns_opt:texts dns_search:texts domainname:text entrypoint:words~
    provider:PROVIDER? environment:resolved env_file:env-files expose:texts extends:EXTENDS?
    external_links:texts extra_hosts:hosts? group_add:texts gpus:[REQUEST] hostname:text
    healthcheck:HEALTHCHECK? image:text init:flag? ipc:text isolation:text labels:labels
    label_file:texts links:texts logging:LOGGING? mem_limit:size mem_reservation:size
    memswap_limit:size mem_swappiness:size mac_address:text models:{SERVICE_MODEL}
    network_mode:text networks:{ATTACHMENT} oom_kill_disable:flag oom_score_adj:int pid:text
    pids_limit:int platform:text ports:[PORT] privileged:flag pull_policy:text read_only:flag
    restart:text runtime:text scale:int? secrets:[GRANT] security_opt:texts shm_size:size
    stdin_open:flag stop_grace_period:duration? stop_signal:text storage_opt:labels sysctls:labels
    tmpfs:texts tty:flag ulimits:limits use_api_socket:flag user:text userns_mode:text uts:text
    volumes:[MOUNT] volumes_from:texts working_dir:text post_start:[HOOK] pre_stop:[HOOK]""",
)
_shape("POOL", "subnet:text gateway:text ip_range:text aux_addresses:labels", extended=False)
_shape("IPAM", "driver:text config:[POOL]")
NETWORK = _shape(
    "NETWORK",
    """name:text driver:text driver_opts:labels ipam:IPAM* external:flag internal:flag
    attachable:flag labels:labels enable_ipv4:flag? enable_ipv6:flag?""",
)
VOLUME = _shape("VOLUME", "name:text driver:text driver_opts:labels external:flag labels:labels")
FILE = _shape(
    "FILE",
    """name:text file:text environment:text content:text external:flag labels:labels driver:text
    driver_opts:labels template_driver:text""",
)
MODEL = _shape("MODEL", "name:text model:text context_size:int runtime_flags:texts")


# --- order ----------------------------------------------------------------------------------------------


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
_EASY = re.compile(r"[a-z_.-]*")


def ordered(names: Iterable[str], *, json: bool) -> list[str]:
    """Names in the order of printing: by their characters in JSON, by numbers inside of them too in YAML."""
    found = sorted(names)
    if json or len(found) < 2 or all(map(_EASY.fullmatch, found)):
        return found
    return sorted(found, key=_natural)


def in_order(values: Mapping[str, Value], *, json: bool) -> Document:
    """A mapping of plain values with the names in order, everything below it too."""
    return {name: _value_in_order(values[name], json=json) for name in ordered(values, json=json)}


def _value_in_order(value: Value, *, json: bool) -> Value:
    if isinstance(value, dict):
        return in_order(cast("Mapping[str, Value]", value), json=json)
    if isinstance(value, list):
        # In its JSON an empty list of an extension is null.
        return [_value_in_order(one, json=json) for one in cast("list[Value]", value)] or (
            None if json else []
        )
    return value
