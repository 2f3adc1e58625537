"""What `shunter up` asks of its scheduler."""

import asyncio
from collections.abc import Callable

import grpc

from shunter.failure import Failure
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1.scheduler_pb2_grpc import SchedulerStub

CALL_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 3600.0
POLL_S = 0.1
RESUME_POLL_S = 1.0


class SchedulerCalls:
    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = SchedulerStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def wait_instances(self, names: list[str], deadline_s: float) -> None:
        """Until the scheduler calls them ready and has a gateway. Raises `Failure`."""
        missing = names
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    try:
                        reply = await self._stub.Status(pb.StatusRequest(), timeout=CALL_TIMEOUT_S)
                    except grpc.RpcError:
                        await asyncio.sleep(POLL_S)
                        continue
                    ready = {i.name for i in reply.instances if i.state == "ready"}
                    missing = [name for name in names if name not in ready]
                    if not missing and reply.gateways:
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            what = f"{missing[0]} is not ready for it" if missing else "no gateway has reached it"
            raise Failure(f"the scheduler serves, but {what} after {deadline_s:g} s") from None

    async def follow_resumes(self, tell: Callable[[str], None]) -> None:
        """Tells how many requests went on elsewhere after an engine failed, once no more do. Ends
        by cancellation."""
        told = seen = 0
        while True:
            await asyncio.sleep(RESUME_POLL_S)
            try:
                reply = await self._stub.Status(pb.StatusRequest(), timeout=CALL_TIMEOUT_S)
            except grpc.RpcError:
                continue
            total = reply.resumed_total
            if total < told:  # another scheduler counts anew
                told = 0
            if total == seen and total > told:
                tell(f"{total - told} resumed after a failure")
                told = total
            seen = total

    async def drain(self, instance: str) -> None:
        """Until it is empty or its deadline has passed; without a scheduler there is no moving."""
        try:
            async for progress in self._stub.Drain(
                pb.DrainRequest(instance=instance), timeout=DRAIN_TIMEOUT_S
            ):
                if progress.done:
                    return
        except grpc.RpcError:
            return

    async def undrain(self, instance: str) -> None:
        try:
            await self._stub.Undrain(pb.UndrainRequest(instance=instance), timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise Failure(f"{instance} was not taken back: {error}") from error
