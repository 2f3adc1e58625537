"""The instance where the request is predicted to end first, others not considered.

    queue, prefill, kv_memory   until its first token
    decode                      expected output tokens x time per token there

"Earliest expected completion" of heterogeneous scheduling (minimum completion time; Ibarra and Kim,
1977), with the cost model's predictions and prefix hits.
"""

from numpy import add, multiply
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.first_token import prefill_s, until_first_token, wait_s
from shunter_scheduler.policies.policy import DispatchPolicy, Terms
from shunter_scheduler.policies.rows import InstanceRow


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    score, (waited, scratch, _) = columns.score, columns.scratch
    prefill_s(columns, ask, score, scratch)
    add(score, wait_s(columns, ask, waited), score)
    multiply(columns.step_s_per_context_token, ask.context_tokens, scratch)
    add(scratch, columns.tpot_s, scratch)
    multiply(scratch, ask.output_tokens, scratch)
    add(score, scratch, score)


def _terms(row: InstanceRow, ask: Ask, cached_tokens: int) -> Terms:
    queue, prefill, kv_memory = until_first_token(row, ask, cached_tokens)
    per_token = row.tpot_s + row.rates.step_s_per_context_token * ask.context_tokens
    return (
        ("queue", queue),
        ("prefill", prefill),
        ("kv_memory", kv_memory),
        ("decode", ask.output_tokens * per_token),
    )


EARLIEST_COMPLETION = DispatchPolicy("earliest-completion", _score, _terms, uses_prefix=True)
