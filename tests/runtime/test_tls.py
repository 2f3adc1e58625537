"""Certificates from files, over real sockets."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from shunter_runtime.tls import (
    TlsError,
    TlsFiles,
    channel_credentials,
    server_credentials,
    server_ssl_context,
)

Certificates = Callable[[str], TlsFiles]


@asynccontextmanager
async def health_server(files: TlsFiles) -> AsyncIterator[str]:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(files))
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


async def ask(target: str, files: TlsFiles) -> int:
    async with grpc.aio.secure_channel(target, channel_credentials(files)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return int(reply.status)


async def test_a_client_that_knows_the_authority_gets_through(certificates: Certificates) -> None:
    server = certificates("server")
    async with health_server(TlsFiles(server.cert, server.key)) as target:
        assert await ask(target, TlsFiles(ca=server.ca)) == health_pb2.HealthCheckResponse.SERVING


async def test_with_an_authority_the_client_must_show_a_certificate(
    certificates: Certificates,
) -> None:
    server = certificates("server")
    async with health_server(server) as target:
        assert await ask(target, certificates("client")) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(target, TlsFiles(ca=server.ca))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_http_contexts_ask_for_client_certificates_too(certificates: Certificates) -> None:
    files = certificates("server")
    assert server_ssl_context(files).verify_mode is ssl.CERT_REQUIRED
    assert server_ssl_context(TlsFiles(files.cert, files.key)).verify_mode is ssl.CERT_NONE


def test_files_that_do_not_serve_are_named(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates("server")
    with pytest.raises(TlsError, match=r"missing\.pem: No such file"):
        server_credentials(TlsFiles(tmp_path / "missing.pem", good.key))
    with pytest.raises(TlsError, match=r"client\.key"):
        server_credentials(TlsFiles(good.cert, certificates("client").key))
    with pytest.raises(TlsError, match="given together"):
        TlsFiles(cert=good.cert)
