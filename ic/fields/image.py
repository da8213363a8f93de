"""Which image a service runs: `image`, `pull_policy`. Compose Specification, section Services. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from ic import errors, names
from ic.fields import section as contribution

PullPolicy = Literal["always", "missing", "never"]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The image section. `if_not_present` is read as `missing`."""

    image: str | None = None
    pull_policy: PullPolicy | None = None


# --- mapping half ---------------------------------------------------------------------------------------


def contribute(section: Image, ctx: contribution.Context) -> contribution.Contribution:
    """The mark of the image that an instance is made from: a change of its digest replaces the instance.

    The image's own HEALTHCHECK is said not to run yet, where it has one.
    """
    said: tuple[errors.Diagnostic, ...] = ()
    check = ctx.image.healthcheck
    if ctx.replica == 1 and check and check.get("Test") not in (None, [], ["NONE"]):
        said = (
            errors.Diagnostic(
                severity="warning",
                code="W_HEALTHCHECK",
                summary=(
                    f"service {ctx.service!r}: the HEALTHCHECK of image {section.image} "
                    "is not run yet"
                ),
            ),
        )
    return contribution.Contribution(
        fields={("config", names.IMAGE): ctx.image_mark}, diagnostics=said
    )
