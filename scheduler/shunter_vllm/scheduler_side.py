"""What the connector does in vLLM's scheduler: each step's orders to load and to copy."""

from dataclasses import dataclass, field

from shunter_vllm.arrivals import Arrivals
from shunter_vllm.offers import Offers
from shunter_vllm.ports import BlockTable, Copy, Request


@dataclass(slots=True)
class StepCopies:
    """One step's orders for the workers."""

    loads: list[Copy] = field(default_factory=list)
    saves: list[Copy] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Load:
    request: Request
    first_token: int
    tokens: int


class SchedulerSide:
    def __init__(self, offers: Offers, arrivals: Arrivals, block_tokens: int) -> None:
        self._offers = offers
        self._arrivals = arrivals
        self._block_tokens = block_tokens
        self._loads: list[_Load] = []
        self._computed: dict[str, int] = {}  # of requests that vLLM asked about in this step

    def began(self, request: Request) -> None:
        self._offers.began(request)

    def ended(self, request: Request) -> None:
        self._offers.ended(request.request_id)

    def new_tokens(self, request: Request, computed_tokens: int) -> int:
        """How many can be loaded after those that the KV cache has."""
        matched = self._arrivals.matched_tokens(request)
        if matched <= computed_tokens:
            return 0
        self._computed[request.request_id] = computed_tokens
        return matched - computed_tokens

    def allocated(self, request: Request, tokens: int) -> None:
        """vLLM has blocks for the tokens that are to be loaded."""
        first_token = self._computed.pop(request.request_id, None)
        if tokens > 0 and first_token is not None:
            self._loads.append(_Load(request, first_token, tokens))

    def step(self, table: BlockTable) -> StepCopies:
        copies = StepCopies(saves=self._offers.orders(table))
        for load in self._loads:
            blocks = table(load.request.request_id)
            first = load.first_token // self._block_tokens
            end = first + load.tokens // self._block_tokens
            if blocks is not None:
                keys = self._arrivals.keys(load.request, first, end)
                copies.loads += map(Copy, keys, blocks[first:end])
        self._loads.clear()
        self._computed.clear()
        return copies
