"""The Incus project of a stack: created by the call that also founds the journal, deleted last. Pure."""

from __future__ import annotations

from ic import names
from ic.resources import kind

FEATURES = {
    "features.images": "false",  # default's images are used in place, nothing is copied
    "features.profiles": "true",  # the run object is a profile of this project
    "features.storage.volumes": "true",
    "features.networks": "false",  # bridges live in default, as they must
}


def resource(project: str, restrictions: dict[str, str] | None = None) -> kind.Resource:
    """The project as desired."""
    config = {**FEATURES, **(restrictions or {})}
    return kind.Resource(
        address=names.address("project", project),
        name=project,
        fields={("config", key): value for key, value in config.items()},
    )


def create(desired: kind.Resource) -> kind.Step:
    """The founding call; the engine puts the journal's first event into its body and sends it itself."""
    return kind.Step(
        id=f"{desired.address}#create",
        address=desired.address,
        event="proj.create",
        deed=kind.Call(
            method="POST",
            path="/1.0/projects",
            body={
                "name": desired.name,
                "config": {path[1]: value for path, value in sorted(desired.fields.items())},
            },
        ),
        lane="create",
        record=kind.Record(name=desired.name, fields=desired.fields),
    )


def update(
    project: str,
    *,
    verb: str,
    set_: kind.Fields,
    unset: tuple[kind.Path, ...],
    needs: tuple[str, ...],
) -> kind.Step:
    """One compare-and-swap write of its config; the journal's keys stay."""
    address = names.address("project", project)
    return kind.Step(
        id=f"{address}#{verb}",
        address=address,
        event="proj.update",
        deed=kind.Merge(path=f"/1.0/projects/{project}", set=set_, unset=unset),
        needs=needs,
        lane="trust",
        record=kind.Record(name=project, fields=set_, unset=unset),
    )


def delete(project: str, needs: tuple[str, ...]) -> kind.Step:
    """The last call of `destroy`; never with force."""
    address = names.address("project", project)
    return kind.Step(
        id=f"{address}#delete",
        address=address,
        event="proj.delete",
        deed=kind.Call(method="DELETE", path=f"/1.0/projects/{project}"),
        needs=needs,
        lane="delete",
        record=kind.Record(name=project, gone=True),
    )
