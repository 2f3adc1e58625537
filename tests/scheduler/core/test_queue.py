"""The admission order is a strict weak order, and the queue follows it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.queue import AdmissionQueue, order_key

STEP_S = 10.0


@dataclass(eq=False)
class Item:
    request_id: str
    rank: int
    queued_at: float
    latest_start_at: float


instants = st.sampled_from([0.0, 0.5, 3.0, 9.999, 10.0, 10.001, 25.0, 40.0, 61.0])
items = st.lists(
    st.builds(
        Item,
        request_id=st.uuids().map(str),
        rank=st.integers(0, 3),
        queued_at=instants,
        latest_start_at=st.floats(-1e6, 1e6),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda item: item.request_id,
)
nows = st.floats(61.0, 500.0)


@given(items, nows)
def test_order_is_a_strict_weak_order(waiting: list[Item], now: float) -> None:
    keys = [order_key(item, now, STEP_S) for item in waiting]
    for a in keys:
        assert not a < a
        for b in keys:
            assert not (a < b and b < a)
            assert a is b or (a < b) != (b < a)  # total: equal slack ends in the id
            for c in keys:
                assert not (a < b and b < c) or a < c


@given(items, st.lists(nows, min_size=1, max_size=5).map(sorted))
def test_queue_is_in_that_order_at_any_time(waiting: list[Item], times: list[float]) -> None:
    queue: AdmissionQueue[Item] = AdmissionQueue(STEP_S)
    for item in waiting:
        queue.push(item, item.queued_at)
    for now in times:
        queue.advance(now)
        expected = sorted(waiting, key=lambda item: order_key(item, now, STEP_S))
        assert list(queue) == expected
        assert queue.first(3) == expected[:3]
        assert queue.last() == expected[-1]
        assert [queue.position(item) for item in expected] == list(range(len(expected)))


@given(items, st.data())
def test_removed_once_and_only_once(waiting: list[Item], data: st.DataObject) -> None:
    queue: AdmissionQueue[Item] = AdmissionQueue(STEP_S)
    for item in waiting:
        queue.push(item, item.queued_at)
    for item in data.draw(st.permutations(waiting)):
        assert item.request_id in queue
        assert queue.remove(item.request_id)
        assert not queue.remove(item.request_id)
        assert item not in list(queue)
    assert len(queue) == 0 and queue.last() is None


def test_a_higher_class_goes_first_until_the_lower_has_waited_longer() -> None:
    queue: AdmissionQueue[Item] = AdmissionQueue(STEP_S)
    queue.push(Item("batch", 0, 0.0, 1e6), 0.0)
    queue.push(Item("interactive", 1, 15.0, 0.0), 15.0)
    leaders = {}
    for now in (15.0, 20.0, 25.0, 32.0, 36.0):
        queue.advance(now)
        leaders[now] = queue.first(1)[0].request_id
    # levels batch : interactive are 1:1 (slack decides), 2:1, 2:2, 3:2, 3:3
    assert leaders == {
        15.0: "interactive",
        20.0: "batch",
        25.0: "interactive",
        32.0: "batch",
        36.0: "interactive",
    }


def test_least_slack_goes_first_inside_a_class() -> None:
    queue: AdmissionQueue[Item] = AdmissionQueue(STEP_S)
    for name, latest in (("relaxed", 50.0), ("urgent", 5.0), ("middle", 20.0)):
        queue.push(Item(name, 1, 0.0, latest), 0.0)
    assert [item.request_id for item in queue] == ["urgent", "middle", "relaxed"]


@pytest.mark.parametrize("queued_at", [n / 7 for n in range(1, 2000, 13)])
def test_who_is_looked_at_at_the_very_instant_of_a_lift_is_lifted(queued_at: float) -> None:
    """Whatever the instants round to; a lift that is passed over would be the last."""
    queue: AdmissionQueue[Item] = AdmissionQueue(STEP_S)
    queue.push(Item("a", 0, queued_at, 0.0), queued_at)
    for step in range(1, 4):
        queue.advance(queued_at + step * STEP_S)
    later = queued_at + 4.5 * STEP_S
    queue.advance(later)
    queue.push(Item("b", 4, later, 1.0), later)
    assert [one.request_id for one in queue] == ["a", "b"]
