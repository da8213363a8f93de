"""A volume's body, its filling, its end."""

from __future__ import annotations

from ic.resources import kind, volume

DATA = volume.resource(address="volume:data", name="data", pool="fast", labels={"a": "b"})


def test_every_volume_is_shifted() -> None:
    assert DATA.fields == {
        ("config", "security.shifted"): "true",
        ("config", "user.label.a"): "b",
    }


def test_a_volume_is_filled_from_the_instances_root() -> None:
    step = volume.seed(
        DATA,
        project="shop",
        instance="db",
        target="/data",
        fill=False,
        marker="sha256:aa",
        needs=("instance:db/1#create",),
    )
    assert step.deed == kind.Seed(
        instance_path="/1.0/instances/db",
        volume_path="/1.0/storage-pools/fast/volumes/custom/data",
        pool_path="/1.0/storage-pools/fast/volumes/custom",
        query={"project": "shop"},
        body={
            "name": "data",
            "type": "custom",
            "config": {"security.shifted": "true", "user.label.a": "b"},
        },
        target="/data",
        fill=False,
        marker="sha256:aa",
    )
    assert step.record.pool == "fast"


def test_a_volume_is_deleted_in_its_own_pool_and_project() -> None:
    step = volume.delete("volume:data", "data", pool="fast", project="shop")
    assert isinstance(step.deed, kind.Call)
    assert step.deed.path == "/1.0/storage-pools/fast/volumes/custom/data"
    assert step.deed.query == {"project": "shop"}


def test_all_that_is_managed_is_changed_in_place() -> None:
    assert volume.impact(("config", "security.shifted"), "false", "true") == "in-place"
