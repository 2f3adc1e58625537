import pytest

from shunter_api.accelerators import accelerator
from shunter_scheduler.costmodel import CostModel, cost_model, model_shape
from shunter_simulator.engine import (
    EngineConfig,
    SequenceSpec,
    SimulatedEngine,
    TokenRule,
    TokenSampling,
    engine_config,
)

RULE = TokenRule(range(10, 500), eos_token_id=2)
WHOLE = TokenSampling(ignore_eos=True)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    return cost_model(model_shape("llama-3.1-8b"), accelerator("h100-sxm-80gb"))


def engine(cost: CostModel, kv_blocks: int = 1000) -> SimulatedEngine:
    return SimulatedEngine(EngineConfig(kv_blocks, 8192), cost, RULE)


def run(engine: SimulatedEngine) -> tuple[dict[str, list[int]], dict[str, str], float]:
    """Answers, finish reasons and the virtual seconds it took."""
    answers: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    now = 0.0
    while step := engine.step():
        now += step.duration_s
        for token in step.outcome.tokens:
            answers.setdefault(token.request_id, []).append(token.token_id)
            if token.finish_reason:
                reasons[token.request_id] = token.finish_reason
    return answers, reasons, now


def test_a_lone_request_takes_its_prefill_and_its_decode_steps(cost: CostModel) -> None:
    e = engine(cost)
    e.add(SequenceSpec("a", list(range(1000)), max_tokens=3), WHOLE)
    _, reasons, seconds = run(e)
    expected = cost.prefill_s(1000) + cost.decode_step_s(1, 1001) + cost.decode_step_s(1, 1002)
    assert seconds == pytest.approx(expected)
    assert reasons == {"a": "length"}


def test_a_cached_prefix_saves_its_prefill(cost: CostModel) -> None:
    e = engine(cost)
    prompt = list(range(2000))
    e.add(SequenceSpec("a", prompt, max_tokens=1), WHOLE)
    _, _, cold = run(e)
    e.add(SequenceSpec("b", [*prompt, 7], max_tokens=1), WHOLE)
    _, _, warm = run(e)
    assert cold == pytest.approx(cost.prefill_s(2000))
    assert warm == pytest.approx(cost.step_s([], 1, 2001))


@pytest.mark.parametrize("cut", [0, 1, 17, 39])
@pytest.mark.parametrize("seed", [None, 5])
def test_an_answer_goes_on_elsewhere_as_if_it_had_stayed(
    cost: CostModel, cut: int, seed: int | None
) -> None:
    prompt, sampling = list(range(30)), TokenSampling(seed=seed)
    first = engine(cost)
    first.add(SequenceSpec("a", prompt, max_tokens=400, min_tokens=40), sampling)
    answers, reasons, _ = run(first)
    whole = answers["a"]
    assert reasons == {"a": "stop"}
    assert 40 < len(whole) < 400
    second = engine(cost)
    second.add(
        SequenceSpec("b", [*prompt, *whole[:cut]], 400 - cut, 40 - cut, output_offset=cut), sampling
    )
    answers, reasons, _ = run(second)
    assert answers["b"] == whole[cut:]
    assert reasons == {"b": "stop"}


def test_batch_mates_and_preemption_do_not_change_an_answer(cost: CostModel) -> None:
    specs = [SequenceSpec(f"r{i}", [i, *range(60)], max_tokens=100) for i in range(8)]
    expected = {}
    for spec in specs:
        alone = engine(cost)
        alone.add(spec, WHOLE)
        expected.update(run(alone)[0])
    crowded = engine(cost, kv_blocks=40)  # 640 tokens for 8 x 161
    for spec in specs:
        crowded.add(spec, WHOLE)
    assert run(crowded)[0] == expected
    assert crowded.stats().preemptions_total > 0
    assert crowded.stats().kv_blocks_used == 0


def test_the_end_token_comes_last_and_not_before_the_minimum(cost: CostModel) -> None:
    e = engine(cost)
    for i in range(50):
        e.add(SequenceSpec(str(i), [i], max_tokens=2000, min_tokens=100))
    answers, reasons, _ = run(e)
    assert set(reasons.values()) == {"stop"}
    for tokens in answers.values():
        assert tokens[-1] == 2
        assert 2 not in tokens[:-1]
        assert len(tokens) > 100


def test_a_stop_token_ends_the_answer(cost: CostModel) -> None:
    e = engine(cost)
    e.add(SequenceSpec("a", [1], max_tokens=50), WHOLE)
    whole = run(e)[0]["a"]
    stop = whole[20]
    e.add(SequenceSpec("b", [1], 50), TokenSampling(None, True, frozenset([stop])))
    answers, reasons, _ = run(e)
    assert answers["b"] == whole[: whole.index(stop) + 1]
    assert reasons == {"b": "stop"}


def test_an_aborted_answer_ends_at_once(cost: CostModel) -> None:
    e = engine(cost)
    e.add(SequenceSpec("a", [1], max_tokens=50), WHOLE)
    e.step()
    assert e.abort("a")
    assert not e.abort("a")
    assert e.step() is None
    assert e.stats().kv_blocks_used == 0


def test_limits_come_from_the_cost_model(cost: CostModel) -> None:
    config = engine_config(cost)
    assert config.kv_blocks == cost.kv_capacity_tokens // 16
    assert config.context_length == 131072
    assert engine_config(cost, context_length=4096).context_length == 4096


@pytest.mark.parametrize("block_tokens", [0, 10**9])
def test_blocks_must_fit_the_kv_memory(cost: CostModel, block_tokens: int) -> None:
    with pytest.raises(ValueError, match="the KV memory holds"):
        engine_config(cost, block_tokens=block_tokens)
