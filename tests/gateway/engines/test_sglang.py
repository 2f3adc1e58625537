"""SGLang's `/generate`: what is asked, and what its events mean. Events as 0.5.6 writes them."""

import asyncio
from typing import Any

import msgspec
import pytest

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.sglang import MAX_SEED, SglangDecoder, generate_body
from shunter_gateway.engines.streaming import EngineRefused
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.ports import EngineRequest, SamplingParams, TokenLogprob
from shunter_gateway.testing_http import (
    CollectingSink,
    Received,
    chunked,
    plain,
    scripted_server,
    stream_head,
)

LENGTH = {"type": "length", "length": 3}


def event(ids: list[int], total: int, **meta: Any) -> bytes:
    said = {"id": "r1-1.", "finish_reason": None, "prompt_tokens": 5, "completion_tokens": total}
    body = {"text": "x", "output_ids": ids, "meta_info": {**said, "cached_tokens": 4, **meta}}
    return msgspec.json.encode(body)


def taken(*events: bytes) -> list[list[int]]:
    decoder = SglangDecoder()
    return [list(decoder.event(data).token_ids) for data in events]


def request(address: str = "", **changes: Any) -> EngineRequest:
    usual: dict[str, Any] = {
        "request_id": "r1",
        "epoch": 1,
        "address": address,
        "model": "m",
        "path": "/v1/completions",
        "token_ids": (1, 2, 3),
        "output_offset": 0,
        "max_tokens": 4,
        "min_tokens": 0,
        "sampling": SamplingParams(),
    }
    return EngineRequest(**{**usual, **changes})


def test_what_is_asked_has_sglangs_names() -> None:
    sampling = SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        min_p=0.1,
        seed=2**40 + 5,
        presence_penalty=0.25,
        frequency_penalty=0.5,
        repetition_penalty=1.25,
        logit_bias={"7": 1.5},
        logprobs=2,
        ignore_eos=True,
        stop_token_ids=(9,),
    )
    body = msgspec.json.decode(generate_body(request(sampling=sampling, min_tokens=2, priority=3)))
    assert body == {
        "rid": "r1-1.",
        "input_ids": [1, 2, 3],
        "sampling_params": {
            "max_new_tokens": 4,
            "min_new_tokens": 2,
            "ignore_eos": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.1,
            "sampling_seed": 5,
            "presence_penalty": 0.25,
            "frequency_penalty": 0.5,
            "repetition_penalty": 1.25,
            "logit_bias": {"7": 1.5},
            "stop_token_ids": [9],
        },
        "priority": 3,
        "stream": True,
        "return_logprob": True,
        "top_logprobs_num": 2,
    }


def test_what_would_have_another_default_is_always_said() -> None:
    body = msgspec.json.decode(generate_body(request(max_tokens=0)))
    assert body["priority"] == 0, "a request without a priority comes last"
    assert body["sampling_params"] == {"max_new_tokens": None}, "left out, it is 128"
    body = msgspec.json.decode(generate_body(request(sampling=SamplingParams(seed=-1))))
    assert 0 <= body["sampling_params"]["sampling_seed"] <= MAX_SEED


@pytest.mark.parametrize(
    "events",
    [
        [event([7], 1), event([7, 8], 2), event([7, 8, 9], 3)],
        [event([7], 1), event([8], 2), event([9], 3)],
        [event([7], 1), event([7, 8], 1), event([7, 8, 9], 3)],  # the list grew while it was sent
        [event([7, 8], 2), event([7, 8], 2), event([7, 8, 9], 3)],
    ],
    ids=["all so far", "the new ones", "more than counted", "twice"],
)
def test_each_id_is_taken_once(events: list[bytes]) -> None:
    assert [token_id for ids in taken(*events) for token_id in ids] == [7, 8, 9]


def test_ids_that_never_came_end_the_call() -> None:
    decoder = SglangDecoder()
    decoder.event(event([7], 1))
    with pytest.raises(EngineRefused) as refused:
        decoder.event(event([9], 3))
    assert (refused.value.failure.reason, refused.value.failure.retriable) == ("protocol", True)


