"""`Inference.Generate` over a real channel."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_service import Service, run_service
from shunter_gateway.edge.front import EdgeSettings
from shunter_gateway.edge.grpc_listen import GrpcListener
from shunter_gateway.edge.stream import StreamSettings
from shunter_gateway.edge.testing import Script
from shunter_gateway.keys import KeyFile, Keys
from shunter_gateway.request import ClientError, RequestSpec, Waiting
from shunter_proto.v1 import inference_pb2 as pb
from shunter_proto.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from shunter_proto.v1.inference_pb2_grpc import InferenceAsyncStub

KEY = "sk-grpc-0123456789"
PROMPT = pb.GenerateRequest(model="chat", prompt="abc")


@asynccontextmanager
async def generate(
    script: Callable[[RequestSpec], Script] = lambda _: Script(),
    keys: Keys | None = None,
    settings: EdgeSettings | None = None,
) -> AsyncIterator[tuple["InferenceAsyncStub", Service, grpc.aio.Channel]]:
    async with run_service(script, settings, keys) as service:
        listener = GrpcListener(service.front)
        port = await listener.start("127.0.0.1:0")
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: InferenceAsyncStub = InferenceStub(channel)
                yield stub, service, channel
        finally:
            await listener.close()


async def test_text_prompt() -> None:
    async with generate() as (stub, service, _):
        replies = [reply async for reply in stub.Generate(PROMPT)]
        spec = service.runner.specs[0]
        assert service.sample("shunter_gateway_requests_total", model="chat", code="200") == 1
    assert "".join(reply.text for reply in replies) == "Hello!"
    assert [bool(reply.request_id) for reply in replies] == [True, False, False, False]
    assert replies[-1].finish_reason == "stop"
    assert (replies[-1].usage.prompt_tokens, replies[-1].usage.completion_tokens) == (3, 3)
    assert spec.prompt_token_ids == tuple(b"abc")
    assert spec.max_tokens == 0


async def test_chat_with_sampling_and_token_ids() -> None:
    request = pb.GenerateRequest(
        model="chat",
        chat=pb.Messages(messages=[pb.ChatMessage(role="user", content="hi")]),
        sampling=pb.SamplingParams(
            temperature=0.7, top_p=0.9, top_k=5, seed=3, max_tokens=9, min_tokens=2,
            stop=["END"], ignore_eos=True, presence_penalty=0.5,
        ),
        return_token_ids=True,
    )  # fmt: skip
    async with generate() as (stub, service, _):
        replies = [reply async for reply in stub.Generate(request)]
        spec = service.runner.specs[0]
    assert [list(reply.token_ids) for reply in replies] == [[97], [98], [99], []]
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 0.9, 5)
    assert (sampling.seed, sampling.presence_penalty, sampling.ignore_eos) == (3, 0.5, True)
    assert (spec.max_tokens, spec.min_tokens, spec.stop) == (9, 2, ("END",))
    assert bytes(spec.prompt_token_ids or ()) == b"user: hi\n"


async def test_text_level_engine() -> None:
    raw = b'{"choices":[{"index":0,"delta":{"content":"one"}}]}'
    request = pb.GenerateRequest(
        model="raw", chat=pb.Messages(messages=[pb.ChatMessage(role="user", content="hi")])
    )
    async with generate(lambda _: Script(raw=(raw,))) as (stub, _service, _):
        replies = [reply async for reply in stub.Generate(request)]
    assert replies[0].text == "one"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "gpt-9", "prompt": "x"}, grpc.StatusCode.NOT_FOUND, "model"),
        ({"model": "chat"}, grpc.StatusCode.INVALID_ARGUMENT, "input"),
        ({"model": "chat", "prompt": "x" * 256}, grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
        (
            {"model": "chat", "prompt": "x", "sampling": pb.SamplingParams(temperature=9)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "temperature",
        ),
    ],
)
async def test_bad_input(fields: dict[str, Any], code: grpc.StatusCode, param: str) -> None:
    async with generate() as (stub, _service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(pb.GenerateRequest(**fields)).read()
    assert caught.value.code() == code
    assert dict(caught.value.trailing_metadata() or ())["x-shunter-param"] == param


async def test_lifecycle_errors_become_statuses() -> None:
    busy = ClientError(429, "Full.", "rate_limit_error", retry_after_s=2)
    async with generate(lambda _: Script(words=(), error=busy)) as (stub, _service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(PROMPT).read()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata() or ())["retry-after"] == "2"


async def test_held_call_waits_and_its_rejection_tells_when_to_come_back() -> None:
    waiting = Waiting("starting", 0, 9.0)
    async with generate(lambda _: Script(waiting=waiting, hold_s=0.2)) as (stub, service, _):
        assert "".join([reply.text async for reply in stub.Generate(PROMPT)]) == "Hello!"
        full = ClientError(503, "Full.", "server_error", "hold_full", retry_after_s=7)
        service.runner.script = lambda _: Script(words=(), hold_s=0.1, error=full)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(PROMPT).read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata() or ())["retry-after"] == "7"


async def test_held_call_that_is_cancelled_is_released() -> None:
    async with generate(lambda _: Script(hold_s=60.0)) as (stub, service, _):
        call = stub.Generate(PROMPT)
        await service.until(lambda: bool(service.runner.handles))
        call.cancel()
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)
        await service.until(lambda: service.front.inflight == 0)
        assert service.front.inflight_bytes == 0


async def test_deadline_field_is_the_requests_deadline() -> None:
    async with generate() as (stub, service, _):
        request = pb.GenerateRequest(model="chat", prompt="abc", deadline_in_ms=1500)
        async for _reply in stub.Generate(request):
            pass
    assert service.runner.specs[0].deadline_s == 1.5


async def test_cancel_aborts_the_engines_work() -> None:
    async with generate(lambda _: Script(hang=True)) as (stub, service, _):
        call = stub.Generate(PROMPT)
        reply = await call.read()
        assert isinstance(reply, pb.GenerateReply) and reply.text == "Hel"
        call.cancel()
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)
        await service.until(lambda: service.front.inflight == 0)


async def test_client_deadline_aborts_the_engines_work() -> None:
    async with generate(lambda _: Script(hang=True)) as (stub, service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _reply in stub.Generate(PROMPT, timeout=0.2):
                pass
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)


async def test_slow_client_pauses_the_engine() -> None:
    words = tuple("x" * 1000 for _ in range(4000))
    async with generate(lambda _: Script(words=words)) as (stub, service, _):
        call = stub.Generate(PROMPT)
        await service.until(lambda: any(h.pauses for h in service.runner.handles))
        text = "".join([reply.text async for reply in call])
        assert len(text) == 4_000_000
        assert service.runner.handles[0].resumes == service.runner.handles[0].pauses


async def test_client_that_stops_reading_loses_its_engine() -> None:
    settings = EdgeSettings(stream=StreamSettings(stall_timeout_s=0.1))
    script = Script(words=("x" * 1000,) * 20_000)
    async with generate(lambda _: script, settings=settings) as (stub, service, _):
        call = stub.Generate(PROMPT)
        assert await call.read() is not grpc.aio.EOF
        await service.until(lambda: service.runner.handles[0].cancelled)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await call.read() is not grpc.aio.EOF:
                pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.front.inflight == 0


async def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(yaml.safe_dump([{"name": "k", "sha256": digest, "tenant": "acme"}]))
    async with generate(keys=KeyFile(path)) as (stub, service, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(PROMPT).read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", f"Bearer {KEY}"),)
        async for _reply in stub.Generate(PROMPT, metadata=metadata):
            pass
        assert service.runner.specs[0].tenant == "acme"


async def test_health_and_drain() -> None:
    async with generate() as (stub, service, channel):
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.wait_for(service.front.drain(1), 5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(PROMPT).read()
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
