"""From a body to a `Job`: checked, tokenised, one spec per choice.

A request that only its engine can serve (guided decoding, tool calls parsed by the engine, images,
echo) is not tokenised: its body goes to the engine as it is and cannot be moved once it runs.
"""

from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from shunter_gateway.edge.engine_only import (
    PLAIN_ENGINES,
    chat_engine_only,
    completion_engine_only,
)
from shunter_gateway.edge.errors import (
    RequestError,
    from_validation,
    invalid,
    model_not_found,
    unavailable,
)
from shunter_gateway.edge.job import Caller, Job, Limits, Parts, Shape
from shunter_gateway.edge.ports import ChatPrompt, ModelLoading, Models, PromptInvalid, ServedModel
from shunter_gateway.edge.schema import ChatBody, ChatMessage, CompletionBody, Generation
from shunter_gateway.edge.specs import Draft, Ids, choice_spec, token_spec
from shunter_gateway.ignored_fields import refusal
from shunter_gateway.request import RequestSpec

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions
BYTES_PER_TOKEN = 4  # rule of thumb for English text; used where nothing counts tokens

_chat_decoder = msgspec.json.Decoder(ChatBody)
_completion_decoder = msgspec.json.Decoder(CompletionBody)


def parse_chat(raw: bytes) -> ChatBody:
    """Raises `RequestError` (400)."""
    try:
        return _chat_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def parse_completion(raw: bytes) -> CompletionBody:
    """Raises `RequestError` (400)."""
    try:
        return _completion_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> Exception:
    if isinstance(error, msgspec.DecodeError):
        return from_validation(error)
    return invalid("The body is not valid JSON.", code="invalid_json")


