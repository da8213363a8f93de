"""Waiting for health: how an instance stands (pure), and the waiting itself on the real server."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any, cast

import pytest

from ic import errors, names, units
from ic.engine import health
from ic.healthd import spec
from ic.incus import client as incus
from ic.incus import lxclog, remotes, transport
from ic.resources import kind, sidecar
from tests.lab import lab as labs
from tests.plan import world

TEST = '["CMD","true"]'
STARTED = "2026-11-23T08:00:00.5Z"


def body(status: str = "Running", **config: str) -> dict[str, Any]:
    return {
        "status": status,
        "last_used_at": STARTED,
        "config": {f"user.{key.replace('__', '.')}": value for key, value in config.items()},
    }


def checked(verdict: str, **more: str) -> dict[str, Any]:
    return body(healthcheck__test=TEST, healthcheck__status=verdict, **more)


# --- how an instance stands ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "condition", "word"),
    [
        (checked("healthy"), "healthy", "done"),
        (checked("healthy"), "running", "done"),
        (checked("starting"), "healthy", "waiting"),
        (checked("starting"), "running", "waiting"),
        (checked("unknown"), "healthy", "waiting"),
        (checked(""), "healthy", "waiting"),
        (checked("unhealthy"), "healthy", "failed"),
        (checked("unhealthy"), "running", "failed"),
        (body(), "healthy", "failed"),
        (body(), "running", "done"),
        (body(healthcheck__test='["NONE"]'), "running", "done"),
        (body("Stopped"), "healthy", "ended"),
        (body("Stopped"), "completed", "ended"),
        (body(), "completed", "waiting"),
        (body("Frozen"), "running", "waiting"),
        (body("Error"), "healthy", "waiting"),
    ],
)
def test_how_an_instance_stands(
    found: dict[str, Any], condition: health.Condition, word: str
) -> None:
    assert health.standing(found, condition).word == word


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        ({"run": STARTED}, "done"),
        ({"run": "2026-11-23T07:00:00Z"}, "waiting"),
        ({"restarts": 3}, "done"),
    ],
)
def test_a_status_of_an_earlier_run_says_nothing(claim: dict[str, Any], word: str) -> None:
    found = checked("healthy", ic__health=json.dumps(claim))
    assert health.standing(found, "healthy").word == word


@pytest.mark.parametrize("claims", ["", "x", "[1]", '{"at": "soon"}', "[" * 5000])
def test_a_status_is_taken_as_it_is_where_nobody_says_when_it_was_told(claims: str) -> None:
    assert health.standing(checked("healthy", ic__health=claims), "healthy").word == "done"


def test_what_up_waits_for_is_docker_composes_rule() -> None:
    stack = world.load(
        """
        name: shop
        services:
          web: {image: a, depends_on: {job: {condition: service_completed_successfully}, db: {condition: service_started}}}
          job: {image: a}
          db: {image: a}
          other: {image: a}
        """,
        "/",
    )
    assert health.conditions(stack, ("web",)) == {
        "db": "running",
        "job": "completed",
        "web": "running",
    }
    assert health.conditions(stack, ("job",)) == {"job": "running"}
    assert set(health.conditions(stack, ())) == {"db", "job", "other", "web"}


@pytest.mark.parametrize(
    ("policy", "code", "comes"),
    [
        ("", 1, False),
        ("no", 1, False),
        ("always", 0, True),
        ("unless-stopped", None, True),
        ("on-failure", 1, True),
        ("on-failure", None, True),
        ("on-failure", 0, False),
    ],
)
def test_which_ends_a_restart_policy_makes_up_for(
    policy: spec.Policy, code: int | None, comes: bool
) -> None:
    assert health.comes_back(policy, code) is comes


# --- waiting for a job, on a server in memory ---------------------------------------------------------


class Server:
    """A server's answers about a job and the health daemon's sidecar, on a clock that events move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sidecar: dict[str, Any] = {"status": "Running", "last_used_at": STARTED}
        self.states: list[tuple[float, sidecar.Word]] = []  # from when on the daemon says so
        self.runs: list[tuple[float, float, int]] = []  # of the job: from, to, exit code
        self.policy = "on-failure"
        self.looks = 0
        self.codes = True  # whether its log is written at the level that has exit codes
        self.cut = False  # whether the log was lost
        self.stopped_at = 0.0  # until then the server calls what has ended running

    def clock(self) -> float:
        return self.now

    def run(self) -> tuple[int, tuple[float, float, int]]:
        return [(n, one) for n, one in enumerate(self.runs) if one[0] <= self.now][-1]

    def job(self) -> dict[str, Any]:
        number, (_, until, _) = self.run()
        running = self.now < max(until, self.stopped_at)
        made = body("Running" if running else "Stopped", restart=self.policy)
        if self.codes:
            made["config"]["raw.lxc"] = "lxc.log.level=info"
        return {**made, "last_used_at": f"2026-11-23T08:00:0{number}Z"}

    def get(self, path: str, query: object = None) -> Any:
        if path.endswith(sidecar.INSTANCE):
            self.looks += 1
            return self.sidecar
        return self.job()

    def log_file(self, path: str, name: str, query: object = None) -> bytes:
        if path.endswith(sidecar.INSTANCE):
            return ended_log(3)
        _, (_, until, code) = self.run()
        told = self.codes and not self.cut and self.now >= until
        return ended_log(code) if told else b""

    def file_get(self, path: str, file: str, query: object = None) -> tuple[None, bytes]:
        said: list[sidecar.Word] = [word for since, word in self.states if since <= self.now]
        if not said:
            raise errors.NotFound("cannot read /state.json: not found")
        since = int((units.time_ms(STARTED) or 0) + 1)
        told = sidecar.State(state=said[-1], since=since, detail="no token lies there yet")
        return None, sidecar.encode(told)

    def last_output(self, path: str, query: object = None) -> tuple[str, ...]:
        return ()

    @contextlib.contextmanager
    def events(self, query: object = None) -> Generator[Server]:
        yield self

    def next(self, seconds: float) -> None:
        self.now += seconds

    def await_exit(self, *, daemon: bool = True) -> None:
        deed = kind.AwaitExit(
            path="/1.0/instances/job", again=True, state_path=VOLUME if daemon else ""
        )
        limits = health.Limits(clock=self.clock, sleep=self.next)
        health.await_exit(cast("incus.Client", self), deed, limits)


