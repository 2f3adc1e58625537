"""PriorityClasses of engine pods."""

from typing import Any

import pytest

from operator_world import World
from shunter_operator.names import Ref
from shunter_operator.testing import pool_body
from shunter_operator.values import Environment

CLASSES = {"low": "shunter-low", "standard": "shunter-standard", "high": "shunter-high"}


async def class_of(world: World, **spec: Any) -> object:
    await world.settle(world.cluster.put(pool_body(**spec)))
    live = world.cluster.live[Ref("Deployment", "serving", "chat-h100")]
    return live["spec"]["template"]["spec"].get("priorityClassName")


@pytest.mark.parametrize(
    ("priority", "name"),
    [
        (0, "shunter-low"),
        (99, "shunter-low"),
        (100, "shunter-standard"),
        (199, "shunter-standard"),
        (200, "shunter-high"),
        (1000, "shunter-high"),
    ],
)
async def test_the_class_follows_the_pools_priority(priority: int, name: str) -> None:
    world = World(Environment(image="shunter:test", priority_classes=CLASSES))
    assert await class_of(world, scaling={"priority": priority}) == name


async def test_no_class_where_the_operator_was_told_of_none(world: World) -> None:
    assert await class_of(world, scaling={"priority": 200}) is None
    only_high = Environment(image="shunter:test", priority_classes={"high": "urgent"})
    assert await class_of(World(only_high)) is None


async def test_the_pools_own_override_wins() -> None:
    world = World(Environment(image="shunter:test", priority_classes=CLASSES))
    assert await class_of(world, podTemplate={"spec": {"priorityClassName": "mine"}}) == "mine"
