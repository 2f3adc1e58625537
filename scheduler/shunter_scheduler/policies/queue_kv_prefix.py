"""Queue, KV memory and prefix hit by fixed weights: an endpoint picker's default.

Of the Gateway API Inference Extension (llm-d-router without a configuration): scorers `queue` x 2,
`kv-cache-utilization` x 2 and `prefix-cache` x 3, each from 0 to 1, and the highest sum. Here parts
are what an instance loses against the best score of 7:

    queue     2 x (waiting - fewest) / (most - fewest) among those that can be picked
    kv        2 x share of the KV memory in use
    prefix    3 x share of the prompt that is not cached

Requests on their way to an engine count as KV memory in use, not as its queue: an engine that has
room admits at once, and the picker would otherwise leave a cached prefix for a queue of one.
"""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy

QUEUE, KV, PREFIX = 2.0, 2.0, 3.0


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    view = columns.view
    assert view is not None
    queue, kv, prefix = columns.parts
    fits = ~columns.excluded
    fewest = view.waiting.min(where=fits, initial=np.inf)
    spread = view.waiting.max(where=fits, initial=0.0) - fewest
    if spread > 0.0:
        np.multiply(view.waiting - fewest, QUEUE / spread, out=queue)
    else:
        queue.fill(0.0)
    capacity = np.maximum(view.kv_capacity_tokens, 1.0)
    np.divide(view.kv_free_tokens - view.sent_kv_tokens, capacity, out=kv)
    np.subtract(KV, KV * kv, out=kv)
    np.multiply(columns.cached_tokens, -PREFIX / ask.prefill_tokens, out=prefix)
    np.add(prefix, PREFIX, out=prefix)
    columns.parts.sum(axis=0, out=columns.score)


QUEUE_KV_PREFIX = DispatchPolicy(
    "queue-kv-prefix",
    _score,
    parts=("queue", "kv", "prefix"),
    unit="points",
    uses_prefix=True,
    uses_view=True,
)
