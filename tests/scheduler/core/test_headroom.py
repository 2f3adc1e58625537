"""A class keeps lower ones from slowing it beyond its target."""

import pytest

from shunter_api.testing import make_policy
from shunter_scheduler.core.planner.testing import PlannerHarness
from shunter_scheduler.core.settings import HeadRoom, Moves
from shunter_scheduler.core.testing import only
from shunter_scheduler.domain.decisions import Assign, Hold
from shunter_scheduler.domain.events import Finished

CLASSES = [
    {"name": "interactive", "priority": 100, "tpot": "45ms"},
    {"name": "batch", "priority": 0, "deadline": "24h"},
]


def hosting(
    requests: int, tpot: str = "45ms", instances: int = 1, **head_room: bool
) -> PlannerHarness:
    """An A10's step takes 35 ms, and 0.65 ms and a little more for each request."""
    classes = [{**CLASSES[0], "tpot": tpot}, CLASSES[1]]
    harness = PlannerHarness(
        instances,
        policies=[make_policy(classes=classes)],
        moves=Moves(),
        head_room=HeadRoom(**{"for_targets": False, **head_room}),
    )
    ids = [f"i{n}" for n in range(requests)]
    harness.load(harness.names[0], ids, 0, prompt_tokens=300, slo_class="interactive")
    return harness


def test_a_lower_class_waits_where_one_more_would_be_too_many_and_is_told_why() -> None:
    harness = hosting(12)
    (held,) = harness.submit("b", prompt_tokens=100, slo_class="batch")
    assert isinstance(held, Hold)
    explained = harness.core.explain("b", harness.now)
    assert explained is not None
    (candidate,) = explained.decisions[-1].candidates
    assert "kept for a higher class" in candidate.excluded_because
    assert "its target is 45 ms" in candidate.excluded_because
    assert only(Assign, harness.submit("i", prompt_tokens=100, slo_class="interactive"))
    harness.now += 19 * 0.043
    ended = [Finished(f"i{n}", 1, 20, "stop") for n in range(11)]
    assert [one.request_id for one in only(Assign, harness.after(*ended))] == ["b"]


def test_below_the_target_load_all_share() -> None:
    assert only(Assign, hosting(2).submit("b", prompt_tokens=100, slo_class="batch"))


def test_a_target_that_is_missed_even_alone_keeps_nobody_out() -> None:
    harness = hosting(12, tpot="10ms")
    assert only(Assign, harness.submit("b", prompt_tokens=100, slo_class="batch"))


def test_it_can_be_switched_off() -> None:
    harness = hosting(12, for_priorities=False)
    assert only(Assign, harness.submit("b", prompt_tokens=100, slo_class="batch"))


def test_a_request_that_would_cost_its_own_class_more_than_it_gains_waits_and_is_told_why() -> None:
    harness = hosting(12, for_targets=True)
    (held,) = harness.submit("i", prompt_tokens=100, slo_class="interactive")
    assert isinstance(held, Hold)
    explained = harness.core.explain("i", harness.now)
    assert explained is not None
    (candidate,) = explained.decisions[-1].candidates
    assert "would miss their targets there" in candidate.excluded_because
    harness.now += 19 * 0.06
    ended = [Finished(f"i{n}", 1, 20, "stop") for n in range(10)]
    assert [one.request_id for one in only(Assign, harness.after(*ended))] == ["i"]


def two_instances(there: int, elsewhere: int, **head_room: bool) -> PlannerHarness:
    """The first one runs an interactive request and `there` - 1 of batch, the second `elsewhere` of
    batch; the target is 50 ms. Their prefills are long over."""
    harness = hosting(0, "50ms", 2, **head_room)
    first, second = harness.names
    for name, count in ((first, there - 1), (second, elsewhere)):
        ids = [f"{name}-{n}" for n in range(count)]
        harness.load(name, ids, 0, prompt_tokens=300, slo_class="batch")
    harness.load(first, ["first"], 0, prompt_tokens=300, slo_class="interactive")
    harness.now += 60.0
    for name in harness.names:
        harness.observe(name)
    return harness


@pytest.mark.parametrize(
    ("there", "elsewhere", "goes_there"),
    [
        (7, 6, True),
        (7, 2, False),  # far slower there
        (3, 2, False),  # no instance comes near the target
        (12, 11, False),  # beyond the target
    ],
)
def test_a_higher_class_gathers_on_instances_that_are_about_as_fast(
    there: int, elsewhere: int, goes_there: bool
) -> None:
    harness = two_instances(there, elsewhere)
    assigned = harness.assign("i", prompt_tokens=300, slo_class="interactive")
    assert assigned.instance == harness.names[0 if goes_there else 1]
    explained = harness.core.explain("i", harness.now)
    assert explained is not None
    reasons = [c.excluded_because for c in explained.decisions[-1].candidates]
    assert ("its class runs on others that are about as fast" in reasons) == goes_there


def test_it_does_not_gather_behind_a_prefill_nor_away_from_its_cache() -> None:
    harness = two_instances(7, 6)
    harness.assign("i", prompt_tokens=300, slo_class="interactive")  # no first token yet
    assert harness.assign("j", slo_class="interactive").instance == harness.names[1]
    harness = two_instances(7, 6)
    hashes = bytes(8 * 40)
    pool = harness.core._state.pools["chat"]
    pool.prefix.insert(1, hashes, pool.prefix.match(hashes))
    asked = {"prompt_tokens": 64 * 40 + 1, "block_hashes": hashes, "slo_class": "interactive"}
    assert harness.assign("k", **asked).instance == harness.names[1]


def test_the_lowest_class_and_one_without_a_target_do_not_gather() -> None:
    harness = two_instances(7, 6)
    assert harness.assign("b", slo_class="batch").instance == harness.names[1]
    harness = two_instances(7, 6, for_priorities=False)
    assert harness.assign("i", slo_class="interactive").instance == harness.names[1]
