"""Who watches over a stack: whether a health daemon is needed, why, and what its sidecar is to be.

Pure. The sidecar is no service: no file names it, services neither wait for it nor are selected with it.
How it becomes what is said here is `upkeep`. docs/healthd.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ic import errors, names
from ic.fields import lifecycle, process, section
from ic.resources import image, kind, sidecar

if TYPE_CHECKING:
    from ic.fields import switches
    from ic.plan import asked, facts

ADDRESSES = (sidecar.ADDRESS, sidecar.VOLUME_ADDRESS)

UNNEEDED = "nothing needs it any more"
SWITCHED_OFF = "switched off"
GIVE_UP_MS = 10_000


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """The sidecar as desired. `needed` says by what, in words; `https_address` is where the server is to
    listen that listens nowhere (empty: it listens). `home` is the project that it lives in.
    """

    instance: kind.Resource
    volume: kind.Resource
    image: str  # the image's address
    found: image.ImageFacts
    needed: str
    home: str
    projects: tuple[str, ...]
    source: str = ""
    runs_itself: bool = False
    https_address: str = ""


def reason(fields: kind.Fields) -> str:
    """Why an instance needs somebody who watches it, in words; empty when it does not."""
    policy = fields.get(("config", names.RESTART), "no")
    parts = ["healthcheck"] if ("config", names.HEALTH_TEST) in fields else []
    parts += [f"restart: {policy}"] if policy != "no" else []
    return ", ".join(parts)


def needed(reasons: dict[str, str]) -> str:
    """`needed by db (healthcheck), web (restart: always)`, of services and their reasons."""
    return "needed by " + ", ".join(f"{name} ({why})" for name, why in sorted(reasons.items()))


def reference(given: switches.StackSwitches, options: asked.Options) -> str:
    """The image that the sidecar runs in: the command line's, the file's, the usual one."""
    return options.healthd_image or given.image or sidecar.IMAGE


def wanted(
    *,
    stack_project: str,
    home: str,
    found: image.ImageFacts,
    reasons: dict[str, str],
    pools: tuple[str, str],
    observed: facts.Observed,
    options: asked.Options,
) -> Sidecar:
    """The sidecar of a project as it is to be. `pools` are those of its root and of its volume, `home` is
    the project that it lives in (empty: the one that it watches).

    Without a program to put into it (a checkout) the one that is there is kept. Raises PlanError when
    there is none.
    """
    live = observed.live.get(sidecar.ADDRESS)
    build, runs_itself = options.healthd_build, options.healthd_runs_itself
    if not options.healthd_source:
        build = live.fields.get(("config", sidecar.BUILD), "") if live is not None else ""
        runs_itself = live is not None and sidecar.runs_itself(live)
    if not build:
        raise errors.PlanError(
            "cannot set up the health daemon: this ic is no single file that could be put into it",
            hint="name one with --healthd-binary ic.pyz, or go without it: --no-healthd",
        )
    address = observed.facts.https_address
    connect = sidecar.reachable(address or "")
    known = live.fields.get(("devices", "api", "connect"), "") if live is not None else ""
    known, told = known.removeprefix("tcp:"), observed.facts.addresses
    if address is None:  # out of sight: what was set up once stands
        connect = known or (told[0] if told else connect)
    elif known in told:  # set up by somebody out of whose sight it was; the server is there still
        connect = known
    root, volume_pool = pools
    resource = kind.Resource(
        address=sidecar.ADDRESS,
        name=sidecar.INSTANCE,
        fields=_fields(stack_project, found, build, runs_itself=runs_itself)
        | sidecar.devices(root=root, volume_pool=volume_pool, connect=connect),
        power="running",
        grace_ms=GIVE_UP_MS,
    )
    return Sidecar(
        instance=resource,
        volume=sidecar.identity_volume(volume_pool),
        image=names.address("image", found.reference),
        found=found,
        needed=needed(reasons),
        home=home or stack_project,
        projects=(stack_project,),
        source=options.healthd_source,
        runs_itself=runs_itself,
        https_address=sidecar.LOOPBACK if address == "" else "",
    )


def _fields(watched: str, found: image.ImageFacts, build: str, *, runs_itself: bool) -> kind.Fields:
    """The config: one more service by the same rules, with a command and an environment of ic's own."""
    config = found.config
    ctx = section.Context(
        service=sidecar.INSTANCE,
        replica=1,
        image=config,
        image_mark=f"{found.reference}@{found.digest}",
    )
    program = process.Process(
        entrypoint=sidecar.command(config.entrypoint or config.cmd or (), runs_itself=runs_itself),
        environment={sidecar.PROJECT_VARIABLE: watched, "HOME": "/root", **sidecar.ENVIRONMENT},
        user="0:0",
        working_dir="/",
    )
    life = lifecycle.Lifecycle(
        healthcheck=lifecycle.Healthcheck(disable=True),
        stop_signal="SIGTERM",
        stop_grace_period=GIVE_UP_MS,
    )
    fields = section.merged((process.contribute(program, ctx), lifecycle.contribute(life, ctx)))
    return fields | {
        ("config", "boot.autostart"): "true",
        ("config", "security.guestapi"): "false",  # nothing in it asks Incus's guest API
        ("config", "boot.autorestart"): "true",
        ("config", names.IMAGE): ctx.image_mark,
        ("config", names.HEALTH_DAEMON): "true",
        ("config", sidecar.BUILD): build,
    }


def keeps_alive(live: kind.Live, observed: facts.Observed) -> bool:
    """Whether an ended instance is the running daemon's to start again: planning leaves it alone.

    Only where the daemon has said so. What somebody has stopped, what it has given up and what ended while it
    was away is started by `apply` and `up`; so is what it starts within a second, whoever comes first.
    """
    state, guard = observed.facts.sidecar_state, observed.live.get(sidecar.ADDRESS)
    return (
        guard is not None
        and guard.power == "Running"
        and state is not None
        and state.state == "watching"
        and live.promised
        and live.exit_code is not None
        and live.stamp.want != "stopped"
    )
