"""Beyond capacity those go first who can still keep their targets, and the others go after them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.testing import make_policy
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.core.triage import KNOWN_S, Drain, SortKey, put_off
from shunter_scheduler.domain.decisions import Assign
from shunter_scheduler.domain.events import Finished, FirstToken

# Work in quarters of a second, so that sums are exact.
quarters = st.integers(1, 40).map(lambda n: n / 4)
keys = st.lists(
    st.tuples(st.integers(0, 80).map(lambda n: n / 4), quarters), min_size=1, max_size=30
).map(
    lambda pairs: sorted(
        (latest_at, 0.0, f"r{n}", work_s) for n, (latest_at, work_s) in enumerate(pairs)
    )
)


def in_time(order: Sequence[SortKey], start_at: float, speed: float) -> list[str]:
    """Served one after the other, each from start to end."""
    kept, begins_at = [], start_at
    for latest_at, _, request_id, work_s in order:
        if begins_at <= latest_at:
            kept.append(request_id)
        begins_at += work_s / speed
    return kept


@given(keys, st.sampled_from([0.5, 1.0, 4.0]))
def test_who_is_not_put_off_starts_in_time(waiting: list[SortKey], speed: float) -> None:
    off = put_off(waiting, 0.0, speed)
    left = [key for key in waiting if key[2] not in off]
    assert in_time(left, 0.0, speed) == [key[2] for key in left]
    assert len(left) >= len(in_time(waiting, 0.0, speed)), "as many as without, or more"


@given(keys)
def test_nobody_is_put_off_where_all_fit(waiting: list[SortKey]) -> None:
    if len(in_time(waiting, 0.0, 1.0)) == len(waiting):
        assert not put_off(waiting, 0.0, 1.0)


@given(st.lists(quarters, min_size=1, max_size=20), st.integers(4, 80))
def test_of_those_that_came_together_the_longest_are_put_off(
    work: list[float], due_at: int
) -> None:
    waiting: list[SortKey] = sorted((due_at - w, 0.0, f"r{n}", w) for n, w in enumerate(work))
    off = put_off(waiting, 0.0, 1.0)
    kept = [key[3] for key in waiting if key[2] not in off]
    lost = [key[3] for key in waiting if key[2] in off]
    # But for one, which a shorter one may keep from fitting in.
    assert len([w for w in kept if lost and w > min(lost)]) <= 1


def test_a_request_without_a_target_is_never_put_off() -> None:
    waiting: list[SortKey] = [(0.0, 0.0, "old", 0.0), (0.0, 0.0, "due", 1.0)]
    assert put_off(waiting, 5.0, 1.0) == {"due"}


def test_the_speed_is_that_at_which_work_left_while_somebody_waited() -> None:
    drain = Drain()
    drain.looked(10.0)
    drain.went(10.0, 100.0)  # at once: there was room
    assert drain.speed is None
    for second in range(1, 21):
        drain.went(10.0 + second, 3.0)
    assert drain.speed == pytest.approx(3.0)
    drain.emptied()
    drain.went(500.0, 100.0)  # nobody waited
    drain.looked(1000.0)
    assert drain.speed == pytest.approx(3.0)
    for second in range(1, 200):
        drain.went(1000.0 + second, 1.0)
    assert drain.speed == pytest.approx(1.0, rel=0.05), "what was before is forgotten"
    assert KNOWN_S > 0.0


def test_the_wait_in_engines_is_learned_from_first_tokens() -> None:
    drain = Drain()
    for _ in range(200):
        drain.first_token(0.3)
    assert drain.head_s == pytest.approx(0.3, rel=0.05)
    for _ in range(200):
        drain.first_token(-0.2)  # prompts are cached
    assert drain.head_s == pytest.approx(-0.2, rel=0.05)


def test_a_request_whose_target_is_missed_lets_those_in_time_by() -> None:
    harness = CoreHarness(
        make_instances(1),
        policies=[make_policy(classes=[{"name": "standard", "priority": 50, "ttft": "1s"}])],
        settings=CoreSettings(head_room=HeadRoom(max_requests=1)),
    )
    runs = harness.assign("runs", prompt_tokens=100)
    harness.submit("late", prompt_tokens=100)
    harness.now = 0.5
    harness.apply(FirstToken("runs", 1, runs.predicted_ttft_s))
    harness.submit("with-deadline", prompt_tokens=100, arrived_at=0.5, deadline_at=60.0)
    harness.now = 1.2
    harness.submit("in-time", prompt_tokens=100, arrived_at=1.2)
    order, runs_now = [], "runs"
    for _ in range(3):
        (assigned,) = only(Assign, harness.after(Finished(runs_now, 1, 4, "stop")))
        runs_now = assigned.request_id
        order.append(runs_now)
        harness.apply(FirstToken(runs_now, 1, 0.01))
    assert order == ["with-deadline", "in-time", "late"]
    harness.check_books()