def ended_log(code: int) -> bytes:
    """What the server logs of a run that ended with a code."""
    head = "lxc job 20261123080000.000 INFO "
    ended = f"{head}error - error.c:1 - Child <7> ended on error ({code})\n" if code else ""
    return f'{ended}{head}utils - utils.c:1 - Executing script "exe callhook job stop"\n'.encode()


def test_a_job_whose_next_start_nobody_makes_fails_with_the_daemons_own_reason() -> None:
    server = Server()
    server.runs = [(0.0, 40.0, 1)]
    server.states = [(0.0, "waiting-for-token")]
    with pytest.raises(errors.OperationFailed) as caught:
        server.await_exit()
    assert 70 <= server.now < 71  # 30 s after its end: before that nobody had to be there
    assert caught.value.code == "E_HEALTHD"
    assert caught.value.summary == (
        "cannot wait for job to be started again: the health daemon does not watch: "
        "waiting-for-token: no token lies there yet"
    )
    assert caught.value.details == ("job has ended, and waits to be started again",)
    assert server.looks < 10


def test_any_end_is_success_where_no_codes_are_to_be_had_and_only_there() -> None:
    server = Server()
    server.runs = [(0.0, 1.0, 1)]
    server.policy = "no"
    server.codes = False
    server.await_exit(daemon=False)
    assert server.now < 10
    server.codes, server.cut = True, True
    server.now = 0.0
    with pytest.raises(errors.OperationFailed, match="it has ended"):
        server.await_exit(daemon=False)


def test_a_daemon_whose_process_has_ended_is_one_that_starts_nothing() -> None:
    server = Server()
    server.runs = [(0.0, 1.0, 1)]
    server.sidecar = {"status": "Stopped"}
    with pytest.raises(errors.OperationFailed, match="its process ended with exit code 3"):
        server.await_exit()
    assert server.now < 33


def test_a_daemon_that_comes_back_in_time_is_waited_for() -> None:
    server = Server()
    server.runs = [(0.0, 1.0, 1), (58.0, 59.0, 1), (88.0, 89.0, 0)]  # pauses of a minute and less
    server.states = [
        (0.0, "watching"),
        (5.0, "unreachable"),
        (30.0, "watching"),
        (62.0, "starting"),
        (85.0, "watching"),
    ]
    server.await_exit()
    assert 89 <= server.now < 92


def test_without_a_daemons_place_the_longest_pause_is_waited_for() -> None:
    server = Server()
    server.runs = [(0.0, 1.0, 1)]
    with pytest.raises(errors.OperationFailed, match="ended with exit code 1"):
        server.await_exit(daemon=False)
    assert server.now > health.AGAIN_SECONDS


