"""The unmodified `openai` package against a whole system."""

import asyncio
import urllib.request
from collections.abc import Callable

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client.parser import text_string_to_metric_families

from shunter_system import EngineSpec, System
from streams import client

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello to the train."}]


@pytest.fixture
def system(start_system: Callable[..., System]) -> System:
    return start_system(EngineSpec("a", extra=("--speed", "4")))


def engine_gauge(system: System, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{system.ports['a']}/metrics") as answer:
        text = answer.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


async def test_chat_plain_and_streamed_agree(system: System) -> None:
    async with client(system.url) as api:
        plain = await api.chat.completions.create(
            model="chat", messages=HELLO, temperature=0, max_tokens=30
        )
        pieces = [
            chunk.choices[0].delta.content or ""
            async for chunk in await api.chat.completions.create(
                model="chat", messages=HELLO, temperature=0, max_tokens=30, stream=True
            )
            if chunk.choices
        ]
    assert plain.choices[0].message.content == "".join(pieces) != ""
    assert plain.usage is not None
    assert plain.usage.completion_tokens <= 30
    assert plain.usage.prompt_tokens > 5


async def test_choices_stop_and_logprobs(system: System) -> None:
    async with client(system.url) as api:
        two = await api.chat.completions.create(
            model="chat", messages=HELLO, n=2, seed=3, temperature=1, max_tokens=20
        )
        assert [choice.index for choice in two.choices] == [0, 1]
        text = (
            (
                await api.completions.create(
                    model="chat", prompt="One two", temperature=0, max_tokens=40
                )
            )
            .choices[0]
            .text
        )
        stop = text.split()[3]
        cut = await api.completions.create(
            model="chat", prompt="One two", temperature=0, max_tokens=40, stop=stop
        )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


async def test_errors_are_openai_errors(system: System) -> None:
    async with client(system.url) as api:
        with pytest.raises(openai.NotFoundError, match="no-such-model"):
            await api.chat.completions.create(model="no-such-model", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as negative:
            await api.chat.completions.create(model="chat", messages=HELLO, max_tokens=-1)
        assert negative.value.param == "max_tokens"
        with pytest.raises(openai.BadRequestError, match="context"):
            await api.completions.create(model="chat", prompt="word " * 20_000, max_tokens=5)
        models = [model.id async for model in api.models.list()]
    assert "chat" in models


async def test_a_client_that_leaves_frees_the_engine(system: System) -> None:
    async with client(system.url) as api:
        chunks = await api.chat.completions.create(
            model="chat",
            messages=HELLO,
            max_tokens=4000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        await anext(aiter(chunks))
        assert await asyncio.to_thread(engine_gauge, system, "vllm:num_requests_running") == 1
        await chunks.close()
        async with asyncio.timeout(5):
            while await asyncio.to_thread(engine_gauge, system, "vllm:num_requests_running"):
                await asyncio.sleep(0.02)
    await asyncio.to_thread(system.wait_idle)


async def test_a_client_timeout_frees_the_engine(system: System) -> None:
    async with client(system.url) as api:
        with pytest.raises(openai.APITimeoutError):
            await api.with_options(timeout=0.5).chat.completions.create(
                model="chat", messages=HELLO, max_tokens=6000, extra_body={"ignore_eos": True}
            )
    await asyncio.to_thread(system.wait_idle)
    assert await asyncio.to_thread(engine_gauge, system, "vllm:num_requests_running") == 0
