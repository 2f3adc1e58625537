"""The gRPC server around the service: limits, keepalive, health, reflection, TLS."""

from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_proto.v1 import scheduler_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, bind_server

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a batch of 256 prompts of 128 k tokens each
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 4096),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # 60 s by default, whatever the keepalive timeout
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.so_reuseport", 0),  # a second scheduler on the port must fail, not share it
)
SERVICE = pb.DESCRIPTOR.services_by_name["Scheduler"].full_name


@dataclass(frozen=True, slots=True)
class Listening:
    """A started server. `port` is what the system chose where 0 was asked for."""

    server: grpc.aio.Server
    health: health_aio.HealthServicer
    port: int

    async def set_serving(self, *, alive: bool, leading: bool) -> None:
        """What the gRPC health service answers: `alive` for the server as a whole (a liveness
        probe), `leading` for the service (a readiness probe)."""
        status = health_pb2.HealthCheckResponse
        for name, serving in (("", alive), (SERVICE, leading)):
            await self.health.set(name, status.SERVING if serving else status.NOT_SERVING)


async def start_server(
    service: pb_grpc.SchedulerServicer, listen: str, tls: TlsFiles | None
) -> Listening:
    """Not serving yet by its health. Raises `OSError` where the port is taken, and `TlsError`."""
    server = grpc.aio.server(options=OPTIONS)
    health = health_aio.HealthServicer()
    pb_grpc.add_SchedulerServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        (
            SERVICE,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ),
        server,
    )
    port = bind_server(server, listen, tls)
    listening = Listening(server, health, port)
    await listening.set_serving(alive=False, leading=False)
    await server.start()
    return listening
