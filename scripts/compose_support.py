"""Writes docs/compose-support.md: every key of the Compose Specification and what ic does with it.

Which keys there are, and which of them are refused, comes from the registry that the reader itself uses
(`SCHEMA` of ic.fields, `ic.compose.model`); here stands one sentence for each key that is taken. A key
without its sentence, or a sentence without its key, ends this with an error.
`python scripts/compose_support.py` writes; a test compares, and asks the reader about every row.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from ic.compose import model  # noqa: E402

if TYPE_CHECKING:
    from ic.fields import schema

PAGE = "docs/compose-support.md"
MAPPED, NO_EFFECT, REFUSED = "mapped", "no effect", "not yet"

# A sentence that begins with "-" is of a key that is accepted and changes nothing.
TOP = {
    "version": "- ignored with a warning, as docker compose does",
    "name": "the stack's name; the Incus project has it too, `_` written as `-`",
    "services": "one instance per service and replica",
    "networks": "one bridge per network that a service names",
    "volumes": "one custom storage volume per volume that a service names",
    "include": "files of this machine, short and long form; what is elsewhere is refused",
}
SERVICE = {
    "image": "pulled by the server, by digest; a change of the digest replaces the instance",
    "pull_policy": "`always`, `missing`, `if_not_present`, `never`; "
    "`build`, `refresh`, `daily`, `weekly` and `every_*` are refused",
    "command": "replaces the image's CMD; runs as PID 1 through `raw.lxc`, "
    "for people to read in `oci.entrypoint`",
    "entrypoint": "replaces the image's ENTRYPOINT and CMD; an empty one means none",
    "environment": "`environment.*` on top of the image's own ENV; never shown, journaled as keyed digests",
    "env_file": "read on this machine, then as `environment`",
    "user": "`oci.uid` and `oci.gid`; names are looked up in the image's passwd and group",
    "working_dir": "`oci.cwd`",
    "networks": "a network card each, `eth0` first in the file's order; see [networking](networking.md)",
    "ports": "a userspace proxy device each; ranges, UDP, host addresses, ports chosen by ic",
    "expose": "- instances of one network reach every port of each other",
    "hostname": "the name the instance has for itself (`lxc.uts.name`), answered by DNS too",
    "volumes": "a disk device each: `volume`, `bind`, `tmpfs`; see [volumes](volumes.md)",
    "tmpfs": "a disk device with source `tmpfs:`; `size=`, `mode=`, `ro`, `rw`",
    "depends_on": "order of starting and stopping; `service_healthy` waits for the check's result",
    "healthcheck": "`user.healthcheck.*`, over the image's HEALTHCHECK key by key; "
    "run by the health daemon; see [healthd](healthd.md)",
    "restart": "kept as `user.restart` for the health daemon; "
    "with the server start `always`, and `unless-stopped` when it ran",
    "stop_signal": "`lxc.signal.halt`; the image's STOPSIGNAL without it, else SIGTERM",
    "stop_grace_period": "how long a stop waits before it uses force (10 s without it); "
    "`boot.host_shutdown_timeout` too",
    "profiles": "services of inactive profiles are neither changed nor removed",
    "extends": "a service of the same file or of another one of this machine",
    "scale": "number of replicas: `SERVICE`, `SERVICE-2`, ...",
    "deploy": "`replicas` alone",
    "container_name": "the instance's name, with `_` and `.` as `-`; DNS answers it as written; "
    "for services of one replica",
    "label_file": "read on this machine, then as `labels`",
    "labels": "`user.label.*`; a label without a value is not kept, with a warning",
}
NETWORK = {
    "name": "the bridge's name, at most 15 characters",
    "external": "must exist; never created, changed or deleted",
    "driver": "`bridge` alone",
    "labels": "`user.label.*` of the bridge",
    "ipam": "one IPv4 `subnet` with an optional `gateway`",
    "internal": "no NAT, and instances get no default route there",
}
VOLUME = {
    "name": "the volume's name",
    "external": "must exist in the stack's project; never created, filled or deleted",
    "driver": "`local` alone",
    "labels": "`user.label.*` of the volume",
}

BELOW: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "services.S.ports[]",
        {
            "target": "the service's port",
            "published": "one host port, a range to choose from, or nothing: then ic chooses",
            "host_ip": "where it listens on the host; every address without it",
            "protocol": "`tcp` and `udp`; `sctp` is refused",
            "name": "- kept for `ic config`",
            "mode": "- there is one host: `host` and `ingress` are the same",
            "app_protocol": "- kept for `ic config`",
        },
    ),
    (
        "services.S.networks.N",
        {
            "aliases": "further names that the network answers for",
            "ipv4_address": "this address instead of a planned one",
        },
    ),
    (
        "services.S.volumes[]",
        {
            "type": "`volume`, `bind`, `tmpfs`; `cluster`, `image` and `npipe` are refused",
            "source": "a volume's key, or a path of the server",
            "target": "an absolute path in the instance",
            "read_only": "`readonly` on the disk device",
            "consistency": "- there is nothing to be consistent with on Linux",
            "bind": "see below",
            "volume": "see below",
            "tmpfs": "see below",
        },
    ),
    (
        "services.S.volumes[].bind",
        {
            "create_host_path": "a missing source is made as a directory, on the local server",
            "selinux": "- Incus labels nothing",
        },
    ),
    (
        "services.S.volumes[].volume",
        {"nocopy": "a new volume is not filled from the image"},
    ),
    (
        "services.S.volumes[].tmpfs",
        {"size": "its limit", "mode": "its permissions; 1777 without it"},
    ),
    (
        "services.S.depends_on.S",
        {
            "condition": "`service_started`, `service_healthy`, `service_completed_successfully`",
            "required": "false: what waits goes on when the other one fails",
            "restart": "restarted when the other one is restarted or replaced",
        },
    ),
    (
        "services.S.healthcheck",
        {
            "test": "a text for the image's shell, or a list that begins with CMD, CMD-SHELL or NONE",
            "timeout": "how long a check may take (30 s)",
            "interval": "from the end of a check to the next one (30 s)",
            "retries": "so many failures in a row are unhealthy (3)",
            "start_period": "failures do not count for so long after a start (0 s)",
            "start_interval": "the interval during the start period (5 s)",
            "disable": "no check, not even the image's",
        },
    ),
    (
        "services.S.x-ic",
        {
            "on_unhealthy": "`restart`, `stop`, `kill`, `none`; "
            'without it an unhealthy service is restarted, unless it says `restart: "no"`',
        },
    ),
    (
        "x-ic",
        {
            "healthd": "`false`: no health daemon; or a mapping with its image",
            "isolation": "`strict`: the stack's project is restricted, its health daemon lives beside it",
        },
    ),
    ("x-ic.healthd", {"image": "any small image with Python 3.10 or newer"}),
    (
        "services.S.env_file[]",
        {
            "path": "relative to the project directory",
            "required": "false: a missing file is no error",
            "format": "`raw`: whole lines, nothing expanded",
        },
    ),
    (
        "services.S.deploy",
        {"replicas": "number of replicas; must agree with `scale`"},
    ),
    (
        "networks.N.ipam",
        {"driver": "`default` alone", "config": "one entry"},
    ),
    (
        "networks.N.ipam.config[]",
        {"subnet": "an IPv4 network", "gateway": "the bridge's own address"},
    ),
)


def place(where: str) -> schema.Key:
    """The Key of a place such as `services.S.ports[]`; one capital letter stands for any name."""
    key: schema.Key | None = model.STACK
    for part in where.split(".") if where else ():
        name, bracket, _ = part.partition("[")
        assert key is not None
        key = key.names if name.isupper() else (key.keys or {})[name]
        if bracket:
            assert key is not None
            key = key.item
    assert key is not None
    return key


def _checked(where: str, told: dict[str, str]) -> list[str]:
    """The keys of a place that have no effect yet; exits when sentences and the other keys do not meet."""
    given = place(where).keys or {}
    keys = {name: one for name, one in given.items() if not name.startswith("x-")}
    pending = sorted(name for name, one in keys.items() if one.pending)
    wrong = sorted((keys.keys() - set(pending)) ^ set(told))
    if wrong:
        sys.exit(f"compose_support: {where}: sentence and key do not meet: {', '.join(wrong)}")
    return pending


def rows() -> list[tuple[str, str, str, str]]:
    """Every row of the page: where, key, state, sentence."""
    tables = (
        ("", TOP),
        ("services.S", SERVICE),
        ("networks.N", NETWORK),
        ("volumes.V", VOLUME),
        *BELOW,
    )
    found: list[tuple[str, str, str, str]] = []
    for where, told in tables:
        pending = _checked(where, told)
        for key, sentence in told.items():
            state = NO_EFFECT if sentence.startswith("- ") else MAPPED
            found.append((where, key, state, sentence.removeprefix("- ")))
        found += [(where, key, REFUSED, "") for key in pending]
    return found


HEAD = """\
# Compose keys

