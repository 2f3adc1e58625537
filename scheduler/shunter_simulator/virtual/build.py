"""From a scenario to its engines, and to what the scheduler knows of them."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from math import inf

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_scheduler.core import CoreSettings
from shunter_scheduler.core.costs import ANY_NUMBER, ProfileCost, ProfileCosts, profile_cost
from shunter_scheduler.core.settings import HeadRoom, Moves
from shunter_scheduler.costmodel import LinearRates, cost_model, model_shape
from shunter_scheduler.domain.cluster import Instance
from shunter_simulator.scenarios import EngineSettings, Scenario
from shunter_simulator.scenarios.engines import CACHE_BLOCK_TOKENS
from shunter_simulator.virtual.engine import VirtualEngine
from shunter_simulator.virtual.fleet import Slot
from shunter_simulator.virtual.step_times import (
    LLAMA_7B_A10,
    LLAMA_30B_4XA10,
    LinearTimes,
    RooflineTimes,
    StepTimes,
)
from shunter_simulator.virtual.values import EngineShape

_MEASURED = {
    "llama-7b-a10": (LLAMA_7B_A10, 2 * 32 * 4096 * 2),
    "llama-30b-4xa10": (LLAMA_30B_4XA10, 2 * 60 * 6656 * 2),
}
"""Step times, and bytes of keys and values per token: both x layers x width x two bytes."""

# Every request goes to an engine at once.
NO_QUEUE = HeadRoom(
    kv_watermark=-1e6,
    max_requests=sys.maxsize,
    max_queue_s=inf,
    queue_share=inf,
    for_priorities=False,
)
MAX_EXPLANATIONS = 2048


def engine_settings(scenario: Scenario, pool: ModelPool, profile: str) -> EngineSettings:
    return scenario.engines.get(pool.name, {}).get(profile) or EngineSettings()


def linear_times(settings: EngineSettings) -> LinearTimes | None:
    """What the scenario says of step times; None: nothing."""
    if settings.measured is not None:
        return _MEASURED[settings.measured][0]
    times = settings.times
    if times is None:
        return None
    return LinearTimes(
        times.prefill_base_ms / 1e3,
        times.prefill_token_ms / 1e3,
        times.prefill_square_token_ms / 1e3,
        times.decode_base_ms / 1e3,
        times.decode_sequence_ms / 1e3,
        times.decode_context_token_ms / 1e3,
    )


def true_cost(pool: ModelPool, profile: Profile, settings: EngineSettings) -> ProfileCost:
    """What the engines of a profile cost in truth, as straight lines."""
    times = linear_times(settings)
    if times is None:
        known = profile_cost(pool, profile)
    else:
        rates = LinearRates(
            times.prefill_base_s,
            times.prefill_s_per_token,
            times.decode_base_s,
            times.decode_s_per_sequence,
            times.decode_s_per_context_token,
            2 * times.prefill_s_per_square_token,  # n tokens are n * n / 2 pairs
        )
        known = replace(_of_shape(pool, profile, settings), rates=rates)
    return replace(
        known,
        kv_capacity_tokens=settings.kv_tokens or known.kv_capacity_tokens,
        kv_bytes_per_token=settings.kv_bytes_per_token or known.kv_bytes_per_token,
        max_num_seqs=settings.max_num_seqs,
    )


def _of_shape(pool: ModelPool, profile: Profile, settings: EngineSettings) -> ProfileCost:
    known = profile_cost(pool, profile)
    if settings.measured is None:
        return known
    return replace(known, kv_bytes_per_token=_MEASURED[settings.measured][1])


def profile_costs(scenario: Scenario) -> ProfileCosts:
    """What the scheduler believes at first."""

    def believed(pool: ModelPool, profile: Profile) -> ProfileCost:
        settings = engine_settings(scenario, pool, profile.name)
        cost, prior = true_cost(pool, profile, settings), settings.prior
        if scenario.queue_in == "engines":
            cost = replace(cost, max_num_seqs=ANY_NUMBER)
        if prior == 1.0:
            return cost
        rates = cost.rates
        scaled = {name: prior * getattr(rates, name) for name in rates.__slots__}
        return replace(cost, rates=replace(rates, **scaled))

    return believed


def engine_shape(
    pool: ModelPool, profile: Profile, settings: EngineSettings, slowdown: float
) -> EngineShape:
    kv_tokens = true_cost(pool, profile, settings).kv_capacity_tokens
    return EngineShape(
        times=_step_times(pool, profile, settings),
        kv_blocks=kv_tokens // settings.block_tokens,
        block_tokens=settings.block_tokens,
        watermark=settings.watermark,
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=settings.max_batch_tokens,
        batching=settings.batching,
        cache_block_tokens=CACHE_BLOCK_TOKENS if settings.prefix_caching else 0,
        copy_slow_down=slowdown,
        yield_steps=settings.yield_steps,
    )


def _step_times(pool: ModelPool, profile: Profile, settings: EngineSettings) -> StepTimes:
    times = linear_times(settings)
    if times is not None:
        return times
    shape = model_shape(pool.spec.model.source)
    return RooflineTimes(cost_model(shape, profile.hardware, profile.tensor_parallel))


def slots(scenario: Scenario) -> Iterator[Slot]:
    """One for each instance, in order of pool, profile and number."""
    transport = "kv" if scenario.moves.transport == "kv" else ""
    for pool in scenario.model_pools:
        shapes: dict[str, tuple[EngineShape, ProfileCost]] = {}
        for profile_name, name in scenario.instances_of(pool):
            if profile_name not in shapes:
                profile = pool.profile(profile_name)
                settings = engine_settings(scenario, pool, profile_name)
                shapes[profile_name] = (
                    engine_shape(pool, profile, settings, scenario.moves.slowdown),
                    true_cost(pool, profile, settings),
                )
            shape, cost = shapes[profile_name]
            value = Instance(
                name,
                pool.name,
                profile_name,
                "127.0.0.1:1",
                pool.engine_type,
                pool.revision,
                transport,
            )
            engine = VirtualEngine(shape)
            yield Slot(value, shape, cost.dollars_per_s, cost.kv_bytes_per_token, engine)


def core_settings(scenario: Scenario) -> CoreSettings:
    moves, knobs, scaling = scenario.moves, scenario.scheduler, scenario.autoscaling
    planned = Moves(
        policy="drain-only" if moves.policy == "none" else moves.policy,
        interval_s=moves.interval_s,
        hysteresis=moves.hysteresis,
        settle_s=moves.settle_s,
        kv_bytes_per_s=moves.bandwidth_gb_s * 1e9,
        llumnix_freeness=moves.llumnix_freeness,
    )
    room = HeadRoom(
        max_requests=knobs.max_requests,
        max_queue_s=knobs.max_queue_s,
        for_priorities=knobs.priority_headroom,
    )
    return CoreSettings(
        block_tokens=CACHE_BLOCK_TOKENS,
        max_explanations=MAX_EXPLANATIONS,
        count_sent=knobs.count_sent,
        alpha=knobs.alpha,
        money_s_per_dollar=knobs.money_s_per_dollar,
        utilisation=(scaling and scaling.utilisation) or CoreSettings().utilisation,
        head_room=NO_QUEUE if scenario.queue_in == "engines" else room,
        moves=planned,
    )


def pools_of(scenario: Scenario) -> tuple[ModelPool, ...]:
    """With moves switched off where the scenario has none."""
    pools = scenario.model_pools
    if scenario.moves.policy != "none":
        return pools
    return tuple(
        pool.model_copy(
            update={
                "spec": pool.spec.model_copy(
                    update={"migration": pool.migration.model_copy(update={"mode": "Off"})}
                )
            }
        )
        for pool in pools
    )
