"""Obligation: the journal alone tells what ic made, to anyone who can read the project, and no secret."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from tests.e2e import ledger, scenario


def show(case: scenario.Scenario, *, cut_off: bool = False) -> ledger.Ledger:
    """The journal as `incus project show` prints it, with the run object's lines when asked."""
    profile = ""
    if cut_off:
        names = sorted(name for name in case.profiles() if name.startswith("ic.lock."))
        words = ["incus", "profile", "show", "--project", case.name, names[-1]]
        profile = case.lab.run(words, check=True).stdout
    project = case.lab.run(["incus", "project", "show", case.name], check=True).stdout
    return ledger.read(project, profile)


FILE: dict[str, Any] = {
    "services": {
        "web": {
            "image": "nginx:alpine",
            "ports": ["18411:80"],
            "environment": {"A": "1", "TOKEN": "s3cret"},
            "labels": {"l/with.odd~chars": "x"},
            "volumes": ["pages:/usr/share/nginx/html", "./:/here:ro"],
        },
        "db": {"image": "lab/worker:1", "user": "worker", "scale": 2},
        "job": {"image": "lab/exit:1"},
    },
    "volumes": {"pages": {"labels": {"of": "web"}}},
}


def test_the_lines_of_project_show_fold_to_what_incus_has(case: scenario.Scenario) -> None:
    case.apply(FILE)
    assert ledger.differences(show(case), case.marked()) == []

    changed = json.loads(json.dumps(FILE))
    changed["services"]["web"]["environment"] = {"A": "2"}
    changed["services"]["web"]["labels"] = {"other": "y"}
    changed["services"]["db"]["scale"] = 1
    changed["services"]["db"]["image"] = "lab/worker:2"
    changed["services"]["new"] = scenario.idle()
    del changed["services"]["job"]
    case.apply(changed)
    told = show(case)
    assert ledger.differences(told, case.marked()) == []
    power = {a: r["power"] for a, r in told.resources.items() if a.startswith("instance:")}
    assert power == {
        "instance:web/1": "running",
        "instance:db/1": "running",
        "instance:new/1": "running",
        "instance:ic-healthd": "running",
    }
    digests = {a: r["facts"] for a, r in told.resources.items() if a.startswith("image:")}
    assert all("digest" in json.dumps(facts) for facts in digests.values())
    assert len(digests) >= 3
    assert told.open == {}
    assert len([line for line in told.lines if line.get("k") == "end"]) == 2

    case.ic("down")
    told = show(case)
    assert ledger.differences(told, case.marked()) == []
    assert not [address for address in told.resources if address.startswith("instance:")]
    # History says the same as the lines do.
    runs = [run for run in case.runs() if run["command"] != "healthd"]
    assert [run["command"].split()[0] for run in runs] == ["down", "apply", "apply"]
    assert [run["status"] for run in runs] == ["ok"] * 3
    full = case.ic("history", "--json", runs[1]["run"]).json()["runs"][0]
    kinds = {event["kind"] for event in full["events"]}
    assert {"inst.create", "inst.delete", "inst.update"} <= kinds


def test_an_images_healthcheck_brings_the_health_daemon(case: scenario.Scenario) -> None:
    case.compose({"services": {"db": {"image": "lab/worker:1", "scale": 3}}})
    plan = case.ic("plan", "--json").json()
    causes = {one["address"]: one["cause"] for one in plan["changes"]}
    assert causes["instance:ic-healthd"] == "needed by db (healthcheck)"
    assert [one for one in plan["diagnostics"] if "HEALTH" in one["code"]] == []


def test_every_write_was_announced_in_the_journal_before_it_was_sent(
    case: scenario.Scenario,
) -> None:
    """Write-ahead as the server sees it: the intent's line is acknowledged before the call begins."""
    case.compose(FILE)
    with case.watched() as proxy:
        case.ic("apply", "-y")
    acknowledged: dict[str, float] = {}
    stamped = 0
    for passed in sorted(proxy.writes, key=lambda one: one.ended):
        if passed.path.startswith(("/1.0/profiles", "/1.0/projects")):
            for line in journal_lines(passed.body):
                if line.get("p") == "i":
                    acknowledged.setdefault(str(line["n"]), passed.ended)
    for passed in proxy.writes:
        if passed.path.startswith(("/1.0/profiles", "/1.0/projects")) or not passed.body:
            continue
        if not passed.body.startswith(b"{"):
            continue
        config = json.loads(passed.body).get("config") or {}
        event = config.get("user.ic.ev")
        if event:
            stamped += 1
            number = event.split("/")[1]
            assert number in acknowledged, (
                f"{passed.method} {passed.path}: {event} was never announced"
            )
            assert acknowledged[number] <= passed.began, (
                f"{passed.method} {passed.path} came too early"
            )
    assert stamped >= 7


def journal_lines(body: bytes) -> list[dict[str, Any]]:
    """The lines in a body that writes the journal."""
    config = json.loads(body).get("config") or {} if body else {}
    texts = [v for k, v in config.items() if k == "user.ic.wal" or k.startswith("user.ic.j.")]
    return [json.loads(line) for text in texts for line in ledger.opened(text).splitlines()]


