"""For how much of an answer KV memory is best reserved.

    python benchmarks/reserve_memory.py [--steps 2500] [--seeds 4]

One instance, always with requests waiting; each step gives every running request a token. A request
is let in when what is reserved leaves room for its prompt and what is reserved for its answer;
reservations follow the answer as in the core. Lengths are log-normal, or those of the Llumnix
paper's traces; the core's `LengthModel` was taught by 4,000 of them. Where the memory runs out the
last one is preempted, and computed again.

"mean" reserves what is left in the mean, "q .5" the median of it, "exponential" the peak of what is
expected to be used if what is left were exponential, "peak" the same by the lengths that were seen:
that is what the core does. Printed per setting: answers done (of those by the mean, in percent),
preemptions per thousand answers, share of the memory in use.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.lengths import LengthModel
from shunter_simulator.workloads.llumnix import LENGTHS

Lengths = NDArray[np.int64]
WATERMARK = 0.02
SHORTEST_REST = 8.0
TAUGHT, DRAWN = 4000, 40_000


@dataclass(frozen=True)
class Setting:
    """Lengths are `mean/sigma` of a log-normal distribution, or a name of Llumnix's."""

    kv_tokens: int
    prompts: str
    outputs: str


SETTINGS = (
    *(
        Setting(kv, f"{prompt}/1.0", f"{output}/{sigma}")
        for kv in (20_000, 60_000)
        for prompt, output in ((1000, 250), (250, 1000))
        for sigma in (0.6, 1.2)
    ),
    *(Setting(13_040, *lengths) for lengths in ("LL", "SL", "MM", "SS")),
)


def draw(lengths: str, seed: int, count: int) -> Lengths:
    if lengths in LENGTHS:
        return np.maximum(1, LENGTHS[lengths][0](np.random.RandomState(seed), count))
    mean, sigma = map(float, lengths.split("/"))
    drawn = np.random.default_rng(seed).lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return np.maximum(1, drawn.astype(np.int64))


@dataclass
class Sequence:
    prompt: int
    length: int
    there: int = 0
    reserved: float = 0.0
    look_again_at: int = 0

    @property
    def context(self) -> int:
        return self.prompt + self.there


@dataclass
class Known:
    """What was learnt of answers: by the core, and one by one."""

    model: LengthModel
    answers: Lengths  # sorted

    def mean_left(self, one: Sequence) -> float:
        mean = self.model.forecast(one.there, 0, one.prompt)[0]
        return max(SHORTEST_REST, mean - one.there)


Way = Callable[[Known, Sequence], float]  # tokens of the rest that room is kept for


def by_quantile(share: float) -> Way:
    def left(known: Known, one: Sequence) -> float:
        longer = known.answers[np.searchsorted(known.answers, one.there, side="right") :]
        return float(longer[int(share * len(longer))]) - one.there if len(longer) else 0.0

    return left


def by_exponential(known: Known, one: Sequence) -> float:
    mean, context = known.mean_left(one), one.context
    return mean * math.exp(context / mean - 1) - context if mean > context else 0.0


def by_peak(known: Known, one: Sequence) -> float:
    return known.model.forecast(one.there, 0, one.prompt)[1] - one.there


WAYS: dict[str, Way] = {
    "mean": Known.mean_left,
    "q .5": by_quantile(0.5),
    "q .35": by_quantile(0.35),
    "q .25": by_quantile(0.25),
    "exponential": by_exponential,
    "peak": by_peak,
}


@dataclass
class Outcome:
    done: int = 0
    preempted: int = 0
    in_use: float = 0.0


def learnt(setting: Setting, seed: int) -> Known:
    answers = draw(setting.outputs, 1000 + seed, TAUGHT)
    model = LengthModel(256)
    for tokens in answers.tolist():
        model.observe(tokens, cut_short=False)
    return Known(model, np.sort(answers))


def requests(setting: Setting, seed: int) -> Iterator[Sequence]:
    prompts = draw(setting.prompts, seed, DRAWN).tolist()
    outputs = draw(setting.outputs, 7000 + seed, DRAWN).tolist()
    return map(Sequence, prompts, outputs)


def run(setting: Setting, way: Way, steps: int, seed: int) -> Outcome:
    known, arrivals = learnt(setting, seed), requests(setting, seed)
    outcome, running = Outcome(), list[Sequence]()
    room = setting.kv_tokens * (1 - WATERMARK)

    def reserve(one: Sequence) -> Sequence:
        one.reserved = max(one.reserved, one.context + max(SHORTEST_REST, way(known, one)))
        step = (known.mean_left(one) + one.there) * 0.25
        one.look_again_at = one.there + max(int(SHORTEST_REST), int(step))
        return one

    waiting = reserve(next(arrivals))
    for _ in range(steps):
        reserved = sum(one.reserved for one in running)
        while not running or reserved + min(waiting.reserved, room) <= room:
            running.append(waiting)
            reserved += waiting.reserved
            waiting = reserve(next(arrivals))
        for one in running:
            one.there += 1
            one.reserved = max(one.reserved, one.context + SHORTEST_REST)
            if one.there >= one.look_again_at:
                reserve(one)
        outcome.done += sum(one.there >= one.length for one in running)
        running = [one for one in running if one.there < one.length]
        used = sum(one.context for one in running)
        while used > setting.kv_tokens and len(running) > 1:
            waiting = running.pop()
            used -= waiting.context
            outcome.preempted += 1
        outcome.in_use += used / setting.kv_tokens / steps
    return outcome


def cell(runs: list[Outcome], base: int) -> str:
    done = sum(one.done for one in runs)
    preempted = 1000 * sum(one.preempted for one in runs) / max(1, done)
    in_use = sum(one.in_use for one in runs) / len(runs)
    return f"{100 * done / base:5.0f}% {preempted:5.1f} {in_use:5.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    print(f"{'KV tokens, prompts, outputs':30}", *(f"{name:>18}" for name in WAYS))
    for setting in SETTINGS:
        outcomes = [
            [run(setting, way, options.steps, seed) for seed in range(options.seeds)]
            for way in WAYS.values()
        ]
        base = max(1, sum(one.done for one in outcomes[0]))
        what = f"{setting.kv_tokens}, {setting.prompts}, {setting.outputs}"
        cells = (f"{cell(runs, base):>18}" for runs in outcomes)
        print(f"{what:30}", *cells, flush=True)


if __name__ == "__main__":
    main()
