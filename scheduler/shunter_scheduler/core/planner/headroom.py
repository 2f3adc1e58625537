"""Priority headroom: a step takes longer than a higher class may have it, so that a lower one
gives way: to another instance here, into the queue in `suspension`."""

from collections.abc import Iterator

from shunter_scheduler.core.planner.view import Case, Trigger, View, cheapest

LOOKED_AT = 4


def _cases(view: View) -> Iterator[Case]:
    fleet = view.fleet
    beyond = fleet.beyond_s()
    if beyond is None:
        return
    for source in view.most(beyond):
        if not view.traffic.may_give(source):
            continue
        rank = fleet.target_rank[source]
        lower = [e for e in view.on(source) if e.rank < rank and e.started]
        if lower:
            yield Case(source, cheapest(lower, LOOKED_AT), bonus=("slo", spared_s(view, source)))


def spared_s(view: View, source: int) -> float:
    """Weighted seconds of lateness that those with a target are spared when a mean request goes."""
    fleet, record = view.fleet, view.fleet.records[source]
    requests = max(1.0, float(fleet.requests[source]))
    mean_tokens = float(fleet.used[source]) / requests
    share_s = float(fleet.per_sequence_s[source] + mean_tokens * fleet.per_token_s[source])
    beyond_s = float(fleet.step_s[source] - fleet.target_s[source])
    count = sum(record.tpot_targets.values())
    left = float(fleet.mean_left[source])
    return view.pool.settings.weights.slo * count * left * max(0.0, min(share_s, beyond_s))


HEADROOM = Trigger("priority-headroom", _cases)
