"""Waiting: order, bounds, holds, time-outs, fallback, and clear refusals."""

from typing import Any

import pytest

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject
from shunter_scheduler.domain.events import (
    Failed,
    Finished,
    FirstToken,
    GatewayLost,
    Submitted,
)

ONE_AT_A_TIME = CoreSettings(head_room=HeadRoom(max_requests=1))
CLASSES = [
    {"name": "interactive", "priority": 100, "ttft": "300ms", "tpot": "40ms"},
    {"name": "standard", "priority": 50, "ttft": "2s"},
    {"name": "batch", "priority": 0, "deadline": "24h"},
]


def narrow(**policy: Any) -> CoreHarness:
    """One instance that takes one request at a time; it is occupied by request `first`."""
    policies = [make_policy(classes=CLASSES, **policy)]
    harness = CoreHarness(make_instances(1), policies=policies, settings=ONE_AT_A_TIME)
    harness.start("first")
    return harness


def drain_queue(harness: CoreHarness, running: str = "first") -> list[str]:
    """Finishes one request after the other; the order in which the others were placed."""
    order: list[str] = []
    while True:
        placed = only(Assign, harness.after(Finished(running, 1, 10, "stop")))
        if not placed:
            return order
        (assigned,) = placed
        running = assigned.request_id
        order.append(running)


def test_classes_go_by_priority_and_inside_by_slack() -> None:
    harness = narrow()
    for request_id, name, arrived_at in (
        ("batch", "batch", 0.0),
        ("standard-late", "standard", 0.0),
        ("standard-early", "standard", -1.0),
        ("interactive", "interactive", 0.0),
    ):
        harness.submit(request_id, slo_class=name, arrived_at=arrived_at)
    assert drain_queue(harness) == ["interactive", "standard-early", "standard-late", "batch"]


def test_a_deadline_does_not_put_off_the_first_token() -> None:
    harness = narrow()
    harness.submit("late", slo_class="interactive", arrived_at=0.0)
    harness.submit("bound", slo_class="interactive", arrived_at=-0.1, deadline_at=20.0)
    harness.submit("urgent", slo_class="interactive", arrived_at=0.0, deadline_at=0.5)
    assert drain_queue(harness) == ["urgent", "bound", "late"]


def test_an_aged_request_overtakes_a_higher_class() -> None:
    harness = narrow()
    harness.submit("batch", slo_class="batch")
    harness.now = 15.0
    harness.submit("interactive", slo_class="interactive", arrived_at=15.0)
    assert drain_queue(harness) == ["interactive", "batch"]
    harness = narrow(admission={"queueTimeout": "300s"})
    harness.submit("batch", slo_class="batch")
    harness.now = 45.0
    harness.submit("interactive", slo_class="interactive", arrived_at=45.0)
    assert drain_queue(harness) == ["batch", "interactive"]


def test_one_that_is_refused_takes_nothing_of_the_share_of_a_class_that_aged() -> None:
    """Its deadline is lost: no service went before a higher class."""
    harness = narrow(admission={"queueTimeout": "300s"})
    harness.submit("lost", slo_class="batch", deadline_at=45.001)
    harness.now = 1.0
    harness.submit("batch", slo_class="batch")
    harness.now = 45.0
    harness.submit("interactive", slo_class="interactive", arrived_at=45.0)
    decisions = harness.after(Finished("first", 1, 10, "stop"))
    assert [reject.request_id for reject in only(Reject, decisions)] == ["lost"]
    assert [assigned.request_id for assigned in only(Assign, decisions)] == ["batch"]


def test_a_held_request_is_told_its_position_and_an_estimate() -> None:
    harness = narrow()
    holds = [only(Hold, harness.submit(f"r{i}"))[0] for i in range(3)]
    assert [hold.position for hold in holds] == [0, 1, 2]
    assert all(hold.eta_s > 0 for hold in holds)
    (again,) = only(Hold, harness.submit("r1"))
    assert again == holds[1], "a repeated submission changes nothing, and is told so"


def test_a_hold_is_repeated_when_the_position_changed_materially() -> None:
    harness = narrow()
    for i in range(6):
        harness.submit(f"r{i}")
    running = "first"
    for i in range(4):
        harness.after(Finished(running, 1, 10, "stop"))
        running = f"r{i}"
    wake = harness.core.next_wake(harness.now)
    assert wake is not None
    harness.now = wake
    holds = {hold.request_id: hold.position for hold in only(Hold, harness.decide())}
    assert holds == {"r4": 0, "r5": 1}


def test_a_full_queue_sheds_the_lowest_class() -> None:
    harness = narrow(admission={"maxQueued": 2})
    harness.submit("b0", slo_class="batch")
    harness.submit("s0", slo_class="standard")
    (shed,) = only(Reject, harness.submit("i0", slo_class="interactive"))
    assert (shed.request_id, shed.reason) == ("b0", "overloaded")
    assert shed.retry_after_s >= 1.0
    (shed,) = only(Reject, harness.submit("b1", slo_class="batch"))
    assert shed.request_id == "b1"
    assert drain_queue(harness) == ["i0", "s0"]


