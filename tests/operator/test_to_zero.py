"""To zero by the scheduler's advice, and back; never on missing data."""

import asyncio
from typing import Any

import pytest

from operator_world import World
from shunter_operator.from_zero import wake_held
from shunter_operator.names import PoolKey
from shunter_operator.scheduler_view import Advice, SchedulerView
from shunter_operator.testing import pool_body


def body(**scaling: Any) -> dict[str, Any]:
    profiles = [
        {"name": name, "accelerator": "l4", "replicas": {"min": 0, "max": 4}} for name in ("a", "b")
    ]
    zero = {"scaleToZero": {"after": "10m"}, "scaleDownAfter": "10m", "spillAfter": "2s"}
    return pool_body(profiles=profiles, scaling=zero | scaling)


def advise(world: World, a: int, b: int = 0, why: str = "busy") -> None:
    """What runs where stays as it is."""
    instances = world.scheduler.current.instances if world.scheduler.current else {}
    advice = {"a": Advice(a, why), "b": Advice(b, why)}
    world.scheduler.current = SchedulerView(instances, advice=advice)


async def started(world: World, replicas: int = 1) -> PoolKey:
    key = world.cluster.put(body())
    advise(world, replicas)
    await world.settle(key)
    assert world.replicas() == {"chat-a": replicas, "chat-b": 0}
    return key


def told(world: World) -> list[tuple[str, str]]:
    return [(event.reason, event.message) for event in world.cluster.events]


async def test_a_new_pool_waits_for_its_first_request(world: World) -> None:
    key = world.cluster.put(body())
    advise(world, 0)
    await world.settle(key)
    assert world.replicas() == {"chat-a": 0, "chat-b": 0}
    assert world.condition(key, "Ready") == ("False", "ScaledToZero")
    assert world.condition(key, "AutoscalerActive") == ("True", "ScaledToZero")
    assert world.condition(key, "Progressing") == ("False", "Complete")
    assert world.condition(key, "Degraded") == ("False", "AsExpected")


async def test_the_first_request_starts_an_instance(world: World) -> None:
    key = world.cluster.put(body())
    advise(world, 0)
    await world.settle(key)
    world.cluster.starts_s = 3.0
    advise(world, 1, why="1 request waits")
    await world.settle(key, seconds=2)
    assert world.condition(key, "Ready") == ("False", "Loading")
    assert world.condition(key, "AutoscalerActive") == ("True", "AdviceFollowed")
    await world.settle(key)
    assert world.condition(key, "Ready") == ("True", "Serving")
    assert ("ScaledUp", "a: 0 to 1: 1 request waits") in told(world)


async def test_the_last_instance_goes_at_once_when_the_scheduler_has_waited(world: World) -> None:
    key = await started(world)
    world.scheduler.serve(world.ready("a")[0], 0)
    advise(world, 0, why="no request for 10m")
    await world.settle(key)
    assert world.replicas() == {"chat-a": 0, "chat-b": 0}
    assert ("ScaledDown", "a: 1 to 0: no request for 10m") in told(world)
    assert world.condition(key, "Ready") == ("False", "ScaledToZero")


async def test_fewer_but_not_none_wait_for_scale_down_after(world: World) -> None:
    key = await started(world, replicas=3)
    advise(world, 1)
    await world.settle(key, seconds=60, step=10)
    assert world.replicas()["chat-a"] == 3


async def test_the_last_instance_is_emptied_first(world: World) -> None:
    key = await started(world)
    (name,) = world.ready("a")
    world.scheduler.serve(name, 1)
    advise(world, 0)
    await world.settle(key)
    assert (world.replicas()["chat-a"], world.scheduler.drained) == (1, [name])
    world.scheduler.serve(name, 0, "draining")
    await world.settle(key)
    assert world.replicas()["chat-a"] == 0


