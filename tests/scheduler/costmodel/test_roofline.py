import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, ModelDoesNotFit, cost_model, model_shape
from shunter_scheduler.costmodel.calibration import A100, DEFAULT, H100, calibration


def model(shape: str, gpu: str, tensor_parallel: int = 1) -> CostModel:
    return cost_model(model_shape(shape), accelerator(gpu), tensor_parallel)


def test_decoding_one_sequence_is_bound_by_reading_the_weights() -> None:
    m = model("llama-3.1-8b", "h100-sxm-80gb")
    read_s = (m.weights_bytes - 2 * m.shape.head_parameters) / (3350e9 * H100.memory_efficiency)
    assert read_s < m.decode_step_s(1, 100) < 1.6 * read_s


def test_a_long_prefill_is_bound_by_arithmetic() -> None:
    m = model("llama-2-7b", "a100-80gb")
    layers = m.shape.layers * (m.shape.attention_parameters + m.shape.mlp_parameters(11008))
    compute_s = 2 * layers * 4096 / (312e12 * A100.flops_efficiency)
    assert compute_s < m.prefill_s(4096) < 1.8 * compute_s


def test_a_layer_follows_the_formula() -> None:
    """Llama-2-7B on A100, 512 tokens without attention, written out by hand."""
    m = model("llama-2-7b", "a100-80gb")
    parameters = 4 * 4096 * 4096 + 3 * 4096 * 11008
    compute_s = 2 * parameters * 512 / (312e12 * 0.73)
    memory_s = 2 * parameters / (2039e9 * 0.79)
    activation_bytes = 2 * (14 * 4096 + 64 * 128 * 2 + 6 * 11008)
    layer_s = (compute_s**1.5 + memory_s**1.5) ** (1 / 1.5)
    layer_s += 512 * activation_bytes / (2039e9 * 0.57) + 35e-6
    attention_s = 4 * 4096 * 512 * 512 / 2 / (312e12 * 0.26) + 18e-6
    head = 4096 * 32000
    head_s = ((2 * head / (312e12 * 0.73)) ** 1.5 + (2 * head / (2039e9 * 0.79)) ** 1.5) ** (2 / 3)
    assert m.prefill_s(512) == pytest.approx(32 * (layer_s + attention_s) + head_s)


def test_a_mixed_step_reads_the_weights_once() -> None:
    m = model("llama-3.1-8b", "a100-80gb")
    mixed = m.step_s([(256, 0)], 32, 32_000)
    assert max(m.prefill_s(256), m.decode_step_s(32, 32_000)) < mixed
    assert mixed < m.prefill_s(256) + m.decode_step_s(32, 32_000)


@given(
    new=st.integers(1, 4096),
    past=st.integers(0, 100_000),
    batch=st.integers(0, 256),
    context=st.integers(0, 200_000),
)
def test_more_work_never_takes_less_time(new: int, past: int, batch: int, context: int) -> None:
    m = model("llama-3.1-8b", "l4-24gb")
    t = m.step_s([(new, past)], batch, context)
    assert t > 0
    assert m.step_s([(new + 1, past)], batch, context) > t
    assert m.step_s([(new, past + 16)], batch, context) > t
    assert m.step_s([(new, past)], batch + 1, context + 1) > t


def test_an_empty_step_takes_no_time() -> None:
    assert model("llama-3.1-8b", "l4-24gb").step_s([]) == 0.0


def test_faster_devices_predict_shorter_steps() -> None:
    keys = ["l4-24gb", "a100-80gb", "h100-sxm-80gb"]
    models = [model("llama-3.1-8b", key) for key in keys]
    assert sorted(models, key=lambda m: -m.decode_step_s(16, 16_000)) == models
    assert sorted(models, key=lambda m: -m.prefill_s(2048)) == models


def test_tensor_parallel_pays_for_its_all_reduces() -> None:
    one, four = (model("llama-2-13b", "a100-80gb", tp) for tp in (1, 4))
    assert one.prefill_s(4096) / 4 < four.prefill_s(4096) < one.prefill_s(4096)
    # 5 us to start, 6 hops of 1 us, and 3/2 of the message over 0.275 of 600 GB/s; twice a layer.
    ring_s = 5e-6 + 6e-6 + 1.5 * 4096 * 5120 * 2 / (600e9 * 0.275)
    assert four._all_reduces_s(4096) == pytest.approx(2 * ring_s)


def test_tensor_parallel_must_divide_the_heads() -> None:
    with pytest.raises(ValueError, match="3 does not divide the 32 attention heads of llama-2-7b"):
        model("llama-2-7b", "a100-80gb", 3)


@pytest.mark.parametrize(("shape", "devices"), [("phi-4", 4), ("qwen2.5-7b", 7)])
def test_kv_heads_are_split_or_replicated_evenly(shape: str, devices: int) -> None:
    with pytest.raises(ValueError, match="KV heads"):
        model(shape, "a100-80gb", devices)


def test_kv_memory_is_what_the_weights_leave_of_nine_tenths() -> None:
    m = model("llama-3.1-8b", "h100-sxm-80gb")
    assert m.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    left = 0.9 * 80 * 1024**3 - m.weights_bytes
    assert m.kv_capacity_tokens == left // m.kv_bytes_per_token


def test_fewer_kv_heads_than_devices_are_replicated() -> None:
    m = model("qwen2.5-1.5b", "a100-80gb", 4)
    assert m.kv_bytes_per_token == 2 * 28 * 4 * 128 * 2


def test_a_model_too_large_is_refused_with_sizes_and_remedy() -> None:
    with pytest.raises(
        ModelDoesNotFit,
        match=r"llama-3\.1-70b has 131\.4 GiB of weights, but 1 x l4-24gb give the engine "
        r"21\.6 GiB \(90% of 24 GiB\): raise tensorParallel",
    ):
        model("llama-3.1-70b", "l4-24gb")


def test_experts_compute_few_and_read_those_touched() -> None:
    m = model("mixtral-8x7b", "h100-sxm-80gb", 2)
    one, many = m.decode_step_s(1, 100), m.decode_step_s(64, 6400)
    assert many > 2.5 * one  # a batch of 64 touches all 8 experts, one token touches 2


def test_chips_without_profiles_take_the_default_constants() -> None:
    assert calibration("l4-24gb") == DEFAULT
    assert calibration("h200-141gb") == H100


@pytest.mark.parametrize("gpu", ["l4-24gb", "a100-80gb", "h100-sxm-80gb"])
def test_the_straight_lines_stay_near_the_model(gpu: str) -> None:
    m = model("llama-3.1-8b", gpu)
    rates = m.linear()
    for n in (64, 128, 512, 2048, 8192, 32_768, 131_072):
        line = rates.prefill_base_s + n * rates.prefill_s_per_token
        line += n * n / 2 * rates.prefill_s_per_pair
        assert line == pytest.approx(m.prefill_s(n), rel=0.1)
    for batch in (1, 16, 128):
        line = rates.decode_base_s + batch * rates.decode_s_per_sequence
        line += batch * 1024 * rates.decode_s_per_context_token
        assert line == pytest.approx(m.decode_step_s(batch, batch * 1024), rel=0.2)
