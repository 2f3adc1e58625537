"""The freest instance: most KV memory per request (Llumnix, OSDI 2024; its artifact's dispatch).

    freeness = (free - watermark - waiting - headroom) / (running + waiting requests)

is how many more steps the batch could decode. The score is its negative, in parts: `free` (less the
watermark), `waiting` (what all waiting requests ask for; the paper counts the head of the line
only, its artifact all) and `headroom`. An empty instance comes before all others. Headroom is the
instance's KV memory less 1,600 tokens: for a request of normal priority where requests of high
priority are hosted, and for one of high priority where none are.

Paper and artifact see each engine as of its last step. What was sent there since counts as waiting,
as the engine will find it: the ledger knows, and without it a burst goes to one instance. Where
`CoreSettings.count_sent` is off nothing is added, as in the artifact.
"""

import numpy as np
from numpy.random import Generator

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import InstanceColumns
from shunter_scheduler.policies.policy import DispatchPolicy

WATERMARK = 0.01  # of the KV memory (its block manager's)
TARGET_TOKENS = 1600.0  # load at which high priority decodes at its ideal speed: 100 blocks of 16
EMPTY = -1e12  # the paper's minus infinity


def _score(columns: InstanceColumns, ask: Ask, rng: Generator) -> None:
    view = columns.view
    assert view is not None
    requests = view.running + view.waiting + view.sent
    empty = requests == 0.0
    np.maximum(requests, 1.0, out=requests)
    free, waiting, headroom = columns.parts
    np.divide(WATERMARK * view.kv_capacity_tokens - view.kv_free_tokens, requests, out=free)
    np.divide(view.waiting_kv_tokens + view.sent_kv_tokens, requests, out=waiting)
    hosts_high = view.high_priority > 0.0
    kept_free = ~hosts_high if ask.high_priority else hosts_high
    headroom[:] = kept_free * (view.kv_capacity_tokens - TARGET_TOKENS) / requests
    free[empty] = EMPTY
    waiting[empty] = headroom[empty] = 0.0
    columns.parts.sum(axis=0, out=columns.score)


LLUMNIX = DispatchPolicy(
    "llumnix",
    _score,
    parts=("free", "waiting", "headroom"),
    unit="decode steps",
    uses_prefix=True,
    uses_view=True,
)
