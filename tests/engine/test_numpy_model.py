"""The forward pass against a plain one, and what deterministic mode promises."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.numpy_products import F32
from shunter_engine.numpy_testing import TinyShape, write_tiny_gguf
from shunter_engine.weights import LlamaWeights, load_weights
from shunter_text.model_files import FetchOptions

Floats = npt.NDArray[np.floating]

BLOCK = 16
BLOCKS = 256
VOCABULARY = 269
MULTI_HEAD = TinyShape(heads=4, kv_heads=4, tied=False)
# Wider than one product's depth, so that inner dimensions are cut into blocks.
WIDE = TinyShape(layers=1, width=480, heads=6, kv_heads=2, feed_forward=801)
SHAPES = {"grouped": TinyShape(), "multi-head": MULTI_HEAD, "wide": WIDE}


def load(folder: Path, shape: TinyShape) -> tuple[Path, LlamaWeights]:
    path = write_tiny_gguf(folder / "tiny.gguf", seed=3, shape=shape)
    return path, load_weights(path, FetchOptions(cache=folder))


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    _, weights = load(tmp_path_factory.mktemp("model"), SHAPES[request.param])
    return LlamaModel(weights, BLOCK, deterministic=True)


def tokens(length: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, VOCABULARY, length)]


class Run:
    """Sequences over one cache, each with blocks of its own in scattered order."""

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self.kv = model.new_kv(BLOCKS)
        self._free = np.random.default_rng(1).permutation(BLOCKS)
        self._taken = 0

    def table(self, length: int) -> npt.NDArray[np.int64]:
        count = -(-length // BLOCK)
        self._taken += count
        return self._free[self._taken - count : self._taken]

    def solo(self, token_ids: list[int]) -> F32:
        span = Span(np.array(token_ids), 0, self.table(len(token_ids)), True)
        row: F32 = self.model.logits(self.kv, [span])[0]
        return row


def plain_logits(path: Path, shape: TinyShape, token_ids: list[int]) -> Floats:
    """Llama as its authors describe it: whole sequence, full attention, float64, pairs rotated."""
    reader = gguf.GGUFReader(path)
    raw = {t.name.removesuffix(".weight"): t for t in reader.tensors}
    w = {name: t.data.reshape(t.shape[::-1]).astype(np.float64) for name, t in raw.items()}
    head_size = shape.width // shape.heads
    angles = np.arange(len(token_ids))[:, None] * 1e4 ** (-np.arange(0, head_size, 2) / head_size)
    turn = np.exp(1j * angles)[:, None]
    future = np.triu(np.ones((len(token_ids),) * 2, bool), 1)

    def norm(x: Floats, weight: Floats) -> Floats:
        normed: Floats = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
        return normed

    def rotated(x: Floats, heads: int) -> Floats:
        pairs = x.reshape(len(x), heads, -1, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([turned.real, turned.imag], -1).reshape(len(x), heads, head_size)

    x = w["token_embd"][token_ids]
    for layer in range(shape.layers):
        n = {name: w[f"blk.{layer}.{name}"] for name in ("attn_norm", "ffn_norm")}
        m = {k.split(".")[2]: v for k, v in w.items() if k.startswith(f"blk.{layer}.")}
        h = norm(x, n["attn_norm"])
        q = rotated(h @ m["attn_q"].T, shape.heads)
        k = rotated(h @ m["attn_k"].T, shape.kv_heads)
        v = (h @ m["attn_v"].T).reshape(len(x), shape.kv_heads, head_size)
        repeat = shape.heads // shape.kv_heads
        k, v = k.repeat(repeat, 1), v.repeat(repeat, 1)
        scores = np.einsum("qhc,khc->hqk", q, k) / np.sqrt(head_size)
        scores[:, future] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = np.einsum("hqk,khc->qhc", p, v).reshape(len(x), -1)
        x = x + mixed @ m["attn_output"].T
        h = norm(x, n["ffn_norm"])
        gate = h @ m["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["ffn_up"].T)) @ m["ffn_down"].T
    head = w.get("output", w["token_embd"])
    logits: Floats = norm(x, w["output_norm"])[-1] @ head.T
    return logits


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 90])
def test_logits_are_those_of_a_plain_llama(
    tmp_path: Path, shape: TinyShape, deterministic: bool, length: int
) -> None:
    path, weights = load(tmp_path, shape)
    model = LlamaModel(weights, BLOCK, deterministic)
    ids = tokens(length, seed=length)
    expected = plain_logits(path, shape, ids)
    got = Run(model).solo(ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_batched_and_chunked_is_bitwise_solo(model: LlamaModel, data: st.DataObject) -> None:
    """Several sequences, cut into chunks anywhere, mixed into steps in any way."""
    lengths = data.draw(st.lists(st.integers(1, 150), min_size=1, max_size=5), label="lengths")
    sequences = [tokens(length, seed) for seed, length in enumerate(lengths)]
    expected = [Run(model).solo(ids) for ids in sequences]
    run = Run(model)
    tables = [run.table(length) for length in lengths]
    done = [0] * len(lengths)
    got: dict[int, F32] = {}
    while len(got) < len(lengths):
        spans, owners = [], []
        for index, ids in enumerate(sequences):
            left = len(ids) - done[index]
            size = data.draw(st.one_of(st.just(left), st.integers(0, left)), label="chunk")
            if not size:
                continue
            span = Span(
                np.array(ids[done[index] : done[index] + size]),
                done[index],
                tables[index],
                size == left,
            )
            spans.append(span)
            done[index] += size
            if size == left:
                owners.append(index)
        if spans:
            got |= dict(zip(owners, model.logits(run.kv, spans), strict=True))
    for index, logits in enumerate(expected):
        assert np.array_equal(got[index], logits)


def test_decoding_is_bitwise_prefill(model: LlamaModel) -> None:
    """What a replay relies on: a token's keys and values are the same however they came about."""
    ids = tokens(70, seed=5)
    run = Run(model)
    table = run.table(len(ids))
    for position, token_id in enumerate(ids):
        logits = model.logits(run.kv, [Span(np.array([token_id]), position, table, True)])
    assert np.array_equal(logits[0], Run(model).solo(ids))


