"""Every policy: its terms add up to its score, and the pick is the lowest score that may win."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shunter_api.routingpolicy import DispatchPolicyName
from shunter_scheduler.policies import DISPATCH_POLICIES
from shunter_scheduler.policies.ask import Ask, Weights, why_excluded
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.first_token import ttft_s
from shunter_scheduler.policies.policy import Terms
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST
from shunter_scheduler.policies.rows import InstanceRow, Rates
from shunter_scheduler.policies.view import EngineView, Look

NOW = 1000.0
share = st.floats(0.0, 1.0)
rates = st.floats(1e-6, 1e-2)


@st.composite
def instance_rows(draw: st.DrawFn) -> InstanceRow:
    free = draw(st.floats(-1000.0, 400_000.0))
    return InstanceRow(
        name="instance",
        profile="h100",
        slot=0,
        blocked_because=draw(st.sampled_from(["", "", "", "draining"])),
        rates=Rates(
            prefill_base_s=draw(share),
            prefill_s_per_token=draw(rates),
            step_s_per_sequence=draw(rates),
            step_s_per_context_token=draw(rates) * 1e-3,
            price_s_per_s=draw(share),
            prefill_s_per_pair=draw(rates) * 1e-4,
        ),
        requests=draw(st.integers(0, 300)),
        queued_until=NOW + draw(st.floats(-20.0, 20.0)),
        busy=draw(st.sampled_from([0.0, 1.0])),
        kv_free_tokens=free,
        kv_soft_free_tokens=free - draw(st.floats(0.0, 40_000.0)),
        kv_wait_s_per_token=draw(rates),
        tpot_s=draw(share),
        misses_per_s=draw(st.one_of(st.just(0.0), st.floats(0.0, 1e4))),
        step_s=draw(share),
    )


fleets = st.lists(instance_rows(), min_size=1, max_size=40).map(
    lambda rows: [replace(row, slot=slot, name=f"i{slot}") for slot, row in enumerate(rows)]
)
asks = st.builds(
    Ask,
    now=st.just(NOW),
    prefill_tokens=st.integers(1, 100_000),
    output_tokens=st.floats(8.0, 4000.0),
    kv_tokens=st.floats(1.0, 110_000.0),
    ttft_budget_s=st.one_of(st.just(math.inf), st.floats(-10.0, 10.0)),
    tpot_target_s=st.one_of(st.just(math.inf), st.floats(0.001, 1.0)),
    turn=st.integers(0, 40),
    weights=st.builds(Weights, share, share, share, st.just(0.0), st.floats(0.0, 100.0)),
    high_priority=st.booleans(),
    prefix_key=st.sampled_from([0, 1, 7, 2**64 - 1]),
    alpha=share,
)


@st.composite
def looks(draw: st.DrawFn) -> Look:
    capacity = draw(st.floats(0.0, 500_000.0))
    count = st.integers(0, 300)
    return Look(
        name="instance",
        running=draw(count),
        waiting=draw(count),
        kv_free_tokens=capacity * draw(share),
        waiting_kv_tokens=draw(st.floats(0.0, 100_000.0)),
        sent=draw(count),
        sent_kv_tokens=draw(st.floats(0.0, 100_000.0)),
        kv_capacity_tokens=capacity,
        high_priority=draw(st.integers(0, 2)),
        work_s=draw(st.floats(0.0, 1000.0)),
        step_s=draw(share),
    )


def columns_of(rows: list[InstanceRow], ask: Ask, looked: Sequence[Look] = ()) -> InstanceColumns:
    columns = InstanceColumns(ask.weights, capacity=1)
    columns.view = EngineView(1)
    while columns.capacity < len(rows):
        columns.grow()
    for row in rows:
        columns.put(row)
    for slot, look in enumerate(looked[: len(rows)]):
        columns.view.put(slot, replace(look, name=rows[slot].name))
    columns.exclude(ask.kv_tokens, ())
    return columns


views = st.lists(looks(), min_size=8, max_size=8).map(lambda some: [*some, *some, *some] * 2)


@pytest.mark.parametrize("name", DISPATCH_POLICIES)
@given(rows=fleets, ask=asks, hit=share, looked=views)
def test_terms_add_up_to_the_score(
    name: str, rows: list[InstanceRow], ask: Ask, hit: float, looked: list[Look]
) -> None:
    policy, columns = DISPATCH_POLICIES[name], columns_of(rows, ask, looked)
    cached = [int(hit * (ask.prefill_tokens - 1)) * (row.slot % 2) for row in rows]
    columns.cached_tokens[: len(rows)] = cached
    policy.score(columns, ask, np.random.default_rng(1))
    for row in rows:
        parts = columns.parts[:, row.slot].tolist()
        named = policy.named(row, ask, cached[row.slot], parts)
        assert len({name for name, _ in named}) == len(named) > 0
        score = columns.score[row.slot]
        total = sum(value for _, value in named)
        assert math.isinf(score) or score == pytest.approx(total, rel=1e-9, abs=1e-9)


def cost_terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    return PREDICTED_COST.named(row, ask, cached_tokens, ())


IN_TURN_OR_BY_LOT = {"round-robin", "power-of-two"}  # what they pick is not the instance's merit


@pytest.mark.parametrize("name", DISPATCH_POLICIES)
@given(rows=fleets, ask=asks, hit=share, looked=views, data=st.data())
def test_scores_are_a_strict_weak_order_that_slots_do_not_change(
    name: str,
    rows: list[InstanceRow],
    ask: Ask,
    hit: float,
    looked: list[Look],
    data: st.DataObject,
) -> None:
    """Numbers without NaN are one; an instance's is the same in whichever slot it is."""

    def scores(order: list[int]) -> dict[str, float]:
        here = [replace(rows[at], slot=slot) for slot, at in enumerate(order)]
        columns = columns_of(here, ask, [looked[at] for at in order])
        tokens = int(hit * (ask.prefill_tokens - 1))
        columns.cached_tokens[: len(rows)] = [tokens * (at % 2) for at in order]
        DISPATCH_POLICIES[name].score(columns, ask, np.random.default_rng(1))
        found = columns.score[: len(rows)]
        assert not np.isnan(columns.score).any()
        assert (found > -math.inf).all()
        if not columns.excluded.all():
            assert found[~columns.excluded[: len(rows)]].min() < math.inf
        return {row.name: float(score) for row, score in zip(here, found, strict=True)}

    as_they_are = scores(list(range(len(rows))))
    if name not in IN_TURN_OR_BY_LOT:
        shuffled = scores(data.draw(st.permutations(range(len(rows)))))
        reference_moves = name == "workload-balanced"  # of equally fast ones the lower slot
        assert reference_moves or shuffled == pytest.approx(as_they_are, rel=1e-9, abs=1e-12)


