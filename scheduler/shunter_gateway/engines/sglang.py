"""SGLang's native `/generate`: prompts as ids, ids out, priorities, `/abort_request`.

Written to the documentation and the source of SGLang 0.5.6 (docs.sglang.io, "SGLang Native APIs",
"Sampling Parameters"; io_struct.py, tokenizer_manager.py, http_server.py), not run with it. Its
OpenAI API takes text only, so that is what requests go to that are not held as tokens.

By default each event repeats the whole answer so far; with `--stream-output` (later
`--incremental-streaming-output`) it brings what is new. 0.5.6 then loses events that its reader is
late for, which `completion_tokens` shows: the call ends, and the answer goes on from what is known.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from shunter_gateway.engines.completions import tokenize_call
from shunter_gateway.engines.connection import FaultReason
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.plain_call import plain_call
from shunter_gateway.engines.streaming import EngineRefused, StreamCall, finish_reason
from shunter_gateway.engines.textlevel import EngineError, start_text_call
from shunter_gateway.ports import (
    Capabilities,
    EngineAdapter,
    EngineCall,
    EngineFailure,
    EngineRequest,
    TokenChunk,
    TokenLogprob,
    TokenSink,
)

CAPABILITIES = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=True,
    abort=True,
    output_offset=False,
    embeddings=True,
    seed_by_position=True,  # with --enable-deterministic-inference; else a seed changes nothing
    prompt_penalties=frozenset({"repetition"}),  # it has none
    unused_context_tokens=1,  # prompt and answer have to be shorter than the context
)
MAX_SEED = (1 << 31) - 1  # it keeps seeds as int32
MAX_EVENT_BYTES = 16 << 20  # an event holds all ids so far, and all log probabilities

_Logprob = tuple[float | None, int, str | None]  # log probability, id, text


class _SamplingParams(msgspec.Struct, omit_defaults=True):
    max_new_tokens: int | None  # None: as far as the context goes; left out, it is 128
    min_new_tokens: int = 0
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    sampling_seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop_token_ids: Sequence[int] = ()


class _Body(msgspec.Struct, omit_defaults=True):
    rid: str
    input_ids: Sequence[int]
    sampling_params: _SamplingParams
    priority: int  # a request without one comes last
    stream: bool = False
    return_logprob: bool = False
    top_logprobs_num: int = 0


class _Finish(msgspec.Struct):
    type: str
    message: str = ""
    status_code: int | None = None


class _Meta(msgspec.Struct):
    finish_reason: _Finish | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    output_token_logprobs: list[_Logprob] | None = None
    output_top_logprobs: list[list[_Logprob] | None] | None = None


class _Event(msgspec.Struct):
    output_ids: list[int] = []
    meta_info: _Meta = msgspec.field(default_factory=_Meta)
    error: EngineError | str | None = None


_EVENT = msgspec.json.Decoder(_Event)
_ENCODER = msgspec.json.Encoder()


class SglangDecoder:
    """`/generate` events of one call."""

    def __init__(self) -> None:
        self._tokens = 0  # of the answer, taken so far

    def event(self, data: bytes) -> TokenChunk:
        event = _EVENT.decode(data)
        if event.error is not None:
            raise EngineRefused(_told_error(event.error, data))
        meta, finish = event.meta_info, event.meta_info.finish_reason
        if finish is not None and finish.type == "abort":
            raise EngineRefused(_aborted(finish, data))
        first, before = not self._tokens, self._tokens
        chunk = TokenChunk(self._fresh(event))
        if chunk.token_ids and meta.output_token_logprobs is not None:
            chunk.logprobs = _logprobs(meta, before, self._tokens)
        if first and chunk.token_ids:
            chunk.prompt_tokens, chunk.cached_tokens = meta.prompt_tokens, meta.cached_tokens
        if finish is not None:
            chunk.finish_reason = finish_reason(finish.type)
        return chunk

    body = event

    def _fresh(self, event: _Event) -> list[int]:
        """The ids that were not taken yet. Of all ids so far there may be more than the event
        counts: the next one counts them. Raises `EngineRefused`."""
        ids, before, total = event.output_ids, self._tokens, event.meta_info.completion_tokens
        if total is None:
            total = len(ids)
        if len(ids) >= total:
            fresh = ids[before:total]
        elif before + len(ids) == total:
            fresh = ids
        else:
            message = f"{total - before} tokens came, but the ids of {len(ids)}"
            raise EngineRefused(EngineFailure("protocol", message, True))
        self._tokens = max(before, total)
        return fresh


def _logprobs(meta: _Meta, before: int, total: int) -> list[TokenLogprob]:
    """Of the tokens from `before` on. The lists are those of all tokens, or of these."""
    values, tops = meta.output_token_logprobs or [], meta.output_top_logprobs or []
    values = values[before:total] if len(values) >= total else values[before - total :]
    tops = tops[before:total] if len(tops) >= total else tops[before - total :]
    tops = tops or [None] * len(values)
    return [
        TokenLogprob(token_id, value or 0.0, tuple((i, v or 0.0) for v, i, _ in top or ()))
        for (value, token_id, _), top in zip(values, tops, strict=False)
    ]


def _told_error(error: EngineError | str, data: bytes) -> EngineFailure:
    """An error in mid-stream is what it finds wrong with a request, unless it says otherwise."""
    code = error.code if isinstance(error, EngineError) else None
    if isinstance(code, int) and code >= 500:
        return EngineFailure("engine_5xx", "the engine reported an error", True, code)
    return EngineFailure("client", "the engine refused the request", False, 400, data)


def _aborted(finish: _Finish, data: bytes) -> EngineFailure:
    match finish.status_code:
        case 400:
            return EngineFailure("client", "the engine refused the request", False, 400, data)
        case 429 | 503:  # its queue is full, or a higher priority took the place there
            message = "the engine gave the request up"
            return EngineFailure("overloaded", message, True, finish.status_code)
    return EngineFailure("engine_5xx", "the engine aborted the request", True)


def engine_id(request: EngineRequest) -> str:
    """`/abort_request` ends every request whose id begins with the one that it is given: no id may
    be the beginning of another."""
    return f"{request.call_id}."


def generate_body(request: EngineRequest) -> bytes:
    sampling, seed = request.sampling, request.sampling.seed
    params = _SamplingParams(
        max_new_tokens=request.max_tokens or None,
        min_new_tokens=request.min_tokens,
        ignore_eos=sampling.ignore_eos,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=-1 if sampling.top_k == 0 else sampling.top_k,
        min_p=sampling.min_p,
        sampling_seed=None if seed is None else seed & MAX_SEED,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=sampling.logit_bias,
        stop_token_ids=sampling.stop_token_ids,
    )
    body = _Body(
        rid=engine_id(request),
        input_ids=request.token_ids or (),
        sampling_params=params,
        priority=request.priority,
        stream=True,
        return_logprob=sampling.logprobs is not None,
        top_logprobs_num=sampling.logprobs or 0,
    )
    return _ENCODER.encode(body)


class _Unheard:
    """Of an abort: the closed connection ends the request, too, two seconds later."""

    def on_response(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_complete(self) -> None: ...
    def on_fault(self, reason: FaultReason, message: str) -> None: ...


class _Call:
    """An `EngineCall` whose abort is told; the `TokenSink` of its own stream."""

    def __init__(self, client: HttpClient, request: EngineRequest, sink: TokenSink) -> None:
        self._client = client
        self._request = request
        self._sink = sink
        self._over = False
        self.on_chunk = sink.on_chunk
        self._stream = StreamCall(SglangDecoder(), self, max_event_bytes=MAX_EVENT_BYTES)
        self._stream.start(client, request, "/generate", generate_body(request))

    def abort(self) -> None:
        self._stream.abort()
        if not self._over:
            self._over = True
            body = _ENCODER.encode({"rid": engine_id(self._request)})
            self._client.post(self._request.address, "/abort_request", body, _Unheard())

    def pause(self) -> None:
        self._stream.pause()

    def resume(self) -> None:
        self._stream.resume()

    def on_end(self) -> None:
        self._over = True
        self._sink.on_end()

    def on_failure(self, failure: EngineFailure) -> None:
        # An engine that broke off may still be at it.
        self._over = failure.reason in ("client", "connection")
        self.abort()
        self._sink.on_failure(failure)


class SglangAdapter:
    engine_type = "sglang"
    capabilities = CAPABILITIES
    unordered: Collection[str] = ()

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        if request.token_ids is None:
            return start_text_call(self._client, request, sink)
        return _Call(self._client, request, sink)

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        body = _ENCODER.encode({"model": model, "prompt": text})
        return await tokenize_call(self._client, address, body)

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return await plain_call(self._client, address, path, body)


def sglang(client: HttpClient) -> EngineAdapter:
    return SglangAdapter(client)
