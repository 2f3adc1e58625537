"""Completions and chat completions over real sockets, with a scripted backend."""

from typing import Any

import aiohttp
import pytest

from shunter_engine.testing import (
    ScriptedBackend,
    complete,
    running_engine,
    scripted_parts,
    stream_answer,
)
from shunter_text.sources import sim_tokenizer

TOKENIZER = sim_tokenizer()
TEXT = "the naïve 日本 👩 function returns. Then END more"
IDS = TOKENIZER.encode(TEXT)
HELLO = [{"role": "user", "content": "hi"}]


async def test_whole_completion(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend(IDS)
    async with running_engine(scripted_parts(backend)) as url:
        status, answer = await complete(
            client, f"{url}/v1/completions", prompt=[5, 6, 7], request_id="r1"
        )
    assert status == 200
    assert (answer["id"], answer["object"], answer["model"]) == ("cmpl-r1", "text_completion", "m")
    assert answer["choices"] == [
        {
            "index": 0,
            "text": TEXT,
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": len(IDS),
        "total_tokens": 3 + len(IDS),
        "prompt_tokens_details": {"cached_tokens": 7},
    }
    assert backend.submitted[0].token_ids == (5, 6, 7)


async def test_streamed_completion_with_ids(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend(IDS, "length"))) as url:
        answer = await stream_answer(
            client,
            f"{url}/v1/completions",
            prompt="hello",
            return_token_ids=True,
            stream_options={"include_usage": True},
        )
    assert answer.done
    assert (answer.text, answer.token_ids, answer.finish_reason) == (TEXT, IDS, "length")
    assert len(answer.choices(0)) == len(IDS), "one event a token"
    assert "\ufffd" not in "".join(choice["text"] for choice in answer.choices(0))
    usage = answer.events[-1]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(IDS)
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 7}
    first, *others = answer.events[:-1]
    assert first["usage"] == {
        "prompt_tokens": usage["usage"]["prompt_tokens"],
        "completion_tokens": 1,
        "total_tokens": usage["usage"]["prompt_tokens"] + 1,
        "prompt_tokens_details": {"cached_tokens": 7},
    }
    assert not any("usage" in event for event in others)


@pytest.mark.parametrize("asked", [{}, {"return_token_ids": True, "n": 2, "temperature": 1}])
async def test_usage_comes_last_where_it_cannot_be_told_of_one_answer(
    client: aiohttp.ClientSession, asked: dict[str, Any]
) -> None:
    async with running_engine(scripted_parts(ScriptedBackend(IDS, "length"))) as url:
        answer = await stream_answer(
            client,
            f"{url}/v1/completions",
            prompt="hello",
            stream_options={"include_usage": True},
            **asked,
        )
    assert [event for event in answer.events if "usage" in event] == [answer.events[-1]]


async def test_chat_whole_and_streamed(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend(IDS)
    async with running_engine(scripted_parts(backend)) as url:
        _, whole = await complete(client, f"{url}/v1/chat/completions", messages=HELLO)
        streamed = await stream_answer(client, f"{url}/v1/chat/completions", messages=HELLO)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert streamed.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert streamed.events[0]["object"] == "chat.completion.chunk"
    assert streamed.text == TEXT
    assert list(backend.submitted[0].token_ids) == TOKENIZER.encode_chat(HELLO)


@pytest.mark.parametrize("include", [False, True])
async def test_an_end_token_is_in_the_ids_and_not_in_the_text(
    client: aiohttp.ClientSession, include: bool
) -> None:
    end = IDS[3]
    async with running_engine(scripted_parts(ScriptedBackend(IDS[:4], "stop"))) as url:
        answer = await stream_answer(
            client,
            f"{url}/v1/completions",
            prompt=[5],
            stop_token_ids=[end],
            include_stop_str_in_output=include,
            return_token_ids=True,
        )
    assert (answer.token_ids, answer.finish_reason) == (IDS[:4], "stop")
    assert answer.text == TOKENIZER.decode(IDS[:4] if include else IDS[:3])


async def test_stop_strings_count_from_min_tokens_on(client: aiohttp.ClientSession) -> None:
    word = TOKENIZER.encode(" name")
    async with running_engine(scripted_parts(ScriptedBackend(word * 5))) as url:
        answer = await stream_answer(
            client,
            f"{url}/v1/completions",
            prompt=[5],
            stop=" name",
            min_tokens=3 * len(word),
            return_token_ids=True,
        )
    assert (answer.token_ids, answer.text) == (word * 3, " name name")
    assert answer.finish_reason == "stop"


async def test_options_reach_the_backend(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend(IDS[:3])
    async with running_engine(scripted_parts(backend)) as url:
        await complete(
            client,
            f"{url}/v1/completions",
            prompt=[1, 2, 3, 4],
            max_tokens=9,
            min_tokens=2,
            temperature=0.5,
            top_p=0.9,
            top_k=-1,
            min_p=0.1,
            seed=11,
            presence_penalty=1,
            frequency_penalty=-1,
            repetition_penalty=1.2,
            logit_bias={"5": -100},
            ignore_eos=True,
            stop_token_ids=[8],
            priority=-3,
            output_offset=2,
        )
    (request,) = backend.submitted
    assert (request.max_tokens, request.min_tokens, request.priority) == (9, 2, -3)
    assert request.output_offset == 2
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 0)
    assert (sampling.min_p, sampling.seed) == (0.1, 11)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.2, {5: -100})
    assert (sampling.ignore_eos, sampling.stop_token_ids) == (True, (8,))


