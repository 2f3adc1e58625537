"""Helpers for tests of moves: engines with a moves port, and a gateway's part of a move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import msgspec

from shunter_engine.loading import load
from shunter_engine.moves.ports import Calls, KvHost
from shunter_engine.moves.start import serving_moves
from shunter_engine.options import EngineOptions
from shunter_engine.server import EngineParts, EngineServer, listen
from shunter_proto.v1 import moves_pb2 as pb
from shunter_proto.v1 import moves_pb2_grpc as pb_grpc
from shunter_runtime.metrics import port_of
from shunter_simulator.engine import StepPlan

WAIT_S = 120.0  # as long as it must be on a machine with other work


@dataclass
class MovingEngine:
    url: str
    moves: str  # host:port
    stub: "pb_grpc.EngineMovesAsyncStub"
    parts: EngineParts
    holds: "Holds"

    @property
    def used_blocks(self) -> int:
        return self.parts.backend.stats().kv_blocks_used


class Holds:
    """Lets an engine compute nothing while an answer is to wait at so many tokens for its move:
    where a test meets it does not hang on the machine's speed."""

    def __init__(self, host: KvHost, calls: Calls) -> None:
        self._host = host
        self._calls = calls
        self._at: dict[str, int] = {}
        self._plan = host.batch.plan
        host.batch.plan = self.plan  # type: ignore[method-assign]

    def hold(self, call_id: str, output_tokens: int) -> None:
        """To be called before the call comes."""
        self._at[call_id] = output_tokens

    def let_go(self, call_id: str) -> None:
        self._at.pop(call_id, None)
        self.wake()

    def wake(self) -> None:
        """After a hold was moved on."""
        self._host.wake()

    def plan(self) -> StepPlan | None:
        for call_id, output_tokens in self._at.items():
            for name in self._calls.sequences_of(call_id):
                view = self._host.batch.view(name)
                if view is not None and view.output_tokens >= output_tokens:
                    return None
        return self._plan()


@asynccontextmanager
async def moving_engine(
    options: EngineOptions, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[MovingEngine]:
    """An engine in this process, behind real sockets. `options` has a moves port; `credentials`
    are those of the `stub` given."""
    server = EngineServer(options.model_name, allow_faults=True)
    parts = await load(options)
    runner = await listen(server, "127.0.0.1", 0)
    try:
        async with serving_moves(options, parts, server) as take_over:
            server.load(parts, take_over)
            port = _moves_port(server)
            async with _channel(f"127.0.0.1:{port}", credentials) as channel:
                stub = pb_grpc.EngineMovesStub(channel)
                assert isinstance(parts.backend, KvHost)
                url, moves = f"http://127.0.0.1:{port_of(runner)}", f"127.0.0.1:{port}"
                yield MovingEngine(url, moves, stub, parts, Holds(parts.backend, server.calls))
            await runner.cleanup()
    finally:
        await runner.cleanup()
        await parts.backend.stop()


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials)


def _moves_port(server: EngineServer) -> int:
    for family in server.registry.collect():
        if family.name == "shunter:kv_moves_info":
            return int(family.samples[0].labels["port"])
    raise AssertionError("no moves port is advertised")