def test_counts_come_once_and_the_reason_last() -> None:
    decoder = SglangDecoder()
    first, last = (
        decoder.event(event([7], 1)),
        decoder.event(event([7, 8], 2, finish_reason=LENGTH)),
    )
    assert (first.prompt_tokens, first.cached_tokens, first.finish_reason) == (5, 4, None)
    assert (last.prompt_tokens, last.cached_tokens, last.finish_reason) == (None, None, "length")
    stop = decoder.event(event([7, 8], 2, finish_reason={"type": "stop", "matched": 2}))
    assert (list(stop.token_ids), stop.finish_reason) == ([], "stop")


@pytest.mark.parametrize("sliced", [False, True])
def test_log_probabilities_belong_to_the_new_tokens(sliced: bool) -> None:
    values = [[-0.5, 7, None], [-0.25, 8, None]]
    tops = [[[-0.5, 7, None]], [[-0.25, 8, None], [None, 4, None]]]
    first = event([7], 1, output_token_logprobs=values[:1], output_top_logprobs=tops[:1])
    from_ = 1 if sliced else 0
    second = event(
        [7, 8][from_:], 2, output_token_logprobs=values[from_:], output_top_logprobs=tops[from_:]
    )
    decoder = SglangDecoder()
    assert decoder.event(first).logprobs == [TokenLogprob(7, -0.5, ((7, -0.5),))]
    assert decoder.event(second).logprobs == [TokenLogprob(8, -0.25, ((8, -0.25), (4, 0.0)))]


@pytest.mark.parametrize(
    ("data", "reason", "retriable"),
    [
        (b'{"error":{"message":"The input is too long."}}', "client", False),
        (b'{"error":{"message":"broken","code":500}}', "engine_5xx", True),
        (event([], 0, finish_reason={"type": "abort", "status_code": 400}), "client", False),
        (event([], 0, finish_reason={"type": "abort", "status_code": 503}), "overloaded", True),
        (event([9], 1, finish_reason={"type": "abort", "message": "x"}), "engine_5xx", True),
    ],
)
def test_an_engine_that_gives_up_says_why(data: bytes, reason: str, retriable: bool) -> None:
    with pytest.raises(EngineRefused) as refused:
        SglangDecoder().event(data)
    failure = refused.value.failure
    assert (failure.reason, failure.retriable) == (reason, retriable)
    assert bool(failure.body) == (reason == "client")


async def test_an_abort_names_the_call_and_an_ended_call_needs_none(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.path == "/abort_request":
            writer.write(plain(200, b""))
            return
        finish = LENGTH if b"[2]" in received.body else None
        data = b"data: " + event([7], 1, finish_reason=finish) + b"\n\n"
        writer.write(stream_head() + chunked(data) + (chunked(b"") if finish else b""))

    async with scripted_server(script) as server:
        sglang = build_adapters(client)["sglang"]
        running = CollectingSink()
        call = sglang.start(request(server.address), running)
        await running.heard.wait()
        call.abort()
        call.abort()
        ended = CollectingSink()
        over = sglang.start(request(server.address, token_ids=(2,)), ended)
        assert await ended.result() is None
        over.abort()
        async with asyncio.timeout(5):
            while "/abort_request" not in [r.path for r in server.requests]:
                await asyncio.sleep(0.005)
        paths = [(r.path, r.json.get("rid")) for r in server.requests]
        assert sorted(paths) == [
            ("/abort_request", "r1-1."),
            ("/generate", "r1-1."),
            ("/generate", "r1-1."),
        ]


async def test_text_goes_to_the_openai_api(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(200, b'{"choices":[{"finish_reason":"stop"}]}'))

    async with scripted_server(script) as server:
        sink = CollectingSink()
        path = "/v1/chat/completions"
        asked = request(server.address, token_ids=None, path=path, body=b'{"model":"m"}')
        build_adapters(client)["sglang"].start(asked, sink)
        assert await sink.result() is None
        assert (server.requests[0].path, server.requests[0].body) == (path, b'{"model":"m"}')
