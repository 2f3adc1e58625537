"""How many replicas each profile needs: predicted load against capacity under the SLO.

One instance carries as many sequences at once as keep the time per token at its target, fit into
KV memory while some grow and others end, and leave half of its time to prefills. Of these
`CoreSettings.utilisation` are counted on. Profiles fill up from the cheapest per sequence.
"""

from collections.abc import Iterable

from shunter_api.durations import duration_text
from shunter_api.profile import Profile
from shunter_scheduler.core.capacity import (
    Load,
    carries,
    cheapest,
    fill,
    load_of,
    model_of,
    needs,
)
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.scaling_apart import desired_apart, keep_both
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.status import ScalingAdvice


def advise(state: CoreState, pools: Iterable[PoolRecord], now: float) -> list[ScalingAdvice]:
    """Of each profile of each pool."""
    pools = tuple(pools)
    entries: dict[str, list[Entry]] = {pool.name: [] for pool in pools}
    for entry in state.entries.values():
        if (own := entries.get(entry.pool.name)) is not None:
            own.append(entry)
    return [one for pool in pools for one in _advise(state, pool, entries[pool.name], now)]


def _advise(
    state: CoreState, pool: PoolRecord, entries: list[Entry], now: float
) -> list[ScalingAdvice]:
    load, profiles = load_of(entries), pool.spec.profiles
    models = {p.name: model_of(pool, p, state.profile_costs) for p in profiles}
    carried = {p.name: carries(models[p.name], load, pool) for p in profiles}
    if pool.roles is not None:
        desired, reasons = desired_apart(pool, models, load, entries, now)
    else:
        desired = {p.name: p.replicas.min for p in profiles}
        reasons = {p.name: needs(p, carried[p.name], load) for p in profiles}
        fill(profiles, carried, load.requests, desired)
    _keep_at_least(_least(pool, load, now), pool, cheapest(profiles, carried), desired)
    if pool.roles is not None:
        keep_both(pool, desired)
    idle = not any(desired.values())
    return [
        _advice(pool, p, desired[p.name], _idle(pool) if idle else reasons[p.name])
        for p in profiles
    ]


def _least(pool: PoolRecord, load: Load, now: float) -> int:
    """Instances that the pool keeps whatever its load: none only where it may start from zero and
    nobody has asked for it lately. One that loads its weights is not idle: it was asked for."""
    if pool.from_zero is None:
        return max(1, pool.spec.spec.scaling.floor or 0)
    if load.requests or pool.starting.phase in ("starting", "loading-weights"):
        return 1
    return int(pool.active_at is not None and now - pool.active_at < pool.from_zero.after_s)


def _keep_at_least(
    least: int, pool: PoolRecord, cheapest: Iterable[Profile], desired: dict[str, int]
) -> None:
    """Adds instances where there are some already, then where they are cheapest."""
    there = {record.value.profile for record in pool.records()}
    for profile in sorted(cheapest, key=lambda p: p.name not in there):
        missing = max(0, least - sum(desired.values()))
        desired[profile.name] += min(missing, profile.replicas.max - desired[profile.name])


def _idle(pool: PoolRecord) -> str:
    after = f" for {duration_text(pool.from_zero.after_s)}" if pool.from_zero else ""
    return f"no request{after}: no instance is needed until the next one"


def _advice(pool: PoolRecord, profile: Profile, desired: int, reason: str) -> ScalingAdvice:
    there = sum(r.value.profile == profile.name for r in pool.records())
    return ScalingAdvice(pool.name, profile.name, there, desired, reason)