def test_no_secret_is_written_anywhere_but_to_incus(case: scenario.Scenario) -> None:
    """Seeded secrets in every place a file can hold them, then everything ic wrote or said is searched."""
    secrets = {
        name: f"{name}-{uuid.uuid4().hex}"
        for name in ("env", "file", "dotenv", "cmd", "label", "old")
    }
    auth = base64.b64encode(b"lab:lab-password").decode()
    case.write(
        "home/.docker/config.json", json.dumps({"auths": {"127.0.0.1:5001": {"auth": auth}}})
    )
    case.write("secret.env", f"FROM_FILE={secrets['file']}\n")
    case.write(".env", f"DOTENV={secrets['dotenv']}\n")
    service: dict[str, Any] = {
        "image": "127.0.0.1:5001/private/busybox:1",
        "command": [*scenario.IDLE, secrets["cmd"]],
        "environment": {"PASSWORD": secrets["env"], "INTERPOLATED": "${DOTENV}"},
        "env_file": "secret.env",
        "labels": {"note": secrets["label"]},
    }
    case.compose({"services": {"web": service}})
    case.env = {
        "HOME": f"{case.inside}/home",
        "TMPDIR": f"{case.inside}/tmp",
        "XDG_CACHE_HOME": f"{case.inside}/home/.cache",
        "IC_CACHE_DIR": f"{case.inside}/home/.ic",
    }
    (case.directory / "tmp").mkdir()
    given = {path for path in case.directory.rglob("*") if path.is_file()}
    said = [
        case.ic("plan", "--out", "./saved.icplan"),
        case.ic("apply", "-y", "./saved.icplan", "--json"),
    ]
    environment = case.instance("web")["config"]
    assert environment["environment.PASSWORD"] == secrets["env"]
    assert environment["environment.FROM_FILE"] == secrets["file"]
    assert environment["environment.INTERPOLATED"] == secrets["dotenv"]

    service["environment"]["PASSWORD"] = secrets["old"]
    case.compose({"services": {"web": service, "bad": {**service, "entrypoint": ["/no/such"]}}})
    said += [case.ic("plan"), case.ic("--debug", "plan", "--json")]
    said += [case.ic("--progress", "json", "apply", "-y", code=1)]
    said += [case.ic("history"), case.ic("history", "--json"), case.ic("ps", "--json")]
    said += [case.ic("destroy", "-y", code=None)] if not case.volumes() else []
    case.apply({"services": {"web": service}})
    texts = {f"ic {' '.join(done.argv)}": done.out + done.err for done in said}
    if case.exists():
        texts["project"] = json.dumps(case.project())
        texts["profiles"] = json.dumps(case.profiles())
        texts["networks"] = json.dumps(case.networks())
    for path in case.directory.rglob("*"):
        if path.is_file() and path not in given:
            texts[str(path)] = path.read_bytes().decode("latin-1")
    assert any("saved.icplan" in name for name in texts)
    hidden = {**secrets, "password": "lab-password", "auth": auth}
    shown = [
        f"{name} in {where}"
        for where, text in texts.items()
        for name, value in hidden.items()
        if value in text
    ]
    assert shown == []


def test_a_damaged_journal_is_told_and_its_hint_mends_it(case: scenario.Scenario) -> None:
    """Nothing is changed before a person has typed what the hint says, and no volume is lost by it."""

    def file(**labels: str) -> dict[str, Any]:
        web = scenario.idle(labels=labels, volumes=["data:/data"])
        return {"services": {"web": web}, "volumes": {"data": {}}}

    case.apply(file())
    case.apply(file(a="1"))
    case.run("web", "sh", "-c", "echo kept >/data/file")
    config = case.project()
    segment = max(key for key in config if key.startswith("user.ic.j."))
    broken = {**config, segment: config[segment].replace('"p":"o"', '"p":"0"', 1)}
    assert broken != config
    case.lab.api("PUT", f"/1.0/projects/{case.name}", {"config": broken, "description": ""})
    before = scenario.everything(case.lab)
    assert "apply" in case.ic("history", code=None).out
    case.compose(file(a="2"))
    done = case.ic("apply", "-y", code=4)
    assert case.ic("down", code=4).code == 4
    assert scenario.everything(case.lab) == before

    uuid, started = case.uuid("web"), case.started("web")
    *commands, last = done.err.split("  hint: ")[1].splitlines()[1:]
    assert last.strip() == "ic apply"
    case.lab.run(["sh", "-ec", "\n".join(commands)], cwd=case.inside, check=True)
    case.ic("apply", "-y")
    assert case.plan() == {}
    assert case.instance("web")["config"]["user.label.a"] == "2"
    assert (case.uuid("web"), case.started("web")) == (uuid, started)
    assert case.read_volume("data", "/file") == "kept\n"
    assert next(run["status"] for run in case.runs()) == "ok"
