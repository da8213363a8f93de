"""OCI images as a resource: what the registry says of one, and the pull by the server.

Pure. Docker's rules for ENTRYPOINT and CMD are applied in `ic.fields.process`, from the config kept here.
An image carries no stamp: it lives in the default project and may serve several stacks, so ic pulls
images and never deletes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from ic import names
from ic.resources import kind


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an OCI image config that a stack needs (OCI Image Specification, config)."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    healthcheck: dict[str, object] | None = None  # as it stands: Test, Interval (ns), Retries, ...
    shell: tuple[str, ...] = ()  # of `SHELL`: what runs the text of a CMD-SHELL test


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An image reference, resolved. `resolved` is the pull reference HOST/REPOSITORY@DIGEST."""

    reference: str
    resolved: str
    digest: str
    config: ImageConfig
    fingerprint: str = ""  # what the server calls it, once it has pulled it


def _words(value: object) -> tuple[str, ...] | None:
    """Entrypoint and Cmd are null, a list, or (schema 1 leftovers) one string."""
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(str(item) for item in cast("Sequence[object]", value))
    return None


def _names(value: object) -> tuple[str, ...]:
    """Volumes and ExposedPorts are objects whose keys alone count."""
    if isinstance(value, Mapping):
        return tuple(sorted(str(key) for key in cast("Mapping[object, object]", value)))
    return ()


def parse_config(raw: Mapping[str, Any]) -> ImageConfig:
    """The OCI image config blob, or its `config` object, as a value; unknown keys are left out."""
    inner = raw.get("config")
    body: Mapping[str, Any] = (
        cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else raw
    )
    check = body.get("Healthcheck")
    return ImageConfig(
        entrypoint=_words(body.get("Entrypoint")),
        cmd=_words(body.get("Cmd")),
        env=_words(body.get("Env")) or (),
        user=str(body.get("User") or ""),
        working_dir=str(body.get("WorkingDir") or ""),
        volumes=_names(body.get("Volumes")),
        stop_signal=str(body.get("StopSignal") or ""),
        exposed_ports=_names(body.get("ExposedPorts")),
        healthcheck=cast("dict[str, object]", check) if isinstance(check, dict) else None,
        shell=_words(body.get("Shell")) or (),
    )


def to_facts(image: ImageFacts) -> dict[str, object]:
    """As the journal keeps it: public, in plain builtins."""
    return cast("dict[str, object]", msgspec.to_builtins(image))


def from_facts(facts: Mapping[str, object]) -> ImageFacts | None:
    """What the journal kept, None when it is not (or no longer) readable as an image."""
    try:
        return msgspec.convert(dict(facts), ImageFacts, strict=False)
    except msgspec.ValidationError:
        return None


def pull(image: ImageFacts) -> kind.Step:
    """The pull by the server, by digest; its fingerprint is remembered under the image's address."""
    address = names.address("image", image.reference)
    return kind.Step(
        id=f"{address}#pull",
        address=address,
        event="img.create",
        deed=kind.Pull(reference=image.resolved, query={"project": "default"}),
        lane="image",
        record=kind.Record(name=image.reference, facts=to_facts(image)),
    )


def command(image: ImageFacts) -> str:
    """What an administrator types for the same pull; a registry's credentials are that one's own to add."""
    host, _, rest = image.resolved.partition("/")
    source = {
        "type": "image",
        "mode": "pull",
        "protocol": "oci",
        "server": f"https://{host}",
        "alias": rest,
    }
    body = msgspec.json.encode({"source": source, "auto_update": False}).decode()
    return f"incus query --wait -X POST -d '{body}' '/1.0/images?project=default'"
