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
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    score, (ttft, scratch) = columns.score, columns.scratch
    wait = columns.queue_s(ask.now)
    if columns.memory_is_short(ask.kv_tokens):
        wait = _with_memory(columns, ask, wait, ttft)
    outputs = ask.output_tokens
    multipliers = columns.multipliers
    multipliers[1] = tokens = ask.prefill_tokens
    multipliers[2] = tokens * tokens
    multipliers[3] = outputs
    multipliers[4] = outputs * ask.context_tokens
    multipliers.dot(columns.linear, score)
    add(score, wait, score)
    # `linear` counts the whole prompt: what is cached is taken off again, the same below for TTFT
    _cached_s(columns, columns.linear_per_prefill_token, columns.linear_per_square, scratch)
    subtract(score, scratch, score)
    if ask.ttft_budget_s < math.inf:
        columns.prefill_multipliers.dot(columns.prefill, scratch)
        add(wait, scratch, ttft)
        _cached_s(columns, columns.prefill_s_per_token, columns.prefill_s_per_square, scratch)
        subtract(ttft, scratch, ttft)
        _add_excess(ttft, ask.ttft_budget_s, ask.weights.slo, score, scratch)
    if ask.tpot_target_s < math.inf:
        _add_excess(columns.tpot_s, ask.tpot_target_s, ask.weights.slo * outputs, score, scratch)


def _cached_s(columns: InstanceColumns, per_token: Floats, per_square: Floats, out: Floats) -> None:
    """What a prefill of the cached tokens would take beyond its base."""
    cached = columns.cached_tokens
    multiply(cached, per_square, out)
    add(out, per_token, out)
    multiply(out, cached, out)


def _with_memory(columns: InstanceColumns, ask: Ask, queue_s: Floats, out: Floats) -> Floats:
    subtract(ask.kv_tokens, columns.kv_soft_free_tokens, out)
    maximum(out, 0.0, out=out)
    multiply(out, columns.kv_wait_s_per_token, out)
    return add(queue_s, out, out)


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


def ttft_s(columns: InstanceColumns, slot: int, ask: Ask, cached_tokens: int) -> float:
    """Predicted on one slot, by the terms `queue`, `prefill` and `kv_memory`."""
    base_s, s_per_token, s_per_square = columns.prefill[:, slot].tolist()
    whole, new = ask.prefill_tokens, ask.prefill_tokens - cached_tokens
    ttft: float = columns.queue_s(ask.now).item(slot)
    ttft += base_s + new * (s_per_token + (whole + cached_tokens) * s_per_square)
    if columns.memory_is_short(ask.kv_tokens):
        overflow = max(0.0, ask.kv_tokens - columns.kv_soft_free_tokens.item(slot))
        ttft += overflow * columns.kv_wait_s_per_token.item(slot)
    return ttft


def _until_first_token(
    row: InstanceRow, ask: Ask, cached_tokens: int
) -> tuple[float, float, float]:
    rates = row.rates
    uncached = ask.prefill_tokens - cached_tokens
    prefill = rates.prefill_s(uncached, cached_tokens)
    overflow = max(0.0, ask.kv_tokens - row.kv_soft_free_tokens)
    return row.queue_s(ask.now), prefill, overflow * row.kv_wait_s_per_token


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    queue, prefill, kv_memory = _until_first_token(row, ask, cached_tokens)
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
