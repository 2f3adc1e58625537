"""Pools that want the same GPUs, over time: the higher priority gets them, then there is peace."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from operator_world import World, pass_a_second
from shunter_operator.names import PoolKey
from shunter_operator.testing import pool_body

ZERO_TO_EIGHT = {"min": 0, "max": 8}
MOVED = "its requests move to other instances"
QUIET_S = 15  # UNKNOWN_AFTER_S is 10, spillAfter 3


def body(name: str, replicas: int, priority: int, floor: int = 0, **spec: Any) -> dict[str, Any]:
    profile = {
        "name": "h100",
        "accelerator": "h100",
        "replicas": ZERO_TO_EIGHT,
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    scaling = {"mode": "Manual", "spillAfter": "3s", "priority": priority, "floor": floor}
    spec = {"profiles": [profile], "scaling": scaling, "replicas": replicas, **spec}
    return pool_body(name, **spec)


async def live(world: World, keys: list[PoolKey], seconds: int) -> int:
    """How many actions the last passes took. An instance has two requests; a drain moves one a
    second; nobody is cut off."""
    actions = 0
    for _ in range(seconds):
        actions = 0
        for key in keys:
            actions += await world.reconciler.reconcile(key) or 0
        assert world.scheduler.current is not None
        pass_a_second(world, requests=2)
    return actions


async def rest(world: World, keys: list[PoolKey]) -> None:
    """Until nothing happens any more, for longer than anything here waits for its time."""
    quiet = 0
    for _ in range(120):
        quiet = 0 if await live(world, keys, 1) else quiet + 1
        if quiet == QUIET_S:
            return
    raise AssertionError("there is no peace")


def ready(world: World, pool: str) -> int:
    return sum(p.ready and p.pool == pool for p in world.cluster.engines.values())


def told(world: World, reason: str) -> list[str]:
    return [event.message for event in world.cluster.events if event.reason == reason]


async def test_a_replica_is_emptied_given_and_not_fought_for(world: World) -> None:
    world.cluster.places = {"h100": 3}
    low = world.cluster.put(body("low", 3, priority=50))
    await live(world, [low], 5)
    gold = world.cluster.put(body("gold", 1, priority=200))
    keys = [low, gold]
    await live(world, keys, 7)
    assert world.condition(low, "Degraded") == ("True", "Reclaimed")
    assert world.condition(low, "Draining") == ("True", "Reclaimed")
    (reclaimed,) = told(world, "Reclaimed")
    assert "h100: at most 2 for now; pool serving/gold of priority 200 needs its GPUs" in reclaimed
    await live(world, keys, 20)
    assert (ready(world, "low"), ready(world, "gold")) == (2, 1)
    assert told(world, "ReclaimEnded") == ["h100: pool serving/gold is short no more"]
    assert world.condition(low, "Degraded") == ("True", "InsufficientGPU"), "it still wants three"
    assert await live(world, keys, 120) == 0, "and nothing happens any more"
    assert len(told(world, "Reclaimed")) == 1


async def test_it_gets_its_replica_back_when_the_other_pool_needs_it_no_more(world: World) -> None:
    world.cluster.places = {"h100": 2}
    low = world.cluster.put(body("low", 2, priority=50))
    await live(world, [low], 5)
    gold = world.cluster.put(body("gold", 1, priority=200))
    await live(world, [low, gold], 40)
    assert (ready(world, "low"), ready(world, "gold")) == (1, 1)
    world.cluster.put(body("gold", 0, priority=200))
    await live(world, [low, gold], 40)
    assert (ready(world, "low"), ready(world, "gold")) == (2, 0)
    assert world.condition(low, "Degraded") == ("False", "AsExpected")


async def test_several_are_given_one_after_the_other_down_to_the_floor(world: World) -> None:
    world.cluster.places = {"h100": 4}
    low = world.cluster.put(body("low", 4, priority=50, floor=1))
    await live(world, [low], 5)
    gold = world.cluster.put(body("gold", 8, priority=200))
    await rest(world, [low, gold])
    assert (ready(world, "low"), ready(world, "gold")) == (1, 3)
    assert [text.split(" for now")[0] for text in told(world, "Reclaimed")] == [
        "h100: at most 3",
        "h100: at most 2",
        "h100: at most 1",
    ]
    assert world.condition(low, "Degraded") == ("True", "Reclaimed"), "gold still lacks five"
    assert world.condition(gold, "Degraded") == ("True", "InsufficientGPU")


async def test_a_new_operator_goes_on_where_the_old_one_was(world: World) -> None:
    world.cluster.places = {"h100": 3}
    keys = [world.cluster.put(body("low", 3, priority=50))]
    await live(world, keys, 5)
    keys.append(world.cluster.put(body("gold", 2, priority=200)))
    for _ in range(60):
        world.reconciler = world.operator()
        await live(world, keys, 1)
    assert (ready(world, "low"), ready(world, "gold")) == (1, 2)
    assert len(told(world, "Reclaimed")) == 2


async def test_who_is_only_held_back_goes_down_for_its_own_reasons(world: World) -> None:
    world.cluster.places = {"h100": 3}
    low = world.cluster.put(body("low", 3, priority=50, floor=3))
    await live(world, [low], 5)
    keys = [low, world.cluster.put(body("gold", 1, priority=200))]
    await live(world, keys, 8)
    assert told(world, "Reclaimed") == []
    world.cluster.put(body("low", 2, priority=50, floor=3))
    await live(world, keys, 2)
    assert told(world, "Draining")[0].endswith("fewer instances are wanted; " + MOVED)
    assert world.condition(low, "Draining") == ("True", "ScaleDown")
    await rest(world, keys)
    assert (ready(world, "low"), ready(world, "gold")) == (2, 1)
    assert told(world, "ScaledDown") == ["h100: 3 to 2: as the resource says"]


async def test_what_is_given_is_made_up_for_on_the_next_profile(world: World) -> None:
    world.cluster.places = {"h100": 2, "l4": 8}
    profiles = [
        body("low", 0, 0)["spec"]["profiles"][0],
        {"name": "l4", "accelerator": "l4", "replicas": ZERO_TO_EIGHT},
    ]
    low = world.cluster.put(body("low", 2, priority=50, profiles=profiles))
    await live(world, [low], 5)
    gold = world.cluster.put(body("gold", 1, priority=200))
    await live(world, [low, gold], 60)
    assert (ready(world, "low"), ready(world, "gold")) == (2, 1)
    assert len(world.ready("l4")) == 1


POOLS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0, 100, 200]), st.integers(0, 3)),
    min_size=2,
    max_size=4,
)


@settings(max_examples=8, deadline=None)
@given(POOLS, st.integers(0, 6))
async def test_it_settles_with_the_highest_priorities_served(
    asked: list[tuple[int, int, int]], places: int
) -> None:
    """Pools come one after the other, the least important ones first."""
    world = World()
    world.cluster.places = {"h100": places}
    there: dict[PoolKey, tuple[int, int, int]] = {}
    for n, (replicas, priority, floor) in enumerate(sorted(asked, key=lambda one: one[1])):
        key = world.cluster.put(body(f"p{n}", replicas, priority, floor))
        there[key] = replicas, priority, floor
        await rest(world, list(there))
        short = [p for k, (wanted, p, _) in there.items() if ready(world, k.name) < wanted]
        for one, (wanted, mine, least) in there.items():
            assert ready(world, one.name) <= wanted
            if any(theirs > mine for theirs in short):
                assert ready(world, one.name) <= least, "what is above the floor is given"
    assert sum(ready(world, k.name) for k in there) == min(places, sum(a[0] for a in asked))
