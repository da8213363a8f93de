"""One look at everything: what is ours, what is in the way, what it costs; on a fake and on a real server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from ic import errors, names
from ic.compose import model
from ic.engine import observe
from ic.fields import image as image_section
from ic.fields import lifecycle, networking, placement, process, storage
from ic.incus import client, remotes, transport
from ic.journal import book
from ic.resources import image, kind, sidecar
from ic.resources import project as project_kind
from tests.incus import fake
from tests.journal import stage
from tests.lab import fixtures
from tests.lab import lab as labs

ENV = {"HOME": "/nonexistent", "CONTAINERS_REGISTRIES_CONF": "/nonexistent"}
START = b"lxc p_x 2026 INFO     start - something\n"


def founded(name: str = "shop") -> dict[str, str]:
    """The config of a project that ic has made for a stack."""
    step = project_kind.create(project_kind.resource(name))
    return {names.STACK: name, **book.genesis(step, stage.start())}


class World:
    """What a fake server holds: one stack's project and whatever a test adds."""

    def __init__(self) -> None:
        self.config: dict[str, str] | None = founded()
        self.instances: list[dict[str, Any]] = []
        self.networks: list[dict[str, Any]] = []
        self.volumes: dict[str, list[dict[str, Any]]] = {"default": []}
        self.profiles: list[dict[str, Any]] = [
            {
                "name": "default",
                "project": "default",
                "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
            },
            {"name": "default", "project": "shop"},
        ]
        self.images = ["/1.0/images/abc"]
        self.logs: dict[str, bytes] = {}
        self.log_read: Callable[[], object] = lambda: None  # what a read of one waits for
        self.extensions = list(client.EXTENSIONS)
        self.server: dict[str, Any] = {"config": {"core.https_address": ":8443"}}
        self.addresses: list[str] = []
        self.state: bytes | None = None

    @property
    def lineage(self) -> str:
        return (self.config or {})[names.LINEAGE]

    def marks(self, resource: str, **more: str) -> dict[str, str]:
        """The stamps of this stack, with `_` for `.` in further keys."""
        own = {names.STACK: "shop", names.LINEAGE: self.lineage, names.RESOURCE: resource}
        return {**own, **{key.replace("_", "."): value for key, value in more.items()}}

    def instance(self, name: str, config: dict[str, str], **more: Any) -> None:
        self.instances.append(
            {
                "name": name,
                "project": "shop",
                "status": "Running",
                "config": config,
                "devices": {},
                "created_at": "2026-11-23T06:00:00Z",
                "last_used_at": "2026-11-23T06:01:00Z",
                **more,
            }
        )

    def __call__(self, request: fake.Request) -> fake.Reply:
        parts = urlsplit(request.target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/1.0").strip("/").split("/")
        if path[-1] == "files":
            assert query == {"project": "shop", "path": "/state.json"}
            headers = {"X-Incus-type": "file", "X-Incus-mode": "0600"}
            if self.state is None:
                return fake.failed(404, "not found")
            return fake.Reply(self.state, headers=headers)
        if path[-1] == "lxc.log":
            try:
                self.log_read()
            except ValueError:
                return fake.failed(500, "a disk is full")
            log = self.logs.get(path[1])
            return fake.failed(404, "not found") if log is None else fake.Reply(log)
        found = self.answer(path, query)
        return fake.failed(404, "not found") if found is None else fake.metadata(found)

    def answer(self, path: list[str], query: dict[str, str]) -> Any:
        match path:
            case [""]:
                return {
                    "auth": "trusted",
                    "api_extensions": self.extensions,
                    "environment": {
                        "server_version": "7.0.2",
                        "kernel_architecture": "x86_64",
                        "certificate_fingerprint": "5e",
                        "addresses": self.addresses,
                    },
                    **self.server,
                }
            case ["profiles"]:
                assert query["all-projects"] == "true"
                return self.profiles
            case ["projects", "shop"]:
                return None if self.config is None else {"config": self.config}
            case ["instances"]:
                return self.instances
            case ["networks"]:
                return self.networks
            case ["storage-pools"]:
                return [f"/1.0/storage-pools/{name}" for name in sorted(self.volumes)]
            case ["storage-pools", pool, "volumes", "custom"]:
                return self.volumes.get(pool)
            case ["images"]:
                return self.images
            case _:
                raise AssertionError(path)


class Looking:
    """Looks at a world, and counts."""

    def __init__(self, to: client.Client, server: fake.Server, world: World) -> None:
        self.client = to
        self.server = server
        self.world = world

    def __call__(self, stack: model.Stack | None = None, **options: Any) -> Any:
        self.journal, found = observe.observe(self.client, "shop", stack, ENV, **options)
        return found


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Looking]:
    world = World()
    with fake.client_of(str(tmp_path / "s"), world) as (made, server):
        yield Looking(made, server, world)


