"""The traces of the Llumnix paper (Sun et al., OSDI 2024, section 6.1).

The synthetic ones are drawn exactly as its artifact draws them: NumPy's legacy generator, seed
0xCADE, prompts, answers and gaps from one stream. ShareGPT and BurstGPT are drawn from the
quantiles that the paper prints, since their data sets are not at hand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.quantiles import QuantileTable

PAPER_SEED = 0xCADE
MAX_TOKENS = 6144

_Draw = Callable[[np.random.RandomState, int], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class LlumnixTrace:
    """`prompts` and `outputs` are names of `LENGTHS`. `cv` is the coefficient of variation of the
    gaps: 1 is a Poisson process. `high_share` of the requests are of the class `high_class`."""

    prompts: str
    outputs: str
    requests: int
    rate_per_s: float
    cv: float = 1.0
    high_share: float = 0.0
    high_class: str = "high"

    def draw(self, seed: int = 0) -> list[Arrival]:
        """Seed 0 gives the paper's own lengths and gaps. The first request arrives at 0."""
        legacy = np.random.RandomState((PAPER_SEED + seed) % 2**32)
        prompts = LENGTHS[self.prompts][0](legacy, self.requests).tolist()
        outputs = LENGTHS[self.outputs][1](legacy, self.requests).tolist()
        times = self._times(legacy)
        draws = np.random.default_rng([PAPER_SEED, seed]).random(self.requests)
        classes = np.where(draws < self.high_share, self.high_class, "").tolist()
        rows = zip(times, prompts, outputs, classes, strict=True)
        return [Arrival(at, new, out, slo_class=name) for at, new, out, name in rows]

    def _times(self, legacy: np.random.RandomState) -> list[float]:
        """The client sends a request, draws a gap and sleeps for it."""
        mean_s = 1 / self.rate_per_s
        if self.cv == 1.0:
            gaps = legacy.exponential(mean_s, self.requests)
        else:
            gaps = legacy.gamma(1 / self.cv**2, self.cv**2 * mean_s, self.requests)
        times: list[float] = np.concatenate([[0.0], np.cumsum(gaps)[:-1]]).tolist()
        return times


def _power_law(mean: int, exponent: float) -> tuple[_Draw, _Draw]:
    """Ranks 1 to 2 * mean - 1 with weights rank^-exponent, scaled to the mean."""
    ranks = np.arange(1, 2 * mean)
    weights = ranks.astype(np.float64) ** -exponent

    def draw(legacy: np.random.RandomState, count: int) -> NDArray[np.int64]:
        sample = legacy.choice(ranks, size=count, p=weights / weights.sum())
        scaled = np.ceil(sample * (mean / sample.mean()))
        lengths: NDArray[np.int64] = np.minimum(scaled, MAX_TOKENS).astype(np.int64)
        return lengths

    return draw, draw


def _published(prompts: QuantileTable, outputs: QuantileTable) -> tuple[_Draw, _Draw]:
    return (
        lambda legacy, count: prompts.lengths(legacy.uniform(size=count)),
        lambda legacy, count: outputs.lengths(legacy.uniform(size=count)),
    )


LENGTHS: Mapping[str, tuple[_Draw, _Draw]] = {
    "S": _power_law(128, 2.0),
    "M": _power_law(256, 1.5),
    "L": _power_law(512, 1.15),
    "sharegpt": _published(
        QuantileTable(mean=306, p50=74, p80=348, p95=1484, p99=3388),
        QuantileTable(mean=500, p50=487, p80=781, p95=988, p99=1234),
    ),
    "burstgpt": _published(
        QuantileTable(mean=830, p50=582, p80=1427, p95=2345, p99=3549),
        QuantileTable(mean=271, p50=243, p80=434, p95=669, p99=964),
    ),
}
"""Prompt and answer lengths by name."""
