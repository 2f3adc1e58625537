"""A gateway's side of the scheduler's protocol, and requests to send through it."""

import asyncio
import os
import random
import time
from typing import Any

import grpc

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

PROMPT_TOKENS, BLOCKS, SHARED_BLOCKS, GROUPS = 2048, 32, 16, 200
PROGRESS_REPORTS = 8
BATCH = 256


class StreamClient:
    """A gateway that sends whatever is queued, as the real one does."""

    def __init__(self, stub: "pb_grpc.SchedulerAsyncStub") -> None:
        self._call: Any = stub.Session()
        self._outbox: list[pb.GatewayEvent] = []
        self._progress: list[pb.Progress.Item] = []
        self._wake = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[pb.Assign]] = {}
        self.known = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write())
            tasks.create_task(self._read())

    def send(self, event: pb.GatewayEvent) -> None:
        self._outbox.append(event)
        self._wake.set()

    def report(self, item: pb.Progress.Item) -> None:
        self._progress.append(item)
        self._wake.set()

    async def place(self, request: pb.Submitted) -> pb.Assign:
        future: asyncio.Future[pb.Assign] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = future
        self.send(pb.GatewayEvent(submitted=request))
        return await future

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._progress:
                items, self._progress = self._progress, []
                self._outbox.insert(0, pb.GatewayEvent(progress=pb.Progress(items=items)))
            while self._outbox:
                batch, self._outbox = self._outbox[:BATCH], self._outbox[BATCH:]
                await self._call.write(pb.GatewayEvents(events=batch))

    async def _read(self) -> None:
        while (batch := await self._call.read()) is not grpc.aio.EOF:
            for command in batch.commands:
                kind = command.WhichOneof("command")
                if kind == "assign":
                    self._waiting.pop(command.assign.request_id).set_result(command.assign)
                elif kind == "topology":
                    self.known.set()
                elif kind == "reject":
                    raise RuntimeError(f"rejected: {command.reject}")


class Load:
    """Requests, each with an id of its own, sent one way or the other."""

    def __init__(self, client: StreamClient, stub: "pb_grpc.SchedulerAsyncStub") -> None:
        self._client = client
        self._stub = stub
        self._rng = random.Random(1)
        self._count = 0
        self._groups = [self._rng.randbytes(8 * SHARED_BLOCKS) for _ in range(GROUPS)]
        self.last_id = ""

    def request(self) -> pb.Submitted:
        self._count += 1
        self.last_id = f"bench-{os.getpid()}-{self._count:012d}"
        own = self._rng.randbytes(8 * (BLOCKS - SHARED_BLOCKS))
        return pb.Submitted(
            request_id=self.last_id,
            epoch=1,
            model="chat",
            tenant="acme",
            prompt_tokens=PROMPT_TOKENS,
            prompt_tokens_exact=True,
            max_output_tokens=256,
            block_hashes=self._rng.choice(self._groups) + own,
        )

    async def decide(self) -> float:
        request = self.request()
        start = time.perf_counter()
        await self._client.place(request)
        took = time.perf_counter() - start
        self._client.send(finished(request.request_id, 128))
        return took

    async def life(self) -> float:
        request = self.request()
        start = time.perf_counter()
        await self._client.place(request)
        took = time.perf_counter() - start
        send, request_id = self._client.send, request.request_id
        send(
            pb.GatewayEvent(first_token=pb.FirstToken(request_id=request_id, epoch=1, ttft_ms=100))
        )
        for report in range(1, PROGRESS_REPORTS + 1):
            item = pb.Progress.Item(request_id=request_id, epoch=1, output_tokens=16 * report)
            self._client.report(item)
            await asyncio.sleep(0)  # reports of all that are in flight go together
        send(finished(request_id, 16 * PROGRESS_REPORTS))
        return took

    async def unary(self) -> float:
        request = self.request()
        start = time.perf_counter()
        reply = await self._stub.Dispatch(pb.DispatchRequest(request=request), timeout=10)
        took = time.perf_counter() - start
        assert reply.WhichOneof("outcome") == "assign", reply
        done = pb.CompleteRequest(request_id=request.request_id, output_tokens=128)
        await self._stub.Complete(done, timeout=10)
        return took

    async def explain(self) -> float:
        start = time.perf_counter()
        reply = await self._stub.Explain(pb.ExplainRequest(request_id=self.last_id), timeout=10)
        assert reply.decisions
        return time.perf_counter() - start


def finished(request_id: str, tokens: int) -> pb.GatewayEvent:
    return pb.GatewayEvent(
        finished=pb.Finished(
            request_id=request_id, epoch=1, output_tokens=tokens, finish_reason="stop"
        )
    )
