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
from shunter_scheduler.policies.first_token import cached_s, until_first_token, wait_s
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    score, (ttft, scratch) = columns.score, columns.scratch
    wait = wait_s(columns, ask, ttft)
    outputs = ask.output_tokens
    multipliers = columns.multipliers
    multipliers[1] = tokens = ask.prefill_tokens
    multipliers[2] = tokens * tokens
    multipliers[3] = outputs
    multipliers[4] = outputs * ask.context_tokens
    multipliers.dot(columns.linear, score)
    add(score, wait, score)
    # `linear` counts the whole prompt: what is cached is taken off again, the same below for TTFT
    cached_s(columns, columns.linear_per_prefill_token, columns.linear_per_square, scratch)
    subtract(score, scratch, score)
    if ask.ttft_budget_s < math.inf:
        columns.prefill_multipliers.dot(columns.prefill, scratch)
        add(wait, scratch, ttft)
        cached_s(columns, columns.prefill_s_per_token, columns.prefill_s_per_square, scratch)
        subtract(ttft, scratch, ttft)
        _add_excess(ttft, ask.ttft_budget_s, ask.weights.slo, score, scratch)
    if ask.tpot_target_s < math.inf:
        _add_excess(columns.tpot_s, ask.tpot_target_s, ask.weights.slo * outputs, score, scratch)


def _add_excess(
    values: Floats, limit: float, weight: float, score: Floats, scratch: Floats
) -> None:
    """Adds weight x (values - limit) where that is positive."""
    if values.item(values.argmax()) <= limit:  # so for most; argmax is far cheaper than max()
        return
    subtract(values, limit, scratch)
    maximum(scratch, 0.0, out=scratch)
    multiply(scratch, weight, scratch)
    add(score, scratch, score)


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    queue, prefill, kv_memory = until_first_token(row, ask, cached_tokens)
    rates = row.rates
    own_context_s = rates.step_s_per_context_token * ask.context_tokens
    decode = ask.output_tokens * (row.tpot_s + own_context_s)
    share = ask.output_tokens * (rates.step_s_per_sequence + own_context_s)
    late = max(0.0, queue + prefill + kv_memory - ask.ttft_budget_s)
    slow = max(0.0, row.tpot_s - ask.tpot_target_s) * ask.output_tokens
    return (
        ("queue", queue),
        ("prefill", prefill),
        ("kv_memory", kv_memory),
        ("decode", decode * ask.weights.decode),
        ("slowdown", row.requests * (prefill + share) * ask.weights.slowdown),
        ("slo", (late + slow) * ask.weights.slo),
        ("money", rates.price_s_per_s * (prefill + decode / (row.requests + 1))),
    )


PREDICTED_COST = DispatchPolicy("predicted-cost", _score, _terms, uses_prefix=True)
