"""The simulated engine behind real sockets: tokens, resumption, prefix cache, disconnects."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.options import EngineOptions
from shunter_engine.testing import (
    complete,
    engine_metrics,
    running_engine,
    simulated_parts,
    stream_answer,
)
from shunter_text.sources import sim_tokenizer

COMPLETIONS = "/v1/completions"
PROMPT = sim_tokenizer().encode("Where does the request go when its engine is lost?")
FAST = EngineOptions(served_name="m", speed=math.inf)
# Half a second a token: nothing ends by itself while a test looks.
SLOW = EngineOptions(served_name="m", speed=0.01)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


class Collector:
    """`SequenceSink` that keeps everything."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []

    def on_token(self, event: TokenEvent) -> None:
        self.events.append(event)

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.events if event.token_id is not None]


async def generate(
    token_ids: list[int], max_tokens: int, offset: int = 0, seed: int = 0
) -> Collector:
    """On an engine of its own."""
    backend = simulated_parts(FAST).backend
    sink = Collector()
    await backend.start()
    try:
        sampling = Sampling(seed=seed, ignore_eos=True)
        request = SequenceRequest("r", tuple(token_ids), offset, max_tokens, 0, sampling)
        backend.submit(request, sink)
        await until(lambda: sink.events and sink.events[-1].finish_reason)
    finally:
        await backend.stop()
    return sink


async def test_two_engines_give_the_same_tokens(client: aiohttp.ClientSession) -> None:
    body = {"prompt": PROMPT, "max_tokens": 40, "return_token_ids": True}
    other = EngineOptions(served_name="m", speed=math.inf, accelerator="l4-24gb")
    async with (
        running_engine(simulated_parts(FAST)) as here,
        running_engine(simulated_parts(other)) as there,
    ):
        first = await stream_answer(client, here + COMPLETIONS, **body)
        second = await stream_answer(client, there + COMPLETIONS, **body)
        seeded = await stream_answer(client, here + COMPLETIONS, seed=7, **body)
    assert first.token_ids == second.token_ids
    assert first.text == second.text
    assert seeded.token_ids != first.token_ids


async def test_an_answer_resumed_over_http_goes_on_as_if_nothing_had_happened(
    client: aiohttp.ClientSession,
) -> None:
    async with (
        running_engine(simulated_parts(FAST)) as here,
        running_engine(simulated_parts(FAST)) as there,
    ):
        body = {"max_tokens": 400, "return_token_ids": True, "temperature": 0}
        whole = await stream_answer(client, here + COMPLETIONS, prompt=PROMPT, **body)
        kept = len(whole.token_ids) // 2
        rest = await stream_answer(
            client,
            there + COMPLETIONS,
            prompt=PROMPT + whole.token_ids[:kept],
            output_offset=kept,
            **body,
        )
    assert whole.token_ids[:kept] + rest.token_ids == whole.token_ids
    assert rest.finish_reason == whole.finish_reason == "stop"
    before = sim_tokenizer().decode(whole.token_ids[:kept])
    assert before + rest.text == whole.text