@pytest.mark.parametrize(("code", "hinted"), [(0, True), (1, False)])
def test_a_service_that_shall_run_and_ends_well_is_told_how_a_job_is_written(
    code: int, hinted: bool
) -> None:
    server = Server()
    server.runs = [(0.0, 0.0, code)]
    server.policy = "no"
    server.states = [(0.0, "watching")]
    daemon = health.Daemon(state_path=VOLUME)
    limits = health.Limits(clock=server.clock, sleep=server.next)
    watch = health.Watch(name="job", condition="running", ends=2)
    with pytest.raises(errors.OperationFailed) as caught:
        health.wait(cast("incus.Client", server), {}, (watch,), daemon, limits)
    assert f"exit code {code}" in caught.value.summary
    assert ("service_completed_successfully" in caught.value.hint) is hinted


@pytest.mark.parametrize(
    ("ends", "told", "well"),
    [(0.3, 0.9, False), (0.7, 0.7, True), (60.0, 60.0, True)],
)
def test_what_was_just_started_has_to_run_on_for_a_moment(
    ends: float, told: float, well: bool
) -> None:
    """Its end is in its log at once; the server calls it running until it has cleared up."""
    server = Server()
    server.runs = [(0.0, ends, 0)]
    server.policy = "no"
    server.stopped_at = told
    limits = health.Limits(clock=server.clock, sleep=server.next)
    daemon = health.Daemon(state_path=VOLUME)
    watch = health.Watch(name="job", condition="running", started=True)
    if well:
        health.wait(cast("incus.Client", server), {}, (watch,), daemon, limits)
        assert server.now == pytest.approx(health.SETTLE_SECONDS)
        return
    with pytest.raises(errors.OperationFailed, match="it ended with exit code 0"):
        health.wait(cast("incus.Client", server), {}, (watch,), daemon, limits)
    assert server.now < told


def test_what_ran_before_is_believed_at_once() -> None:
    server = Server()
    server.runs = [(0.0, 60.0, 0)]
    limits = health.Limits(clock=server.clock, sleep=server.next)
    watch = health.Watch(name="job", condition="running")
    daemon = health.Daemon(state_path=VOLUME)
    health.wait(cast("incus.Client", server), {}, (watch,), daemon, limits)
    assert server.now == 0


# --- waiting ------------------------------------------------------------------------------------------

IDLE = "/bin/sh -c 'trap \"exit 0\" TERM; while :; do sleep 1000 & wait $!; done'"
VOLUME = "/1.0/storage-pools/default/volumes/custom/state"


