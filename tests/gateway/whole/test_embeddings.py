"""`/v1/embeddings` through a whole gateway to engines of the numpy backend."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from shunter_engine.loading import build
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_engine.testing import running_engine, simulated_parts
from shunter_gateway.testing_http import plain, scripted_server
from whole_gateway import PoolOf, WholeGateway, whole_gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[WholeGateway]:
    source = f"file://{write_tiny_gguf(tmp_path / 'tiny.gguf')}"
    options = EngineOptions(backend="numpy", model=source, served_name="m")
    async with running_engine(build(options)) as engine:
        pool = PoolOf({"a": engine.removeprefix("http://")}, "numpy", source)
        async with whole_gateway(pool) as running:
            yield running


async def test_the_openai_client_gets_vectors(gateway: WholeGateway) -> None:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = await client.embeddings.create(model="chat", input=["a wagon", "an engine"])
        again = await client.embeddings.create(model="chat", input="a wagon")
        assert [item.index for item in answer.data] == [0, 1]
        assert len(answer.data[0].embedding) == 64
        assert again.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-5)
        assert answer.data[1].embedding != pytest.approx(answer.data[0].embedding, abs=1e-2)
        assert answer.usage.prompt_tokens > 0
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="nothing", input="a wagon")
        with pytest.raises(openai.BadRequestError):
            await client.embeddings.create(model="chat", input="a wagon " * 5000)


async def post(gateway: WholeGateway) -> tuple[int, str | None, bytes]:
    url = f"{gateway.url}/v1/embeddings"
    async with gateway.http.post(url, json={"model": "chat", "input": "Hi"}) as answer:
        return answer.status, answer.headers.get("Retry-After"), await answer.read()


async def test_an_engine_without_embeddings() -> None:
    async with (
        running_engine(simulated_parts()) as engine,
        whole_gateway(PoolOf({"a": engine.removeprefix("http://")})) as gateway,
    ):
        status, _, body = await post(gateway)
    assert status == 400 and b"embeddings_not_supported" in body


@pytest.mark.parametrize(("engines_say", "status"), [(429, 429), (500, 503)])
async def test_engines_that_are_busy_or_broken(engines_say: int, status: int) -> None:
    async def refuse(received: object, writer: object) -> None:
        writer.write(plain(engines_say, b"{}"))  # type: ignore[attr-defined]

    async with scripted_server(refuse) as a, scripted_server(refuse) as b:
        async with whole_gateway(PoolOf({"a": a.address, "b": b.address})) as gateway:
            found, retry_after, _ = await post(gateway)
        for engine in (a, b):
            assert [r.path for r in engine.requests].count("/v1/embeddings") == 1
    assert found == status and retry_after is not None and int(retry_after) > 0
