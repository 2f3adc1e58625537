"""How many replicas each profile needs: predicted load against capacity under the SLO.

One instance carries as many sequences at once as keep the time per token at its target, fit into
KV memory, and leave half of its time to prefills. Profiles fill up from the cheapest per sequence.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from shunter_api.durations import duration_text
from shunter_api.profile import Profile
from shunter_scheduler.core.costs import ProfileCosts
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.status import ScalingAdvice

UTILISATION = 0.8  # of what an instance carries, so that bursts find room
PREFILL_SHARE = 0.5
DEFAULT_TPOT_S = 0.1  # of a pool without a target


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in flight and waiting, and what a mean one of them is like."""

    requests: int
    context_tokens: float
    output_tokens: float


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
    load = _load_of(entries)
    tpot_s = pool.spec.slo.tpot_s or DEFAULT_TPOT_S
    carried = {
        p.name: _carries(_model(pool, p, state.profile_costs), load, tpot_s, state)
        for p in pool.spec.profiles
    }
    desired = {p.name: p.replicas.min for p in pool.spec.profiles}
    rest = load.requests - sum(carried[name] * count for name, count in desired.items())
    cheapest = sorted(pool.spec.profiles, key=lambda p: _dollars(p) / carried[p.name])
    for profile in cheapest:
        if rest <= 0:
            break
        room = profile.replicas.max - profile.replicas.min
        more = min(room, math.ceil(rest / carried[profile.name]))
        desired[profile.name] += more
        rest -= more * carried[profile.name]
    _keep_at_least(_least(pool, load, now), pool, cheapest, desired)
    idle = not any(desired.values())
    return [
        _advice(pool, p, desired[p.name], _idle(pool) if idle else _needs(p, carried[p.name], load))
        for p in pool.spec.profiles
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


def _load_of(entries: list[Entry]) -> Load:
    count = len(entries)
    if not count:
        return Load(0, 1024.0, 256.0)
    return Load(
        count,
        sum(e.context_tokens for e in entries) / count,
        sum(left_to_generate(e) for e in entries) / count,
    )


def _model(pool: PoolRecord, profile: Profile, costs: ProfileCosts) -> ProfileModel:
    return pool.models.get(profile.name) or ProfileModel(costs(pool.spec, profile))


def _carries(model: ProfileModel, load: Load, tpot_s: float, state: CoreState) -> float:
    """Sequences at once; at least one."""
    context = load.context_tokens + load.output_tokens / 2
    base_s = model.decode_step_s(0, 0)
    by_tpot = (tpot_s - base_s) / (model.decode_step_s(1, context) - base_s)
    by_memory = model.cost.kv_capacity_tokens / (context + load.output_tokens / 2)
    prefill_s = model.prefill_s(int(load.context_tokens))
    lifetime_s = prefill_s + load.output_tokens * tpot_s
    by_prefill = PREFILL_SHARE * lifetime_s / prefill_s
    batch = state.settings.head_room.max_requests
    return max(1.0, UTILISATION * min(by_tpot, by_memory, by_prefill, batch))


def _dollars(profile: Profile) -> float:
    return float(profile.cost_per_hour) or 1.0


def _idle(pool: PoolRecord) -> str:
    after = f" for {duration_text(pool.from_zero.after_s)}" if pool.from_zero else ""
    return f"no request{after}: no instance is needed until the next one"


def _needs(profile: Profile, carries: float, load: Load) -> str:
    return (
        f"{load.requests} requests in flight and waiting; one {profile.name} carries "
        f"{carries:.0f} within the SLO"
    )


def _advice(pool: PoolRecord, profile: Profile, desired: int, reason: str) -> ScalingAdvice:
    there = sum(r.value.profile == profile.name for r in pool.records())
    return ScalingAdvice(pool.name, profile.name, there, desired, reason)
