"""What no policy can do better, worked out from the requests and the engines' times.

`alone`: every request has the fastest engine of the fleet for itself, and a prefix cache that
forgets nothing. `goodput`: the fluid model of `goodput_bound`.

Beside the figures of requests alone stand totals of a fluid model, where step times are straight
lines. An answer's token in a step of b sequences takes base + b x sequence + context, of which
base / b + sequence + context is its own share of the engine's time. Small batches are quick and
take the most engine time; so with so many engine seconds as there were answers go quickest, on
average, where all steps have the one batch that just uses them up (`fluid_e2e_s`). And as no step
holds more context than the memory, a token takes at least its share of the memory of a step's base:
without any pause and with all memory full the requests take `least_engine_s`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.goodput_bound import goodput_bound
from experiments.measures import summary
from shunter_api.rules import DEFAULT_CLASS
from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual.build import engine_settings, engine_shape
from shunter_simulator.virtual.step_times import LinearTimes
from shunter_simulator.virtual.values import EngineShape
from shunter_simulator.workloads import Arrival, endless_cache_hits
from shunter_simulator.workloads.prompts import TRACE_BLOCK_TOKENS

Floats = NDArray[np.float64]
Figures = dict[str, float]


def alone(scenario: Scenario, arrivals: Sequence[Arrival]) -> Figures:
    """Figures named as those of a run, of a scenario with one pool."""
    (pool,) = scenario.model_pools
    names = list(dict.fromkeys(name for name, _ in scenario.instances_of(pool)))
    shapes = [
        engine_shape(pool, pool.profile(name), engine_settings(scenario, pool, name), 1.0)
        for name in names
    ]
    hits = endless_cache_hits(arrivals, TRACE_BLOCK_TOKENS)
    if not all(shape.cache_block_tokens for shape in shapes):
        hits = [0] * len(hits)
    counted = [n for n, one in enumerate(arrivals) if one.at_s >= scenario.warmup_s]
    asked = [arrivals[n] for n in counted]
    first_s = np.array([_first_s(shapes, arrivals[n], hits[n]) for n in counted])
    answer_s = np.array([_answer_s(shapes, one) for one in asked])
    figures = _figures(asked, first_s, answer_s)
    classes = np.array([one.slo_class or DEFAULT_CLASS for one in asked])
    for name in np.unique(classes).tolist():
        chosen = classes == name
        own = [one for one, its in zip(asked, chosen, strict=True) if its]
        each = _figures(own, first_s[chosen], answer_s[chosen])
        figures |= {f"{name}.{key}": value for key, value in each.items()}
    figures["hit_share"] = sum(hits[n] for n in counted) / sum(a.prompt_tokens for a in asked)
    slo = pool.spec.slo
    if slo is not None and slo.ttft_s is not None:
        span_s = asked[-1].at_s - asked[0].at_s
        figures["goodput_per_s"] = float((first_s <= slo.ttft_s).sum()) / max(span_s, 1e-9)
    return figures | _fluid(shapes, asked, first_s)


def _first_s(shapes: Sequence[EngineShape], one: Arrival, cached: int) -> float:
    """The prompt in one step, which no split of it undercuts; its last token is always computed."""
    cached = min(cached, one.prompt_tokens - 1)
    chunk = [(one.prompt_tokens - cached, cached)]
    return min(shape.times.mixed_s(chunk, 0, 0) for shape in shapes)


def _answer_s(shapes: Sequence[EngineShape], one: Arrival) -> float:
    """All tokens but the first, one a step, over the context that is there already."""
    steps = one.output_tokens - 1
    middle = one.prompt_tokens + max(0, steps - 1) // 2
    return steps * min(s.times.decode_line(1, middle).step_s(middle) for s in shapes)


def _figures(asked: Sequence[Arrival], first_s: Floats, answer_s: Floats) -> Figures:
    steps = np.array([one.output_tokens - 1 for one in asked])
    many = steps > 0
    figures: Figures = {"requests": len(asked), "preemption_loss_s": 0.0, "moves": 0.0}
    figures |= summary("ttft", first_s) | summary("e2e", first_s + answer_s)
    return figures | summary("decode", answer_s[many] / steps[many])


def _fluid(shapes: Sequence[EngineShape], asked: Sequence[Arrival], first_s: Floats) -> Figures:
    """Totals for `fluid_e2e_s`; none unless all engines are alike and their times straight."""
    (shape, *others) = shapes
    times = shape.times
    if others or not isinstance(times, LinearTimes):
        return {}
    steps = np.array([one.output_tokens - 1.0 for one in asked])
    held = steps * np.array([float(one.prompt_tokens) for one in asked])
    held += np.maximum(0.0, steps - 1) * steps / 2  # tokens in memory, over all steps
    tokens, context = float(steps.sum()), float(held.sum())
    prefill_s = float(first_s.sum()) - len(asked) * times.prefill_base_s
    own_s = prefill_s + tokens * times.decode_s_per_sequence
    own_s += context * times.decode_s_per_context_token
    memory = shape.kv_blocks * shape.block_tokens
    return {
        "fluid_tokens": tokens,
        "fluid_base_s": tokens * times.decode_base_s,
        "fluid_sequence_s": tokens * times.decode_s_per_sequence,
        "fluid_own_s": own_s,
        "least_engine_s": own_s + context / memory * times.decode_base_s,
    }


def fluid_e2e_s(figures: Mapping[str, float], engine_s: float) -> float:
    """The least mean end-to-end time with so many engine seconds, from the figures of `alone`."""
    spare_s = engine_s - figures["fluid_own_s"]
    if spare_s <= 0:
        raise ValueError(f"{figures['fluid_own_s']:.0f} engine seconds are needed, not {engine_s}")
    batch = max(1.0, figures["fluid_base_s"] / spare_s)
    crowd_s = (batch - 1.0) * figures["fluid_sequence_s"]
    return figures["e2e_mean_s"] + crowd_s / figures["requests"]


BOUNDS: Mapping[str, Callable[[Scenario, Sequence[Arrival]], Figures]] = {
    "alone": alone,
    "goodput": goodput_bound,
}
