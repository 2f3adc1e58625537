"""A stub of SGLang's HTTP API as its adapter uses it: what 0.5.6 documents and its source does.

`/generate` streams all ids so far in each event, or with `--stream-output` the new ones; a priority
of None comes last; `/abort_request` ends every request whose id begins with the given one; a closed
connection does so after a while; `/health` takes a second. Its tokens follow from all tokens before
them, and with `--enable-deterministic-inference` from the seed and the position.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from shunter_gateway.testing_engines import next_token
from shunter_runtime.metrics import port_of
from shunter_text.sources import load_tokenizer
from shunter_text.tokenizer import Tokenizer

STEP_S = 0.002
ABORTED_LATE_S = 2.0  # after a stream's reader hung up (create_abort_task)
PROMPT_BLOCK = 64  # ids that the prefix cache keeps together; SGLang's pages have one


@dataclass(slots=True)
class SglangCall:
    """One `/generate` as the server holds it."""

    rid: str
    body: dict[str, Any]
    generated: list[int] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.body["sampling_params"]
        return params


@dataclass(slots=True)
class SglangStub:
    """What a test may set, and what the server has seen."""

    tokenizer: Tokenizer
    context_length: int = 4096
    incremental: bool = False  # --stream-output
    eos_id: int = -1
    queue_full: bool = False
    lost_events: set[int] = field(default_factory=set)  # by tokens generated, incremental only
    step_s: float = STEP_S
    script: dict[int, int] = field(default_factory=dict)  # ids that it generates, by position
    address: str = ""
    calls: list[SglangCall] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    cached: set[tuple[int, ...]] = field(default_factory=set)
    _runner: web.AppRunner | None = None

    @property
    def running(self) -> list[SglangCall]:
        return [call for call in self.calls if not call.over.is_set()]

    async def die(self) -> None:
        """Closes the socket and every connection at once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # ------------------------------------------------------------ handlers

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        assert body["stream"] is True
        call = SglangCall(body["rid"], body)
        self.calls.append(call)
        reply = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await reply.prepare(request)
        try:
            if refusal := self._refusal(call):
                await _send(reply, refusal)
            else:
                await self._stream(call, reply)
        except ConnectionError:
            await self._go_on_unread(call)
            raise
        finally:
            call.over.set()
        await reply.write(b"data: [DONE]\n\n")
        await reply.write_eof()
        return reply

    async def _go_on_unread(self, call: SglangCall) -> None:
        """Nobody reads any more: that is noticed late, an abort at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ABORTED_LATE_S):
                await call.over.wait()

    def _refusal(self, call: SglangCall) -> dict[str, Any] | None:
        ids, asked = call.body["input_ids"], call.params["max_new_tokens"]
        if self.queue_full:
            reason = {"type": "abort", "message": "The request queue is full.", "status_code": 503}
            meta = {"id": call.rid, "finish_reason": reason, "completion_tokens": 0}
            return {"text": "", "output_ids": [], "meta_info": meta}
        if len(ids) >= self.context_length or (
            asked is not None and len(ids) + asked >= self.context_length
        ):
            return {"error": {"message": "Requested token count exceeds the context length"}}
        return None

    async def _stream(self, call: SglangCall, reply: web.StreamResponse) -> None:
        ids = list(call.body["input_ids"])
        asked = call.params["max_new_tokens"]
        limit = self.context_length - len(ids) - 1 if asked is None else asked
        cached, sent = self.find_prefix(ids), 0
        while not call.over.is_set():
            await asyncio.sleep(self.step_s)
            token = self._next(call, ids)
            ids.append(token)
            call.generated.append(token)
            finish = self._finish(call, token, limit)
            if len(call.generated) in self.lost_events:
                self.lost_events.discard(len(call.generated))
            else:
                await _send(reply, self._event(call, sent, cached, finish))
            sent = len(call.generated)
            if finish is not None:
                break
        self._keep_prefix(ids)

    def _next(self, call: SglangCall, ids: list[int]) -> int:
        if (scripted := self.script.get(len(ids))) is not None:
            return scripted
        params = call.params
        seeded = params.get("temperature", 1.0) and params.get("sampling_seed", 42)
        salt = (seeded, len(ids)) if seeded else ()
        return next_token((*ids, *salt), self.tokenizer.vocab_size)

    def _finish(self, call: SglangCall, token: int, limit: int) -> dict[str, Any] | None:
        params, count = call.params, len(call.generated)
        ends = {*params.get("stop_token_ids", ())}
        if not params.get("ignore_eos"):
            ends.add(self.eos_id)
        if token in ends and count >= params.get("min_new_tokens", 0):
            return {"type": "stop", "matched": token}
        return {"type": "length", "length": limit} if count >= limit else None

    def _event(
        self, call: SglangCall, sent: int, cached: int, finish: dict[str, Any] | None
    ) -> dict[str, Any]:
        made = call.generated
        meta: dict[str, Any] = {
            "id": call.rid,
            "finish_reason": finish,
            "prompt_tokens": len(call.body["input_ids"]),
            "completion_tokens": len(made),
            "cached_tokens": cached,
        }
        if call.body.get("return_logprob"):
            meta["input_token_logprobs"] = []
            meta["output_token_logprobs"] = [(-float(i), i, None) for i in made]
            if count := call.body.get("top_logprobs_num", 0):
                tops = [[(-float(i + n), i + n, None) for n in range(count)] for i in made]
                meta["output_top_logprobs"] = tops
        text = self.tokenizer.decode(made)
        ids = made[sent:] if self.incremental else list(made)
        return {"text": text, "output_ids": ids, "meta_info": meta}

    def find_prefix(self, ids: Sequence[int]) -> int:
        whole = range(len(ids) // PROMPT_BLOCK * PROMPT_BLOCK, 0, -PROMPT_BLOCK)
        return next((n for n in whole if tuple(ids[:n]) in self.cached), 0)

    def _keep_prefix(self, ids: Sequence[int]) -> None:
        for end in range(PROMPT_BLOCK, len(ids) + 1, PROMPT_BLOCK):
            self.cached.add(tuple(ids[:end]))

    async def abort(self, request: web.Request) -> web.Response:
        rid = msgspec.json.decode(await request.read())["rid"]
        self.aborts.append(rid)
        for call in self.calls:
            if call.rid.startswith(rid):
                call.over.set()
        return web.Response()

    async def tokenize(self, request: web.Request) -> web.Response:
        text = msgspec.json.decode(await request.read())["prompt"]
        ids = list(self.tokenizer.encode(text))
        return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": 4096})

    async def health(self, request: web.Request) -> web.Response:
        await asyncio.sleep(1.0)
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def metrics(self, request: web.Request) -> web.Response:
        labels = '{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"}'
        used = sum(len(c.body["input_ids"]) + len(c.generated) for c in self.running)
        capacity = 65_536
        gauges = (
            ("num_running_reqs", len(self.running)),
            ("num_queue_reqs", 0),
            ("token_usage", round(used / capacity, 4)),
            ("max_total_num_tokens", capacity),
        )
        page = "".join(f"sglang:{name}{labels} {float(value)}\n" for name, value in gauges)
        return web.Response(text=page)


async def _send(reply: web.StreamResponse, event: dict[str, Any]) -> None:
    await reply.write(b"data: " + msgspec.json.encode(event) + b"\n\n")


@asynccontextmanager
async def sglang_stub(source: str, **options: Any) -> AsyncIterator[SglangStub]:
    """Of the model whose tokenizer `source` names."""
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None, source
    stub = SglangStub(tokenizer, **options)
    app = web.Application()
    app.router.add_post("/generate", stub.generate)
    app.router.add_post("/abort_request", stub.abort)
    app.router.add_post("/tokenize", stub.tokenize)
    app.router.add_get("/health", stub.health)
    app.router.add_get("/v1/models", stub.models)
    app.router.add_get("/metrics", stub.metrics)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stub.address = f"127.0.0.1:{port_of(runner)}"
    stub._runner = runner
    try:
        yield stub
    finally:
        await stub.die()
