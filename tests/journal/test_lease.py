"""The lease: one winner, a dead holder is seen at once, a silent one after a TTL of one's own clock."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Any

import msgspec
import pytest

from ic import errors, names
from ic.journal import lease
from tests.journal import server as fakes
from tests.journal import stage

ME = lease.Holder(
    actor="0@here", machine="m1", boot="b1", namespace="ns1", pid=10, tick=5, command="apply"
)
TIMES = lease.Times()


@pytest.fixture
def server() -> fakes.Server:
    made = fakes.Server()
    stage.found(made)
    return made


def terms(clock: fakes.Clock, **changes: Any) -> lease.Terms:
    """How ME asks."""
    nonces = iter(f"{n:08x}" for n in range(1, 10_000))
    said: list[str] = changes.pop("said", [])
    base = lease.Terms(
        holder=ME,
        nonce=lambda: next(nonces),
        say=said.append,
        clock=clock,
        times=TIMES,
        tick={10: 5}.get,
    )
    return msgspec.structs.replace(base, **changes)


def take(server: fakes.Server, asked: lease.Terms) -> lease.Lease:
    return lease.acquire(server, stage.PROJECT, asked)


def hold(server: fakes.Server, holder: lease.Holder, beat: int = 1) -> str:
    """Let somebody hold the lease; the run object's name."""
    for name in list(server.profiles[stage.PROJECT]):
        if name.startswith("ic.lock."):
            del server.profiles[stage.PROJECT][name]
    name = lease.name_for(stage.PROJECT, 41, "deadbeef")
    config = {
        names.HOLD: lease.encode_holder(holder),
        names.GENERATION: "41",
        names.HEARTBEAT: str(beat),
    }
    server.profiles[stage.PROJECT][name] = {"name": name, "description": "", "config": config}
    return name


OTHER = lease.Holder(
    actor="0@there", machine="m2", boot="b2", namespace="ns2", pid=77, tick=9, command="up"
)


def test_names_carry_project_generation_and_nonce() -> None:
    name = lease.name_for("shop", 42, "cafebabe")
    assert name == f"ic.lock.{names.short_hash('shop')}.00000042.cafebabe"
    assert len(name) == 34
    assert lease.parse_name("shop", name) == (42, "cafebabe")
    assert lease.parse_name("other", name) is None
    assert lease.parse_name("shop", "default") is None


def test_the_first_holder_makes_the_run_object_and_takes_it(server: fakes.Server) -> None:
    taken = take(server, terms(fakes.Clock()))
    assert (taken.generation, taken.stolen) == (2, None)
    config = server.profile_configs(stage.PROJECT)[taken.name]
    assert msgspec.json.decode(config[names.HOLD], type=lease.Holder) == ME


def test_generations_go_on_from_the_head_where_there_is_no_run_object(server: fakes.Server) -> None:
    config = server.projects[stage.PROJECT]["config"]
    config[names.HEAD] = config[names.HEAD].replace('"g":0', '"g":70')
    taken = take(server, terms(fakes.Clock()))
    assert taken.generation == 72
    assert taken.config[names.HEAD] == config[names.HEAD]


def test_what_was_written_just_before_the_rename_is_seen(server: fakes.Server) -> None:
    first = take(server, terms(fakes.Clock()))
    profiles = server.profiles[stage.PROJECT]
    profiles[first.name]["config"] |= {names.HOLD: lease.FREE, names.WAL: "old"}

    def late(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "POST":
            profiles[first.name]["config"][names.WAL] = "new"

    server.fault = late
    assert take(server, terms(fakes.Clock())).config[names.WAL] == "new"


def test_of_many_contenders_exactly_one_wins_each_generation(server: fakes.Server) -> None:
    won: list[lease.Lease] = []
    barrier = threading.Barrier(6)

    def contend(index: int) -> None:
        holder = lease.Holder(actor=f"{index}@x", machine=f"m{index}", boot="b", pid=1)
        asked = terms(fakes.Clock(), holder=holder, lock_timeout=0, nonce=lambda: f"{index:08x}")
        barrier.wait()
        try:
            won.append(take(server, asked))
        except errors.Locked:
            return

    for _ in range(25):
        threads = [threading.Thread(target=contend, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT)):
            server.profiles[stage.PROJECT][one.name]["config"][names.HOLD] = lease.FREE
    generations = [one.generation for one in won]
    assert len(generations) == len(set(generations)) >= 25


def test_a_lost_reply_to_the_rename_is_settled_by_looking(server: fakes.Server) -> None:
    def lose(moment: str, method: str, path: str) -> None:
        if moment == "after" and method == "POST" and "ic.lock" in path:
            server.fault = fakes.quiet
            raise errors.TimedOut("cannot rename profile: no answer")

    server.fault = lose
    taken = take(server, terms(fakes.Clock()))
    assert taken.generation == 2
    assert lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT))[0].name == taken.name


