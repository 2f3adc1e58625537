import aiohttp
import openai

from shunter_engine.server import EngineParts
from shunter_engine.testing import (
    ScriptedBackend,
    complete,
    running_engine,
    scripted_parts,
    simulated_parts,
)
from shunter_text.sources import sim_tokenizer

TOKENIZER = sim_tokenizer()


async def test_tokenize_and_back(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend([5]))) as url:
        _, text = await complete(client, f"{url}/tokenize", prompt="hello 日本")
        messages = [{"role": "user", "content": "hi"}]
        _, chat = await complete(client, f"{url}/tokenize", messages=messages)
        _, back = await complete(client, f"{url}/detokenize", tokens=text["tokens"])
    ids = TOKENIZER.encode("hello 日本")
    assert text == {"tokens": ids, "count": len(ids), "max_model_len": 4096}
    assert chat["tokens"] == TOKENIZER.encode_chat(messages)
    assert back == {"prompt": "hello 日本"}


async def test_models(client: aiohttp.ClientSession) -> None:
    async with (
        running_engine(scripted_parts(ScriptedBackend([5]))) as url,
        client.get(f"{url}/v1/models") as response,
    ):
        (model,) = (await response.json())["data"]
    assert (model["id"], model["max_model_len"]) == ("m", 4096)


class LengthEmbedder:
    async def embed(self, token_ids: list[int]) -> list[float]:
        return [float(len(token_ids)), 0.5]


async def test_embeddings(client: aiohttp.ClientSession) -> None:
    parts = EngineParts(ScriptedBackend([5]), TOKENIZER, LengthEmbedder())
    async with running_engine(parts) as url:
        _, answer = await complete(client, f"{url}/v1/embeddings", input=[[1, 2], [3]])
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as sdk:
            by_sdk = await sdk.embeddings.create(model="m", input="hello")
    assert [entry["embedding"] for entry in answer["data"]] == [[2.0, 0.5], [1.0, 0.5]]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert by_sdk.data[0].embedding == [float(len(TOKENIZER.encode("hello"))), 0.5]


async def test_no_embeddings_is_404(client: aiohttp.ClientSession) -> None:
    async with running_engine(scripted_parts(ScriptedBackend([5]))) as url:
        status, answer = await complete(client, f"{url}/v1/embeddings", input="x")
    assert status == 404
    assert "has no embeddings" in answer["error"]["message"]


async def test_the_openai_package_is_a_client() -> None:
    async with (
        running_engine(simulated_parts()) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as sdk,
    ):
        whole = await sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=12, seed=3
        )
        stream = await sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=12,
            seed=3,
            stream=True,
        )
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert whole.choices[0].message.content == text
    assert len(text.split()) == 12
    assert whole.choices[0].finish_reason == "length"
