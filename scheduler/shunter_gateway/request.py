"""A client's request, parsed and tokenised, and who receives its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from shunter_gateway.ports import FinishReason, SamplingParams, TokenLogprob


@dataclass(frozen=True, slots=True)
class WorkflowStage:
    """The stage of a workflow that a request is."""

    workflow: str  # id, unique in its tenant; empty: not given
    stage: str = ""
    stages_left: tuple[str, ...] = ()  # that come after it
    deadline_s: float = 0.0  # of the whole workflow, from this request's arrival; 0: not given


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """Everything the lifecycle needs to run one choice of one request.

    `prompt_token_ids` is None where the model has no tokenizer at the gateway or the request cannot
    be held as tokens; then `body` is forwarded as it is and the rung `restart` is all there is.
    """

    request_id: str
    model: str
    tenant: str
    path: str
    body: bytes
    prompt_token_ids: tuple[int, ...] | None
    prompt_tokens: int  # exact with token ids, else an estimate from the body's length
    block_hashes: bytes
    max_tokens: int  # 0: up to the context length
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    slo_class: str = ""
    allowed_classes: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    deadline_s: float = 0.0  # from arrival; 0: none
    workflow: WorkflowStage | None = None
    unmovable_reason: str = ""
    include_stop: bool = False
    trace_parent: str = ""
    tokenizer_source: str = ""  # model source whose tokenizer made the ids; empty: the model's own


class Delta(msgspec.Struct, gc=False):
    """What the client gets next. Text is final: it is never taken back."""

    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    raw: bytes = b""  # JSON of one engine event, or its whole body, for text-level engines


@dataclass(frozen=True, slots=True)
class Outcome:
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None  # None: the engine that read the prompt did not say
    stop_reason: str | None = None  # the stop string that matched


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a request waits for, as far as that is known."""

    phase: str  # queued, scaling-up, starting, loading-weights, unschedulable
    position: int | None = None  # 0 is next
    eta_s: float | None = None  # from now


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error as the client sees it, in OpenAI's shape."""

    status: int
    message: str
    type: str  # invalid_request_error, authentication_error, rate_limit_error, server_error, ...
    code: str | None = None
    param: str | None = None
    retry_after_s: float = 0.0
    body: bytes = b""  # an engine's own 4xx body, passed on as it is


class ClientSink(Protocol):
    """The edge's end of one choice. Exactly one of `on_done` and `on_error` is called, last."""

    def on_assigned(self, instance: str, pool: str) -> None: ...
    def on_delta(self, delta: Delta) -> None: ...
    def on_done(self, outcome: Outcome) -> None: ...
    def on_error(self, error: ClientError) -> None: ...


@runtime_checkable
class JsonTextSink(Protocol):
    """A `ClientSink` whose deltas may come as text that is encoded already."""

    def json_text_send(self) -> Callable[[bytes], None] | None:
        """Takes what `on_delta` makes of `Delta(text)`: a JSON string. None where a delta is more
        than its text. Only after the first `on_delta`."""


class RequestHandle(Protocol):
    def cancel(self) -> None:
        """The client went away: abort the engine's work and release everything. Idempotent."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def waiting(self) -> Waiting | None:
        """None while an engine has it, and after its end."""


class RequestRunner(Protocol):
    """The lifecycle, as the edge sees it."""

    def submit(self, spec: RequestSpec, sink: ClientSink) -> RequestHandle: ...
