"""A sequence inside a virtual engine."""

from typing import Final, Literal

from shunter_simulator.virtual.values import VirtualSequence

Stage = Literal["waiting", "entering", "prefill", "decode", "still", "ended", "held", "gone"]


class LiveSequence:
    """Lengths, and what it holds of the KV memory.

    While it decodes, `computed` and `blocks` stand still: `DecodeSet` knows how far it is. `still`:
    it decodes, but not in the present step. `held`: its last step here is over, its blocks stay
    until they are copied.
    """

    __slots__ = (
        "blocks",
        "cached_tokens",
        "computed",
        "finish_tick",
        "kill_order",
        "killed_at_s",
        "leaving",
        "limit_tokens",
        "names",
        "offset",
        "order",
        "prompt_tokens",
        "request_id",
        "serial",
        "stage",
        "started",
        "tokens",
        "units",
    )

    def __init__(self, spec: VirtualSequence, serial: int, capacity_tokens: int) -> None:
        self.request_id: Final = spec.request_id
        self.serial: Final = serial
        self.order: Final = (spec.priority, serial)
        self.prompt_tokens: Final = spec.prompt_tokens
        self.limit_tokens: Final = min(spec.prompt_tokens + spec.output_tokens, capacity_tokens)
        self.names: Final = spec.blocks
        self.tokens = spec.prompt_tokens + spec.produced
        self.computed = 0
        self.blocks = 0
        self.units: list[int] = []  # the shared ones among its blocks, in order
        self.cached_tokens: int | None = None
        self.stage: Stage = "waiting"
        self.started = False  # has produced a token here
        self.leaving = False
        self.killed_at_s: float | None = None
        self.kill_order = 0
        self.offset = 0  # while it decodes: computed tokens less the ticks of the batch
        self.finish_tick = 0

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one comes out."""
        return self.tokens - self.computed

    @property
    def produced(self) -> int:
        return self.tokens - self.prompt_tokens
