"""Whatever is asked for and finds a place: it settles, and nobody who serves is cut off."""

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from operator_world import World, pass_a_second
from shunter_operator.names import PoolKey
from shunter_operator.testing import pool_body

NAMES = ("a", "b", "c")
MAX = 3

WANTED = st.fixed_dictionaries(
    {
        "replicas": st.integers(0, 2 * MAX),
        "profiles": st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True),
    }
)
PLACES = st.fixed_dictionaries({name: st.integers(0, MAX) for name in NAMES})


def body(wanted: dict[str, Any]) -> dict[str, Any]:
    profiles = [
        {"name": name, "accelerator": "l4-24gb", "replicas": {"min": 0, "max": MAX}}
        for name in wanted["profiles"]
    ]
    scaling = {"mode": "Manual", "spillAfter": "2s", "returnAfter": "3s"}
    return pool_body(profiles=profiles, scaling=scaling, replicas=wanted["replicas"])


async def live_through(world: World, key: PoolKey, steps: int) -> None:
    """New instances get requests; a drain moves one a second. None is lost with requests on it."""
    for _ in range(steps):
        await world.reconciler.reconcile(key)
        pass_a_second(world, requests=3)


@settings(max_examples=20, deadline=None)
@given(st.lists(WANTED, min_size=1, max_size=3), PLACES, st.booleans())
@example(
    # A Pending pod that is one too many needs no stand-in.
    asked=[{"replicas": 2, "profiles": ["a", "b"]}, {"replicas": 1, "profiles": ["b", "a", "c"]}],
    places={"a": 0, "b": 1, "c": 1},
    restarts=False,
)
async def test_it_settles_and_cuts_nobody_off(
    asked: list[dict[str, Any]], places: dict[str, int], restarts: bool
) -> None:
    world = World()
    world.cluster.places = places
    for wanted in asked:
        key = world.cluster.put(body(wanted))
        await live_through(world, key, 40)
        if restarts:
            world.reconciler = world.operator()
    assert await world.reconciler.reconcile(key) == 0, "it settles"
    last = asked[-1]
    room = sum(min(MAX, places[name]) for name in last["profiles"])
    wanted_now = min(last["replicas"], MAX * len(last["profiles"]))
    ready = [p for p in world.cluster.engines.values() if p.ready]
    assert len(ready) == min(wanted_now, room), "as many serve as are wanted and find a place"
    assert {p.profile for p in ready} <= set(last["profiles"])
    assert not any(p.drain_since for p in ready)
