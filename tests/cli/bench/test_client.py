from collections.abc import AsyncIterator
from time import perf_counter

import pytest

from shunter.bench.client import Endpoint, EndpointError, OpenAiClient
from shunter.bench.records import PlannedRequest, Record
from shunter.bench.requests import RequestStyle, planned_requests
from shunter.bench.testing import MODELS, FakeEndpoint
from shunter_simulator.workloads import Arrival, PromptTokens


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeEndpoint]:
    async with FakeEndpoint(step_s=0.01).serving() as fake:
        yield fake


def request(model: str, output_tokens: int = 5, chat: bool = False) -> PlannedRequest:
    style = RequestStyle([(model, 1.0)], PromptTokens(), chat=chat)
    return next(planned_requests([Arrival(0.0, 20, output_tokens)], style))


async def ask(fake: FakeEndpoint, planned: PlannedRequest, timeout_s: float = 10.0) -> Record:
    record = Record(
        planned.index, planned.model, planned.at_s, planned.prompt_tokens, planned.output_tokens
    )
    async with OpenAiClient(Endpoint(fake.url, {"x-test": "yes"}, timeout_s)) as client:
        await client.send(planned, record, perf_counter())
    return record


@pytest.mark.parametrize("chat", [False, True])
async def test_a_good_answer_is_timed_token_by_token(endpoint: FakeEndpoint, chat: bool) -> None:
    record = await ask(endpoint, request("good", chat=chat))
    assert (record.error, record.token_events, record.output_tokens) == ("", 5, 5)
    assert record.mismatch == ""
    assert record.first_token_s is not None
    assert record.last_token_s is not None
    assert 0.01 <= record.first_token_s < record.last_token_s <= record.end_s
    assert len(record.gaps_s) == 4
    assert sum(record.gaps_s) == pytest.approx(record.last_token_s - record.first_token_s)


async def test_prompts_go_out_as_ids_with_the_exact_lengths_asked(endpoint: FakeEndpoint) -> None:
    await ask(endpoint, request("good", output_tokens=7))
    body = endpoint.requests[0]
    assert len(body["prompt"]) == 20
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (7, 7, True)
    assert body["stream_options"] == {"include_usage": True}
    assert endpoint.headers[0]["x-test"] == "yes"


async def test_chat_sends_about_as_many_words_as_tokens(endpoint: FakeEndpoint) -> None:
    await ask(endpoint, request("good", chat=True))
    assert len(endpoint.requests[0]["messages"][0]["content"].split()) == 20
    assert "prompt" not in endpoint.requests[0]


@pytest.mark.parametrize(
    ("model", "kind", "detail"),
    [
        ("busy", "HTTP 429", "come back later"),
        ("broken", "error event", "engine lost"),
        ("truncated", "truncated stream", "after 2 token events"),
        ("garbled", "protocol", "not an OpenAI event"),
        ("gone", "connection", ""),
        ("slow", "timeout", "after 0.3 s"),
    ],
)
async def test_every_failure_has_its_kind(
    endpoint: FakeEndpoint, model: str, kind: str, detail: str
) -> None:
    record = await ask(endpoint, request(model), timeout_s=0.3 if model == "slow" else 10)
    assert record.error == kind
    assert detail in record.detail
    assert record.mismatch == ""


@pytest.mark.parametrize(
    ("model", "mismatch"),
    [
        ("short", "output tokens 4, asked 5"),
        ("silent", "output tokens not reported, asked 5; prompt tokens not reported, asked 20"),
    ],
)
async def test_lengths_are_checked(endpoint: FakeEndpoint, model: str, mismatch: str) -> None:
    record = await ask(endpoint, request(model))
    assert (record.error, record.mismatch) == ("", mismatch)


async def test_models_are_listed(endpoint: FakeEndpoint) -> None:
    async with OpenAiClient(Endpoint(endpoint.url)) as client:
        assert await client.model_names() == list(MODELS)


async def test_an_endpoint_that_is_not_there_is_named(endpoint: FakeEndpoint) -> None:
    async with OpenAiClient(Endpoint("http://127.0.0.1:9")) as client:
        with pytest.raises(EndpointError, match=r"no answer from http://127\.0\.0\.1:9"):
            await client.model_names()
    record = Record(0, "m", 0.0, 1, 1)
    async with OpenAiClient(Endpoint("http://127.0.0.1:9")) as client:
        await client.send(request("good"), record, perf_counter())
    assert record.error == "connection"


async def test_a_refused_key_is_answered_with_the_option_for_it() -> None:
    async with FakeEndpoint(api_key="k").serving() as fake:
        async with OpenAiClient(Endpoint(fake.url)) as client:
            with pytest.raises(EndpointError, match="answers 401: no such key") as refused:
                await client.model_names()
        async with OpenAiClient(Endpoint(fake.url, {"Authorization": "Bearer k"})) as client:
            assert await client.model_names()
    assert "--api-key-env" in refused.value.next_step


def test_models_are_drawn_by_weight_and_the_same_again() -> None:
    style = RequestStyle([("a", 3.0), ("b", 1.0)], PromptTokens())
    arrivals = [Arrival(0.0, 4, 1)] * 1000
    drawn = [p.model for p in planned_requests(arrivals, style)]
    assert 700 < drawn.count("a") < 800
    assert [p.model for p in planned_requests(arrivals, style)] == drawn
