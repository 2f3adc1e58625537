"""What the core reports about itself: pools, instances, and how many replicas the load needs."""

from dataclasses import dataclass
from typing import Literal

from shunter_api.profile import Role

InstanceState = Literal["ready", "starting", "draining", "drained", "failed"]


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """`running` and `ledger_tokens` are the core's own; `engine_*` is what the engine reported."""

    name: str
    pool: str
    profile: str
    address: str
    state: InstanceState
    running: int
    ledger_tokens: int
    kv_capacity_tokens: int
    predicted_wait_s: float
    engine_running: int
    engine_waiting: int
    kv_cache_usage: float
    role: Role = "Any"  # of its profile


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """TTFT, rate and attainment are over the last minute; attainment is 1 without requests."""

    name: str
    waiting: int
    running: int
    ready_instances: int
    ttft_p95_s: float
    output_tokens_per_s: float
    slo_attainment: float
    output_length_error_ratio: float = 0.0  # mean absolute error over the mean length
    output_longer_share: float = 0.0  # of answers longer than the memory reserved for them
    prefix_prompt_tokens: int = 0  # totals since the start; see core/prefix_hits.py
    prefix_predicted_tokens: int = 0
    prefix_hit_tokens: int = 0
    prefix_error_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CostStatus:
    """How well one kind of time of a profile is predicted. `correction` is what observations made
    of the prior at a middling prompt or batch; `error_ratio` how far observed times lately were
    from what was predicted, in the mean; `standard_error_ratio` how far the corrected mean itself
    may be off at that point."""

    pool: str
    profile: str
    kind: Literal["prefill", "decode"]
    observations: int
    correction: float
    error_ratio: float
    standard_error_ratio: float


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """Of one tenant that a policy names, or of all `other` ones together. Totals are of requests
    that ended; `tokens_left` of its tokens per minute is None where it has no limit."""

    name: str
    running: int = 0
    waiting: int = 0
    tokens_left: float | None = None
    requests: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    pools: tuple[PoolStatus, ...]
    instances: tuple[InstanceStatus, ...]
    dispatched_total: int
    moved_total: int
    resumed_total: int
    topology_version: int
    costs: tuple[CostStatus, ...] = ()
    tenants: tuple[TenantStatus, ...] = ()  # empty where no policy names any


@dataclass(frozen=True, slots=True)
class DrainStatus:
    """How far a drain is; `done` once nothing runs there any more."""

    instance: str
    remaining: int
    moved: int
    finished: int
    failed: int
    done: bool


@dataclass(frozen=True, slots=True)
class ScalingAdvice:
    """For one profile of a pool; `reason` says which load asks for it."""

    pool: str
    profile: str
    replicas: int
    desired_replicas: int
    reason: str
