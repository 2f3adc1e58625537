"""Fields of a pool that decide what its status says and how fast it follows advice."""

import pytest

from operator_world import World
from shunter_operator.names import Ref
from shunter_operator.scheduler_view import Advice, PoolLoad, SchedulerView
from shunter_operator.testing import pool_body

PROFILE = {"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 4}}


@pytest.mark.parametrize(
    ("attainment", "condition"),
    [("0.95", ("True", "TargetMet")), ("0.97", ("False", "TargetMissed"))],
)
async def test_attainment_is_what_slo_met_asks_for(
    world: World, attainment: str, condition: tuple[str, str]
) -> None:
    load = PoolLoad(
        waiting=0, running=3, ttft_p95_s=0.4, output_tokens_per_s=9, slo_attainment=0.96
    )
    world.scheduler.current = SchedulerView(pool=load)
    key = world.cluster.put(pool_body(slo={"ttft": "500ms", "attainment": attainment}))
    await world.settle(key)
    assert world.condition(key, "SLOMet") == condition


@pytest.mark.parametrize(("after", "replicas"), [("20s", 1), ("90s", 3)])
async def test_scale_down_after_is_the_pools(world: World, after: str, replicas: int) -> None:
    key = world.cluster.put(pool_body(profiles=[PROFILE], scaling={"scaleDownAfter": after}))
    world.scheduler.current = SchedulerView(advice={"h100": Advice(3, "busy")})
    await world.settle(key)
    world.scheduler.current = SchedulerView(advice={"h100": Advice(1, "idle")})
    await world.settle(key, seconds=60, step=10)
    assert world.replicas() == {"chat-h100": replicas}


async def test_fewer_means_as_many_as_were_enough_all_the_time(world: World) -> None:
    """A lull at the end of the time is not the time."""
    key = world.cluster.put(pool_body(profiles=[PROFILE], scaling={"scaleDownAfter": "60s"}))
    for advised, seconds in ((4, 5), (3, 50)):
        world.scheduler.current = SchedulerView(advice={"h100": Advice(advised, "busy")})
        await world.settle(key, seconds=seconds)
    world.scheduler.current = SchedulerView(advice={"h100": Advice(1, "a lull")})
    await world.settle(key, seconds=25)
    assert world.replicas() == {"chat-h100": 3}
    await world.settle(key, seconds=25)
    assert not any(pod.drain_since for pod in world.cluster.engines.values()), "50 s of a lull"
    await world.settle(key, seconds=30)
    assert world.replicas() == {"chat-h100": 1}


async def test_the_engine_listens_on_the_pools_port(world: World) -> None:
    key = world.cluster.put(pool_body(engine={"type": "simulated", "port": 9123}))
    await world.settle(key)
    live = world.cluster.live[Ref("Deployment", "serving", "chat-h100")]
    (container,) = live["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [9123]
    assert container["args"][container["args"].index("--port") + 1] == "9123"