def service(
    name: str = "web", reference: str | None = "h.invalid/app:1", **sections: Any
) -> model.Service:
    return model.Service(
        name=name,
        image=image_section.Image(image=reference, pull_policy=sections.get("pull_policy")),
        process=process.Process(),
        networking=networking.Networking(),
        storage=storage.Storage(volumes=sections.get("volumes", ())),
        lifecycle=sections.get("lifecycle", lifecycle.Lifecycle()),
        placement=placement.Placement(),
    )


def stack_of(*services: model.Service, **more: Any) -> model.Stack:
    return model.Stack(
        name="shop", working_dir="/srv/shop", services={one.name: one for one in services}, **more
    )


# --- cost ---


def test_a_look_costs_six_calls_whatever_there_is(look: Looking) -> None:
    for number in range(40):
        look.world.instance(f"web-{number}", look.world.marks(f"web/{number}"))
    look()
    assert [target.partition("?")[0] for target in look.server.targets] == [
        "GET /1.0",
        "GET /1.0/profiles",
        "GET /1.0/projects/shop",
        "GET /1.0/instances",
        "GET /1.0/networks",
        "GET /1.0/storage-pools/default/volumes/custom",
    ]


def test_a_health_daemon_costs_one_call_more(look: Looking) -> None:
    config = look.world.marks("ic-healthd")
    look.world.volumes["default"].append({"name": "ic-healthd", "config": config})
    look.world.state = sidecar.encode(sidecar.State(state="untrusted", since=7, detail="403"))
    found = look().facts
    assert found.sidecar_state == sidecar.State(state="untrusted", since=7, detail="403")
    assert len(look.server.targets) == 7
    for said in (None, b"{", b'{"state":"new word","since":1}'):
        look.world.state = said
        assert look().facts.sidecar_state is None


@pytest.mark.parametrize(
    ("server", "addresses", "https", "may"),
    [
        ({"config": {"core.https_address": ":8443"}}, [], ":8443", True),
        ({"config": {}, "auth_user_method": "unix"}, [], "", True),
        ({"config": {"core.x": "y"}, "auth_user_method": "tls"}, ["10.0.0.1:8443"], "", True),
        ({"config": {}}, ["10.0.0.1:8443", "10.0.0.2:8443"], None, False),
        ({"auth_user_method": "tls"}, [], None, False),
    ],
)
def test_where_the_server_listens_and_whether_that_may_be_changed(
    look: Looking, server: dict[str, Any], addresses: list[str], https: str | None, *, may: bool
) -> None:
    look.world.server, look.world.addresses = server, addresses
    found = look().facts
    assert (found.https_address, found.may_administer) == (https, may)
    assert found.server_fingerprint == "5e"
    assert found.addresses == tuple(addresses)


ALWAYS = lifecycle.Lifecycle(restart="always")


def test_the_daemons_image_is_looked_up_where_something_is_watched(look: Looking) -> None:
    known = {one: of_image(one) for one in ("h.invalid/app:1", "h.invalid/checked:1", "guard:1")}
    checked = image.ImageConfig(healthcheck={"Test": ["CMD", "x"]})
    known["h.invalid/checked:1"] = msgspec.structs.replace(
        known["h.invalid/checked:1"], config=checked
    )

    def looked_up(one: model.Service, guard: str | None = "guard:1") -> list[str]:
        return sorted(look(stack_of(one), images=known, guard=guard).facts.images)

    plain = service()
    assert looked_up(plain) == ["h.invalid/app:1"]
    assert looked_up(service(lifecycle=ALWAYS)) == ["guard:1", "h.invalid/app:1"]
    assert looked_up(service(lifecycle=ALWAYS), guard=None) == ["h.invalid/app:1"]
    assert looked_up(service("web", "h.invalid/checked:1")) == ["guard:1", "h.invalid/checked:1"]
    off = lifecycle.Lifecycle(healthcheck=lifecycle.Healthcheck(disable=True))
    assert looked_up(service("web", "h.invalid/checked:1", lifecycle=off)) == [
        "h.invalid/checked:1"
    ]
    look.world.instance("old", look.world.marks("old/1", user_restart="always"))
    assert looked_up(plain) == ["guard:1", "h.invalid/app:1"]


