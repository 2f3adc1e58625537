"""How long answers get: predicted per model and class from those that ended, and from how much of
the answer there is already.

Lengths fall into buckets that grow by an eighth of a power of two, older answers weigh less, and
one that a limit cut short only says that it would have been at least as long: the distribution is
the product-limit estimate (Kaplan and Meier, Nonparametric Estimation from Incomplete Observations,
JASA 1958). Time is predicted by the mean of what is left given what there is, memory is reserved by
the peak of what the request is expected to use; ADR 0011 says why.
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
_KEEP = 1.0 / _GROWTH
NOBODY = 1e-300  # weight of so few that there are none

Forecast = tuple[float, float]  # tokens of the whole answer: the mean, what to reserve for it
Floats = NDArray[np.float64]


def bucket_of(tokens: float) -> int:
    if tokens <= 1:
        return 0
    at = int(PER_OCTAVE * math.log2(tokens))
    return at if at < BUCKETS else BUCKETS - 1


_EDGES: Floats = np.exp2(np.arange(BUCKETS + 1) / PER_OCTAVE)
_MIDDLES: Floats = np.sqrt(_EDGES[:-1] * _EDGES[1:])
_PROMPTS: list[float] = _MIDDLES.tolist()


def _prior(mean: float) -> Floats:
    """Exponential: at any point as much is expected again."""
    survive = np.exp(-np.maximum(_EDGES - 1.0, 0.0) / max(1.0, mean))
    survive[-1] = 0.0
    return PRIOR_WEIGHT * (survive[:-1] - survive[1:])


class LengthModel:
    """Of one model and class."""

    def __init__(self, default_mean: float) -> None:
        self.default_mean = default_mean
        # From each bucket on: probability, its part of the mean.
        self._tail = self._tail_tokens = _EDGES
        self._made: dict[tuple[int, int, int], Forecast] = {}  # by bucket, limit, prompt's bucket
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

    def forecast(self, tokens: int, limit: int, prompt_tokens: int) -> Forecast:
        """Of an answer that has `tokens` already and may have `limit` (0: any)."""
        key = (bucket_of(tokens) if tokens else 0, limit, bucket_of(prompt_tokens))
        made = self._made.get(key)
        if made is None:
            made = self._forecast(*key) if tokens or self._seen else self._first(limit)
            if len(self._made) < MAX_MADE:
                self._made[key] = made
        if made[0] > tokens:
            return made
        return float(tokens), max(made[1], float(tokens))

    def within(self, tokens: int, steps: float) -> float:
        """Output tokens of the next `steps`, in the mean, of an answer that has `tokens`: it may
        end before."""
        limit = tokens + steps
        at, end = bucket_of(tokens), bucket_of(limit)
        tail, mass = self._tail.item, self._tail_tokens.item
        alive = tail(at)
        if end == at or alive <= 0.0:
            return steps
        mean = (mass(at) - mass(end) + limit * tail(end)) / alive
        return min(steps, max(0.0, mean - tokens))

    def _first(self, limit: int) -> Forecast:
        """Nothing was seen yet."""
        mean = min(self.default_mean, limit) if limit else self.default_mean
        return mean, mean

    def _forecast(self, at: int, limit: int, prompt: int) -> Forecast:
        mean, reserved = self._mean(at, limit), self._peak(at, limit, prompt)
        return (min(mean, limit), min(reserved, limit)) if limit else (mean, reserved)

    def _peak(self, at: int, limit: int, prompt: int) -> float:
        """Greatest P(length >= n | there is `at`) * (prompt + n), less the prompt, over n from
        there on: who has ended uses nothing. A bucket counts with its upper edge."""
        alive = self._tail.item(at)
        if alive <= 0.0:
            return 0.0
        end = max(at, bucket_of(limit)) + 1 if limit else BUCKETS
        prompt_tokens = _PROMPTS[prompt]
        used = _EDGES[at + 1 : end + 1] + prompt_tokens
        used *= self._tail[at:end]
        return float(used.max()) / alive - prompt_tokens

    def _mean(self, at: int, limit: int) -> float:
        tail, tokens = self._tail.item, self._tail_tokens.item
        if tail(at) <= 0.0:
            return 0.0
        if not limit:
            return tokens(at) / tail(at)
        end = max(at, bucket_of(limit))
        return (tokens(at) - tokens(end) + limit * tail(end)) / tail(at)

    def _estimate(self) -> None:
        ended = np.array(self._ended)
        at_risk = (ended + self._cut)[::-1].cumsum()[::-1]
        survive = (1.0 - ended / np.maximum(at_risk, NOBODY)).cumprod()
        share = -survive
        share[0] += 1.0
        share[1:] += survive[:-1]
        share[-1] += survive[-1]
        # Both from the end, with 0 beyond it.
        rising, rising_tokens = np.zeros(BUCKETS + 1), np.zeros(BUCKETS + 1)
        share[::-1].cumsum(out=rising[1:])
        (share * _MIDDLES)[::-1].cumsum(out=rising_tokens[1:])
        self._tail, self._tail_tokens = rising[::-1], rising_tokens[::-1]
        self._made = {}


class OutputLengths:
    """The length models, at most `MAX_KEYS`; further ones share one."""

    __slots__ = ("_default", "_models")

    def __init__(self, default_mean: float) -> None:
        self._default = default_mean
        self._models: dict[tuple[str, str], LengthModel] = {}

    def of(self, model: str, slo_class: str) -> LengthModel:
        found = self._models.get((model, slo_class))
        return found if found is not None else self._add((model, slo_class))

    def _add(self, key: tuple[str, str]) -> LengthModel:
        if len(self._models) >= MAX_KEYS:
            key = ("", "")
        fresh = LengthModel(self._default)
        return self._models.setdefault(key, fresh)


@dataclass(slots=True)
class LengthErrors:
    """How far predictions were off lately, made when a request was admitted."""

    _off: float = 0.0
    _tokens: float = 0.0
    _longer: float = 0.0
    _count: float = 0.0

    def observe(self, tokens: int, expected: float, reserved: float) -> None:
        self._off = _KEEP * self._off + abs(tokens - expected)
        self._tokens = _KEEP * self._tokens + tokens
        self._longer = _KEEP * self._longer + (tokens > reserved)
        self._count = _KEEP * self._count + 1.0

    @property
    def error_ratio(self) -> float:
        """Mean absolute error of the expected length, over the mean length; 0: nothing ended."""
        return self._off / self._tokens if self._tokens else 0.0

    @property
    def longer_share(self) -> float:
        """Of answers that got longer than what was reserved for them."""
        return self._longer / self._count if self._count else 0.0
