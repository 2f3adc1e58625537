"""The instance where the request costs the fewest predicted seconds, its own and others'.

    queue       the step in progress and the prefills ahead of it on the instance
    prefill     of the prompt without the prefix that is cached there
    next_turns  less what the prefix will save its conversation later, weighted
    kv_memory   admission to KV memory that is nearly full
    decode      expected output tokens x time per token
    slowdown    inflicted on each request that runs there, by its prefill and its share of steps
    slo         how likely it misses its own TTFT or TPOT target, weighted
    others_slo  targets that those who run there are expected to miss for it, weighted
    money       price of the instance's time that it takes up

`_score` computes the sum for all instances at once and `_terms` the parts for one; the part that is
linear in the request is kept ready in `InstanceColumns.linear`. Where NumPy takes output arrays by
position they are given so: by keyword each call takes a quarter longer.
"""

import math

from numpy import add, maximum, multiply, subtract
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import Floats, InstanceColumns
from shunter_scheduler.policies.first_token import cached_s, prefill_s, until_first_token, wait_s
from shunter_scheduler.policies.hold_back import hold_back
from shunter_scheduler.policies.misses import (
    MARGIN,
    TTFT_MARGIN,
    likely_missed,
    likely_missed_each,
)
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    score, (waited, scratch, prefill) = columns.score, columns.scratch
    wait = wait_s(columns, ask, waited)
    outputs, tokens = ask.output_tokens, ask.prefill_tokens
    multipliers = columns.multipliers
    multipliers[1] = tokens
    multipliers[2] = tokens * tokens
    multipliers[3] = outputs
    multipliers[4] = outputs * ask.context_tokens
    more = wait is not columns.queue_s(ask.now)  # memory is short, or it passes others
    multipliers[5] = 0.0 if more else 1.0
    budget_s, tpot_limit_s = ask.ttft_budget_s, (1 - MARGIN) * ask.tpot_target_s
    in_time = budget_s > 0.0
    # Most are in time wherever they go, which takes no arrays to see.
    limited = in_time and budget_s < math.inf
    if limited and not more:
        limited = columns.longest_ttft_s(tokens) > (1 - TTFT_MARGIN) * budget_s
    harms = columns.most_misses_per_s > 0.0 and columns.any_misses()
    if limited or harms:
        prefill_s(columns, ask, prefill, scratch)
        multiply(prefill, columns.prefill_weight, score)
        if ask.next_turns:
            multiply(scratch, ask.weights.cached, scratch)  # it holds what the cache saves
            subtract(score, scratch, score)
        add(score, multipliers[3:].dot(columns.linear[3:], scratch), score)
    else:
        multipliers.dot(columns.linear, score)
        if ask.any_cached:  # `linear` counts the whole prompt: what is cached is taken off again
            cached_s(columns, scratch)
            weight = columns.cached_weight if ask.next_turns else columns.prefill_weight
            multiply(scratch, weight, scratch)
            subtract(score, scratch, score)
    if more:
        add(score, wait, score)
    if limited:
        add(wait, prefill, waited)
    if harms:
        step_harm = _add_harm(columns, ask, prefill, scratch)
    missed = None
    slow = in_time and columns.most_tpot_s > tpot_limit_s and columns.tpot_exceeds(tpot_limit_s)
    if limited or slow:
        missed = _misses(columns, ask, waited if limited else None, scratch)
    if harms and ask.may_wait:
        hold_back(columns, ask, step_harm, missed)
    if missed is not None:
        multiply(missed, ask.weights.miss_s, missed)
        add(columns.score, missed, columns.score)


def _add_harm(columns: InstanceColumns, ask: Ask, prefill: Floats, scratch: Floats) -> Floats:
    """Targets missed by those who run there, for the time that each of them loses. Returns what of
    it waiting saves, in seconds: a prefill costs the same whenever it comes, longer steps do not
    once some have ended."""
    score = columns.score
    multiply(columns.step_s_per_context_token, ask.context_tokens, scratch)
    add(scratch, columns.step_s_per_sequence, scratch)
    multiply(scratch, ask.output_tokens, scratch)
    step_harm: Floats = scratch * columns.misses_per_s
    multiply(step_harm, ask.weights.miss_s, step_harm)
    add(scratch, prefill, scratch)
    multiply(scratch, columns.misses_per_s, scratch)
    multiply(scratch, ask.weights.miss_s, prefill)
    add(score, prefill, score)
    return step_harm


def _misses(
    columns: InstanceColumns, ask: Ask, ttft: Floats | None, scratch: Floats
) -> Floats | None:
    """The request's own, of either target. `ttft`: None where that is not missed anywhere."""
    missed = None
    if ttft is not None:
        likely_missed_each(ttft, ask.ttft_budget_s, ttft, TTFT_MARGIN)
        missed = ttft
    if columns.most_tpot_s > (1 - MARGIN) * ask.tpot_target_s:
        likely_missed_each(columns.tpot_s, ask.tpot_target_s, scratch)
        missed = scratch if missed is None else maximum(missed, scratch, out=scratch)
    return missed


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    queue, prefill, kv_memory = until_first_token(row, ask, cached_tokens)
    rates = row.rates
    saved = cached_tokens * (rates.prefill_s_per_token + cached_tokens * rates.prefill_s_per_square)
    own_context_s = rates.step_s_per_context_token * ask.context_tokens
    decode = ask.output_tokens * (row.tpot_s + own_context_s)
    share = ask.output_tokens * (rates.step_s_per_sequence + own_context_s)
    missed = 0.0
    if ask.ttft_budget_s > 0.0:
        late = likely_missed(queue + prefill + kv_memory, ask.ttft_budget_s, TTFT_MARGIN)
        missed = max(late, likely_missed(row.tpot_s, ask.tpot_target_s))
    return (
        ("queue", queue),
        ("prefill", prefill),
        ("next_turns", -saved * ask.weights.cached if ask.next_turns else 0.0),
        ("kv_memory", kv_memory),
        ("decode", decode * ask.weights.decode),
        ("slowdown", row.requests * (prefill + share) * ask.weights.slowdown),
        ("slo", missed * ask.weights.miss_s),
        ("others_slo", row.misses_per_s * (prefill + share) * ask.weights.miss_s),
        ("money", rates.price_s_per_s * (prefill + decode / (row.requests + 1))),
    )


PREDICTED_COST = DispatchPolicy("predicted-cost", _score, _terms, uses_prefix=True)
