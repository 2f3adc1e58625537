"""llama-server's `/completion`: what is asked, and what its events mean."""

import asyncio
import json
from dataclasses import replace

import pytest

from shunter_gateway.engines.http1 import HttpClient
from shunter_gateway.engines.llamacpp import LlamaDecoder, llama_body
from shunter_gateway.engines.table import build_adapters
from shunter_gateway.ports import EngineRequest, SamplingParams
from shunter_gateway.testing_http import (
    CollectingSink,
    Received,
    chunked,
    scripted_server,
    stream_head,
)

EVENTS = [
    '{"index":0,"content":"He","tokens":[19556],"stop":false,"id_slot":-1,"tokens_predicted":1}',
    '{"index":0,"content":"🚂","tokens":[229],"stop":false,"id_slot":-1,"tokens_predicted":4}',
    (
        '{"index":0,"content":"","tokens":[],"stop":true,"stop_type":"limit","tokens_predicted":4,'
        '"tokens_evaluated":3,"tokens_cached":7,"timings":{"cache_n":2,"prompt_n":1}}'
    ),
]
REQUEST = EngineRequest(
    request_id="r1",
    epoch=1,
    address="a:1",
    model="m",
    path="/v1/completions",
    token_ids=(1, 2, 3),
    output_offset=0,
    max_tokens=4,
    min_tokens=0,
    sampling=SamplingParams(temperature=0.0, seed=2**40 + 5, repetition_penalty=1.1),
    priority=3,
)


async def test_events_become_chunks(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        data = "".join(f"data: {event}\n\n" for event in EVENTS).encode()
        writer.write(stream_head() + chunked(data) + chunked(b""))

    async with scripted_server(script) as server:
        sink = CollectingSink()
        request = replace(REQUEST, address=server.address)
        build_adapters(client)["llamacpp"].start(request, sink)
        assert await sink.result() is None
        assert [(list(c.token_ids), c.text, c.output_tokens) for c in sink.chunks] == [
            ([19556], "He", 1),
            ([229], "🚂", 4),
            ([], "", 4),
        ]
        last = sink.chunks[-1]
        assert (last.finish_reason, last.prompt_tokens, last.cached_tokens) == ("length", 3, 2)
        received = server.requests[0]
        assert received.path == "/completion"
        assert received.json == {
            "prompt": [1, 2, 3],
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
            "n_predict": 4,
            "temperature": 0.0,
            "seed": 5,
            "repeat_penalty": 1.1,
        }


@pytest.mark.parametrize(("asked", "sent"), [(None, None), (0, 1), (3, 3)])
def test_log_probabilities_of_the_tokens_alone_are_asked_for_with_one_alternative(
    asked: int | None, sent: int | None
) -> None:
    """llama-server takes `n_probs` 0 for none at all; the client gets none it did not ask for."""
    body = json.loads(llama_body(replace(REQUEST, sampling=SamplingParams(logprobs=asked))))
    assert (body.get("n_probs"), body.get("post_sampling_probs")) == (
        (sent, False) if sent else (None, None)
    )
    alternatives = [{"id": n, "logprob": -1.0 * n} for n in range(sent or 0)]
    told = [{"id": 7, "logprob": -0.5, "top_logprobs": alternatives}] if sent else []
    event = {"content": "a", "tokens": [7], "completion_probabilities": told}
    chunk = LlamaDecoder(asked or 0).event(json.dumps(event).encode())
    assert chunk is not None and len(chunk.logprobs) == len(told)
    for one in chunk.logprobs:
        assert (one.token_id, one.logprob, len(one.top)) == (7, -0.5, asked)
