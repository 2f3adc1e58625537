"""What a profile of a pool costs: linear rates, KV capacity and price, from the cost model."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from shunter_api.modelpool import ModelPool, Profile
from shunter_scheduler.costmodel import (
    LinearRates,
    ModelDoesNotFit,
    UnknownModel,
    cost_model,
    model_shape,
)

# Stands in for a model whose architecture is not known, until observations correct the rates.
TYPICAL_MODEL = "llama-3.1-8b"


@dataclass(frozen=True, slots=True)
class ProfileCost:
    rates: LinearRates
    kv_capacity_tokens: int
    dollars_per_s: float


# How a core comes by the costs of a profile: `profile_cost`, or rates that were measured.
ProfileCosts = Callable[[ModelPool, Profile], ProfileCost]


def profile_cost(pool: ModelPool, profile: Profile) -> ProfileCost:
    """A model that is unknown, or that by the data sheet does not fit, still gets a guess: the
    engine that serves it is there, and reports its KV capacity itself."""
    hardware, degree = profile.hardware, profile.tensor_parallel
    dollars_per_s = float(profile.cost_per_hour) / 3600
    for name in (pool.spec.model.source, pool.model_names[0], TYPICAL_MODEL):
        try:
            model = cost_model(model_shape(name), hardware, degree)
        except (UnknownModel, ModelDoesNotFit, ValueError):
            continue
        return ProfileCost(model.linear(), model.kv_capacity_tokens, dollars_per_s)
    return ProfileCost(GUESS, 4 * pool.context_length, dollars_per_s)


# A small device: 1,000 prompt tokens/s, 20 output tokens/s per sequence.
GUESS = LinearRates(
    prefill_base_s=0.02,
    prefill_s_per_token=1e-3,
    decode_base_s=0.05,
    decode_s_per_sequence=1e-3,
    decode_s_per_context_token=1e-7,
)


class Correction:
    """Multiplies a profile's predicted times by what was observed, slowly and robustly.

    An exponentially weighted mean of the log ratio observed : predicted, each ratio clipped, so
    that one stall does not move it far. `published` follows in steps of 5 %, at most twice a
    second: each step makes the rows of all instances of the profile anew.
    """

    __slots__ = ("_factor", "_published_at", "published")

    GAIN = 0.05
    CLIP = 4.0
    LIMITS = (0.05, 20.0)
    STEP = 1.05
    INTERVAL_S = 0.5
    OVERHEAD_S = 0.005  # on both sides: what network and gateway add must not count as slowness

    def __init__(self) -> None:
        self._factor = 1.0
        self._published_at = -math.inf
        self.published = 1.0

    def observe(self, observed_s: float, predicted_s: float, now: float) -> bool:
        """`predicted_s` with the published factor in it. True where `published` changed."""
        ratio = (observed_s + self.OVERHEAD_S) / (predicted_s + self.OVERHEAD_S)
        ratio = min(self.CLIP, max(1 / self.CLIP, ratio))
        lag = self._factor / self.published  # observed since the last step, and not yet published
        self._factor *= (ratio / lag) ** self.GAIN
        low, high = self.LIMITS
        self._factor = min(high, max(low, self._factor))
        if now < self._published_at + self.INTERVAL_S:
            return False
        if 1 / self.STEP < self._factor / self.published < self.STEP:
            return False
        self._published_at = now
        self.published = self._factor
        return True
