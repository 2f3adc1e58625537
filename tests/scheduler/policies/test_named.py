"""The named alternatives against their sources' formulas, one instance at a time."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shunter_scheduler.policies import DISPATCH_POLICIES
from shunter_scheduler.policies.ask import Ask, Weights
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.rows import InstanceRow, Rates
from shunter_scheduler.policies.view import EngineView, Look

NOW = 1000.0
RATES = Rates(0.01, 1e-5, 1e-4, 1e-8, 0.0)
BLOCKS = 851 * 16.0  # tokens of KV memory of an instance of the Llumnix paper


def make_row(slot: int, **fields: object) -> InstanceRow:
    row = InstanceRow(f"i{slot}", "h100", slot, "", RATES, 0, 0.0, 0.0, 1e5, 1e5, 0.0, 0.01)
    return replace(row, **fields)


def make_look(**fields: object) -> Look:
    return replace(Look("i", 0, 0, BLOCKS, 0, 0, 0, BLOCKS, 0, 0.0, 0.01), **fields)


def make_ask(**fields: object) -> Ask:
    ask = Ask(NOW, 1000, 100.0, 1100.0, math.inf, math.inf, 0, Weights())
    for name, value in fields.items():
        setattr(ask, name, value)
    return ask


def scored(
    name: str, rows: list[InstanceRow], looks: list[Look], ask: Ask, hits: list[float] | None = None
) -> InstanceColumns:
    columns = InstanceColumns(ask.weights)
    columns.view = EngineView(columns.capacity)
    while columns.capacity < len(rows):
        columns.grow()
    for row, look in zip(rows, looks, strict=True):
        columns.put(row)
        columns.view.put(row.slot, replace(look, name=row.name))
    if hits:
        columns.cached_tokens[: len(hits)] = hits
    columns.exclude(ask.kv_tokens, ())
    DISPATCH_POLICIES[name].score(columns, ask, np.random.default_rng(0))
    columns.score[columns.excluded] = np.inf
    return columns


def winner(
    name: str, looks: list[Look], ask: Ask | None = None, hits: list[float] | None = None
) -> int:
    rows = [make_row(slot) for slot in range(len(looks))]
    return int(scored(name, rows, looks, ask or make_ask(), hits).score.argmin())


count, tokens = st.integers(0, 60), st.floats(0.0, BLOCKS)


@given(
    look=st.builds(
        make_look,
        running=count,
        waiting=count,
        kv_free_tokens=tokens,
        waiting_kv_tokens=tokens,
        high_priority=st.integers(0, 2),
    ),
    high=st.booleans(),
)
def test_llumnix_is_the_artifacts_dispatch_load(look: Look, high: bool) -> None:
    """L_d = -(avail - W - pen) / (R + Q) in blocks of 16 tokens, avail = free - 1 %, and pen =
    M - 100 blocks for normal beside high priority and for high priority beside none."""
    blocks, free, waiting = 851, look.kv_free_tokens / 16, look.waiting_kv_tokens / 16
    penalty = blocks - 100 if (look.high_priority > 0) != high else 0
    requests = look.running + look.waiting
    score = scored("llumnix", [make_row(0)], [look], make_ask(high_priority=high)).score[0]
    if requests == 0:
        assert score < -1e9
    else:
        load = -(free - 0.01 * blocks - waiting - penalty) / requests
        assert score / 16 == pytest.approx(load, rel=1e-9, abs=1e-6)


def test_llumnix_takes_an_empty_instance_first_and_counts_what_was_sent() -> None:
    busy = make_look(running=1, kv_free_tokens=BLOCKS)
    assert winner("llumnix", [busy, make_look()]) == 1
    sent = make_look(sent=1, sent_kv_tokens=1000)
    assert winner("llumnix", [busy, sent]) == 0


def test_llumnix_keeps_normal_requests_from_high_priority_ones() -> None:
    with_high = make_look(running=2, kv_free_tokens=0.9 * BLOCKS, high_priority=1)
    without = make_look(running=9, kv_free_tokens=0.3 * BLOCKS)
    assert winner("llumnix", [with_high, without]) == 1
    assert winner("llumnix", [with_high, without], make_ask(high_priority=True)) == 0


@given(
    looks=st.lists(
        st.builds(make_look, waiting=count, kv_free_tokens=tokens), min_size=1, max_size=8
    ),
    hit=st.floats(0, 1),
)
def test_queue_kv_prefix_is_the_weighted_sum_of_the_default_scorers(
    looks: list[Look], hit: float
) -> None:
    """2 x (max - q) / (max - min) + 2 x (1 - usage) + 3 x matched / total."""
    rows = [make_row(slot) for slot in range(len(looks))]
    hits = [hit * 1000.0 * (slot % 2) for slot in range(len(looks))]
    score = scored("queue-kv-prefix", rows, looks, make_ask(), hits).score
    most = max(look.waiting for look in looks)
    spread = most - min(look.waiting for look in looks)
    for slot, look in enumerate(looks):
        queue = (most - look.waiting) / spread if spread else 1.0
        points = 2 * queue + 2 * look.kv_free_tokens / BLOCKS + 3 * hits[slot] / 1000
        assert 7 - score[slot] == pytest.approx(points)


def test_queue_kv_prefix_compares_queues_of_those_that_can_be_picked() -> None:
    rows = [make_row(0), make_row(1), make_row(2, blocked_because="draining")]
    looks = [make_look(waiting=2), make_look(waiting=3), make_look(waiting=1000)]
    columns = scored("queue-kv-prefix", rows, looks, make_ask())
    assert columns.parts[0, :2].tolist() == [0.0, 2.0]


def test_queue_kv_prefix_leaves_a_cached_prefix_only_for_a_much_better_place() -> None:
    looks = [make_look(kv_free_tokens=0.3 * BLOCKS), make_look()]
    assert winner("queue-kv-prefix", looks, hits=[1000.0, 0.0]) == 0
    assert winner("queue-kv-prefix", looks, hits=[300.0, 0.0]) == 1


def test_earliest_completion_takes_the_fast_instance_until_its_queue_is_longer() -> None:
    slow = replace(RATES, prefill_s_per_token=1e-4)
    rows = [make_row(0, rates=slow, tpot_s=0.05), make_row(1)]
    looks = [make_look(), make_look()]
    assert scored("earliest-completion", rows, looks, make_ask()).score.argmin() == 1
    rows[1] = make_row(1, busy=1.0, queued_until=NOW + 20.0)
    assert scored("earliest-completion", rows, looks, make_ask()).score.argmin() == 0


def test_earliest_completion_is_blind_to_others() -> None:
    crowded = [make_row(0, requests=200), make_row(1, requests=0, tpot_s=0.0101)]
    looks = [make_look(), make_look()]
    assert scored("earliest-completion", crowded, looks, make_ask()).score.argmin() == 0
    assert scored("predicted-cost", crowded, looks, make_ask()).score.argmin() == 1


@given(
    looks=st.lists(
        st.builds(make_look, work_s=st.floats(0.01, 100), step_s=st.floats(0.001, 0.1)),
        min_size=1,
        max_size=6,
    ),
    alpha=st.floats(0, 1),
)
def test_workload_balanced_is_hexgens_score(looks: list[Look], alpha: float) -> None:
    """alpha x t0 / t - (1 - alpha) x W / W0, highest first, reference 0 the fastest."""
    rows = [make_row(slot) for slot in range(len(looks))]
    score = scored("workload-balanced", rows, looks, make_ask(alpha=alpha)).score
    times = [0.01 + 1000 * 1e-5 + 100 * look.step_s for look in looks]
    fastest = times.index(min(times))
    for slot, look in enumerate(looks):
        hexgen = alpha * times[fastest] / times[slot]
        hexgen -= (1 - alpha) * look.work_s / looks[fastest].work_s
        assert -score[slot] == pytest.approx(hexgen, rel=1e-6, abs=1e-9)


def test_workload_balanced_gives_an_idle_reference_the_work() -> None:
    looks = [make_look(step_s=0.05), make_look(step_s=0.01), make_look(work_s=1.0, step_s=0.02)]
    for alpha in (0.0, 0.5, 1.0):
        picked = winner("workload-balanced", looks, make_ask(alpha=alpha))
        assert looks[picked].work_s == 0
        assert picked == 1 or alpha == 0.0


def test_prompts_that_begin_alike_go_to_one_instance_and_the_keys_spread() -> None:
    looks = [make_look()] * 8
    picks = [winner("prefix-affinity", looks, make_ask(prefix_key=key)) for key in range(1, 401)]
    assert picks == [
        winner("prefix-affinity", looks, make_ask(prefix_key=key)) for key in range(1, 401)
    ]
    counts = Counter(picks)
    assert len(counts) == 8
    assert min(counts.values()) > 25  # 50 each in the mean


def test_only_the_keys_of_an_instance_that_goes_move() -> None:
    rows, looks = [make_row(slot) for slot in range(8)], [make_look()] * 8
    fewer = [*rows[:3], make_row(3, blocked_because="draining"), *rows[4:]]
    for key in range(1, 200):
        ask = make_ask(prefix_key=key)
        before = int(scored("prefix-affinity", rows, looks, ask).score.argmin())
        after = int(scored("prefix-affinity", fewer, looks, ask).score.argmin())
        assert (after == before) == (before != 3)


def test_no_key_overloads_its_instance() -> None:
    loads, looks = [0] * 5, [make_look()] * 5
    for number in range(1, 201):
        rows = [make_row(slot, requests=load) for slot, load in enumerate(loads)]
        columns = scored("prefix-affinity", rows, looks, make_ask(prefix_key=42))
        loads[int(columns.score.argmin())] += 1
        assert max(loads) <= math.ceil(1.25 * number / 5)
    assert max(loads) == 50  # the key's own instance is as full as it may be


def test_without_a_key_the_fewest_requests_decide() -> None:
    rows = [make_row(0, requests=3), make_row(1, requests=1), make_row(2, requests=2)]
    columns = scored("prefix-affinity", rows, [make_look()] * 3, make_ask())
    assert columns.score.argmin() == 1
