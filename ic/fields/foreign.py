"""Extensions that other tools for Incus have in compose files: `x-incus` and `x-incus-compose`.

Pure; a reading half alone: ic carries none of them out yet. `x-incus` passes Incus's own keys to what it
stands on. `x-incus-compose` is incus-compose's, as its users have it in their files; a key of it that is not
known here is said and let pass, because that tool grows. docs/compose-support.md names the places.
"""

from __future__ import annotations

from ic.fields import schema

OPTIONS_KEY = "x-incus"
COMPOSE_KEY = "x-incus-compose"

_SCALAR = schema.Key(schema.TEXT | schema.NUMBER | schema.FLAG)
OPTIONS = schema.Key(
    schema.MAPPING | schema.NULL,
    names=_SCALAR,
    name_pattern=".",
    extensions=False,
    pending=True,
    usual=(),
)
_TEXT = schema.text()
_FLAG = schema.flag()
_COUNT = schema.whole(low=1)
_SCOPE = schema.word("global", "project")


def _own(keys: dict[str, schema.Key]) -> schema.Key:
    return schema.Key(schema.MAPPING | schema.NULL, keys=keys, tolerant=True)


_HEALTHD = _own(
    {
        "scope": _SCOPE,
        "incus": _TEXT,
        "network": _TEXT,
        "workers": _COUNT,
        "restart-workers": _COUNT,
        "external": _FLAG,
        "x-incus": OPTIONS.but(pending=False),
    }
)
_DNS = _own(
    {
        "disabled": _FLAG,
        "scope": _SCOPE,
        "zone": _TEXT,
        "network": _TEXT,
        "ipv4_address": _TEXT,
        "ipv6_address": _TEXT,
        "no_metrics": _FLAG,
    }
)
_DEVICE = schema.Key(
    schema.MAPPING,
    keys={"type": _TEXT},
    names=_SCALAR,
    name_pattern=".",
    extensions=False,
    required=("type",),
)


def _placed(keys: dict[str, schema.Key], *, options: bool = True) -> dict[str, schema.Key]:
    """Both extensions at one kind of place."""
    found = {COMPOSE_KEY: _own(keys).but(pending=True, usual=())}
    return found | {OPTIONS_KEY: OPTIONS} if options else found


STACK = _placed(
    {
        "allow-local-storage": _FLAG,
        "auto-volumes": _FLAG,
        "backup": _own({"pool": _TEXT, "meta_volume": _TEXT}),
        "dns": _DNS,
        "healthd": _HEALTHD,
        "network": _own({"driver": schema.word("auto", "ovn", "bridge"), "uplink": _TEXT}),
        "network-profile": _TEXT,
        "sleep-image": _TEXT,
    }
)
SERVICE = _placed({"devices": schema.named(_DEVICE, ".")})
NETWORK = _placed({"network": _TEXT, "uplink": _TEXT, "parent": _TEXT})
VOLUME = _placed({"pool": _TEXT})
MOUNT = _placed({"seed": _FLAG})
PORT = _placed({"nat": _FLAG}, options=False)
ATTACHMENT = _placed({"gateway": _FLAG})
