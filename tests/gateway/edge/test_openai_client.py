"""The unmodified `openai` package as client, over a real socket."""

from typing import Any

import openai
import pytest

from edge_service import Service, run_service
from shunter_gateway.edge.testing import Script
from shunter_gateway.request import ClientError

USER = [{"role": "user", "content": "hi"}]


async def test_chat(service: Service) -> None:
    answer = await service.client.chat.completions.create(model="chat", messages=USER)
    assert answer.choices[0].message.content == "Hello!"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == len("user: hi\n")
    assert answer.usage.total_tokens == 3 + len("user: hi\n")


async def test_chat_stream(service: Service) -> None:
    stream = await service.client.chat.completions.create(model="chat", messages=USER, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in chunks[1:-1]] == ["Hel", "lo", "!"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


async def test_stream_with_usage(service: Service) -> None:
    stream = await service.client.chat.completions.create(
        model="chat", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3


async def test_completion(service: Service) -> None:
    answer = await service.client.completions.create(model="chat", prompt="abc", max_tokens=5)
    assert answer.choices[0].text == "Hello!"
    spec = service.runner.specs[0]
    assert spec.prompt_token_ids == tuple(b"abc")
    assert (spec.max_tokens, spec.path) == (5, "/v1/completions")


async def test_completion_stream(service: Service) -> None:
    stream = await service.client.completions.create(model="chat", prompt="abc", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello!"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_completion_of_several_prompts(service: Service) -> None:
    answer = await service.client.completions.create(model="chat", prompt=["a", "bc"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [spec.prompt_token_ids for spec in service.runner.specs] == [
        (97,), (97,), (98, 99), (98, 99),
    ]  # fmt: skip
    assert answer.usage.prompt_tokens == 1 + 2
    assert answer.usage.completion_tokens == 4 * 3
    assert len({spec.request_id for spec in service.runner.specs}) == 4


@pytest.mark.parametrize(("prompt", "ids"), [([1, 2, 3], [(1, 2, 3)]), ([[1], [2]], [(1,), (2,)])])
async def test_completion_of_token_ids(
    service: Service, prompt: Any, ids: list[tuple[int, ...]]
) -> None:
    await service.client.completions.create(model="chat", prompt=prompt)
    assert [spec.prompt_token_ids for spec in service.runner.specs] == ids


async def test_two_choices_stream_side_by_side(service: Service) -> None:
    stream = await service.client.chat.completions.create(
        model="chat", messages=USER, n=2, seed=7, stream=True
    )
    texts = ["", ""]
    ends: list[int] = []
    async for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert texts == ["Hello!", "Hello!"]
    assert sorted(ends) == [0, 1]
    assert [spec.sampling.seed for spec in service.runner.specs] == [7, 8]


async def test_two_choices_without_a_seed_get_different_seeds(service: Service) -> None:
    await service.client.chat.completions.create(model="chat", messages=USER, n=2)
    first, second = (spec.sampling.seed for spec in service.runner.specs)
    assert first != second


async def test_chat_logprobs(service: Service) -> None:
    answer = await service.client.chat.completions.create(
        model="chat", messages=USER, logprobs=True, top_logprobs=2
    )
    entries = answer.choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["a", "b", "c"]
    assert entries[0].bytes == [97]
    assert [top.logprob for top in entries[0].top_logprobs] == [-0.5, -1.5]


async def test_chat_logprobs_stream(service: Service) -> None:
    stream = await service.client.chat.completions.create(
        model="chat", messages=USER, logprobs=True, stream=True
    )
    entries = []
    async for chunk in stream:
        if chunk.choices[0].logprobs:
            entries += chunk.choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["a", "b", "c"]


async def test_completion_logprobs(service: Service) -> None:
    answer = await service.client.completions.create(model="chat", prompt="x", logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["a", "b", "c"]
    assert logprobs.text_offset == [0, 1, 2]
    assert logprobs.top_logprobs[0] == {"a": -0.5}


async def test_sampling_reaches_the_runner(service: Service) -> None:
    await service.client.chat.completions.create(
        model="chat",
        messages=USER,
        temperature=0.3,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"17": 2.0},
        stop=["\n\n", "END"],
        max_completion_tokens=9,
        extra_body={
            "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "min_tokens": 2,
            "ignore_eos": True, "stop_token_ids": [3], "include_stop_str_in_output": True,
        },
    )  # fmt: skip
    spec = service.runner.specs[0]
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.3, 0.9, 4, 0.1,
    )  # fmt: skip
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.1, {"17": 2.0})
    assert (sampling.ignore_eos, sampling.stop_token_ids) == (True, (3,))
    assert (spec.stop, spec.include_stop) == (("\n\n", "END"), True)
    assert (spec.max_tokens, spec.min_tokens) == (9, 2)


async def test_token_ids_are_returned_where_asked_for(service: Service) -> None:
    answer = await service.client.chat.completions.create(
        model="chat", messages=USER, extra_body={"return_token_ids": True}
    )
    assert answer.choices[0].model_extra["token_ids"] == [97, 98, 99]
    assert answer.choices[0].model_extra["prompt_token_ids"] == list(b"user: hi\n")


async def test_tools_reach_the_template_of_a_plain_engine(service: Service) -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {}},
    }
    await service.client.chat.completions.create(model="chat", messages=USER, tools=[tool])
    spec = service.runner.specs[0]
    assert b"'name': 'f'" in bytes(spec.prompt_token_ids or ())
    assert spec.unmovable_reason == ""


async def test_tools_go_to_the_engine_that_parses_calls() -> None:
    call = b'{"id":"x","object":"chat.completion","created":1,"model":"g","choices":[{"index":0,'
    call += b'"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":'
    call += (
        b'"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}'
    )
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {}},
    }
    async with run_service(lambda _: Script(raw=(call,), finish="tool_calls")) as service:
        answer = await service.client.chat.completions.create(
            model="guided", messages=USER, tools=[tool]
        )
        spec = service.runner.specs[0]
    assert answer.choices[0].message.tool_calls[0].function.name == "f"
    assert spec.prompt_token_ids is None
    assert spec.unmovable_reason == "tool_parsing"
    assert b'"tools"' in spec.body


