"""Llumnix's pairing and its choice of a request."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_scheduler.core.planner.llumnix import pair
from shunter_scheduler.core.settings import CoreSettings, Moves
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.decisions import Move
from shunter_scheduler.domain.events import MoveDone

SETTINGS = CoreSettings(moves=Moves(policy="llumnix", interval_s=1.0))
CAPACITY = 10_000
LOADS = st.lists(st.floats(-1e6, 1e6) | st.sampled_from([-1e12, 1e12]), max_size=40)


@settings(max_examples=1000)
@given(LOADS, st.floats(1.0, 1e5))
def test_pairs_join_the_most_loaded_with_the_freest_across_the_threshold(
    loads: list[float], freeness: float
) -> None:
    load = np.array(loads)
    pairs = pair(load, freeness)
    sources, destinations = [s for s, _ in pairs], [d for _, d in pairs]
    assert len({*sources, *destinations}) == 2 * len(pairs)
    assert all(load[s] > -freeness for s in sources)
    assert all(load[d] < -freeness for d in destinations)
    assert [load[s] for s in sources] == sorted((load[s] for s in sources), reverse=True)
    assert [load[d] for d in destinations] == sorted(load[d] for d in destinations)
    assert len(pairs) == min(int((load > -freeness).sum()), int((load < -freeness).sum()))


def cluster(count: int = 3) -> CoreHarness:
    instances = [
        Instance(i.name, i.pool, i.profile, i.address, i.engine_type, kv_transport="sim")
        for i in make_instances(count)
    ]
    return CoreHarness(instances, settings=SETTINGS)


def observe(harness: CoreHarness, used: dict[str, tuple[int, int, float]]) -> None:
    for name, (running, waiting, share) in used.items():
        harness.observe(
            name,
            running=running,
            waiting=waiting,
            kv_cache_usage=share,
            kv_capacity_tokens=CAPACITY,
        )


def on_one_instance(harness: CoreHarness, count: int) -> list[str]:
    """Ids of requests that run there, in the order of their first tokens."""
    full = {i.name: (0, 0, 0.0) for i in harness.instances}
    observe(harness, full)
    ids = []
    for at in range(count * len(harness.instances)):
        harness.now += 0.01
        assigned = harness.start(f"r{at}", prompt_tokens=300)
        if assigned.instance == harness.instances[0].name:
            ids.append(f"r{at}")
    return ids


def test_the_last_admitted_goes_from_the_fullest_to_the_freest() -> None:
    harness = cluster()
    ids = on_one_instance(harness, 4)
    first, second, third = (i.name for i in harness.instances)
    observe(harness, {first: (4, 0, 0.985), second: (4, 0, 0.4), third: (4, 0, 0.2)})
    harness.now += 2.0
    (move,) = only(Move, harness.decide())
    assert (move.request_id, move.source, move.destination) == (ids[-1], first, third)
    assert move.rung == "kv"
    harness.check_books()
    harness.now += 1.0
    assert only(Move, harness.decide()) == []  # one migration an instance
    harness.apply(MoveDone(move.request_id, 2, third, True, "kv"))
    harness.check_books()


def test_a_destination_with_a_queue_refuses() -> None:
    harness = cluster(2)
    on_one_instance(harness, 4)
    first, second = (i.name for i in harness.instances)
    observe(harness, {first: (4, 0, 0.985), second: (3, 1, 0.2)})
    harness.now += 2.0
    assert only(Move, harness.decide()) == []


def test_nothing_moves_where_all_are_alike() -> None:
    harness = cluster()
    on_one_instance(harness, 4)
    observe(harness, {i.name: (4, 0, 0.5) for i in harness.instances})
    for _ in range(20):
        harness.now += 1.0
        assert only(Move, harness.decide()) == []
