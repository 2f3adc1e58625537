"""One request in a simulated world, from its arrival to its end."""

from typing import TYPE_CHECKING, Literal, Protocol

from shunter_simulator.virtual.fleet import Slot
from shunter_simulator.workloads import Arrival

if TYPE_CHECKING:
    from shunter_simulator.virtual.moving import Move

State = Literal["waiting", "assigned", "streaming", "done"]


class Life:
    """What the gateway's journal knows, and what is noted for the results.

    `produced` are the tokens of the answer when no engine has it; `epoch` and `slot` say who owns
    it; `calls` counts owners, since a source that goes on after it stopped is the same one under a
    later epoch. `blocks` name its stretches of `CACHE_BLOCK_TOKENS` tokens that others may have as
    well.
    """

    __slots__ = (
        "arrival",
        "blocks",
        "cached_tokens",
        "call_at",
        "calls",
        "entered",
        "epoch",
        "failures",
        "first_assigned_at",
        "first_token_at",
        "hashes",
        "instance",
        "left",
        "loss_s",
        "move",
        "moves",
        "output_tokens",
        "pool",
        "predicted_cached_tokens",
        "preemptions",
        "priority",
        "produced",
        "reported_tokens",
        "request_id",
        "retries",
        "row",
        "slo_class",
        "slot",
        "stall_s",
        "state",
        "suspended",
        "suspensions",
        "waits_since",
    )

    def __init__(self, row: int, arrival: Arrival, output_tokens: int) -> None:
        """`output_tokens`: the whole answer, cut to what the model's context leaves."""
        self.row = row
        self.arrival = arrival
        self.output_tokens = output_tokens
        self.request_id = f"r{row}"
        self.epoch = 1
        self.calls = 1
        self.state: State = "waiting"
        self.waits_since = arrival.at_s
        self.blocks: tuple[int, ...] = ()
        self.hashes = b""
        self.slot: Slot | None = None
        self.instance = ""  # the last one
        self.pool = ""
        self.slo_class = ""
        self.priority = 0
        self.produced = 0
        self.reported_tokens = 0
        self.call_at = 0.0
        self.entered = False  # the engine has it, or had
        self.failures = 0
        self.left: tuple[str, ...] = ()  # instances that failed it, or were drained
        self.move: Move | None = None
        self.suspended = False
        self.first_assigned_at: float | None = None
        self.first_token_at: float | None = None
        self.preemptions = 0
        self.loss_s = 0.0
        self.moves = 0
        self.stall_s = 0.0
        self.suspensions = 0
        self.retries = 0
        self.cached_tokens = 0
        self.predicted_cached_tokens = 0

    def change_owner(self) -> None:
        self.epoch += 1
        self.calls += 1

    @property
    def began(self) -> bool:
        return self.first_token_at is not None

    @property
    def context_tokens(self) -> int:
        return self.arrival.prompt_tokens + self.produced


class Ending(Protocol):
    """Hears how requests end."""

    def ended(self, life: Life, outcome: str) -> None: ...
