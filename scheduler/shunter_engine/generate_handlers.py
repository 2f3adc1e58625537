"""`/v1/completions`, `/v1/chat/completions` and the abort call."""

import asyncio
import time
import uuid

from aiohttp import HttpVersion11, web

from shunter_engine.backend import PromptTooLong, QueueFull
from shunter_engine.bodies import read_body
from shunter_engine.errors import ApiError, bad_request
from shunter_engine.faults import Faults
from shunter_engine.generation import Generation, Piece, Surroundings
from shunter_engine.openai_answers import (
    DONE,
    AnswerHead,
    Collected,
    EventEncoder,
    LogprobNames,
    whole_answer,
)
from shunter_engine.openai_requests import (
    MAX_REQUEST_ID_CHARS,
    AbortBody,
    ChatBody,
    CompletionBody,
    GenerateBody,
    GenerateCall,
    chat_call,
    check_choices,
    check_model,
    check_token_ids,
    completion_call,
)
from shunter_engine.prompts import Prompts
from shunter_engine.running import RunningCalls
from shunter_engine.sse import EventStream

QUEUE_RETRY_AFTER_S = 1.0


class GenerateHandlers:
    def __init__(
        self,
        around: Surroundings,
        running: RunningCalls,
        faults: Faults,
        model_name: str,
        default_seed: int,
    ) -> None:
        self._around = around
        self._running = running
        self._tokenizer = around.tokenizer
        self._prompts = Prompts(around.tokenizer, around.backend.context_length)
        self._faults = faults
        self._model_name = model_name
        self._default_seed = default_seed

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, CompletionBody)
        self._check(body)
        check_choices(body.prompt, body.n)
        prompts = await self._prompts.of_input(body.prompt, "prompt")
        call = completion_call(body, prompts, self._default_seed)
        return await self._answer(request, call, body.request_id)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, ChatBody)
        self._check(body)
        tools = None if body.tool_choice == "none" else body.tools
        prompt = await self._prompts.of_chat(body.messages, tools, body.add_generation_prompt)
        call = chat_call(body, prompt, self._default_seed)
        return await self._answer(request, call, body.request_id)

    async def abort(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, AbortBody)
        self._running.abort(body.request_ids)
        return web.json_response({})

    def _check(self, body: GenerateBody) -> None:
        self._faults.check_accepts()
        check_model(body.model, self._model_name)

    async def _answer(
        self, request: web.Request, call: GenerateCall, request_id: str | None
    ) -> web.StreamResponse:
        check_token_ids(call.sampling, self._tokenizer.vocab_size)
        request_id = request_id or _header_id(request) or uuid.uuid4().hex
        answer_id = f"{'chatcmpl' if call.chat else 'cmpl'}-{request_id}"
        head = AnswerHead(answer_id, int(time.time()), self._model_name)
        names = LogprobNames(self._tokenizer, call.name_tokens_by_id)
        if call.stream:
            if request.version < HttpVersion11:
                raise bad_request("streaming needs HTTP/1.1", "stream")
            return await self._stream(request, call, head, names)
        return await self._collect(call, head, names)

    async def _stream(
        self, request: web.Request, call: GenerateCall, head: AnswerHead, names: LogprobNames
    ) -> web.StreamResponse:
        encoder = EventEncoder(call, head, names)
        loop = asyncio.get_running_loop()
        # Not at once: it is noticed while the backend hands out a step's tokens.
        stream = EventStream(on_stuck=lambda: loop.call_soon(generation.abort))

        def on_piece(piece: Piece) -> None:
            event = encoder.piece(piece)
            if event is not None:
                stream.write(event)

        generation = Generation(call, head.answer_id, self._around, on_piece)
        serial = self._submit(generation)
        try:
            if call.chat:
                for choice in generation.choices:
                    stream.write(encoder.opening(choice.index))
            await stream.open(request)
            await generation.done.wait()
            if generation.broken:
                stream.break_off()
            if call.include_usage:
                stream.write(encoder.usage(generation.usage()))
            stream.write(DONE)
            return await stream.close()
        finally:
            self._running.retire(serial)

    async def _collect(
        self, call: GenerateCall, head: AnswerHead, names: LogprobNames
    ) -> web.StreamResponse:
        choices = [Collected() for _ in range(len(call.prompts) * call.n)]
        generation = Generation(
            call, head.answer_id, self._around, lambda piece: choices[piece.index].add(piece)
        )
        serial = self._submit(generation)
        try:
            await generation.done.wait()
        finally:
            self._running.retire(serial)
        if generation.broken or any(choice.finish_reason == "error" for choice in choices):
            raise ApiError(500, "the engine failed to compute an answer")
        body = whole_answer(call, head, names, choices, generation.usage())
        return web.Response(body=body, content_type="application/json")

    def _submit(self, generation: Generation) -> int:
        serial = self._running.next_serial()
        try:
            generation.submit(serial)
        except PromptTooLong as error:
            param = "messages" if generation.call.chat else "prompt"
            raise bad_request(str(error), param, "context_length_exceeded") from error
        except QueueFull as error:
            raise ApiError(429, str(error), retry_after_s=QUEUE_RETRY_AFTER_S) from error
        self._running.add(serial, generation)
        return serial


def _header_id(request: web.Request) -> str | None:
    """The header's id, unless it could not be repeated in JSON and logs as it is."""
    header = request.headers.get("X-Request-Id", "")
    return header[:MAX_REQUEST_ID_CHARS] if header.isascii() and header.isprintable() else None
