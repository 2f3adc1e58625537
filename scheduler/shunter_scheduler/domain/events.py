"""What the core is told. Each event is applied once, in order; unknown request ids are ignored."""

from array import array

from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.request import Request
from shunter_scheduler.domain.value import Value


class Submitted(Value, frozen=True):
    """A request waits for a placement. The same id with a higher epoch replaces the older one."""

    request: Request


class Running(Value, frozen=True):
    """A gateway reports a request that already runs (after a scheduler restart)."""

    request: Request
    instance: str


class FirstToken(Value, frozen=True):
    request_id: str
    epoch: int
    ttft_s: float
    cached_tokens: int | None = 0  # None: the engine has not said
    unordered: bool = False  # the engine refused a priority: it takes requests as they come


class Progress(Value, frozen=True):
    request_id: str
    epoch: int
    output_tokens: int


class Finished(Value, frozen=True):
    request_id: str
    epoch: int
    output_tokens: int
    finish_reason: str


class Failed(Value, frozen=True):
    """The engine call of this epoch failed; the gateway submits the request again itself."""

    request_id: str
    epoch: int
    instance: str
    reason: str
    output_tokens: int = 0


class MoveDone(Value, frozen=True):
    request_id: str
    epoch: int  # of the owner after the move
    instance: str
    moved: bool
    rung: str
    reason: str = ""
    stall_s: float = 0.0
    copied_bytes: int = 0


class GatewayLost(Value, frozen=True):
    """A session ended and its lease ran out: its requests are gone."""

    gateway_id: str


class TopologyChanged(Value, frozen=True):
    topology: Topology


class InstanceObserved(Value, frozen=True):
    """One look at an engine's health and metrics; `healthy` False takes it out of dispatch.

    What waits in the engine is to be admitted to KV memory, prompt by prompt: `waiting_kv_tokens`
    is what all of it asks for.
    """

    instance: str
    healthy: bool
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0  # 0 to 1
    kv_capacity_tokens: int = 0  # 0: not reported
    waiting_kv_tokens: int = 0  # 0: nothing waits, or not reported
    kv_transport: str = ""  # KV caches are copied between equal ones; empty: not at all


class DrainRequested(Value, frozen=True):
    instance: str
    deadline_at: float


class DrainCancelled(Value, frozen=True):
    instance: str


class KvBlocksStored(Value, frozen=True):
    """An engine keeps full KV blocks under hashes of its own: the i-th holds the i-th
    `block_tokens` of `token_ids` and goes on from the one before it, the first from `parent`."""

    instance: str
    hashes: tuple[int, ...]
    parent: int | None  # None: the first block of a prompt
    token_ids: "array[int]"  # uint32
    block_tokens: int


class KvBlocksRemoved(Value, frozen=True):
    instance: str
    hashes: tuple[int, ...]


class KvCleared(Value, frozen=True):
    """The engine's prefix cache is empty, or what it said of it was lost: nothing is known."""

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
    | KvBlocksStored
    | KvBlocksRemoved
    | KvCleared
)
