"""Both listeners of a whole gateway with TLS."""

import ssl
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest

from certificates import certificates_in
from shunter_engine.testing import running_engine, simulated_parts
from shunter_proto.v1 import inference_pb2 as pb
from shunter_proto.v1.inference_pb2_grpc import InferenceStub
from shunter_runtime.tls import TlsFiles
from whole_gateway import OPTIONS, PoolOf, WholeGateway, whole_gateway

BODY = {"model": "chat", "prompt": "Hello there", "max_tokens": 5, "stream": True}


async def test_http_and_grpc_over_tls(tmp_path: Path) -> None:
    make = certificates_in(tmp_path)
    server = make("server")
    assert server.ca is not None
    options = replace(OPTIONS, tls=TlsFiles(server.cert, server.key))
    trusted = ssl.create_default_context(cafile=server.ca)
    async with running_engine(simulated_parts()) as engine:
        pool = PoolOf({"a": engine.removeprefix("http://")})
        async with whole_gateway(pool, options=options) as gateway:
            await _over_http(gateway, trusted)
            await _over_grpc(gateway, server.ca.read_bytes())
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await gateway.http.get(f"{gateway.url}/health")  # trusts no such authority
            with pytest.raises(aiohttp.ClientError):
                await gateway.http.get(f"http://localhost:{gateway.ports.http}/health")


async def _over_http(gateway: WholeGateway, trusted: ssl.SSLContext) -> None:
    async with gateway.http.get(f"{gateway.url}/health", ssl=trusted) as health:
        assert await health.text() == "ok\n"
    url = f"{gateway.url}/v1/completions"
    async with gateway.http.post(url, json=BODY, ssl=trusted) as answer:
        assert answer.status == 200
        data = await answer.read()
    assert b'"finish_reason":"length"' in data and data.endswith(b"data: [DONE]\n\n")


async def _over_grpc(gateway: WholeGateway, authority: bytes) -> None:
    credentials = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(f"localhost:{gateway.ports.grpc}", credentials) as channel:
        request = pb.GenerateRequest(model="chat", prompt="Hello")
        request.sampling.max_tokens = 3
        replies = [reply async for reply in InferenceStub(channel).Generate(request, timeout=10)]
    assert replies[-1].usage.completion_tokens == 3
