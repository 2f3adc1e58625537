"""Step times: the published coefficients, and adapters over the cost model."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, cost_model, model_shape
from shunter_simulator.virtual import (
    LLAMA_7B_A10,
    LLAMA_30B_4XA10,
    EngineShape,
    LinearTimes,
    LoneRequestTimes,
    RooflineTimes,
    StepTimes,
    VirtualEngine,
    VirtualSequence,
)

# Sun et al., OSDI 2024, figure 10: milliseconds to compute 256 to 8,192 tokens again.
TOKENS = (256, 512, 1024, 2048, 4096, 8192)
RECOMPUTE_MS = {
    LLAMA_7B_A10: (58, 110, 220, 436, 940, 1995),
    LLAMA_30B_4XA10: (115, 235, 443, 829, 1712, 3546),
}
# ... and of a decode step of the 30B over 8,192 tokens in all, sequences of that length.
DECODE_MS = (65.7, 61.8, 59.2, 58.9, 60.6, 65.8)


@pytest.mark.parametrize("times", [LLAMA_7B_A10, LLAMA_30B_4XA10])
def test_calibrated_prefills_meet_the_measured_ones(times: LinearTimes) -> None:
    for tokens, measured_ms in zip(TOKENS, RECOMPUTE_MS[times], strict=True):
        assert 1e3 * times.mixed_s([(tokens, 0)], 0, 0) == pytest.approx(measured_ms, rel=0.07)


def test_calibrated_decode_steps_are_near_the_measured_ones() -> None:
    for tokens, measured_ms in zip(TOKENS, DECODE_MS, strict=True):
        line = LLAMA_30B_4XA10.decode_line(8192 // tokens, 8192)
        assert 1e3 * line.step_s(8192) == pytest.approx(measured_ms, rel=0.08)


@given(chunk=st.integers(1, 5000), past=st.integers(0, 5000))
def test_the_chunks_of_a_prompt_add_up_to_it_but_for_the_base(chunk: int, past: int) -> None:
    times = LLAMA_7B_A10
    parts_s = times.mixed_s([(past, 0)], 0, 0) + times.mixed_s([(chunk, past)], 0, 0)
    whole_s = times.mixed_s([(past + chunk, 0)], 0, 0)
    assert parts_s - times.prefill_base_s == pytest.approx(whole_s)


def test_coefficients_that_make_no_time_are_refused() -> None:
    with pytest.raises(ValueError, match="a step takes time"):
        replace(LLAMA_7B_A10, decode_base_s=0.0)
    with pytest.raises(ValueError, match="decode_s_per_sequence must be at least 0, not -1"):
        replace(LLAMA_7B_A10, decode_s_per_sequence=-1.0)


A100 = accelerator("a100-80gb")
PLAIN = cost_model(model_shape("llama-3.1-8b"), A100)
WINDOWED = cost_model(replace(model_shape("llama-3.1-8b"), window=512, windowed_layers=16), A100)


@pytest.mark.parametrize("cost", [PLAIN, WINDOWED], ids=["plain", "windowed"])
@given(batch=st.integers(1, 300), tokens=st.integers(1, 5000))
def test_decode_lines_are_the_cost_models_steps(cost: CostModel, batch: int, tokens: int) -> None:
    line = RooflineTimes(cost).decode_line(batch, batch * tokens)
    assert line.step_s(batch * tokens) == pytest.approx(
        cost.decode_step_s(batch, batch * tokens), rel=1e-9
    )


@pytest.mark.parametrize("cost", [PLAIN, WINDOWED], ids=["plain", "windowed"])
def test_skipping_crosses_the_bend_of_a_line(cost: CostModel) -> None:
    ends = []
    for skip_ahead in (True, False):
        engine = VirtualEngine(EngineShape(RooflineTimes(cost), 1000), skip_ahead=skip_ahead)
        engine.add(VirtualSequence("a", 300, 900), 0.0)
        engine.add(VirtualSequence("b", 100, 700), 0.0)
        now = 0.0
        while (at := engine.next_at(now)) is not None:
            now = at
            engine.advance(now)
        ends.append(now)
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


LONE = LoneRequestTimes(
    cost_model(model_shape("llama-3.1-70b-awq"), A100), 330e-6, 21.2e-3, tokens=8192
)


def test_a_lone_request_meets_the_measured_times() -> None:
    """A100 of HexGen-Text2SQL: 330 us per prompt token, 21.2 ms per output token."""
    assert LONE.mixed_s([(8192, 0)], 0, 0) == pytest.approx(8192 * 330e-6)
    assert LONE.decode_line(1, 8192).step_s(8192) == pytest.approx(21.2e-3)


def test_a_batch_shares_a_step_and_its_context_costs() -> None:
    def step_s(times: StepTimes, batch: int, tokens: int) -> float:
        return times.decode_line(batch, tokens).step_s(tokens)

    assert 21.2e-3 < step_s(LONE, 16, 16 * 8192) < 8 * 21.2e-3
    assert step_s(LONE, 16, 16 * 1024) < step_s(LONE, 16, 16 * 8192)
    decode_s, chunk_s = step_s(LONE, 16, 16 * 1024), LONE.mixed_s([(512, 0)], 0, 0)
    both_s = LONE.mixed_s([(512, 0)], 16, 16 * 1024)
    assert max(decode_s, chunk_s) < both_s < decode_s + chunk_s
