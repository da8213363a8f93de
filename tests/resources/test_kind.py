"""Stamps go into everything that is made or written, and only what is public is shown."""

from __future__ import annotations

import msgspec
import pytest

from ic import names
from ic.resources import kind

STEP = kind.Step(
    id="instance:web/1#create",
    address="instance:web/1",
    event="inst.create",
    deed=kind.Call(
        method="POST", path="/1.0/instances", body={"name": "web", "config": {"a": "b"}}
    ),
    record=kind.Record(fields={("config", "a"): "b"}),
    want="running",
)
MARKS = {
    names.STACK: "shop",
    names.LINEAGE: "11aa",
    names.RESOURCE: "web/1",
    names.EVENT: "3/17",
    names.WANT: "running",
}


def stamped(deed: kind.Deed) -> kind.Deed:
    return kind.stamped(msgspec.structs.replace(STEP, deed=deed), "11aa", "shop", "3/17")


def test_a_create_body_is_stamped_and_the_step_stays_as_it_is() -> None:
    deed = kind.stamped(STEP, "11aa", "shop", "3/17")
    assert isinstance(deed, kind.Call)
    assert deed.body is not None
    config = deed.body["config"]
    assert isinstance(config, dict)
    assert {**MARKS, "a": "b"}.items() <= config.items()
    assert config[names.DIGEST] == kind.body_digest(STEP)
    assert STEP.deed.body == {"name": "web", "config": {"a": "b"}}  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_a_write_and_a_user_are_stamped() -> None:
    for deed in (kind.Merge(path="/x"), kind.ResolveUser(path="/x", user="www")):
        found = stamped(deed)
        assert isinstance(found, kind.Merge | kind.ResolveUser)
        assert found.set["config", names.EVENT] == "3/17"


def test_a_seeded_volume_is_stamped() -> None:
    seed = kind.Seed(instance_path="/i", volume_path="/v", pool_path="/p", body={"name": "data"})
    found = stamped(seed)
    assert isinstance(found, kind.Seed)
    assert found.body["config"] == {**MARKS, names.DIGEST: kind.body_digest(STEP)}


@pytest.mark.parametrize(
    "deed",
    [
        kind.Start(path="/x"),
        kind.Stop(path="/x"),
        kind.Call(method="DELETE", path="/x"),
        kind.Pull(reference="r@d"),
        kind.AwaitExit(path="/x"),
        kind.Note(),
        kind.MakeDirectory(directory="/d"),
    ],
)
def test_what_writes_no_config_is_sent_as_it_is(deed: kind.Deed) -> None:
    assert stamped(deed) == deed


def test_the_digest_tells_bodies_apart_and_not_their_order() -> None:
    one = msgspec.structs.replace(
        STEP, record=kind.Record(fields={("config", "a"): "1", ("config", "b"): "2"})
    )
    same = msgspec.structs.replace(
        STEP, record=kind.Record(fields={("config", "b"): "2", ("config", "a"): "1"})
    )
    other = msgspec.structs.replace(
        STEP, record=kind.Record(fields={("config", "a"): "1"}, unset=(("config", "b"),))
    )
    assert kind.body_digest(one) == kind.body_digest(same)
    assert kind.body_digest(one) != kind.body_digest(other)


@pytest.mark.parametrize(
    "key",
    [
        "environment.PATH",
        "oci.entrypoint",
        "raw.lxc",
        "user.label.a",
        "cloud-init.user-data",
        "user.healthcheck.test",
        "user.ic.key",
        "user.something",
    ],
)
def test_what_is_not_named_is_private(key: str) -> None:
    assert not kind.is_public(("config", key))


@pytest.mark.parametrize("key", ["limits.memory", "boot.autostart", "user.ic.image", "raw.dnsmasq"])
def test_the_whitelist_is_public(key: str) -> None:
    assert kind.is_public(("config", key))
    assert kind.is_public(("devices", "eth0", "ipv4.address"))


def test_a_path_reads_as_people_write_it() -> None:
    assert kind.text_of(("devices", "eth0", "ipv4.address")) == "devices.eth0.ipv4.address"
