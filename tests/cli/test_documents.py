"""The JSON documents: what is in them, what never is, and that the committed schemas describe them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import msgspec
import pytest

from ic import errors
from ic.cli import documents
from ic.plan import changes
from ic.resources import kind

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Schema:
    """As much of JSON Schema as the committed ones use; an unknown keyword is a failure."""

    KNOWN = frozenset(
        {"$schema", "$defs", "$ref", "title", "description", "default", "type", "enum", "items"}
        | {"properties", "required", "anyOf", "additionalProperties"}
    )

    def __init__(self, name: str) -> None:
        with open(os.path.join(ROOT, "docs/schemas", f"{name}.json"), encoding="utf-8") as file:
            self.root: dict[str, Any] = json.load(file)

    def fits(self, value: Any, schema: dict[str, Any], where: str) -> bool:
        try:
            self.check(value, schema, where)
        except AssertionError:
            return False
        return True

    def check(self, value: Any, schema: dict[str, Any] | None = None, where: str = "$") -> None:
        schema = self.root if schema is None else schema
        assert set(schema) <= self.KNOWN, (where, schema)
        if "$ref" in schema:
            self.check(value, self.root["$defs"][schema["$ref"].rpartition("/")[2]], where)
            return
        if "anyOf" in schema:
            assert any(self.fits(value, one, where) for one in schema["anyOf"]), (where, value)
            return
        if "enum" in schema:
            assert value in schema["enum"], (where, value)
            return
        types = {
            "object": dict,
            "array": list,
            "string": str,
            "integer": int,
            "boolean": bool,
            "null": type(None),
        }
        assert isinstance(value, types[schema["type"]]), (where, value, schema["type"])
        is_open = schema == {"type": "object"}  # its fields are somebody else's
        if isinstance(value, dict) and not is_open:
            missing = set(schema.get("required", ())) - set(value)
            assert not missing, (where, missing)
            for key, one in value.items():
                inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
                assert isinstance(inner, dict), (where, f"{key} is not described")
                self.check(one, inner, f"{where}.{key}")
        if isinstance(value, list):
            for index, one in enumerate(value):
                self.check(one, schema["items"], f"{where}[{index}]")


def plain(document: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(document))


CHANGE = changes.Change(
    address="instance:web/1",
    action="restart",
    cause="changed in the files",
    fields=(
        kind.FieldChange(path="config.limits.cpu", old="1", new="2", impact="in-place"),
        kind.FieldChange(
            path="config.environment.PASSWORD",
            old="hunter1",
            new="hunter2",
            impact="restart",
            redacted=True,
        ),
    ),
    steps=(
        kind.Step(
            id="x",
            address="instance:web/1",
            event="inst.update",
            deed=kind.Merge(path="/x", set={("config", "environment.PASSWORD"): "hunter2"}),
        ),
    ),
)
PLAN = changes.Plan(
    stack="shop",
    project="shop",
    server="local",
    changes=(CHANGE,),
    diagnostics=(errors.Diagnostic(severity="warning", code="W", summary="careful"),),
)
ERROR = errors.ComposeError(
    "cannot read the stack: no",
    details=("a",),
    hint="b",
    diagnostics=(
        errors.Diagnostic(
            severity="error", code="E", summary="s", position=errors.Position("f", 1, 2), hint="h"
        ),
    ),
)
PORT = documents.Port(protocol="tcp", host="0.0.0.0", published=80, target=8080)
EXAMPLES: dict[str, documents.Document] = {
    "ic.plan-1": documents.plan(PLAN),
    "ic.apply-1": documents.Apply(
        run="a1b2c3d4",
        status="failed",
        changes=(documents.change(CHANGE),),
        done=("image:x",),
        failed=(
            documents.Failure(
                address="instance:web/1", step="x", code="E", summary="s", details=("d",), hint=""
            ),
        ),
        not_started=(),
        next="ic apply",
    ),
    "ic.history-1": documents.History(
        stack="shop",
        lineage="abc",
        runs=(
            documents.Run(
                run="a1b2c3d4",
                generation=1,
                command="apply",
                actor="0@host",
                started="2026-11-23T06:00:00.000Z",
                ended=None,
                status="running",
                counts={"create": 1},
                events=(
                    documents.Event(
                        n=2,
                        time="2026-11-23T06:00:00.000Z",
                        kind="inst.create",
                        address="instance:web/1",
                        phase="intent",
                        status=None,
                        ms=None,
                        error=None,
                    ),
                ),
            ),
        ),
    ),
    "ic.healthd-1": documents.HealthdStatus(
        stack="shop",
        healthd=documents.Healthd(
            state="watching",
            detail="",
            since="2026-11-23T10:00:00.000Z",
            watched=2,
            misconfigured=("web: user.restart",),
        ),
        instances=(),
    ),
    "ic.log-1": documents.HealthdLog(
        stack="shop",
        lines=({"time": "2024-05-01T00:00:00.000Z", "event": "start"}, {"text": "cut"}),
    ),
    "ic.check-1": documents.HealthdCheck(
        stack="shop",
        address="instance:web/1",
        healthy=False,
        result="exit",
        exit_code=1,
        output="no route\n",
        leaked=(),
    ),
    "ic.ps-1": documents.Ps(
        stack="shop",
        instances=(
            documents.Instance(
                name="web",
                service="web",
                replica=1,
                state="exited",
                exit_code=3,
                health=None,
                image="busybox",
                addresses=("10.0.0.2",),
                ports=(PORT,),
                created="2026-11-23T06:00:00.000Z",
                started=None,
            ),
        ),
    ),
    "ic.version-1": documents.Version(
        ic="1",
        python="3",
        journal=1,
        server=documents.Server(version="7.0.2", api_extensions_missing=("x",)),
    ),
    "ic.error-1": documents.error(ERROR),
}


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_each_document_is_described_by_its_schema(name: str) -> None:
    document = plain(EXAMPLES[name])
    Schema(name).check(document)
    assert document["schema"] == name.replace("-", "/")
    broken = {key: value for key, value in document.items() if key != "schema"}
    with pytest.raises(AssertionError):
        Schema(name).check(broken)
    with pytest.raises(AssertionError):
        Schema(name).check({**document, "unheard-of": 1})


def test_a_redacted_field_shows_neither_value_and_no_request_is_in_a_document() -> None:
    text = json.dumps(plain(documents.plan(PLAN)))
    assert "hunter" not in text
    assert "steps" not in text
    found = plain(documents.plan(PLAN))["changes"][0]["fields"]
    assert found[1] == {
        "path": "config.environment.PASSWORD",
        "old": None,
        "new": None,
        "impact": "restart",
        "redacted": True,
    }
    assert (found[0]["old"], found[0]["new"]) == ("1", "2")


def test_a_plan_counts_its_actions_and_carries_warnings_of_files_and_plan() -> None:
    warning = errors.Diagnostic(severity="warning", code="F", summary="of the files")
    found = plain(documents.plan(PLAN, (warning,)))
    assert found["summary"] == {"restart": 1}
    assert [one["code"] for one in found["diagnostics"]] == ["F", "W"]
    assert found["diagnostics"][0]["file"] is None


def test_an_error_tells_where() -> None:
    found = plain(documents.error(ERROR))
    assert found["exit"] == 1
    assert found["diagnostics"][0]["file"] == "f"
    assert (found["diagnostics"][0]["line"], found["diagnostics"][0]["column"]) == (1, 2)


def test_schemas_carry_their_version_in_their_name() -> None:
    assert all(re.fullmatch(r"ic\.[a-z]+-\d+", name) for name in documents.DOCUMENTS)