@given(st.integers(0, 39), st.integers(0, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_resumed_at_any_token_it_is_the_same_answer(split: int, seed: int) -> None:
    async def check() -> None:
        whole = (await generate(PROMPT, 40, seed=seed)).token_ids
        rest = await generate(PROMPT + whole[:split], 40 - split, split, seed)
        assert whole[:split] + rest.token_ids == whole

    asyncio.run(check())


async def test_lengths_are_exact(client: aiohttp.ClientSession) -> None:
    async with running_engine(simulated_parts(FAST)) as url:
        answers = await asyncio.gather(
            *(
                stream_answer(
                    client,
                    url + COMPLETIONS,
                    prompt=PROMPT,
                    max_tokens=length,
                    ignore_eos=True,
                    return_token_ids=True,
                )
                for length in range(1, 60, 7)
            )
        )
    assert [len(answer.token_ids) for answer in answers] == list(range(1, 60, 7))
    assert {answer.finish_reason for answer in answers} == {"length"}


async def test_answers_end_by_themselves(client: aiohttp.ClientSession) -> None:
    async with running_engine(simulated_parts(FAST)) as url:
        _, answer = await complete(client, url + COMPLETIONS, prompt=PROMPT, return_token_ids=True)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"][-1] in sim_tokenizer().eos_token_ids
    assert "<|" not in choice["text"]


async def test_a_closed_connection_ends_the_work_at_once(client: aiohttp.ClientSession) -> None:
    parts = simulated_parts(SLOW)
    async with running_engine(parts) as url:
        for stream in (True, False):
            body = {"prompt": PROMPT, "max_tokens": 1000, "stream": stream, "n": 2}
            call = asyncio.create_task(complete(client, url + COMPLETIONS, **body))
            await until(lambda: parts.backend.stats().running == 2)
            assert parts.backend.stats().kv_blocks_used > 0
            call.cancel()
            await until(lambda: parts.backend.stats().running == 0)
            assert parts.backend.stats().kv_blocks_used == 0
        metrics = await engine_metrics(client, url)
    assert metrics["vllm:request_success_total", "abort"] == 4


async def test_a_raw_connection_that_goes_away_ends_the_work() -> None:
    parts = simulated_parts(SLOW)
    async with running_engine(parts) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = b'{"prompt":[5,6,7],"max_tokens":1000,"stream":true}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await until(lambda: parts.backend.stats().running == 1)
        writer.transport.abort()
        await until(lambda: parts.backend.stats().running == 0)


async def test_one_connection_carries_several_streams_in_turn() -> None:
    """Chunks are framed by hand: the connection must stay usable after a stream."""
    async with running_engine(simulated_parts(FAST)) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(3):
            body = b'{"prompt":[5,6,7],"max_tokens":20,"ignore_eos":true,"stream":true}'
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: text/event-stream" in head
            chunks = []
            while size := int(await reader.readline(), 16):
                chunks.append(await reader.readexactly(size))
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
            assert len(chunks) == 21
            assert chunks[-1] == b"data: [DONE]\n\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("name", ["cmpl-job", "job", "cmpl-job-0"])
async def test_abort_by_id(client: aiohttp.ClientSession, name: str) -> None:
    parts = simulated_parts(SLOW)
    async with running_engine(parts) as url:
        body = {"prompt": PROMPT, "max_tokens": 1000, "request_id": "job"}
        call = asyncio.create_task(stream_answer(client, url + COMPLETIONS, **body))
        await until(lambda: parts.backend.stats().running == 1)
        status, _ = await complete(
            client, f"{url}/inference/v1/abort_requests", request_ids=["unknown", name]
        )
        answer = await call
        assert parts.backend.stats().running == 0
    assert (status, answer.finish_reason, answer.done) == (200, "abort", True)


async def test_prefix_cache_counts_and_shows_in_usage(client: aiohttp.ClientSession) -> None:
    prompt = list(range(10, 110))
    async with running_engine(simulated_parts(FAST)) as url:
        usages = []
        for tail in ([1], [1], [2, 3]):
            _, answer = await complete(
                client, url + COMPLETIONS, prompt=prompt + tail, max_tokens=1
            )
            usages.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        metrics = await engine_metrics(client, url)
    assert usages == [0, 96, 96]
    assert metrics["vllm:prefix_cache_queries_total", ""] == 101 + 101 + 102
    assert metrics["vllm:prefix_cache_hits_total", ""] == 192


async def test_metrics_have_the_engines_names_and_add_up(client: aiohttp.ClientSession) -> None:
    async with running_engine(simulated_parts(FAST)) as url:
        for _ in range(3):
            await complete(client, url + COMPLETIONS, prompt=PROMPT, max_tokens=4, ignore_eos=True)
        async with client.get(f"{url}/metrics") as response:
            families = {
                family.name: family
                for family in text_string_to_metric_families(await response.text())
            }
        metrics = await engine_metrics(client, url)
    assert metrics["vllm:generation_tokens_total", ""] == 12
    assert metrics["vllm:prompt_tokens_total", ""] == 3 * len(PROMPT)
    assert metrics["vllm:request_success_total", "length"] == 3
    assert metrics["vllm:time_to_first_token_seconds_count", ""] == 3
    assert metrics["vllm:request_time_per_output_token_seconds_count", ""] == 3
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert metrics[f"vllm:{gauge}", ""] == 0
    assert metrics["vllm:num_preemptions_total", ""] == 0
    (info,) = families["vllm:cache_config_info"].samples
    assert info.labels["block_size"] == "16"
    blocks = int(info.labels["num_gpu_blocks"])
    assert int(info.labels["kv_cache_size_tokens"]) == 16 * blocks


async def test_waiting_sequences_show_and_the_queue_is_bounded(
    client: aiohttp.ClientSession,
) -> None:
    options = EngineOptions(served_name="m", speed=0.01, max_num_seqs=1, max_waiting=2)
    async with running_engine(simulated_parts(options)) as url:
        body = {"prompt": PROMPT, "max_tokens": 1000}
        calls = [asyncio.create_task(complete(client, url + COMPLETIONS, **body))]
        for waiting in (0, 1, 2):
            while (await engine_metrics(client, url))[
                "vllm:num_requests_waiting", ""
            ] != waiting or (await engine_metrics(client, url))[
                "vllm:num_requests_running", ""
            ] != 1:
                await asyncio.sleep(0.005)
            if waiting < 2:
                calls.append(asyncio.create_task(complete(client, url + COMPLETIONS, **body)))
        status, answer = await complete(client, url + COMPLETIONS, **body)
        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def unread_stream(url: str, **body: Any) -> asyncio.Transport:
    """A stream whose client reads next to nothing. Close it."""
    host, _, port = url.removeprefix("http://").partition(":")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, host, int(port))
    transport.pause_reading()
    data = msgspec.json.encode({"prompt": [5], "ignore_eos": True, "stream": True, **body})
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: e\r\nContent-Length: {len(data)}\r\n\r\n"
    transport.write(head.encode() + data)
    return transport


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shunter_engine.sse.MAX_UNSENT_BYTES", 1 << 16)
    parts = simulated_parts(EngineOptions(served_name="m", speed=math.inf, context_length=131072))
    async with running_engine(parts) as url:
        transport = await unread_stream(url, max_tokens=100_000, logprobs=1)
        await until(lambda: parts.backend.stats().generation_tokens_total > 100)
        await until(lambda: parts.backend.stats().running == 0)
        assert parts.backend.stats().generation_tokens_total < 100_000
        transport.abort()


async def test_a_client_that_does_not_read_the_end_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shunter_engine.sse.CLOSE_DEADLINE_S", 0.05)
    parts = simulated_parts(EngineOptions(served_name="m", speed=math.inf, context_length=131072))
    async with running_engine(parts) as url:
        before = len(asyncio.all_tasks())
        transport = await unread_stream(url, max_tokens=30_000, logprobs=1)
        await until(lambda: parts.backend.stats().generation_tokens_total == 30_000)
        await until(lambda: len(asyncio.all_tasks()) == before)
        transport.abort()
