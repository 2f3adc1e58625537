"""What the core is told. Each event is applied once, in order; unknown request ids are ignored."""

from dataclasses import dataclass

from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.request import Request


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request waits for a placement. The same id with a higher epoch replaces the older one."""

    request: Request


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway reports a request that already runs (after a scheduler restart)."""

    request: Request
    instance: str


@dataclass(frozen=True, slots=True)
class FirstToken:
    request_id: str
    epoch: int
    ttft_s: float
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    request_id: str
    epoch: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    request_id: str
    epoch: int
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine call of this epoch failed; the gateway submits the request again itself."""

    request_id: str
    epoch: int
    instance: str
    reason: str
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MoveDone:
    request_id: str
    epoch: int  # of the owner after the move
    instance: str
    moved: bool
    rung: str
    reason: str = ""
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GatewayLost:
    """A session ended and its lease ran out: its requests are gone."""

    gateway_id: str


@dataclass(frozen=True, slots=True)
class TopologyChanged:
    topology: Topology


@dataclass(frozen=True, slots=True)
class InstanceObserved:
    """One look at an engine's health and metrics; `healthy` False takes it out of dispatch."""

    instance: str
    healthy: bool
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0  # 0 to 1
    kv_capacity_tokens: int = 0  # 0: not reported


@dataclass(frozen=True, slots=True)
class DrainRequested:
    instance: str
    deadline_at: float


@dataclass(frozen=True, slots=True)
class DrainCancelled:
    instance: str


Event = (
    Submitted
    | Running
    | FirstToken
    | Progress
    | Finished
    | Failed
    | MoveDone
    | GatewayLost
    | TopologyChanged
    | InstanceObserved
    | DrainRequested
    | DrainCancelled
)
