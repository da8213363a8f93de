"""What each section contributes to an instance: a compose file per case, and the fragments it gives.

`tests/fields/<section>/<case>/compose.yaml` has one service, `web`; `contribution.json` is made anew by
`pytest --update-golden`.
"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from ic import errors, names
from ic.compose import loader
from ic.fields import image as image_section
from ic.fields import lifecycle, networking, placement, process, section, storage, switches
from ic.resources import image, kind

if TYPE_CHECKING:
    from ic.compose import model

HERE = pathlib.Path(__file__).parent
SECTIONS = ("image", "process", "networking", "storage", "lifecycle", "placement", "switches")
CONFIG = image.ImageConfig(
    entrypoint=("/entry",),
    cmd=("serve", "all"),
    env=("PATH=/bin", "MODE=image", "BARE"),
    user="www",
    working_dir="/srv",
    volumes=("/srv/data/", "/cache"),
    stop_signal="SIGQUIT",
    healthcheck={"Test": ["CMD", "true"]},
)


def cases() -> list[str]:
    return sorted(
        f"{name}/{path.name}"
        for name in SECTIONS
        for path in (HERE / name).iterdir()
        if path.is_dir()
    )


@pytest.mark.parametrize("case", cases())
def test_contribution_of(case: str, request: pytest.FixtureRequest) -> None:
    folder = HERE / case
    found = json.dumps(contribution(folder), indent=2, sort_keys=True) + "\n"
    golden = folder / "contribution.json"
    if request.config.getoption("--update-golden"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_every_section_has_cases() -> None:
    assert {case.partition("/")[0] for case in cases()} == set(SECTIONS)


def contribution(folder: pathlib.Path) -> dict[str, Any]:
    stack = loader.load(
        loader.Options(files=("-",), project_directory="/srv/shop", cwd="/srv/shop"),
        {},
        (folder / "compose.yaml").read_bytes,
    )
    service = stack.services["web"]
    room = folder.parent.name
    parts = {
        "image": lambda ctx: image_section.contribute(service.image, ctx),
        "process": lambda ctx: process.contribute(service.process, ctx),
        "networking": lambda ctx: networking.contribute(service.networking, ctx),
        "storage": lambda ctx: storage.contribute(service.storage, ctx),
        "lifecycle": lambda ctx: lifecycle.contribute(service.lifecycle, ctx),
        "placement": lambda ctx: placement.contribute(service.placement, ctx),
        "switches": lambda ctx: switches.contribute(service.switches, ctx),
    }
    try:
        return _shown(parts[room](context(stack, service)))
    except errors.PlanError as error:
        return {"error": error.summary, "hint": error.hint}


def context(stack: model.Stack, service: model.Service) -> section.Context:
    nics = tuple(
        section.Nic(
            network=key,
            bridge=f"shop-{key}",
            address=None if stack.networks[key].external else f"10.{index}.0.2",
            gateway=f"10.{index}.0.1",
            primary=not stack.networks[key].internal and index == 0,
        )
        for index, key in enumerate(service.networking.networks)
    )
    named = {key: section.Named(name=key, pool="fast") for key in stack.volumes}
    mounts = storage.mounts(service.storage, CONFIG)
    for mount in mounts:
        if mount.type == "volume" and not mount.source:
            name = names.anonymous_volume(service.name, 1, f"/{mount.target.strip('/')}")
            named[name] = section.Named(name=name, pool="fast")
    return section.Context(
        service=service.name,
        replica=1,
        image=CONFIG,
        image_mark="web:1@sha256:aa",
        nics=nics,
        listens=tuple(port.published or 40000 for port in service.networking.ports),
        volumes=named,
    )


def _shown(found: section.Contribution) -> dict[str, Any]:
    body = {
        "fields": {kind.text_of(path): value for path, value in found.fields.items()},
        "lxc": [f"{key} = {value}" for key, value in found.lxc],
        "uses": msgspec.to_builtins(found.uses),
        "directories": list(found.directories),
        "resolve": found.resolve,
        "diagnostics": [str(one) for one in found.diagnostics],
    }
    return {key: value for key, value in body.items() if value}
