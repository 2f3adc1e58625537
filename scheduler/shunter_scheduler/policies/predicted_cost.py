"""The instance where the request costs the fewest predicted seconds, its own and others'.

    queue     prefills ahead of it on the instance
    prefill   of the prompt without the prefix that is cached there
    kv_memory admission to KV memory that is nearly full
    decode    expected output tokens x time per token
    slowdown  inflicted on each request that runs there, by its prefill and by its share of steps
    slo       seconds by which TTFT and TPOT targets would be missed, weighted
    money     price of the instance's time that it takes up

`_score` computes the sum for all instances at once and `_terms` the parts for one; the part that is
linear in the request is kept ready in `InstanceColumns.linear`. Where NumPy takes output arrays by
position they are given so: by keyword each call takes a quarter longer.
"""

import math

from numpy import add, maximum, multiply, subtract
from numpy.random import Generator

from shunter_scheduler.policies.columns import Ask, Floats, InstanceColumns
from shunter_scheduler.policies.first_token import cached_s, prefill_s, until_first_token, wait_s
from shunter_scheduler.policies.misses import MARGIN, likely_missed, likely_missed_each
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
    multipliers.dot(columns.linear, score)
    add(score, wait, score)
    # `linear` counts the whole prompt: what is cached is taken off again
    cached_s(columns, columns.linear_per_prefill_token, columns.linear_per_square, scratch)
    subtract(score, scratch, score)
    in_time = ask.ttft_budget_s > 0.0
    limited = in_time and ask.ttft_budget_s < math.inf
    harms = columns.misses_per_s.item(columns.misses_per_s.argmax()) > 0.0
    if limited or harms:
        prefill_s(columns, ask, prefill, scratch)
    if harms:
        _add_harm(columns, ask, prefill, scratch)
    if limited:
        add(wait, prefill, waited)
    if in_time:
        _add_misses(columns, ask, waited, scratch)


def _add_harm(columns: InstanceColumns, ask: Ask, prefill: Floats, scratch: Floats) -> None:
    """Targets missed by those who run there, for what each of their tokens takes longer."""
    outputs, score = ask.output_tokens, columns.score
    multiply(columns.step_s_per_context_token, ask.context_tokens, scratch)
    add(scratch, columns.step_s_per_sequence, scratch)
    multiply(scratch, outputs, scratch)
    add(scratch, prefill, scratch)
    multiply(scratch, columns.misses_per_s, scratch)
    multiply(scratch, ask.weights.miss_s / outputs, scratch)
    add(score, scratch, score)


def _add_misses(columns: InstanceColumns, ask: Ask, ttft: Floats, scratch: Floats) -> None:
    """The request's own, of either target."""
    score, missed = columns.score, None
    if ask.ttft_budget_s < math.inf and _exceeds(ttft, ask.ttft_budget_s):
        likely_missed_each(ttft, ask.ttft_budget_s, ttft)
        missed = ttft
    if _exceeds(columns.tpot_s, ask.tpot_target_s):
        likely_missed_each(columns.tpot_s, ask.tpot_target_s, scratch)
        missed = scratch if missed is None else maximum(missed, scratch, out=scratch)
    if missed is not None:
        multiply(missed, ask.weights.miss_s, scratch)
        add(score, scratch, score)


def _exceeds(values: Floats, limit: float) -> bool:
    """Somewhere so much of a target is used that it may be missed."""
    return bool(values.item(values.argmax()) > (1 - MARGIN) * limit)  # far cheaper than max()


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    queue, prefill, kv_memory = until_first_token(row, ask, cached_tokens)
    rates = row.rates
    own_context_s = rates.step_s_per_context_token * ask.context_tokens
    decode = ask.output_tokens * (row.tpot_s + own_context_s)
    share = ask.output_tokens * (rates.step_s_per_sequence + own_context_s)
    added = prefill / ask.output_tokens + rates.step_s_per_sequence + own_context_s
    missed = 0.0
    if ask.ttft_budget_s > 0.0:
        late = likely_missed(queue + prefill + kv_memory, ask.ttft_budget_s)
        missed = max(late, likely_missed(row.tpot_s, ask.tpot_target_s))
    return (
        ("queue", queue),
        ("prefill", prefill),
        ("kv_memory", kv_memory),
        ("decode", decode * ask.weights.decode),
        ("slowdown", row.requests * (prefill + share) * ask.weights.slowdown),
        ("slo", missed * ask.weights.miss_s),
        ("others_slo", row.misses_per_s * added * ask.weights.miss_s),
        ("money", rates.price_s_per_s * (prefill + decode / (row.requests + 1))),
    )


PREDICTED_COST = DispatchPolicy("predicted-cost", _score, _terms, uses_prefix=True)
