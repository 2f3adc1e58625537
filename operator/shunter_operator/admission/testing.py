"""AdmissionReviews as the API server writes them, and an API server in memory for the webhooks."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shunter_operator.admission.review import Object, Request, parse
from shunter_runtime.kube_api import (
    MERGE,
    Conflict,
    KubeError,
    Listing,
    NotFound,
    Unreachable,
    WatchEvent,
)

PLURALS = {"ModelPool": "modelpools", "RoutingPolicy": "routingpolicies", "Scale": "modelpools"}


def review_body(
    operation: str, new: Object | None, old: Object | None = None, **more: Any
) -> bytes:
    """A review of one object; `more` goes into the request, in its JSON names."""
    shown = new or old
    assert shown is not None
    metadata = shown.get("metadata", {})
    scale = {"subResource": "scale"} if shown["kind"] == "Scale" else {}
    request = {
        "uid": "u-1",
        "kind": {"kind": shown["kind"]},
        "resource": {
            "group": "shunter.dev",
            "version": "v1alpha1",
            "resource": PLURALS[shown["kind"]],
        },
        "operation": operation,
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "object": new,
        "oldObject": old,
        **scale,
        **more,
    }
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return msgspec.json.encode(body)


def request_of(
    operation: str, new: Object | None, old: Object | None = None, **more: Any
) -> Request:
    return parse(review_body(operation, copy.deepcopy(new), copy.deepcopy(old), **more))


@dataclass
class FakeApi:
    """Objects by path; lists, watches and merge patches. `fails` is raised by the next patch,
    `rivals` patches are lost to another writer; `down` answers nothing."""

    objects: dict[str, Object] = field(default_factory=dict)
    patches: list[tuple[str, Object]] = field(default_factory=list)
    lists: int = 0
    down: bool = False
    fails: KubeError | None = None
    rivals: int = 0
    _events: list[tuple[str, WatchEvent]] = field(default_factory=list)  # version: index + 1
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, path: str, value: Object) -> None:
        """Creates or replaces."""
        known = "MODIFIED" if path in self.objects else "ADDED"
        self._tell(known, path, value)

    def delete(self, path: str) -> None:
        self._tell("DELETED", path, self.objects.pop(path))

    async def get(self, path: str) -> Object:
        if path not in self.objects:
            raise NotFound(404, path)
        return copy.deepcopy(self.objects[path])

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
        self.lists += 1
        if self.down:
            raise Unreachable("the API is down")
        items = [v for at, v in self.objects.items() if _selected(at, v, path, query or {})]
        return Listing(tuple(copy.deepcopy(items)), str(len(self._events)))

    async def watch(
        self, path: str, resource_version: str, query: Mapping[str, str], timeout_s: float
    ) -> AsyncGenerator[WatchEvent]:
        seen = int(resource_version)
        while True:
            for at, event in self._events[seen:]:
                seen += 1
                if _selected(at, event.object, path, query):
                    yield copy.deepcopy(event)
            await self._told.wait()

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object:
        assert content_type == MERGE
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        if path not in self.objects:
            raise NotFound(404, path)
        found = self.objects[path]
        if self.rivals:
            self.rivals -= 1
            self.put(path, found)
        elif body["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]:
            self.patches.append((path, body))
            self.put(path, _merged(found, body))
            return self.objects[path]
        raise Conflict(409, path)

    def _tell(self, kind: str, path: str, value: Object) -> None:
        version = str(len(self._events) + 1)
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": version}}
        if kind != "DELETED":
            self.objects[path] = value
        self._events.append((path, WatchEvent(kind, value)))
        told, self._told = self._told, asyncio.Event()
        told.set()


def _selected(at: str, value: Object, path: str, query: Mapping[str, str]) -> bool:
    """`path` is a folder, of one namespace or of all; `query` may ask for one name."""
    folder, _, name = at.rpartition("/")
    group, _, plural = path.rpartition("/")
    whole = folder == path or (folder.startswith(f"{group}/") and folder.endswith(f"/{plural}"))
    wanted = query.get("fieldSelector", "")
    return whole and wanted in ("", f"metadata.name={name}")


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    made = dict(value) if isinstance(value, dict) else {}
    for key, inner in patch.items():
        if inner is None:
            made.pop(key, None)
        else:
            made[key] = _merged(made.get(key), inner)
    return made
