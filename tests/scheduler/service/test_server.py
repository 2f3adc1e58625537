"""The gRPC server over TLS, and its health before it serves."""

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import NoOpTracerProvider

from certificates import certificates_in
from shunter_runtime.tls import TlsFiles, channel_credentials
from shunter_scheduler.process import SchedulerOptions, build
from shunter_scheduler.service.leadership import Alone
from shunter_scheduler.service.server import start_server
from shunter_scheduler.service.servicer import SchedulerService


async def health(channel: grpc.aio.Channel) -> int:
    request = health_pb2.HealthCheckRequest(service="shunter.v1.Scheduler")
    reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    return int(reply.status)


async def test_with_an_authority_only_its_clients_get_in(tmp_path: Path) -> None:
    files = certificates_in(tmp_path)
    service = SchedulerService(build(SchedulerOptions(config=()), NoOpTracerProvider(), Alone())[0])
    listening = await start_server(service, "127.0.0.1:0", files("server"))
    try:
        target, known = f"localhost:{listening.port}", channel_credentials(files("gateway"))
        async with grpc.aio.secure_channel(target, known) as channel:
            assert await health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
            await listening.set_serving(alive=True, leading=True)
            assert await health(channel) == health_pb2.HealthCheckResponse.SERVING
        stranger = channel_credentials(TlsFiles(ca=files("server").ca))
        async with grpc.aio.secure_channel(target, stranger) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await listening.server.stop(None)
