"""A second reader of the journal: from what `incus project show` prints to what Incus should hold.

Written from docs/journal-format.md and from nothing of ic: plain JSON, hashes, and this file. Enters:
the text of `incus project show NAME` (and, for a run that was cut off, of its run object by `incus profile
show`). Leaves: the lines in order, checked, and the state they fold to.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import zlib
from collections.abc import Mapping
from typing import Any

import yaml


@dataclasses.dataclass
class Ledger:
    """The journal as read: its lines, and the resources as last applied."""

    lineage: str
    key: bytes
    lines: list[dict[str, Any]]
    resources: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    open: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def runs(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("k") == "run"]

    def digest(self, text: str) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()[:24]


def read(project_show: str, profile_show: str = "") -> Ledger:
    """Read, check and fold. AssertionError tells what is wrong with the journal."""
    config = yaml.safe_load(project_show)["config"]
    head = json.loads(config["user.ic.head"])
    segments = sorted(key for key in config if key.startswith("user.ic.j."))
    texts: list[str] = []
    for key in segments:
        text = opened(config[key])
        first = json.loads(text.splitlines()[0])["n"]
        assert key == f"user.ic.j.{first:08d}", f"{key} begins with {first}"
        texts += text.splitlines()
    chain = hashlib.sha256(f"ic journal {head['lin']}".encode()).hexdigest()[:16]
    seen = 0
    lines: list[dict[str, Any]] = []
    for text in texts:
        assert text.isascii()
        assert text.isprintable()
        line = json.loads(text)
        assert line["n"] == seen + 1, f"{line['n']} follows {seen}"
        if line.get("k") == "run" and "pc" in line:
            assert line["pc"] == chain, f"the run line {line['n']} names another chain"
        chain = hashlib.sha256(chain.encode() + text.encode() + b"\n").hexdigest()[:16]
        seen = line["n"]
        lines.append(line)
    assert (head["n"], head["c"]) == (seen, chain), "head does not name the last line"
    if profile_show:
        wal = yaml.safe_load(profile_show)["config"].get("user.ic.wal", "")
        for text in opened(wal).splitlines():
            line = json.loads(text)
            if line["n"] > seen:
                assert line["n"] == seen + 1
                seen = line["n"]
                lines.append(line)
    ledger = Ledger(head["lin"], bytes.fromhex(config["user.ic.key"]), lines)
    for line in lines:
        fold(ledger, line)
    return ledger


def opened(value: str) -> str:
    if value.startswith("z:"):
        return zlib.decompress(base64.b64decode(value[2:])).decode()
    return value


def fold(ledger: Ledger, line: Mapping[str, Any]) -> None:
    """Take in one line: an intent waits for its outcome; `ok` applies it."""
    phase = line.get("p")
    if phase == "i":
        ledger.open[line["n"]] = dict(line)
        return
    if phase != "o":
        return
    intent = ledger.open.pop(line["i"], None)
    assert intent is not None, f"{line['n']} is an outcome of {line['i']}, which is no open intent"
    effect = intent.get("w", {})
    address = intent.get("o", "")
    if effect.get("gone") and line["s"] in ("ok", "superseded"):
        ledger.resources.pop(address, None)
    elif line["s"] == "ok" and not effect.get("gone"):
        fresh = intent["k"].endswith(".create")
        old = {} if fresh else ledger.resources.get(address, {})
        fields = dict(old.get("fields", {}))
        for path in effect.get("unset", ()):
            fields.pop(path, None)
        fields.update(effect.get("set", {}))
        ledger.resources[address] = {
            "name": effect.get("name") or old.get("name", ""),
            "pool": effect.get("pool") or old.get("pool", ""),
            "power": effect.get("power") or old.get("power", ""),
            "facts": {**old.get("facts", {}), **effect.get("facts", {}), **line.get("w", {})},
            "fields": fields,
        }


def found(body: Mapping[str, Any], path: str) -> Any:
    """The value of a journaled path in an Incus body."""
    node: Any = body
    for part in path.split("/"):
        if not isinstance(node, dict):
            return None
        node = node.get(part.replace("~1", "/").replace("~0", "~"))
    return node


def differences(ledger: Ledger, live: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the journal and Incus disagree. `live` has the bodies of everything but images, by address."""
    told = {address for address in ledger.resources if not address.startswith("image:")}
    wrong = [f"{each} is in the journal and not in Incus" for each in sorted(told - set(live))]
    wrong += [f"{each} is in Incus and not in the journal" for each in sorted(set(live) - told)]
    for address in sorted(told & set(live)):
        resource, body = ledger.resources[address], live[address]
        if resource["name"] != body["name"]:
            wrong.append(f"{address} is called {body['name']}, the journal says {resource['name']}")
        for path, value in sorted(resource["fields"].items()):
            have = found(body, path)
            if isinstance(value, dict):
                same = have is not None and ledger.digest(have) == value["$h"]
            else:
                same = have == value
            if not same:
                wrong.append(f"{address} {path}: the journal has {value!r}, Incus has {have!r}")
    return wrong