def test_a_shared_prefix_is_bitwise_a_computed_one(model: LlamaModel) -> None:
    shared, tail = tokens(4 * BLOCK, seed=1), tokens(9, seed=2)
    run = Run(model)
    table = run.table(len(shared))
    model.logits(run.kv, [Span(np.array(shared), 0, table, False)])
    own = np.concatenate([table, run.table(len(tail))])
    got = model.logits(run.kv, [Span(np.array(tail), len(shared), own, True)])
    assert np.array_equal(got[0], run.solo(shared + tail))


def test_what_a_block_held_before_does_not_matter(model: LlamaModel) -> None:
    run = Run(model)
    run.kv.keys[:] = 1e6
    run.kv.values[:] = -1e6
    ids = tokens(21, seed=8)
    assert np.array_equal(run.solo(ids), Run(model).solo(ids))


def test_a_step_without_samples_has_no_logits(model: LlamaModel) -> None:
    run = Run(model)
    span = Span(np.array([1, 2]), 0, run.table(2), False)
    assert model.logits(run.kv, [span]).shape == (0, VOCABULARY)


KERNELS = """
import sys
from pathlib import Path
import numpy as np
from shunter_engine.numpy_model import LlamaModel, Span
from shunter_engine.weights import load_weights
from shunter_text.model_files import FetchOptions

weights = load_weights(Path(sys.argv[1]), FetchOptions(cache=Path(sys.argv[2])))
model = LlamaModel(weights, 16, deterministic=True)
kv, ids = model.new_kv(32), np.random.default_rng(4).integers(0, 269, 101)
table, other = np.arange(7), np.arange(7, 14)
whole = model.logits(kv, [Span(ids, 0, table, True)])[0]
model.logits(kv, [Span(ids[:3], 0, other, False), Span(ids, 0, np.arange(14, 21), False)])
model.logits(kv, [Span(ids[3:60], 3, other, False)])
for at in range(60, 101):
    parts = model.logits(kv, [Span(ids[at : at + 1], at, other, True)])[0]
sys.exit(not np.array_equal(whole, parts))
"""


@pytest.mark.parametrize("kernels", ["Haswell", "Zen", "SkylakeX", "Sandybridge"])
def test_other_processors_kernels(tmp_path: Path, kernels: str) -> None:
    """OpenBLAS on x86 takes the kernels that it is told, where the processor can run them."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", shape=WIDE)
    command = [sys.executable, "-c", KERNELS, str(path), str(tmp_path)]
    environment = {**os.environ, "OPENBLAS_CORETYPE": kernels, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, timeout=60, check=False)
    if done.returncode == -signal.SIGILL:
        pytest.skip(f"this processor cannot run kernels for {kernels}")
    assert done.returncode == 0
