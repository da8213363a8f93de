"""`ic ps`: what the server lists, as rows."""

from __future__ import annotations

from typing import Any

from ic import errors, names
from ic.cli.commands import ps

MARKED = {names.STACK: "shop", names.RESOURCE: "web/1", names.IMAGE: "nginx@sha256:1"}
WEB = {"name": "web", "status": "Running", "config": MARKED, "created_at": "2026-11-23T06:00:00Z"}


class Server:
    """Answers of the instances' list and of single instances."""

    def __init__(self, listed: list[dict[str, Any]], single: dict[str, dict[str, Any]]) -> None:
        self.listed = listed
        self.single = single

    def get(self, path: str, query: object = None) -> object:
        del query
        if path == "/1.0/instances":
            return self.listed
        name = path.rpartition("/")[2]
        if name not in self.single:
            raise errors.NotFound(f"cannot read instance {name}: not found")
        return self.single[name]


def rows(listed: list[dict[str, Any]], **single: dict[str, Any]) -> list[tuple[str, str]]:
    found = ps.instances(Server(listed, single), "shop")  # pyright: ignore[reportArgumentType]
    return [(row.name, row.state) for row in found]


def test_an_instance_that_is_ending_is_listed_although_the_server_lists_its_name_alone() -> None:
    ending = {"name": "web", "status": "Error", "config": {}}
    assert rows([ending], web=WEB) == [("web", "running")]


def test_an_instance_that_is_gone_meanwhile_is_not_listed() -> None:
    assert rows([{"name": "web", "status": "Error", "config": None}]) == []


def test_only_the_marked_ones_are_listed() -> None:
    other = {**WEB, "name": "other", "config": {**MARKED, names.STACK: "other"}}
    bare = {**WEB, "name": "bare", "config": {"user.x": "1"}}
    assert rows([WEB, other, bare]) == [("web", "running")]
