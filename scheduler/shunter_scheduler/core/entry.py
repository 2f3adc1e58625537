"""One request as the core tracks it, from Submitted to its end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from shunter_api.routingpolicy import SloClass
from shunter_scheduler.core.account import Account
from shunter_scheduler.core.fairness import service_charge
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import Reservation
from shunter_scheduler.core.lengths import Forecast, LengthModel
from shunter_scheduler.core.tenants import TenantLimits
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
    lengths: LengthModel
    trail: Trail
    state: State = "waiting"
    output_tokens: int = 0
    instance: InstanceRecord | None = None
    instance_name: str = ""
    reservation: Reservation | None = None
    predicted_ttft_s: float = 0.0
    cached_tokens: int = 0  # as predicted at the pick
    first_token_at: float | None = None
    progressed_at: float = 0.0  # when last heard of new tokens
    move: PendingMove | None = None
    move_not_before: float = 0.0
    rest_until: float = 0.0  # the planner leaves it alone: it has moved, or gone on, lately
    suspended_for: str = ""  # who needs its room; set from Suspend until the gateway answers
    refused_by: tuple[str, ...] = ()  # destinations of moves that came to nothing
    only_kv: bool = False  # not all ids of its answer are known: it goes with its KV cache or not
    held_position: int | None = None
    account: Account | None = None  # of the tenant in its class, once the request has waited
    charged_tokens: float | None = None  # of output, there; None: nothing
    limits: TenantLimits | None = None  # of a tenant that a policy names
    metered_tokens: float | None = None  # of output, taken from its bucket; None: not yet
    runs: bool = False  # counts as one of its tenant's that run
    placed_at: float = 0.0
    by_age: bool = False  # its turn has come because it has waited, whatever others lose
    goes_as: int = 0  # the rank before which its turn has come so: engines take it for one of these
    predicted_tokens: Forecast = (0.0, 0.0)  # of the whole answer, when it was admitted
    # Of output that was still to come when the request was submitted: the mean, and what memory is
    # reserved for.
    expected_tokens: float = 0.0
    reserve_tokens: float = 0.0
    look_again_at: int = 0  # tokens there are when both are predicted anew
    target_work_s: float = 0.0  # predicted prefill of one that may miss a target by waiting, else 0

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def engine_rank(self) -> int:
        """What it is to the order of prompts in engines."""
        return self.rank if self.rank > self.goes_as else self.goes_as

    @property
    def generated_tokens(self) -> int:
        """Since it was submitted: not what it brought."""
        return self.output_tokens - self.request.output_tokens

    @property
    def expected_charge(self) -> float:
        """Of its tenant's turn."""
        return service_charge(self.new_prompt_tokens, self.expected_tokens)

    @property
    def goes_on(self) -> bool:
        """It was placed before, and lost its engine or its room."""
        request = self.request
        return request.output_tokens > 0 or request.suspended or self.trail.failures > 0

    @property
    def new_prompt_tokens(self) -> int:
        """What its tenant is charged for: a prompt that has to be prefilled again is not."""
        return 0 if self.goes_on else self.request.prompt_tokens

    @property
    def context_tokens(self) -> int:
        """Prompt and what has been generated: what a replay has to prefill."""
        return self.request.prompt_tokens + self.output_tokens

    @property
    def started(self) -> bool:
        """The client has received something, from this or an earlier engine."""
        return self.first_token_at is not None or self.output_tokens > 0