<!-- Written by scripts/compose_support.py from the reader's own registry; change it there. -->

What ic {version} does with each key of the Compose Specification. Nothing is dropped in silence:

- **mapped**: has its meaning on Incus.
- **no effect**: accepted, and there is nothing to do.
- **not yet**: read, checked, merged and printed by `ic config`; `ic plan`, `apply` and `up` refuse it at its
  file, line and column with `not supported yet`. Nothing is changed. Where it is empty or docker's own
  default (`tty: false`, `cpus: 0`, `cgroup: private`) it asks for nothing, and passes.

A key that the specification does not know is an error too, with the nearest known one. Keys that begin
with `x-` are kept for `ic config` and mean nothing else, but for `x-ic` of a service and of the stack.
`x-incus` (services, networks, volumes, a service's mounts and networks, the top level) and
`x-incus-compose` (there, and ports) are read and checked, and not yet carried out. A `NAME.incus.yaml`
beside a compose file is merged directly after it; `IC_INCUS_FILES=never` leaves it out.

Interpolation, several files (`-f`, `COMPOSE_FILE`, `compose.override.yaml`), `!reset`, `!override`,
anchors, merge keys and profiles work as in docker compose; `ic config` prints the result.
"""


def page() -> str:
    """The text of the page."""
    import ic

    titles = {
        "": "Top level",
        "services.S": "A service",
        "networks.N": "A network",
        "volumes.V": "A volume",
    }
    lines = [HEAD.format(version=ic.__version__).rstrip("\n")]
    grouped: dict[str, list[tuple[str, str, str]]] = {}
    for where, key, state, sentence in rows():
        grouped.setdefault(where, []).append((key, state, sentence))
    for where, keys in grouped.items():
        title = titles.get(where)
        lines += ["", f"## {title}" if title else f"### `{where}`", ""]
        lines += ["| key | state | what it becomes |", "|---|---|---|"]
        lines += [
            f"| `{key}` | {state} | {sentence} |"
            for key, state, sentence in keys
            if state != REFUSED
        ]
        refused = [f"`{key}`" for key, state, _ in keys if state == REFUSED]
        if refused:
            lines += ["", f"Not yet: {', '.join(refused)}."]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Bring the page up to date."""
    with open(os.path.join(ROOT, PAGE), "w", encoding="utf-8") as file:
        file.write(page())


if __name__ == "__main__":
    write()
