"""A scheduler that answers what a test tells it to, over a real socket."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc


@dataclass
class FakeScheduler(pb_grpc.SchedulerServicer):
    """Only what commands call. What it does not know is NOT_FOUND, as with the real one."""

    status: pb.StatusReply = field(default_factory=pb.StatusReply)
    explanations: dict[str, pb.ExplainReply] = field(default_factory=dict)
    drains: dict[str, list[pb.DrainProgress]] = field(default_factory=dict)
    drained: list[pb.DrainRequest] = field(default_factory=list)
    undrained: list[str] = field(default_factory=list)

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        return self.status

    def Watch(
        self, request: pb.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StatusReply]:
        yield self.status

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:
        if request.request_id not in self.explanations:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such request")
        return self.explanations[request.request_id]

    def Drain(
        self, request: pb.DrainRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DrainProgress]:
        if request.instance not in self.drains:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no instance {request.instance}")
        self.drained.append(request)
        yield from self.drains[request.instance]

    def Undrain(self, request: pb.UndrainRequest, context: grpc.ServicerContext) -> pb.UndrainReply:
        self.undrained.append(request.instance)
        return pb.UndrainReply()

    def Session(
        self, request_iterator: Iterator[pb.GatewayEvents], context: grpc.ServicerContext
    ) -> Iterator[pb.SchedulerCommands]:
        raise NotImplementedError

    def Dispatch(
        self, request: pb.DispatchRequest, context: grpc.ServicerContext
    ) -> pb.DispatchReply:
        raise NotImplementedError

    def Complete(
        self, request: pb.CompleteRequest, context: grpc.ServicerContext
    ) -> pb.CompleteReply:
        raise NotImplementedError

    def AdviseScaling(
        self, request: pb.AdviseScalingRequest, context: grpc.ServicerContext
    ) -> pb.AdviseScalingReply:
        raise NotImplementedError


@contextmanager
def serve_scheduler(
    fake: FakeScheduler, credentials: grpc.ServerCredentials | None = None
) -> Iterator[str]:
    """Its address (host:port) while it serves, with TLS where there are credentials."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    pb_grpc.add_SchedulerServicer_to_server(fake, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
