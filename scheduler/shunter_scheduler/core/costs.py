"""What a profile of a pool costs: linear rates, KV capacity and price, from the cost model."""

from collections.abc import Callable
from dataclasses import dataclass

from shunter_api.modelpool import ModelPool
from shunter_api.profile import Profile
from shunter_scheduler.core.engine_arguments import arguments_of
from shunter_scheduler.costmodel import LinearRates, ModelShape, cost_model, model_shape

# Stands in for a model whose architecture is not known, until observations correct the rates.
TYPICAL_MODEL = "llama-3.1-8b"


ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True)
class ProfileCost:
    rates: LinearRates
    kv_capacity_tokens: int
    dollars_per_s: float
    kv_bytes_per_token: float = 0.0  # that a move by the kv rung copies
    max_num_seqs: int = ANY_NUMBER  # that its engines run at once; others would wait in them


# How a core comes by the costs of a profile: `profile_cost`, or rates that were measured.
ProfileCosts = Callable[[ModelPool, Profile], ProfileCost]


def profile_cost(
    pool: ModelPool, profile: Profile, shape_of: Callable[[str], ModelShape] = model_shape
) -> ProfileCost:
    """A model that is unknown, or that by the data sheet does not fit, still gets a guess: the
    engine that serves it is there, and reports its KV capacity itself. `shape_of` a model's source
    or name raises `ValueError` or `OSError` where it is unknown."""
    hardware, degree = profile.hardware, profile.tensor_parallel
    dollars_per_s = float(profile.cost_per_hour) / 3600
    told = arguments_of(pool.spec.engine)
    max_num_seqs = told.max_num_seqs or ANY_NUMBER
    for name in (pool.spec.model.source, pool.model_names[0], TYPICAL_MODEL):
        try:
            model = cost_model(told.applied(shape_of(name)), hardware, degree, told.memory_share)
        except (ValueError, OSError):
            continue
        kv_tokens, kv_bytes = model.kv_capacity_tokens, model.kv_bytes_per_token
        return ProfileCost(model.linear(), kv_tokens, dollars_per_s, kv_bytes, max_num_seqs)
    return ProfileCost(GUESS, 4 * pool.context_length, dollars_per_s, 0.0, max_num_seqs)


# A small device: 1,000 prompt tokens/s, 20 output tokens/s per sequence.
GUESS = LinearRates(
    prefill_base_s=0.02,
    prefill_s_per_token=1e-3,
    decode_base_s=0.05,
    decode_s_per_sequence=1e-3,
    decode_s_per_context_token=1e-7,
)
