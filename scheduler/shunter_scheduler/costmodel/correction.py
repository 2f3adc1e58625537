"""What observed times make of predicted ones: a robust recursive fit of linear coefficients.

A time is predicted as a sum of features times coefficients: of a prefill 1, tokens, pairs; of a
decode step 1, sequences, tokens of context. The fit is a Kalman filter over the coefficients as
multiples of the prior's (recursive least squares with a ridge towards the prior, see Ljung, System
Identification, 2nd ed., chapter 11), with

* a factor common to all coefficients first: the median of the first few ratios;
* errors relative to the prediction, so that short and long times count alike (with `OVERHEAD_S`
  added, so that what network and gateway add is no error of very short ones);
* residuals clipped as by Huber's loss (Annals of Mathematical Statistics 35, 1964), and a clipped
  one narrows the covariance only in proportion, so that a stall moves the fit little;
* a random walk of the coefficients instead of forgetting, so that what is not observed does not
  become arbitrary; and a new common factor after residuals that lie out of line on one side many
  times in a row: then it was not outliers, but a change.
"""

import math
from collections.abc import Sequence
from operator import mul
from statistics import median

Coefficients = tuple[float, ...]


class Correction:
    """Of one kind of time of one profile, in seconds.

    `published` is what predictions use. It follows the fit in steps of 5 %, at most twice a second:
    each step makes the rows of all instances of the profile anew. `error` is the relative standard
    deviation of what was observed from what was predicted, as it was at the last step.
    """

    __slots__ = (
        "_covariance",
        "_first",
        "_first_of",
        "_least",
        "_noise",
        "_published_at",
        "_same_side",
        "_scales",
        "_used_at",
        "count",
        "error",
        "fit",
        "mean_error",
        "prior",
        "published",
    )

    FIRST = 5  # observations whose median ratio multiplies all coefficients
    COMMON = 0.2  # standard deviation of that factor
    OWN = 0.5  # and of each coefficient's own
    DRIFT = 0.005  # per observation
    PRIOR_ERROR = 0.3  # of a prediction that nothing was compared with yet
    NOISE = (0.02, 0.5)  # bounds of the observations' own relative deviation
    NOISE_GAIN = 0.03
    ERROR_GAIN = 0.05
    CLIP = 2.5  # standard deviations
    CHANGE = 8  # residuals out of line in a row, on one side
    LIMITS = (0.02, 50.0)  # of a coefficient, as multiples of the prior
    SMALLEST = 0.1  # share of a middling time that a coefficient of prior 0 may well stand for
    OVERHEAD_S = 0.005
    STEP = 1.05
    ERROR_STEP = 1.5
    INTERVAL_S = 0.5
    FEW = 50  # observations, all of which are used; of later ones at most 100 a second
    USED_EVERY_S = 0.01

    def __init__(self, prior: Sequence[float], middling: Sequence[float]) -> None:
        """`middling` are the features of a typical time: they tell how much of it a coefficient
        that the prior has as 0 might be."""
        total_s = sum(p * x for p, x in zip(prior, middling, strict=True)) or 1.0
        small = [self.SMALLEST * total_s / x for x in middling]
        self.prior: Coefficients = tuple(prior)
        self.fit = self.prior
        self.published = self.prior
        self.error = self.PRIOR_ERROR
        self.mean_error = 0.0  # of predictions made, lately: |observed - predicted| / predicted
        self.count = 0
        self._scales = [max(p, s) for p, s in zip(prior, small, strict=True)]
        self._least = [
            s if p < s else self.LIMITS[0] * p for p, s in zip(prior, small, strict=True)
        ]
        self._noise = 0.15**2
        self._same_side = 0
        self._first: list[float] = []
        self._first_of = self.prior
        self._published_at = self._used_at = -math.inf
        self._covariance: list[list[float]] = []
        self._open()

    def wants(self, now: float) -> bool:
        """False for an observation that would tell little more than the last one."""
        return self.count < self.FEW or now >= self._used_at + self.USED_EVERY_S

    def observe(
        self, features: Sequence[float], seconds: float, now: float, share: float = 1.0
    ) -> bool:
        """True where `published` changed. `share`, in (0, 1], is that of the time observed which
        the features stand for; the rest, such as a queue, was taken off. The variance counts as
        inverse to it: so times to first token spread in simulated worlds."""
        told_s = _dot(self.published, features)
        predicted_s = _dot(self.fit, features)
        self._judge(seconds, told_s)
        if len(self._first) < self.FIRST:
            self._multiply(seconds, _dot(self._first_of, features))
        else:
            norm_s = predicted_s + self.OVERHEAD_S
            weights = [c * x / norm_s for c, x in zip(self._scales, features, strict=True)]
            residual = (seconds - predicted_s) / norm_s
            self._update(weights, residual, share)
        self.count += 1
        self._used_at = now
        if now < self._published_at + self.INTERVAL_S:
            return False
        step = (_dot(self.fit, features) + self.OVERHEAD_S) / (told_s + self.OVERHEAD_S)
        error = self.relative_error(features)
        if (
            1 / self.STEP < step < self.STEP
            and 1 / self.ERROR_STEP < error / self.error < self.ERROR_STEP
        ):
            return False
        self._published_at = now
        self.published, self.error = self.fit, error
        return True

    def factor(self, features: Sequence[float]) -> float:
        """What is published, over the prior."""
        return _dot(self.published, features) / _dot(self.prior, features)

    def standard_error(self, features: Sequence[float]) -> float:
        """Relative, of a prediction: how far the mean time may be from it."""
        if not self.count:
            return self.PRIOR_ERROR
        norm_s = _dot(self.fit, features) + self.OVERHEAD_S
        weights = [c * x / norm_s for c, x in zip(self._scales, features, strict=True)]
        return math.sqrt(max(0.0, _dot(weights, _times(self._covariance, weights))))

    def relative_error(self, features: Sequence[float]) -> float:
        """Relative, of a single time: the prediction's error and the time's own spread."""
        if not self.count:
            return self.PRIOR_ERROR
        return math.hypot(self.standard_error(features), math.sqrt(self._noise))

    def _judge(self, seconds: float, told_s: float) -> None:
        off = min(10.0, abs(seconds - told_s) / (told_s + self.OVERHEAD_S))
        gain = max(self.ERROR_GAIN, 1 / (self.count + 1))
        self.mean_error += gain * (off - self.mean_error)

    def _multiply(self, seconds: float, before_s: float) -> None:
        self._first.append((seconds + self.OVERHEAD_S) / (before_s + self.OVERHEAD_S))
        factor = median(self._first)
        low, high = self.LIMITS
        self.fit = tuple(
            min(high * scale, max(low * prior, factor * before))
            for before, scale, prior in zip(self._first_of, self._scales, self.prior, strict=True)
        )
        self._open()

    def _update(self, weights: list[float], residual: float, share: float) -> None:
        towards = _times(self._covariance, weights)
        uncertain = _dot(weights, towards)
        variance = uncertain + self._noise / share
        limit = self.CLIP * math.sqrt(variance)
        clipped = max(-limit, min(limit, residual))
        kept = clipped / residual if residual else 1.0
        gains = [value / variance for value in towards]
        self._move(gains, clipped)
        for i, row in enumerate(self._covariance):
            for j, value in enumerate(towards):
                row[j] -= kept * gains[i] * value
        self._drift()
        self._learn_noise(share * (clipped * clipped - uncertain), kept, residual)

    def _move(self, gains: list[float], by: float) -> None:
        low, high = self.LIMITS
        fit = []
        for coefficient, scale, gain, prior in zip(
            self.fit, self._scales, gains, self.prior, strict=True
        ):
            moved = coefficient + scale * gain * by
            fit.append(min(high * scale, max(low * prior, moved)))
        self.fit = tuple(fit)

    def _drift(self) -> None:
        for i, (row, size) in enumerate(zip(self._covariance, self._sizes(), strict=True)):
            if row[i] < (self.COMMON + self.OWN) ** 2 * size**2:
                row[i] += (self.DRIFT * size) ** 2

    def _learn_noise(self, square: float, kept: float, residual: float) -> None:
        low, high = self.NOISE
        self._noise += self.NOISE_GAIN * (square - self._noise)
        self._noise = min(high * high, max(low * low, self._noise))
        if kept == 1.0:
            self._same_side = 0
            return
        side = 1 if residual > 0 else -1
        self._same_side = self._same_side + side if self._same_side * side > 0 else side
        if abs(self._same_side) >= self.CHANGE:
            self._same_side = 0
            self._first, self._first_of = [], self.fit

    def _open(self) -> None:
        """Much around the fit is plausible again."""
        sizes = self._sizes()
        self._covariance = [[self.COMMON**2 * a * b for b in sizes] for a in sizes]
        for i, size in enumerate(sizes):
            self._covariance[i][i] += (self.OWN * size) ** 2

    def _sizes(self) -> list[float]:
        """Of the coefficients in units of their scales, each at least what it may well be."""
        return [
            max(coefficient, least) / scale
            for coefficient, least, scale in zip(self.fit, self._least, self._scales, strict=True)
        ]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return float(sum(map(mul, a, b)))


def _times(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [sum(map(mul, row, vector)) for row in matrix]
