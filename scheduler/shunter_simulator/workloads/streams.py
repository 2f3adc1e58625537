"""Several streams of requests at once: a class and its tenants each, with bursts of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from msgspec.structs import replace

from shunter_simulator.workloads.arrivals import Arrival
from shunter_simulator.workloads.generated import GeneratedLoad, generate
from shunter_simulator.workloads.labels import Label, label

Lengths = Callable[[np.random.Generator, int], Sequence[tuple[int, int]]]
"""(prompt tokens, output tokens) of so many requests."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Gamma arrivals of `rate_per_s` with coefficient of variation `cv` in [start, end). Equally
    many of its requests come from each of `tenants`."""

    rate_per_s: float
    cv: float = 1.0
    slo_class: str = ""
    tenants: tuple[str, ...] = ("",)
    model: str = ""
    start_s: float = 0.0
    end_s: float = inf


def draw_streams(
    streams: Sequence[Stream], lengths: Lengths, duration_s: float, rng: np.random.Generator
) -> list[Arrival]:
    """All streams in order of time. Each draws from a generator of its own, so that taking one
    out leaves the others as they are: an oracle serves the very same requests of one class."""
    everything: list[Arrival] = []
    for stream, own in zip(streams, rng.spawn(len(streams)), strict=True):
        load = GeneratedLoad(stream.rate_per_s, stream.cv)
        span_s = min(stream.end_s, duration_s) - stream.start_s
        times = [stream.start_s + a.at_s for a in generate(load, span_s, own)]
        sizes = lengths(own, len(times))
        bare = [Arrival(t, new, out) for t, (new, out) in zip(times, sizes, strict=True)]
        named = [Label(1, stream.slo_class, tenant, stream.model) for tenant in stream.tenants]
        everything += label(bare, named, own)
    return sorted(everything, key=lambda a: a.at_s)


def only(arrivals: Sequence[Arrival], slo_class: str) -> list[Arrival]:
    """Those of one class."""
    return [replace(a) for a in arrivals if a.slo_class == slo_class]