def test_holding_is_tried_again_while_the_server_restarts(server: fakes.Server) -> None:
    failures = iter(range(3))

    def down(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "PATCH" and next(failures, None) is not None:
            raise errors.Unreachable("cannot reach the server")

    server.fault = down
    assert take(server, terms(fakes.Clock())).generation == 2


def test_who_is_about_to_hold_is_left_alone_for_a_moment(server: fakes.Server) -> None:
    """Between the rename and the holder's text the object still says what it said before."""
    first = take(server, terms(fakes.Clock()))
    profiles = server.profiles[stage.PROJECT]
    profiles[first.name]["config"][names.HOLD] = lease.FREE
    name = lease.name_for(stage.PROJECT, 3, "deadbeef")
    profiles[name] = {**profiles.pop(first.name), "name": name}
    clock = fakes.Clock()
    begun = clock.now
    taken = take(server, terms(clock, lock_timeout=0))
    assert 2 <= clock.now - begun < 3
    assert taken.stolen is not None
    assert (taken.generation, taken.stolen.reason) == (4, "it was taken and then never held")


def test_a_holder_who_arrives_meanwhile_is_not_followed(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    config = server.profiles[stage.PROJECT][name]["config"]
    config |= {names.HOLD: lease.FREE, names.GENERATION: "40"}
    clock = fakes.Clock()

    def arrive(moment: str, method: str, path: str) -> None:
        if clock.now > fakes.Clock().now + 1:
            config.update({names.HOLD: lease.encode_holder(OTHER), names.GENERATION: "41"})

    server.fault = arrive
    with pytest.raises(errors.Locked, match="0@there"):
        take(server, terms(clock, lock_timeout=0))


# --- no run object yet, and many who see that --------------------------------------------------------


def early(
    server: fakes.Server, first: lease.Terms, then: fakes.Fault = fakes.quiet
) -> list[lease.Lease]:
    """The next rename of the first run object comes late: another took it, a third made it again."""
    taken: list[lease.Lease] = []

    def overtake(moment: str, method: str, path: str) -> None:
        if moment == "before" and method == "POST" and path.endswith(lease.GENESIS_NONCE):
            server.fault = fakes.quiet
            taken.append(take(server, first))
            again = {names.HOLD: lease.FREE, names.GENERATION: "1", names.HEARTBEAT: "0"}
            name = path.rpartition("/")[2]
            body = {"name": name, "description": "", "config": again}
            server.send("POST", "/1.0/profiles", {"project": stage.PROJECT}, body)
            server.fault = then

    server.fault = overtake
    return taken


def others(clock: fakes.Clock, **changes: Any) -> lease.Terms:
    """How OTHER asks."""
    return terms(clock, holder=OTHER, nonce=lambda: "deadbeef", **changes)


def tops(server: fakes.Server) -> list[lease.RunObject]:
    return list(lease.objects(stage.PROJECT, server.profile_configs(stage.PROJECT)))


@pytest.mark.parametrize("nonce", ["00000001", "ffffffff"])
def test_a_run_object_that_was_made_twice_is_held_by_one(server: fakes.Server, nonce: str) -> None:
    taken = early(server, others(fakes.Clock()))
    with pytest.raises(errors.Locked, match="0@there"):
        take(server, terms(fakes.Clock(), lock_timeout=0, nonce=lambda: nonce))
    assert [one.name for one in tops(server)] == [taken[0].name]
    assert tops(server)[0].holder == OTHER


@pytest.mark.parametrize("nonce", ["00000001", "ffffffff"])
def test_who_is_killed_before_giving_way_does_not_hide_the_holder(
    server: fakes.Server, nonce: str
) -> None:
    def die(moment: str, method: str, path: str) -> None:
        if moment == "after" and method == "POST":
            raise KeyboardInterrupt

    taken = early(server, others(fakes.Clock()), die)
    with pytest.raises(KeyboardInterrupt):
        take(server, terms(fakes.Clock(), nonce=lambda: nonce))
    server.fault = fakes.quiet
    assert len(tops(server)) == 2
    with pytest.raises(errors.Locked, match="0@there"):
        take(server, terms(fakes.Clock(), lock_timeout=0))
    server.profiles[stage.PROJECT][taken[0].name]["config"][names.HOLD] = lease.FREE
    third = take(server, terms(fakes.Clock(), lock_timeout=0))
    assert (third.generation, third.stolen) == (3, None)
    assert [one.name for one in tops(server)] == [third.name]


def twins(server: fakes.Server) -> list[str]:
    """Two objects of one generation of which nobody has said yet that he holds it; their names."""
    made = [lease.name_for(stage.PROJECT, 2, nonce) for nonce in ("00000001", "ffffffff")]
    for name in made:
        config = {names.HOLD: lease.FREE, names.GENERATION: "1"}
        server.profiles[stage.PROJECT][name] = {"name": name, "description": "", "config": config}
    return made


def test_who_follows_one_of_two_leaves_neither_behind(server: fakes.Server) -> None:
    """Both renamed and neither said who it is; the first would do so after it was followed."""
    twins(server)
    taken = take(server, terms(fakes.Clock(), nonce=lambda: "00000003"))
    assert [one.name for one in tops(server)] == [taken.name]


def test_who_follows_one_of_two_gives_way_to_the_other_that_came_forward(
    server: fakes.Server,
) -> None:
    first = twins(server)[0]

    def come_forward(moment: str, method: str, path: str) -> None:
        if moment == "after" and method == "POST":
            held = {names.HOLD: lease.encode_holder(OTHER), names.GENERATION: "2"}
            server.profiles[stage.PROJECT][first]["config"] |= held

    server.fault = come_forward
    with pytest.raises(errors.Locked, match="0@there"):
        take(server, terms(fakes.Clock(), lock_timeout=0))
    assert [one.name for one in tops(server)] == [first]


def test_a_run_object_is_never_made_above_one_that_is_there(server: fakes.Server) -> None:
    """Between the look that found none and the head that was read, a whole run went by."""

    def whole_run(moment: str, method: str, path: str) -> None:
        if moment == "before" and path == f"/1.0/projects/{stage.PROJECT}":
            server.fault = fakes.quiet
            name = take(server, others(fakes.Clock())).name
            config = server.projects[stage.PROJECT]["config"]
            config[names.HEAD] = config[names.HEAD].replace('"g":0', '"g":2')
            server.profiles[stage.PROJECT][name]["config"][names.HOLD] = lease.FREE

    server.fault = whole_run
    taken = take(server, terms(fakes.Clock()))
    assert (taken.generation, len(tops(server))) == (3, 1)


# --- held by another -----------------------------------------------------------------------------------


def test_a_held_lease_fails_at_once_without_patience(server: fakes.Server) -> None:
    hold(server, OTHER)
    with pytest.raises(errors.Locked, match=r"0@there.*process 77.*generation 41") as caught:
        take(server, terms(fakes.Clock(), lock_timeout=0))
    assert "ic unlock --gen 41" in caught.value.hint
    assert caught.value.exit_status == 75


def test_the_timeout_counts_only_while_the_holder_is_alive(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    clock = fakes.Clock()
    begun = clock.now

    def beat(moment: str, method: str, path: str) -> None:
        config = server.profiles[stage.PROJECT][name]["config"]
        config[names.HEARTBEAT] = str(1 + int((clock.now - begun) // 10))

    server.fault = beat
    said: list[str] = []
    with pytest.raises(errors.Locked):
        take(server, terms(clock, lock_timeout=10.0, said=said))
    assert 10 <= clock.now - begun < 12
    assert said == ["waiting for ic up of 0@there, process 77 (generation 41)"]


def test_a_silent_holder_of_another_machine_is_followed_after_a_whole_ttl(
    server: fakes.Server,
) -> None:
    hold(server, OTHER)
    clock = fakes.Clock()
    begun = clock.now
    said: list[str] = []
    taken = take(server, terms(clock, said=said))
    assert 30 <= clock.now - begun < 31
    assert taken.stolen is not None
    assert (taken.stolen.generation, taken.stolen.holder.actor) == (41, "0@there")
    assert taken.stolen.reason.startswith("no sign of life for 30")
    assert len(said) == 2


def test_one_beat_starts_the_wait_anew(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    clock = fakes.Clock()
    begun = clock.now

    def beat(moment: str, method: str, path: str) -> None:
        late = clock.now - begun >= 9
        if name in server.profiles[stage.PROJECT]:
            config = server.profiles[stage.PROJECT][name]["config"]
            config[names.HEARTBEAT] = "2" if late else "1"

    server.fault = beat
    take(server, terms(clock))
    assert 39 <= clock.now - begun < 40


def test_a_released_lease_is_taken_while_waiting(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    clock = fakes.Clock()
    begun = clock.now

    def release(moment: str, method: str, path: str) -> None:
        if clock.now - begun >= 3 and name in server.profiles[stage.PROJECT]:
            server.profiles[stage.PROJECT][name]["config"][names.HOLD] = lease.FREE

    server.fault = release
    assert take(server, terms(clock)).stolen is None
    assert clock.now - begun < 4


@pytest.mark.parametrize(
    ("holder", "seen", "reason"),
    [
        ({"pid": 77}, None, "its process 77 is gone"),
        ({"pid": 77}, 8, "its process 77 is another one now"),
        ({"boot": "b0"}, 9, "this machine was started again since"),
        ({"machine": "", "pid": 77}, None, ""),
        ({"pid": 77}, 9, ""),
        ({"namespace": "ns9"}, None, ""),
        ({"namespace": ""}, None, ""),
        ({"machine": "m9"}, None, ""),
        ({"machine": "m9", "boot": "b0"}, None, ""),
        ({"machine": "", "boot": "b0"}, None, ""),
        ({"boot": ""}, None, ""),
    ],
)
def test_only_a_holder_of_this_very_machine_is_known_to_be_dead(
    holder: dict[str, Any], seen: int | None, reason: str
) -> None:
    base = lease.Holder(machine="m1", boot="b1", namespace="ns1", pid=77, tick=9)
    other = msgspec.structs.replace(base, **holder)
    assert lease.dead(other, ME, lambda _: seen) == reason


def test_without_a_machine_id_the_boot_tells() -> None:
    me = msgspec.structs.replace(ME, machine="")
    other = msgspec.structs.replace(me, pid=77)
    assert lease.dead(other, me, lambda _: None) == "its process 77 is gone"


def test_a_dead_process_of_this_machine_is_followed_at_once(server: fakes.Server) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    me = lease.identity(command="apply", run="aa")
    hold(server, msgspec.structs.replace(me, pid=gone.pid, tick=1))
    clock = fakes.Clock()
    taken = take(server, terms(clock, holder=me, tick=lease.tick_of))
    assert clock.now == fakes.Clock().now
    assert taken.stolen is not None
    assert taken.stolen.reason == f"its process {gone.pid} is gone"


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert lease.tick_of(child.pid) is None
    child.wait()
    assert lease.tick_of(os.getpid()) == lease.identity(command="", run="").tick


def test_an_unreadable_holder_still_holds(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    server.profiles[stage.PROJECT][name]["config"][names.HOLD] = "{who knows"
    with pytest.raises(errors.Locked, match="somebody"):
        take(server, terms(fakes.Clock(), lock_timeout=0))


# --- by force --------------------------------------------------------------------------------------------


def test_force_needs_the_exact_generation(server: fakes.Server) -> None:
    hold(server, OTHER)
    for wrong in (40, 42):
        with pytest.raises(errors.Locked, match="at generation 41"):
            take(server, terms(fakes.Clock(), force=wrong))
    taken = take(server, terms(fakes.Clock(), force=41))
    assert taken.stolen is not None
    assert (taken.generation, taken.stolen.reason) == (42, "unlock")


def test_force_refuses_a_lease_that_nobody_holds(server: fakes.Server) -> None:
    name = hold(server, OTHER)
    server.profiles[stage.PROJECT][name]["config"][names.HOLD] = lease.FREE
    with pytest.raises(errors.Locked, match="nobody holds"):
        take(server, terms(fakes.Clock(), force=41))


def test_times_keep_their_rules_at_any_scale() -> None:
    for times in (lease.Times(), lease.Times().scaled(1 / 15)):
        assert times.heartbeat + times.timeout <= times.fence
        assert (times.ttl - times.fence) / times.ttl == pytest.approx(1 / 3)
