"""How many of a service and how they are marked: `scale`, `deploy.replicas`, `container_name`, `labels`. Pure."""

from __future__ import annotations

import msgspec

from ic import names
from ic.fields import section as contribution
from ic.resources import kind


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The placement section. `replicas` is `deploy.replicas` or `scale`, 1 without either."""

    replicas: int = 1
    container_name: str | None = None
    labels: dict[str, str] = {}


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Placement, ctx: contribution.Context) -> contribution.Contribution:
    """Labels, and the service's name for people and other tools. Replicas and names are the address's matter."""
    fields: kind.Fields = {("config", names.SERVICE): ctx.service}
    for label, value in section.labels.items():
        if value:  # an empty value would unset the key on the server
            fields["config", f"{names.LABEL_PREFIX}{label}"] = value
    return contribution.Contribution(fields=fields)
