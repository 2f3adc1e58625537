"""How long a cycle of the move planner takes, by size of fleet.

    python benchmarks/move_planner.py [--json FILE] [--cycles 20]

The load is uneven: half of the requests run on an eighth of the instances, so that every trigger
has something to look at and moves are found in each cycle. `cycle` is what the planner itself
takes; `moves` are ordered in the first cycle. CPU time of this process (time.process_time), so that
neighbours on the machine count little.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shunter_api.testing import make_policy, make_pool
from shunter_scheduler.core import CoreSettings, SchedulerCore
from shunter_scheduler.core.planner.run import plan_moves
from shunter_scheduler.core.settings import HeadRoom, Moves
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.decisions import Move
from shunter_scheduler.domain.events import InstanceObserved, MoveDone, Running, TopologyChanged
from shunter_scheduler.domain.request import Request

SIZES = ((16, 800), (128, 6_400), (1_024, 50_000))
CLASSES = [
    {"name": "interactive", "priority": 100, "ttft": "1s", "tpot": "12ms"},
    {"name": "batch", "priority": 0, "deadline": "24h", "suspendable": True},
]
LIMIT_MS = 50.0  # at 1,024 instances and 50,000 requests


@dataclass(frozen=True)
class Figure:
    policy: str
    instances: int
    requests: int
    transport: str
    median_ms: float
    max_ms: float
    moves: int


def fleet(policy: str, instances: int, requests: int, transport: str) -> SchedulerCore:
    settings = CoreSettings(
        moves=Moves(policy=policy),  # type: ignore[arg-type]
        head_room=HeadRoom(max_requests=4096, max_queue_s=1e9),
    )
    rng = np.random.default_rng(0)
    core = SchedulerCore(settings, rng)
    values = tuple(
        Instance(f"i{n}", "chat", "h100", f"10.0.0.1:{n}", "vllm", kv_transport=transport)
        for n in range(instances)
    )
    pool = make_pool("chat", spec={"migration": {"maxConcurrentPerInstance": 2}})
    topology = Topology(1, (pool,), (make_policy(classes=CLASSES),), values)
    core.apply(TopologyChanged(topology), 0.0)
    for value in values:
        core.apply(InstanceObserved(value.name, True), 0.0)
    busy = rng.integers(0, instances // 8, requests)
    other = rng.integers(0, instances, requests)
    at = np.where(rng.random(requests) < 0.5, busy, other)
    prompts, outputs = rng.integers(100, 4000, requests), rng.integers(1, 400, requests)
    for n in range(requests):
        request = Request(
            f"r{n}", "gateway", 1, "chat", "", int(prompts[n]), 0, 0.0, int(outputs[n]),
            slo_class="interactive" if n % 2 else "batch",
        )  # fmt: skip
        core.apply(Running(request, values[at[n]].name), 0.0)
    core.decide(0.0)
    return core


def measure(policy: str, instances: int, requests: int, transport: str, cycles: int) -> Figure:
    core = fleet(policy, instances, requests, transport)
    state = core._state
    samples, first, now = [], 0, 1.0
    for cycle in range(cycles):
        begun = time.process_time()
        plan_moves(state, now)
        samples.append((time.process_time() - begun) * 1000)
        decided, state.outbox = state.outbox, []
        moves = [one for one in decided if isinstance(one, Move)]
        first = first if cycle else len(moves)
        now += 0.5
        for move in moves:
            done = MoveDone(move.request_id, 2, move.destination, True, move.rung)
            core.apply(done, now)
    return Figure(
        policy, instances, requests, transport or "replay",
        float(np.median(samples)), max(samples), first,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of one cycle of the move planner.")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--cycles", type=int, default=20)
    options = parser.parse_args()
    heads = ("instances", "requests", "rung", "median ms", "max ms", "moves")
    widths = (10, 10, 8, 11, 9, 7)
    print(f"{'policy':16}" + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)))
    figures = []
    for policy in ("llumnix", "predicted-gain"):
        for instances, requests in SIZES:
            for transport in ("nixl", ""):
                one = measure(policy, instances, requests, transport, options.cycles)
                rung = "kv" if transport else "replay"
                print(
                    f"{policy:16}{instances:>10}{requests:>10}{rung:>8}"
                    f"{one.median_ms:>11.1f}{one.max_ms:>9.1f}{one.moves:>7}"
                )
                figures.append(one)
    largest = [one for one in figures if (one.instances, one.requests) == SIZES[-1]]
    worst = max(one.max_ms for one in largest)
    print(f"largest fleet, slowest cycle: {worst:.1f} ms; to be at most {LIMIT_MS:.0f} ms")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
