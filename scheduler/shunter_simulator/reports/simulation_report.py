"""What a report of a simulated run holds; its JSON has the same names."""

import msgspec

from shunter_simulator.reports.figures import Summary


class Latencies(msgspec.Struct, frozen=True):
    """Of requests that finished. TTFT is counted from arrival; `queueing_s` until the first
    placement; TPOT is each answer's mean time per token after the first; `stall_s` is what moves
    added, of requests that moved while they answered."""

    ttft_s: Summary | None
    tpot_s: Summary | None
    e2e_s: Summary | None
    queueing_s: Summary | None
    stall_s: Summary | None


class Goodput(msgspec.Struct, frozen=True):
    """Requests that finished within the targets of their class; `share` is of all, failed ones
    included."""

    requests: int
    requests_per_s: float
    share: float


class Figures(msgspec.Struct, frozen=True):
    """Of all requests, or of a class's, tenant's or pool's. Rates are over the run."""

    requests: int
    finished: int
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    preemptions: int
    preemption_loss_s: float  # per request
    moves: int
    latencies: Latencies
    goodput: Goodput


class MoveCount(msgspec.Struct, frozen=True):
    """Moves of one reason and rung; `why_not` where they came to nothing."""

    reason: str
    rung: str
    why_not: str
    count: int
    stall_s: Summary | None


class Prefix(msgspec.Struct, frozen=True):
    """Prompt tokens of finished requests: all, found in caches, and predicted to be found."""

    prompt_tokens: int
    cached_tokens: int
    predicted_cached_tokens: int


class Money(msgspec.Struct, frozen=True):
    """`per_million_tokens`: dollars per million output tokens of finished requests."""

    dollars: float
    instance_hours: float
    by_profile: dict[str, float]
    per_million_tokens: float | None


class Workflows(msgspec.Struct, frozen=True):
    """`e2e_s`: from a workflow's first arrival to its last end, of those that finished. `in_time`:
    finished by the deadline, where there is one."""

    workflows: int
    finished: int
    in_time: int
    e2e_s: Summary | None


class LoadPoints(msgspec.Struct, frozen=True):
    """Over all instances at each instant: requests in flight, sequences that run and that wait in
    engines, mean used share of KV memory."""

    at_s: list[float]
    in_flight: list[int]
    running: list[float]
    waiting: list[float]
    kv_usage: list[float]


class SimulationReport(msgspec.Struct, frozen=True):
    """`left_out` arrived during the warm-up; all figures but money, moves and load leave them
    out."""

    scenario: str
    seed: int
    policy: str
    duration_s: float
    warmup_s: float
    left_out: int
    notes: list[str]
    outcomes: dict[str, int]
    overall: Figures
    classes: dict[str, Figures]
    tenants: dict[str, Figures]
    pools: dict[str, Figures]
    moves: list[MoveCount]
    counters: dict[str, int]
    prefix: Prefix
    workflows: Workflows | None
    money: Money
    load: LoadPoints