async def test_a_request_that_comes_meanwhile_keeps_the_instance(world: World) -> None:
    key = await started(world)
    (name,) = world.ready("a")
    world.scheduler.serve(name, 1)
    advise(world, 0)
    await world.settle(key)
    advise(world, 1)
    await world.settle(key)
    assert world.ready("a") == [name]
    assert world.scheduler.undrained == [name]
    assert world.condition(key, "Draining") == ("False", "NothingLeaves")


@pytest.mark.parametrize(
    "view",
    [
        None,
        SchedulerView(),
        SchedulerView(advice={"a": Advice(0, "idle")}),
    ],
    ids=["no scheduler", "an unknown pool", "an unknown profile"],
)
async def test_nothing_goes_to_zero_on_missing_data(
    world: World, view: SchedulerView | None
) -> None:
    key = await started(world)
    world.scheduler.current = view
    await world.settle(key, seconds=500, step=100)
    assert world.replicas() == {"chat-a": 1, "chat-b": 0}
    assert world.condition(key, "AutoscalerActive") == ("False", "MetricMissing")


async def test_a_start_that_finds_no_place_spills(world: World) -> None:
    world.cluster.places = {"a": 0, "b": 1}
    key = world.cluster.put(body())
    advise(world, 1)
    await world.settle(key, seconds=8)
    assert world.replicas() == {"chat-a": 1, "chat-b": 1}
    (stand_in,) = world.ready("b")
    world.scheduler.serve(stand_in, 0)
    advise(world, 0)
    await world.settle(key)
    assert world.replicas() == {"chat-a": 0, "chat-b": 0}, "the stand-in goes too"


async def test_a_start_on_a_cheaper_profile_without_a_place_goes_to_the_preferred_one(
    world: World,
) -> None:
    world.cluster.places = {"a": 1, "b": 0}
    key = world.cluster.put(body(returnAfter="4s"))
    advise(world, 0, 1)
    await world.settle(key, seconds=8)
    assert world.replicas() == {"chat-a": 1, "chat-b": 1}
    (stand_in,) = world.ready("a")
    assert world.condition(key, "SpilledOver") == ("True", "InsufficientGPU")
    world.scheduler.serve(stand_in, 0)
    world.cluster.places["b"] = 1
    await world.settle(key, seconds=3)
    assert world.ready("a") == [stand_in], "until the other one has settled"
    await world.settle(key, seconds=8)
    assert world.replicas() == {"chat-a": 0, "chat-b": 1}
    assert await world.reconciler.reconcile(key) == 0


async def test_a_start_without_any_place_waits_on_one_profile(world: World) -> None:
    world.cluster.places = {"a": 0, "b": 0}
    key = world.cluster.put(body())
    advise(world, 0, 1)
    await world.settle(key, seconds=20)
    before = world.replicas()
    assert before["chat-b"] == 1 and before["chat-a"] <= 1
    await world.settle(key, seconds=60)
    assert world.replicas() == before
    assert await world.reconciler.reconcile(key) == 0


async def test_without_scale_to_zero_none_is_not_taken_at_its_word(world: World) -> None:
    key = await started(world)
    world.cluster.put(body(scaleToZero=None))
    advise(world, 0)
    await world.settle(key, seconds=300, step=60)
    assert world.replicas()["chat-a"] == 1, "scaleDownAfter has not passed"


async def test_a_pool_at_zero_is_woken_as_soon_as_one_is_advised(world: World) -> None:
    key = world.cluster.put(body())
    other = body()
    other["metadata"] = {**other["metadata"], "name": "other"}
    del other["spec"]["scaling"]["scaleToZero"]
    world.cluster.put(other)
    advise(world, 0)
    woken: list[PoolKey] = []
    wakes = asyncio.Event()

    def wake(one: PoolKey) -> None:
        woken.append(one)
        wakes.set()

    waking = asyncio.create_task(wake_held(world.cluster, world.scheduler, wake, 0.001))
    try:
        for _ in range(3):
            await asyncio.sleep(0.002)
        assert woken == []
        advise(world, 1)
        async with asyncio.timeout(5):
            await wakes.wait()
    finally:
        waking.cancel()
    assert set(woken) == {key}