@given(rows=fleets, ask=asks)
def test_exclusion_in_columns_and_in_words_agree(rows: list[InstanceRow], ask: Ask) -> None:
    columns = columns_of(rows, ask)
    for row in rows:
        assert bool(columns.excluded[row.slot]) == bool(why_excluded(row, ask))
    assert columns.excluded[len(rows) :].all()


@given(rows=fleets, ask=asks)
def test_predicted_cost_never_rewards_load(rows: list[InstanceRow], ask: Ask) -> None:
    for row in rows:
        base = dict(cost_terms(row, ask, 0))
        busier = dict(cost_terms(replace(row, requests=row.requests + 1), ask, 0))
        assert busier["slowdown"] >= base["slowdown"]
        assert all(value >= 0 for value in base.values())


@given(row=instance_rows(), ask=asks)
def test_a_prefix_hit_is_worth_its_prefill_at_least(row: InstanceRow, ask: Ask) -> None:
    hit, columns = ask.prefill_tokens - 1, columns_of([row], ask)
    whole_s = row.rates.prefill_s(ask.prefill_tokens)
    rest_s = row.rates.prefill_s(ask.prefill_tokens - hit, hit)
    saved = ttft_s(columns, 0, ask, whole_s) - ttft_s(columns, 0, ask, rest_s)
    worth = row.rates.prefill_s(hit) - row.rates.prefill_base_s
    assert saved == pytest.approx(worth, rel=1e-6, abs=1e-9)
    without = sum(value for _, value in cost_terms(row, ask, 0))
    with_hit = sum(value for _, value in cost_terms(row, ask, hit))
    assert without - with_hit >= saved * (1 - 1e-6) - 1e-6


@given(row=instance_rows(), ask=asks, hit=share)
def test_the_predicted_ttft_is_the_sum_of_its_terms(row: InstanceRow, ask: Ask, hit: float) -> None:
    cached = int(hit * (ask.prefill_tokens - 1))
    terms = dict(cost_terms(row, ask, cached))
    total = terms["queue"] + terms["prefill"] + terms["kv_memory"]
    found = ttft_s(columns_of([row], ask), 0, ask, terms["prefill"])
    assert found == pytest.approx(total)


