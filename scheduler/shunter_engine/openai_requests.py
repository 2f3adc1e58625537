"""OpenAI request bodies as typed values, and what they ask of the engine.

Unknown fields are ignored, as vLLM does; fields that change the answer and are not built are
refused by name.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Meta, Struct

from shunter_engine.backend import Sampling
from shunter_engine.errors import ApiError, bad_request

MAX_CHOICES = 128
MAX_REQUEST_ID_CHARS = 256
MAX_KV_LEASE_CHARS = 128
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024  # each; every token is compared with all of them
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
_SEED_BITS = 2**63 - 1
# Dividing logits by less than this overflows where it does anything else than pick the largest.
# vLLM's `_SAMPLING_EPS` (vllm/v1/sample/sampler.py) has the same value.
_GREEDY_BELOW = 1e-5

Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0, lt=2**32)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
RequestId = Annotated[str, Meta(min_length=1, max_length=MAX_REQUEST_ID_CHARS)]
LogitBias = Annotated[
    dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MAX_LOGIT_BIASES)
]

Prompt = str | list[str | TokenId | list[TokenId]]


class StreamOptions(Struct):
    include_usage: bool = False


class GenerateBody(Struct, kw_only=True):
    """What completions and chat completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    min_tokens: NonNegative | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    logit_bias: LogitBias | None = None
    priority: int | None = None
    request_id: RequestId | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None


class CompletionBody(GenerateBody, kw_only=True):
    prompt: Prompt
    max_tokens: Count | None = None  # up to the context length
    logprobs: TopLogprobs | None = None
    output_offset: NonNegative | None = None
    kv_lease: Annotated[str, Meta(max_length=MAX_KV_LEASE_CHARS)] | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None


class ChatBody(GenerateBody, kw_only=True):
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    add_generation_prompt: bool = True


class TokenizeBody(Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True


class DetokenizeBody(Struct, kw_only=True):
    model: str | None = None
    tokens: list[TokenId]


class AbortBody(Struct, kw_only=True):
    request_ids: list[str]


class EmbeddingBody(Struct, kw_only=True):
    model: str | None = None
    input: Prompt
    encoding_format: str = "float"


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One request, checked: `len(prompts) * n` sequences, numbered prompt by prompt."""

    chat: bool
    prompts: tuple[tuple[int, ...], ...]
    n: int
    max_tokens: int | None  # None: up to the context length
    min_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    include_stop: bool
    stream: bool
    include_usage: bool
    return_token_ids: bool
    name_tokens_by_id: bool
    priority: int
    output_offset: int
    kv_lease: str = ""  # of keys and values that a move has brought here


def check_choices(prompt: Prompt, n: int | None) -> None:
    """Before anything is tokenised. Raises `ApiError` 400."""
    if (n or 1) * prompt_count(prompt) > MAX_CHOICES:
        raise bad_request(f"n times prompts must not exceed {MAX_CHOICES}", "n")


def prompt_count(prompt: Prompt) -> int:
    """A list that begins with a token id is one prompt (or a mixture, which is refused)."""
    if isinstance(prompt, str) or any(isinstance(part, int) for part in prompt[:1]):
        return 1
    return len(prompt)


def check_token_ids(sampling: Sampling, vocab_size: int) -> None:
    """What names tokens must name tokens of the model. Raises `ApiError` 400."""
    for param, ids in (
        ("stop_token_ids", sampling.stop_token_ids),
        ("logit_bias", sampling.logit_bias),
    ):
        if not all(0 <= token_id < vocab_size for token_id in ids):
            raise bad_request(f"{param}: token ids must be from 0 to {vocab_size - 1}", param)


def completion_call(
    body: CompletionBody, prompts: tuple[tuple[int, ...], ...], default_seed: int
) -> GenerateCall:
    """Raises `ApiError` 400."""
    for field, refused in (
        ("echo", body.echo),
        ("best_of", body.best_of not in (None, 1, body.n)),
        ("suffix", body.suffix),
    ):
        if refused:
            raise bad_request(f"{field} is not supported by this engine", field)
    offset = body.output_offset or 0
    if offset and any(offset >= len(ids) for ids in prompts):
        raise bad_request("output_offset must be below the number of prompt ids", "output_offset")
    sampling = _sampling(body, body.logprobs, default_seed)
    call = _call(body, prompts, sampling, body.max_tokens, offset)
    return replace(call, kv_lease=body.kv_lease or "")


def chat_call(body: ChatBody, prompt: tuple[int, ...], default_seed: int) -> GenerateCall:
    """Raises `ApiError` 400."""
    if body.tool_choice not in (None, "auto", "none"):
        raise bad_request("tool_choice: this engine cannot force a tool", "tool_choice")
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    max_tokens = body.max_completion_tokens or body.max_tokens
    return _call(body, (prompt,), _sampling(body, logprobs, default_seed), max_tokens)


def _call(
    body: GenerateBody,
    prompts: tuple[tuple[int, ...], ...],
    sampling: Sampling,
    max_tokens: int | None,
    output_offset: int = 0,
) -> GenerateCall:
    if body.response_format and body.response_format.get("type") != "text":
        raise bad_request("response_format: only text is supported", "response_format")
    min_tokens = body.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad_request("min_tokens must not exceed max_tokens", "min_tokens")
    return GenerateCall(
        chat=isinstance(body, ChatBody),
        prompts=prompts,
        n=body.n or 1,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        sampling=sampling,
        stop=_stop_strings(body.stop),
        include_stop=body.include_stop_str_in_output,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        return_token_ids=bool(body.return_token_ids),
        name_tokens_by_id=bool(body.return_tokens_as_token_ids),
        priority=body.priority or 0,
        output_offset=output_offset,
    )


def _sampling(body: GenerateBody, logprobs: int | None, default_seed: int) -> Sampling:
    temperature = 1.0 if body.temperature is None else body.temperature
    return Sampling(
        temperature=temperature if temperature >= _GREEDY_BELOW else 0.0,
        top_p=body.top_p or 1.0,
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        seed=(default_seed if body.seed is None else body.seed) & _SEED_BITS,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        logit_bias=_logit_bias(body.logit_bias or {}),
        logprobs=logprobs,
        ignore_eos=body.ignore_eos,
        stop_token_ids=tuple(body.stop_token_ids or ()),
    )


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token_id): value for token_id, value in bias.items()}
    except ValueError:
        raise bad_request("logit_bias: keys must be token ids", "logit_bias") from None


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(strings) > MAX_STOP_STRINGS:
        raise bad_request(f"stop: at most {MAX_STOP_STRINGS} strings", "stop")
    if not all(0 < len(string) <= MAX_STOP_CHARS for string in strings):
        raise bad_request(f"stop: a stop string has 1 to {MAX_STOP_CHARS} characters", "stop")
    return strings


def check_model(model: str | None, served: str) -> None:
    """Raises `ApiError` 404. A request may leave the model out: there is only one."""
    if model is not None and model != served:
        raise ApiError(
            404,
            f"the model {model!r} does not exist; this engine serves {served!r}",
            "model",
            "model_not_found",
        )
