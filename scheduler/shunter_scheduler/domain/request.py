"""A request as the core sees it: sizes, class and constraints, never its text."""

from collections.abc import Mapping

from msgspec import field

from shunter_scheduler.domain.value import Value


class Request(Value, frozen=True):
    """One request that waits or runs.

    Instants (`arrived_at`, `queued_at`, `deadline_at`) are seconds on the core's own clock.
    """

    request_id: str
    gateway_id: str
    epoch: int
    model: str
    tenant: str
    prompt_tokens: int
    max_output_tokens: int  # 0: not limited by the client
    arrived_at: float
    output_tokens: int = 0  # generated already, carried over by a replay
    prompt_tokens_exact: bool = True
    block_hashes: bytes = b""  # packed little-endian uint64, one per full prompt block
    slo_class: str = ""  # asked for; empty: the rule decides
    allowed_classes: tuple[str, ...] = ()  # empty: all
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline_at: float | None = None
    excluded_instances: tuple[str, ...] = ()
    unmovable_reason: str = ""
    pool: str = ""  # set for a replay: the same model revision must go on
    queued_at: float | None = None  # waits for a placement since then; None: it begins to
    # Of a request that is one stage of a workflow; `stages_left` are the stages after this one.
    workflow: str = ""  # id, unique in its tenant; empty: stands alone
    stage: str = ""  # name of this stage; empty: not known
    stages_left: tuple[str, ...] = ()
    workflow_deadline_at: float | None = None
    suspended: bool = False  # lost its engine to a Suspend decision, and is to go on
