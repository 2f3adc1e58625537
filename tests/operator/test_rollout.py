"""New revisions in a cluster in memory: with room beside the old pods, and on a full cluster."""

from dataclasses import replace
from typing import Any

import pytest

from operator_world import World
from shunter_operator.names import PoolKey, Ref
from shunter_operator.testing import pool_body
from shunter_operator.values import Pod

MANUAL = {"mode": "Manual", "spillAfter": "20s", "returnAfter": "5s"}
SURGE = {"maxSurge": 1, "maxUnavailable": 0}
DEPLOYMENT = Ref("Deployment", "serving", "chat-h")


@pytest.fixture(params=[True, False], ids=["deletion cost", "readiness gate"])
def world(request: pytest.FixtureRequest) -> World:
    made = World()
    made.environment = replace(made.environment, deletion_cost=request.param)
    made.cluster.starts_s = 3.0
    made.cluster.ends_s = 2.0
    made.reconciler = made.operator()
    return made


def body(revision: str, replicas: int, *more: str) -> dict[str, Any]:
    profiles = [
        {"name": name, "accelerator": "l4-24gb", "replicas": {"min": 0, "max": 4}}
        for name in ("h", *more)
    ]
    engine = {"type": "simulated", "env": [{"name": "REVISION", "value": revision}]}
    return pool_body(profiles=profiles, scaling=MANUAL, replicas=replicas, engine=engine)


async def serving(world: World, replicas: int, places: int, *more: str) -> PoolKey:
    world.cluster.places["h"] = places
    key = world.cluster.put(body("1", replicas, *more))
    await world.settle(key, seconds=15)
    for name in world.ready("h"):
        world.scheduler.serve(name, 3)
    return key


async def roll(world: World, key: PoolKey, seconds: int) -> list[int]:
    """How many pods served at each second. A drain moves one request a second, and no pod of the
    full profile may go with requests on it."""
    served = []
    for _ in range(seconds):
        await world.reconciler.reconcile(key)
        before = dict(world.cluster.engines)
        world.cluster.step()
        loads = world.scheduler.current.instances if world.scheduler.current else {}
        for name, pod in world.cluster.engines.items():
            load = loads.get(name)
            if pod.deleting and not before[name].deleting and pod.profile == "h":
                assert load is None or not load.running, f"{name} was told to end with requests"
            if load is None and pod.ready:
                world.scheduler.serve(name, 3)
            elif load is not None and load.state == "draining":
                world.scheduler.serve(name, max(0, load.running - 1), "draining")
        served.append(sum(serves(pod) for pod in world.cluster.engines.values()))
    return served


def serves(pod: Pod) -> bool:
    return pod.ready and not pod.deleting and not pod.drain_since


def revisions(world: World) -> set[str]:
    return {pod.template for pod in world.cluster.engines.values()}


async def test_with_room_a_new_pod_serves_before_an_old_one_goes(world: World) -> None:
    key = await serving(world, 2, places=3)
    (old,) = revisions(world)
    world.scheduler.serve("chat-h-1", 0)
    world.scheduler.serve("chat-h-2", 0)
    world.cluster.put(body("2", 2))
    for _ in range(40):
        await world.reconciler.reconcile(key)
        world.cluster.step()
        assert len(world.ready("h")) >= 2
        strategy = world.cluster.live[DEPLOYMENT]["spec"]["strategy"]["rollingUpdate"]
        assert strategy == SURGE
    assert old not in revisions(world) and len(world.ready("h")) == 2
    assert world.scheduler.drained == []


@pytest.mark.parametrize("replicas", [1, 2, 4])
async def test_on_a_full_cluster_one_after_the_other_is_emptied_and_replaced(
    world: World, replicas: int
) -> None:
    key = await serving(world, replicas, places=replicas)
    (old,) = revisions(world)
    world.cluster.put(body("2", replicas))
    served = await roll(world, key, 20)
    assert min(served) == replicas, "room may be found until spillAfter"
    served = await roll(world, key, 60 * replicas)
    assert min(served) == replicas - 1, "one at a time"
    assert old not in revisions(world) and len(world.ready("h")) == replicas
    assert len(world.cluster.engines) == replicas
    live = world.cluster.live[DEPLOYMENT]["spec"]["strategy"]["rollingUpdate"]
    assert live == SURGE, "the next rollout tries to surge again"
    reasons = [e.message for e in world.cluster.events if e.reason == "Draining"]
    assert len(reasons) == replicas and all("no node has room" in why for why in reasons)
    world.writes()
    assert await world.reconciler.reconcile(key) == 0


async def test_while_it_is_emptied_the_condition_says_rollout(world: World) -> None:
    key = await serving(world, 2, places=2)
    world.cluster.put(body("2", 2))
    await world.settle(key, seconds=30)
    assert world.condition(key, "Draining") == ("True", "Rollout")


async def test_a_rollout_that_waits_for_room_starts_no_stand_in(world: World) -> None:
    key = await serving(world, 2, 2, "l")
    world.cluster.put(body("2", 2, "l"))
    for _ in range(120):
        await roll(world, key, 1)
        assert world.replicas()["chat-l"] == 0
    assert len(revisions(world)) == 1


async def test_a_new_revision_that_fits_nowhere_ends_no_old_pod(world: World) -> None:
    """Room would not help it."""
    key = await serving(world, 2, places=2)
    world.cluster.put(body("2", 2))
    for _ in range(60):
        await world.reconciler.reconcile(key)
        world.cluster.step()
        for pod in world.cluster.engines.values():
            if not pod.scheduled:
                why = "0/4 nodes are available: 4 node(s) didn't match node selector."
                world.cluster.engines[pod.name] = replace(pod, unschedulable_message=why)
    assert world.scheduler.drained == [] and len(world.ready("h")) == 2


async def test_a_probe_that_waits_for_room_is_replaced_by_one_of_the_new_revision(
    world: World,
) -> None:
    key = await serving(world, 2, 1, "l")
    await world.settle(key, seconds=30)
    assert world.replicas() == {"chat-h": 2, "chat-l": 1}
    world.cluster.put(body("2", 2, "l"))
    await roll(world, key, 200)
    assert len({p.template for p in world.cluster.engines.values() if p.profile == "h"}) == 1
    assert world.replicas() == {"chat-h": 2, "chat-l": 1}
    assert len(world.ready("h")) == 1 and len(world.ready("l")) == 1