@dataclass
class Stream:
    """A generate call under way."""

    call_id: str
    body: dict[str, Any]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    broken: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def prompt(self) -> list[int]:
        prompt: list[int] = self.body["prompt"]
        return prompt

    async def reach(self, tokens: int) -> None:
        """Waits for so many tokens, or for the end."""
        async with asyncio.timeout(WAIT_S):
            while len(self.token_ids) < tokens and self.task is not None and not self.task.done():
                self.news.clear()
                await self.news.wait()

    async def end(self) -> None:
        assert self.task is not None
        await asyncio.wait_for(asyncio.shield(self.task), WAIT_S)

    async def leave(self) -> None:
        """Closes the connection."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])


def start_stream(
    client: aiohttp.ClientSession, url: str, call_id: str, prompt: list[int], **body: Any
) -> Stream:
    stream = Stream(call_id, {"prompt": prompt, "request_id": call_id, **body})
    stream.task = asyncio.create_task(_read(client, url, stream))
    return stream


async def _read(client: aiohttp.ClientSession, url: str, stream: Stream) -> None:
    fixed = {
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    try:
        async with client.post(f"{url}/v1/completions", json={**fixed, **stream.body}) as response:
            response.raise_for_status()
            async for line in response.content:
                _take(stream, line.strip().removeprefix(b"data: "))
                stream.news.set()
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError):
        stream.broken = True
    finally:
        stream.news.set()


def _take(stream: Stream, data: bytes) -> None:
    if not data or data == b"[DONE]":
        return
    event = msgspec.json.decode(data)
    for choice in event["choices"]:
        stream.token_ids += choice["token_ids"]
        if choice.get("logprobs"):
            stream.logprobs += choice["logprobs"]["top_logprobs"]
        stream.finish_reason = choice["finish_reason"] or stream.finish_reason
    stream.usage = event.get("usage") or stream.usage


@dataclass
class Moved:
    """What a move did; `stream` is the continuation at the destination."""

    stream: Stream
    frozen_at: int  # generated tokens
    reports: list[pb.PullReport]


@dataclass
class MoveLead:
    """The gateway's part of one move, call by call. Epochs: 1 is the source's, 2 the new one."""

    move_id: str
    source: MovingEngine
    destination: MovingEngine
    stream: Stream
    lease_ms: int = 60_000  # the longest that engines grant: a slow machine is no failure
    offer: pb.OfferReply = field(default_factory=pb.OfferReply)
    prepared: pb.PrepareReply = field(default_factory=pb.PrepareReply)
    frozen: pb.FreezeReply = field(default_factory=pb.FreezeReply)
    reports: list[pb.PullReport] = field(default_factory=list)
    stage: asyncio.Event = field(default_factory=asyncio.Event)
    pulling: "asyncio.Task[None] | None" = None

    async def do_offer(self, epoch: int = 1) -> pb.OfferReply:
        request = pb.OfferRequest(
            move_id=self.move_id,
            call_id=self.stream.call_id,
            request_id="r",
            epoch=epoch,
            lease_ms=self.lease_ms,
        )
        self.offer = await self.source.stub.Offer(request)
        return self.offer

    async def do_prepare(self, epoch: int = 1, headroom: int = 64) -> pb.PrepareReply:
        request = pb.PrepareRequest(
            move_id=self.move_id,
            request_id="r",
            epoch=epoch,
            manifest=self.offer.manifest,
            token_ids=[*self.stream.prompt, *self.stream.token_ids],
            headroom_tokens=headroom,
            lease_ms=self.lease_ms,
        )
        self.prepared = await self.destination.stub.Prepare(request)
        return self.prepared

    def start_pull(self, **changed: Any) -> None:
        request = {
            "move_id": self.move_id,
            "kv_lease": self.prepared.kv_lease,
            "source_address": self.source.moves,
            "transfer_token": self.offer.transfer_token,
            **changed,
        }
        self.pulling = asyncio.create_task(self._pull(pb.PullRequest(**request)))

    async def _pull(self, request: pb.PullRequest) -> None:
        async for report in self.destination.stub.Pull(request):
            self.reports.append(report)
            self.stage.set()

    async def pulled(self) -> pb.PullReport:
        """The last report."""
        assert self.pulling is not None
        await asyncio.wait_for(self.pulling, WAIT_S)
        return self.reports[-1]

    async def staged(self, stages: int = 1) -> None:
        """Waits for the end of so many stages."""
        async with asyncio.timeout(WAIT_S):
            while len(self.reports) < stages:
                self.stage.clear()
                await self.stage.wait()

    async def do_freeze(self, epoch: int = 1) -> pb.FreezeReply:
        request = pb.FreezeRequest(move_id=self.move_id, epoch=epoch, lease_ms=self.lease_ms)
        self.frozen = await self.source.stub.Freeze(request)
        self.source.holds.let_go(self.stream.call_id)
        return self.frozen

    async def do_commit(self, epoch: int = 2, wait_ms: int = 60_000) -> pb.CommitReply:
        request = pb.CommitRequest(
            move_id=self.move_id,
            request_id="r",
            epoch=epoch,
            kv_lease=self.prepared.kv_lease,
            tokens=self.frozen.tokens,
            tokens_digest=self.frozen.tokens_digest,
            wait_ms=wait_ms,
        )
        return await self.destination.stub.Commit(request)

    async def go_on(self, client: aiohttp.ClientSession) -> Stream:
        """The generate call at the destination, once all that was generated has come."""
        before, offset = self.stream, self.frozen.output_tokens
        await before.reach(offset - before.body.get("output_offset", 0))
        body = {**before.body}
        body["prompt"] = [*before.prompt, *before.token_ids]
        body["output_offset"] = offset
        body["max_tokens"] = before.body["max_tokens"] - len(before.token_ids)
        body["min_tokens"] = max(0, before.body.get("min_tokens", 0) - len(before.token_ids))
        body["kv_lease"] = self.prepared.kv_lease
        call_id = f"{before.call_id}+"
        del body["request_id"]
        return start_stream(client, self.destination.url, call_id, **body)

    async def release(self, epoch: int = 2) -> pb.ReleaseReply:
        return await self.source.stub.Release(pb.ReleaseRequest(move_id=self.move_id, epoch=epoch))

    async def abort(self, engine: MovingEngine, epoch: int = 2) -> pb.AbortReply:
        return await engine.stub.Abort(
            pb.AbortRequest(move_id=self.move_id, epoch=epoch, call_id=self.stream.call_id)
        )

    async def state(self, engine: MovingEngine) -> "pb.StateReply.Phase.ValueType":
        reply = await engine.stub.State(pb.StateRequest(move_id=self.move_id))
        return reply.phase

    async def close(self) -> None:
        if self.pulling is not None:
            self.pulling.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await self.pulling


async def move(client: aiohttp.ClientSession, lead: MoveLead) -> Moved:
    """A whole move in which nothing goes wrong."""
    assert not (await lead.do_offer()).refusal
    assert not (await lead.do_prepare()).refusal
    lead.start_pull()
    await lead.staged()
    assert not (await lead.do_freeze()).refusal
    assert not (await lead.do_commit()).refusal
    stream = await lead.go_on(client)
    assert not (await lead.release()).refusal
    await lead.close()
    return Moved(stream, lead.frozen.output_tokens, lead.reports)
