"""Every bad request gets a clear answer in OpenAI's shape, with the field named."""

import asyncio
import json
from typing import Any

import pytest

from edge_service import Service, connection, run_service
from shunter_gateway.edge.front import EdgeSettings
from shunter_gateway.edge.job import Limits
from shunter_gateway.edge.ports import ServedModel
from shunter_gateway.ports import ExtraField

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": USER, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "chat", "prompt": "abc", **fields}


async def post(
    service: Service, path: str, body: Any, **headers: str
) -> tuple[int, dict[str, Any], Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with service.http.post(service.url + path, data=data, headers=headers) as answer:
        document = await answer.json()
        assert set(document["error"]) == {"message", "type", "param", "code"}
        assert document["error"]["message"]
        return answer.status, document["error"], answer.headers


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(max_tokens=-1), "max_tokens"),
        (CHAT, chat(max_tokens=0), "max_tokens"),
        (CHAT, chat(max_tokens="many"), "max_tokens"),
        (CHAT, chat(max_completion_tokens=-5), "max_completion_tokens"),
        (CHAT, chat(messages=[]), "messages"),
        (CHAT, {"model": "chat"}, "messages"),
        (CHAT, {"messages": USER}, "model"),
        (CHAT, chat(model=7), "model"),
        (CHAT, chat(messages=[{"content": "x"}]), "messages[0].role"),
        (CHAT, chat(messages=[*USER, {"role": "user", "content": 5}]), "messages[1].content"),
        (CHAT, chat(messages=[{"role": "nobody", "content": "x"}]), "messages"),
        (CHAT, chat(messages=[{"role": "user", "content": "x" * 300}]), "messages"),
        (CHAT, chat(temperature=3), "temperature"),
        (CHAT, chat(top_p=0), "top_p"),
        (CHAT, chat(n=0), "n"),
        (CHAT, chat(n=129), "n"),
        (CHAT, chat(stop=["ok", ""]), "stop[1]"),
        (CHAT, chat(stop=[str(i) for i in range(17)]), "stop"),
        (CHAT, chat(top_logprobs=21), "top_logprobs"),
        (CHAT, chat(logit_bias={"word": 1}), "logit_bias"),
        (CHAT, chat(seed="x"), "seed"),
        (CHAT, chat(stream="yes"), "stream"),
        (CHAT, chat(stream_options={"include_usage": True}), "stream_options"),
        (CHAT, chat(min_tokens=5, max_tokens=3), "min_tokens"),
        (CHAT, chat(max_tokens=300), "max_tokens"),
        (CHAT, chat(response_format={"type": "json_object"}), "response_format"),
        (
            CHAT,
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content",
        ),
        (COMPLETIONS, completion(prompt=""), "prompt"),
        (COMPLETIONS, completion(prompt=[]), "prompt"),
        (COMPLETIONS, completion(prompt=["a", 1]), "prompt"),
        (COMPLETIONS, completion(prompt=[1, -1]), "prompt[1]"),
        (COMPLETIONS, completion(prompt=list(range(256))), "prompt"),
        (COMPLETIONS, completion(prompt=["a"] * 65, n=2), "prompt"),
        (COMPLETIONS, completion(echo=True), "echo"),
        (COMPLETIONS, completion(logprobs=-1), "logprobs"),
        ("/v1/embeddings", {"model": "raw", "input": {}}, "input"),
    ],
)
async def test_the_field_is_named(
    service: Service, path: str, body: dict[str, Any], param: str
) -> None:
    status, error, _ = await post(service, path, body)
    assert (status, error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error"
    assert service.runner.handles == []


@pytest.mark.parametrize("more", [{"min_tokens": 2}, {"stop_token_ids": [7]}])
async def test_what_its_engine_ignores(service: Service, more: dict[str, Any]) -> None:
    ignores: frozenset[ExtraField] = frozenset({"min_tokens", "stop_token_ids"})
    service.models.add(ServedModel("plain", "plain", "llamacpp", 256, ignores=ignores))
    for path, body in ((CHAT, chat(**more)), (COMPLETIONS, completion(**more))):
        status, error, _ = await post(service, path, {**body, "model": "plain"})
        assert (status, error["param"]) == (400, *more)
        assert "`plain` (llamacpp)" in error["message"] and "leave it out" in error["message"]
        assert service.runner.handles == []
        async with service.http.post(service.url + path, json=body) as answer:
            assert answer.status == 200, "another engine obeys it"
        service.runner.handles.clear()


async def test_a_minimum_is_kept_by_itself_where_no_end_ends_the_answer(service: Service) -> None:
    ignores: frozenset[ExtraField] = frozenset({"min_tokens"})
    service.models.add(ServedModel("plain", "plain", "llamacpp", 256, ignores=ignores))
    body = chat(model="plain", min_tokens=2, ignore_eos=True)
    async with service.http.post(service.url + CHAT, json=body) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1]", b"nonsense", b"[" * 100_000])
async def test_not_json(service: Service, body: bytes) -> None:
    status, error, _ = await post(service, CHAT, body)
    assert status == 400
    assert error["type"] == "invalid_request_error"


async def test_prompt_longer_than_the_context(service: Service) -> None:
    status, error, _ = await post(service, COMPLETIONS, completion(prompt="x" * 256))
    assert (status, error["code"]) == (400, "context_length_exceeded")
    assert "256" in error["message"]


async def test_unknown_model(service: Service) -> None:
    for path, body in ((CHAT, chat(model="gpt-9")), (COMPLETIONS, completion(model="gpt-9"))):
        status, error, _ = await post(service, path, body)
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_unknown_path_and_method(service: Service) -> None:
    status, error, _ = await post(service, "/v1/chat/completion", chat())
    assert (status, error["code"]) == (404, "unknown_url")
    async with service.http.get(service.url + CHAT) as answer:
        assert answer.status == 405


async def test_body_over_the_limit() -> None:
    settings = EdgeSettings(limits=Limits(max_body_bytes=1000))
    async with run_service(settings=settings) as service:
        status, error, _ = await post(service, CHAT, chat(user="x" * 2000))
        assert (status, error["code"]) == (413, "request_too_large")

        async def pieces() -> Any:
            for _ in range(20):
                yield b" " * 100

        async with service.http.post(service.url + CHAT, data=pieces()) as answer:
            assert answer.status == 413


async def test_body_that_never_comes() -> None:
    async with run_service(settings=EdgeSettings(body_timeout_s=0.05)) as service:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        async with connection(service, head) as (reader, _):
            line = await asyncio.wait_for(reader.readline(), 5)
        assert b" 408 " in line


async def test_more_requests_than_the_gateway_takes() -> None:
    async with run_service(settings=EdgeSettings(max_inflight=0)) as service:
        status, error, headers = await post(service, CHAT, chat())
        assert (status, error["type"]) == (429, "rate_limit_error")
        assert headers["Retry-After"] == "1"


async def test_unknown_fields_are_tolerated(service: Service) -> None:
    body = chat(user="me", metadata={"a": 1}, store=False, some_new_field=[1])
    async with service.http.post(service.url + CHAT, json=body) as answer:
        assert answer.status == 200


async def test_errors_do_not_quote_the_prompt(service: Service) -> None:
    body = chat(messages=[{"role": "user", "content": {"secret": "plumbus"}}], stop=["plumbus", 7])
    _, error, _ = await post(service, CHAT, body)
    assert "plumbus" not in json.dumps(error)