def of_image(reference: str) -> image.ImageFacts:
    return image.ImageFacts(
        reference=reference, resolved=reference, digest="sha256:1", config=image.ImageConfig()
    )


def test_without_a_project_there_is_less_to_ask_and_nothing_is_ours(look: Looking) -> None:
    look.world.config = None
    look.world.instance("web", {names.STACK: "shop", names.LINEAGE: "x", names.RESOURCE: "web/1"})
    found = look()
    assert len(look.server.requests) == 5
    assert (found.live, found.facts.project_exists, found.facts.project_marked) == (
        {},
        False,
        False,
    )
    assert look.journal.state == "none"


def test_a_server_that_is_too_old_is_refused_first(look: Looking) -> None:
    look.world.extensions.remove("instance_oci")
    with pytest.raises(errors.TooOld):
        look()
    assert len(look.server.requests) == 1


# --- ours and not ours ---


def test_an_instance_with_our_stamp_is_live_under_its_address(look: Looking) -> None:
    config = look.world.marks("web/1", user_ic_ev="3/9", volatile_uuid="u")
    devices = {"eth0": {"type": "nic", "name": "eth0"}}
    look.world.instance("web", config, devices=devices)
    live = look().live["instance:web/1"]
    assert live == kind.Live(
        address="instance:web/1",
        name="web",
        fields={
            **{("config", key): value for key, value in config.items()},
            ("devices", "eth0", "type"): "nic",
            ("devices", "eth0", "name"): "eth0",
        },
        stamp=kind.Stamp(stack="shop", lineage=look.world.lineage, resource="web/1", event="3/9"),
        uuid="u",
        power="Running",
        ever_started=True,
        created="2026-11-23T06:00:00Z",
        started="2026-11-23T06:01:00Z",
    )


def test_what_has_no_stamp_of_ours_is_in_the_way_and_never_live(look: Looking) -> None:
    ours = look.world.marks("web/1")
    look.world.instance("plain", {})
    look.world.instance("left", {**ours, names.LINEAGE: "another"})
    look.world.instance("theirs", {**ours, names.STACK: "other"})
    look.world.instance("elsewhere", ours, project="other")
    look.world.networks = [{"name": "br0", "managed": True, "config": {}}, {"name": "lo"}]
    look.world.volumes["default"] = [{"name": "data", "config": {}}, {"name": "data/snap0"}]
    found = look()
    assert found.live == {}
    assert found.facts.foreign == {
        "instance": frozenset({"plain", "left", "theirs"}),
        "network": frozenset({"br0", "lo"}),
        "volume": frozenset({"data"}),
        "profile": frozenset(),
    }
    assert set(found.facts.marks["instance"]) == {"left", "theirs"}
    assert found.facts.marks["instance"]["left"].lineage == "another"


def test_of_an_instance_and_its_copy_the_recorded_one_is_ours(look: Looking) -> None:
    look.world.instance("a-copy", look.world.marks("web/1"))
    look.world.instance("web", look.world.marks("web/1"))
    found = look()
    assert found.live["instance:web/1"].name == "a-copy"  # nothing is recorded: the first by name
    assert found.facts.foreign["instance"] == frozenset({"web"})
    sorter = observe.Sorter(
        observe.Owner(look.world.config or {}, look.world.lineage), {"instance:web/1": "web"}
    )
    for name in ("a-copy", "web"):
        stamp = kind.Stamp(stack="shop", lineage=look.world.lineage, resource="web/1")
        sorter.take(kind.Live(address="instance:web/1", name=name, fields={}, stamp=stamp))
    assert sorter.live["instance:web/1"].name == "web"
    assert sorter.foreign["instance"] == {"a-copy"}


