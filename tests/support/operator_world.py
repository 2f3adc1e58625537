"""A reconciler over a cluster in memory."""

from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from shunter_operator.names import PoolKey, Ref
from shunter_operator.reconcile import Outside, Reconciler
from shunter_operator.telemetry import Telemetry
from shunter_operator.testing import FakeCluster, FakeScheduler
from shunter_operator.values import Environment


@dataclass
class World:
    environment: Environment = field(default_factory=lambda: Environment(image="shunter:test"))
    cluster: FakeCluster = field(default_factory=FakeCluster)
    scheduler: FakeScheduler = field(default_factory=FakeScheduler)
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        self.reconciler = self.operator()

    def operator(self) -> Reconciler:
        """A new operator process: it remembers nothing."""
        outside = Outside(
            self.cluster, self.cluster, self.scheduler, clock=lambda: self.cluster.now
        )
        return Reconciler(outside, self.environment, Telemetry(CollectorRegistry()))

    async def settle(self, key: PoolKey, seconds: float = 5.0, step: float = 1.0) -> None:
        """Operator and cluster take turns for so long."""
        for _ in range(max(1, round(seconds / step))):
            await self.reconciler.reconcile(key)
            self.cluster.step(step)
        await self.reconciler.reconcile(key)

    def replicas(self) -> dict[str, int]:
        """By Deployment."""
        return {
            ref.name: live["spec"]["replicas"]
            for ref, live in self.cluster.live.items()
            if ref.kind == "Deployment"
        }

    def ready(self, profile: str) -> list[str]:
        return sorted(
            p.name for p in self.cluster.engines.values() if p.profile == profile and p.ready
        )

    def writes(self) -> list[tuple[str, Ref]]:
        """Since the last call of this."""
        calls, self.cluster.calls = self.cluster.calls, []
        return calls

    def condition(self, key: PoolKey, kind: str) -> tuple[str, str]:
        """Status and reason."""
        conditions: list[dict[str, Any]] = self.cluster.bodies[key]["status"]["conditions"]
        found = next(c for c in conditions if c["type"] == kind)
        return found["status"], found["reason"]


def pass_a_second(world: World, requests: int) -> None:
    """New instances get so many requests; a drain moves one. None is lost with requests on it."""
    before = dict(world.cluster.engines)
    world.cluster.step()
    loads = world.scheduler.current.instances if world.scheduler.current else {}
    for name in before.keys() - world.cluster.engines.keys():
        assert name not in loads or loads[name].running == 0, f"{name} was cut off"
    for pod in world.cluster.engines.values():
        load = loads.get(pod.name)
        if load is None and pod.ready:
            world.scheduler.serve(pod.name, requests)
        elif load is not None and load.state == "draining":
            world.scheduler.serve(pod.name, max(0, load.running - 1), "draining")