class Intake:
    """Turns bodies into jobs; waits only for the tokenizer."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models = models
        self._limits = limits

    async def chat(self, body: ChatBody, raw: bytes, caller: Caller, created: int) -> Job:
        """Raises `RequestError`."""
        model = self._model(body)
        reason = self._engine_only(model, chat_engine_only(body, model))
        max_tokens = body.max_completion_tokens or body.max_tokens or 0
        _check_lengths(body, max_tokens)
        ids = None if reason else await self._encode_chat(model, body)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        source = model.tokenizer_source
        draft = Draft(CHAT_PATH, body, raw, max_tokens, logprobs, reason, body.messages, source)
        return self._job(draft, model, [ids], caller, created)

    async def completion(
        self,
        body: CompletionBody,
        raw: bytes,
        caller: Caller,
        created: int,
        default_tokens: int = DEFAULT_COMPLETION_TOKENS,
    ) -> Job:
        """`default_tokens`: the answer's limit where the body has none; 0: the context's.

        Raises `RequestError`.
        """
        model = self._model(body)
        reason = self._engine_only(model, completion_engine_only(body))
        max_tokens = body.max_tokens or default_tokens
        _check_lengths(body, max_tokens)
        prompts = split_prompts(body.prompt, "prompt")
        if len(prompts) * (body.n or 1) > self._limits.max_choices:
            raise invalid(
                f"At most {self._limits.max_choices} choices (prompts times n) per request.",
                "prompt",
            )
        encoded: list[Ids | None] = [None]
        if not reason:
            encoded = [await self._encode_prompt(model, prompt) for prompt in prompts]
        prompt, source = body.prompt, model.tokenizer_source
        draft = Draft(COMPLETION_PATH, body, raw, max_tokens, body.logprobs, reason, prompt, source)
        return self._job(draft, model, encoded, caller, created)

    def _model(self, body: Generation) -> ServedModel:
        if not self._models.ready():
            raise unavailable("No scheduler has said yet what there is to serve.", "no_topology")
        model = self._models.find(body.model)
        if model is None:
            raise model_not_found(body.model)
        if body.stream_options is not None and not body.stream:
            raise invalid("`stream_options` is only allowed with `stream: true`.", "stream_options")
        if (body.n or 1) > self._limits.max_choices:
            raise invalid(f"At most {self._limits.max_choices} choices per request.", "n")
        return model

    def _engine_only(self, model: ServedModel, found: tuple[str, str] | None) -> str:
        if found is None:
            return ""
        param, reason = found
        if model.engine_type in PLAIN_ENGINES:
            raise invalid(f"The engine of model `{model.name}` does not support `{param}`.", param)
        return reason

    async def _encode_chat(self, model: ServedModel, body: ChatBody) -> Ids | None:
        chat = ChatPrompt(
            messages=[_plain(message) for message in body.messages],
            tools=body.tools if body.tool_choice != "none" else None,
            add_generation_prompt=body.add_generation_prompt is not False,
        )
        ids = await _tokenised(self._models.encode_chat(model, chat), "messages")
        return self._fits(model, ids, "messages")

    async def _encode_prompt(self, model: ServedModel, prompt: str | Ids) -> Ids | None:
        if isinstance(prompt, str):
            ids = await _tokenised(self._models.encode_text(model, prompt), "prompt")
            return self._fits(model, ids, "prompt")
        if self._fits(model, prompt, "prompt") is None:
            return None
        return await _tokenised(self._models.accept_ids(model, prompt), "prompt")

    def _fits(self, model: ServedModel, ids: Ids | None, param: str) -> Ids | None:
        if ids is None:
            return None
        if not ids:
            raise invalid("The prompt is empty.", param)
        if model.context_length and len(ids) >= model.context_length:
            raise invalid(
                f"The prompt has {len(ids)} tokens; the context of `{model.name}` holds "
                f"{model.context_length}, answer included.",
                param,
                code="context_length_exceeded",
            )
        return ids

    def _job(
        self,
        draft: Draft,
        model: ServedModel,
        prompts: Sequence[Ids | None],
        caller: Caller,
        created: int,
    ) -> Job:
        body = draft.body
        raw = any(ids is None for ids in prompts)
        n = 1 if raw else body.n or 1
        shape = Shape(
            kind="chat" if draft.path == CHAT_PATH else "completion",
            request_id=caller.request_id,
            model=body.model,
            created=created,
            stream=bool(body.stream),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            logprobs=draft.logprobs is not None,
            token_ids=bool(body.return_token_ids),
            raw=raw,
            choices_per_prompt=n,
            parts=None if raw else self._parts(draft, model, prompts[0] or ()),
        )
        if raw:
            return Job(model, shape, (_obeyed(self._raw_spec(draft, model, caller), model),))
        specs = []
        for prompt, ids in enumerate(ids for ids in prompts if ids is not None):
            hashes = self._models.block_hashes(model, caller.tenant, ids)
            for choice in range(n):
                index = prompt * n + choice
                spec = token_spec(draft, model, caller, ids, hashes, index)
                specs.append(_obeyed(spec, model))
        return Job(model, shape, tuple(specs))

    def _parts(self, draft: Draft, model: ServedModel, ids: Ids) -> Parts | None:
        body, parsers = draft.body, model.parsers
        if not isinstance(body, ChatBody):
            return None
        called = bool(body.tools) and body.tool_choice != "none"
        tool_calls = parsers.tool_calls if called else None
        if parsers.reasoning is None and tool_calls is None:
            return None
        begun = self._models.begins_reasoning(model, ids)
        return Parts(parsers.reasoning, tool_calls, begun)

    def _raw_spec(self, draft: Draft, model: ServedModel, caller: Caller) -> RequestSpec:
        reason = draft.reason or ("several_choices" if (draft.body.n or 1) > 1 else "")
        text = msgspec.json.encode(draft.prompt)
        hashes = self._models.text_block_hashes(model, caller.tenant, text)
        estimate = max(1, len(text) // BYTES_PER_TOKEN)
        reason = reason or self._models.why_text(model)
        return choice_spec(draft, caller, None, estimate, hashes, 0, reason)


async def _tokenised(encoding: Awaitable[Ids | None], param: str) -> Ids | None:
    """Raises `RequestError`: 400 where the prompt cannot be tokenised, 503 where that is too
    early."""
    try:
        return await encoding
    except PromptInvalid as error:
        raise invalid(str(error), param, error.code) from error
    except ModelLoading as error:
        raise unavailable(str(error), "model_loading", retry_after_s=5.0) from error


def _check_lengths(body: Generation, max_tokens: int) -> None:
    if max_tokens and (body.min_tokens or 0) > max_tokens:
        raise invalid("`min_tokens` is larger than `max_tokens`.", "min_tokens")
    for key in body.logit_bias or ():
        if not key.isascii() or not key.isdigit():
            raise invalid("The keys of `logit_bias` are token ids.", "logit_bias")


def _obeyed(spec: RequestSpec, model: ServedModel) -> RequestSpec:
    """Raises `RequestError` (400) where it asks for what its engines ignore."""
    if model.ignores and (error := refusal(spec, model.ignores, model.engine_type)):
        raise RequestError(error)
    return spec


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as templates want it: they concatenate the content, so there is always one."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    plain.setdefault("content", "")
    return plain


def split_prompts(prompt: str | list[Any], param: str) -> list[str | Ids]:
    """The four forms of a prompt: text, token ids, several texts, several lists of token ids.

    Raises `RequestError` (400) for an empty or mixed list.
    """
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise invalid("The prompt is empty.", param)
    kinds = {type(item) for item in prompt}
    if kinds == {int}:
        return [tuple(prompt)]
    if kinds == {str}:
        return list(prompt)
    if kinds == {list}:
        return [tuple(item) for item in prompt]
    raise invalid("The list holds texts or token ids or lists of token ids, not a mixture.", param)
