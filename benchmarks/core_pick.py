"""What one decision costs: CPU time of a pick and of a request's whole life in the core.

    python benchmarks/core_pick.py [--json FILE] [--repeats 15] [--profile]

Every figure is CPU time of this process (time.process_time), the median of the repeats. "Naive"
is the same pick when the columns of all instances are built anew for it, in the same run. The
yardstick is a plain loop over a dictionary: it tells how busy the machine was.
"""

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from core_load import POOL, Bench

from shunter_scheduler.core.admission import find_route, make_entry
from shunter_scheduler.core.dispatch import NOBODY, pick, reserve_for
from shunter_scheduler.domain.decisions import Assign
from shunter_scheduler.domain.events import (
    Finished,
    FirstToken,
    Progress,
    Submitted,
)
from shunter_scheduler.domain.request import Request


@dataclass(frozen=True)
class Figure:
    name: str
    instances: int
    prompt_tokens: int
    median_us: float
    min_us: float
    ratio_to_naive: float | None = None


def median_us(samples: Sequence[float]) -> tuple[float, float]:
    return statistics.median(samples) * 1e6, min(samples) * 1e6


def time_picks(bench: Bench, repeats: int, before: Callable[[], None]) -> list[float]:
    """Seconds from Submitted to Assign, one request at a time; `before` each is timed with it."""
    samples = []
    for _ in range(repeats):
        spent = 0.0
        for _ in range(100):
            bench.now += 0.001
            request = bench.traffic.request(bench.now)
            started = time.process_time()
            before()
            bench.core.apply(Submitted(request), bench.now)
            decisions = bench.core.decide(bench.now)
            spent += time.process_time() - started
            bench.started(decisions[0])
            bench.finish_oldest()
        samples.append(spent / 100)
    return samples


def time_core_of_pick(bench: Bench, repeats: int) -> list[float]:
    """Seconds of filter, prefix walk, score, pick, explanation record, ledger and prefix insert:
    what `predicted-cost` does for one request, without its admission and without events."""
    state = bench.core._state
    samples = []
    for _ in range(repeats):
        requests = [bench.traffic.request(bench.now) for _ in range(100)]
        entries = [
            make_entry(state, request, find_route(state, request), None, bench.now)
            for request in requests
        ]
        booked = []
        started = time.process_time()
        for entry in entries:
            bench.now += 0.001
            picked = pick(entry, bench.now, state.rng, NOBODY)
            assert picked is not None
            booked.append((entry, reserve_for(entry, picked, bench.now), picked.instance))
        samples.append((time.process_time() - started) / len(entries))
        for entry, reservation, record in booked:
            state.give_back(entry, reservation, record, bench.now)
    return samples


def mark_all(bench: Bench) -> None:
    """What a pick without incremental columns does first: build each instance's row."""
    pool = bench.core._state.pools[POOL]
    for record in pool.records():
        pool.mark(record)


def time_batches(bench: Bench, repeats: int, size: int) -> list[float]:
    """Seconds per request when `size` are submitted before one call of decide."""
    samples = []
    for _ in range(repeats):
        bench.now += 0.05
        requests = [bench.traffic.request(bench.now) for _ in range(size)]
        started = time.process_time()
        for request in requests:
            bench.core.apply(Submitted(request), bench.now)
        decisions = bench.core.decide(bench.now)
        samples.append((time.process_time() - started) / size)
        assert len(decisions) == size
        for decision in decisions:
            bench.started(decision)
            bench.finish_oldest()
    return samples


def time_lives(bench: Bench, repeats: int) -> list[float]:
    """Seconds of one request: Submitted, Assign, FirstToken, three Progress, Finished."""
    samples = []
    for _ in range(repeats):
        requests = [bench.traffic.request(bench.now) for _ in range(100)]
        started = time.process_time()
        for request in requests:
            live(bench, request)
        samples.append((time.process_time() - started) / len(requests))
    return samples


def live(bench: Bench, request: Request) -> None:
    core, request_id = bench.core, request.request_id
    bench.now += 0.001
    core.apply(Submitted(request), bench.now)
    assigned = core.decide(bench.now)[0]
    assert isinstance(assigned, Assign)
    core.apply(FirstToken(request_id, 1, assigned.predicted_ttft_s), bench.now)
    for tokens in (32, 64, 96):
        core.apply(Progress(request_id, 1, tokens), bench.now)
        core.decide(bench.now)
    core.apply(Finished(request_id, 1, 128, "stop"), bench.now)
    core.decide(bench.now)


def measure(repeats: int) -> list[Figure]:
    figures = []
    for instances, prompt_tokens in ((128, 2048), (128, 8000), (1024, 8000)):
        bench = Bench(instances, prompt_tokens, 2 * instances)
        time_picks(bench, 3, lambda: None)
        fast = median_us(time_picks(bench, repeats, lambda: None))
        naive = median_us(time_picks(bench, max(3, repeats // 5), partial(mark_all, bench)))
        batch = median_us(time_batches(bench, repeats, 64))
        size = (instances, prompt_tokens)
        inner = median_us(time_core_of_pick(bench, repeats))
        figures += [
            Figure("walk, score, pick, ledger", *size, *inner, inner[0] / naive[0]),
            Figure("Submitted to Assign, single", *size, *fast, fast[0] / naive[0]),
            Figure("Submitted to Assign, 64", *size, *batch, batch[0] / naive[0]),
            Figure("the same, naive: rows anew", *size, *naive, 1.0),
        ]
    bench = Bench(128, 2048, 64)
    time_lives(bench, 2)
    figures.append(Figure("whole life", 128, 2048, *median_us(time_lives(bench, repeats))))
    return figures


def yardstick() -> float:
    """Nanoseconds of one turn of a fixed loop."""
    samples = []
    for _ in range(9):
        table: dict[int, int] = {}
        started = time.process_time()
        for i in range(20_000):
            table[i & 1023] = table.get(i & 511, 0) + 1
        samples.append((time.process_time() - started) / 20_000 * 1e9)
    return statistics.median(samples)


def profile() -> None:
    bench = Bench(1024, 8000, 2048)
    profiler = cProfile.Profile()
    profiler.runcall(time_picks, bench, 20, lambda: None)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
    bench = Bench(128, 2048, 64)
    profiler = cProfile.Profile()
    profiler.runcall(time_lives, bench, 20)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


def table(figures: Sequence[Figure]) -> str:
    lines = [
        f"{'CPU time':30}{'instances':>10}{'prompt':>8}{'median us':>11}{'min us':>9}{'/naive':>8}"
    ]
    for f in figures:
        ratio = "" if f.ratio_to_naive is None else f"{f.ratio_to_naive:.3f}"
        lines.append(
            f"{f.name:30}{f.instances:>10}{f.prompt_tokens:>8}{f.median_us:>11.1f}"
            f"{f.min_us:>9.1f}{ratio:>8}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead")
    arguments = parser.parse_args()
    if arguments.profile:
        profile()
        return
    before = yardstick()
    figures = measure(arguments.repeats)
    turns_ns = (before + yardstick()) / 2
    print(table(figures))
    print(f"yardstick: {turns_ns:.0f} ns a turn")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "python": sys.version,
                    "yardstick_ns": turns_ns,
                    "figures": [asdict(f) for f in figures],
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
