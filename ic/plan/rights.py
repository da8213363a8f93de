"""What a client with a restricted certificate may not do: said before the first change, all of it at once.

Pure. Enters: the steps of a plan. Leaves: nothing, or the refusal with what an administrator of the server
types. A restricted certificate works within its project: it pulls no image into the server's store, makes no
trust token, and changes no bridge, project or setting of the server [measured]. docs/healthd.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import errors, names
from ic.resources import image, kind, sidecar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_VERBS = {"create": "make", "update": "change", "delete": "remove"}
_BEYOND = {"net": "network", "proj": "project"}


def check(
    steps: Collection[kind.Step],
    images: Mapping[str, image.ImageFacts],
    *,
    services: Collection[str],
    lineage: str,
    token: bool,
) -> None:
    """Raise Refused when a restricted client may not carry the steps out.

    `images` are facts by address, `services` the addresses of those that services run from, `lineage`
    completes the name of the health daemon's identity, `token` is whether an administrator's one is at hand.
    """
    pulls = [step.address for step in steps if isinstance(step.deed, kind.Pull)]
    beyond = dict.fromkeys(one for step in steps if (one := _beyond(step)))
    commands = [image.command(images[address]) for address in pulls]
    commands += [
        f"incus config set {sidecar.HTTPS_ADDRESS[1]}={step.record.fields[sidecar.HTTPS_ADDRESS]}"
        for step in steps
        if step.event == "srv.update"
    ]
    asks = [step.deed for step in steps if isinstance(step.deed, kind.Enrol) and not token]
    commands += [
        f"{sidecar.trust(sidecar.identity_name(one.projects[0], lineage), one.projects)} > token"
        for one in asks
    ]
    own = [names.name_of(address) for address in pulls if address in services]
    things = [f"pull image {', '.join(own)}"] if own else []
    things += beyond
    guarded = len(commands) > len(own)
    things += ["set up the health daemon"] if guarded else []
    if not things:
        return
    *some, last = things
    every = f"{', '.join(some)} and {last}" if some else last
    summary = f"cannot {every}: this client's certificate is restricted"
    if beyond:
        raise errors.Refused(
            summary,
            details=(
                "an administrator of the server runs, with these files:",
                "  ic apply",
                "which does that, and all else that is to be done",
            ),
            hint="then run this again",
        )
    hint = "then give the token's file (mode 0600) with --healthd-token FILE" if asks else ""
    hint = hint or "then run this again"
    raise errors.Refused(
        summary,
        details=("an administrator of the server runs:", *(f"  {one}" for one in commands)),
        hint=f"{hint}; or go without the daemon: --no-healthd" if guarded else hint,
    )


def _beyond(step: kind.Step) -> str:
    """`make network back`, of a step outside the project that no single command stands for."""
    noun, _, verb = step.event.partition(".")
    if noun not in _BEYOND or verb not in _VERBS:
        return ""
    return f"{_VERBS[verb]} {_BEYOND[noun]} {names.name_of(step.address)}"
