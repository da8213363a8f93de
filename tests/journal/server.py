"""An Incus server in memory, as far as the journal can see it: profiles and projects.

It is held to the real one by tests/journal/test_server.py, which runs the same script against both. On top
of what a server does it can fail on purpose: `fault` is called around every request and may raise, or
change the world, before and after it takes effect.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ic import errors

REQUEST = 1024 * 1024


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a request brings back."""

    metadata: Any = None
    etag: str = ""
    date_ms: int = 0


class Call(msgspec.Struct, frozen=True):
    """One request as it was seen."""

    method: str
    path: str
    status: int


#: Moment, method, path. The moment is "before", "after", or "between": a project is written in two
#: transactions, and somebody else may write it between the check of If-Match and the write.
Fault = Callable[[str, str, str], None]


def quiet(moment: str, method: str, path: str) -> None:
    """No fault."""


class Server:
    """Profiles and projects in memory. Every request is atomic; several threads may call."""

    def __init__(self) -> None:
        self.projects: dict[str, dict[str, Any]] = {}
        self.profiles: dict[str, dict[str, dict[str, Any]]] = {}
        self.calls: list[Call] = []
        self.fault: Fault = quiet
        self.forbidden: set[tuple[str, str]] = set()  # (method, beginning of the path)
        self.date_ms = 0
        self._lock = threading.RLock()

    # --- what the journal calls ---

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        *,
        etag: str | None = None,
        timeout: float = 60.0,
    ) -> Reply:
        """One request."""
        self.fault("before", method, path)
        with self._lock:
            try:
                reply = self._answer(method, path, dict(query or {}), body, etag)
            except errors.IncusError as error:
                self.calls.append(Call(method, path, _STATUS.get(type(error), 500)))
                raise
            self.calls.append(Call(method, path, 200))
        self.fault("after", method, path)
        return reply

    # --- for tests ---

    def create_project(self, name: str, config: Mapping[str, str]) -> None:
        """POST /1.0/projects, with what the server adds by itself."""
        defaults = {"features.images": "true", "features.profiles": "true"}
        self.projects[name] = {
            "name": name,
            "description": "",
            "config": {**defaults, **config},
        }
        self.profiles[name] = {"default": {"name": "default", "description": "", "config": {}}}

    def config(self, project: str) -> dict[str, str]:
        """A project's config, for reading."""
        return dict(self.projects[project]["config"])

    def profile_configs(self, project: str) -> dict[str, dict[str, str]]:
        """All profiles of a project: name -> config."""
        return {name: dict(one["config"]) for name, one in self.profiles[project].items()}

    def count(self, method: str) -> int:
        """How many requests of a method were answered."""
        return sum(1 for call in self.calls if call.method == method)

    # --- the server ---

    def _answer(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Mapping[str, object] | None,
        etag: str | None,
    ) -> Reply:
        if any(method == verb and path.startswith(start) for verb, start in self.forbidden):
            raise errors.Forbidden(f"cannot {method} {path}: not authorized")
        if body is not None and len(msgspec.json.encode(body)) > REQUEST:
            raise errors.OperationFailed("cannot change it: http: request body too large")
        parts = path.removeprefix("/1.0/").split("/")
        if parts[0] == "projects":
            return self._project(method, parts[1], body, etag)
        project = query["project"]
        if project not in self.profiles:
            raise errors.NotFound(f"cannot read project {project}: Project not found")
        profiles = self.profiles[project]
        if len(parts) == 1:
            return self._profiles(method, profiles, body)
        return self._profile(method, profiles, parts[1], body)

    def _project(
        self, method: str, name: str, body: Mapping[str, object] | None, etag: str | None
    ) -> Reply:
        if name not in self.projects:
            raise errors.NotFound(f"cannot read project {name}: Project not found")
        project = self.projects[name]
        if method == "GET":
            return self._reply(msgspec.json.decode(msgspec.json.encode(project)), tag(project))
        assert method == "PUT"
        assert body is not None
        if etag and etag != tag(project):
            raise errors.PreconditionFailed("cannot change project: it was changed meanwhile")
        self.fault("between", method, f"/1.0/projects/{name}")
        project = self.projects[name]
        project["config"] = _set({}, body["config"])
        project["description"] = body["description"]
        return self._reply({})

    def _profiles(
        self, method: str, profiles: dict[str, Any], body: Mapping[str, object] | None
    ) -> Reply:
        if method == "GET":
            return self._reply(msgspec.json.decode(msgspec.json.encode(list(profiles.values()))))
        assert method == "POST"
        assert body is not None
        name = str(body["name"])
        if name in profiles:
            raise errors.Conflict(f"cannot create profile {name}: The profile already exists")
        profiles[name] = {
            "name": name,
            "description": body.get("description", ""),
            "config": _set({}, body["config"]),
        }
        return self._reply()

    def _profile(
        self,
        method: str,
        profiles: dict[str, Any],
        name: str,
        body: Mapping[str, object] | None,
    ) -> Reply:
        if name not in profiles:
            raise errors.NotFound(f"cannot change profile {name}: Profile not found")
        profile = profiles[name]
        if method == "GET":
            return self._reply(msgspec.json.decode(msgspec.json.encode(profile)), tag(profile))
        if method == "DELETE":
            del profiles[name]
            return self._reply({})
        assert body is not None
        if method == "POST":
            target = str(body["name"])
            if target in profiles:
                raise errors.Conflict(f"cannot rename profile {name}: it already exists")
            profile["name"] = target
            profiles[target] = profiles.pop(name)
            return self._reply()
        base = profile["config"] if method == "PATCH" else {}
        profile["config"] = _set(base, body["config"])
        return self._reply({})

    def _reply(self, metadata: Any = None, etag: str = "") -> Reply:
        return Reply(metadata=metadata, etag=etag, date_ms=self.date_ms)


_STATUS: dict[type[errors.IncusError], int] = {
    errors.NotFound: 404,
    errors.Forbidden: 403,
    errors.PreconditionFailed: 412,
    errors.OperationFailed: 400,
}


def tag(body: object) -> str:
    """An ETag: equal bodies have equal ones."""
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()


def _set(base: Mapping[str, str], changes: Any) -> dict[str, str]:
    """Config with changes in it; an empty value removes its key."""
    merged = {**base, **changes}
    return {key: value for key, value in merged.items() if value != ""}


class Clock:
    """A clock that moves when somebody sleeps, or when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def boottime(self) -> float:
        """Seconds."""
        return self.now

    def wall(self) -> float:
        """Seconds."""
        return 1_700_000_000.0 + self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