def test_volumes_and_networks_with_our_stamp_are_live(look: Looking) -> None:
    look.world.volumes = {"default": [{"name": "data", "config": look.world.marks("data")}]}
    look.world.networks = [
        {"name": "shop-default", "managed": True, "config": look.world.marks("default")}
    ]
    found = look()
    assert found.live["volume:data"].pool == "default"
    assert found.live["network:default"].name == "shop-default"


def test_a_project_of_another_stack_that_falls_on_the_same_name_is_not_ours(look: Looking) -> None:
    other = model.Stack(name="sh_op", working_dir="/", services={})
    look.world.config = {**founded(), names.STACK: "shop"}
    assert look(other).facts.project_marked is False
    assert look(stack_of()).facts.project_marked is True
    assert look().facts.project_marked is True
    look.world.config = {"features.images": "false"}
    found = look()
    assert (found.facts.project_exists, found.facts.project_marked) == (True, False)


def test_profiles_of_a_person_are_in_the_way_of_destroy_and_run_objects_are_not(
    look: Looking,
) -> None:
    look.world.profiles += [
        {
            "name": "ic.lock.abc.00000001.00000000",
            "project": "shop",
            "config": {"user.ic.hold": "free"},
        },
        {"name": "mine", "project": "shop", "config": {}},
        {"name": "theirs", "project": "default", "config": {}},
    ]
    found = look()
    assert found.facts.foreign["profile"] == frozenset({"mine"})
    assert set(found.profiles) == {"default", "ic.lock.abc.00000001.00000000", "mine"}


def test_a_damaged_journal_is_a_state_and_no_error(look: Looking) -> None:
    assert look.world.config is not None
    look.world.config[names.HEAD] = "{broken"
    look()
    assert look.journal.state == "damaged"


# --- power ---


@pytest.mark.parametrize(
    ("more", "log", "started", "half", "code"),
    [
        ({}, None, True, False, None),
        ({"status": "Stopped"}, START, True, False, 0),
        ({"status": "Stopped"}, START + b"Child <3> ended on error (37)\n", True, False, 37),
        ({"status": "Stopped"}, None, True, False, None),
        ({"status": "Stopped", "last_used_at": "1970-01-01T00:00:00Z"}, None, False, True, None),
        ({"status": "Stopped", "last_used_at": "0001-01-01T00:00:00Z"}, None, False, True, None),
    ],
)
def test_power_tells_what_happened(
    look: Looking,
    more: dict[str, Any],
    log: bytes | None,
    *,
    started: bool,
    half: bool,
    code: int | None,
) -> None:
    look.world.instance("web", look.world.marks("web/1"), **more)
    if log is not None:
        look.world.logs["web"] = log
    live = look(stack_of(service(reference=None))).live["instance:web/1"]
    assert (live.ever_started, live.half_made, live.exit_code) == (started, half, code)


@pytest.mark.parametrize(
    ("claim", "promised"),
    [
        ("", False),
        ('{"do":"start","run":"R"}', True),
        ('{"do":"restart","run":"R"}', True),
        ('{"do":"stop","run":"R"}', False),
        ('{"run":"R"}', False),
        ('{"do":"start","run":"2026-11-23T05:00:00Z"}', False),  # of a run before
        ("{", False),
    ],
)
def test_what_the_health_daemon_has_promised_to_start(
    look: Looking, claim: str, *, promised: bool
) -> None:
    run = "2026-11-23T06:02:00Z"
    config = look.world.marks("web/1")
    config[names.HEALTH] = claim.replace("R", run)
    look.world.instance("web", config, status="Stopped", last_used_at=run)
    assert look().live["instance:web/1"].promised == promised


def test_what_was_made_and_never_started_is_whole(look: Looking) -> None:
    config = look.world.marks("web/1", volatile_apply_template="create")
    # The key's own name has an underscore.
    config["volatile.apply_template"] = config.pop("volatile.apply.template")
    look.world.instance("web", config, status="Stopped", last_used_at="1970-01-01T00:00:00Z")
    live = look().live["instance:web/1"]
    assert (live.half_made, live.ever_started, live.started) == (False, False, "")


