"""What the scheduler says of a pool: values, without any I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """What the scheduler says of an instance."""

    state: str  # ready, starting, draining, drained, failed
    running: int
    ledger_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What the scheduler saw of a pool over the last minute."""

    waiting: int
    running: int
    ttft_p95_s: float
    output_tokens_per_s: float
    slo_attainment: float


@dataclass(frozen=True, slots=True)
class Advice:
    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """One answer of the scheduler: instances by name, a pool's figures, advice by profile."""

    instances: Mapping[str, InstanceLoad] = field(default_factory=dict)
    pool: PoolLoad | None = None
    advice: Mapping[str, Advice] = field(default_factory=dict)
