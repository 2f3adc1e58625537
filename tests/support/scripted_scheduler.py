"""A scheduler on a real socket that answers the operator as a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc


@dataclass
class ScriptedScheduler(pb_grpc.SchedulerServicer):
    """Answers the operator's calls as a test says; on a real socket."""

    instances: dict[str, int] = field(default_factory=dict)  # requests that run there
    draining: set[str] = field(default_factory=set)
    advice: dict[tuple[str, str], int] = field(default_factory=dict)
    pools: tuple[str, ...] = ("chat",)

    async def Status(self, request: Any, context: Any) -> pb.StatusReply:
        return pb.StatusReply(
            pools=[pb.StatusReply.Pool(name=n, slo_attainment=1.0) for n in self.pools],
            instances=[
                pb.StatusReply.Instance(
                    name=name,
                    pool=self.pools[0],
                    running=running,
                    state="draining" if name in self.draining else "ready",
                )
                for name, running in self.instances.items()
            ],
        )

    async def AdviseScaling(self, request: Any, context: Any) -> pb.AdviseScalingReply:
        return pb.AdviseScalingReply(
            advice=[
                pb.AdviseScalingReply.Advice(pool=pool, profile=profile, desired_replicas=count)
                for (pool, profile), count in self.advice.items()
            ]
        )

    async def Drain(self, request: Any, context: Any) -> AsyncIterator[pb.DrainProgress]:
        self.draining.add(request.instance)
        yield pb.DrainProgress(instance=request.instance)

    async def Undrain(self, request: Any, context: Any) -> pb.UndrainReply:
        self.draining.discard(request.instance)
        return pb.UndrainReply()


@asynccontextmanager
async def scripted_scheduler() -> AsyncIterator[tuple[ScriptedScheduler, str]]:
    server = grpc.aio.server()
    scheduler = ScriptedScheduler()  # type: ignore[abstract]
    pb_grpc.add_SchedulerServicer_to_server(scheduler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield scheduler, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
