"""Prompts as token ids: tokenised in a thread where they come as text, and checked."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from shunter_engine.errors import ApiError, bad_request
from shunter_engine.openai_requests import Prompt
from shunter_text.chat import ChatTemplateError
from shunter_text.tokenizer import TextTooLong, Tokenizer

TokenIds = tuple[int, ...]


class Prompts:
    """`context_length`: of prompt and answer together, in tokens."""

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length

    async def of_input(self, prompt: Prompt, param: str) -> tuple[TokenIds, ...]:
        """One prompt or several, as text or as token ids. Raises `ApiError` 400."""
        if isinstance(prompt, str) or any(isinstance(part, str) for part in prompt[:1]):
            prompts = await asyncio.to_thread(self._of_texts, prompt, param)
        else:
            prompts = _of_token_ids(prompt, param)
        if not prompts:
            raise bad_request(f"{param} must not be empty", param)
        for token_ids in prompts:
            self._check(token_ids, param)
        return prompts

    async def of_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> TokenIds:
        """Raises `ApiError` 400."""

        def encode() -> TokenIds:
            limit = self._context_length
            return tuple(
                self._tokenizer.encode_chat(
                    messages, tools, add_generation_prompt, max_tokens=limit
                )
            )

        try:
            token_ids = await asyncio.to_thread(encode)
        except ChatTemplateError as error:
            raise bad_request(str(error), "messages") from error
        except TextTooLong as error:
            raise _too_long(f"messages: {error}", "messages") from error
        self._check(token_ids, "messages")
        return token_ids

    def _of_texts(self, prompt: str | Sequence[object], param: str) -> tuple[TokenIds, ...]:
        texts = (prompt,) if isinstance(prompt, str) else prompt
        try:
            return tuple(self._encode(text, param) for text in texts)
        except TextTooLong as error:
            raise _too_long(f"{param} {error}", param) from error

    def _encode(self, text: object, param: str) -> TokenIds:
        if not isinstance(text, str):
            raise _mixture(param)
        return tuple(self._tokenizer.encode(text, max_tokens=self._context_length))

    def _check(self, token_ids: TokenIds, param: str) -> None:
        if not token_ids:
            raise bad_request(f"{param} must not be empty", param)
        if len(token_ids) >= self._context_length:
            raise _too_long(
                f"{param} has {len(token_ids)} tokens, and this model's context length is "
                f"{self._context_length} tokens, prompt and answer together",
                param,
            )
        if max(token_ids) >= self._tokenizer.vocab_size:
            raise bad_request(
                f"{param}: token ids must be below {self._tokenizer.vocab_size}", param
            )


def _of_token_ids(prompt: Sequence[object], param: str) -> tuple[TokenIds, ...]:
    token_ids = [part for part in prompt if isinstance(part, int)]
    lists = [tuple(part) for part in prompt if isinstance(part, list)]
    if len(token_ids) == len(prompt):
        return (tuple(token_ids),)
    if len(lists) == len(prompt):
        return tuple(lists)
    raise _mixture(param)


def _mixture(param: str) -> ApiError:
    return bad_request(f"{param} must be text or token ids, one prompt or a list of them", param)


def _too_long(message: str, param: str) -> ApiError:
    return bad_request(message, param, "context_length_exceeded")