def logs_read(look: Looking) -> list[str]:
    """The instances whose logs have been read since this was last asked."""
    found = [target.split("/")[3] for target in look.server.targets if "lxc.log" in target]
    look.server.requests.clear()
    return found


def test_an_end_costs_a_call_only_where_it_decides_something(look: Looking) -> None:
    for name in ("web", "job", "removed"):
        look.world.instance(name, look.world.marks(f"{name}/1"), status="Stopped")
    look.world.instance("guard", look.world.marks(sidecar.INSTANCE), status="Stopped")
    look.world.instance("foreign", {}, status="Stopped")
    look.world.instance("run", look.world.marks("run/1"))
    both = stack_of(*(service(name, None) for name in ("web", "job", "run")))
    look(both)
    assert sorted(logs_read(look)) == ["guard", "job", "web"]
    found = look(both, services=frozenset({"job", "run"}))
    assert sorted(logs_read(look)) == ["guard", "job"]
    assert found.live["instance:web/1"].exit_code is None
    look()  # `down`, `destroy`, `stop`: whatever its end was
    assert logs_read(look) == []


def test_several_ends_are_read_at_once_and_a_failure_is_one(look: Looking) -> None:
    names_ = [f"job-{number}" for number in range(8)]
    for name in names_:
        look.world.instance(name, look.world.marks(f"{name}/1"), status="Stopped")
        look.world.logs[name] = START
    meeting = threading.Barrier(4)
    look.world.log_read = lambda: meeting.wait(5) if meeting.n_waiting < 4 else None
    stack = stack_of(*(service(name, None) for name in names_))
    assert {one.exit_code for one in look(stack).live.values()} == {0}
    assert sorted(logs_read(look)) == names_
    assert not meeting.broken

    def fail() -> None:
        raise ValueError

    look.world.log_read = fail
    with pytest.raises(errors.IncusError, match="job-0: a disk is full"):
        look(stack)


# --- facts ---


def test_ports_of_proxies_in_every_project_are_taken(look: Looking) -> None:
    proxy = {"type": "proxy", "listen": "tcp:0.0.0.0:80,8000-8001", "connect": "tcp:127.0.0.1:80"}
    other = {"type": "proxy", "listen": "udp:[::1]:53", "bind": "host"}
    ignored = {
        "a": {"type": "proxy", "listen": "tcp:0.0.0.0:1", "bind": "instance"},
        "b": {"type": "proxy", "listen": "unix:/x"},
        "c": {"type": "disk"},
        "d": {"type": "proxy", "listen": "tcp:0.0.0.0:odd"},
    }
    look.world.instance("a", {}, project="other", expanded_devices={"p": proxy, **ignored})
    look.world.instance("b", {}, devices={"p": other})
    taken = [one for one in look().facts.listeners if one.project]
    assert [(one.protocol, one.address, one.port, one.owner) for one in taken] == [
        ("tcp", "0.0.0.0", 80, "instance a in project other"),
        ("tcp", "0.0.0.0", 8000, "instance a in project other"),
        ("tcp", "0.0.0.0", 8001, "instance a in project other"),
        ("udp", "::1", 53, "instance b in project shop"),
    ]


def test_subnets_are_those_of_bridges_and_the_pool_is_that_of_the_default_profile(
    look: Looking,
) -> None:
    look.world.networks = [
        {"name": "br0", "managed": True, "config": {"ipv4.address": "10.1.0.1/24"}},
        {"name": "br1", "managed": True, "config": {"ipv4.address": "none"}},
    ]
    found = look().facts
    assert ("10.1.0.1/24", "network br0") in found.subnets
    assert not any("br1" in owner for _, owner in found.subnets)
    assert (found.default_pool, found.pools) == ("default", ("default",))
    assert (found.version, found.local) == ("7.0.2", True)


def test_what_images_the_server_holds_is_a_question_of_its_own(look: Looking) -> None:
    found = look()
    assert found.facts.fingerprints is None
    known = observe.with_images(look.client, "shop", found)
    assert known.facts.fingerprints == frozenset({"abc"})
    assert look.server.targets[-1] == "GET /1.0/images?project=shop"


