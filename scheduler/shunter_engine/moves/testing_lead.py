"""Helpers for tests of moves: a gateway's part of a move."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc

from shunter_engine.moves.testing import MovingEngine
from shunter_engine.moves.testing_streams import WAIT_S, Stream, start_stream
from shunter_proto.v1 import moves_pb2 as pb


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
