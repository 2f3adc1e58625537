"""The seams of the gateway: what an engine adapter does, and who receives an answer.

Tokens travel by plain synchronous calls (engine adapter -> lifecycle -> edge) inside the socket's
`data_received`, so that a token costs no task switch. A sink must not block and must not raise.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import msgspec

Penalty = Literal["repetition", "presence", "frequency"]
ExtraField = Literal["min_tokens", "stop_token_ids"]  # of the API, beside OpenAI's
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. None leaves the engine's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None  # number of alternatives per token
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One engine call: a request's first try, or its continuation on another engine.

    `token_ids` is prompt plus the tokens generated so far; `output_offset` of them, at the end, are
    generated ones. Without `token_ids` the adapter forwards `body` (an OpenAI request) as it is.
    """

    request_id: str
    epoch: int
    address: str
    model: str
    path: str  # the OpenAI path, for text-level calls
    token_ids: tuple[int, ...] | None
    output_offset: int
    max_tokens: int  # still to generate; 0: the engine's limit
    min_tokens: int
    sampling: SamplingParams
    priority: int = 0
    body: bytes = b""
    trace_parent: str = ""
    kv_lease: str = ""  # of a KV cache that waits there for this call (moves.proto)

    @property
    def call_id(self) -> str:
        """The call's name at the engine: another try there is another call."""
        return f"{self.request_id}-{self.epoch}"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class TokenChunk(msgspec.Struct, gc=False):
    """What one engine event brought: `token_ids` from token-level engines, `raw` from others."""

    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    cached_tokens: int | None = None
    prompt_tokens: int | None = None  # as the engine counts them
    output_tokens: int | None = None  # of this call so far, where ids do not tell
    text: str | None = None  # from token-level engines that keep some ids to themselves
    raw: bytes = b""  # JSON of one OpenAI event (no `data:`), or a whole body; text-level engines
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """Why an engine call ended without a finish reason.

    `retriable` False means the client's own fault (an engine's 4xx): `status` and `body` go to it.
    `unread`: the engine closed a stream that was paused, which says nothing of the engine.
    """

    reason: Literal[
        "connection", "timeout", "engine_5xx", "overloaded", "protocol", "client", "unread"
    ]
    message: str
    retriable: bool
    status: int = 0
    body: bytes = b""
    retry_after_s: float = 0.0


class TokenSink(Protocol):
    """Receives one engine call's events; after `on_end` or `on_failure` nothing more comes."""

    def on_chunk(self, chunk: TokenChunk) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self, failure: EngineFailure) -> None: ...


@runtime_checkable
class PlainTokenSink(TokenSink, Protocol):
    """A `TokenSink` that may take single token ids in a shorter way."""

    def plain_take(self) -> Callable[[bytes], bool] | None:
        """Takes an id's decimal digits; False: nothing was done, `on_chunk` has to. None while the
        answer has not begun, or where it needs more than ids."""


class EngineCall(Protocol):
    """A running engine call."""

    def abort(self) -> None:
        """Stop the engine's work; the sink hears nothing afterwards. Idempotent."""

    def pause(self) -> None:
        """Stop reading: the client is slower than the engine."""

    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine type can do. Decides which rung a request may take."""

    token_ids: bool  # token ids in and out: the replay rung
    prefix_caching: bool
    priority: bool
    abort: bool  # a closed connection ends the work at once
    output_offset: bool  # continues penalties and seeded sampling across a replay
    embeddings: bool
    freezes: bool = True  # one request, where KV caches move; else the move ends as a replay does
    seed_by_position: bool = False  # draws depend on seed and position in the context alone
    prompt_penalties: frozenset[Penalty] = frozenset()  # that count the prompt's tokens, too
    unused_context_tokens: int = 0  # of the context, that prompt and answer leave free
    ignores: frozenset[ExtraField] = frozenset()  # what requests must not ask for


class EngineAdapter(Protocol):
    """One file in `engines/` per engine type."""

    engine_type: str
    capabilities: Capabilities

    @property
    def unordered(self) -> Collection[str]:
        """Addresses of engines that refused a priority: requests go there without."""

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall: ...

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        """The engine's own tokenisation of plain text. Raises `EngineUnavailable`."""

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        """A plain call (embeddings): status and body. Raises `EngineUnavailable`."""


class EngineUnavailable(Exception):
    """The engine could not be reached or answered with a 5xx."""
