"""Batch work gives way to a higher class, waits with what it has, and goes on."""

from typing import Any

import pytest

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, make_request, only
from shunter_scheduler.domain.decisions import Assign, Hold, Reject, Suspend
from shunter_scheduler.domain.events import Finished, MoveDone, Progress, Submitted

CLASSES = [
    {"name": "interactive", "priority": 100, "ttft": "300ms"},
    {"name": "standard", "priority": 50, "ttft": "2s"},
    {"name": "batch", "priority": 0, "deadline": "24h", "suspendable": True},
]


def full(*batch: int, **spec: Any) -> CoreHarness:
    """One instance with as many places as requests of class batch; each has so many tokens."""
    settings = CoreSettings(head_room=HeadRoom(max_requests=len(batch)))
    policies = [make_policy(classes=CLASSES, admission={"queueTimeout": "300s"})]
    pools = [make_pool("chat", spec=spec)]
    harness = CoreHarness(make_instances(1), pools=pools, policies=policies, settings=settings)
    for i, tokens in enumerate(batch):
        harness.start(f"b{i}", slo_class="batch", max_output_tokens=5000)
        harness.apply(Progress(f"b{i}", 1, tokens))
        harness.now += 0.1
    return harness


def again(request_id: str, epoch: int, output_tokens: int) -> Submitted:
    """What a gateway answers to a suspension."""
    request = make_request(
        request_id,
        epoch=epoch,
        output_tokens=output_tokens,
        slo_class="batch",
        max_output_tokens=5000,
        pool="chat",
        suspended=True,
    )
    return Submitted(request)


def ask(harness: CoreHarness, request_id: str, slo_class: str, **fields: Any) -> list[Suspend]:
    fields = {"slo_class": slo_class, "arrived_at": harness.now, **fields}
    return only(Suspend, harness.submit(request_id, **fields))


def test_who_has_the_least_to_lose_gives_way_and_goes_on_when_there_is_room() -> None:
    harness = full(900, 40, 500)
    (suspended,) = ask(harness, "urgent", "interactive")
    assert (suspended.request_id, suspended.epoch) == ("b1", 1)
    assert "urgent" in suspended.reason
    harness.check_books()
    (assigned,) = only(Assign, harness.after(again("b1", 2, 45)))
    assert assigned.request_id == "urgent"
    harness.check_books()
    (resumed,) = only(Assign, harness.after(Finished("urgent", 1, 10, "stop")))
    assert (resumed.request_id, resumed.epoch) == ("b1", 2)
    explained = harness.core.explain("b1", harness.now)
    assert explained is not None
    kinds = [record.kind for record in explained.decisions]
    assert kinds == ["dispatch", "suspend", "hold", "resume"]
    suspend = explained.decisions[1]
    assert dict(suspend.candidates[0].terms)["prefill"] > 0 and suspend.score_unit == "s"
    harness.check_books()


def test_only_a_lower_suspendable_class_gives_way() -> None:
    harness = full(10)
    assert ask(harness, "later", "batch") == []
    harness = CoreHarness(
        make_instances(1),
        policies=[make_policy(classes=CLASSES)],
        settings=CoreSettings(head_room=HeadRoom(max_requests=1)),
    )
    harness.start("s0", slo_class="standard")
    assert ask(harness, "urgent", "interactive") == []


@pytest.mark.parametrize(
    ("fields", "spec"),
    [({"unmovable_reason": "guided_decoding"}, {}), ({}, {"migration": {"mode": "Off"}})],
)
def test_what_cannot_move_is_not_suspended(fields: dict[str, str], spec: dict[str, Any]) -> None:
    settings = CoreSettings(head_room=HeadRoom(max_requests=1))
    pools, policies = [make_pool("chat", spec=spec)], [make_policy(classes=CLASSES)]
    harness = CoreHarness(make_instances(1), pools=pools, policies=policies, settings=settings)
    harness.start("b0", slo_class="batch", max_output_tokens=5000, **fields)
    assert ask(harness, "urgent", "interactive") == []


def test_nobody_gives_way_twice_for_one_nor_soon_again() -> None:
    harness = full(10, 20)
    assert len(ask(harness, "urgent", "interactive")) == 1
    harness.now += 1.0
    assert only(Suspend, harness.decide()) == []
    harness.after(again("b0", 2, 12))
    harness.after(Finished("urgent", 1, 10, "stop"))  # b0 goes on
    harness.apply(Progress("b0", 2, 13))
    assert ask(harness, "second", "interactive") == []  # room was sought this very moment
    assert harness.core.next_wake(harness.now) is not None
    harness.now += 0.1
    (other,) = only(Suspend, harness.decide())
    assert other.request_id == "b1"
    harness.after(again("b1", 2, 22))
    harness.now += 0.1
    assert ask(harness, "third", "interactive") == []
    harness.now += 11.0
    assert [s.request_id for s in ask(harness, "fourth", "interactive")] == ["b0"]


def test_a_class_that_waits_no_longer_than_others_would_lose_waits() -> None:
    """Its target is far, and the place comes free at once."""
    harness = full(4995)
    assert ask(harness, "standard", "standard", arrived_at=harness.now + 10.0) == []


def test_a_gateway_that_cannot_suspend_says_so() -> None:
    harness = full(10)
    (suspended,) = ask(harness, "urgent", "interactive")
    refused = MoveDone(suspended.request_id, 1, "chat-h100-0", False, "replay", "finished")
    harness.apply(refused)
    harness.check_books()
    harness.now += 1.0
    assert only(Suspend, harness.after()) == []  # it is left alone for a while


def test_a_gateway_that_knows_no_suspensions_is_not_asked_for_the_same_one_again() -> None:
    """An older one, as in a rolling update, says nothing."""
    harness = full(900, 40, 500)
    (first,) = ask(harness, "urgent", "interactive")
    harness.now += CoreSettings().moves.timeout_s
    (second,) = only(Suspend, harness.after())
    assert first.request_id != second.request_id


def test_an_old_timer_ends_no_later_suspension() -> None:
    """Else a second one would give way for the same request."""
    harness = full(900, 40)
    moves = CoreSettings().moves
    ask(harness, "urgent", "interactive")
    began = harness.now
    harness.apply(MoveDone("b1", 1, "chat-h100-0", False, "replay", "busy"))
    harness.now = began + moves.settle_s + 1.0
    suspended = only(Suspend, harness.after())
    assert [one.request_id for one in suspended] == ["b1"]
    harness.now = began + moves.timeout_s
    assert only(Suspend, harness.after()) == []


def test_a_suspended_request_outwaits_the_queue_timeout_and_is_never_shed() -> None:
    harness = full(10)
    ask(harness, "urgent", "interactive", max_output_tokens=5000)
    harness.after(again("b0", 2, 12))
    harness.now += 200.0
    assert only(Reject, harness.decide()) == []
    assert "b0" in harness.core._state.entries


def test_several_give_way_for_a_large_one() -> None:
    harness = CoreHarness(
        make_instances(1),
        policies=[make_policy(classes=CLASSES)],
        settings=CoreSettings(head_room=HeadRoom(max_queue_s=1e9)),
    )
    harness.observe("chat-h100-0", kv_capacity_tokens=10_000)
    for i in range(6):
        harness.start(f"b{i}", slo_class="batch", max_output_tokens=100)
    suspended = ask(harness, "urgent", "interactive", prompt_tokens=6000)
    assert len(suspended) >= 2
    decisions = harness.after(*(again(s.request_id, 2, 5) for s in suspended))
    assert "urgent" in [one.request_id for one in only(Assign, decisions)]
    assert only(Hold, decisions)
    harness.check_books()
