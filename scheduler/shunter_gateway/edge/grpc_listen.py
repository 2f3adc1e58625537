"""The gRPC listener: limits, keepalive, health, reflection, TLS."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from shunter_gateway.edge.front import Front
from shunter_gateway.edge.grpc_service import InferenceService
from shunter_proto.v1 import inference_pb2 as pb
from shunter_proto.v1 import inference_pb2_grpc as pb_grpc
from shunter_runtime.tls import TlsFiles, bind_server

_SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name


class GrpcListener:
    """Owns the gRPC server of one gateway."""

    def __init__(self, front: Front, tls: TlsFiles | None = None) -> None:
        self._front = front
        self._tls = tls
        self._server: grpc.aio.Server | None = None
        self._health = health_aio.HealthServicer()

    async def start(self, address: str, reuse_port: bool = False) -> int:
        """The port that it listens on. Raises `OSError` and `TlsError`."""
        server = grpc.aio.server(options=self._options(reuse_port))
        pb_grpc.add_InferenceServicer_to_server(InferenceService(self._front), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((_SERVICE, health, reflection.SERVICE_NAME), server)
        port = bind_server(server, address, self._tls)
        await self._set(health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        self._server = server
        return port

    async def stop_accepting(self) -> None:
        """Load balancers are told; calls that run go on, new ones are refused by the `Front`."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def close(self) -> None:
        """Cuts off what is left."""
        if self._server is not None:
            await self._server.stop(None)

    async def _set(self, status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> None:
        for name in ("", _SERVICE):
            await self._health.set(name, status)

    def _options(self, reuse_port: bool) -> list[tuple[str, int]]:
        limit = self._front.settings.limits.max_body_bytes
        return [
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_concurrent_streams", 4096),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.so_reuseport", int(reuse_port)),
        ]
