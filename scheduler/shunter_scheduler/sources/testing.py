"""A Kubernetes API in memory, as far as a source lists and watches it, and objects to put there."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shunter_runtime.kube_api import Gone, Listing, Object, Unreachable, WatchEvent
from shunter_scheduler.sources.kubernetes_objects import LABEL_POOL, LABEL_PROFILE, LABEL_REVISION

API = "shunter.dev/v1alpha1"
FOLDERS: Mapping[str, str] = {
    "ModelPool": f"/apis/{API}/modelpools",
    "RoutingPolicy": f"/apis/{API}/routingpolicies",
    "Pod": "/api/v1/pods",
}


@dataclass(slots=True)
class FakeKubernetes:
    """`ListAndWatch` over all namespaces. Counts what it is asked."""

    down: bool = False
    lists: int = 0
    watches: int = 0
    _objects: dict[tuple[str, str], Object] = field(default_factory=dict)  # by path and key
    _events: list[tuple[str, WatchEvent]] = field(default_factory=list)  # version: index + 1
    _forgotten: int = 0
    _breaks: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _generations: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def put(self, value: Object) -> None:
        """Creates the object, or replaces its spec."""
        path, metadata = FOLDERS[value["kind"]], dict(value["metadata"])
        key = (path, f"{metadata['namespace']}/{metadata['name']}")
        before = self._objects.get(key)
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{len(self._events)}"
        metadata["generation"] = next(self._generations)
        self._tell("MODIFIED" if before else "ADDED", path, key, {**value, "metadata": metadata})

    def delete(self, kind: str, name: str, namespace: str = "serving") -> None:
        path = FOLDERS[kind]
        key = (path, f"{namespace}/{name}")
        self._tell("DELETED", path, key, self._objects[key])

    def bookmark(self) -> None:
        for path in FOLDERS.values():
            self._tell("BOOKMARK", path, None, {"metadata": {}})

    def forget(self) -> None:
        """Watches from before now are too old; those that run end."""
        self._forgotten = len(self._events)
        self.end_watches()

    def end_watches(self) -> None:
        """As a server does after minutes. With `down` they break."""
        self._breaks += 1
        self._wake()

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing:
        self.lists += 1
        if self.down:
            raise Unreachable("the API is down")
        items = tuple(value for (folder, _), value in self._objects.items() if folder == path)
        return Listing(items, str(len(self._events)))

    async def watch(
        self, path: str, resource_version: str, query: Mapping[str, str], timeout_s: float
    ) -> AsyncGenerator[WatchEvent]:
        self.watches += 1
        told, breaks = int(resource_version), self._breaks
        while True:
            if self.down:
                raise Unreachable("the API is down")
            if told < self._forgotten:
                raise Gone(410, "too old resource version")
            for folder, event in self._events[told:]:
                told += 1
                if folder == path:
                    yield event
            if self._breaks != breaks:
                return
            await self._changed.wait()

    def _tell(self, kind: str, path: str, key: tuple[str, str] | None, value: Object) -> None:
        version = str(len(self._events) + 1)
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": version}}
        if key is not None:
            self._objects[key] = value
        if kind == "DELETED" and key is not None:
            del self._objects[key]
        self._events.append((path, WatchEvent(kind, value)))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def pool_object(
    name: str = "chat",
    namespace: str = "serving",
    created: str = "2026-01-01T00:00:00Z",
    **spec: Any,
) -> Object:
    """A ModelPool that a simulated engine can serve, but for what `spec` says."""
    return {
        "apiVersion": API,
        "kind": "ModelPool",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created},
        "spec": {
            "model": {"source": "sim://llama-3.1-8b"},
            "engine": {"type": "simulated"},
            "profiles": [{"name": "h100", "accelerator": "h100"}],
            **spec,
        },
    }


def policy_object(name: str = "main", namespace: str = "serving", **spec: Any) -> Object:
    return {
        "apiVersion": API,
        "kind": "RoutingPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"rules": [{"name": "all"}], **spec},
    }


def pod_object(
    name: str, pool: str = "chat", namespace: str = "serving", ip: str = "10.0.0.1", **changes: Any
) -> Object:
    """A Ready engine pod. `changes`: profile, revision, ready, port_name, deleted, created."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "creationTimestamp": changes.get("created", "2026-01-01T00:00:00Z"),
        "labels": {LABEL_POOL: pool, LABEL_PROFILE: changes.get("profile", "h100")},
    }
    if revision := changes.get("revision"):
        metadata["labels"][LABEL_REVISION] = revision
    if changes.get("deleted"):
        metadata["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    port = {"name": changes.get("port_name", "http"), "containerPort": 8000}
    ready = {"type": "Ready", "status": "True" if changes.get("ready", True) else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "side"}, {"name": "engine", "ports": [port]}]},
        "status": {"podIP": ip, "conditions": [{"type": "PodScheduled", "status": "True"}, ready]},
    }
