"""llama-server's `/completion`: what is asked, and what its events mean."""

import asyncio

from shunter_gateway.engines.http1 import HttpClient
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


async def test_events_become_chunks(client: HttpClient) -> None:
    async def script(received: Received, writer: asyncio.StreamWriter) -> None:
        data = "".join(f"data: {event}\n\n" for event in EVENTS).encode()
        writer.write(stream_head() + chunked(data) + chunked(b""))

    async with scripted_server(script) as server:
        sink = CollectingSink()
        request = EngineRequest(
            request_id="r1",
            epoch=1,
            address=server.address,
            model="m",
            path="/v1/completions",
            token_ids=(1, 2, 3),
            output_offset=0,
            max_tokens=4,
            min_tokens=0,
            sampling=SamplingParams(temperature=0.0, seed=2**40 + 5, repetition_penalty=1.1),
            priority=3,
        )
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
