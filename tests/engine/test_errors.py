"""Bad input gets a clear answer: status, OpenAI's shape, and the field at fault."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from shunter_engine.bodies import MAX_BODY_BYTES
from shunter_engine.server import EngineServer, listen
from shunter_engine.testing import (
    ScriptedBackend,
    complete,
    engine_metrics,
    running_engine,
    scripted_parts,
)
from shunter_runtime.metrics import port_of

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_engine(scripted_parts(ScriptedBackend([5], context_length=64))) as address:
        yield address


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": 5}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", 1]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt[0]"),
        (COMPLETIONS, {"prompt": [10**6]}, "prompt"),
        (COMPLETIONS, {"prompt": [1] * 64}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": -1}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": "9"}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        (COMPLETIONS, {"prompt": "x", "temperature": 3}, "temperature"),
        (COMPLETIONS, {"prompt": "x", "top_p": 0}, "top_p"),
        (COMPLETIONS, {"prompt": "x", "n": 0}, "n"),
        (COMPLETIONS, {"prompt": ["x"] * 10, "n": 20}, "n"),
        (COMPLETIONS, {"prompt": "x", "stop": [""]}, "stop"),
        (COMPLETIONS, {"prompt": "x", "stop": ["x"] * 17}, "stop"),
        (COMPLETIONS, {"prompt": "x", "stop": "x" * 1025}, "stop"),
        (COMPLETIONS, {"prompt": "x", "stop_token_ids": [4096]}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "x", "stop_token_ids": [1] * 65}, "stop_token_ids"),
        (COMPLETIONS, {"prompt": "x", "repetition_penalty": 1e-30}, "repetition_penalty"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"-1": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"4096": 1}}, "logit_bias"),
        (COMPLETIONS, {"prompt": "x", "logprobs": 21}, "logprobs"),
        (COMPLETIONS, {"prompt": "x", "echo": True}, "echo"),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}, "suffix"),
        (COMPLETIONS, {"prompt": "x", "best_of": 4}, "best_of"),
        (COMPLETIONS, {"prompt": [1, 2], "output_offset": 2}, "output_offset"),
        (
            COMPLETIONS,
            {"prompt": "x", "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "long " * 100}]}, "messages"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ("/tokenize", {}, "prompt"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_400_names_the_field(
    client: aiohttp.ClientSession, url: str, path: str, body: dict[str, Any], param: str
) -> None:
    status, answer = await complete(client, url + path, **body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert param.partition("[")[0] in answer["error"]["message"]


async def test_too_long_prompts_have_their_own_code(
    client: aiohttp.ClientSession, url: str
) -> None:
    _, answer = await complete(client, url + COMPLETIONS, prompt=[1] * 64)
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "64 tokens" in answer["error"]["message"]
    long = "word " * 100_000
    chat = {"messages": [{"role": "user", "content": long}]}
    for path, body in ((COMPLETIONS, {"prompt": long}), (CHAT, chat)):
        status, answer = await complete(client, url + path, **body)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "at least" in answer["error"]["message"], "found without tokenising"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"messages": [', "not valid JSON"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not valid JSON"),
        (b'{"messages": [{"a": "\\ud800"}]}', "not valid JSON"),
        (b'{"messages": [{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}]}", "nested too deeply"),
    ],
)
async def test_not_json(client: aiohttp.ClientSession, url: str, body: bytes, message: str) -> None:
    async with client.post(url + CHAT, data=body) as response:
        assert response.status == 400
        assert message in (await response.json())["error"]["message"]


@pytest.mark.parametrize(("header", "kept"), [("a b", True), ("\xff", False), ("", False)])
async def test_an_id_that_cannot_be_repeated_is_replaced(url: str, header: str, kept: bool) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"prompt":[5]}'
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: {header}"
    head += f"\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode("latin-1") + body)
    status, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert b" 200 " in status
    assert (msgspec.json.decode(answer)["id"] == f"cmpl-{header}") is kept


@pytest.mark.parametrize("temperature", [0, 1e-310])
async def test_a_vanishing_temperature_is_greedy(
    client: aiohttp.ClientSession, temperature: float
) -> None:
    backend = ScriptedBackend([5])
    async with running_engine(scripted_parts(backend)) as url:
        await complete(client, url + COMPLETIONS, prompt="x", temperature=temperature)
    assert backend.submitted[0].sampling.temperature == 0


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/v1/embeddings"])
async def test_unknown_model_is_404(client: aiohttp.ClientSession, url: str, path: str) -> None:
    body = {"prompt": "x", "messages": HELLO, "input": "x", "model": "other"}
    status, answer = await complete(client, url + path, **body)
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert answer["error"]["param"] == "model"


async def test_streaming_needs_http_1_1(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"prompt":[5],"stream":true}'
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer = await reader.read()
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"needs HTTP/1.1" in answer
    writer.close()
    await writer.wait_closed()


async def test_unknown_path_and_method(client: aiohttp.ClientSession, url: str) -> None:
    status, answer = await complete(client, url + "/v1/nothing")
    assert (status, answer["error"]["type"]) == (404, "not_found_error")
    async with client.get(url + CHAT) as response:
        assert response.status == 405
        assert "error" in await response.json()
    assert (await complete(client, url + "/faults", kind="clear"))[0] == 404


async def test_too_large_a_body_is_413(client: aiohttp.ClientSession, url: str) -> None:
    async with client.post(url + CHAT, data=io.BytesIO(b" " * (MAX_BODY_BYTES + 1))) as response:
        assert response.status == 413
        assert f"more than {MAX_BODY_BYTES} bytes" in (await response.json())["error"]["message"]


async def test_full_queue_is_429_with_retry_after(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend([5], ending=None, max_sequences=1)
    async with running_engine(scripted_parts(backend)) as url:
        first = asyncio.create_task(complete(client, url + COMPLETIONS, prompt="x"))
        while not backend.submitted:
            await asyncio.sleep(0.005)
        async with client.post(url + COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
            assert (await response.json())["error"]["type"] == "rate_limit_error"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_some_of_n_refused_leaves_none_behind(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend([5], ending=None, max_sequences=2)
    async with running_engine(scripted_parts(backend)) as url:
        status, _ = await complete(client, url + COMPLETIONS, prompt="x", n=3)
        metrics = await engine_metrics(client, url)
        assert status == 429
        assert backend.stats().running == 0
        assert metrics["vllm:request_success_total", "abort"] == 0


async def test_while_loading_health_is_503_and_calls_wait(client: aiohttp.ClientSession) -> None:
    server = EngineServer("m")
    runner = await listen(server, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{port_of(runner)}"
        async with client.get(f"{url}/health") as response:
            assert response.status == 503
        async with client.post(url + COMPLETIONS, json={"prompt": "x"}) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        async with client.get(f"{url}/metrics") as response:
            assert response.status == 200
        server.load(scripted_parts(ScriptedBackend([5])))
        async with client.get(f"{url}/health") as response:
            assert response.status == 200
    finally:
        await runner.cleanup()


async def test_a_fault_of_the_server_is_a_plain_500(
    client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ScriptedBackend):
        def submit(self, request: object, sink: object) -> None:
            raise RuntimeError("backend bug")

    async with running_engine(scripted_parts(Broken([5]))) as url:
        status, answer = await complete(client, url + COMPLETIONS, prompt="secret words")
        async with client.get(f"{url}/metrics") as response:
            metrics = await response.text()
    assert status == 500
    assert answer["error"]["message"] == "internal error of the engine"
    assert 'vllm:engine_internal_errors_total{engine="0",model_name="m"} 1.0' in metrics
