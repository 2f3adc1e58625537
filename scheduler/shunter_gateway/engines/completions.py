"""Token ids in and out over `/v1/completions`: vLLM and our own engine server."""

from collections.abc import Sequence
from functools import partial

import msgspec

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.plain import learn
from shunter_gateway.engines.plain_call import plain_call
from shunter_gateway.engines.streaming import StreamCall, finish_reason
from shunter_gateway.engines.textlevel import EngineError, Usage, refused, start_text_call
from shunter_gateway.ports import (
    Capabilities,
    EngineCall,
    EngineRequest,
    EngineUnavailable,
    TokenChunk,
    TokenLogprob,
    TokenSink,
)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = True


class CompletionsBody(msgspec.Struct, omit_defaults=True):
    model: str
    prompt: Sequence[int]
    request_id: str
    stream: bool = False
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int = 0
    min_tokens: int = 0
    ignore_eos: bool = False
    priority: int = 0
    output_offset: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    stop_token_ids: Sequence[int] = ()
    kv_lease: str = ""


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct, gc=False):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: EngineError | str | None = None


class _Tokens(msgspec.Struct):
    tokens: list[int]


UNKNOWN_LIMIT_TOKENS = 2048
"""Of a whole answer where neither client nor pool has a limit: vLLM would end after 16."""
_EVENT = msgspec.json.Decoder(_Event)
_TOKENS = msgspec.json.Decoder(_Tokens)
_ENCODER = msgspec.json.Encoder()


class CompletionsDecoder:
    """Token ids out of `/v1/completions` events."""

    def event(self, data: bytes) -> TokenChunk:
        event = _EVENT.decode(data)
        if event.error is not None:
            raise refused(event.error, data)
        if not event.choices:
            chunk = TokenChunk()
        else:
            choice = event.choices[0]
            chunk = TokenChunk(choice.token_ids or ())
            if choice.logprobs is not None and choice.token_ids:
                chunk.logprobs = token_logprobs(choice.token_ids, choice.logprobs)
            if choice.finish_reason is not None:
                chunk.finish_reason = finish_reason(choice.finish_reason)
        if (usage := event.usage) is not None:
            chunk.prompt_tokens = usage.prompt_tokens
            chunk.cached_tokens = usage.cached_tokens
        return chunk

    body = event


def token_logprobs(token_ids: Sequence[int], logprobs: _Logprobs) -> list[TokenLogprob]:
    """Engines name alternatives `token_id:N` where `return_tokens_as_token_ids` is set."""
    tops = logprobs.top_logprobs or [None] * len(token_ids)
    return [
        TokenLogprob(token_id, value if value is not None else 0.0, _alternatives(top))
        for token_id, value, top in zip(token_ids, logprobs.token_logprobs, tops, strict=False)
    ]


def _alternatives(top: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    if not top:
        return ()
    named = ((name.removeprefix("token_id:"), value) for name, value in top.items())
    return tuple((int(name), value) for name, value in named if name.isdigit())


def _unlimited(request: EngineRequest) -> int:
    """What is left of it: an engine counts the tokens of its own call only."""
    return max(UNKNOWN_LIMIT_TOKENS - request.output_offset, 1)


def completions_body(request: EngineRequest, capabilities: Capabilities) -> bytes:
    sampling = request.sampling
    body = CompletionsBody(
        model=request.model,
        prompt=request.token_ids or (),
        request_id=request.call_id,
        stream=True,
        return_token_ids=True,
        stream_options=_StreamOptions(),
        max_tokens=request.max_tokens or _unlimited(request),
        min_tokens=request.min_tokens,
        ignore_eos=sampling.ignore_eos,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=sampling.logit_bias,
        logprobs=sampling.logprobs,
        return_tokens_as_token_ids=sampling.logprobs is not None,
        stop_token_ids=sampling.stop_token_ids,
        kv_lease=request.kv_lease,
    )
    if capabilities.priority:
        body.priority = request.priority
    if capabilities.output_offset:
        body.output_offset = request.output_offset
    return _ENCODER.encode(body)


class CompletionsAdapter:
    """`EngineAdapter` for engines that take and return token ids over `/v1/completions`."""

    def __init__(self, engine_type: str, capabilities: Capabilities, client: HttpClient) -> None:
        self.engine_type = engine_type
        self.capabilities = capabilities
        self.unordered: set[str] = set()
        self._client = client

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        if request.token_ids is None:
            return start_text_call(self._client, request, sink)
        decoder = CompletionsDecoder()
        plain = request.sampling.logprobs is None
        call = StreamCall(decoder, sink, partial(learn, decode=decoder.event) if plain else None)
        body = completions_body(request, self.capabilities)
        call.start(self._client, request, "/v1/completions", body)
        return call

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        body = _ENCODER.encode({"model": model, "prompt": text})
        return await tokenize_call(self._client, address, body)

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return await plain_call(self._client, address, path, body)


async def tokenize_call(client: HttpClient, address: str, body: bytes) -> list[int]:
    """`POST /tokenize`. Raises `EngineUnavailable`."""
    status, answer = await plain_call(client, address, "/tokenize", body, timeout_s=10.0)
    if status != 200:
        raise EngineUnavailable(f"{address}/tokenize: status {status}")
    try:
        return _TOKENS.decode(answer).tokens
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"{address}/tokenize: unreadable answer") from error
