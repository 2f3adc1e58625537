"""A small OpenAI endpoint whose models misbehave as their names say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

MODELS = ("good", "slow", "busy", "short", "broken", "truncated", "garbled", "silent", "gone")


class FakeEndpoint:
    """`good` answers with exactly `max_tokens` tokens. `requests` keeps every body it received."""

    def __init__(self, step_s: float = 0.0, api_key: str = "") -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._step_s = step_s
        self._api_key = api_key

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeEndpoint"]:
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return web.json_response({"error": {"message": "no such key"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": name} for name in MODELS]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if body["model"] == "busy":
                error = {"error": {"message": "come back later", "code": 429}}
                return web.json_response(error, status=429)
            return await self._stream(request, body)
        finally:
            self.in_flight -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        model, tokens = body["model"], body["max_tokens"]
        tokens -= model == "short"
        chat = "messages" in body
        if chat:
            await _send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for index in range(tokens):
            await asyncio.sleep(1.0 if model == "slow" else self._step_s)
            if index == 2 and model in _BREAKS:
                return await _BREAKS[model](request, response)
            choice = {"delta": {"content": "x"}} if chat else {"text": "x"}
            await _send(response, {"choices": [{"index": 0, **choice}]})
        usage = {"prompt_tokens": len(body.get("prompt", ())), "completion_tokens": tokens}
        await _send(response, {"choices": [{"finish_reason": "length", "text": ""}]})
        if model != "silent":
            await _send(response, {"choices": [], "usage": usage})
        await response.write(b": comment\n\ndata: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")


async def _broken(_: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    await _send(response, {"error": {"message": "engine lost", "code": 500}})
    return response


async def _truncated(_: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    return response


async def _garbled(_: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    await response.write(b"data: {no json\n\n")
    return response


async def _gone(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


_BREAKS = {"broken": _broken, "truncated": _truncated, "garbled": _garbled, "gone": _gone}