def test_without_a_root_disk_in_the_default_profile_all_pools_are_named(look: Looking) -> None:
    look.world.profiles[0]["devices"] = {}
    look.world.volumes = {
        "a": [],
        "b": [{"name": "data", "config": look.world.marks("data")}],
    }
    found = look()
    assert (found.facts.default_pool, found.facts.pools) == ("", ("a", "b"))
    assert found.live["volume:data"].pool == "b"


def test_a_recorded_network_that_a_restricted_client_sees_by_name_alone_is_ours(
    look: Looking,
) -> None:
    step = stage.step("network:front", "net.create", fields={("config", "ipv4.nat"): "true"})
    look.world.config = {names.STACK: "shop", **book.genesis(step, stage.start())}
    look.world.networks = [
        {"name": "front", "managed": True, "config": {}},
        {"name": "incusbr0", "managed": True, "config": {}},
    ]
    found = look()
    assert found.live["network:front"].veiled
    assert found.facts.foreign["network"] == {"incusbr0"}


def test_restrictions_of_the_project_are_facts(look: Looking) -> None:
    look.world.config = {**founded(), "restricted": "true", "restricted.devices.proxy": "allow"}
    assert look().facts.project_restrictions == {
        "restricted": "true",
        "restricted.devices.proxy": "allow",
    }


def test_external_things_are_looked_up_by_their_names(look: Looking) -> None:
    look.world.networks = [
        {"name": "ext0", "managed": True, "config": {"ipv4.address": "10.9.0.1/24"}},
        {"name": "host0", "managed": False, "config": {}},
    ]
    look.world.volumes = {"default": [], "fast": [{"name": "big", "config": {}}]}
    stack = stack_of(
        networks={
            "a": model.Network(key="a", name="ext0", external=True),
            "b": model.Network(key="host0", external=True),
        },
        volumes={
            "v": model.Volume(key="v", name="big", external=True),
            "w": model.Volume(key="none", external=True),
        },
    )
    found = look(stack).facts
    assert found.external_networks == {"ext0": {"ipv4.address": "10.9.0.1/24"}}
    assert found.external_volumes == {"big": "fast"}


def test_bind_sources_are_looked_at_on_this_host(look: Looking, tmp_path: Path) -> None:
    mounts = (
        storage.Mount(type="bind", target="/x", source=str(tmp_path)),
        storage.Mount(type="bind", target="/y", source="/none/such"),
        storage.Mount(type="volume", target="/z", source="data"),
    )
    found = look(stack_of(service(reference=None, volumes=mounts))).facts
    assert found.bind_sources == {str(tmp_path): "directory", "/none/such": "missing"}


# --- images ---


def facts_of(reference: str, digest: str = "sha256:1") -> image.ImageFacts:
    return image.ImageFacts(
        reference=reference,
        resolved=f"h.invalid/app@{digest}",
        digest=digest,
        config=image.ImageConfig(cmd=("serve",)),
    )


@contextlib.contextmanager
def recorded(look: Looking, facts: image.ImageFacts) -> Generator[None]:
    """A journal that knows an image: its founding event is that of the image, for brevity."""
    step = stage.step(
        names.address("image", facts.reference), "img.create", facts=image.to_facts(facts)
    )
    look.world.config = {names.STACK: "shop", **book.genesis(step, stage.start())}
    yield


def test_a_recorded_image_is_not_asked_for_again(look: Looking) -> None:
    known = facts_of("h.invalid/app:1")
    with recorded(look, known):
        assert look(stack_of(service())).facts.images == {"h.invalid/app:1": known}


def test_always_asks_the_registry_and_an_earlier_look_answers_even_then(look: Looking) -> None:
    known, newer = facts_of("h.invalid/app:1"), facts_of("h.invalid/app:1", "sha256:2")
    eager = stack_of(service(pull_policy="always"))
    with recorded(look, known):
        with pytest.raises(errors.RegistryError, match="no host of that name"):
            look(eager)
        with pytest.raises(errors.RegistryError):
            look(stack_of(service()), pull="always")
        earlier = {"h.invalid/app:1": newer}
        assert look(eager, images=earlier).facts.images == earlier
        assert look(eager, pull="missing").facts.images == {"h.invalid/app:1": known}


def test_never_asks_nobody(look: Looking) -> None:
    assert look(stack_of(service()), pull="never").facts.images == {}
    assert look(stack_of(service(pull_policy="never"))).facts.images == {}


