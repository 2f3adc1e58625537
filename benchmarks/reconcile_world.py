"""The pools of `reconcile.py` on a real API server, and what becomes of them."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from shunter_runtime.kube_access import find_access
from shunter_runtime.kube_api import MERGE, KubeApi, NotFound, Unreachable, kube_api

POOLS = "/apis/shunter.dev/v1alpha1"
DEPLOYMENTS = "/apis/apps/v1"
CHANGE_S, REMOVED_S = 60.0, 600.0
Object = dict[str, Any]


@dataclass(frozen=True)
class Size:
    pools: int
    pods: int  # of each pool
    changes: int
    rest_s: float
    settle_s: float  # until what the last change brought about has been written


@dataclass
class Followed:
    """The objects of a kind by name, and a wake-up at each change."""

    objects: dict[str, Object] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, holds: Callable[[Mapping[str, Object]], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s), self.changed:
            await self.changed.wait_for(lambda: holds(self.objects))

    async def follow(self, api: KubeApi, path: str) -> None:
        """Until cancelled."""
        listing = await api.list(path)
        self.objects = {o["metadata"]["name"]: o for o in listing.items}
        version = listing.resource_version
        while True:
            async for event in api.watch(path, version, {}, 600):
                metadata = event.object["metadata"]
                version = metadata["resourceVersion"]
                async with self.changed:
                    if event.type == "DELETED":
                        self.objects.pop(metadata["name"], None)
                    elif event.type != "BOOKMARK":
                        self.objects[metadata["name"]] = event.object
                    self.changed.notify_all()


@dataclass
class World:
    api: KubeApi
    namespace: str
    size: Size
    deployments: Followed
    pools: Followed

    def path(self, group: str, plural: str, name: str = "") -> str:
        folder = f"{group}/namespaces/{self.namespace}/{plural}"
        return f"{folder}/{name}" if name else folder

    async def make_pools(self) -> None:
        for number in range(self.size.pools):
            body = _pool(f"pool-{number:03}", self.namespace, self.size.pods)
            await self.api.create(self.path(POOLS, "modelpools"), body)

    async def change(self, name: str, replicas: int) -> tuple[float, float]:
        """Milliseconds until the Deployment is written, and until the status is current."""
        began = time.perf_counter()
        edited = await self.api.patch(
            self.path(POOLS, "modelpools", name), {"spec": {"replicas": replicas}}, MERGE
        )
        generation = edited["metadata"]["generation"]
        await self.deployments.until(
            lambda found: found[f"{name}-any"]["spec"]["replicas"] == replicas, CHANGE_S
        )
        written = time.perf_counter()
        await self.pools.until(lambda found: _observed(found[name]) >= generation, CHANGE_S)
        return 1e3 * (written - began), 1e3 * (time.perf_counter() - began)


def _pool(name: str, namespace: str, pods: int) -> Object:
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "sim://llama-3.1-8b"},
            "engine": {"type": "simulated"},
            "profiles": [
                {
                    "name": "any",
                    "accelerator": "l4-24gb",
                    "replicas": {"min": 0, "max": 2 * pods},
                    "nodeSelector": {"node-type": "fake"},
                }
            ],
            "scaling": {"mode": "Manual"},
            "replicas": pods,
        },
    }


def _observed(pool: Object) -> int:
    return int(pool.get("status", {}).get("observedGeneration", 0))


def ready(pool: Object) -> int:
    return int(pool.get("status", {}).get("readyReplicas", 0))


@asynccontextmanager
async def make_world(size: Size) -> AsyncIterator[World]:
    """A namespace that is gone afterwards."""
    namespace = f"reconcile-{uuid.uuid4().hex[:6]}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    async with kube_api(find_access(os.environ)) as api:
        await api.create("/api/v1/namespaces", body)
        world = World(api, namespace, size, Followed(), Followed())
        following = [
            asyncio.create_task(followed.follow(api, world.path(group, plural)))
            for followed, group, plural in (
                (world.deployments, DEPLOYMENTS, "deployments"),
                (world.pools, POOLS, "modelpools"),
            )
        ]
        try:
            yield world
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            await _remove(world)


async def _remove(world: World) -> None:
    """No operator is left that would take the finalizers off."""
    for item in (await world.api.list(world.path(POOLS, "modelpools"))).items:
        path = world.path(POOLS, "modelpools", item["metadata"]["name"])
        await world.api.patch(path, {"metadata": {"finalizers": None}}, MERGE)
    await world.api.delete(f"/api/v1/namespaces/{world.namespace}")
    async with asyncio.timeout(REMOVED_S):
        while True:
            try:
                await world.api.get(f"/api/v1/namespaces/{world.namespace}")
            except NotFound:
                return
            except Unreachable:
                pass  # it has much to delete
            await asyncio.sleep(2.0)
