"""A small Incus made of values: carries a plan's requests out on live and recorded state. No server.

What it knows of the server is what planning relies on: a POST makes what its body says, a write merges, a
start runs. So a plan can be applied in a test, and planned again.
"""

from __future__ import annotations

import graphlib
from typing import Any

import msgspec

from ic import names
from ic.compose import loader, model
from ic.journal import fold, redact
from ic.plan import changes, desired, facts, planner, watch
from ic.resources import image, kind, sidecar

KEY = b"k" * 32
LINEAGE = "11aa22bb33cc"
POOL = "default"
CERTIFICATE = "ce" * 32

PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
IMAGES: dict[str, image.ImageConfig] = {
    "nginx": image.ImageConfig(
        entrypoint=("/docker-entrypoint.sh",),
        cmd=("nginx", "-g", "daemon off;"),
        env=(PATH,),
        stop_signal="SIGQUIT",
        exposed_ports=("80/tcp",),
    ),
    "postgres": image.ImageConfig(
        entrypoint=("docker-entrypoint.sh",),
        cmd=("postgres",),
        env=(PATH, "PGDATA=/var/lib/postgresql/data"),
        user="postgres",
        volumes=("/var/lib/postgresql/data",),
    ),
    "checked": image.ImageConfig(
        cmd=("serve",),
        env=(PATH,),
        healthcheck={"Test": ["CMD", "ready"], "Interval": 10_000_000_000},
    ),
    "busybox": image.ImageConfig(cmd=("sh",), env=(PATH,)),
    "python": image.ImageConfig(cmd=("python3",), env=(PATH, "PYTHON_VERSION=3.13")),
}


def image_facts(reference: str, version: int = 1) -> image.ImageFacts:
    """A registry's answer: a digest made from the reference, and one of a few configs."""
    digest = f"sha256:{names.short_hash(f'{reference}/{version}', 12)}"
    stem = reference.partition(":")[0].rpartition("/")[2]
    config = IMAGES.get(stem, IMAGES["busybox"])
    return image.ImageFacts(
        reference=reference,
        resolved=f"registry.example/{stem}@{digest}",
        digest=digest,
        config=config,
    )


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that planning is given beside the files."""

    recorded: fold.Recorded = fold.Recorded()
    live: dict[str, kind.Live] = {}
    doubles: tuple[kind.Live, ...] = ()
    facts: facts.Facts = facts.Facts(
        server="lab",
        default_pool=POOL,
        pools=(POOL,),
        https_address="127.0.0.1:8443",
        server_fingerprint="5e" * 32,
    )

    @property
    def observed(self) -> facts.Observed:
        """Live state and facts as one look; of two bridges the recorded one is live."""
        recorded = {address: one.name for address, one in self.recorded.resources.items()}
        observed = facts.Observed(live=self.live, facts=self.facts, doubles=self.doubles)
        return facts.prefer(observed, recorded)


def with_images(world: World, stack: model.Stack, versions: dict[str, int] | None = None) -> World:
    """The registry's answers for every image of a stack that is not recorded yet."""
    found = dict(world.facts.images)
    for service in stack.services.values():
        reference = service.image.image or ""
        known = names.address("image", reference) in world.recorded.resources
        if reference and (not known or reference in (versions or {})):
            found[reference] = image_facts(reference, (versions or {}).get(reference, 1))
    guard = stack.switches.image or sidecar.IMAGE
    if names.address("image", guard) not in world.recorded.resources or guard in (versions or {}):
        found[guard] = image_facts(guard, (versions or {}).get(guard, 1))
    return msgspec.structs.replace(world, facts=msgspec.structs.replace(world.facts, images=found))


def forgetful(known: facts.Facts) -> facts.Facts:
    """Facts without the registry's answers: what was resolved once is found in the journal."""
    return msgspec.structs.replace(known, images={})


