"""Which pool gives GPUs to which: a decision over all pools."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.modelpool import ModelPool
from shunter_operator.controllers_testing import EPOCH
from shunter_operator.diagnose import unschedulable
from shunter_operator.holdings import Holding
from shunter_operator.manifests import Scale, deployment, pod_template
from shunter_operator.names import PoolKey
from shunter_operator.reclaim import reclaims
from shunter_operator.scaling import stuck
from shunter_operator.testing import pool_body
from shunter_operator.values import Desired, Environment, Manifest, Pod, Reclaim
from shunter_operator.watches import pool_record

NO_GPU = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."
NOW = EPOCH + timedelta(hours=1)
ENVIRONMENT = Environment(image="shunter:test")


def profile(name: str = "h100", most: int = 8, gpus: int = 1, **more: Any) -> dict[str, Any]:
    limits = {"limits": {"nvidia.com/gpu": gpus}}
    replicas = {"min": 0, "max": most}
    return {"name": name, "accelerator": name, "replicas": replicas, "resources": limits, **more}


def pool(name: str, *profiles: dict[str, Any], **scaling: Any) -> ModelPool:
    given = {"spillAfter": "1m", **scaling}
    body = pool_body(name, profiles=list(profiles or (profile(),)), scaling=given)
    found = pool_record(body).pool
    assert found is not None
    return found


def held(
    made: ModelPool,
    running: dict[str, int] | int,
    homeless: dict[str, int] | int = 0,
    *,
    ago_s: float = 120.0,
    loading: int = 0,
    gives: dict[str, Reclaim] | None = None,
) -> Holding:
    """Pods by profile; a number means the first one, for which the others stand in. `homeless` ones
    lack a GPU since `ago_s`."""
    first = made.profiles[0].name
    running = running if isinstance(running, dict) else {first: running}
    homeless = homeless if isinstance(homeless, dict) else {first: homeless}
    since = NOW - timedelta(seconds=ago_s)
    pods: list[Pod] = []
    deployments: dict[str, Manifest] = {}
    desired = Desired(made, "uid", reclaims=gives or {})
    for one in made.profiles:
        there, missing = running.get(one.name, 0), homeless.get(one.name, 0)
        for n in range(there):
            ready = None if n < loading else EPOCH
            pods.append(_pod(made, one.name, f"{one.name}-{n}", ready_since=ready))
        for n in range(missing):
            pod = _pod(made, one.name, f"{one.name}-x{n}", scheduled=False)
            stuck_pod = replace(pod, unschedulable_since=since, unschedulable_message=NO_GPU)
            pods.append(stuck_pod)
        template = pod_template(desired, one, ENVIRONMENT)
        scale = Scale(there + missing, spilled=0 if one.name == first else there + missing)
        deployments[one.name] = deployment(desired, one, template, scale)
    key = PoolKey(made.metadata.namespace, made.name)
    return Holding(key, made, tuple(pods), deployments)


def _pod(made: ModelPool, profile: str, name: str, **more: Any) -> Pod:
    full = f"{made.name}-{name}"
    return Pod(full, made.metadata.namespace, made.name, profile, created_at=EPOCH, **more)


def limits(*holdings: Holding, now: datetime = NOW, taken: bool = True) -> dict[str, int]:
    """What is left to whom, as pool/profile; where it is not `taken`, who may only not grow."""
    return {
        f"{key.name}/{name}": reclaim.limit
        for key, found in reclaims(holdings, now).items()
        for name, reclaim in found.items()
        if reclaim.taken is taken
    }


GOLD = held(pool("gold", priority=200), 1, homeless=1)
LOW = pool("low", priority=50)


def test_a_pool_of_a_lower_priority_gives_one_replica() -> None:
    found = reclaims([GOLD, held(LOW, 3)], NOW)
    assert found == {
        PoolKey("serving", "low"): {
            "h100": Reclaim(2, "serving/gold", 200, unschedulable(NO_GPU)[1], 1)
        }
    }


@pytest.mark.parametrize(
    ("giver", "why"),
    [
        (held(pool("low", priority=200), 3), "equal priority"),
        (held(pool("low", priority=300), 3), "higher priority"),
        (held(pool("low", priority=50, floor=3), 3), "the floor"),
        (held(pool("low", priority=50, floor=2), 3, loading=1), "two serve, and no more"),
        (held(pool("low", profile(gpus=1), priority=50), {"h100": 0}), "nothing there"),
        (held(pool("low", profile("a100"), priority=50), 3), "another accelerator"),
        (held(pool("low", profile(gpus=0), priority=50), 3), "no GPU"),
        (
            held(
                pool("low", profile(tolerations=[{"operator": "Exists"}]), priority=50),
                3,
            ),
            "nodes with a taint that gold does not tolerate",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_gives_nothing(giver: Holding, why: str) -> None:
    if why == "two serve, and no more":
        assert limits(GOLD, giver) == {"low/h100": 2}, "the one that loads goes"
        return
    assert limits(GOLD, giver) == {}


def test_without_a_floor_the_minimum_stays() -> None:
    at_least = profile() | {"replicas": {"min": 2, "max": 8}}
    assert limits(GOLD, held(pool("low", at_least, priority=50), 2)) == {}
    assert limits(GOLD, held(pool("low", at_least, priority=50), 3)) == {"low/h100": 2}
    lower = pool("low", at_least, priority=50, floor=1)
    assert limits(GOLD, held(lower, 2)) == {"low/h100": 1}, "a floor below the minimum counts"


@pytest.mark.parametrize(
    ("taker", "giver", "given"),
    [
        ({"pool": "a"}, {"pool": "a", "zone": "1"}, True),
        ({"pool": "a"}, {"pool": "b"}, False),
        ({"pool": "a", "zone": "1"}, {"pool": "a"}, False),
        ({}, {"pool": "b"}, True),
    ],
)
def test_the_givers_nodes_have_the_labels_that_the_taker_wants(
    taker: dict[str, str], giver: dict[str, str], given: bool
) -> None:
    gold = held(pool("gold", profile(nodeSelector=taker), priority=200), 0, homeless=1)
    low = held(pool("low", profile(nodeSelector=giver), priority=50), 2)
    assert bool(limits(gold, low)) is given


def test_one_replica_frees_all_gpus_that_a_pod_needs() -> None:
    gold = held(pool("gold", profile(gpus=4), priority=200), 0, homeless=1)
    assert limits(gold, held(LOW, 8)) == {}
    assert limits(gold, held(pool("low", profile(gpus=8), priority=50), 2)) == {"low/h100": 1}


def test_the_lowest_priority_gives_first_then_who_has_most_to_spare() -> None:
    middle, other = pool("middle", priority=80), pool("other", priority=50)
    assert limits(GOLD, held(middle, 9), held(LOW, 2), held(other, 3)) == {"other/h100": 2}
    assert limits(GOLD, held(middle, 9), held(LOW, 0)) == {"middle/h100": 8}


def test_not_before_spill_after() -> None:
    recent = held(GOLD.pool, 1, homeless=1, ago_s=59)
    assert limits(recent, held(LOW, 3)) == {}


def test_only_for_want_of_a_gpu() -> None:
    pods = tuple(
        replace(p, unschedulable_message="0/1 nodes: 1 Insufficient cpu.") for p in GOLD.pods
    )
    assert limits(replace(GOLD, pods=pods), held(LOW, 3)) == {}


TWO = pool("gold", profile("h100"), profile("l4", most=2), priority=200)


@pytest.mark.parametrize(
    ("running", "homeless", "given"),
    [
        ({}, {"h100": 1}, {}),  # the l4 is about to stand in
        ({"l4": 1}, {"h100": 2}, {}),  # there is room for another one
        ({"l4": 2}, {"h100": 3}, {"low/h100": 2}),  # no more room
        ({}, {"h100": 1, "l4": 1}, {"low/h100": 2}),  # neither is there a place on the l4
    ],
)
def test_only_when_no_other_profile_can_stand_in(
    running: dict[str, int], homeless: dict[str, int], given: dict[str, int]
) -> None:
    assert limits(held(TWO, running, homeless), held(LOW, 3)) == given


def test_where_the_preferred_accelerator_cannot_be_had_the_next_is_taken() -> None:
    low = pool("low", profile("l4"), priority=50)
    assert limits(held(TWO, {}, {"h100": 1, "l4": 1}), held(low, 3)) == {"low/l4": 2}


def standing(holding: Holding, *others: Holding, now: datetime = NOW) -> dict[str, Reclaim]:
    found = reclaims([holding, *others], now).get(holding.key, {})
    return {name: reclaim for name, reclaim in found.items() if reclaim.taken}


def test_it_stays_until_the_pool_is_short_no_more() -> None:
    gives = standing(held(LOW, 3), GOLD)
    still = held(GOLD.pool, 1, homeless=1, ago_s=0)  # another pod, and just found homeless
    assert limits(held(LOW, 3, gives=gives), still) == {"low/h100": 2}
    served = held(GOLD.pool, 2)
    assert limits(held(LOW, 2, gives=gives), served) == {}
    assert limits(held(LOW, 2, gives=gives)) == {}, "the pool is gone"
    equal = pool("low", priority=200)
    assert limits(held(equal, 2, gives=gives), GOLD) == {}, "it may keep its own now"


def test_the_next_one_is_taken_only_after_the_first_has_helped() -> None:
    gold = held(GOLD.pool, 1, homeless=2)
    gives = standing(held(LOW, 5), gold)
    assert gives["h100"].limit == 4
    draining = held(LOW, 5, gives=gives)
    assert standing(draining, gold) == gives, "it is still there"
    gives = standing(held(LOW, 4, gives=gives), gold)
    assert gives["h100"].freed_at == NOW
    later = NOW + timedelta(seconds=61)
    unhelped = held(LOW, 4, gives=gives)
    assert standing(unhelped, gold, now=later) == gives, "nobody has taken its place"
    helped = held(GOLD.pool, 2, homeless=1)
    assert standing(unhelped, helped, now=NOW + timedelta(seconds=59)) == gives, "let it settle"
    assert standing(unhelped, helped, now=later)["h100"].limit == 3


def test_a_replica_that_did_not_help_is_the_last_of_its_profile_only() -> None:
    gold, other = held(GOLD.pool, 1, homeless=1), held(pool("other", priority=80), 2)
    gives = standing(held(LOW, 5), gold, other)
    gives = standing(held(LOW, 4, gives=gives), gold, other)
    later = NOW + timedelta(seconds=61)
    assert limits(held(LOW, 4, gives=gives), gold, other, now=later) == {
        "low/h100": 4,
        "other/h100": 1,
    }


def test_one_at_a_time_for_each_accelerator() -> None:
    silver = held(pool("silver", priority=150), 0, homeless=1)
    small = held(pool("small", profile("l4"), priority=150), 0, homeless=1)
    both = pool("low", profile("h100"), profile("l4"), priority=50)
    low = held(both, {"h100": 4, "l4": 4})
    assert limits(GOLD, silver, small, low) == {"low/h100": 3, "low/l4": 3}


def test_a_pool_is_given_one_replica_at_a_time_of_whatever_accelerator() -> None:
    gold = held(TWO, {}, {"h100": 1, "l4": 1})
    both = pool("low", profile("h100"), profile("l4"), priority=50)
    running = {"h100": 3, "l4": 3}
    gives = standing(held(both, running), gold)
    assert list(gives) == ["h100"]
    assert standing(held(both, running, gives=gives), gold) == gives, "the first is on its way"


def test_two_accelerators_together_do_not_go_below_the_floor() -> None:
    small = held(pool("small", profile("l4"), priority=150), 0, homeless=1)
    both = pool("low", profile("h100"), profile("l4"), priority=50, floor=3)
    low = held(both, {"h100": 2, "l4": 2})
    assert limits(GOLD, small, low) == {"low/h100": 1}


def test_who_gives_nothing_does_not_grow_either() -> None:
    low = pool("low", priority=50, floor=2)
    assert limits(GOLD, held(low, 2, homeless=3), taken=False) == {"low/h100": 2}
    assert limits(GOLD, held(low, 1, homeless=3), taken=False) == {"low/h100": 2}, "its floor"
    elsewhere = pool("low", profile("a100"), profile("h100"), priority=50, floor=2)
    both = held(elsewhere, {"a100": 1, "h100": 1}, {"h100": 1})
    assert limits(GOLD, both, taken=False) == {"low/h100": 1}
    smaller = pool("low", profile(gpus=1), priority=50)
    eight = held(pool("gold", profile(gpus=8), priority=200), 1, homeless=1)
    assert limits(eight, held(smaller, 3), taken=False) == {}, "what it takes would not help"
    assert limits(held(GOLD.pool, 2), held(low, 2, homeless=3), taken=False) == {}


def test_each_pool_that_is_short_holds_back_who_would_take_its_own_nodes() -> None:
    gold = held(pool("gold", profile(nodeSelector={"zone": "1"}), priority=200), 1, homeless=1)
    silver = held(pool("silver", profile(nodeSelector={"zone": "2"}), priority=150), 1, homeless=1)
    one = held(pool("one", profile(nodeSelector={"zone": "1"}), priority=50, floor=2), 2)
    two = held(pool("two", profile(nodeSelector={"zone": "2"}), priority=50, floor=2), 2)
    assert limits(gold, silver, one, two, taken=False) == {"one/h100": 2, "two/h100": 2}


def test_a_replica_whose_place_another_pool_took_is_followed_by_the_next() -> None:
    """That pool is below its floor, and so may grow."""
    fair = pool("fair", priority=100, floor=2)
    gives = standing(held(LOW, 5), GOLD, held(fair, 1, homeless=1))
    gives = standing(held(LOW, 4, gives=gives), GOLD, held(fair, 2))
    later = NOW + timedelta(seconds=61)
    assert standing(held(LOW, 4, gives=gives), GOLD, held(fair, 2), now=later)["h100"].limit == 3


def test_what_the_annotation_says_survives_the_writing() -> None:
    gives = standing(held(LOW, 3), GOLD)
    assert dict(held(LOW, 3, gives=gives).reclaims()) == gives


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"limit":"x"}', "not json"])
def test_an_annotation_of_somebody_else_counts_for_nothing(text: str) -> None:
    low = held(LOW, 3)
    low.deployments["h100"]["metadata"]["annotations"]["shunter.dev/reclaimed"] = text
    assert dict(low.reclaims()) == {}
    assert limits(GOLD, low) == {"low/h100": 2}


KINDS = ("h100", "l4")
NUMBERS = st.dictionaries(st.sampled_from(KINDS), st.integers(0, 3))


@st.composite
def holdings(draw: st.DrawFn) -> list[Holding]:
    found = []
    for n in range(draw(st.integers(1, 5))):
        made = pool(
            f"p{n}",
            *(profile(kind, most=3) for kind in KINDS),
            priority=draw(st.sampled_from([0, 100, 200])),
            floor=draw(st.integers(0, 3)),
        )
        found.append(held(made, draw(NUMBERS), draw(NUMBERS), loading=draw(st.integers(0, 1))))
    return found


@settings(max_examples=150, deadline=None)
@given(holdings(), st.randoms(use_true_random=False))
def test_whatever_is_there(found: list[Holding], random: Any) -> None:
    by_key = {holding.key: holding for holding in found}
    decided = reclaims(found, NOW)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert reclaims(shuffled, NOW) == decided, "the order does not matter"
    per_kind: dict[str, int] = {}
    for key, every in decided.items():
        giver, gives = by_key[key], {kind: one for kind, one in every.items() if one.taken}
        for kind in every.keys() - gives.keys():
            placed = sum(p.scheduled for p in giver.pods_of(kind))
            limit = every[kind].limit
            assert limit == placed or placed < limit <= giver.floor, "it may reach its floor"
        ready = {p: sum(x.ready for x in giver.pods_of(p)) for p in KINDS}
        stays = sum(min(ready[p], gives[p].limit if p in gives else ready[p]) for p in KINDS)
        assert stays >= giver.floor or not gives
        for kind, reclaim in gives.items():
            taker = next(h for h in found if str(h.key) == reclaim.by)
            assert taker.priority > giver.priority
            assert any(stuck(p, NOW, 60) for p in taker.lacking(kind))
            placed = sum(p.scheduled for p in giver.pods_of(kind))
            assert reclaim.limit == placed - 1 >= 0
            per_kind[kind] = per_kind.get(kind, 0) + 1
    assert all(count == 1 for count in per_kind.values())
    if not any(p.unschedulable_since for h in found for p in h.pods):
        assert decided == {}
