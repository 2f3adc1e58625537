"""A gateway for tests: one session on a real channel, commands sorted by request."""

import asyncio
from collections import defaultdict
from types import TracebackType
from typing import Any, Self

import grpc

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc

WAIT_S = 10.0


class GatewayClient:
    """Says hello on entry. `ended` has the status with which the scheduler ended the session."""

    def __init__(self, channel: grpc.aio.Channel, gateway_id: str = "gw-1", term: int = 0) -> None:
        self.gateway_id = gateway_id
        self.terms: set[int] = set()  # of all commands
        self._term = term
        self._stub = pb_grpc.SchedulerStub(channel)
        self._commands: dict[str, asyncio.Queue[pb.SchedulerCommand]] = defaultdict(asyncio.Queue)
        self._topologies: asyncio.Queue[pb.Topology] = asyncio.Queue()
        self._writing = asyncio.Lock()
        self.order: list[str] = []  # kinds of all commands, as they came
        self.batch_sizes: list[int] = []
        self.ended: asyncio.Future[grpc.aio.AioRpcError | None]

    async def __aenter__(self) -> Self:
        self.ended = asyncio.get_running_loop().create_future()
        self._call: Any = self._stub.Session()
        hello = pb.Hello(gateway_id=self.gateway_id, version="t", term=self._term)
        await self.send(pb.GatewayEvent(hello=hello))
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def send(self, *events: pb.GatewayEvent) -> None:
        """One message of all of them."""
        async with self._writing:
            await self._call.write(pb.GatewayEvents(events=events))

    async def submit(self, *request_ids: str, **fields: Any) -> None:
        await self.send(*(submitted(request_id, **fields) for request_id in request_ids))

    async def finish(self, *request_ids: str, epoch: int = 1, output_tokens: int = 10) -> None:
        await self.send(
            *(
                pb.GatewayEvent(
                    finished=pb.Finished(
                        request_id=request_id,
                        epoch=epoch,
                        output_tokens=output_tokens,
                        finish_reason="stop",
                    )
                )
                for request_id in request_ids
            )
        )

    async def topology(self) -> pb.Topology:
        """The next one."""
        async with asyncio.timeout(WAIT_S):
            return await self._topologies.get()

    async def command(self, request_id: str) -> pb.SchedulerCommand:
        """The next for that request that is not a Hold."""
        async with asyncio.timeout(WAIT_S):
            while True:
                command = await self._commands[request_id].get()
                if command.WhichOneof("command") != "hold":
                    return command

    async def hold(self, request_id: str) -> pb.Hold:
        async with asyncio.timeout(WAIT_S):
            return (await self._commands[request_id].get()).hold

    async def assigned(self, request_id: str) -> pb.Assign:
        command = await self.command(request_id)
        assert command.WhichOneof("command") == "assign", command
        return command.assign

    def nothing_for(self, request_id: str) -> bool:
        return self._commands[request_id].empty()

    async def status(self) -> grpc.aio.AioRpcError:
        """The error with which the session ended."""
        async with asyncio.timeout(WAIT_S):
            error = await self.ended
        assert error is not None
        return error

    async def _read(self) -> None:
        try:
            async for batch in self._call:
                self.batch_sizes.append(len(batch.commands))
                self.terms.add(batch.term)
                for command in batch.commands:
                    self._sort(command)
            self.ended.set_result(None)
        except grpc.aio.AioRpcError as error:
            self.ended.set_result(error)

    def _sort(self, command: pb.SchedulerCommand) -> None:
        kind = command.WhichOneof("command")
        assert kind is not None
        self.order.append(kind)
        if kind == "topology":
            self._topologies.put_nowait(command.topology)
        else:
            self._commands[getattr(command, kind).request_id].put_nowait(command)


def submitted(request_id: str, **fields: Any) -> pb.GatewayEvent:
    """A new request of 256 prompt tokens for model `chat`, but for what `fields` say."""
    return pb.GatewayEvent(submitted=submission(request_id, **fields))


def submission(request_id: str, **fields: Any) -> pb.Submitted:
    defaults: dict[str, Any] = {
        "request_id": request_id,
        "epoch": 1,
        "model": "chat",
        "tenant": "acme",
        "prompt_tokens": 256,
        "prompt_tokens_exact": True,
        "max_output_tokens": 64,
    }
    return pb.Submitted(**{**defaults, **fields})
