"""What experts, windows, latent attention and quantised weights do to times and memory."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, ModelShape, cost_model, model_shape
from shunter_scheduler.costmodel.catalogue import SHAPES
from shunter_scheduler.costmodel.precision import FP8, INT4, INT8, Precision

H100, A100 = accelerator("h100"), accelerator("a100")
# Large enough for every model of the catalogue.
ROOM = replace(H100, memory_gib=2000.0)


def stored(name: str, precision: Precision) -> ModelShape:
    return replace(model_shape(name), weights=precision)


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(SHAPES)),
    new=st.integers(1, 8192),
    past=st.integers(0, 200_000),
    batch=st.integers(1, 512),
    context=st.integers(1, 8192),
)
def test_more_work_takes_longer_in_every_architecture(
    name: str, new: int, past: int, batch: int, context: int
) -> None:
    m = CostModel(SHAPES[name], ROOM)
    prefill_s, step_s = m.prefill_s(new, past), m.decode_step_s(batch, batch * context)
    assert 0 < prefill_s < m.prefill_s(new + 1, past)
    assert prefill_s <= m.prefill_s(new, past + 1)
    assert 0 < step_s < m.decode_step_s(batch + 1, (batch + 1) * context)
    assert step_s <= m.decode_step_s(batch, batch * (context + 1))


@settings(deadline=None)
@given(name=st.sampled_from(sorted(SHAPES)), gpu=st.sampled_from(["l4", "a100", "h100", "cpu"]))
def test_the_lines_of_every_architecture_grow_with_the_work(name: str, gpu: str) -> None:
    rates = CostModel(SHAPES[name], accelerator(gpu)).linear()
    assert min(rates.decode_base_s, rates.prefill_s_per_token) > 0
    assert min(rates.decode_s_per_sequence, rates.decode_s_per_context_token) >= 0
    assert min(rates.prefill_base_s, rates.prefill_s_per_pair) >= 0


def test_four_bit_weights_are_read_faster_and_multiplied_as_before() -> None:
    whole, packed = (cost_model(stored("llama-3.1-8b", p), H100) for p in (WHOLE, INT4))
    assert packed.weights_bytes < 0.4 * whole.weights_bytes
    assert packed.kv_capacity_tokens > whole.kv_capacity_tokens
    assert packed.decode_step_s(1, 100) < 0.5 * whole.decode_step_s(1, 100)
    assert packed.prefill_s(8192) > 0.95 * whole.prefill_s(8192)


WHOLE = model_shape("llama-3.1-8b").weights


def test_eight_bit_products_run_faster_where_the_tensor_cores_have_them() -> None:
    assert _prefill_s(FP8, H100.key) < 0.75 * _prefill_s(WHOLE, H100.key)
    assert _prefill_s(FP8, A100.key) > 0.95 * _prefill_s(WHOLE, A100.key)
    assert _prefill_s(INT8, A100.key) < 0.75 * _prefill_s(WHOLE, A100.key)


def _prefill_s(precision: Precision, gpu: str) -> float:
    return cost_model(stored("llama-3.1-8b", precision), accelerator(gpu)).prefill_s(4096)


def test_a_kv_cache_of_one_byte_holds_twice_the_tokens() -> None:
    shape = model_shape("llama-3.1-8b")
    whole, packed = cost_model(shape, H100), cost_model(replace(shape, kv_dtype_bytes=1), H100)
    assert packed.kv_capacity_tokens == pytest.approx(2 * whole.kv_capacity_tokens, abs=1)
    read_s = [m.decode_step_s(64, 524_288) - m.decode_step_s(64, 0) for m in (whole, packed)]
    assert read_s[0] == pytest.approx(2 * read_s[1])


def test_latent_attention_keeps_one_vector_for_all_heads() -> None:
    """DeepSeek-V2, arXiv 2405.04434, section 2.1.4: 9/2 x 128 values per token and layer. Each
    device of a tensor-parallel group holds all of it."""
    shape = replace(model_shape("deepseek-v3"), weights=INT4)
    one, eight = CostModel(shape, ROOM), CostModel(shape, ROOM, 8)
    assert one.kv_bytes_per_token == 61 * 576 * 2
    assert eight.kv_bytes_per_token == 8 * one.kv_bytes_per_token
    split = one.decode_step_s(64, 64 * 32_768) / eight.decode_step_s(64, 64 * 32_768)
    assert 1 < split < 8


def test_layers_with_a_window_stop_growing_with_the_context() -> None:
    shape = model_shape("gemma-3-27b")
    windowed, full = CostModel(shape, ROOM), CostModel(replace(shape, windowed_layers=0), ROOM)
    assert windowed.decode_step_s(8, 8 * 512) == pytest.approx(full.decode_step_s(8, 8 * 512))
    grown = windowed.decode_step_s(8, 8 * 65_536) - windowed.decode_step_s(8, 8 * 1024)
    of_full = full.decode_step_s(8, 8 * 65_536) - full.decode_step_s(8, 8 * 1024)
    assert grown == pytest.approx(of_full * 10 / 62)
    assert windowed.prefill_s(1024) == pytest.approx(full.prefill_s(1024))
    assert windowed.prefill_s(32_768) < full.prefill_s(32_768)


@settings(deadline=None)
@given(new=st.integers(1, 400), past=st.integers(0, 400), window=st.integers(1, 300))
def test_a_prefill_in_a_window_counts_what_each_token_sees(
    new: int, past: int, window: int
) -> None:
    """Against token by token; the closed form takes half a pair more or less per token."""
    shape = replace(model_shape("gemma-3-1b"), window=window, windowed_layers=26)
    full = replace(shape, windowed_layers=0)
    seen = sum(min(past + i, window) for i in range(new))
    all_seen = sum(past + i for i in range(new))
    flops_per_s = ROOM.bf16_tflops * 1e12 * 0.26
    per_pair_s = 26 * shape.flops_per_pair / flops_per_s
    kv_s = 26 * shape.kv_values_per_token * 2 / (3350e9 * 0.78)
    saved = CostModel(full, ROOM).prefill_s(new, past) - CostModel(shape, ROOM).prefill_s(new, past)
    expected = (all_seen - seen) * per_pair_s + (past - min(past, window)) * kv_s
    assert saved == pytest.approx(expected, abs=per_pair_s * (new + 1))


def test_experts_that_all_tokens_share_are_always_read() -> None:
    m = CostModel(SHAPES["deepseek-v2-lite"], ROOM)
    one, many = m.decode_step_s(1, 100), m.decode_step_s(256, 25_600)
    assert many > 3 * one  # a batch of 256 touches all 64 experts of a layer, one token 6
    dense = CostModel(replace(m.shape, dense_layers=27), ROOM)
    assert dense.decode_step_s(256, 25_600) < many
