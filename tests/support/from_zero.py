"""Pools without an instance, for tests of who waits for one."""

from typing import Any

from shunter_api.modelpool import ModelPool
from shunter_api.testing import make_pool
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.decisions import Hold
from shunter_scheduler.domain.events import TopologyChanged

ZERO = {"after": "10m", "maxHeld": 3, "holdTimeout": "5m"}


def zero_pool(name: str = "chat", **scaling: Any) -> ModelPool:
    profile = {"name": "h100", "accelerator": "h100", "replicas": {"min": 0, "max": 4}}
    return make_pool(name, spec={"profiles": [profile], "scaling": {"scaleToZero": ZERO} | scaling})


def at_zero(*pools: ModelPool, **more: Any) -> CoreHarness:
    return CoreHarness((), pools=pools or (zero_pool(),), **more)


def back_at_zero(*pools: ModelPool, **more: Any) -> CoreHarness:
    """It had an instance, so that times are predicted."""
    harness = at_zero(*pools, **more)
    start(harness)
    harness.configure(())
    return harness


def advised(harness: CoreHarness, pool: str = "chat") -> int:
    return sum(a.desired_replicas for a in harness.core.advise_scaling(pool, harness.now))


def start(harness: CoreHarness, pool: str = "chat", healthy: bool = True) -> None:
    """The pool's first instance comes into service."""
    (instance,) = make_instances(1, pool)
    harness.configure((*harness.instances, instance))
    if healthy:
        harness.observe(instance.name)


def phase(harness: CoreHarness, name: str) -> None:
    harness.version += 1
    starting = (("chat", name),) if name else ()
    topology = Topology(harness.version, harness.pools, harness.policies, (), (), starting)
    harness.apply(TopologyChanged(topology))


def full_instance() -> CoreHarness:
    """One instance, which `r0` fills; `r1` has waited for it since 0."""
    harness = at_zero()
    start(harness)
    harness.observe("chat-h100-0", kv_capacity_tokens=9000)
    harness.assign("r0", prompt_tokens=8000)
    (hold,) = only(Hold, harness.submit("r1", prompt_tokens=8000))
    assert hold.phase == "queued"
    harness.now = 20.0
    return harness
