"""`/tokenize`, `/detokenize` and `/v1/embeddings`."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from aiohttp import web

from shunter_engine.backend import Backend
from shunter_engine.bodies import read_body
from shunter_engine.errors import ApiError, bad_request
from shunter_engine.openai_requests import (
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
    check_model,
    prompt_count,
)
from shunter_engine.prompts import Prompts
from shunter_text.chat import ChatTemplateError
from shunter_text.tokenizer import Tokenizer

MAX_EMBEDDING_INPUTS = 256


class Embedder(Protocol):
    async def embed(self, token_ids: list[int]) -> list[float]:
        """One vector of fixed length for a non-empty text."""


class TextHandlers:
    def __init__(
        self, model_name: str, backend: Backend, tokenizer: Tokenizer, embedder: Embedder | None
    ) -> None:
        self._model_name = model_name
        self._backend = backend
        self._tokenizer = tokenizer
        self._prompts = Prompts(tokenizer, backend.context_length)
        self._embedder = embedder

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, TokenizeBody)
        check_model(body.model, self._model_name)
        if (body.prompt is None) == (body.messages is None):
            raise bad_request("give either prompt or messages", "prompt")
        try:
            tokens = await asyncio.to_thread(self._encode, body)
        except ChatTemplateError as error:
            raise bad_request(str(error), "messages") from error
        return _json_response(
            {
                "tokens": tokens,
                "count": len(tokens),
                "max_model_len": self._backend.context_length,
            }
        )

    async def detokenize(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, DetokenizeBody)
        check_model(body.model, self._model_name)
        text = await asyncio.to_thread(self._tokenizer.decode, body.tokens)
        return _json_response({"prompt": text})

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, EmbeddingBody)
        check_model(body.model, self._model_name)
        if self._embedder is None:
            raise ApiError(404, f"the model {self._model_name!r} has no embeddings", "model")
        if body.encoding_format not in ("float", "base64"):
            raise bad_request("encoding_format must be float or base64", "encoding_format")
        if prompt_count(body.input) > MAX_EMBEDDING_INPUTS:
            raise bad_request(f"input: at most {MAX_EMBEDDING_INPUTS} texts", "input")
        prompts = await self._prompts.of_input(body.input, "input")
        vectors = [await self._embedder.embed(list(ids)) for ids in prompts]
        return _json_response(self._embedding_list(vectors, prompts, body.encoding_format))

    def _encode(self, body: TokenizeBody) -> list[int]:
        if body.prompt is not None:
            return self._tokenizer.encode(body.prompt, body.add_special_tokens is not False)
        return self._tokenizer.encode_chat(
            body.messages or (), body.tools, body.add_generation_prompt
        )

    def _embedding_list(
        self,
        vectors: Sequence[list[float]],
        prompts: Sequence[Sequence[int]],
        encoding_format: str,
    ) -> dict[str, object]:
        tokens = sum(map(len, prompts))
        return {
            "object": "list",
            "model": self._model_name,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _encoded(vector, encoding_format),
                }
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _encoded(vector: list[float], encoding_format: str) -> list[float] | str:
    """Base64 of little-endian float32 is what OpenAI's client asks for by default."""
    if encoding_format == "float":
        return vector
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _json_response(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
