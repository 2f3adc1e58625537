"""The decision core. `SchedulerCore` is the one mutable object; everything it calls is pure.

    core = SchedulerCore(settings, rng)
    core.apply(event, now)              # any number of times
    decisions = core.decide(now)        # admit -> dispatch -> plan moves
    core.next_wake(now)                 # when decide() could have something new without an event
    core.explain(request_id, now)       # Explanation | None
    core.status(now)                    # ClusterStatus
    core.advise_scaling(pool, now)      # list[ScalingAdvice]

`now` is monotonic seconds; the core never reads a clock and never draws from a global generator.
"""
