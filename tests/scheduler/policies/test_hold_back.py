"""Who waits rather than cost others their targets."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from shunter_scheduler.policies import DISPATCH_POLICIES
from shunter_scheduler.policies.ask import Ask, Weights
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.rows import InstanceRow, Rates

TARGET_S = 0.05
FAST = Rates(0.01, 2e-5, 2e-5, 5e-8, 0.0, alone_s=0.007)
SLOW = Rates(0.06, 2e-4, 1e-4, 5e-7, 0.0, alone_s=0.065)  # misses the target even alone
# At its limit: two of its hundred requests miss their target for a prompt like `ASK`'s.
FULL = InstanceRow(
    "full", "fast", 0, "", FAST, 100.0, 0.0, 0.0, 4e5, 4e5, 0.0, 0.044, 50.0, 0.044, 5
)
ROOMY = InstanceRow("roomy", "fast", 1, "", FAST, 10.0, 0.0, 0.0, 4e5, 4e5, 0.0, 0.012)
SINK = InstanceRow("sink", "slow", 2, "", SLOW, 10.0, 0.0, 0.0, 5e4, 5e4, 0.0, 0.07)
ASK = Ask(0.0, 1500, 200.0, 1700, 0.5, TARGET_S, 0, Weights(), rank=5, may_wait=True)
LATE = replace(ASK, ttft_budget_s=-1.0)


def scores(rows: list[InstanceRow], ask: Ask) -> list[float]:
    columns = InstanceColumns(ask.weights, capacity=len(rows))
    for slot, row in enumerate(rows):
        columns.put(replace(row, slot=slot))
    assert columns.exclude(ask.kv_tokens, ()) == len(rows)
    DISPATCH_POLICIES["predicted-cost"].score(columns, ask, np.random.default_rng(1))
    scored: list[float] = columns.score.tolist()
    return scored


def held(rows: list[InstanceRow], ask: Ask) -> list[bool]:
    return [score == math.inf for score in scores(rows, ask)]


def test_nobody_is_held_back_while_no_target_is_near() -> None:
    assert held([ROOMY, SINK], ASK) == held([ROOMY, SINK], LATE) == [False, False]


def test_a_request_that_costs_more_than_it_gains_waits_for_room() -> None:
    """Not even the slow instance gets it, while it could still keep its targets elsewhere."""
    assert held([FULL, SINK], ASK) == [True, True]
    assert held([FULL, ROOMY, SINK], ASK) == [True, False, True]


def test_a_request_that_costs_less_than_it_gains_goes() -> None:
    short = replace(ASK, prefill_tokens=1)
    assert held([replace(FULL, misses_per_s=5.0)], short) == [False]


def test_a_late_request_goes_where_no_target_is_kept_or_where_room_is_left() -> None:
    assert held([FULL, SINK], LATE) == [True, False]
    filling = replace(ROOMY, tpot_s=0.8 * TARGET_S, lowest_rank=5)
    assert held([FULL, filling, ROOMY, SINK], LATE) == [True, True, False, False]
    assert held([FULL, filling], ASK) == [True, False]


def test_a_request_that_is_late_wherever_it_goes_waits_like_a_late_one() -> None:
    long = replace(ASK, prefill_tokens=100_000, kv_tokens=20_000)
    assert held([FULL, ROOMY, SINK], long) == held([FULL, ROOMY, SINK], LATE)


@pytest.mark.parametrize(
    "ask",
    [
        replace(ASK, rank=6),  # of a higher class than those who run there
        replace(ASK, may_wait=False),  # the client has part of the answer
    ],
)
def test_some_go_whatever_they_cost(ask: Ask) -> None:
    assert held([FULL], ask) == held([FULL], replace(ask, ttft_budget_s=-1.0)) == [False]


def test_a_request_without_targets_yields_to_those_who_have_some() -> None:
    batch = replace(ASK, ttft_budget_s=math.inf, tpot_target_s=math.inf, rank=0)
    assert held([FULL, ROOMY, SINK], batch) == [True, False, False]


def test_an_instance_that_hosts_no_target_any_more_reserves_nothing() -> None:
    columns = InstanceColumns(LATE.weights, capacity=2)
    columns.put(FULL)
    columns.put(replace(FULL, slot=1))
    columns.put(replace(FULL, misses_per_s=0.0, lowest_rank=-1.0))
    columns.exclude(LATE.kv_tokens, ())
    DISPATCH_POLICIES["predicted-cost"].score(columns, LATE, np.random.default_rng(1))
    assert [score == math.inf for score in columns.score.tolist()] == [False, True]


def test_what_is_near_a_target_is_known_after_more_slots_came() -> None:
    columns = InstanceColumns(ASK.weights, capacity=1)
    columns.put(FULL)
    columns.grow()
    columns.put(replace(SINK, slot=1))
    columns.exclude(ASK.kv_tokens, ())
    DISPATCH_POLICIES["predicted-cost"].score(columns, ASK, np.random.default_rng(1))
    assert columns.score.tolist()[0] == math.inf
