"""Load drawn at random: Poisson or gamma arrivals, lengths from a distribution."""

from dataclasses import dataclass, field
from math import inf

import numpy as np

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.errors import WorkloadError
from shunter_simulator.workloads.lengths import Length, parse_length

MAX_ARRIVALS = 10_000_000
MAX_CV = 100.0  # beyond it a draw of the gaps is all zeros
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class GeneratedLoad:
    """`cv` is the coefficient of variation of the gaps: 1 is a Poisson process, 0 a metronome,
    above 1 bursts."""

    rate_per_s: float
    cv: float = 1.0
    prompt: Length = field(default_factory=lambda: parse_length("512"))
    output: Length = field(default_factory=lambda: parse_length("128"))

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_s < inf:
            raise WorkloadError(f"rate must be positive and finite, not {self.rate_per_s}")
        if not 0 <= self.cv <= MAX_CV:
            raise WorkloadError(f"cv must be from 0 to {MAX_CV}, not {self.cv}")


def generate(load: GeneratedLoad, duration_s: float, rng: np.random.Generator) -> list[Arrival]:
    """Everything that arrives within `duration_s`. Raises `WorkloadError` for more than fits."""
    if load.rate_per_s * duration_s > MAX_ARRIVALS:
        raise WorkloadError(
            f"{load.rate_per_s:g} requests/s for {duration_s:g} s are more than {MAX_ARRIVALS}"
        )
    times: list[float] = []
    now = 0.0
    while now < duration_s:
        for gap in _gaps(load, rng):
            now += gap
            if now >= duration_s:
                break
            times.append(now)
    prompts, outputs = load.prompt.draw(rng, len(times)), load.output.draw(rng, len(times))
    return [
        Arrival(at, int(prompt), int(output))
        for at, prompt, output in zip(times, prompts, outputs, strict=True)
    ]


def _gaps(load: GeneratedLoad, rng: np.random.Generator) -> list[float]:
    mean = 1 / load.rate_per_s
    if load.cv == 0:
        return [mean] * _BATCH
    shape = 1 / load.cv**2
    return [float(gap) for gap in rng.gamma(shape, mean / shape, _BATCH)]