def test_without_a_queue_what_fits_is_still_placed() -> None:
    harness = CoreHarness(
        make_instances(1),
        policies=[make_policy(admission={"maxQueued": 0})],
        settings=ONE_AT_A_TIME,
    )
    assert only(Assign, harness.submit("r0"))
    assert only(Reject, harness.submit("r1"))[0].reason == "overloaded"


def test_waiting_too_long_ends_in_queue_timeout() -> None:
    harness = narrow(admission={"queueTimeout": "5s"})
    harness.submit("r0")
    harness.now = 4.9
    assert not only(Reject, harness.decide())
    assert harness.core.next_wake(harness.now) == pytest.approx(5.0, abs=1.0)
    harness.now = 5.0
    (reject,) = only(Reject, harness.decide())
    assert reject.reason == "queue_timeout"
    assert drain_queue(harness) == []


def test_a_deadline_that_passes_in_the_queue() -> None:
    harness = narrow()
    harness.submit("r0", deadline_at=2.0)
    harness.now = 2.0
    (reject,) = only(Reject, harness.decide())
    assert reject.reason == "deadline"


def test_a_deadline_that_cannot_be_kept_any_more_is_refused_at_once() -> None:
    harness = CoreHarness(make_instances(1))
    ttft_s = harness.assign("first", prompt_tokens=7000).predicted_ttft_s
    harness.apply(Finished("first", 1, 10, "stop"))
    (reject,) = only(Reject, harness.submit("r0", prompt_tokens=7000, deadline_at=0.4 * ttft_s))
    assert reject.reason == "deadline" and "first token would take" in reject.message
    assert only(Assign, harness.submit("r1", prompt_tokens=7000, deadline_at=0.6 * ttft_s)), (
        "a prediction may be wrong by half"
    )
    harness.check_books()


def test_instances_that_start_are_waited_for_and_none_at_all_is_said_at_once() -> None:
    harness = CoreHarness(make_instances(1), healthy=False)
    assert only(Hold, harness.submit("r0"))
    harness.observe("chat-h100-0")
    assert only(Assign, harness.decide())
    harness = CoreHarness(())
    (reject,) = only(Reject, harness.submit("r0"))
    assert reject.reason == "no_instance" and reject.retry_after_s > 0


def test_no_instance_in_service_until_the_time_is_up() -> None:
    harness = CoreHarness(make_instances(1), healthy=False)
    harness.submit("r0")
    harness.now = 31.0
    (reject,) = only(Reject, harness.decide())
    assert reject.reason == "no_instance"


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"model": "gpt-5"}, "unknown_model", "gpt-5"),
        ({"prompt_tokens": 8192}, "context_length", "8192 tokens"),
        ({"slo_class": "gold"}, "class_not_allowed", "gold"),
        (
            {"slo_class": "batch", "allowed_classes": ("standard",)},
            "class_not_allowed",
            "allowed: standard",
        ),
        ({"pool": "gone"}, "no_instance", "gone"),
    ],
)
def test_refusals_name_the_thing(fields: dict[str, object], reason: str, words: str) -> None:
    harness = CoreHarness(policies=[make_policy(classes=CLASSES)])
    (reject,) = only(Reject, harness.submit("r0", **fields))
    assert reject.reason == reason
    assert words in reject.message
    explained = harness.core.explain("r0", 0.0)
    assert explained is not None and explained.decisions[-1].kind == "reject"


def test_a_prompt_larger_than_any_kv_memory() -> None:
    harness = CoreHarness(make_instances(1))
    harness.observe("chat-h100-0", kv_capacity_tokens=2000)
    (reject,) = only(Reject, harness.submit("r0", prompt_tokens=3000))
    assert reject.reason == "context_length" and "2000" in reject.message
    assert only(Assign, harness.submit("r1", prompt_tokens=1900, max_output_tokens=0))


def test_full_kv_memory_holds_and_a_smaller_request_goes_by() -> None:
    harness = CoreHarness(make_instances(1))
    harness.observe("chat-h100-0", kv_capacity_tokens=10_000)
    harness.start("big", prompt_tokens=7000)
    assert only(Hold, harness.submit("large", prompt_tokens=5000))
    assert only(Assign, harness.submit("small", prompt_tokens=500))
    placed = only(Assign, harness.after(Finished("big", 1, 10, "stop")))
    assert [assigned.request_id for assigned in placed] == ["large"]


def test_prefills_ahead_keep_requests_in_the_queue() -> None:
    """The order stays open until an engine could start soon."""
    pool = make_pool("chat", profiles=("l4",))
    harness = CoreHarness(make_instances(1, profile="l4"), pools=[pool])
    ids = [f"r{i}" for i in range(8)]
    decisions = harness.after(*(Submitted(make_request(i, prompt_tokens=4000)) for i in ids))
    placed = [assigned.request_id for assigned in only(Assign, decisions)]
    assert 2 <= len(placed) < 8
    assert only(Hold, decisions)
    more = only(Assign, harness.after(*(FirstToken(i, 1, 1.0) for i in placed)))
    assert more


