"""How long a decision takes, by size of fleet and prompt: median and p99, and what it allocates.

    python benchmarks/decision_speed.py [--json FILE] [--policy NAME ...] [--decisions 2000]

A decision is one request from Submitted to Assign in the core: admission, prefix walk, score, pick,
explanation record, ledger and prefix insert. `single` asks for one at a time, `batch` submits 64
and decides once. Every figure is CPU time of this process (time.process_time), so that neighbours
on the machine count little. Allocations are counted apart from the times: blocks that are still
there after a decision (its reservation, its trail, its prefix), and the most bytes that it held.
"""

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import numpy as np
from core_load import Bench

from shunter_scheduler.core import CoreSettings, SchedulerCore
from shunter_scheduler.core.settings import HeadRoom
from shunter_scheduler.domain.decisions import Decision
from shunter_scheduler.domain.events import Submitted
from shunter_scheduler.policies import DISPATCH_POLICIES

INSTANCES = (16, 128, 1024, 4096)
PROMPT_TOKENS = (1_000, 8_000, 128_000)
BATCH = 64
COUNTED = 64  # decisions whose allocations are counted
IN_FLIGHT = 2  # requests per instance
# All requests are placed at once: what waits is no decision.
SETTINGS = CoreSettings(
    head_room=HeadRoom(
        max_requests=sys.maxsize, max_queue_s=inf, queue_share=inf, for_targets=False
    )
)


@dataclass(frozen=True)
class Figure:
    policy: str
    instances: int
    prompt_tokens: int
    mode: str  # single, or batch: per request
    median_us: float
    p99_us: float
    blocks_kept: float  # per decision
    peak_kib: float


def measure(policy: str, instances: int, prompt_tokens: int, decisions: int) -> list[Figure]:
    bench = Bench(instances, prompt_tokens, IN_FLIGHT * instances, policy, SETTINGS)
    single(bench, 200)
    figures = []
    for mode, size in (("single", 1), ("batch", BATCH)):
        samples_us = single(bench, decisions) if size == 1 else batched(bench, decisions // size)
        blocks, peak_kib = allocations(bench, size)
        median_us, p99_us = np.quantile(samples_us, (0.5, 0.99)).tolist()
        figures.append(
            Figure(policy, instances, prompt_tokens, mode, median_us, p99_us, blocks, peak_kib)
        )
    return figures


def single(bench: Bench, decisions: int) -> list[float]:
    """Microseconds of each."""
    samples = []
    for _ in range(decisions):
        bench.now += 0.001
        event = Submitted(bench.traffic.request(bench.now))
        started = time.process_time_ns()
        decided = decide(bench.core, (event,), bench.now)
        samples.append((time.process_time_ns() - started) / 1e3)
        settle(bench, decided)
    return samples


def batched(bench: Bench, batches: int) -> list[float]:
    """Microseconds per request of each batch."""
    samples = []
    for _ in range(max(2, batches)):
        bench.now += 0.05
        events = [Submitted(bench.traffic.request(bench.now)) for _ in range(BATCH)]
        started = time.process_time_ns()
        decided = decide(bench.core, events, bench.now)
        samples.append((time.process_time_ns() - started) / 1e3 / BATCH)
        settle(bench, decided)
    return samples


def decide(core: SchedulerCore, events: Sequence[Submitted], now: float) -> list[Decision]:
    for event in events:
        core.apply(event, now)
    return core.decide(now)


def settle(bench: Bench, decided: Sequence[Decision]) -> None:
    """What was placed begins at once, and as many of the oldest end."""
    for decision in decided:
        bench.started(decision)
        bench.finish_oldest()


def allocations(bench: Bench, size: int) -> tuple[float, float]:
    """Blocks kept and KiB held at the peak, per request."""
    kept, peaks = 0, []
    for _ in range(max(1, COUNTED // size)):
        bench.now += 0.05
        events = [Submitted(bench.traffic.request(bench.now)) for _ in range(size)]
        tracemalloc.start()
        decided = decide(bench.core, events, bench.now)
        _, peak = tracemalloc.get_traced_memory()
        kept += sum(trace.count for trace in tracemalloc.take_snapshot().statistics("filename"))
        tracemalloc.stop()
        peaks.append(peak / 1024 / size)
        settle(bench, decided)
    return kept / (len(peaks) * size), float(np.median(peaks))


def table(figures: Sequence[Figure]) -> str:
    head = f"{'policy':20}{'instances':>10}{'prompt':>8}  {'mode':7}{'median us':>10}{'p99 us':>9}"
    return "\n".join([f"{head}{'blocks':>8}{'KiB':>7}", *map(line, figures)])


def line(f: Figure) -> str:
    size = f"{f.policy:20}{f.instances:>10}{f.prompt_tokens:>8}  {f.mode:7}"
    return f"{size}{f.median_us:>10.1f}{f.p99_us:>9.1f}{f.blocks_kept:>8.1f}{f.peak_kib:>7.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--decisions", type=int, default=2000, help="of each kind (default 2000)")
    parser.add_argument(
        "--policy", nargs="+", choices=DISPATCH_POLICIES, default=["predicted-cost"]
    )
    parser.add_argument("--instances", nargs="+", type=int, default=INSTANCES)
    parser.add_argument("--prompt-tokens", nargs="+", type=int, default=PROMPT_TOKENS)
    arguments = parser.parse_args()
    figures = []
    for policy in arguments.policy:
        for instances in arguments.instances:
            for prompt_tokens in arguments.prompt_tokens:
                figures += measure(policy, instances, prompt_tokens, arguments.decisions)
    print(table(figures))
    if arguments.json:
        found = {"python": sys.version, "figures": [asdict(f) for f in figures]}
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
