"""The configuration from a cluster: ModelPools, RoutingPolicies and engine pods, followed while
they change. Nothing is written there."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import structlog

from shunter_api.modelpool import ModelPool
from shunter_api.routingpolicy import RoutingPolicy
from shunter_runtime.kube_api import Object
from shunter_runtime.kube_watch import ListAndWatch, Reflector, Watched
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.sources.feasible import infeasible
from shunter_scheduler.sources.files import ConfigRefused
from shunter_scheduler.sources.kubernetes_objects import (
    ENGINE_PODS,
    Cell,
    EnginePod,
    Reading,
    make_cell,
    read_pod,
    read_resource,
)

GROUP = "/apis/shunter.dev/v1alpha1"
SETTLE_S = 0.05  # changes come in bursts


@dataclass(frozen=True, slots=True)
class _Reflectors:
    """Of one namespace, or of all."""

    pools: Reflector[Reading[ModelPool]]
    policies: Reflector[Reading[RoutingPolicy]]
    pods: Reflector[EnginePod]


class KubernetesSource:
    """Follows some namespaces, or all where none is named: one cell."""

    def __init__(
        self,
        api: ListAndWatch,
        namespaces: Sequence[str] = (),
        *,
        rng: random.Random | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._settle_s = settle_s
        self._changed = asyncio.Event()
        self._log = structlog.get_logger(source="kubernetes")
        rng = rng or random.Random()
        places = [f"/namespaces/{name}" for name in dict.fromkeys(namespaces)] or [""]
        self._watching = [_reflectors(api, place, self._changed.set, rng) for place in places]

    async def changes(self) -> AsyncGenerator[Topology | ConfigRefused]:
        """What the cluster holds once all of it was listed, then again after each change; where
        something in it is left out, a `ConfigRefused` follows that says what and why. Never ends
        by itself."""
        running = [
            asyncio.create_task(reflector.run())
            for one in self._watching
            for reflector in (one.pools, one.policies, one.pods)
        ]
        cell, version = None, 0
        try:
            while True:
                await self._wait(running)
                found = self._cell()
                if found is None or found == cell:
                    continue
                cell, version = found, version + 1
                yield cell.topology(version)
                self._tell(cell, version)
                if cell.problems:
                    yield ConfigRefused(cell.problems)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _wait(self, running: Sequence["asyncio.Task[None]"]) -> None:
        """For a change. A reflector that ends has met a bug: raises what it died of."""
        waiter = asyncio.create_task(self._changed.wait())
        try:
            done, _ = await asyncio.wait((*running, waiter), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        for task in done:
            if task is not waiter:
                await task
        await asyncio.sleep(self._settle_s)
        self._changed.clear()

    def _cell(self) -> Cell | None:
        """None before everything was listed."""
        watching = self._watching
        if not all(o.pools.synced and o.policies.synced and o.pods.synced for o in watching):
            return None
        return make_cell(
            [pool for one in watching for pool in one.pools.objects.values()],
            [policy for one in watching for policy in one.policies.objects.values()],
            [pod for one in watching for pod in one.pods.objects.values()],
        )

    def _tell(self, cell: Cell, version: int) -> None:
        self._log.info(
            "configuration loaded", version=version, pools=len(cell.pools),
            policies=len(cell.policies), instances=len(cell.instances),
        )  # fmt: skip
        for problem in cell.problems:
            self._log.error(
                "configuration refused", place=problem.place, field=problem.field,
                reason=problem.message,
            )  # fmt: skip


def _reflectors(
    api: ListAndWatch, place: str, changed: Callable[[], None], rng: random.Random
) -> _Reflectors:
    """`place` is /namespaces/NAME, or empty for all of them."""
    selector = {"labelSelector": ENGINE_PODS}
    pools = Watched(f"{GROUP}{place}/modelpools", _read_pool)
    policies = Watched(f"{GROUP}{place}/routingpolicies", _read_policy)
    pods = Watched(f"/api/v1{place}/pods", _read_pod, selector)
    return _Reflectors(
        Reflector(api, pools, changed, rng),
        Reflector(api, policies, changed, rng),
        Reflector(api, pods, changed, rng),
    )


def _read_pool(value: Object, before: Reading[ModelPool] | None) -> Reading[ModelPool]:
    return read_resource(ModelPool, value, before, infeasible)


def _read_policy(value: Object, before: Reading[RoutingPolicy] | None) -> Reading[RoutingPolicy]:
    return read_resource(RoutingPolicy, value, before, lambda _: ())


def _read_pod(value: Object, _: EnginePod | None) -> EnginePod:
    return read_pod(value)
