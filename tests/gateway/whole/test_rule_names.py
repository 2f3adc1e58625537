"""A model name that only routing rules know travels as tokens, like its pool's own name."""

import asyncio
import json

from shunter_gateway.testing_http import (
    STREAM_END,
    Received,
    plain,
    scripted_server,
    stream_head,
    token_event,
)
from whole_gateway import PoolOf, whole_gateway

ANSWER = stream_head() + token_event(300) + token_event(301, '"length"') + STREAM_END


async def engine(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER if received.path == "/v1/completions" else plain(404, b"{}"))


async def test_rules_name_gets_the_same_tokens_and_may_be_moved() -> None:
    async with scripted_server(engine) as server:
        pool = PoolOf({"chat-0": server.address}, rule_models=("auto",))
        async with whole_gateway(pool) as gateway:
            texts, prompts = [], []
            for model in ("chat", "auto"):
                body = {"model": model, "prompt": "Hello there", "max_tokens": 2}
                url = f"{gateway.url}/v1/completions"
                async with gateway.http.post(url, json=body) as answer:
                    assert answer.status == 200
                    texts.append((await answer.json())["choices"][0]["text"])
                prompts.append(json.loads(server.requests[-1].body)["prompt"])
            submitted = [event.submitted for event in gateway.scheduler.of("submitted")]
    assert texts[0] == texts[1] != ""
    assert prompts[0] == prompts[1] and isinstance(prompts[0][0], int)
    assert [request.unmovable_reason for request in submitted] == ["", ""]
    assert submitted[1].model == "auto" and submitted[1].prompt_tokens_exact
    assert submitted[0].block_hashes == submitted[1].block_hashes
