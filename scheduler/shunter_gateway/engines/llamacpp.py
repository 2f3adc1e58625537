"""llama-server's own `/completion`: token ids in, text and most token ids out.

It keeps the ids of tokens inside an unfinished UTF-8 character to itself, so its text is what the
client gets, and `tokens_predicted` shows where ids are missing. Nothing that it streams tells in
which slot a call runs; `/slots` does by the call's seed, so each call has one (`call_seed`).
"""

from collections.abc import Collection, Sequence
from zlib import crc32

import msgspec

from shunter_gateway.engines.completions import tokenize_call
from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.plain_call import plain_call
from shunter_gateway.engines.streaming import StreamCall
from shunter_gateway.engines.textlevel import EngineError, refused, start_text_call
from shunter_gateway.ports import (
    Capabilities,
    EngineAdapter,
    EngineCall,
    EngineRequest,
    TokenChunk,
    TokenLogprob,
    TokenSink,
)

CAPABILITIES = Capabilities(
    token_ids=True,
    prefix_caching=True,
    priority=False,
    abort=True,
    output_offset=False,
    embeddings=True,
    # Its sampler accepts the prompt's tokens before it draws (test_llama_moves.py).
    prompt_penalties=frozenset({"repetition", "presence", "frequency"}),
    ignores=frozenset({"min_tokens", "stop_token_ids"}),
)


class _Body(msgspec.Struct, omit_defaults=True):
    prompt: Sequence[int]
    stream: bool = False
    return_tokens: bool = False
    cache_prompt: bool | None = None
    n_predict: int = 0
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: list[tuple[int, float]] | None = None
    n_probs: int = 0
    post_sampling_probs: bool | None = None


class _TopLogprob(msgspec.Struct):
    id: int
    logprob: float = 0.0


class _Probability(msgspec.Struct):
    id: int
    logprob: float = 0.0
    top_logprobs: list[_TopLogprob] = []


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Event(msgspec.Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    tokens_cached: int | None = None
    timings: _Timings | None = None
    completion_probabilities: list[_Probability] = []
    error: EngineError | str | None = None


_EVENT = msgspec.json.Decoder(_Event)
_ENCODER = msgspec.json.Encoder()


class LlamaDecoder:
    """`/completion` events. `alternatives`: how many per token the client wants."""

    def __init__(self, alternatives: int = 0) -> None:
        self._alternatives = alternatives

    def event(self, data: bytes) -> TokenChunk | None:
        event = _EVENT.decode(data)
        if event.error is not None:
            raise refused(event.error, data)
        if event.stop:
            return self._last(event)
        return TokenChunk(
            token_ids=event.tokens,
            text=event.content,
            output_tokens=event.tokens_predicted,
            logprobs=[self._logprob(token) for token in event.completion_probabilities],
        )

    body = event

    def _logprob(self, token: _Probability) -> TokenLogprob:
        top = token.top_logprobs[: self._alternatives]
        return TokenLogprob(token.id, token.logprob, tuple((t.id, t.logprob) for t in top))

    def _last(self, event: _Event) -> TokenChunk:
        return TokenChunk(
            text=event.content,
            output_tokens=event.tokens_predicted,
            prompt_tokens=event.tokens_evaluated,
            cached_tokens=event.timings.cache_n if event.timings is not None else None,
            finish_reason="length" if event.stop_type == "limit" else "stop",
        )


def call_seed(call_id: str, seed: int | None) -> int:
    """32 bits; of the call's name where the request has no seed."""
    return crc32(call_id.encode()) if seed is None else seed & 0xFFFFFFFF


def llama_body(request: EngineRequest) -> bytes:
    sampling = request.sampling
    bias = sampling.logit_bias
    return _ENCODER.encode(
        _Body(
            prompt=request.token_ids or (),
            stream=True,
            return_tokens=True,
            cache_prompt=True,
            n_predict=request.max_tokens or -1,
            ignore_eos=sampling.ignore_eos,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=call_seed(request.call_id, sampling.seed),
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repeat_penalty=sampling.repetition_penalty,
            logit_bias=None if bias is None else [(int(i), value) for i, value in bias.items()],
            # Without an alternative it says nothing of the token itself either.
            n_probs=0 if sampling.logprobs is None else max(1, sampling.logprobs),
            post_sampling_probs=None if sampling.logprobs is None else False,
        )
    )


class LlamaCppAdapter:
    engine_type = "llamacpp"
    capabilities = CAPABILITIES
    unordered: Collection[str] = ()

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def start(self, request: EngineRequest, sink: TokenSink) -> EngineCall:
        if request.token_ids is None:
            return start_text_call(self._client, request, sink)
        call = StreamCall(LlamaDecoder(request.sampling.logprobs or 0), sink)
        call.start(self._client, request, "/completion", llama_body(request))
        return call

    async def tokenize(self, address: str, model: str, text: str) -> list[int]:
        body = _ENCODER.encode({"content": text, "add_special": True})
        return await tokenize_call(self._client, address, body)

    async def forward(self, address: str, path: str, body: bytes) -> tuple[int, bytes]:
        return await plain_call(self._client, address, path, body)


def llamacpp(client: HttpClient) -> EngineAdapter:
    return LlamaCppAdapter(client)
