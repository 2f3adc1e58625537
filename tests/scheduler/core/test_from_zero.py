"""A pool without an instance: who waits for one, for how long, and what is advised meanwhile."""

import pytest

from from_zero import advised, at_zero, back_at_zero, full_instance, phase, start, zero_pool
from shunter_api.modelpool import ModelPool
from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject
from shunter_scheduler.domain.events import DrainRequested, Finished


def test_requests_are_held_and_an_instance_is_asked_for() -> None:
    harness = at_zero()
    assert advised(harness) == 0, "nobody has asked yet"
    (hold,) = only(Hold, harness.submit("r0"))
    assert (hold.position, hold.phase, hold.eta_s) == (0, "scaling-up", 0.0)
    assert advised(harness) == 1
    harness.now = 40.0
    start(harness)
    (assign,) = only(Assign, harness.decide())
    assert assign.request_id == "r0"
    harness.check_books()


def test_beyond_max_held_requests_are_refused_with_a_time_to_come_back() -> None:
    harness = at_zero()
    for i in range(3):
        assert only(Hold, harness.submit(f"r{i}"))
    (reject,) = only(Reject, harness.submit("r3"))
    assert (reject.request_id, reject.reason) == ("r3", "hold_full")
    assert "3 requests wait" in reject.message
    assert reject.retry_after_s == 30.0


def test_the_higher_class_is_held_first_and_goes_first() -> None:
    classes = [{"name": "interactive", "priority": 90}, {"name": "batch", "priority": 10}]
    harness = at_zero(policies=[make_policy(classes=classes, rules=[{"name": "all"}])])
    for i in range(3):
        harness.submit(f"batch-{i}", slo_class="batch")
    decisions = harness.submit("quick", slo_class="interactive")
    (reject,) = only(Reject, decisions)
    assert (reject.request_id, reject.reason) == ("batch-2", "hold_full")
    (hold,) = only(Hold, decisions)
    assert (hold.request_id, hold.position) == ("quick", 0)
    start(harness)
    assigns = only(Assign, harness.decide())
    assert [assign.request_id for assign in assigns] == ["quick", "batch-0", "batch-1"]


def test_who_is_held_is_not_shed_for_a_newcomer_although_it_is_late() -> None:
    """Nobody keeps a target while nothing serves, and its client was told that it is held."""
    classes = [{"name": "standard", "priority": 50, "ttft": "2s"}]
    policy = make_policy(classes=classes, rules=[{"name": "all"}])
    harness = back_at_zero(policies=[policy])
    for i in range(3):
        assert only(Hold, harness.submit(f"r{i}", slo_class="standard"))
    for harness.now in (6.0, 7.0):
        newcomer = {"arrived_at": harness.now, "slo_class": "standard"}
        (reject,) = only(Reject, harness.submit(f"at-{harness.now}", **newcomer))
        assert (reject.request_id, reject.reason) == (f"at-{harness.now}", "hold_full")


def test_a_hold_ends_at_its_timeout_and_not_at_that_of_the_queue() -> None:
    harness = at_zero()
    harness.submit("r0")
    harness.now = 299.0
    assert only(Reject, harness.decide()) == []
    harness.now = 300.0
    (reject,) = only(Reject, harness.decide())
    assert reject.reason == "hold_timeout"
    assert "300 s: scaling-up" in reject.message


def test_those_who_were_held_keep_their_places_once_an_instance_serves() -> None:
    policy = make_policy(admission={"maxQueued": 1}, rules=[{"name": "all"}])
    harness = at_zero(policies=[policy])
    for i in range(3):  # none of them fits beside another
        harness.submit(f"r{i}", prompt_tokens=8000, max_output_tokens=100)
    start(harness)
    harness.observe("chat-h100-0", kv_capacity_tokens=9000)
    decisions = harness.decide()
    assert len(only(Assign, decisions)) == 1
    assert only(Reject, decisions) == []


def test_nor_are_they_shed_for_newcomers_once_an_instance_serves() -> None:
    classes = [{"name": "standard", "priority": 50, "ttft": "2s"}]
    policy = make_policy(classes=classes, rules=[{"name": "all"}], admission={"maxQueued": 1})
    harness = back_at_zero(policies=[policy])
    for i in range(3):  # none of them fits beside another
        harness.submit(f"r{i}", prompt_tokens=8000, max_output_tokens=100, slo_class="standard")
    harness.now = 6.0
    start(harness)
    harness.observe("chat-h100-0", kv_capacity_tokens=9000)
    assert len(only(Assign, harness.decide())) == 1
    harness.now = 7.0
    shed = []
    for i in range(2):
        newcomer = {"arrived_at": 7.0, "slo_class": "standard"}
        decisions = harness.submit(f"new-{i}", prompt_tokens=8000, **newcomer)
        shed += [reject.request_id for reject in only(Reject, decisions)]
    assert shed == ["new-1"]


def test_a_request_during_the_start_is_told_how_long_the_last_start_took() -> None:
    harness = at_zero()
    harness.submit("r0")
    harness.now = 50.0
    start(harness)
    harness.decide()
    harness.apply(Finished("r0", 1, 3, "stop"))
    harness.configure(())
    harness.now = 1000.0
    (hold,) = only(Hold, harness.submit("r1"))
    assert hold.eta_s == 50.0
    harness.now = 1030.0
    (hold,) = only(Hold, harness.submit("r2"))
    assert hold.eta_s == 20.0
    harness.now = 1200.0
    (hold,) = only(Hold, harness.submit("r3"))
    assert hold.eta_s == 1.0, "it takes longer than the last one"