def test_a_lost_gateway_leaves_the_queue() -> None:
    harness = narrow()
    harness.submit("theirs", gateway_id="other")
    harness.submit("ours")
    harness.apply(GatewayLost("other"))
    assert drain_queue(harness) == ["ours"]


def two_pools(**spec: Any) -> CoreHarness:
    pools = [make_pool("chat"), make_pool("spare")]
    rule = {"name": "r", "when": {"models": ["chat"]}, "fallback": ["spare"]}
    return CoreHarness(
        [*make_instances(1), *make_instances(1, pool="spare")],
        pools=pools,
        policies=[make_policy(rules=[rule], **spec)],
        settings=ONE_AT_A_TIME,
    )


def test_fallback_when_no_instance_of_the_first_pool_serves() -> None:
    harness = two_pools()
    assert harness.assign("r0").pool == "chat"
    harness.observe("chat-h100-0", healthy=False)
    assert harness.assign("r1").pool == "spare"


def test_fallback_when_the_queue_of_the_first_pool_is_full() -> None:
    harness = two_pools(admission={"maxQueued": 0})
    assert [harness.assign(f"r{i}").pool for i in range(2)] == ["chat", "spare"]
    assert only(Reject, harness.submit("r2"))


def test_fallback_of_those_that_wait_when_the_pool_goes_down() -> None:
    harness = two_pools()
    harness.assign("r0")
    assert only(Hold, harness.submit("r1"))
    harness.observe("chat-h100-0", healthy=False)
    (assigned,) = only(Assign, harness.decide())
    assert (assigned.request_id, assigned.pool) == ("r1", "spare")


def test_no_fallback_once_the_answer_has_begun() -> None:
    harness = two_pools()
    harness.observe("chat-h100-0", healthy=False)
    assert only(Hold, harness.submit("r0", pool="chat", output_tokens=5, epoch=2))


def test_weights_split_the_traffic() -> None:
    pools = [make_pool("chat"), make_pool("next")]
    rule = {"name": "r", "route": [{"pool": "chat", "weight": 3}, {"pool": "next", "weight": 1}]}
    harness = CoreHarness(
        [*make_instances(1), *make_instances(1, pool="next")],
        pools=pools,
        policies=[make_policy(rules=[rule])],
    )
    pools_of = [harness.start(f"r{i}", prompt_tokens=10).pool for i in range(200)]
    assert 120 < pools_of.count("chat") < 180


def test_the_engine_priority_is_lower_for_higher_classes() -> None:
    harness = CoreHarness(policies=[make_policy(classes=CLASSES)])
    names = ("interactive", "standard", "batch")
    assert [harness.assign(name, slo_class=name).priority for name in names] == [0, 1, 2]


def test_load_that_is_not_ours_counts_once_it_is_seen_twice() -> None:
    (instance,) = instances = make_instances(1)
    harness = CoreHarness(instances)
    theirs: dict[str, Any] = {"running": 5, "kv_cache_usage": 0.95, "kv_capacity_tokens": 10_000}
    harness.observe(instance.name, **theirs)
    harness.start("r0", prompt_tokens=2000)
    harness.apply(Finished("r0", 1, 5, "stop"))
    harness.observe(instance.name, **theirs)
    assert only(Hold, harness.submit("r1", prompt_tokens=2000))
    harness.observe(instance.name, **{**theirs, "running": 0})
    assert only(Assign, harness.decide()), "an idle engine's prefix cache is no load"


@pytest.mark.parametrize("ended", [True, False])
def test_one_that_ran_unheard_of_leaves_its_place_in_the_queue(ended: bool) -> None:
    """Its gateway had no scheduler for a while, placed it by itself, and reports only the end."""
    harness = narrow()
    assert only(Hold, harness.submit("r0"))
    harness.apply(
        Finished("r0", 1, 50, "stop") if ended else Failed("r0", 1, "chat-h100-0", "connection", 50)
    )
    harness.check_books()
    assert only(Hold, harness.submit("r1"))
    assert drain_queue(harness) == ["r1"]
    harness.check_books()


def test_the_tightest_target_counts_as_long_as_its_class_is_there() -> None:
    """Engines get prompts only while a fifth of it is ahead: what waits there cannot be passed."""
    harness = CoreHarness(make_instances(1), policies=[make_policy(classes=CLASSES)])
    harness.start("r0", slo_class="interactive")
    pool = harness.core._state.pools["chat"]
    assert pool.settings.head_room.max_queue_s == pytest.approx(0.06)
    harness.policies = (make_policy(classes=CLASSES[1:]),)
    harness.configure()
    assert pool.settings.head_room.max_queue_s == HeadRoom().max_queue_s
    harness.start("r1", slo_class="standard")
    assert pool.settings.head_room.max_queue_s == pytest.approx(0.4)
