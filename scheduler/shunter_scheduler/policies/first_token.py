"""Predicted time to the first token: for all slots at once, for one slot, and in its terms.

The wait for prefills ahead, the prefill of what is not cached, and the admission to KV memory where
that is nearly full. Where NumPy takes output arrays by position they are given so: by keyword each
call takes a quarter longer.
"""

from numpy import add, maximum, multiply, subtract

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import Floats, InstanceColumns
from shunter_scheduler.policies.rows import InstanceRow


def wait_s(columns: InstanceColumns, ask: Ask, out: Floats) -> Floats:
    """Until the prefill begins; `out` is written to only where memory is short. It is the array
    `columns.queue_s` that is in `linear`, but for what else counts."""
    queue_s = columns.own_queue_s(ask)
    if not columns.memory_is_short(ask.kv_tokens):
        return queue_s
    subtract(ask.kv_tokens, columns.kv_soft_free_tokens, out)
    maximum(out, 0.0, out=out)
    multiply(out, columns.kv_wait_s_per_token, out)
    return add(queue_s, out, out)


def cached_s(columns: InstanceColumns, out: Floats) -> None:
    """What a prefill of the cached tokens would take beyond its base."""
    cached = columns.cached_tokens
    multiply(cached, columns.prefill_s_per_square, out)
    add(out, columns.prefill_s_per_token, out)
    multiply(out, cached, out)


def prefill_s(columns: InstanceColumns, ask: Ask, out: Floats, scratch: Floats) -> None:
    """Of the prompt without what is cached, which is left in `scratch`."""
    multipliers = columns.prefill_multipliers
    multipliers[1] = tokens = ask.prefill_tokens
    multipliers[2] = tokens * tokens
    multipliers.dot(columns.prefill, out)
    cached_s(columns, scratch)
    subtract(out, scratch, out)


def ttft_s(columns: InstanceColumns, slot: int, ask: Ask, prefill_s: float) -> float:
    """Predicted on one slot, where the prefill takes `prefill_s`."""
    ttft: float = columns.own_queue_s(ask).item(slot) + prefill_s
    if columns.memory_is_short(ask.kv_tokens):
        overflow = max(0.0, ask.kv_tokens - columns.kv_soft_free_tokens.item(slot))
        ttft += overflow * columns.kv_wait_s_per_token.item(slot)
    return ttft


def until_first_token(row: InstanceRow, ask: Ask, cached_tokens: int) -> tuple[float, float, float]:
    """Queue, prefill, and admission to KV memory."""
    uncached = ask.prefill_tokens - cached_tokens
    prefill = row.rates.prefill_s(uncached, cached_tokens)
    overflow = max(0.0, ask.kv_tokens - row.kv_soft_free_tokens)
    return row.queue_s(ask.now), prefill, overflow * row.kv_wait_s_per_token
