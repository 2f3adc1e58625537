"""What a pool's status says, and how often."""

from dataclasses import replace

from operator_world import World
from shunter_operator.scheduler_view import PoolLoad
from shunter_operator.testing import pool_body


async def test_serving_figures_go_when_nobody_measures_them_any_more(world: World) -> None:
    key = world.cluster.put(pool_body())
    await world.settle(key)
    assert world.scheduler.current is not None
    for load in (PoolLoad(0, 3, 0.25, 90.0, 1.0), PoolLoad(0, 0, 0.0, 0.0, 1.0)):
        world.scheduler.current = replace(world.scheduler.current, pool=load)
        await world.settle(key, seconds=24)
    serving = world.cluster.bodies[key]["status"]["serving"]
    assert (serving.get("ttftP95"), serving["running"]) == (None, 0)
    world.writes()
    await world.settle(key, seconds=60)
    assert world.writes() == [], "an idle pool's status is written no more"