def options(**given: Any) -> planner.Options:
    """Options with the world's key, and a program for the health daemon."""
    program: dict[str, Any] = {"healthd_source": "/opt/ic.pyz", "healthd_build": "b1"}
    return planner.Options(key=KEY, **(program | given))


def plan(stack: model.Stack | None, world: World, given: planner.Options) -> changes.Plan:
    """Desired, then plan, as the engine does it."""
    if stack is None or given.mode in {"down", "destroy"}:
        wanted = desired.nothing(stack.name if stack else "shop")
    else:
        wanted = desired.build(stack, world.recorded, world.observed, given)
    return planner.plan(wanted, world.recorded, world.observed, given)


def load(text: str, directory: str, **given: Any) -> model.Stack:
    """A stack from text, as a file in the directory would give it."""
    return loader.load(
        loader.Options(files=("-",), project_directory=directory, cwd=directory, **given),
        {},
        text.encode,
    )


# --- carrying a plan out ----------------------------------------------------------------------------


def apply(world: World, done: changes.Plan, steps_done: int | None = None) -> World:
    """The world after every step of a plan (or the first few), in an order that its needs allow."""
    steps = {step.id: step for step in done.steps}
    order = graphlib.TopologicalSorter({one.id: (*one.needs, *one.after) for one in done.steps})
    for name in tuple(order.static_order())[:steps_done]:
        assert name in steps, f"{name} is needed and not in the plan"
        world = _do(world, done, steps[name])
    return world


def _do(world: World, done: changes.Plan, step: kind.Step) -> World:
    deed = kind.stamped(step, LINEAGE, done.stack, "1/1")
    live = dict(world.live)
    doubles = world.doubles
    found = world.facts
    brought: dict[str, object] = {}
    if isinstance(deed, kind.Call) and deed.method == "POST":
        if deed.path == "/1.0/projects":
            found = _founded(found, step, deed.body or {})
        else:
            if step.address in watch.ADDRESSES:
                assert step.address not in live
                lived = deed.query["project"]
                assert lived == "shop" or found.home_marked
                found = msgspec.structs.replace(found, sidecar_home=lived)
            old = live.get(step.address)
            live[step.address] = _made(step, deed.body or {})
            if old is not None:
                assert old.name != live[step.address].name, f"{old.name} exists"
                assert names.kind_of(step.address) == "network"
                doubles = (*doubles, old)
    elif isinstance(deed, kind.Call) and deed.method == "DELETE":
        if step.address == "project:shop-healthd":
            assert found.sidecar_home != "shop-healthd", "project not empty"
            found = msgspec.structs.replace(found, home_exists=False, home_marked=False)
        elif names.kind_of(step.address) == "project":
            assert not [a for a in live if names.kind_of(a) != "network"], "project not empty"
            found = msgspec.structs.replace(found, project_exists=False, project_marked=False)
        else:
            doubles = _take(live, doubles, step, deed.path)
            if step.address == sidecar.VOLUME_ADDRESS:
                assert sidecar.ADDRESS not in live, "its volume is in use"
                assert deed.query["project"] == found.sidecar_home
                found = msgspec.structs.replace(found, sidecar_state=None, sidecar_home="")
    elif isinstance(deed, kind.Call) and deed.path == "/1.0":
        body: Any = deed.body
        found = msgspec.structs.replace(found, https_address=body["config"]["core.https_address"])
    elif isinstance(deed, kind.Place | kind.Enrol | kind.Revoke):
        found = _guarded(found, live, step, deed)
        brought |= {"certificate": CERTIFICATE} if isinstance(deed, kind.Enrol) else {}
    elif isinstance(deed, kind.Call):
        live[step.address] = _power(live[step.address], "Running")
    elif isinstance(deed, kind.Merge) and names.kind_of(step.address) == "project":
        found = _restricted(found, live, deed)
    elif isinstance(deed, kind.Merge):
        live[step.address] = _merged(live[step.address], deed)
    elif isinstance(deed, kind.ResolveUser):
        ids: kind.Fields = {("config", "oci.uid"): "999", ("config", "oci.gid"): "999"}
        one = live[step.address]
        live[step.address] = msgspec.structs.replace(one, fields={**one.fields, **ids})
    elif isinstance(deed, kind.Seed):
        assert any(deed.instance_path.endswith(f"/{one.name}") for one in live.values())
        volume = _made(step, deed.body)
        seeded: kind.Fields = {("config", names.SEEDED): deed.marker}
        live[step.address] = msgspec.structs.replace(
            volume, fields={**volume.fields, **seeded}, pool=step.record.pool
        )
    elif isinstance(deed, kind.Stop):
        ended = _power(live[step.address], "Stopped")
        live[step.address] = msgspec.structs.replace(ended, exit_code=0)
    elif isinstance(deed, kind.Start):
        live[step.address] = _power(live[step.address], "Running")
    elif isinstance(deed, kind.Pull):
        brought["fingerprint"] = names.short_hash(deed.reference, 12)
        prints = (found.fingerprints or frozenset()) | {str(brought["fingerprint"])}
        found = msgspec.structs.replace(found, fingerprints=prints)
    changed = live.get(step.address)
    writes = step.event in {"inst.create", "inst.update"} and step.address != sidecar.ADDRESS
    if changed is not None and writes:
        check_rules(changed, found.project_restrictions)
    recorded = record(world.recorded, step, brought) if step.event else world.recorded
    return World(recorded=recorded, live=live, doubles=doubles, facts=found)


