"""Fast for the request, little work outstanding: HexGen's score (HexGen-Flow, 2025).

    alpha x t(reference) / t(instance) - (1 - alpha) x work(instance) / work(reference)

is to be high; t is what the request takes alone in a middling batch, work the same of what is
outstanding, the reference the fastest instance. Parts are negative, as the lowest score wins:
`speed` and `work`. Published code counts work since the start and never takes it off; here it is
what is outstanding. Alpha is tuned for the pool while it runs (`replay.py`).
"""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy

TINY_S = 1e-6  # of work: beside an idle reference any work is infinitely much


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    view = columns.view
    assert view is not None
    speed, work, _ = columns.parts
    multipliers = columns.prefill_multipliers
    multipliers[1] = tokens = ask.prefill_tokens
    multipliers[2] = tokens * tokens
    service_s = multipliers.dot(columns.prefill) + ask.output_tokens * view.step_s
    np.maximum(service_s, TINY_S, out=service_s)
    reference = int(np.where(columns.excluded, np.inf, service_s).argmin())
    np.divide(-ask.alpha * service_s[reference], service_s, out=speed)
    share = (1.0 - ask.alpha) / max(TINY_S, view.work_s.item(reference))
    np.multiply(view.work_s, share, out=work)
    np.add(speed, work, out=columns.score)


WORKLOAD_BALANCED = DispatchPolicy(
    "workload-balanced",
    _score,
    parts=("speed", "work"),
    unit="points",
    uses_prefix=True,
    uses_view=True,
    tunes_alpha=True,
)