def test_who_waits_hears_of_each_phase() -> None:
    harness = at_zero()
    harness.submit("r0")
    told = []
    for name in ("unschedulable", "starting", "loading-weights"):
        phase(harness, name)
        harness.now += 1.0
        told += [hold.phase for hold in only(Hold, harness.decide())]
        harness.now += 1.0
        assert only(Hold, harness.decide()) == [], "nothing new"
    assert told == ["unschedulable", "starting", "loading-weights"]


def test_the_last_instance_is_advised_away_after_the_idle_time() -> None:
    harness = at_zero()
    start(harness)
    harness.assign("r0")
    harness.now = 700.0
    assert advised(harness) == 1, "it runs"
    harness.apply(Finished("r0", 1, 3, "stop"))
    harness.now = 1299.0
    assert advised(harness) == 1
    harness.now = 1300.0
    (advice,) = harness.core.advise_scaling("chat", harness.now)
    assert advice.desired_replicas == 0
    assert "no request for 10m" in advice.reason


def test_an_instance_that_works_for_others_is_not_idle() -> None:
    """Embeddings, for instance, go to engines without the scheduler."""
    harness = at_zero()
    start(harness)
    harness.now = 599.0
    harness.observe("chat-h100-0", running=1)
    harness.now = 1198.0
    assert advised(harness) == 1
    harness.observe("chat-h100-0")
    harness.now = 1199.0
    assert advised(harness) == 0


def test_after_a_restart_the_idle_time_begins_anew() -> None:
    harness = CoreHarness(make_instances(1), pools=[zero_pool()])
    assert advised(harness) == 1
    harness.now = 599.0
    assert advised(harness) == 1
    harness.now = 600.0
    assert advised(harness) == 0


def test_a_restart_while_the_first_instance_starts_does_not_end_it() -> None:
    harness = at_zero()
    phase(harness, "unschedulable")
    assert advised(harness) == 1, "somebody asked the scheduler before"
    harness.now = 600.0
    assert advised(harness) == 0, "and has gone"


@pytest.mark.parametrize("loading", ["starting", "loading-weights"])
def test_an_instance_that_loads_its_weights_is_not_idle(loading: str) -> None:
    harness = at_zero()
    harness.submit("r0")
    phase(harness, loading)
    harness.now = 3000.0
    assert [r.reason for r in only(Reject, harness.decide())] == ["hold_timeout"]
    assert advised(harness) == 1
    start(harness)
    harness.now = 3599.0
    assert advised(harness) == 1, "its idle time begins when it serves"
    harness.now = 3600.0
    assert advised(harness) == 0


def test_a_request_that_a_fallback_answers_starts_the_preferred_pool_too() -> None:
    rule = {"name": "r", "when": {"models": ["any"]}, "route": [{"pool": "chat"}]}
    policy = make_policy(rules=[{**rule, "fallback": ["other"]}])
    other = make_instances(1, "other")
    harness = CoreHarness(other, pools=[zero_pool(), make_pool("other")], policies=[policy])
    assert advised(harness) == 0
    assert harness.assign("r0", model="any").pool == "other"
    assert advised(harness) == 1


def test_a_request_for_a_pool_that_may_start_does_not_end_at_one_that_may_not() -> None:
    rule = {"name": "r", "when": {"models": ["any"]}, "route": [{"pool": "other"}]}
    policy = make_policy(rules=[{**rule, "fallback": ["chat"]}])
    harness = at_zero(make_pool("other"), zero_pool(), policies=[policy])
    assert only(Hold, harness.submit("r0", model="any"))
    assert advised(harness) == 1


@pytest.mark.parametrize(
    "pool",
    [zero_pool(mode="Manual"), zero_pool(scaleToZero=None)],
    ids=["Manual", "not allowed"],
)
def test_who_may_not_start_from_zero_says_so_at_once(pool: ModelPool) -> None:
    harness = at_zero(pool)
    (reject,) = only(Reject, harness.submit("r0"))
    assert reject.reason == "no_instance"


def test_without_scale_to_zero_auto_keeps_one_and_a_floor_more() -> None:
    assert advised(at_zero(zero_pool(scaleToZero=None))) == 1
    assert advised(at_zero(zero_pool(scaleToZero=None, floor=3))) == 3


def test_an_instance_that_only_drains_is_none() -> None:
    """Requests wait for the next one as long as they would without it."""
    harness = at_zero()
    start(harness, healthy=False)
    (hold,) = only(Hold, harness.submit("r0"))
    assert hold.phase == "starting"
    harness.now = 100.0
    assert only(Reject, harness.decide()) == []


@pytest.mark.parametrize("newcomer", [False, True])
@pytest.mark.parametrize("how", ["gone", "draining", "unhealthy"])
def test_who_queued_is_held_when_the_last_instance_goes(how: str, newcomer: bool) -> None:
    harness = full_instance()
    match how:
        case "gone":
            harness.configure(())
        case "draining":
            harness.apply(DrainRequested("chat-h100-0", 1000.0))
        case _:
            harness.observe("chat-h100-0", healthy=False)
    decisions = harness.submit("r2") if newcomer else []
    for harness.now in (21.0, 31.0, 299.0):
        decisions += harness.decide()
    assert only(Reject, decisions) == []
    assert {hold.phase for hold in only(Hold, decisions) if hold.request_id == "r1"} == {
        "scaling-up" if how == "gone" else "starting"
    }
    assert advised(harness) == 1
    harness.now = 300.0
    (reject,) = only(Reject, harness.decide())
    assert (reject.request_id, reject.reason) == ("r1", "hold_timeout")