def test_all_images_that_cannot_be_resolved_are_told_at_once(look: Looking) -> None:
    stack = stack_of(service("a", "a.invalid/x"), service("b", "b.invalid/x"), service("c", None))
    with pytest.raises(errors.RegistryError, match=r"a\.invalid") as caught:
        look(stack)
    assert any("b.invalid" in line for line in caught.value.details)


def test_images_of_services_that_are_not_selected_are_not_asked_for(look: Looking) -> None:
    stack = stack_of(service("a", "a.invalid/x"), service("b", "b.invalid/x"))
    assert look(stack, services=frozenset()).facts.images == {}
    with pytest.raises(errors.RegistryError, match=r"b\.invalid") as caught:
        look(stack, services=frozenset({"b"}))
    assert caught.value.details == ()


def test_without_a_stack_no_registry_is_asked(look: Looking) -> None:
    assert look().facts.images == {}


# --- a real server ---


@pytest.fixture
def real(lab: labs.Lab) -> Iterator[client.Client]:
    with client.Client(
        transport.connect(remotes.Server(name="lab", socket=str(lab.socket)))
    ) as made:
        yield made


def test_the_labs_own_state_is_read_in_six_calls(
    real: client.Client, stack: fixtures.Stack
) -> None:
    calls: list[str] = []
    real.on_request = lambda method, target, _: calls.append(f"{method} {target}")
    _, found = observe.observe(real, stack.name, None, ENV)
    assert (found.facts.project_exists, found.facts.default_pool) == (False, "default")
    of = {"project": stack.name}
    config = {
        "features.images": "false",
        "features.profiles": "true",
        "features.storage.volumes": "true",
        **founded(stack.name),
    }
    real.call("POST", "/1.0/projects", None, {"name": stack.name, "config": config})
    marks = {names.STACK: stack.name, names.LINEAGE: config[names.LINEAGE]}
    bridge = f"b{stack.name[2:]}"
    body = {
        "name": bridge,
        "type": "bridge",
        "config": {
            "ipv4.address": "10.200.77.1/24",
            "ipv6.address": "none",
            **marks,
            names.RESOURCE: "default",
        },
    }
    real.call("POST", "/1.0/networks", None, body)
    volume = {"name": "data", "type": "custom", "config": {**marks, names.RESOURCE: "data"}}
    real.call("POST", "/1.0/storage-pools/default/volumes/custom", of, volume)
    source = {"type": "image", "mode": "pull", "protocol": "oci", "server": "https://docker.io"}
    pulled = real.call("POST", "/1.0/images", None, {"source": {**source, "alias": "busybox:1"}})
    box = {
        "name": "web",
        "type": "container",
        "profiles": [],
        "config": {
            **marks,
            names.RESOURCE: "web/1",
            "oci.entrypoint": "/bin/sh -c 'exit 37'",
            "raw.lxc": "lxc.log.level=info",
        },
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
        "source": {"type": "image", "fingerprint": pulled["fingerprint"]},
    }
    real.call("POST", "/1.0/instances", of, box)
    try:
        calls.clear()
        journal, found = observe.observe(real, stack.name, None, ENV)
        assert len(calls) == 6
        assert journal.state == "ok"
        assert set(found.live) == {"instance:web/1", "network:default", "volume:data"}
        made = found.live["instance:web/1"]
        assert (made.power, made.ever_started, made.half_made) == ("Stopped", False, False)
        assert found.facts.fingerprints is None
        known = observe.with_images(real, stack.name, found).facts.fingerprints
        assert pulled["fingerprint"] in (known or ())
        assert ("10.200.77.1/24", f"network {bridge}") in found.facts.subnets
        assert found.facts.project_marked
        real.call("PUT", "/1.0/instances/web/state", of, {"action": "start"})
        ended = made
        for _ in range(100):
            seen = observe.observe(real, stack.name, stack_of(service(reference=None)), ENV)[1]
            ended = seen.live["instance:web/1"]
            if ended.exit_code is not None:
                break
        assert (ended.power, ended.ever_started, ended.exit_code) == ("Stopped", True, 37)
    finally:
        real.call("DELETE", f"/1.0/projects/{stack.name}", {"force": "true"})
        real.call("DELETE", f"/1.0/networks/{bridge}")
