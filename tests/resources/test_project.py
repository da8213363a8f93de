"""The project's founding and its end."""

from __future__ import annotations

from ic.resources import kind, project


def test_images_are_used_in_place_and_volumes_are_the_stacks_own() -> None:
    step = project.create(project.resource("shop"))
    assert isinstance(step.deed, kind.Call)
    assert step.deed.body == {
        "name": "shop",
        "config": {
            "features.images": "false",
            "features.networks": "false",
            "features.profiles": "true",
            "features.storage.volumes": "true",
        },
    }


def test_a_project_is_never_deleted_by_force() -> None:
    step = project.delete("shop", ("network:default#delete",))
    assert isinstance(step.deed, kind.Call)
    assert step.deed.query == {}
    assert step.needs == ("network:default#delete",)
    assert step.record.gone
