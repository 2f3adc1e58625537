"""How long answers get: predicted per model and class from those that ended, and from how much of
the answer there is already.

Lengths fall into buckets that grow by an eighth of a power of two, older answers weigh less, and
one that a limit cut short only says that it would have been at least as long: the distribution is
the product-limit estimate (Kaplan and Meier, Nonparametric Estimation from Incomplete Observations,
JASA 1958). Time is predicted by the mean of what is left given what there is, memory is reserved by
a quantile of it; ADR 0011 says why by that one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_OCTAVE = 8
OCTAVES = 20
BUCKETS = PER_OCTAVE * OCTAVES  # the last holds answers of a million tokens and more
HALF_LIFE = 512  # answers after which one weighs half
PRIOR_WEIGHT = 1.0  # of what is expected before anything was seen, in answers
EVERY = 64  # answers between two estimates, once there are as many
MAX_KEYS = 4096
MAX_MADE = 1024  # forecasts that are kept until the next estimate
_GROWTH = 2.0 ** (1.0 / HALF_LIFE)

Forecast = tuple[float, float]  # tokens of the whole answer: the mean, the quantile to reserve by
Floats = NDArray[np.float64]


def bucket_of(tokens: float) -> int:
    if tokens <= 1:
        return 0
    at = int(PER_OCTAVE * math.log2(tokens))
    return at if at < BUCKETS else BUCKETS - 1


_EDGES: Floats = np.exp2(np.arange(BUCKETS + 1) / PER_OCTAVE)
_NUMBERS = np.arange(BUCKETS)
_MIDDLES: Floats = np.sqrt(_EDGES[:-1] * _EDGES[1:])


def _prior(mean: float) -> Floats:
    """Exponential: at any point as much is expected again."""
    survive = np.exp(-np.maximum(_EDGES - 1.0, 0.0) / max(1.0, mean))
    survive[-1] = 0.0
    return PRIOR_WEIGHT * (survive[:-1] - survive[1:])


class LengthModel:
    """Of one model and class."""

    def __init__(self, default_mean: float, quantile: float) -> None:
        """`quantile` is the one that memory is reserved by."""
        self.default_mean, self.quantile = default_mean, quantile
        # From each bucket on: probability, its part of the mean, the quantile of what is there.
        self._tail: list[float] = []
        self._tail_tokens: list[float] = []
        self._reserved: list[float] = []
        self._made: dict[tuple[int, int], Forecast] = {}  # by bucket and limit
        self._ended: list[float] = _prior(default_mean).tolist()
        self._cut = [0.0] * BUCKETS
        self._seen = 0
        self._weight = 1.0
        self._estimate()

    def observe(self, tokens: int, cut_short: bool) -> None:
        """`cut_short`: it ended by a limit, not by itself."""
        (self._cut if cut_short else self._ended)[bucket_of(tokens)] += self._weight
        self._weight *= _GROWTH
        self._seen += 1
        if self._weight > 1e6:
            self._ended = [weight / self._weight for weight in self._ended]
            self._cut = [weight / self._weight for weight in self._cut]
            self._weight = 1.0
        if self._seen <= 4 or self._seen % EVERY == 0 or self._seen in (8, 16, 32):
            self._estimate()

    def forecast(self, tokens: int, limit: int) -> Forecast:
        """Of an answer that has `tokens` already and may have `limit` (0: any)."""
        key = (bucket_of(tokens), limit)
        made = self._made.get(key)
        if made is None:
            made = self._forecast(*key) if tokens or self._seen else self._first(limit)
            if len(self._made) < MAX_MADE:
                self._made[key] = made
        if made[0] > tokens:
            return made
        return float(tokens), max(made[1], float(tokens))

    def _first(self, limit: int) -> Forecast:
        """Nothing was seen yet."""
        mean = min(self.default_mean, limit) if limit else self.default_mean
        return mean, mean

    def _forecast(self, at: int, limit: int) -> Forecast:
        mean, reserved = self._mean(at, limit), self._reserved[at]
        return (min(mean, limit), min(reserved, limit)) if limit else (mean, reserved)

    def _mean(self, at: int, limit: int) -> float:
        tail, tokens = self._tail, self._tail_tokens
        if tail[at] <= 0.0:
            return 0.0
        if not limit:
            return tokens[at] / tail[at]
        end = max(at, bucket_of(limit))
        return (tokens[at] - tokens[end] + limit * tail[end]) / tail[at]

    def _estimate(self) -> None:
        ended = np.array(self._ended)
        at_risk = np.cumsum((ended + np.array(self._cut))[::-1])[::-1]
        hazard = np.divide(ended, at_risk, out=np.zeros(BUCKETS), where=at_risk > 0)
        survive = np.cumprod(1.0 - hazard)
        share = np.concatenate(([1.0], survive[:-1])) - survive
        share[-1] += survive[-1]
        rising = np.cumsum(share[::-1])  # the tail, from its end
        tail = rising[::-1]
        # Upper edge of the first bucket that no more than so much of the tail goes beyond.
        beyond = np.searchsorted(rising, tail * (1.0 - self.quantile), side="right")
        bucket = np.maximum(BUCKETS - 1 - beyond, _NUMBERS)
        self._tail = [*tail.tolist(), 0.0]
        self._tail_tokens = [*np.cumsum((share * _MIDDLES)[::-1])[::-1].tolist(), 0.0]
        self._reserved = _EDGES[bucket + 1].tolist()
        self._made = {}


class OutputLengths:
    """The length models, at most `MAX_KEYS`; further ones share one."""

    __slots__ = ("_default", "_models", "_quantile")

    def __init__(self, default_mean: float, quantile: float) -> None:
        self._default, self._quantile = default_mean, quantile
        self._models: dict[tuple[str, str], LengthModel] = {}

    def of(self, model: str, slo_class: str) -> LengthModel:
        found = self._models.get((model, slo_class))
        return found if found is not None else self._add((model, slo_class))

    def _add(self, key: tuple[str, str]) -> LengthModel:
        if len(self._models) >= MAX_KEYS:
            key = ("", "")
        fresh = LengthModel(self._default, self._quantile)
        return self._models.setdefault(key, fresh)


@dataclass(slots=True)
class LengthErrors:
    """How far predictions were off lately, made when a request was admitted."""

    _off: float = 0.0
    _tokens: float = 0.0
    _longer: float = 0.0
    _count: float = 0.0

    def observe(self, tokens: int, expected: float, reserved: float) -> None:
        keep = 1.0 / _GROWTH
        self._off = keep * self._off + abs(tokens - expected)
        self._tokens = keep * self._tokens + tokens
        self._longer = keep * self._longer + (tokens > reserved)
        self._count = keep * self._count + 1.0

    @property
    def error_ratio(self) -> float:
        """Mean absolute error of the expected length, over the mean length; 0: nothing ended."""
        return self._off / self._tokens if self._tokens else 0.0

    @property
    def longer_share(self) -> float:
        """Of answers that got longer than what was reserved for them."""
        return self._longer / self._count if self._count else 0.0
