"""Rates of each instance that gateways are told, for the time without a scheduler."""

from shunter_api.modelpool import ModelPool
from shunter_scheduler.core.costs import ProfileCost, ProfileCosts, profile_cost
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.service.replies import Speed

HALF_FULL_BATCH = 128  # sequences: half of the usual batch limit of engines


def speeds_of(topology: Topology, costs: ProfileCosts = profile_cost) -> dict[str, Speed]:
    """By instance name, as predicted for its pool's profile; alike instances share the work."""
    pools = {pool.name: pool for pool in topology.pools}
    by_profile: dict[tuple[str, str], Speed] = {}
    speeds: dict[str, Speed] = {}
    for instance in topology.instances:
        key = (instance.pool, instance.profile)
        if key not in by_profile:
            by_profile[key] = _speed_of(pools[instance.pool], instance.profile, costs)
        speeds[instance.name] = by_profile[key]
    return speeds


def _speed_of(pool: ModelPool, profile: str, costs: ProfileCosts) -> Speed:
    return speed(costs(pool, pool.profile(profile)))


def speed(cost: ProfileCost) -> Speed:
    """Decoding: a batch of 128 sequences that fills half of the KV memory."""
    rates = cost.rates
    step_s = (
        rates.decode_base_s
        + HALF_FULL_BATCH * rates.decode_s_per_sequence
        + cost.kv_capacity_tokens / 2 * rates.decode_s_per_context_token
    )
    return Speed(
        prefill_tokens_per_s=1 / max(rates.prefill_s_per_token, 1e-9),
        decode_tokens_per_s=1 / max(step_s, 1e-9),
    )
