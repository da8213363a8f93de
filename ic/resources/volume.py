"""A named or anonymous volume as a custom volume of the stack's project: body, impacts, steps. Pure.

A new volume takes owner, mode and content from the image, as docker does it, so it is created by a Seed
step that reads them from the root of a created instance. `user.ic.seed` says that this was finished.
"""

from __future__ import annotations

from ic.resources import kind


def url(pool: str, name: str) -> str:
    """A custom volume's path."""
    return f"/1.0/storage-pools/{pool}/volumes/custom/{name}"


def resource(*, address: str, name: str, pool: str, labels: dict[str, str]) -> kind.Resource:
    """The volume as desired: shifted, so that every instance sees the same owners."""
    fields: kind.Fields = {("config", "security.shifted"): "true"}
    fields |= kind.label_fields(labels)
    return kind.Resource(address=address, name=name, fields=fields, pool=pool)


def impact(path: kind.Path, old: str | None, new: str | None) -> kind.Impact:  # noqa: ARG001
    """All that is managed of a volume is changed in place."""
    return "in-place"


def seed(
    desired: kind.Resource,
    *,
    project: str,
    instance: str,
    target: str,
    fill: bool,
    marker: str,
    needs: tuple[str, ...],
) -> kind.Step:
    """Create the volume like `target` in the instance's root, and fill it from there."""
    return kind.Step(
        id=f"{desired.address}#create",
        address=desired.address,
        event="vol.create",
        deed=kind.Seed(
            instance_path=f"/1.0/instances/{instance}",
            volume_path=url(desired.pool, desired.name),
            pool_path=f"/1.0/storage-pools/{desired.pool}/volumes/custom",
            query={"project": project},
            body={
                "name": desired.name,
                "type": "custom",
                "config": {path[1]: value for path, value in sorted(desired.fields.items())},
            },
            target=target,
            fill=fill,
            marker=marker,
        ),
        needs=needs,
        lane="volume",
        record=kind.Record(name=desired.name, pool=desired.pool, fields=desired.fields),
    )


def update(
    address: str,
    name: str,
    *,
    pool: str,
    project: str,
    set_: kind.Fields,
    unset: tuple[kind.Path, ...],
    record: kind.Record,
) -> kind.Step:
    """One write."""
    return kind.Step(
        id=f"{address}#update",
        address=address,
        event="vol.update",
        deed=kind.Merge(path=url(pool, name), query={"project": project}, set=set_, unset=unset),
        lane="volume",
        record=record,
    )


def delete(address: str, name: str, *, pool: str, project: str) -> kind.Step:
    """Only ever with the explicit flag, and after the instances are gone."""
    return kind.Step(
        id=f"{address}#delete",
        address=address,
        event="vol.delete",
        deed=kind.Call(
            method="DELETE",
            path=url(pool, name),
            query={"project": project},
            settled_by=("not found",),
        ),
        lane="volume",
        record=kind.Record(name=name, pool=pool, gone=True),
    )
