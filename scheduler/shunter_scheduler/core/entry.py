"""One request as the core tracks it, from Submitted to its end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from shunter_api.routingpolicy import SloClass
from shunter_scheduler.core.fairness import Account, Limits, service_charge
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.trail import Trail
from shunter_scheduler.domain.request import Request
from shunter_scheduler.policies.policy import DispatchPolicy

if TYPE_CHECKING:
    from shunter_scheduler.core.pool import PoolRecord

State = Literal["waiting", "running", "moving"]


@dataclass(slots=True)
class PendingMove:
    destination: InstanceRecord
    reservation: Reservation
    started_at: float


class Entry(Struct, eq=False):
    """One is made for every request, hence a struct: in a fifth of a dataclass's time.

    `instance` is the owner as far as is known here: the gateway's journal is the record."""

    request: Request
    request_id: str
    epoch: int
    pool: "PoolRecord"
    fallback: tuple[str, ...]  # further pools, tried while the request has not started
    policy: DispatchPolicy
    slo_class: SloClass
    rank: int
    queued_at: float
    timeout_at: float
    latest_start_at: float
    expected_tokens: float  # of output still to come
    trail: Trail
    state: State = "waiting"
    output_tokens: int = 0
    instance: InstanceRecord | None = None
    instance_name: str = ""
    reservation: Reservation | None = None
    predicted_ttft_s: float = 0.0
    cached_tokens: int = 0  # as predicted at the pick
    first_token_at: float | None = None
    move: PendingMove | None = None
    move_not_before: float = 0.0
    progressed_at: float = 0.0  # when last heard of new tokens
    rest_until: float = 0.0  # the planner leaves it alone: it has moved, or gone on, lately
    suspended_for: str = ""  # who needs its room; set from Suspend until the gateway answers
    refused_by: tuple[str, ...] = ()  # destinations of moves that came to nothing
    held_position: int | None = None
    account: Account | None = None  # of the tenant in its class, once the request has waited
    charged_tokens: float | None = None  # of output, there; None: nothing

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def limits(self) -> Limits | None:
        return None

    @property
    def generated_tokens(self) -> int:
        """Since it was submitted: not what it brought."""
        return self.output_tokens - self.request.output_tokens

    @property
    def expected_charge(self) -> float:
        """Of its tenant's turn. A prompt that has to be prefilled again is not charged again."""
        again = self.request.output_tokens or self.trail.failures
        return service_charge(0 if again else self.request.prompt_tokens, self.expected_tokens)

    @property
    def context_tokens(self) -> int:
        """Prompt and what has been generated: what a replay has to prefill."""
        return self.request.prompt_tokens + self.output_tokens

    @property
    def stays(self) -> bool:
        """Not on its way already, to another instance or into the queue."""
        return self.state == "running" and not self.suspended_for

    @property
    def started(self) -> bool:
        """The client has received something, from this or an earlier engine."""
        return self.first_token_at is not None or self.output_tokens > 0