async def test_without_max_tokens_the_context_is_the_limit(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend(IDS, context_length=50)
    async with running_engine(scripted_parts(backend)) as url:
        await complete(client, f"{url}/v1/completions", prompt=[1] * 10)
        await complete(client, f"{url}/v1/completions", prompt=[1] * 10, max_tokens=1000)
        await complete(
            client, f"{url}/v1/chat/completions", messages=HELLO, max_completion_tokens=3
        )
    assert [request.max_tokens for request in backend.submitted] == [40, 40, 3]


async def test_several_prompts_and_choices_are_numbered(client: aiohttp.ClientSession) -> None:
    backend = ScriptedBackend(IDS[:2])
    async with running_engine(scripted_parts(backend)) as url:
        _, answer = await complete(
            client, f"{url}/v1/completions", prompt=["a", "b"], n=2, seed=5, return_token_ids=True
        )
        streamed = await stream_answer(client, f"{url}/v1/chat/completions", messages=HELLO, n=3)
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["prompt_token_ids"] == choices[1]["prompt_token_ids"] == TOKENIZER.encode("a")
    assert choices[2]["prompt_token_ids"] == TOKENIZER.encode("b")
    assert [request.sampling.seed for request in backend.submitted[:4]] == [5, 6, 5, 6]
    assert answer["usage"]["completion_tokens"] == 8
    for index in range(3):
        text = "".join(c["delta"]["content"] for c in streamed.choices(index))
        assert text == TOKENIZER.decode(IDS[:2])


@pytest.mark.parametrize("include", [False, True])
async def test_stop_string_ends_the_answer_and_the_work(
    client: aiohttp.ClientSession, include: bool
) -> None:
    backend = ScriptedBackend(IDS, ending=None)
    body = {"prompt": "x", "stop": ["END", "never"], "include_stop_str_in_output": include}
    async with running_engine(scripted_parts(backend)) as url:
        answer = await stream_answer(client, f"{url}/v1/completions", **body)
        _, whole = await complete(client, f"{url}/v1/completions", **body)
    expected = TEXT[: TEXT.index("END")] + ("END" if include else "")
    assert (answer.text, answer.finish_reason) == (expected, "stop")
    assert answer.choices(0)[-1]["stop_reason"] == "END"
    assert whole["choices"][0]["text"] == expected
    assert len(backend.aborted) == 2


async def test_text_held_for_a_stop_string_comes_at_the_end(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend(IDS, "length"))) as url:
        answer = await stream_answer(client, f"{url}/v1/completions", prompt="x", stop="more!")
    assert (answer.text, answer.finish_reason) == (TEXT, "length")


async def test_completion_logprobs(client: aiohttp.ClientSession) -> None:
    body = {"prompt": "x", "logprobs": 2}
    ids = TOKENIZER.encode(" the end")
    async with running_engine(scripted_parts(ScriptedBackend(ids))) as url:
        _, named = await complete(client, f"{url}/v1/completions", **body)
        _, by_id = await complete(
            client, f"{url}/v1/completions", return_tokens_as_token_ids=True, **body
        )
        streamed = await stream_answer(client, f"{url}/v1/completions", **body)
    logprobs = named["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == " the end"
    assert logprobs["token_logprobs"] == [-0.5] * len(ids)
    assert logprobs["text_offset"] == [0, 4]
    assert by_id["choices"][0]["logprobs"]["tokens"] == [f"token_id:{id_}" for id_ in ids]
    assert by_id["choices"][0]["logprobs"]["top_logprobs"][0] == {
        f"token_id:{ids[0]}": -0.5,
        f"token_id:{ids[0] + 1}": -1.5,
    }
    pieces = [choice["logprobs"] for choice in streamed.choices(0)]
    assert [offset for piece in pieces for offset in piece["text_offset"]] == [0, 4]


async def test_chat_logprobs(client: aiohttp.ClientSession) -> None:
    ids = TOKENIZER.encode(" the end")
    async with running_engine(scripted_parts(ScriptedBackend(ids))) as url:
        _, whole = await complete(
            client, f"{url}/v1/chat/completions", messages=HELLO, logprobs=True, top_logprobs=2
        )
    content = whole["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == [" the", " end"]
    assert bytes(content[0]["bytes"]) == b" the"
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.5, -1.5]


async def test_bytes_of_chat_logprobs_put_characters_together(
    client: aiohttp.ClientSession,
) -> None:
    ids = TOKENIZER.encode("naïve 日本 👩")
    assert len(ids) > 8, "characters of several tokens"
    async with running_engine(scripted_parts(ScriptedBackend(ids))) as url:
        _, whole = await complete(
            client,
            f"{url}/v1/chat/completions",
            messages=HELLO,
            logprobs=True,
            return_tokens_as_token_ids=True,
        )
    content = whole["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == [f"token_id:{id_}" for id_ in ids]
    assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == "naïve 日本 👩"


async def test_a_continued_answer_completes_the_character_its_prompt_ends_in(
    client: aiohttp.ClientSession,
) -> None:
    euro = TOKENIZER.encode("€")
    backend = ScriptedBackend([*euro[1:], *TOKENIZER.encode(" ok")])
    async with running_engine(scripted_parts(backend)) as url:
        answer = await stream_answer(
            client, f"{url}/v1/completions", prompt=[5, euro[0]], output_offset=1
        )
    assert answer.text == "€ ok"


async def test_engine_error_is_an_error(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend(IDS, "error"))) as url:
        status, answer = await complete(client, f"{url}/v1/completions", prompt="x")
        streamed = await stream_answer(client, f"{url}/v1/completions", prompt="x")
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert streamed.finish_reason == "error"