def _founded(found: facts.Facts, step: kind.Step, body: dict[str, Any]) -> facts.Facts:
    if step.address != "project:shop":
        return msgspec.structs.replace(found, home_exists=True, home_marked=True)
    rules = {key: value for key, value in body["config"].items() if key.startswith("restricted")}
    return msgspec.structs.replace(
        found, project_exists=True, project_marked=True, project_restrictions=rules
    )


def _restricted(found: facts.Facts, live: dict[str, kind.Live], deed: kind.Merge) -> facts.Facts:
    """A project's restrictions change: no instance may break the new ones."""
    rules = {k: v for k, v in found.project_restrictions.items() if ("config", k) not in deed.unset}
    rules |= {
        path[1]: value for path, value in deed.set.items() if path[1].startswith("restricted")
    }
    found = msgspec.structs.replace(found, project_restrictions=rules)
    for address, one in live.items():
        if names.kind_of(address) == "instance" and address != sidecar.ADDRESS:
            check_rules(one, rules)
    return found


def check_rules(one: kind.Live, rules: dict[str, str]) -> None:
    """What a restricted project refuses of an instance."""
    if rules.get("restricted") != "true":
        return
    networks = rules.get("restricted.networks.access", "").split(",")
    paths = rules.get("restricted.devices.disk.paths", "").split(",")
    for path, value in one.fields.items():
        assert path[1] not in {"raw.lxc", "boot.host_shutdown_timeout"}, one.address
        assert path[2:] != ("type",) or value != "proxy", one.address
        assert path[2:] != ("network",) or value in networks or networks == [""], one.address
        if path[2:] == ("source",) and value.startswith("/"):
            assert value in paths, one.address
            assert (*path[:2], "shift") not in one.fields, one.address


def _guarded(
    found: facts.Facts,
    live: dict[str, kind.Live],
    step: kind.Step,
    deed: kind.Place | kind.Enrol | kind.Revoke,
) -> facts.Facts:
    """The health daemon: its program is put in before its first start, its identity after that."""
    guard = live.get(step.address)
    if isinstance(deed, kind.Place):
        assert guard is not None
        assert not guard.ever_started
        return found
    assert deed.name == sidecar.identity_name("shop", LINEAGE)
    assert deed.projects == ("shop",)
    state = found.sidecar_state or sidecar.State(state="starting", since=0)
    if isinstance(deed, kind.Enrol):
        assert guard is not None
        assert guard.power == "Running"
        assert found.https_address != "", "the server does not listen"
        state = sidecar.State(state="watching", since=0, certificate=CERTIFICATE)
    elif state.state == "watching":
        state = msgspec.structs.replace(state, state="untrusted")
    return msgspec.structs.replace(found, sidecar_state=state)


