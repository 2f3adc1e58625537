"""When a request had better wait: no instance is worth what its pick would cost others there.

A request is worth one kept target, as likely as it keeps its own. Where those who run on an
instance are expected to lose more than that, the instance is left out; so is one where the request
itself misses for sure while another could keep its target. Its prefill does not count: that is paid
whenever it comes. Where nothing is left it waits for room, and once its first token is late it has
no target to lose: then it waits until it harms nobody, goes where no target can be kept, or has its
turn among the late (`Ageing.late_share`, core/queue.py). So a pool past its capacity keeps the
targets of as many as it can serve, and not of nobody (what counts is goodput: DistServe, OSDI 2024,
section 2). A request waits no longer than the queue's timeout.

Only classes of the same or a higher priority are spared: lower ones are harmed as ever.
"""

import math

from numpy import logical_and, logical_or

from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import Floats, InstanceColumns
from shunter_scheduler.policies.misses import MARGIN

SURELY = 0.95  # missed: of requests that are this likely to, hardly one keeps its target
EVEN = 0.5  # a target that is likelier kept than missed can still be waited for
# Targets of others that a request with none to keep may cost: a rounding of nothing.
NOTHING = 0.1
# Share of a TPOT target up to which such requests may fill an instance. The rest is room for those
# that come in time, as it takes seconds until one that has been placed ends.
LATE_SHARE = 0.7


def hold_back(columns: InstanceColumns, ask: Ask, harm_s: Floats, missed: Floats | None) -> None:
    """Sets the score of slots that are not worth it to infinity. `harm_s`: what others are expected
    to lose by longer steps on each; `missed`: how likely the request misses its own targets; None:
    nowhere."""
    miss_s = ask.weights.miss_s
    late = not ask.has_target
    if not late and missed is not None:
        late = bool(missed.min(where=~columns.excluded, initial=1.0) >= EVEN)
    if late:
        bad = harm_s > NOTHING * miss_s
        reserved = columns.tpot_s > LATE_SHARE * ask.tpot_target_s
        logical_and(reserved, columns.alone_s < (1 - MARGIN) * ask.tpot_target_s, reserved)
        logical_or(bad, reserved, bad)
    elif missed is None:
        bad = harm_s > miss_s
    else:
        bad = harm_s > miss_s * (1.0 - missed)
    logical_and(bad, columns.lowest_rank >= ask.rank, bad)
    if missed is not None and not late:
        logical_or(bad, missed > SURELY, bad)
    columns.score[bad] = math.inf
