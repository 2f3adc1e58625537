"""What the core decides, as values; the service carries them to the gateways."""

from dataclasses import dataclass
from typing import Literal

RejectReason = Literal[
    "unknown_model",
    "overloaded",
    "no_instance",
    "context_length",
    "queue_timeout",
    "class_not_allowed",
    "deadline",
]
Rung = Literal["kv", "replay", "restart"]


@dataclass(frozen=True, slots=True)
class Assign:
    request_id: str
    gateway_id: str
    epoch: int
    instance: str
    pool: str
    slo_class: str
    priority: int  # for engines that order by priority: lower goes first
    predicted_ttft_s: float


@dataclass(frozen=True, slots=True)
class Hold:
    request_id: str
    gateway_id: str
    epoch: int
    position: int
    eta_s: float


@dataclass(frozen=True, slots=True)
class Reject:
    request_id: str
    gateway_id: str
    epoch: int
    reason: RejectReason
    message: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Move:
    request_id: str
    gateway_id: str
    epoch: int  # of the present owner
    source: str
    destination: str
    rung: Rung
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str
    gateway_id: str
    epoch: int
    reason: str


Decision = Assign | Hold | Reject | Move | Cancel
