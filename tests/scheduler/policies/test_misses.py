"""Targets that are likely missed: how likely, whose, and where a request then goes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shunter_scheduler.policies.ask import Ask, Weights
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.misses import likely_missed, likely_missed_each, misses_per_s
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST
from shunter_scheduler.policies.rows import InstanceRow, Rates

FAST = Rates(0.01, 2e-5, 2e-5, 5e-8, 0.0)
SLOW = Rates(0.06, 2e-4, 1e-4, 5e-7, 0.0)
TARGETS = {(1, 0.05): 40}


def row(slot: int, **fields: object) -> InstanceRow:
    made = InstanceRow(f"i{slot}", "h100", slot, "", FAST, 0, 0.0, 0.0, 1e5, 1e5, 0.0, 0.01)
    return replace(made, **fields)


def winner(rows: list[InstanceRow], **fields: object) -> int:
    ask = Ask(0.0, 1000, 200.0, 1200.0, 0.5, 0.05, 0, Weights())
    for name, value in fields.items():
        setattr(ask, name, value)
    columns = InstanceColumns(ask.weights)
    for one in rows:
        columns.put(one)
    columns.exclude(ask.kv_tokens, ())
    PREDICTED_COST.score(columns, ask, np.random.default_rng(0))
    columns.score[columns.excluded] = np.inf
    return int(columns.score.argmin())


def test_a_target_is_kept_below_the_margin_and_missed_above() -> None:
    found = [likely_missed(predicted, 1.0, 0.2) for predicted in (0.5, 0.8, 1.0, 1.2, 9.0)]
    assert found == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 10), st.floats(0.01, 1))
def test_many_at_once_are_as_likely_as_each(
    predicted_s: list[float], target_s: float, margin: float
) -> None:
    out = np.array(predicted_s)
    likely_missed_each(out, target_s, out, margin)
    each = [likely_missed(one, target_s, margin) for one in predicted_s]
    assert out == pytest.approx(each, abs=1e-9)


def test_who_runs_far_below_its_target_loses_nothing() -> None:
    assert misses_per_s(TARGETS, 0.03, 0.01) == 0.0
    at_the_edge = misses_per_s(TARGETS, 0.05, 0.01)
    assert at_the_edge == pytest.approx(40 / (0.3 * 0.05))
    assert misses_per_s(TARGETS, 0.2, 0.01) == at_the_edge  # so that it gets less and comes back


def test_a_target_that_is_out_of_reach_is_none_to_keep() -> None:
    assert misses_per_s(TARGETS, 0.07, 0.065) == 0.0


def crowded(requests: int, tpot_s: float) -> InstanceRow:
    """The faster one, whose requests each would miss their target for little more time."""
    harm = misses_per_s({(1, 0.05): requests}, 0.05, 0.01) / 200  # of 200 tokens each
    return row(0, requests=requests, tpot_s=tpot_s, misses_per_s=harm, step_s=tpot_s)


SLOWER = row(1, rates=SLOW, tpot_s=0.045, requests=1)
HOPELESS = row(1, rates=SLOW, tpot_s=0.07, requests=1)


def test_an_instance_at_the_edge_of_its_targets_is_spared() -> None:
    assert winner([crowded(100, 0.05), SLOWER]) == 1
    assert winner([crowded(100, 0.05), HOPELESS]) == 1
    assert winner([row(0, requests=100, tpot_s=0.02), HOPELESS]) == 0


def test_a_request_that_is_late_anyway_goes_where_it_costs_nobody_a_target() -> None:
    assert winner([crowded(60, 0.04), HOPELESS], ttft_budget_s=math.inf) == 0
    assert winner([crowded(60, 0.04), HOPELESS], ttft_budget_s=-1.0) == 1
