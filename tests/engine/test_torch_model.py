"""The forward pass in torch against the one in NumPy; without torch, what the engine says."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from shunter_engine.moves.testing import moving_engine
from shunter_engine.moves.testing_lead import MoveLead, move
from shunter_engine.moves.testing_streams import start_stream
from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.numpy_steps import Forward, NumpyOptions, load
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.options import EngineOptions
from shunter_engine.weights import load_weights
from shunter_text.model_files import FetchOptions

BLOCK = 16
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra torch-engine")


def options(folder: Path, deterministic: bool) -> NumpyOptions:
    path = write_tiny_gguf(folder / "tiny.gguf")
    return NumpyOptions(
        f"file://{path}",
        "tiny",
        FetchOptions(cache=folder),
        deterministic=deterministic,
        array_module="torch",
    )


def test_torch_is_never_deterministic(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--deterministic needs --array-module numpy"):
        load(options(tmp_path, deterministic=True))


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_the_missing_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install 'shunter\[torch-engine\]'"):
        load(options(tmp_path, deterministic=False))


@needs_torch
@pytest.mark.parametrize("shape", [TinyShape(), TinyShape(heads=4, kv_heads=4, tied=False)])
def test_logits_and_memory_are_those_of_numpy(tmp_path: Path, shape: TinyShape) -> None:
    """Two sequences: a prefill in two chunks beside decoding, over scattered blocks."""
    from shunter_engine.torch_model import TorchLlama

    path = write_tiny_gguf(tmp_path / "tiny.gguf", seed=3, shape=shape)
    weights = load_weights(path, FetchOptions(cache=tmp_path))
    models: tuple[Forward, ...] = (
        LlamaModel(weights, BLOCK, deterministic=False),
        TorchLlama(weights, BLOCK),
    )
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 269, 50), rng.integers(0, 269, 30)
    tables = np.array([7, 2, 9, 4]), np.array([1, 5])
    found = []
    for model in models:
        kv = model.new_kv(10)
        first = model.logits(kv, [Span(other[:29], 0, tables[1], True)])
        none = model.logits(kv, [Span(one[:20], 0, tables[0], False)])
        both = model.logits(
            kv, [Span(other[29:], 29, tables[1], True), Span(one[20:], 20, tables[0], True)]
        )
        assert none.shape == (0, 269)
        found.append((first, both, kv.read(tables[0], 50, slice(0, 2)), model, kv))
    for ours, theirs in zip(found[0][:3], found[1][:3], strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


@needs_torch
def test_keys_and_values_go_from_numpy_to_torch_and_back(tmp_path: Path) -> None:
    from shunter_engine.torch_model import TorchLlama

    path = write_tiny_gguf(tmp_path / "tiny.gguf", seed=3)
    weights = load_weights(path, FetchOptions(cache=tmp_path))
    tokens = np.random.default_rng(1).integers(0, 269, 41)
    source, destination = (
        LlamaModel(weights, BLOCK, deterministic=False),
        TorchLlama(weights, BLOCK),
    )
    kv, other = source.new_kv(4), destination.new_kv(6)
    blocks, elsewhere = np.array([3, 0, 2]), np.array([5, 1, 4])
    source.logits(kv, [Span(tokens[:40], 0, blocks, False)])
    sent = kv.read(blocks, 40, slice(0, 2))
    other.load(elsewhere, slice(0, 2), sent)
    np.testing.assert_array_equal(other.read(elsewhere, 40, slice(0, 2)), sent)
    stay = source.logits(kv, [Span(tokens[40:], 40, blocks, True)])
    gone = destination.logits(other, [Span(tokens[40:], 40, elsewhere, True)])
    np.testing.assert_allclose(stay, gone, rtol=2e-3, atol=2e-3)


@needs_torch
async def test_a_request_moves_from_numpy_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: aiohttp.ClientSession
) -> None:
    monkeypatch.setenv("SHUNTER_CACHE", str(tmp_path))
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    source_options = EngineOptions(
        backend="numpy", model=f"file://{path}", served_name="m", moves_port=0, kv_tokens=2048
    )
    async with (
        moving_engine(source_options) as source,
        moving_engine(replace(source_options, array_module="torch")) as destination,
    ):
        source.holds.hold("a", 20)
        body = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
        stream = start_stream(client, source.url, "a", list(range(3, 60)), **body)
        await stream.reach(3)
        moved = await move(client, MoveLead("m", source, destination, stream))
        await moved.stream.end()
    assert len(stream.token_ids) + len(moved.stream.token_ids) == 40
    cached = moved.stream.usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == 57 + moved.frozen_at - 1