def _made(step: kind.Step, body: dict[str, object]) -> kind.Live:
    fields: kind.Fields = {("config", "volatile.uuid"): "x"}
    config: Any = body.get("config", {})
    devices: Any = body.get("devices", {})
    for key, value in config.items():
        fields["config", key] = value
    for device, keys in devices.items():
        for key, value in keys.items():
            fields["devices", device, key] = value
    return kind.Live(
        address=step.address,
        name=str(body["name"]),
        fields=fields,
        stamp=kind.Stamp(
            stack=config[names.STACK],
            lineage=config[names.LINEAGE],
            want=config.get(names.WANT, ""),
        ),
        power="Stopped" if names.kind_of(step.address) == "instance" else "",
        pool=step.record.pool,
    )


def _take(
    live: dict[str, kind.Live], doubles: tuple[kind.Live, ...], step: kind.Step, path: str
) -> tuple[kind.Live, ...]:
    """A delete: a running instance and a used network are refused, as the server does it."""
    name = path.rpartition("/")[2]
    if names.kind_of(step.address) == "network":
        users = [
            other.address
            for other in live.values()
            if any(p[2:] == ("network",) and v == name for p, v in other.fields.items())
        ]
        assert not users, f"{name} is used by {users}"
    same = [one for one in doubles if one.address == step.address]
    left = tuple(one for one in doubles if one.name != name)
    one = live[step.address]
    if one.name != name:
        return left
    assert one.power not in {"Running", "Frozen"}, f"{step.address} is running"
    del live[step.address]
    if same and len(left) == len(doubles):
        live[step.address] = same[0]
        return tuple(other for other in doubles if other is not same[0])
    return left


def _merged(one: kind.Live, deed: kind.Merge) -> kind.Live:
    fields = {
        path: value
        for path, value in one.fields.items()
        if path not in deed.unset and path[:2] not in deed.unset
    }
    name = deed.path.rpartition("/")[2]
    assert name == one.name
    return msgspec.structs.replace(one, fields={**fields, **deed.set})


def _power(one: kind.Live, power: str) -> kind.Live:
    return msgspec.structs.replace(one, power=power, ever_started=True, exit_code=None)


def record(recorded: fold.Recorded, step: kind.Step, brought: dict[str, object]) -> fold.Recorded:
    """What the journal makes of a step that was done, by the rules of fold."""
    resources = dict(recorded.resources)
    done = step.record
    if done.gone:
        resources.pop(step.address, None)
    else:
        old = resources.get(step.address)
        if old is None or step.event.endswith(".create"):
            old = fold.RecordedResource(address=step.address)
        kept = {path: value for path, value in old.fields.items() if path not in done.unset}
        new = {p: redact.value(p, text, KEY) for p, text in done.fields.items()}
        resources[step.address] = msgspec.structs.replace(
            old,
            name=done.name or old.name,
            pool=done.pool or old.pool,
            fields={**kept, **new},
            facts={**old.facts, **done.facts, **brought},
            power=done.power or old.power,
        )
    return msgspec.structs.replace(
        recorded, lineage=LINEAGE, sequence=recorded.sequence + 1, resources=resources, state="ok"
    )


def agree(world: World) -> None:
    """What is recorded of a live resource is what it has: by value, or by keyed digest."""
    for address, known in world.recorded.resources.items():
        live = world.live.get(address)
        if live is None:
            continue
        for path, value in known.fields.items():
            has = live.fields.get(path)
            assert has is not None, f"{address} {path} is recorded and not there"
            assert redact.value(path, has, KEY) == value, f"{address} {path} is recorded otherwise"
