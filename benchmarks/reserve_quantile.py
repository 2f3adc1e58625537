"""By which quantile of an answer's length KV memory is best reserved.

    python benchmarks/reserve_quantile.py [--steps 4000] [--seeds 2]

One instance, always with requests waiting; each step gives every running request a token. A request
is let in when what is reserved leaves room for its prompt and its predicted answer; reservations
follow the answer as in the core (`LengthModel.forecast`, taught by 4,000 answers of the same
distribution). Where the memory runs out the last one is preempted, and computed again. "mean"
reserves the expected length instead. Printed per setting: answers done (of those by the mean,
in percent), preemptions per thousand answers, share of the memory in use.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from shunter_scheduler.core.lengths import LengthModel

QUANTILES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
WATERMARK = 0.02


@dataclass(frozen=True)
class Setting:
    kv_tokens: int
    mean_prompt: int
    mean_output: int
    sigma: float  # of the logarithm of output lengths

    def output(self, rng: Generator) -> int:
        mu = np.log(self.mean_output) - self.sigma**2 / 2
        return max(1, int(rng.lognormal(mu, self.sigma)))

    def prompt(self, rng: Generator) -> int:
        return max(1, int(rng.lognormal(np.log(self.mean_prompt) - 0.5, 1.0)))


SETTINGS = tuple(
    Setting(kv, prompt, output, sigma)
    for kv in (20_000, 60_000, 400_000)
    for prompt, output in ((1000, 250), (250, 1000))
    for sigma in (0.6, 1.2)
)


@dataclass
class Sequence:
    prompt: int
    length: int
    there: int = 0
    reserved: float = 0.0
    look_again_at: int = 0


@dataclass
class Outcome:
    done: int = 0
    preempted: int = 0
    in_use: float = 0.0


def run(setting: Setting, quantile: float | None, steps: int, seed: int) -> Outcome:
    """`quantile` None: the mean."""
    rng = np.random.default_rng(seed)
    lengths = LengthModel(256, quantile or 0.5)
    for _ in range(4000):
        lengths.observe(setting.output(rng), cut_short=False)
    outcome, running = Outcome(), list[Sequence]()
    room = setting.kv_tokens * (1 - WATERMARK)

    def reserve(one: Sequence) -> None:
        mean, by_quantile = lengths.forecast(one.there, 0)
        answer = mean if quantile is None else by_quantile
        one.reserved = max(one.reserved, one.prompt + max(answer, one.there + 8))
        one.look_again_at = one.there + max(8, int(mean * 0.25))

    waiting = Sequence(setting.prompt(rng), setting.output(rng))
    for _ in range(steps):
        reserved = sum(one.reserved for one in running)
        reserve(waiting)
        while not running or reserved + min(waiting.reserved, room) <= room:
            running.append(waiting)
            reserved += waiting.reserved
            waiting = Sequence(setting.prompt(rng), setting.output(rng))
            reserve(waiting)
        for one in running:
            one.there += 1
            if one.there >= one.look_again_at:
                reserve(one)
        outcome.done += sum(one.there >= one.length for one in running)
        running = [one for one in running if one.there < one.length]
        used = sum(one.prompt + one.there for one in running)
        while used > setting.kv_tokens and len(running) > 1:
            waiting = running.pop()
            used -= waiting.prompt + waiting.there
            outcome.preempted += 1
        outcome.in_use += used / setting.kv_tokens / steps
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    names = ("mean", *(f"q {q:g}" for q in QUANTILES))
    print(f"{'KV tokens, prompt, output, sigma':34}", *(f"{name:>18}" for name in names))
    for setting in SETTINGS:
        cells = []
        base = 0
        for quantile in (None, *QUANTILES):
            runs = [run(setting, quantile, options.steps, s) for s in range(options.seeds)]
            done = sum(one.done for one in runs)
            base = base or done
            preempted = 1000 * sum(one.preempted for one in runs) / max(1, done)
            in_use = sum(one.in_use for one in runs) / len(runs)
            cells.append(f"{100 * done / base:5.0f}% {preempted:5.1f} {in_use:5.0%}")
        what = f"{setting.kv_tokens}, {setting.mean_prompt}, {setting.mean_output}, {setting.sigma}"
        print(f"{what:34}", *(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