@given(rows=fleets, asks=st.lists(asks, min_size=1, max_size=4), data=st.data())
def test_columns_that_change_equal_columns_made_anew(
    rows: list[InstanceRow], asks: list[Ask], data: st.DataObject
) -> None:
    """Whatever was put, cleared and asked before."""
    ask = asks[0]
    columns = columns_of(rows, ask)
    for other in asks[1:]:
        slot = data.draw(st.integers(0, len(rows) - 1))
        if data.draw(st.booleans()):
            columns.clear(slot)
        rows[slot] = replace(data.draw(instance_rows()), slot=slot)
        columns.put(rows[slot])
        left = columns.exclude(other.kv_tokens, ())
        assert left == sum(not why_excluded(row, other) for row in rows)
        PREDICTED_COST.score(columns, other, np.random.default_rng(1))
        anew = columns_of(rows, ask)
        PREDICTED_COST.score(anew, other, np.random.default_rng(1))
        assert columns.score[: len(rows)] == pytest.approx(anew.score[: len(rows)])
        assert (columns.excluded == (anew.exclude(other.kv_tokens, ()), anew.excluded)[1]).all()


RATES = Rates(0.01, 1e-5, 1e-4, 1e-8, 0.0)


def make_row(slot: int, **fields: object) -> InstanceRow:
    row = InstanceRow(f"i{slot}", "h100", slot, "", RATES, 0, 0.0, 0.0, 1e5, 1e5, 0.0, 0.01)
    return replace(row, **fields)


LOOK = Look("i", 0, 0, 1e5, 0, 0, 0, 1e5, 0, 0.0, 0.01)


def make_ask(**fields: object) -> Ask:
    ask = Ask(NOW, 1000, 100.0, 1100.0, math.inf, math.inf, 0, Weights())
    for name, value in fields.items():
        setattr(ask, name, value)
    return ask


def winner(
    name: str, rows: list[InstanceRow], ask: Ask, seed: int = 0, looked: Sequence[Look] = ()
) -> int:
    columns = columns_of(rows, ask, looked or [LOOK] * len(rows))
    DISPATCH_POLICIES[name].score(columns, ask, np.random.default_rng(seed))
    columns.score[columns.excluded] = np.inf
    return int(columns.score.argmin())


def test_round_robin_takes_each_in_turn() -> None:
    rows = [make_row(slot) for slot in range(3)]
    assert [winner("round-robin", rows, make_ask(turn=turn)) for turn in range(4)] == [0, 1, 2, 0]


def test_round_robin_skips_the_blocked() -> None:
    rows = [make_row(0), make_row(1, blocked_because="draining"), make_row(2)]
    assert winner("round-robin", rows, make_ask(turn=1)) == 2


def test_least_requests() -> None:
    rows = [make_row(0, requests=3), make_row(1, requests=1), make_row(2, requests=1)]
    assert winner("least-requests", rows, make_ask()) == 1


def test_power_of_two_considers_two_and_takes_the_less_loaded() -> None:
    rows = [make_row(slot, requests=slot) for slot in range(10)]
    picks = {winner("power-of-two", rows, make_ask(), seed) for seed in range(200)}
    assert picks == set(range(9))  # the most loaded of all never beats another
    columns = columns_of(rows, make_ask())
    DISPATCH_POLICIES["power-of-two"].score(columns, make_ask(), np.random.default_rng(3))
    assert np.isfinite(columns.score).sum() == 2


def test_predicted_cost_prefers_the_faster_profile_until_it_is_loaded() -> None:
    slow = {"rates": replace(RATES, prefill_s_per_token=1e-4), "tpot_s": 0.05}
    idle = [make_row(0, **slow), make_row(1)]
    assert winner("predicted-cost", idle, make_ask()) == 1
    loaded = [make_row(0, **slow), make_row(1, busy=1.0, queued_until=NOW + 20.0, requests=50)]
    assert winner("predicted-cost", loaded, make_ask()) == 0


def test_an_overdue_engine_becomes_less_attractive() -> None:
    row = make_row(0, busy=1.0, queued_until=NOW + 1.0)
    waits = [row.queue_s(NOW + late) for late in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert waits == [1.0, 0.5, 0.0, 1.0, 4.0]


def test_the_table_is_keyed_by_name() -> None:
    assert all(policy.name == name for name, policy in DISPATCH_POLICIES.items())
    assert tuple(DISPATCH_POLICIES) == get_args(DispatchPolicyName)


DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_has_a_row_for_each_policy_and_names_its_parts() -> None:
    page = (DOCS / "policies.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| ", page.split("\n## ")[0], re.MULTILINE)
    assert rows == list(DISPATCH_POLICIES)
    ask = make_ask()
    for name, _ in cost_terms(make_row(0), ask, 0):
        assert f"\n| `{name}` | " in page