class Stage:
    """A project with instances whose health the test itself tells, as the daemon would."""

    def __init__(self, lab: labs.Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.query = {"project": name}
        server = remotes.Server(name="lab", socket=str(lab.socket))
        self.client = incus.Client(transport.connect(server))
        source = {
            "type": "image",
            "mode": "pull",
            "protocol": "oci",
            "server": f"https://{labs.REGISTRY}",
            "alias": "library/busybox:1",
        }
        pulled = self.client.call(
            "POST", "/1.0/images", {"project": "default"}, {"source": source, "auto_update": False}
        )
        self.fingerprint = pulled["fingerprint"]

    def run(self, name: str, command: str = IDLE, **config: str) -> None:
        recipe = (
            f"lxc.execute.cmd=\nlxc.init.cmd={command}\nlxc.signal.halt=SIGTERM\nlxc.log.level=info"
        )
        made = {
            "name": name,
            "type": "container",
            "profiles": [],
            "config": {"raw.lxc": recipe, "user.healthcheck.test": TEST, **config},
            "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}},
            "source": {"type": "image", "fingerprint": self.fingerprint},
        }
        self.client.call("POST", "/1.0/instances", self.query, made)
        self.start(name)

    def start(self, name: str) -> None:
        path = f"/1.0/instances/{name}/state"
        self.client.call("PUT", path, self.query, {"action": "start", "timeout": 30})

    def tell(self, name: str, **config: str) -> None:
        keys = {f"user.healthcheck.{key}": value for key, value in config.items()}
        self.client.call("PATCH", f"/1.0/instances/{name}", self.query, {"config": keys})

    def soon(self, seconds: float, name: str, **config: str) -> None:
        threading.Timer(seconds, lambda: self.tell(name, **config)).start()

    def wait(
        self, *watches: health.Watch, patience_ms: int = 30_000, alone: bool = False, **limits: Any
    ) -> float:
        """Wait for the daemon's word (or run the checks from here); how many seconds it took."""
        began = time.monotonic()
        daemon = health.Daemon(state_path=VOLUME, state_query=self.query, patience_ms=patience_ms)
        health.wait(
            self.client, self.query, watches, None if alone else daemon, health.Limits(**limits)
        )
        return time.monotonic() - began

    def state(self, word: sidecar.Word, detail: str = "") -> None:
        """What the daemon says of itself."""
        now = int(time.time() * 1000)
        told = sidecar.encode(sidecar.State(state=word, since=now, detail=detail))
        mode = incus.FileStat(type="file", mode=0o600, uid=0, gid=0)
        self.client.file_push(VOLUME, sidecar.STATE_FILE, self.query, stat=mode, content=told)


@pytest.fixture(scope="module")
def stage(lab: labs.Lab) -> Iterator[Stage]:
    name = f"t-health-{os.urandom(3).hex()}"
    lab.api("POST", "/1.0/projects", {"name": name, "config": {"features.images": "false"}})
    made = Stage(lab, name)
    lab.api(
        "POST",
        f"/1.0/storage-pools/default/volumes/custom?project={name}",
        {"name": "state", "type": "custom", "config": {"security.shifted": "true"}},
    )
    made.run(sidecar.INSTANCE)
    made.state("watching")
    yield made
    made.client.close()
    lab.sweep(name)


def test_health_is_seen_as_soon_as_it_is_told(stage: Stage) -> None:
    stage.run("db")
    stage.run("plain", **{"user.healthcheck.test": ""})
    told: list[Mapping[str, str]] = []
    stage.tell("db", status="starting")
    stage.soon(0.7, "db", status="healthy")
    both = health.Watch(name="db"), health.Watch(name="plain", condition="running")
    assert 0.6 < stage.wait(*both, told=told.append) < 1.6
    assert told[0] == {"db": "is starting"}
    assert stage.wait(*both) < 0.5


def test_an_unhealthy_one_is_a_failure_at_once_with_what_its_probe_said(stage: Stage) -> None:
    stage.run("sick", command="/bin/sh -c 'echo cannot bind; exec sleep 1000'")
    stage.soon(0.5, "sick", status="unhealthy", output="connection refused")
    with pytest.raises(errors.OperationFailed) as caught:
        stage.wait(health.Watch(name="sick"))
    assert caught.value.code == "E_UNHEALTHY"
    assert caught.value.details == ("its probe said: connection refused", "cannot bind")


def test_one_that_dies_is_a_failure_at_once_with_its_exit_code(stage: Stage) -> None:
    stage.run("dies", command="/bin/sh -c 'sleep 1; echo out of luck; exit 7'")
    began = time.monotonic()
    with pytest.raises(errors.OperationFailed) as caught:
        stage.wait(health.Watch(name="dies"))
    assert time.monotonic() - began < 5
    assert caught.value.code == "E_EXIT_CODE"
    assert "ended with exit code 7" in caught.value.summary
    assert "out of luck" in caught.value.details


def test_ends_that_a_restart_policy_makes_up_for_are_borne_so_often(stage: Stage) -> None:
    stage.run(
        "loops",
        command="/bin/sh -c 'sleep 0.5; exit 1'",
        **{names.RESTART: "always", "user.healthcheck.test": ""},
    )
    stage.tell("loops", test=TEST)
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(0.2):
            if stage.client.get("/1.0/instances/loops", stage.query)["status"] == "Stopped":
                try:
                    stage.start("loops")
                except errors.IncusError:
                    continue

    thread = threading.Thread(target=again)
    thread.start()
    try:
        with pytest.raises(errors.OperationFailed, match="ended with exit code 1"):
            stage.wait(health.Watch(name="loops", condition="running", ends=1), timeout=30)
    finally:
        ended.set()
        thread.join()


def test_a_completed_job_is_done_and_a_failed_one_is_not(stage: Stage) -> None:
    stage.run("job", command="/bin/sh -c 'sleep 0.5'")
    stage.wait(health.Watch(name="job", condition="completed"), timeout=20)
    stage.run("bad", command="/bin/sh -c 'sleep 0.5; exit 2'")
    with pytest.raises(errors.OperationFailed, match="ended with exit code 2"):
        stage.wait(health.Watch(name="bad", condition="completed"), timeout=20)


@pytest.mark.parametrize(
    ("policy", "starts", "code"), [("on-failure", 2, 0), ("on-failure:1", 1, 1), ("no", 0, 1)]
)
def test_a_job_that_is_started_again_is_borne_as_often_as_its_policy_says(
    stage: Stage, policy: str, starts: int, code: int
) -> None:
    """Docker compose's rule for `service_completed_successfully`: it ends well at the third try."""
    name = f"tries-{starts}"
    script = "echo x >>/root/n; sleep 0.5; test $(wc -l </root/n) -ge 3"
    stage.run(name, command=f"/bin/sh -c '{script}'", **{names.RESTART: policy})
    path = f"/1.0/instances/{name}"

    def again() -> None:
        begun = 0
        while begun < starts and not over.wait(0.2):
            if stage.client.get(path, stage.query)["status"] == "Stopped":
                try:
                    stage.start(name)
                except errors.IncusError:  # it is ending still
                    continue
                begun += 1

    over = threading.Event()
    thread = threading.Thread(target=again)
    thread.start()
    deed = kind.AwaitExit(path=path, query=stage.query, again=True)
    try:
        if code:
            with pytest.raises(errors.OperationFailed, match="ended with exit code 1"):
                health.await_exit(stage.client, deed, health.Limits())
        else:
            health.await_exit(stage.client, deed, health.Limits())
    finally:
        over.set()
        thread.join()
    log = stage.client.log_file(path, "lxc.log", stage.query)
    assert (lxclog.exit_code(log), lxclog.goes_on(log)) == (code, False)


def test_time_and_a_person_end_the_waiting(stage: Stage) -> None:
    stage.run("slow")
    stage.tell("slow", status="starting")
    with pytest.raises(errors.TimedOut) as caught:
        stage.wait(health.Watch(name="slow"), timeout=0.6)
    assert caught.value.details == ("slow is starting",)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(errors.Interrupted):
        stage.wait(health.Watch(name="slow"), interrupted=stop.is_set)
    with pytest.raises(errors.NotFound):
        stage.wait(health.Watch(name="nobody"))


def test_a_daemon_that_does_not_watch_is_a_failure_with_its_own_reason(stage: Stage) -> None:
    stage.run("lonely")
    stage.state("untrusted", "the server knows the certificate no more")
    with pytest.raises(errors.OperationFailed) as caught:
        stage.wait(health.Watch(name="lonely"), patience_ms=1500)
    assert caught.value.code == "E_HEALTHD"
    assert "untrusted: the server knows the certificate no more" in caught.value.summary
    stage.state("watching")
    stage.soon(2.5, "lonely", status="healthy")
    assert stage.wait(health.Watch(name="lonely"), patience_ms=1500) > 2


def test_the_waiting_outlives_a_restart_of_the_server(stage: Stage) -> None:
    stage.run("patient")
    threading.Timer(0.5, stage.lab.restart_incusd).start()
    stage.soon(4.0, "patient", status="healthy")
    assert stage.wait(health.Watch(name="patient"), timeout=30) > 3


def test_a_plans_step_waits_by_the_same_rule(stage: Stage) -> None:
    stage.run("step")
    deed = kind.AwaitHealthy(
        path="/1.0/instances/step", query=stage.query, state_path=VOLUME, state_query=stage.query
    )
    stage.soon(0.5, "step", status="healthy")
    health.await_healthy(stage.client, deed, health.Limits())
    stage.tell("step", status="unhealthy")
    with pytest.raises(errors.OperationFailed, match="it is unhealthy"):
        health.await_healthy(stage.client, deed, health.Limits())


def test_without_a_daemon_the_checks_are_run_from_here(stage: Stage) -> None:
    keys = {"user.healthcheck.interval": "200ms", "user.healthcheck.start_interval": "200ms"}
    test = json.dumps(["CMD", "test", "-e", "/tmp/ready"])
    stage.run(
        "alone",
        command="/bin/sh -c 'sleep 2; touch /tmp/ready; exec sleep 1000'",
        **keys,
        **{"user.healthcheck.retries": "50", "user.healthcheck.test": test},
    )
    assert 1.0 < stage.wait(health.Watch(name="alone"), alone=True, timeout=30) < 6
    seen = health.Watch(name="alone", checked=True)
    assert stage.wait(seen, alone=True, timeout=30) < 1.0  # not once more in this run
    told = stage.client.get("/1.0/instances/alone", stage.query)["config"]
    assert names.HEALTH_STATUS not in told
    stage.run(
        "sickly",
        **keys,
        **{
            "user.healthcheck.test": '["CMD-SHELL","echo out of order; exit 1"]',
            "user.healthcheck.retries": "2",
        },
    )
    with pytest.raises(errors.OperationFailed) as caught:
        stage.wait(health.Watch(name="sickly"), alone=True, timeout=30)
    assert caught.value.details[0] == "its probe said: out of order"
