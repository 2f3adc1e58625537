"""How many replicas each profile needs: predicted load against capacity under the SLO.

One instance carries as many sequences at once as keep the time per token at its target, fit into
KV memory, and leave half of its time to prefills. Profiles fill up from the cheapest per sequence.
"""

import math
from dataclasses import dataclass

from shunter_api.modelpool import Profile
from shunter_scheduler.core.costs import profile_cost
from shunter_scheduler.core.dispatch import left_to_generate
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import ProfileModel
from shunter_scheduler.core.pool import PoolRecord
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


def advise(state: CoreState, pool: PoolRecord) -> list[ScalingAdvice]:
    entries = [e for e in state.entries.values() if e.pool is pool]
    load = _load_of(entries)
    tpot_s = pool.spec.slo.tpot_s or DEFAULT_TPOT_S
    carried = {p.name: _carries(_model(pool, p), load, tpot_s, state) for p in pool.spec.profiles}
    desired = {p.name: p.replicas.min for p in pool.spec.profiles}
    rest = load.requests - sum(carried[name] * count for name, count in desired.items())
    for profile in sorted(pool.spec.profiles, key=lambda p: _dollars(p) / carried[p.name]):
        if rest <= 0:
            break
        room = profile.replicas.max - profile.replicas.min
        more = min(room, math.ceil(rest / carried[profile.name]))
        desired[profile.name] += more
        rest -= more * carried[profile.name]
    return [_advice(pool, p, desired[p.name], carried[p.name], load) for p in pool.spec.profiles]


def _load_of(entries: list[Entry]) -> Load:
    count = len(entries)
    if not count:
        return Load(0, 1024.0, 256.0)
    return Load(
        count,
        sum(e.context_tokens for e in entries) / count,
        sum(left_to_generate(e) for e in entries) / count,
    )


def _model(pool: PoolRecord, profile: Profile) -> ProfileModel:
    return pool.models.get(profile.name) or ProfileModel(profile_cost(pool.spec, profile))


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


def _advice(
    pool: PoolRecord, profile: Profile, desired: int, carries: float, load: Load
) -> ScalingAdvice:
    there = sum(r.value.profile == profile.name for r in pool.records())
    reason = (
        f"{load.requests} requests in flight and waiting; one {profile.name} carries "
        f"{carries:.0f} within the SLO"
    )
    return ScalingAdvice(pool.name, profile.name, there, desired, reason)