async def test_guided_decoding_is_the_engines_own(service: Service) -> None:
    await service.client.chat.completions.create(
        model="guided", messages=USER, response_format={"type": "json_object"}, stream=True
    )
    assert service.runner.specs[0].unmovable_reason == "guided_decoding"
    assert service.runner.specs[0].prompt_token_ids is None


async def test_text_level_stream_passes_through() -> None:
    event = (
        b'{"id":"e","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        b'"delta":{"content":"one"},"finish_reason":null}]}'
    )
    async with run_service(lambda _: Script(raw=(event,))) as service:
        stream = await service.client.chat.completions.create(
            model="raw", messages=USER, stream=True
        )
        texts = [chunk.choices[0].delta.content async for chunk in stream]
    assert texts == ["one"]


async def test_models(service: Service) -> None:
    models = [model.id async for model in service.client.models.list()]
    assert models == ["chat", "guided", "raw"]
    one = await service.client.models.retrieve("guided")
    assert (one.id, one.owned_by) == ("guided", "shunter")
    with pytest.raises(openai.NotFoundError):
        await service.client.models.retrieve("nothing")


async def test_embeddings(service: Service) -> None:
    answer = await service.client.embeddings.create(
        model="raw", input="text", encoding_format="float"
    )
    assert answer.data[0].embedding == [1.0]
    with pytest.raises(openai.BadRequestError, match="does not make embeddings") as caught:
        await service.client.embeddings.create(model="chat", input="text")
    assert caught.value.code == "embeddings_not_supported"


async def test_error_before_the_first_token_is_a_status() -> None:
    busy = ClientError(429, "Full.", "rate_limit_error", code="overloaded", retry_after_s=2.4)
    async with run_service(lambda _: Script(words=(), error=busy)) as service:
        for stream in (True, False):
            with pytest.raises(openai.RateLimitError) as caught:
                await service.client.chat.completions.create(
                    model="chat", messages=USER, stream=stream
                )
            assert caught.value.response.headers["retry-after"] == "3"
            assert caught.value.code == "overloaded"


async def test_error_after_the_first_token_is_an_event() -> None:
    lost = ClientError(502, "The engine was lost.", "server_error", code="engine_lost")
    async with run_service(lambda _: Script(error=lost)) as service:
        stream = await service.client.chat.completions.create(
            model="chat", messages=USER, stream=True
        )
        texts = []
        with pytest.raises(openai.APIError, match="engine was lost"):
            async for chunk in stream:
                texts += [chunk.choices[0].delta.content]
    assert texts == ["", "Hel", "lo", "!"]


async def test_client_timeout_ends_the_engine_call() -> None:
    async with run_service(lambda _: Script(hang=True)) as service:
        with pytest.raises(openai.APITimeoutError):
            await service.client.with_options(timeout=0.2).chat.completions.create(
                model="chat", messages=USER
            )
        await service.until(lambda: service.runner.handles[0].cancelled, timeout_s=1.0)
