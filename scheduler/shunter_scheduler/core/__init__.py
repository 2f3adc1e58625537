"""The decision core. `SchedulerCore` is the one mutable object; everything it calls is pure.

    core = SchedulerCore(settings, rng)
    core.apply(event, now)              # any number of times
    decisions = core.decide(now)        # admit -> dispatch -> plan moves
    core.next_wake(now)                 # when decide() could have something new without an event
    core.explain(request_id, now)       # Explanation | None; "" asks for the latest decision
    core.requests_of(gateway_id)        # ids and epochs of what waits or runs
    core.status(now)                    # ClusterStatus
    core.drain_status(instance)         # DrainStatus | None, of an instance asked to drain
    core.advise_scaling(pool, now)      # list[ScalingAdvice]; "" asks for all pools

`now` is monotonic seconds; the core never reads a clock and never draws from a global generator.
"""

from shunter_scheduler.core.scheduler import SchedulerCore
from shunter_scheduler.core.settings import CoreSettings

__all__ = ["CoreSettings", "SchedulerCore"]
