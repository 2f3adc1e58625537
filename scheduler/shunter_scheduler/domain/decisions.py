"""What the core decides, as values; the service carries them to the gateways."""

from typing import Literal

from shunter_scheduler.domain.value import Value

RejectReason = Literal[
    "unknown_model",
    "overloaded",
    "no_instance",
    "context_length",
    "queue_timeout",
    "class_not_allowed",
    "deadline",
    "hold_full",
    "hold_timeout",
    "rate_limited",
]
Rung = Literal["kv", "replay", "restart"]
MovePolicyName = Literal["drain-only", "llumnix", "predicted-gain"]


class Assign(Value, frozen=True):
    request_id: str
    gateway_id: str
    epoch: int
    instance: str
    pool: str
    slo_class: str
    priority: int  # for engines that order by priority: lower goes first
    predicted_ttft_s: float
    cached_tokens: int = 0  # predicted to be in the instance's prefix cache


class Hold(Value, frozen=True):
    request_id: str
    gateway_id: str
    epoch: int
    position: int
    eta_s: float  # 0: not known
    phase: str = "queued"  # what it waits for, as in Hold.phase of the protocol


class Reject(Value, frozen=True):
    request_id: str
    gateway_id: str
    epoch: int
    reason: RejectReason
    message: str
    retry_after_s: float


class Move(Value, frozen=True):
    request_id: str
    gateway_id: str
    epoch: int  # of the present owner
    source: str
    destination: str
    rung: Rung
    reason: str
    gain_s: float = 0.0  # predicted, less its cost; 0: not weighed


class Suspend(Value, frozen=True):
    """Frees the engine's slot: the gateway keeps the journal and submits the request again."""

    request_id: str
    gateway_id: str
    epoch: int  # of the present owner
    reason: str


class Cancel(Value, frozen=True):
    request_id: str
    gateway_id: str
    epoch: int
    reason: str


Decision = Assign | Hold | Reject | Move | Suspend | Cancel
