"""The NumPy engine behind the server: real text calls on a tiny random model."""

from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from shunter_engine.loading import EngineStartError, build, load
from shunter_engine.numpy_products import blas_threads, set_blas_threads
from shunter_engine.numpy_testing import write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_engine.testing import complete, running_engine, stream_answer

MESSAGES = [{"role": "user", "content": "then a thing"}]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineOptions:
    monkeypatch.setenv("SHUNTER_CACHE", str(tmp_path / "cache"))
    return EngineOptions(
        backend="numpy",
        model=f"file://{write_tiny_gguf(tmp_path / 'tiny.gguf')}",
        served_name="m",
        context_length=512,
        deterministic=True,
    )


async def test_text_goes_in_and_out(options: EngineOptions, client: aiohttp.ClientSession) -> None:
    async with running_engine(build(options)) as url:
        body = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
        whole = await stream_answer(
            client, f"{url}/v1/chat/completions", messages=MESSAGES, return_token_ids=True, **body
        )
        _, prompt = await complete(client, f"{url}/tokenize", messages=MESSAGES)
        kept = whole.token_ids[:5]
        _, rest = await complete(
            client,
            f"{url}/v1/completions",
            prompt=prompt["tokens"] + kept,
            output_offset=5,
            return_token_ids=True,
            logprobs=3,
            **{**body, "max_tokens": 7},
        )
        _, embedding = await complete(client, f"{url}/v1/embeddings", input="then")
    choice = rest["choices"][0]
    assert len(whole.token_ids) == 12
    assert kept + choice["token_ids"] == whole.token_ids
    assert all(logprob <= 0 for logprob in choice["logprobs"]["token_logprobs"])
    assert len(embedding["data"][0]["embedding"]) == 64


async def test_kv_memory_and_blas_threads_are_as_told(options: EngineOptions) -> None:
    told = replace(options, kv_tokens=640, block_tokens=32, blas_threads=2)
    parts = await load(told)
    try:
        stats = parts.backend.stats()
        assert stats.kv_blocks_total * stats.block_tokens == 640
        assert blas_threads() in (2, 0)  # 0: this NumPy has another BLAS
    finally:
        await parts.backend.stop()
        set_blas_threads(1)


@pytest.mark.parametrize("wrong", [{"kv_tokens": 8}, {"blas_threads": 0}])
async def test_memory_and_threads_that_cannot_be_are_refused(
    options: EngineOptions, wrong: dict[str, int]
) -> None:
    with pytest.raises(EngineStartError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        await load(replace(options, **wrong))  # type: ignore[arg-type]
